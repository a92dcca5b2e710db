//! Frames of the native protocol `landfall.v1`, specified in `docs/protocol.md`. Knows no
//! connection.
//!
//! A WebSocket binary message holds one or more frames. A frame is a fixed header (kind u16, flags
//! u16, length u32, little-endian) and a body in bincode's legacy configuration. A released frame's
//! body never changes: additions are frames of a new kind, marked optional if an older peer may
//! skip them.

mod codec;
mod compacted;
mod compare;
mod documents;
mod entry;
mod resend;

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use sha2::{Digest as _, Sha256};

use crate::code::{Code, NackClass};
use crate::ids::{
    Cursor, DocumentId, Epoch, Offset, ReplicaId, Scope, SessionId, SpaceName, Upstream,
};

pub(crate) use codec::fit;
pub use codec::{FrameError, Frames, decode, encode, encode_into, raw_frame};
pub use compacted::{Part, PushEntry, PushSnapshot, UploadFrom};
pub use compare::{
    Difference, DigestQuery, DocumentEntries, Features, Fetch, Holding, Partial, Refilter,
    SubscribeFrom, Want, features,
};
pub use documents::Documents;
pub use entry::{
    DAMAGED_UNKNOWN, EncodedEntry, EntriesBuilder, Entry, encode_document, entry_flags, entry_kind,
};
pub use resend::{Repaired, Resend, Resent};

/// The WebSocket subprotocol that selects this protocol.
pub const SUBPROTOCOL: &str = "landfall.v1";

/// The protocol versions of this code, best first.
pub const VERSIONS: &[u16] = &[1];

/// Numbers of the frame kinds. Numbers from 16 on are reserved as `docs/protocol.md` lists them.
pub mod kind {
    #![allow(missing_docs, reason = "each is the kind of the frame of that name")]
    pub const HELLO: u16 = 1;
    pub const WELCOME: u16 = 2;
    pub const ERROR: u16 = 3;
    pub const SUBSCRIBE: u16 = 4;
    pub const SUBSCRIBED: u16 = 5;
    pub const ENTRIES: u16 = 6;
    pub const PUSH: u16 = 7;
    pub const ACK: u16 = 8;
    pub const NACK: u16 = 9;
    pub const PING: u16 = 10;
    pub const PONG: u16 = 11;
    pub const CLOSE: u16 = 12;
    pub const UNSUBSCRIBE: u16 = 13;
    pub const UNSUBSCRIBED: u16 = 14;
    pub const FEATURES: u16 = 16;
    pub const EPHEMERAL: u16 = 17;
    pub const PART: u16 = 18;
    pub const PUSH_SNAPSHOT: u16 = 19;
    pub const DIGEST: u16 = 20;
    pub const DIFFERENCE: u16 = 21;
    pub const REFILTER: u16 = 22;
    pub const PUSH_ENTRY: u16 = 23;
    pub const FETCH: u16 = 24;
    pub const TOKEN: u16 = 26;
    pub const WANTED: u16 = 27;
    pub const SUBSCRIBE_FROM: u16 = 28;
    pub const DOCUMENT: u16 = 29;
    pub const COMPARED: u16 = 30;
    pub const RESEND: u16 = 31;
    pub const RESENT: u16 = 32;
    pub const REPAIRED: u16 = 33;
}

/// Header flag: a receiver that does not know this kind skips the frame.
pub const FLAG_OPTIONAL: u16 = 1;

/// The subscriber's number for its subscription; it identifies the space in later frames.
pub type SubscriptionId = u32;

/// The first frame of a client.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The client's versions, best first.
    pub versions: Vec<u16>,
    /// The client's store.
    pub replica: ReplicaId,
    /// Authenticates the client, if the relay requires it.
    pub token: Option<ByteBuf>,
    /// Name and version of the client's software, for logs.
    pub agent: String,
}

/// Without the token, which must not reach a log.
impl std::fmt::Debug for Hello {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let token = self.token.as_ref().map(|token| format!("{} bytes", token.len()));
        f.debug_struct("Hello")
            .field("versions", &self.versions)
            .field("replica", &self.replica)
            .field("token", &token)
            .field("agent", &self.agent)
            .finish()
    }
}

/// A client's new token, before the one of its [`Hello`] expires. Only for a peer whose
/// [`features`](features::TOKEN) include it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// At most [`limits::TOKEN_BYTES`](crate::limits::TOKEN_BYTES).
    pub token: ByteBuf,
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Token({} bytes)", self.token.len())
    }
}

/// The relay's answer to [`Hello`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// The version of the session.
    pub version: u16,
    /// The relay's stable identity.
    pub upstream: Upstream,
    /// The session's number, for logs on both sides.
    pub session: SessionId,
    /// Largest message in bytes that the relay accepts.
    pub message_bytes: u32,
    /// Most changes in a push.
    pub push_changes: u32,
    /// Most unanswered pushes.
    pub pushes_in_flight: u32,
    /// Name and version of the relay's software, for logs.
    pub agent: String,
}

/// Why the relay ends the session. It is the last frame.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorFrame {
    /// The kind of error.
    pub code: Code,
    /// The error, and its place.
    pub what: String,
    /// The remedy.
    pub hint: String,
}

/// "These changes I know you acknowledged": everything up to `offset` of `epoch`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// The lineage in which `offset` counts.
    pub epoch: Epoch,
    /// The greatest offset of an ack.
    pub offset: Offset,
}

/// The documents of the space that a subscription wants.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Filter {
    /// Every document.
    Everything,
    /// These. Only for a peer whose [`features`](features::FILTERS) include it.
    Documents(Documents),
}

