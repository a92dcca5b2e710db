//! The real program, run as by a user or a script: processes, sockets and files.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::unreachable,
    reason = "a test fails by panicking"
)]

#[path = "cli/harness.rs"]
mod harness;

#[path = "cli/deleted.rs"]
mod deleted;
#[cfg(unix)]
#[path = "cli/editor.rs"]
mod editor;
#[path = "cli/errors.rs"]
mod errors;
#[cfg(unix)]
#[path = "cli/handover.rs"]
mod handover;
#[path = "cli/names.rs"]
mod names;
#[path = "cli/notes.rs"]
mod notes;
#[cfg(unix)]
#[path = "cli/read_only.rs"]
mod read_only;
#[path = "cli/refused.rs"]
mod refused;
#[path = "cli/replay.rs"]
mod replay;
#[path = "cli/scopes.rs"]
mod scopes;
#[path = "cli/sessions.rs"]
mod sessions;
#[path = "cli/store.rs"]
mod store;
#[path = "cli/sync.rs"]
mod sync;
#[path = "cli/urls.rs"]
mod urls;
