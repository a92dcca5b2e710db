//! The bytes of `landfall.v1`: golden files for every frame, compatibility of a version with the
//! next one, and `docs/protocol.md` against the code.
//!
//! A released frame never changes, so neither does a file under `golden/`. For a new frame, add an
//! example and run the test once with `LANDFALL_BLESS=1`, which writes the files that are missing
//! or differ; then review the difference.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::unreachable,
    reason = "a test fails by panicking"
)]

#[path = "golden/automerge_repo.rs"]
mod automerge_repo;
#[path = "golden/documented.rs"]
mod documented;
#[path = "golden/examples.rs"]
mod examples;
#[path = "golden/files.rs"]
mod files;
#[path = "golden/versions.rs"]
mod versions;
