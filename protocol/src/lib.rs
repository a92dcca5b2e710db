//! Landfall's protocol, sans-io: what both ends must agree on, and the machines that decide.
//!
//! It knows no socket, no file, no clock and no randomness: they arrive as arguments, and every
//! outcome, a storage failure too, comes back as an input. That is what lets one seed replay a
//! whole fleet in a test. It never builds an automerge document.
//!
//! | module | what it holds |
//! |---|---|
//! | [`ids`], [`limits`], [`code`], [`moment`] | identifiers, every bound, codes that travel, time |
//! | [`frame`] | the frames of `landfall.v1` and their codec (`docs/protocol.md`) |
//! | [`admission`] | what a change must satisfy before anybody stores it |
//! | [`folded`] | the packed index of history that a snapshot stands for |
//! | [`lineage`], [`intervals`], [`ring`] | which cursors hold; what is held; live entries |
//! | [`digest`] | what a space holds, summed: which documents differ between two ends |
//! | [`snapshot`] | a document's folded history, as a fold gives it |
//! | [`weight`] | what a history weighs, and when it is due to be folded |
//! | [`portable`] | a space as a file, to move it or to keep it |
//! | [`rate`] | how much of something is allowed each second |
//! | [`rights`] | who a session is and what it may do |
//! | [`session`], [`space`] | the relay's machines |
//! | [`replica`] | the engine's machine |
//! | [`repo`] | the automerge-repo protocol, answered from an index |

pub mod admission;
pub mod code;
pub mod digest;
pub mod ephemeral;
pub mod folded;
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
pub mod repo;
pub mod rights;
pub mod ring;
pub mod session;
pub mod snapshot;
pub mod space;
pub mod weight;

pub use code::{Code, NackClass};
pub use ids::{
    ActorId, ChangeHash, Cursor, DocumentId, Epoch, Local, Offset, ReplicaId, Scope, SessionId,
    SpaceName, Upstream,
};
pub use moment::Moment;
