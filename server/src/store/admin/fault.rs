//! What can be wrong with a store, and where.

use landfall_protocol::{ActorId, ChangeHash, DocumentId, Offset, SpaceName};
use thiserror::Error;

/// Something that differs from what was written.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{}: {damage}", place(.space, .document, .offset))]
pub struct Finding {
    /// The space; `None` for the file itself.
    pub space: Option<SpaceName>,
    /// The document.
    pub document: Option<DocumentId>,
    /// The place in the log.
    pub offset: Option<Offset>,
    /// The damage.
    pub damage: Fault,
}

/// The kinds of damage.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Fault {
    /// SQLite finds the file's own structure damaged.
    #[error("the file is damaged: {what}")]
    File {
        /// SQLite's message.
        what: String,
    },
    /// The write-ahead log is damaged: commits that were only there are lost.
    #[error("{what}")]
    WriteAheadLog {
        /// The details.
        what: String,
    },
    /// A row cannot be read.
    #[error("it cannot be read: {what}")]
    Unreadable {
        /// SQLite's message.
        what: String,
    },
    /// A change's bytes differ from those written.
    #[error("the change's bytes are damaged: {what}")]
    ChangeBytes {
        /// The error of the check.
        what: String,
    },
    /// A change's bytes are whole, but those of another change.
    #[error("the change's bytes are those of change {found}")]
    OtherChange {
        /// The change that the bytes are.
        found: ChangeHash,
    },
    /// A change's row contradicts its bytes.
    #[error("the change's row does not match its bytes: {field}")]
    ChangeField {
        /// The field.
        field: &'static str,
    },
    /// A change is whole, but this version would not admit it today. The store is not damaged.
    #[error("the change would be rejected today: {what}")]
    ChangeForm {
        /// The reason.
        what: String,
    },
    /// A dependency of a change is missing.
    #[error("the change depends on {missing}, which does not precede it")]
    MissingDependency {
        /// The missing change.
        missing: ChangeHash,
    },
    /// An actor's sequence numbers have a gap.
    #[error("actor {actor} goes from sequence {last} to {next}")]
    SequenceGap {
        /// The actor.
        actor: ActorId,
        /// The last number before the gap; 0 if there is none.
        last: u64,
        /// The first number after it.
        next: u64,
    },
    /// An entry lies before the log's first epoch.
    #[error("its offset is in no epoch of the log")]
    OutsideEpochs,
    /// A snapshot's bytes differ from those written, or are incomplete.
    #[error("the snapshot's bytes are damaged")]
    SnapshotBytes,
    /// A snapshot's packed index is damaged. It can be rebuilt from the snapshot.
    #[error("the snapshot's packed index is damaged: {what}")]
    SnapshotIndex {
        /// The error of the check.
        what: String,
    },
    /// A snapshot's row contradicts its index.
    #[error("the snapshot's row does not match its index: {field}")]
    SnapshotField {
        /// The field.
        field: &'static str,
    },
    /// The last compacted change of each actor differs from the index.
    #[error("the actors of the compacted history differ from those of its index")]
    CompactedActors,
    /// A document's tombstone and its row contradict each other.
    #[error("the tombstone and the document contradict each other")]
    Tombstone,
    /// A document's row differs from the values that follow from its changes.
    #[error("the document's row does not match its changes: {field}")]
    DocumentField {
        /// The field.
        field: &'static str,
    },
    /// The digest of the documents whose ids begin with a byte differs from their sum.
    #[error("the digest of the documents whose ids begin with {bucket:02x} is not their sum")]
    Digest {
        /// The byte.
        bucket: u8,
    },
    /// The log's end lies before its last entry.
    #[error("the log's recorded end {stated} is before its last entry")]
    Head {
        /// The stated end.
        stated: Offset,
    },
}

impl Fault {
    /// Whether it can be repaired from the store's other data, without loss.
    pub fn is_derived(&self) -> bool {
        matches!(
            self,
            Self::SnapshotIndex { .. }
                | Self::CompactedActors
                | Self::DocumentField { .. }
                | Self::Digest { .. }
                | Self::Head { .. }
        )
    }

    /// Whether the file itself is damaged: repairing single documents does not help.
    pub fn is_of_file(&self) -> bool {
        matches!(self, Self::File { .. } | Self::Unreadable { .. } | Self::WriteAheadLog { .. })
    }

    /// Whether it is information only, and needs no repair.
    pub fn is_harmless(&self) -> bool {
        matches!(self, Self::ChangeForm { .. })
    }
}

fn place(
    space: &Option<SpaceName>,
    document: &Option<DocumentId>,
    offset: &Option<Offset>,
) -> String {
    let Some(space) = space else { return "the store".to_owned() };
    let mut text = format!("space {space}");
    if let Some(document) = document {
        text.push_str(&format!(", document {document}"));
    }
    if let Some(offset) = offset {
        text.push_str(&format!(", offset {offset}"));
    }
    text
}
