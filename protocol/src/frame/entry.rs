//! Entries of a log on the wire: a header that every version can read, and an opaque body. Does not
//! interpret the body.

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use sha2::{Digest as _, Sha256};

use super::{DocumentEntries, Entries, Holding, SubscriptionId, codec, kind};
use crate::admission::CheckedChange;
use crate::digest::tombstone_id;
use crate::ids::{ChangeHash, DocumentId, Epoch, Offset};
use crate::limits;

/// Kinds of entries. A replica stores an entry of an unknown kind and reads it after an upgrade.
pub mod entry_kind {
    /// An automerge change chunk.
    pub const CHANGE: u16 = 1;
    /// An automerge document chunk: everything of its document up to its offset. Its id is the
    /// SHA-256 of its bytes, its dependencies are its heads.
    pub const SNAPSHOT: u16 = 2;
    /// A document's deletion. It has no body.
    pub const TOMBSTONE: u16 = 3;
    /// Reserved: a change of rights.
    pub const GRANT: u16 = 4;
    /// Reserved: a reference to an attachment.
    pub const ATTACHMENT: u16 = 5;
    /// Reserved: an encrypted entry.
    pub const SEALED: u16 = 6;
    /// The entry at this offset is damaged in the relay's store and cannot be sent. It has no body.
    /// See [`Entry::of_damage`](super::Entry::of_damage).
    pub const DAMAGED: u16 = 7;
}

/// Flags of entries.
pub mod entry_flags {
    /// A replica that does not know the entry's kind must stop this space and report it.
    pub const MUST_UNDERSTAND: u16 = 1;
    /// The body is omitted, because this session pushed it.
    pub const ECHO: u16 = 2;
    /// The body is omitted, because it was sent in [`Part`](super::super::Part)s before.
    pub const PARTS: u16 = 4;
    /// A change without dependencies in a document that has others: an author asked to merge the
    /// two histories.
    pub const SECOND_ROOT: u16 = 8;
}

/// One entry of a log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its position in the space's log.
    pub offset: Offset,
    /// The document that it belongs to.
    pub document: DocumentId,
    /// One of [`entry_kind`].
    pub kind: u16,
    /// Of [`entry_flags`].
    pub flags: u16,
    /// Identifies the entry: a change's hash.
    pub id: [u8; 32],
    /// Hashes of its dependencies.
    pub dependencies: Vec<[u8; 32]>,
    /// The author: the identity of the session that pushed it.
    pub author: ByteBuf,
    /// When the relay stored it, in milliseconds since 1970.
    pub at_ms: u64,
    /// The bytes of its kind.
    pub body: ByteBuf,
}

impl Entry {
    /// The entry of a change.
    pub fn of_change(
        offset: Offset,
        document: DocumentId,
        change: CheckedChange,
        author: &[u8],
        at_ms: u64,
    ) -> Self {
        Self {
            offset,
            document,
            kind: entry_kind::CHANGE,
            flags: 0,
            id: change.hash.0,
            dependencies: change.dependencies.iter().map(|hash| hash.0).collect(),
            author: ByteBuf::from(author),
            at_ms,
            body: ByteBuf::from(change.bytes),
        }
    }

    /// The entry of a document's deletion.
    pub fn of_tombstone(offset: Offset, document: DocumentId, author: &[u8], at_ms: u64) -> Self {
        Self {
            offset,
            document,
            kind: entry_kind::TOMBSTONE,
            flags: entry_flags::MUST_UNDERSTAND,
            id: tombstone_id(&document),
            dependencies: Vec::new(),
            author: ByteBuf::from(author),
            at_ms,
            body: ByteBuf::new(),
        }
    }

    /// The entry of a snapshot, with its bytes if they are sent in it.
    pub fn of_snapshot(
        offset: Offset,
        document: DocumentId,
        hash: [u8; 32],
        heads: &[ChangeHash],
        at_ms: u64,
        body: Option<Vec<u8>>,
    ) -> Self {
        let parts = if body.is_none() { entry_flags::PARTS } else { 0 };
        Self {
            offset,
            document,
            kind: entry_kind::SNAPSHOT,
            flags: entry_flags::MUST_UNDERSTAND | parts,
            id: hash,
            dependencies: heads.iter().map(|head| head.0).collect(),
            author: ByteBuf::new(),
            at_ms,
            body: ByteBuf::from(body.unwrap_or_default()),
        }
    }

