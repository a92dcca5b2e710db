//! What goes out of the replica's machine and comes back: plain data.

use std::time::Duration;

use thiserror::Error;

use crate::admission::{CheckedChange, FormError};
use crate::code::Code;
use crate::digest::Prefix;
use crate::frame::{Entry, Filter, Frame, FrameError, Holding, Mark, Partial};
use crate::ids::{ChangeHash, Cursor, DocumentId, Local, Offset, SpaceName, Upstream};

/// What the caller must do.
#[derive(Debug, Clone)]
pub enum ReplicaEffect {
    /// Send this frame.
    Send(Frame),
    /// The handshake is done: this is who answered.
    Welcomed(Upstream),
    /// Read where this space stands with this upstream; answer with [`handle_resume`](super::Replica::handle_resume).
    LoadResume {
        /// The relay.
        upstream: Upstream,
        /// The space.
        space: SpaceName,
    },
    /// Write this in one transaction; answer with [`handle_stored`](super::Replica::handle_stored).
    Store(Batch),
    /// The relay's log is not the one that the cursor or mark is of. Forget both, and hold
    /// nothing for acknowledged, in one transaction; answer with [`handle_reset`](super::Replica::handle_reset).
    Reset {
        /// The space.
        space: SpaceName,
    },
    /// Keep a piece of a snapshot that is arriving, until the snapshot is stored or another one's
    /// first piece comes; answer with [`handle_stored`](super::Replica::handle_stored) and the
    /// length of `bytes` with [`PART_WEIGHT`](super::PART_WEIGHT) added.
    StorePart {
        /// The space.
        space: SpaceName,
        /// The document that it is of.
        document: DocumentId,
        /// The snapshot.
        hash: [u8; 32],
        /// All its bytes.
        total: u64,
        /// Where the piece begins. It is what was stored of it before, or 0.
        from: u64,
        /// The piece.
        bytes: Vec<u8>,
    },
    /// Say what the store has below some prefixes: as digests, or as all the documents there;
    /// answer with [`handle_branches`](super::Replica::handle_branches).
    LoadBranches {
        /// The space.
        space: SpaceName,
        /// Each with `true` if the documents themselves are wanted, however many they are.
        prefixes: Vec<(Prefix, bool)>,
    },
    /// Read the heads of documents (none if it has no such document, or deleted it); answer with
    /// [`handle_heads`](super::Replica::handle_heads), or better with
    /// [`handle_heads`](super::Replica::handle_heads).
    LoadHeads {
        /// The space.
        space: SpaceName,
        /// Which.
        documents: Vec<DocumentId>,
    },
    /// Write what came of one document apart from the log's order, in one transaction. With the
    /// last piece: of what we have, the upstream holds exactly the ancestors of what it told (all
    /// of it, if those are our heads; nothing, if it has none). Answer with
    /// [`handle_stored`](super::Replica::handle_stored).
    StoreDocument(DocumentBatch),
    /// The two have compared everything. In one transaction: the cursor is this; of everything up
    /// to `through`, the upstream holds what it was not found to lack. Answer with
    /// [`handle_reconciled`](super::Replica::handle_reconciled).
    FinishReconcile {
        /// The space.
        space: SpaceName,
        /// Where the copy of the log ends now; `None` for an empty log.
        cursor: Option<Cursor>,
        /// The last local change when the comparison began. What came later is not held.
        through: Local,
        /// Documents that were not found equal: of these nothing is to be noted.
        except: Vec<DocumentId>,
    },
    /// A check has come to its end. The two ends disagreed about these documents, although neither
    /// had anything under way: to be counted, and named in the log. They have been set right, or
    /// are about to be. Answers this ticket and every smaller one. No answer.
    Checked {
        /// The space.
        space: SpaceName,
        /// The latest ticket that asked for it.
        ticket: u64,
        /// Which differed; none, as a rule. At most [`DRIFTED_DOCUMENTS`](crate::limits::DRIFTED_DOCUMENTS).
        drifted: Vec<DocumentId>,
        /// How many more differed.
        more: u64,
    },
    /// A check was given up. Answers this ticket and every smaller one. No answer.
    NotChecked {
        /// The space.
        space: SpaceName,
        /// The latest ticket that asked for it.
        ticket: u64,
        /// Why.
        why: Unchecked,
    },
    /// Read a piece of a document's snapshot for the upstream, as many bytes as a part may have;
    /// answer with [`handle_snapshot_part`](super::Replica::handle_snapshot_part).
    LoadSnapshotPart {
        /// The space.
        space: SpaceName,
        /// The document.
        document: DocumentId,
        /// The snapshot.
        hash: [u8; 32],
        /// Where the piece begins.
        from: u64,
    },
    /// The upstream holds everything that is in this snapshot. No answer.
    SnapshotAcknowledged {
        /// The space.
        space: SpaceName,
        /// The document.
        document: DocumentId,
        /// The snapshot that was offered: by now another may have taken its place, in which case
        /// its changes are held all the same.
        hash: [u8; 32],
        /// The furthest ack.
        mark: Mark,
    },
    /// Read what the upstream is not known to hold, from after a position, without what belongs
    /// to parked documents; answer with [`handle_outbox`](super::Replica::handle_outbox).
    LoadOutbox {
        /// The space.
        space: SpaceName,
        /// Only later ones.
        after: Local,
        /// At most so many.
        changes: usize,
        /// At most so many bytes, but at least one.
        bytes: usize,
    },
    /// The relay has these on its disk: write that down. No answer.
    Acknowledged {
        /// The space.
        space: SpaceName,
        /// Which changes.
        locals: Vec<Local>,
        /// The furthest ack.
        mark: Mark,
    },
    /// The relay answered that it has not taken these: write that down, before what follows. They
    /// are not on its disk, so they may be made again by another actor; the changes of a push
    /// without an answer may be there. No answer.
    Refused {
        /// The space.
        space: SpaceName,
        /// The document.
        document: DocumentId,
        /// Which changes.
        locals: Vec<Local>,
    },
    /// The relay refuses this document's changes: keep them, say so, push none until told. No
    /// answer.
    Park {
        /// The space.
        space: SpaceName,
        /// The document.
        document: DocumentId,
        /// Why.
        code: Code,
        /// In words.
        what: String,
        /// What was refused is the document's deletion. Otherwise its deletion, if there is one by
        /// now, is offered all the same.
        deletion: bool,
    },
    /// The relay does not take changes of a space now, and they are pushed again after a wait; or
    /// it has taken them since. No answer.
    Delayed {
        /// The space.
        space: SpaceName,
        /// Its code and its words; `None` once it takes them again.
        why: Option<(Code, String)>,
    },
    /// The relay lacks what this document's changes rest on: hold none of them for acknowledged;
    /// answer with [`handle_requeued`](super::Replica::handle_requeued).
    Requeue {
        /// The space.
        space: SpaceName,
        /// The document.
        document: DocumentId,
    },
    /// A space's phase changed.
    Phase {
        /// The space.
        space: SpaceName,
        /// Where it stands now.
        phase: SpacePhase,
    },
    /// What the application says about a space's documents that this filter takes can be sent from
    /// now on; with `None`, about none of them.
    Speaking {
        /// The space.
        space: SpaceName,
        /// Which documents.
        filter: Option<Filter>,
    },
    /// Somebody said something about a document. It is told once, and never stored.
    Heard {
        /// The space.
        space: SpaceName,
        /// The document.
        document: DocumentId,
        /// Who.
        sender: String,
        /// One run of the sender.
        session: String,
        /// Grows strictly within the sender's session.
        count: u64,
        /// What.
        data: Vec<u8>,
    },
    /// The relay has these changes of a document and cannot read them: read those that the store has,
    /// at most [`PUSH_WINDOW_BYTES`](crate::limits::PUSH_WINDOW_BYTES) of them but at least one. If some of
    /// them are folded, or none are named, make a snapshot of everything that there is. Answer with
    /// [`handle_resendable`](super::Replica::handle_resendable).
    LoadResend {
        /// The space.
        space: SpaceName,
        /// The document.
        document: DocumentId,
        /// Which changes; none for everything.
        changes: Vec<ChangeHash>,
    },
    /// A snapshot that was made for [`LoadResend`](Self::LoadResend) is not sent any more: its bytes
    /// are not needed. No answer.
    DropMade {
        /// The snapshot.
        hash: [u8; 32],
    },
    /// The relay can read a document again that it could not. If it was told to be damaged, compare
    /// the space. No answer.
    Mended {
        /// The space.
        space: SpaceName,
        /// The document.
        document: DocumentId,
    },
    /// Close the connection, after what was to be sent before.
    End(EndReason),
}

