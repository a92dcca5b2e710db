//! Landfall's protocol, sans-io: the formats that both ends must agree on, and the state machines.
//!
//! It knows no socket, file, clock or randomness: they arrive as arguments, and every outcome,
//! including a storage failure, returns as an input. Therefore one seed replays a whole fleet in a
//! test. It never builds an automerge document.
//!
//! | module | what it holds |
//! |---|---|
//! | [`ids`], [`limits`], [`code`], [`moment`] | identifiers, every bound, codes on the wire, time |
//! | [`frame`] | the frames of `landfall.v1` and their codec (`docs/protocol.md`) |
//! | [`admission`] | the checks that a change must pass before it is stored |
//! | [`compacted`] | the packed index of a snapshot's changes |
//! | [`lineage`], [`intervals`], [`ring`] | valid cursors; acked ranges; live entries |
//! | [`digest`] | sums over a space's documents: which ones differ between two ends |
//! | [`snapshot`] | a document's snapshot, as compaction makes it |
//! | [`weight`] | the weight of a history, and when its compaction is due |
//! | [`portable`] | a space as a file, to move or archive it |
//! | [`rate`] | rate limits |
//! | [`rights`] | a session's identity and its rights |
//! | [`session`], [`space`] | the relay's machines |
//! | [`replica`] | the engine's machine |
//! | [`repo`] | the automerge-repo protocol, answered from an index |

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

pub mod admission;
pub mod automerge_repo;
pub mod code;
pub mod compacted;
pub mod digest;
pub mod ephemeral;
mod error_chain;
pub mod frame;
pub mod heads;
pub mod ids;
pub mod intervals;
pub mod limits;
pub mod lineage;
pub mod moment;
pub mod portable;
pub mod rate;
pub mod replica;
pub mod rights;
pub mod ring;
pub mod session;
pub mod snapshot;
pub mod space;
pub mod weight;

pub use code::{Code, NackClass};
pub use error_chain::error_chain;
pub use ids::{
    ActorId, ChangeHash, Cursor, DocumentId, Epoch, Local, Offset, ReplicaId, Scope, SessionId,
    SpaceName, Upstream,
};
pub use moment::Moment;