    /// Represents an entry that the relay cannot read, so that the log continues after it. With
    /// `None`, even the document is unknown, and the entry has the id of 16 zeros instead.
    ///
    /// A replica that does not know this kind defers the entry: its kind need not be understood.
    pub fn of_damage(offset: Offset, document: Option<DocumentId>) -> Self {
        let document = document.unwrap_or(DAMAGED_UNKNOWN);
        let mut hasher = Sha256::new();
        hasher.update(b"landfall damaged entry");
        hasher.update(document.as_bytes());
        hasher.update(offset.0.to_le_bytes());
        Self {
            offset,
            document,
            kind: entry_kind::DAMAGED,
            flags: 0,
            id: hasher.finalize().into(),
            dependencies: Vec::new(),
            author: ByteBuf::new(),
            at_ms: 0,
            body: ByteBuf::new(),
        }
    }

    /// The entry's id as a change hash.
    pub fn hash(&self) -> ChangeHash {
        ChangeHash(self.id)
    }
}

/// Represents the unknown document of a damaged entry.
pub const DAMAGED_UNKNOWN: DocumentId = DocumentId::from_bytes([0; 16]);

/// Offset of the flags in an encoded entry: after offset, document and kind.
const FLAGS_AT: usize = 8 + 16 + 2;

/// An entry encoded once, as it appears in an [`Entries`] frame, and shared by all sessions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedEntry {
    offset: Offset,
    bytes: Box<[u8]>,
    /// Bytes before the body's length.
    header: usize,
}

impl EncodedEntry {
    /// Encodes an entry.
    pub fn new(entry: &Entry) -> Self {
        let mut bytes = Vec::with_capacity(160 + entry.body.len());
        codec::append_body(entry, &mut bytes);
        let header = bytes.len() - entry.body.len() - 8;
        Self { offset: entry.offset, bytes: bytes.into_boxed_slice(), header }
    }

    /// The entry's position in the log.
    pub fn offset(&self) -> Offset {
        self.offset
    }

    /// The document that it belongs to.
    pub fn document(&self) -> DocumentId {
        let mut id = [0; 16];
        id.copy_from_slice(&self.bytes[8..24]);
        DocumentId::from_bytes(id)
    }

    /// Its id.
    pub fn id(&self) -> [u8; 32] {
        let mut id = [0; 32];
        id.copy_from_slice(&self.bytes[28..60]);
        id
    }

    /// Its kind.
    pub fn kind(&self) -> u16 {
        u16::from_le_bytes([self.bytes[24], self.bytes[25]])
    }

    /// The bytes of its kind.
    pub fn body(&self) -> &[u8] {
        self.bytes.get(self.header + 8..).unwrap_or_default()
    }

    /// Its length in bytes with its body.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Always false: an entry has a header.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    fn append_echo(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&self.bytes[..self.header]);
        out[start + FLAGS_AT] |= entry_flags::ECHO as u8;
        out.extend_from_slice(&0u64.to_le_bytes());
    }
}

/// Builds an [`Entries`] frame from encoded entries, without encoding them again.
pub struct EntriesBuilder {
    message: Vec<u8>,
    count: u64,
    count_at: usize,
}

impl EntriesBuilder {
    /// Begins a frame. `frame.entries` must be empty; its other fields are used.
    pub fn new(
        subscription: SubscriptionId,
        after: Offset,
        up_to: Offset,
        epoch: Epoch,
        head: Offset,
    ) -> Self {
        let mut message = Vec::with_capacity(4096);
        codec::raw_frame(kind::ENTRIES, 0, &[], &mut message);
        let frame = Entries { subscription, after, up_to, epoch, head, entries: Vec::new() };
        codec::append_body(&frame, &mut message);
        let count_at = message.len() - 8;
        Self { message, count: 0, count_at }
    }

