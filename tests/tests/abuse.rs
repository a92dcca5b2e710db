//! Attacks on a running relay, each beside honest clients: an engine, an automerge-repo client, and
//! a client that has just connected. The relay must survive, serve the honest clients, stay within
//! its memory budget and return the memory, and SIGTERM must end it in time.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::unreachable,
    reason = "a test fails by panicking"
)]

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
