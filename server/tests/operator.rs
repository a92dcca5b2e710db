//! The operator's commands as separate processes: alongside a relay that accepts pushes, on a stopped one,
//! and killed at any time.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::unreachable,
    reason = "a test fails by panicking"
)]

#[path = "relay/harness.rs"]
#[allow(dead_code, reason = "shared with the tests of the relay")]
mod harness;

#[path = "operator/support.rs"]
mod support;

#[path = "operator/automerge_repo.rs"]
mod automerge_repo;
#[path = "operator/backups.rs"]
mod backups;
#[path = "operator/compacting.rs"]
mod compacting;
#[path = "operator/looking.rs"]
mod looking;
#[path = "operator/merged.rs"]
mod merged;
#[path = "operator/moving.rs"]
mod moving;
#[cfg(unix)]
#[path = "operator/owners.rs"]
mod owners;
#[path = "operator/replaced.rs"]
mod replaced;
#[path = "operator/verified.rs"]
mod verified;
