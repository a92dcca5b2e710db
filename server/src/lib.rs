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
//! | `compaction`, `offers` | compactions in a child process; snapshot uploads, in parts |
//! | `checks` | the scheduling of preflights: on which thread, and in which order |
//! | `rooms` | fan-out: the subscribers of documents; ephemeral messages |
//! | `repo` | sessions of automerge-repo clients |
//! | `operate` | the operator's commands on a store |
//! | `memory`, `intake` | the memory budget; the memory of incoming messages |
//! | `http`, `session`, `hub` | requests, connections, and the one thread that orders changes |

mod allocator;
mod backups;
mod budgets;
mod checks;
pub mod cli;
mod compaction;
mod healing;
mod health;
mod http;
mod hub;
mod intake;
pub mod limits;
mod logs;
mod memory;
mod metrics;
mod offers;
mod operate;
mod places;
mod quota;
mod repo;
mod rooms;
pub mod serve;
mod session;
pub mod store;
mod tasks;
mod turns;

pub use backups::BackupOptions;
pub use compaction::CompactionOptions;
pub use serve::{Essential, ServeError, ServeOptions, serve, serve_with_store};
