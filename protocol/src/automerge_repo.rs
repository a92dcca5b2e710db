//! The automerge-repo side: the WebSocket protocol of automerge-repo, version "1", answered from a
//! change index instead of a loaded document.
//!
//! | module | what it holds |
//! |---|---|
//! | [`message`] | the CBOR messages |
//! | [`sync`], [`chunks`] | automerge's sync messages and their contents, read within bounds |
//! | [`check`] | the preflight of the contained changes |
//! | [`index`], [`plan`] | a document as an index, and the plan of an answer |
//! | [`peer`] | the machine of one session |

pub mod check;
pub mod chunks;
pub mod index;
pub mod message;
pub mod peer;
pub mod plan;
pub mod sync;

pub use index::{CompactedHistory, DocumentIndex, IndexRow};
