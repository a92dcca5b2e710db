//! The public API, as an application uses it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::unreachable,
    reason = "a test fails by panicking"
)]

#[path = "engine/derived.rs"]
mod derived;
#[path = "engine/documents.rs"]
mod documents;
#[path = "engine/following.rs"]
mod following;
#[path = "engine/gone.rs"]
mod gone;
#[path = "engine/large.rs"]
mod large;
#[path = "engine/named.rs"]
mod named;
#[path = "engine/nesting.rs"]
mod nesting;
#[path = "engine/opening.rs"]
mod opening;
#[path = "engine/telling.rs"]
mod telling;
#[path = "engine/typed.rs"]
mod typed;
#[path = "engine/views.rs"]
mod views;
#[path = "engine/waiting.rs"]
mod waiting;
