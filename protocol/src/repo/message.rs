//! Messages of the automerge-repo protocol, version "1", as they travel: one CBOR map for each
//! binary WebSocket message (`docs/protocol.md` lists the fields).
//!
//! Reading borrows from the bytes and keeps every limit; it takes what the clients in the field
//! send (maps of any length form, numbers as integers or floats, absent optionals as `undefined`
//! or `null`). Writing is in the one form that all of them read: definite lengths, untagged byte
//! strings, no `null`, and a timestamp as a float, since JavaScript reads a 64-bit integer as
//! something that is no number.

mod read;
mod write;

use thiserror::Error;

use crate::code::Code;

/// The protocol version that is spoken.
pub const VERSION: &str = "1";

/// What a peer says of itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PeerMetadata<'a> {
    /// The identity of its storage, if it has one that lasts.
    pub storage_id: Option<&'a str>,
    /// It will not come back with this storage identity.
    pub is_ephemeral: bool,
}

/// The heads of a document in a storage that the sender knows of.
#[derive(Debug, Clone, PartialEq)]
pub struct RemoteHeads<'a> {
    /// Which storage.
    pub storage_id: &'a str,
    /// The heads, each as base58check.
    pub heads: Vec<&'a str>,
    /// When they were seen, in milliseconds since 1970, by the clock of who saw them.
    pub timestamp_ms: f64,
}

/// A message. `data` of `Request` and `Sync` is one automerge sync message ([`super::sync`]).
#[derive(Debug, Clone, PartialEq)]
pub enum Message<'a> {
    /// Client to server, first.
    Join {
        /// The client's peer id.
        sender: &'a str,
        /// What it says of itself.
        metadata: PeerMetadata<'a>,
        /// The versions that it speaks; `None` means version "1".
        versions: Option<Vec<&'a str>>,
    },
    /// The server's answer to `Join`.
    Peer {
        /// The server's peer id.
        sender: &'a str,
        /// The client's peer id.
        target: &'a str,
        /// What the server says of itself.
        metadata: PeerMetadata<'a>,
        /// The version that was chosen.
        version: &'a str,
    },
    /// Something is wrong, in words.
    Error {
        /// What.
        message: &'a str,
        /// Who says so.
        sender: &'a str,
        /// To whom.
        target: &'a str,
    },
    /// The sender is about to go.
    Leave {
        /// Who.
        sender: &'a str,
    },
    /// The first sync message about a document that the sender does not have.
    Request(Sync<'a>),
    /// A sync message.
    Sync(Sync<'a>),
    /// The sender does not have a document, and knows nobody who does.
    Unavailable {
        /// The document's id.
        document: &'a str,
        /// Who says so.
        sender: &'a str,
        /// To whom.
        target: &'a str,
    },
    /// A message that is not stored.
    Ephemeral(Ephemeral<'a>),
    /// The sender wants to hear of the heads of storages, or no longer.
    RemoteSubscription {
        /// Who.
        sender: &'a str,
        /// To whom.
        target: &'a str,
        /// Storages to hear of.
        add: Vec<&'a str>,
        /// Storages not to hear of any more.
        remove: Vec<&'a str>,
    },
    /// The heads of a document in some storages.
    RemoteHeads {
        /// Who says so.
        sender: &'a str,
        /// To whom.
        target: &'a str,
        /// The document's id.
        document: &'a str,
        /// What is known.
        heads: Vec<RemoteHeads<'a>>,
    },
    /// Of a type that this version does not know: to be ignored.
    Unknown {
        /// The type.
        kind: &'a str,
    },
}

/// A sync message about a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sync<'a> {
    /// The document's id.
    pub document: &'a str,
    /// Whose.
    pub sender: &'a str,
    /// To whom.
    pub target: &'a str,
    /// The automerge sync message.
    pub data: &'a [u8],
}

/// A message that is passed on and never stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ephemeral<'a> {
    /// The document that it is about.
    pub document: &'a str,
    /// Who said it first; whoever passes it on leaves this alone.
    pub sender: &'a str,
    /// To whom it is sent on this connection.
    pub target: &'a str,
    /// The sender's session: a new one begins to count anew.
    pub session: &'a str,
    /// Grows with every message of a sender's session.
    pub count: u64,
    /// The CBOR of the application's value.
    pub data: &'a [u8],
}

/// Why bytes are no message.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum MessageError {
    /// Not CBOR, not a map with text keys, or a field of another type.
    #[error("no message of automerge-repo: {what}")]
    Malformed {
        /// What the reader found.
        what: String,
    },
    /// A field that this type of message must have is not there.
    #[error("a `{kind}` message without `{field}`")]
    Missing {
        /// The message's type.
        kind: String,
        /// The field.
        field: &'static str,
    },
    /// A field or list is longer than allowed.
    #[error("`{field}` is longer than {limit}")]
    TooLong {
        /// The field.
        field: &'static str,
        /// The most that is taken, in bytes or items.
        limit: usize,
    },
}

impl MessageError {
    /// The code under which a session ends that receives this.
    pub fn code(&self) -> Code {
        match self {
            Self::TooLong { .. } => Code::TOO_LARGE,
            Self::Malformed { .. } | Self::Missing { .. } => Code::MALFORMED,
        }
    }
}
