//! What a verification can find, and how each finding can be repaired.

use landfall_protocol::{ChangeHash, DocumentId, SpaceName};

/// A fault that a check found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The space; `None` for a fault of the file as a whole.
    pub space: Option<SpaceName>,
    /// The document, if the fault is in one.
    pub document: Option<DocumentId>,
    /// The fault.
    pub fault: Fault,
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(space) = &self.space {
            write!(f, "space {space}: ")?;
        }
        if let Some(document) = &self.document {
            write!(f, "document {document}: ")?;
        }
        self.fault.fmt(f)
    }
}

/// A fault of a store.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// SQLite reports the file as damaged.
    #[error("the file is damaged: {0}")]
    File(String),
    /// A change's bytes do not have its hash.
    #[error("change {hash} is damaged: {reason}")]
    Change {
        /// The change, as the log names it.
        hash: ChangeHash,
        /// The problem with its bytes.
        reason: String,
    },
    /// The log's record of a change differs from the change's bytes.
    #[error("the log's row of change {0} contradicts its bytes")]
    Row(ChangeHash),
    /// A dependency of a change is missing.
    #[error("change {hash} depends on {missing}, which is missing")]
    Dependency {
        /// The change.
        hash: ChangeHash,
        /// The missing dependency.
        missing: ChangeHash,
    },
    /// An actor's changes have a gap before this one.
    #[error("change {0} does not follow its actor's last one")]
    Sequence(ChangeHash),
    /// A snapshot's bytes do not have its hash, or automerge cannot read them.
    #[error("the snapshot is damaged: {0}")]
    Snapshot(String),
    /// The recorded facts about a snapshot differ from its contents.
    #[error("the snapshot's metadata does not match its content")]
    SnapshotNotes,
    /// The document's id is not the one from which its digest entry was computed.
    #[error("the document's id is damaged")]
    Identity,
    /// The recorded heads are not those of the changes.
    #[error("the stored heads differ from the heads of the changes")]
    Heads,
    /// The digest entry does not match the heads.
    #[error("the digest entry does not match the heads")]
    DigestEntry,
    /// The mark between compacted and other changes is wrong.
    #[error("rows of changes are on the wrong side of the snapshot's end")]
    SnapshotBase,
    /// The recorded counts are not those of the changes.
    #[error("the stored counts do not match the changes")]
    Counts,
    /// There are dead rows that no sweep will remove.
    #[error("rows of compacted or deleted changes remain")]
    Unswept,
    /// The sweep mark covers rows that are needed.
    #[error("rows that are needed are marked as removable")]
    SweepMark,
    /// A sum of digest entries is wrong.
    #[error("digest {0:02x} does not match its entries")]
    Digest(u8),
    /// The recorded acked ranges of an upstream are impossible, or counted wrongly.
    #[error("the acked ranges of an upstream are wrong: {0}")]
    Held(&'static str),
}

/// The repair for a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Remedy {
    /// It is derived, and can be derived again.
    Derive,
    /// Bytes are lost: they are removed, and received from the upstream again.
    Fetch,
    /// SQLite repairs it.
    Reindex,
}

impl Fault {
    pub(super) fn remedy(&self) -> Remedy {
        match self {
            Self::File(_) => Remedy::Reindex,
            Self::Change { .. }
            | Self::Dependency { .. }
            | Self::Sequence(_)
            | Self::Snapshot(_)
            | Self::Identity => Remedy::Fetch,
            _ => Remedy::Derive,
        }
    }
}
