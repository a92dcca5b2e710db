//! Whole-system tests: real processes, real sockets, real files.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::unreachable,
    reason = "a test fails by panicking"
)]

mod system {
    mod bad_server;
    mod checks;
    mod convergence;
    mod cuts;
    mod deletion;
    mod disk_full;
    mod ephemeral;
    mod hostile;
    mod kills;
    mod links;
    mod long_life;
    mod lost_history;
    mod many;
    mod many_heads;
    mod readme;
    mod relay_damage;
    mod repairs;
    mod repo_kills;
    mod samod;
    mod scopes;
    mod stores;
}
