//! The machine of automerge-repo sessions against real automerge peers, in memory: no socket, no
//! file, no clock. One seed replays a whole run. The log is a model, and the checks compare with
//! the model's state.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::unreachable,
    reason = "a test fails by panicking"
)]
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_macros,
    reason = "a test may read its seed from the environment, and prints it"
)]

#[path = "automerge_repo/client.rs"]
mod client;
#[path = "automerge_repo/hostile.rs"]
mod hostile;
#[path = "automerge_repo/log.rs"]
mod log;
#[path = "automerge_repo/moments.rs"]
mod moments;
#[path = "automerge_repo/plans.rs"]
mod plans;
#[path = "automerge_repo/random.rs"]
mod random;
#[path = "automerge_repo/refusals.rs"]
mod refusals;
#[path = "automerge_repo/relay.rs"]
mod relay;
#[path = "automerge_repo/scenarios.rs"]
mod scenarios;
#[path = "automerge_repo/syncs.rs"]
mod syncs;
#[path = "automerge_repo/world.rs"]
mod world;