/// Where a space stands on the present connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SpacePhase {
    /// Not subscribed yet.
    Waiting,
    /// Entries are on their way that the relay had before we asked, or a burst of new ones.
    CatchingUp {
        /// Log positions passed since the connection was made.
        done: u64,
        /// Log positions to go.
        to_go: u64,
        /// Bytes of the snapshot that is arriving: those that are there, and all.
        snapshot: Option<(u64, u64)>,
    },
    /// The relay's log is not the one that we knew, or other documents are wanted: the two
    /// compare what they hold.
    Comparing {
        /// Documents that are known to differ and have not arrived yet.
        documents: u64,
        /// Bytes of the snapshot that is arriving: those that are there, and all.
        snapshot: Option<(u64, u64)>,
    },
    /// Everything that the relay had is in the store.
    Live,
    /// The relay refuses the space, or the space must not go on.
    Refused {
        /// Why.
        code: Code,
        /// In words, with what to do.
        what: String,
    },
}

/// Why a space was not compared with the relay, although that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Unchecked {
    /// The relay refuses the space.
    #[error("the relay refuses the space ({code}): {what}")]
    Refused {
        /// Why.
        code: Code,
        /// In words, with what to do.
        what: String,
    },
    /// The relay is of a version that cannot compare.
    #[error("this relay cannot compare what it holds; upgrade it")]
    Unsupported,
    /// Changes came and went all the time.
    #[error("changes of the space are always under way; check again when it is quieter")]
    Busy,
    /// The space was removed.
    #[error("the space was removed")]
    Removed,
}

