//! What a session asks of its caller, and the values that the two exchange.

use super::HeadsUpdate;
#[cfg(doc)]
use super::Peer;
use crate::admission::CheckedChange;
use crate::automerge_repo::chunks::Chunks;
use crate::automerge_repo::plan::SyncRequest;
use crate::code::Code;
use crate::ids::DocumentId;

/// The identity of the relay towards the automerge-repo clients of a space.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// Its peer id.
    pub peer_id: String,
    /// The identity of its storage. Peers store their sync state with this relay under this name.
    pub storage_id: String,
}

/// A peer that has joined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remote {
    /// Its peer id.
    pub peer_id: String,
    /// The identity of its storage, if the storage is persistent.
    pub storage_id: Option<String>,
}

/// An action for the caller.
#[derive(Debug, Clone)]
pub enum PeerEffect {
    /// Send these bytes as one binary message.
    Send(Vec<u8>),
    /// Send a WebSocket ping.
    Ping,
    /// The peer has sent `join`. The caller ends any other session with this peer id in the space,
    /// and drops what this session followed before.
    Joined(Remote),
    /// Report this document's entries from now on, with [`Peer::handle_entry`].
    Follow(DocumentId),
    /// Run the preflight over these chunks, each a change, one after the other and in their order.
    /// Answer with [`Peer::handle_checked`], once for all or in several parts: a message can hold
    /// very many.
    Check(Ticket, Chunks),
    /// Pass these changes to the space's state machine, and its answer to [`Peer::handle_answer`].
    Push(RepoPush),
    /// Open these bytes in an isolated process and admit the changes in them; pass the answer to
    /// [`Peer::handle_answer`].
    PushWhole {
        /// The session's number for it.
        id: u64,
        /// The document.
        document: DocumentId,
        /// Concatenated chunks of any type.
        bytes: Vec<u8>,
    },
    /// Query the store, and answer with [`Peer::handle_planned`].
    Plan(Ticket, SyncRequest),
    /// Forward an ephemeral message.
    Ephemeral(EphemeralMessage),
    /// The peer subscribes to the remote heads of these storages. Report the known ones with
    /// [`Peer::handle_remote_heads`].
    Subscribe(Vec<String>),
    /// The peer unsubscribes from these storages.
    Unsubscribe(Vec<String>),
    /// The heads of a document in a storage have changed: report this to the subscribed sessions.
    RemoteHeads(HeadsUpdate),
    /// The peer has answered the request of [`Peer::handle_damaged`].
    Resent {
        /// The document.
        document: DocumentId,
        /// Whether it sent changes. They are pushed as usual.
        brought: bool,
    },
    /// Changes of this document were rejected. The caller logs it.
    Refused {
        /// The document.
        document: DocumentId,
        /// The reason.
        code: Code,
        /// The number of changes.
        changes: usize,
        /// The reason in words.
        what: String,
    },
    /// The peer sent something that the session ignores.
    Ignored(String),
    /// Close the connection, after everything queued before has been sent.
    End(Code, String),
}

/// The answer of the caller's memory budget to [`Peer::poll_effect_within`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemoryAnswer {
    /// There is memory, and it is reserved.
    There,
    /// There is none. The session queries the store instead; that query waits for memory.
    NotNow,
    /// The peer does not read what it is sent: build no message for it.
    Later,
}

/// Identifies a request to the caller by its document and the number of the `join` before it.
/// Answers to requests from before a later `join` are dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket {
    /// The document.
    pub document: DocumentId,
    pub(super) joined: u64,
}

/// Changes for the space's state machine.
#[derive(Debug, Clone)]
pub struct RepoPush {
    /// The session's number for it.
    pub id: u64,
    /// The document.
    pub document: DocumentId,
    /// Ordered: dependencies first.
    pub changes: Vec<CheckedChange>,
}

/// An ephemeral message, from the peer or for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EphemeralMessage {
    /// The document that it is about.
    pub document: DocumentId,
    /// The sender's peer id.
    pub sender: String,
    /// The sender's session.
    pub session: String,
    /// Grows with each message of the session.
    pub count: u64,
    /// The CBOR of the application's value. Never decoded.
    pub data: Vec<u8>,
}