    /// Adds an entry; with `echo`, without its body.
    pub fn add(&mut self, entry: &EncodedEntry, echo: bool) {
        match echo {
            true => entry.append_echo(&mut self.message),
            false => self.message.extend_from_slice(&entry.bytes),
        }
        self.count += 1;
    }

    /// The finished message.
    pub fn finish(mut self) -> Vec<u8> {
        self.message[self.count_at..self.count_at + 8].copy_from_slice(&self.count.to_le_bytes());
        let length = (self.message.len() - limits::FRAME_HEADER_BYTES) as u32;
        self.message[4..8].copy_from_slice(&length.to_le_bytes());
        self.message
    }
}

/// A [`Document`](super::Frame::Document) frame of encoded entries.
pub fn encode_document(
    subscription: SubscriptionId,
    document: DocumentId,
    holding: Holding,
    entries: &[EncodedEntry],
    more: bool,
) -> Vec<u8> {
    let mut message = Vec::with_capacity(4096);
    codec::raw_frame(kind::DOCUMENT, 0, &[], &mut message);
    let empty = DocumentEntries { subscription, document, holding, entries: Vec::new(), more };
    codec::append_body(&empty, &mut message);
    // The empty list and `more` are the last 9 bytes.
    message.truncate(message.len() - 9);
    message.extend_from_slice(&(entries.len() as u64).to_le_bytes());
    entries.iter().for_each(|entry| message.extend_from_slice(&entry.bytes));
    message.push(u8::from(more));
    let length = (message.len() - limits::FRAME_HEADER_BYTES) as u32;
    message[4..8].copy_from_slice(&length.to_le_bytes());
    message
}

#[cfg(test)]
mod tests {
    use super::super::{Frame, decode, encode};
    use super::*;

    fn entry(offset: u64, body: &[u8]) -> Entry {
        Entry {
            offset: Offset(offset),
            document: DocumentId::from_bytes([1; 16]),
            kind: entry_kind::CHANGE,
            flags: 0,
            id: [2; 32],
            dependencies: vec![[3; 32]; offset as usize % 3],
            author: ByteBuf::from([4; 16]),
            at_ms: 5,
            body: ByteBuf::from(body),
        }
    }

    #[test]
    fn a_built_frame_equals_the_encoded_frame() {
        let entries = vec![entry(7, b"one"), entry(8, b""), entry(10, &[9; 300])];
        let epoch = Epoch::from_bytes([6; 16]);
        let mut builder = EntriesBuilder::new(3, Offset(6), Offset(11), epoch, Offset(12));
        for entry in &entries {
            builder.add(&EncodedEntry::new(entry), false);
        }
        let (after, up_to, head) = (Offset(6), Offset(11), Offset(12));
        let frame = Frame::Entries(Entries { subscription: 3, after, up_to, epoch, head, entries });
        assert_eq!(builder.finish(), encode(&frame));
    }

    #[test]
    fn a_built_document_frame_equals_the_encoded_frame() {
        let entries = vec![entry(7, b"one"), entry(8, b"")];
        let encoded: Vec<EncodedEntry> = entries.iter().map(EncodedEntry::new).collect();
        let (document, holding) = (entries[0].document, Holding::Present(vec![[9; 32]]));
        let built = encode_document(3, document, holding.clone(), &encoded, true);
        let frame = DocumentEntries { subscription: 3, document, holding, entries, more: true };
        assert_eq!(built, encode(&Frame::Document(frame)));
    }

    #[test]
    fn an_echo_differs_by_flag_and_body_only() {
        let whole = entry(7, b"body");
        let epoch = Epoch::from_bytes([6; 16]);
        let mut builder = EntriesBuilder::new(3, Offset(6), Offset(7), epoch, Offset(7));
        builder.add(&EncodedEntry::new(&whole), true);
        let Frame::Entries(frame) = decode(&builder.finish()).unwrap() else {
            panic!("no entries")
        };
        let echo = Entry { flags: entry_flags::ECHO, body: ByteBuf::new(), ..whole };
        assert_eq!(frame.entries, [echo]);
    }
}
