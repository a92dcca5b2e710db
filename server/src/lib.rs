//! Landfall's relay: it stores and forwards the changes of automerge documents, and acknowledges
//! only what it has fsynced. It never loads a document.
//!
//! `landfall_protocol` decides, this crate performs: sockets, threads, the clock and the disk are
//! here, every judgement is there.
//!
//! | module | what it holds |
//! |---|---|
//! | [`mod@serve`] | the server over a bound listener; what an embedder and a test call |
//! | [`store`] | the log store: a trait, and the embedded SQLite |
//! | [`limits`] | every bound of the relay's own |
//! | [`cli`] | the command line, for the binary and for whoever carries a relay |
//! | `folding`, `offers` | folds in a child process; snapshots that clients offer, in parts |
//! | `checks` | who has changes checked, where and when |
//! | `rooms` | who follows which document; ephemeral messages |
//! | `repo` | sessions of automerge-repo clients |
//! | `operate` | what the operator's commands do to a store |
//! | `memory`, `intake` | what sessions may make the relay keep; how they take in what peers send |
//! | `http`, `session`, `hub` | requests, connections, and the one thread that orders changes |

mod allocator;
mod backups;
mod budgets;
mod checks;
pub mod cli;
mod folding;
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
pub use folding::FoldOptions;
pub use serve::{Essential, ServeError, ServeOptions, serve, serve_with_store};