impl Filter {
    /// Exactly these documents, in any order.
    pub fn of_documents(documents: impl IntoIterator<Item = DocumentId>) -> Self {
        Self::Documents(documents.into_iter().collect())
    }

    /// Whether a document is wanted.
    pub fn wants(&self, document: &DocumentId) -> bool {
        match self {
            Self::Everything => true,
            Self::Documents(documents) => documents.binary_search(document).is_ok(),
        }
    }

    /// The fingerprint of a subscription with this filter and every right.
    pub fn scope(&self) -> Scope {
        let Self::Documents(documents) = self else { return Scope::WHOLE_SPACE };
        let mut hasher = Sha256::new();
        hasher.update(b"landfall scope documents");
        documents.iter().for_each(|document| hasher.update(document.as_bytes()));
        Scope::of_hash(hasher.finalize().into())
    }
}

/// Asks for a space's entries from a cursor on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subscribe {
    /// Its number from now on; not in use in this session.
    pub subscription: SubscriptionId,
    /// The space.
    pub space: SpaceName,
    /// The wanted documents.
    pub filter: Filter,
    /// The end of the replica's copy of the log; `None` for "I hold nothing".
    pub cursor: Option<Cursor>,
    /// The greatest mark of an ack received. It reveals a relay that lost acknowledged changes
    /// beyond the cursor; the cursor alone would not.
    pub acknowledged: Option<Mark>,
}

/// The subscription is accepted; entries follow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subscribed {
    /// Its number.
    pub subscription: SubscriptionId,
    /// The epoch of `head`; `None` while the space has no entry.
    pub epoch: Option<Epoch>,
    /// The last durable offset.
    pub head: Offset,
    /// The rules in force.
    pub scope: Scope,
    /// True: entries follow after the cursor. False: the cursor or the mark is not of this log's
    /// lineage; entries follow from the start, and the replica must push its changes again.
    pub resumed: bool,
}

/// The relay rejected or ended the subscription; the session continues.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unsubscribed {
    /// Its number.
    pub subscription: SubscriptionId,
    /// The reason.
    pub code: Code,
    /// The error.
    pub what: String,
    /// The remedy.
    pub hint: String,
}

/// Entries that cover (`after`, `up_to`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entries {
    /// The subscription.
    pub subscription: SubscriptionId,
    /// Must equal the receiver's cursor.
    pub after: Offset,
    /// The receiver's next cursor.
    pub up_to: Offset,
    /// The epoch of `up_to`.
    pub epoch: Epoch,
    /// The relay's last durable offset, for progress.
    pub head: Offset,
    /// Offsets grow strictly within (`after`, `up_to`].
    pub entries: Vec<Entry>,
}

/// Changes of one document in dependency order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Push {
    /// Grows strictly within a session.
    pub id: u64,
    /// The subscription whose space this goes to.
    pub subscription: SubscriptionId,
    /// The document.
    pub document: DocumentId,
    /// automerge change chunks.
    pub changes: Vec<ByteBuf>,
}

/// The first `count` changes of a push are on the relay's disk, at or before `through`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ack {
    /// The push.
    pub id: u64,
    /// How many of its changes. If fewer than it has, a [`Nack`] for the rest follows.
    pub count: u32,
    /// Their position in the log, at the latest.
    pub through: Mark,
}

/// Rejects the changes of a push that were not acknowledged before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nack {
    /// The push.
    pub id: u64,
    /// The reason.
    pub code: Code,
    /// The required action.
    pub class: NackClass,
    /// With [`NackClass::RETRY_AFTER`]: the wait in milliseconds.
    pub retry_after_ms: u32,
    /// The reason in words.
    pub what: String,
}

/// The sender ends the session normally.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Close {
    /// The reason.
    pub code: Code,
    /// The reason in words.
    pub reason: String,
}

/// An ephemeral message about a document, for its current followers. Never stored, and not
/// answered. Only for a peer whose [`features`](features::EPHEMERAL) include it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ephemeral {
    /// The subscription.
    pub subscription: SubscriptionId,
    /// The document.
    pub document: DocumentId,
    /// The sender's name. A relay sets it; a client leaves it empty.
    pub sender: String,
    /// The sender's session: one run of it.
    pub session: String,
    /// Grows strictly within the sender's session.
    pub count: u64,
    /// The payload; never interpreted.
    pub data: ByteBuf,
}

/// Every frame of version 1. Those from `Features` on are for peers that know them.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "each variant holds the frame of its name")]
pub enum Frame {
    Hello(Hello),
    Welcome(Welcome),
    Error(ErrorFrame),
    Subscribe(Subscribe),
    Subscribed(Subscribed),
    Unsubscribe(SubscriptionId),
    Unsubscribed(Unsubscribed),
    Entries(Entries),
    Push(Push),
    Ack(Ack),
    Nack(Nack),
    Ping(u64),
    Pong(u64),
    Close(Close),
    Features(Features),
    SubscribeFrom(SubscribeFrom),
    Part(Part),
    PushSnapshot(PushSnapshot),
    UploadFrom(UploadFrom),
    PushEntry(PushEntry),
    Digest(DigestQuery),
    Difference(Difference),
    Fetch(Fetch),
    Document(DocumentEntries),
    Refilter(Refilter),
    Compared(SubscriptionId),
    Ephemeral(Ephemeral),
    Resend(Resend),
    Resent(Resent),
    Repaired(Repaired),
    Token(Token),
}
