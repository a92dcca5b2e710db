//! Landfall's relay: it stores and forwards the changes of automerge documents, and acknowledges
//! only what it has fsynced. It never loads a document.
//!
//! `landfall_protocol` makes all decisions; this crate has the sockets, the threads, the clock and the
//! disk, and executes the decisions.
//!
//! | module | what it holds |
//! |---|---|
//! | [`mod@serve`] | the server over a bound listener; the entry point of embedders and tests |
//! | [`store`] | the log store: a trait, and the embedded SQLite |
//! | [`limits`] | the relay's own limits |
//! | [`cli`] | the command line, for the binary and for programs that embed a relay |
//! | `compaction`, `partial_uploads` | compactions in a child process; snapshot uploads, in parts |
//! | `repairs` | the repair of damaged documents with clients' copies |
//! | `checks` | the scheduling of preflights: on which thread, and in which order |
//! | `fan_out` | fan-out: the subscribers of documents; ephemeral messages |
//! | `admin` | the operator's commands on a store |
//! | `memory` | the memory budget |
//! | `http` | requests, up to their upgrade to a session |
//! | `connection` | what the sessions of both protocols share: the WebSocket, its writer and its memory |
//! | `native`, `automerge_repo` | the sessions of engines, and of automerge-repo clients |
//! | `identity` | who a client is, by its token |
//! | `hub` | the one thread that orders changes |

#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::unreachable,
        reason = "a test fails by panicking"
    )
)]

mod admin;
mod allocator;
mod automerge_repo;
mod backups;
mod budgets;
mod checks;
pub mod cli;
mod clock;
mod compaction;
mod connection;
mod fan_out;
mod health;
mod http;
mod hub;
mod identity;
pub mod limits;
mod logs;
mod memory;
mod metrics;
mod native;
mod operators;
mod partial_uploads;
mod quota;
mod repairs;
pub mod serve;
pub mod store;
mod tasks;
mod turns;

pub use backups::BackupOptions;
pub use compaction::CompactionOptions;
pub use identity::{ConfigFileError, IdentityError, IdentityOptions, KeyError};
pub use operators::OperatorListener;
pub use serve::{Essential, ServeError, ServeOptions, serve, serve_with_store};
