//! Attacks on a running relay, each with honest clients beside it: an engine's protocol, an
//! automerge-repo client, and one that has just arrived. The relay lives, honest clients get on, its
//! memory stays within its budget and returns, and SIGTERM ends it in its time.

#[path = "abuse/arena.rs"]
mod arena;
#[path = "abuse/attacker.rs"]
mod attacker;
#[path = "abuse/canaries.rs"]
mod canaries;
#[path = "abuse/crowds.rs"]
mod crowds;
#[path = "abuse/damage.rs"]
mod damage;
#[path = "abuse/floods.rs"]
mod floods;
#[path = "abuse/holding.rs"]
mod holding;
#[path = "abuse/questions.rs"]
mod questions;
#[path = "abuse/unread.rs"]
mod unread;
#[path = "abuse/uploads.rs"]
mod uploads;
#[path = "abuse/work.rs"]
mod work;
