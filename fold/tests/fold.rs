//! Compaction, in this process and in child processes that die.

#[path = "fold/absorbing.rs"]
mod absorbing;
#[path = "fold/figures.rs"]
mod figures;
#[path = "fold/folding.rs"]
mod folding;
#[path = "fold/histories.rs"]
mod histories;
#[path = "fold/strangers.rs"]
mod strangers;
#[path = "fold/workers.rs"]
mod workers;
