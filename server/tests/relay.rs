//! The relay with real sockets and real files, and a raw WebSocket client. Decisions of `landfall_protocol`'s
//! machines are tested there; these tests cover what this crate performs.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::unreachable,
    reason = "a test fails by panicking"
)]

#[path = "relay/double.rs"]
mod double;
#[path = "relay/harness.rs"]
mod harness;

#[path = "relay/access.rs"]
mod access;
#[path = "relay/access_automerge_repo.rs"]
mod access_automerge_repo;
#[path = "relay/automerge_repo.rs"]
mod automerge_repo;
#[path = "relay/automerge_repo_client.rs"]
mod automerge_repo_client;
#[path = "relay/automerge_repo_hostile.rs"]
mod automerge_repo_hostile;
#[path = "relay/behind.rs"]
mod behind;
#[path = "relay/budget.rs"]
mod budget;
#[path = "relay/bugs.rs"]
mod bugs;
#[path = "relay/closing.rs"]
mod closing;
#[path = "relay/commits.rs"]
mod commits;
#[path = "relay/damage.rs"]
mod damage;
#[path = "relay/ends.rs"]
mod ends;
#[path = "relay/figures.rs"]
mod figures;
#[path = "relay/gone.rs"]
mod gone;
#[path = "relay/heads.rs"]
mod heads;
#[path = "relay/http.rs"]
mod http;
#[path = "relay/identity.rs"]
mod identity;
#[path = "relay/input.rs"]
mod input;
#[path = "relay/playground.rs"]
mod playground;
#[path = "relay/process.rs"]
mod process;
#[path = "relay/repairs.rs"]
mod repairs;
#[path = "relay/restarts.rs"]
mod restarts;
#[path = "relay/shares.rs"]
mod shares;
#[cfg(target_os = "linux")]
#[path = "relay/stderr.rs"]
mod stderr;
#[path = "relay/sync.rs"]
mod sync;
#[path = "relay/threads.rs"]
mod threads;
#[path = "relay/uploads.rs"]
mod uploads;
#[cfg(unix)]
#[path = "relay/yielding.rs"]
mod yielding;