/// Why the machine ends a connection.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum EndReason {
    /// The relay broke the protocol's rules.
    #[error("the relay broke the protocol: {0}")]
    Broken(String),
    /// The relay's bytes are no frames.
    #[error("the relay sent a malformed message: {0}")]
    Malformed(#[from] FrameError),
    /// The relay ended the session.
    #[error("the relay ended the session ({code}): {what}; {hint}")]
    Ended {
        /// Why.
        code: Code,
        /// In words.
        what: String,
        /// What to do.
        hint: String,
    },
    /// Nothing was heard for too long.
    #[error("the relay has been silent for {:.1} s", .0.as_secs_f64())]
    Silent(Duration),
    /// A probe was not answered: the connection is taken for dead.
    #[error("the relay did not answer a ping within {:.1} s", .0.as_secs_f64())]
    Unanswered(Duration),
    /// The local store failed; the connection begins again from what it holds.
    #[error("the local store failed: {0}")]
    Store(String),
}

/// What the store knows of a space and an upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResumePoint {
    /// Where the copy of the log ends.
    pub cursor: Option<Cursor>,
    /// The furthest ack.
    pub acknowledged: Option<Mark>,
    /// Whether the store has documents of this space.
    pub holds: bool,
    /// Which documents the application wants of it.
    pub filter: Filter,
    /// A snapshot that has arrived in part.
    pub partial: Option<Partial>,
}

impl Default for ResumePoint {
    fn default() -> Self {
        let (cursor, acknowledged, holds, partial) = (None, None, false, None);
        Self { cursor, acknowledged, holds, filter: Filter::Everything, partial }
    }
}

/// What the store has of a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DocumentHeads {
    /// The document.
    pub document: DocumentId,
    /// Its heads; none if there is no such document, or if it is deleted.
    pub heads: Vec<ChangeHash>,
    /// Some of what they rest on, ever further back (1, 2, 4, 8 … changes): a relay that does not
    /// know the heads finds here what both have, and does not send it.
    pub older: Vec<ChangeHash>,
}

