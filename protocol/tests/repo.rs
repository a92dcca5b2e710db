//! The machine of automerge-repo sessions against real automerge peers, in memory: no socket, no
//! file, no clock. One seed replays a whole run. The log is a model, and the checks compare with
//! the model's state.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_macros,
    reason = "a test may read its seed from the environment, and prints it"
)]

#[path = "repo/client.rs"]
mod client;
#[path = "repo/hostile.rs"]
mod hostile;
#[path = "repo/log.rs"]
mod log;
#[path = "repo/moments.rs"]
mod moments;
#[path = "repo/plans.rs"]
mod plans;
#[path = "repo/random.rs"]
mod random;
#[path = "repo/refusals.rs"]
mod refusals;
#[path = "repo/relay.rs"]
mod relay;
#[path = "machines/rng.rs"]
mod rng;
#[path = "repo/scenarios.rs"]
mod scenarios;
#[path = "repo/syncs.rs"]
mod syncs;
#[path = "repo/world.rs"]
mod world;
