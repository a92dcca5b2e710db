//! Messages of the automerge-repo protocol, version "1", on the wire: one CBOR map for each binary
//! WebSocket message (`docs/protocol.md` lists the fields).
//!
//! Reading borrows from the bytes and enforces every limit. It accepts all forms that clients in
//! use send (maps of any length form, numbers as integers or floats, absent optionals as
//! `undefined` or `null`). Writing uses the one form that all of them read: definite lengths,
//! untagged byte strings, no `null`, and a timestamp as a float, because JavaScript decodes a
//! 64-bit integer to a value that is not a number.

mod read;
mod write;

use thiserror::Error;

use crate::code::Code;

/// The protocol version.
pub const VERSION: &str = "1";

/// A peer's metadata.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PeerMetadata<'a> {
    /// The identity of its storage, if that is durable.
    pub storage_id: Option<&'a str>,
    /// The storage identity will not be used again.
    pub is_ephemeral: bool,
}

/// The heads of a document in a storage known to the sender.
#[derive(Debug, Clone, PartialEq)]
pub struct RemoteHeads<'a> {
    /// The storage.
    pub storage_id: &'a str,
    /// The heads, each as base58check.
    pub heads: Vec<&'a str>,
    /// When they were observed, in milliseconds since 1970, by the observer's clock.
    pub timestamp_ms: f64,
}

/// A message. `data` of `Request` and `Sync` is one automerge sync message ([`super::sync`]).
#[derive(Debug, Clone, PartialEq)]
pub enum Message<'a> {
    /// Client to server, first.
    Join {
        /// The client's peer id.
        sender: &'a str,
        /// Its metadata.
        metadata: PeerMetadata<'a>,
        /// Its versions; `None` means version "1".
        versions: Option<Vec<&'a str>>,
    },
    /// The server's answer to `Join`.
    Peer {
        /// The server's peer id.
        sender: &'a str,
        /// The client's peer id.
        target: &'a str,
        /// The server's metadata.
        metadata: PeerMetadata<'a>,
        /// The chosen version.
        version: &'a str,
    },
    /// An error, in words.
    Error {
        /// The text.
        message: &'a str,
        /// The sender.
        sender: &'a str,
        /// The receiver.
        target: &'a str,
    },
    /// The sender is about to disconnect.
    Leave {
        /// The sender.
        sender: &'a str,
    },
    /// The first sync message about a document that the sender does not have.
    Request(Sync<'a>),
    /// A sync message.
    Sync(Sync<'a>),
    /// The sender does not have a document, and knows no peer that does.
    Unavailable {
        /// The document's id.
        document: &'a str,
        /// The sender.
        sender: &'a str,
        /// The receiver.
        target: &'a str,
    },
    /// A message that is not stored.
    Ephemeral(Ephemeral<'a>),
    /// Changes the storages whose heads the sender wants to receive.
    RemoteSubscription {
        /// The sender.
        sender: &'a str,
        /// The receiver.
        target: &'a str,
        /// Storages to add.
        add: Vec<&'a str>,
        /// Storages to remove.
        remove: Vec<&'a str>,
    },
    /// The heads of a document in some storages.
    RemoteHeads {
        /// The sender.
        sender: &'a str,
        /// The receiver.
        target: &'a str,
        /// The document's id.
        document: &'a str,
        /// The known heads.
        heads: Vec<RemoteHeads<'a>>,
    },
    /// A message of an unknown type, to be ignored.
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
    /// The sender.
    pub sender: &'a str,
    /// The receiver.
    pub target: &'a str,
    /// The automerge sync message.
    pub data: &'a [u8],
}

/// A message that is forwarded and never stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ephemeral<'a> {
    /// The document.
    pub document: &'a str,
    /// The original sender; forwarding peers leave it unchanged.
    pub sender: &'a str,
    /// The receiver on this connection.
    pub target: &'a str,
    /// The sender's session: a new session restarts the count.
    pub session: &'a str,
    /// Grows with every message of a sender's session.
    pub count: u64,
    /// The CBOR of the application's value.
    pub data: &'a [u8],
}

/// Why bytes are not a message.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum MessageError {
    /// Not CBOR, not a map with text keys, or a field of another type.
    #[error("not an automerge-repo message: {what}")]
    Malformed {
        /// The reader's error.
        what: String,
    },
    /// A required field of this type of message is missing.
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
        /// The limit, in bytes or items.
        limit: usize,
    },
}

impl MessageError {
    /// The code under which the session ends.
    pub fn code(&self) -> Code {
        match self {
            Self::TooLong { .. } => Code::TOO_LARGE,
            Self::Malformed { .. } | Self::Missing { .. } => Code::MALFORMED,
        }
    }
}