/// Entries for the store, to be written with the new cursor in one transaction, and only if its
/// cursor is where the batch begins: when the one before could not be written, this one must not.
#[derive(Debug, Clone)]
pub struct Batch {
    /// The space.
    pub space: SpaceName,
    /// The offset of the cursor before; 0 if there must be none.
    pub after: Offset,
    /// The cursor when they are written.
    pub cursor: Cursor,
    /// The entries, in order.
    pub entries: Vec<Incoming>,
    /// What they weigh; to be given back in [`handle_stored`](super::Replica::handle_stored).
    pub bytes: usize,
}

/// What came of one document when it was fetched.
#[derive(Debug, Clone)]
pub struct DocumentBatch {
    /// The space.
    pub space: SpaceName,
    /// The document.
    pub document: DocumentId,
    /// What the relay has of it.
    pub holding: Holding,
    /// In order.
    pub entries: Vec<Incoming>,
    /// Whether this is the last piece.
    pub last: bool,
    /// Whether the relay could not read something that belongs to this piece or an earlier one.
    pub damaged: bool,
    /// What they weigh; to be given back in [`handle_stored`](super::Replica::handle_stored).
    pub bytes: usize,
}

/// One received entry after the stateless checks.
#[derive(Debug, Clone)]
pub enum Incoming {
    /// A change that passed the preflight.
    Change {
        /// Its position in the log.
        offset: Offset,
        /// Its document.
        document: DocumentId,
        /// The change.
        change: CheckedChange,
        /// Who pushed it.
        author: Vec<u8>,
        /// When the relay took it, in milliseconds since 1970.
        at_ms: u64,
        /// Somebody asked for its history to be merged with the document's own.
        second_root: bool,
    },
    /// A snapshot: everything that the document has in the log up to here.
    Snapshot {
        /// Its position in the log.
        offset: Offset,
        /// Its document.
        document: DocumentId,
        /// SHA-256 of its bytes.
        hash: [u8; 32],
        /// Its heads, as the relay says.
        heads: Vec<ChangeHash>,
        /// Its bytes; `None` if they came in parts, which the store has.
        body: Option<Vec<u8>>,
    },
    /// The relay took this snapshot, which we offered on this connection.
    SnapshotEcho {
        /// Its document.
        document: DocumentId,
        /// SHA-256 of its bytes.
        hash: [u8; 32],
        /// Its heads: the relay holds what they rest on.
        heads: Vec<ChangeHash>,
    },
    /// The document is deleted, for good.
    Tombstone {
        /// Its position in the log.
        offset: Offset,
        /// Its document.
        document: DocumentId,
        /// Who deleted it.
        author: Vec<u8>,
        /// When, in milliseconds since 1970.
        at_ms: u64,
    },
    /// The relay holds this change, which we pushed on this connection.
    Echo {
        /// Its document.
        document: DocumentId,
        /// Its hash.
        hash: crate::ids::ChangeHash,
    },
    /// An entry to be kept but not applied.
    Aside {
        /// The entry as it came.
        entry: Entry,
        /// Why it is not applied.
        reason: AsideReason,
    },
}

/// Why a received entry is kept aside.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AsideReason {
    /// Its kind is of a later version.
    #[error("entries of kind {0} are not known to this version; an upgrade will read it")]
    UnknownKind(u16),
    /// The relay has an entry there and cannot read it. It is asked for again when the two ends next
    /// compare what they hold.
    #[error("what the relay's store has there is damaged; its operator must repair or restore it")]
    Damaged,
    /// Its bytes do not pass the preflight.
    #[error("the change is malformed: {0}")]
    Form(#[from] FormError),
    /// It is not the change that its header says.
    #[error("the entry's id is not its change's hash")]
    WrongId,
    /// It is a snapshot of more bytes than one may have. Its document is fetched again when the two
    /// ends next compare what they hold.
    #[error("the snapshot has {actual} bytes, the limit is {limit}; it was not taken")]
    SnapshotTooLarge {
        /// Its bytes, as the relay says.
        actual: u64,
        /// How many it may have.
        limit: u64,
    },
    /// It is a snapshot that is not what the entry says, or that automerge does not read: in words.
    /// Its document is fetched again when the two ends next compare what they hold.
    #[error("the snapshot is bad: {0}")]
    Snapshot(String),
}
