//! Figures of long histories: their cost on the disk, in memory and on the wire. Each is printed next
//! to its target.

use super::{long_backup, long_epoch, long_fresh, long_history, long_one_shot};

/// All of them.
pub const FIGURES: [(&str, fn()); 5] = [
    ("long-history", long_history::history),
    ("long-fresh", long_fresh::fresh),
    ("long-epoch", long_epoch::unknown_epoch),
    ("long-backup", long_backup::backup),
    ("long-one-shot", long_one_shot::one_shot),
];
