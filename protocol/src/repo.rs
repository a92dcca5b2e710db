//! The automerge-repo side: the WebSocket protocol of automerge-repo, version "1", answered from a
//! change index instead of a loaded document.

pub mod index;

pub use index::{DocumentIndex, FoldedHistory, IndexRow};
