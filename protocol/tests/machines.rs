//! The machines of both ends against each other, in memory: no socket, no file, no clock. One seed
//! replays a whole run. Storage is a simple model on both sides, and the checks compare with the
//! models' state.

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

#[path = "machines/access.rs"]
mod access;
#[path = "machines/access_world.rs"]
mod access_world;
#[path = "machines/client.rs"]
mod client;
#[path = "machines/costs.rs"]
mod costs;
#[path = "machines/delays.rs"]
mod delays;
#[path = "machines/disk.rs"]
mod disk;
#[path = "machines/ephemeral.rs"]
mod ephemeral;
#[path = "machines/heads.rs"]
mod heads;
#[path = "machines/hostile.rs"]
mod hostile;
#[path = "machines/links.rs"]
mod links;
#[path = "machines/long_life.rs"]
mod long_life;
#[path = "machines/model.rs"]
mod model;
#[path = "machines/older.rs"]
mod older;
#[path = "machines/oversized.rs"]
mod oversized;
#[path = "machines/relay.rs"]
mod relay;
#[path = "machines/resend.rs"]
mod resend;
#[path = "machines/scenarios.rs"]
mod scenarios;
#[path = "machines/scripted.rs"]
mod scripted;
#[path = "machines/store.rs"]
mod store;
#[path = "machines/subscriptions.rs"]
mod subscriptions;
#[path = "machines/tokens.rs"]
mod tokens;
#[path = "machines/world.rs"]
mod world;
