//! Landfall's protocol, sans-io: the formats that both ends must agree on, and the state machines.
//!
//! It knows no socket, file, clock or randomness: they arrive as arguments, and every outcome,
//! including a storage failure, returns as an input. Therefore one seed replays a whole fleet in a
//! test. It never builds an automerge document.
//!
//! # The contract of the machines
//!
//! [`Replica`](client::Replica), [`Session`](relay::Session) and [`Peer`](automerge_repo::peer::Peer)
//! each drive one connection, in the same way. Every input is a call of a `handle_*` method; one
//! that depends on time takes `now`. After each input the caller drains `poll_effect` and performs
//! the effects in their order; an effect names the `handle_*` method for its outcome, also for a
//! failure. `poll_timeout` returns when to call `handle_timeout` at the latest. `handle_sign_of_life`
//! reports that bytes of any kind arrived. `End` is the last effect of a connection: the caller
//! closes it and drops a `Session` or `Peer`; a `Replica` gets `handle_disconnected`, and serves the
//! next connection. [`Space`](relay::Space) serves many connections and knows no time: its
//! `handle_*` methods return what can be answered at once, `poll_commit` returns its only effect,
//! and `handle_committed` or `handle_commit_failed` reports the outcome.
//!
//! # Modules
//!
//! | module | what it holds |
//! |---|---|
//! | [`client`] | the engine's machine, [`Replica`](client::Replica) |
//! | [`relay`] | the relay's machines, [`Session`](relay::Session) and [`Space`](relay::Space), with lineage, ring and rights |
//! | [`automerge_repo`] | the automerge-repo protocol, answered from an index, and its machine, [`Peer`](automerge_repo::peer::Peer) |
//! | [`access`] | who a client is, its rights, and the documents that it sees |
//! | [`frame`] | the frames of `landfall.v1` and their codec (`docs/protocol.md`) |
//! | [`admission`] | the checks that a change must pass before it is stored |
//! | [`compacted`], [`weight`] | the packed index of a snapshot's changes; when compaction is due |
//! | [`portable`] | a space as a file, to move or archive it |
//! | [`ids`], [`limits`], [`code`], [`moment`], [`patience`], [`rate`] | identifiers, every bound, codes on the wire, time, silence, rate limits |
//! | [`digest`] | sums over a space's documents: which ones differ between two ends |
//! | [`heads`], [`intervals`], [`ephemeral`] | heads after a change; acked ranges; names of ephemeral senders |
//! | [`error_chain`] | an error with its causes, as text |

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

pub mod access;
pub mod admission;
pub mod automerge_repo;
pub mod client;
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
pub mod moment;
pub mod patience;
pub mod portable;
pub mod rate;
pub mod relay;
pub mod weight;

pub use code::{Code, NackClass};
pub use error_chain::error_chain;
pub use ids::{
    ActorId, ChangeHash, Cursor, DocumentId, Epoch, Local, Offset, ReplicaId, Scope, SessionId,
    SpaceName, Upstream,
};
pub use moment::Moment;
pub use patience::Patience;
