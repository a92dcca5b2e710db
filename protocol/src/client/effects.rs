//! Effects of the replica's machine, and the plain data that inputs bring back. It performs nothing
//! itself.

use std::time::Duration;

use thiserror::Error;

use super::batches::{Batch, DocumentBatch};
use crate::code::Code;
use crate::digest::Prefix;
use crate::frame::{Filter, Frame, FrameError, Mark, Partial};
use crate::ids::{ChangeHash, Cursor, DocumentId, Local, SpaceName, Upstream};

/// An action for the caller to perform.
#[derive(Debug, Clone)]
pub enum ReplicaEffect {
    /// Send this frame.
    Send(Frame),
    /// The handshake is complete: the identity of the relay.
    Welcomed(Upstream),
    /// Read the resume point of this space with this upstream; answer with
    /// [`handle_resume`](super::Replica::handle_resume).
    LoadResume {
        /// The relay.
        upstream: Upstream,
        /// The space.
        space: SpaceName,
    },
    /// Write this in one transaction; answer with [`handle_stored`](super::Replica::handle_stored).
    Store(Batch),
    /// The cursor or mark does not belong to the relay's log. In one transaction, remove both and
    /// clear the acked ranges; answer with [`handle_reset`](super::Replica::handle_reset).
    Reset {
        /// The space.
        space: SpaceName,
    },
    /// Keep a piece of an arriving snapshot, until the snapshot is stored or the first piece of
    /// another one arrives; answer with [`handle_stored`](super::Replica::handle_stored) and the
    /// length of `bytes` plus [`PART_WEIGHT`](super::PART_WEIGHT).
    StorePart {
        /// The space.
        space: SpaceName,
        /// The snapshot's document.
        document: DocumentId,
        /// The snapshot.
        hash: [u8; 32],
        /// Length of the snapshot in bytes.
        total: u64,
        /// Offset of the piece: the number of bytes stored before, or 0.
        from: u64,
        /// The piece.
        bytes: Vec<u8>,
    },
    /// Read the branches below some prefixes: digests, or all documents there; answer with
    /// [`handle_branches`](super::Replica::handle_branches).
    LoadBranches {
        /// The space.
        space: SpaceName,
        /// Each with `true` to list the documents themselves, however many there are.
        prefixes: Vec<(Prefix, bool)>,
    },
    /// Read the heads of documents (none for a document that is absent or deleted); answer with
    /// [`handle_heads`](super::Replica::handle_heads).
    LoadHeads {
        /// The space.
        space: SpaceName,
        /// The documents.
        documents: Vec<DocumentId>,
    },
    /// Write the entries of one document that arrived outside the log's order, in one transaction.
    /// With the last piece, set the document's acked ranges to the ancestors of the relay's heads
    /// (everything if those are our heads; nothing if it has none). Answer with
    /// [`handle_stored`](super::Replica::handle_stored).
    StoreDocument(DocumentBatch),
    /// The comparison is complete. In one transaction, set the cursor, and record everything up to
    /// `through` as acked, except `except`. Answer with
    /// [`handle_compared`](super::Replica::handle_compared).
    FinishComparison {
        /// The space.
        space: SpaceName,
        /// The new end of the copy of the log; `None` for an empty log.
        cursor: Option<Cursor>,
        /// The last local change when the comparison began. Later ones do not count as acked.
        through: Local,
        /// Documents that were not found equal: nothing is recorded for them.
        except: Vec<DocumentId>,
    },
    /// A check is complete. The two ends disagreed about these documents, although neither had
    /// anything in progress: count them, and name them in the log. They have been repaired, or will
    /// be. Answers this ticket and every smaller one. No answer.
    Checked {
        /// The space.
        space: SpaceName,
        /// The latest ticket of a check request.
        ticket: u64,
        /// The documents that differed; normally none. At most
        /// [`DRIFTED_DOCUMENTS`](crate::limits::DRIFTED_DOCUMENTS).
        drifted: Vec<DocumentId>,
        /// The number of further ones.
        more: u64,
    },
    /// A check was given up. Answers this ticket and every smaller one. No answer.
    NotChecked {
        /// The space.
        space: SpaceName,
        /// The latest ticket of a check request.
        ticket: u64,
        /// The reason.
        why: Unchecked,
    },
    /// Read a piece of a document's snapshot for the upstream, at most as long as a part; answer
    /// with [`handle_snapshot_part`](super::Replica::handle_snapshot_part).
    LoadSnapshotPart {
        /// The space.
        space: SpaceName,
        /// The document.
        document: DocumentId,
        /// The snapshot.
        hash: [u8; 32],
        /// Offset of the piece.
        from: u64,
    },
    /// The upstream holds every change of this snapshot. No answer.
    SnapshotAcknowledged {
        /// The space.
        space: SpaceName,
        /// The document.
        document: DocumentId,
        /// The uploaded snapshot. Another may have replaced it by now; its changes count as acked
        /// all the same.
        hash: [u8; 32],
        /// The greatest mark of an ack.
        mark: Mark,
    },
    /// Read the items that the upstream has not acknowledged, after a position and without
    /// documents whose changes are rejected; answer with
    /// [`handle_outbox`](super::Replica::handle_outbox).
    LoadOutbox {
        /// The space.
        space: SpaceName,
        /// The position; only later items.
        after: Local,
        /// Most changes.
        changes: usize,
        /// Most bytes, but at least one item.
        bytes: usize,
    },
    /// The relay has these changes on its disk: record them as acked. No answer.
    Acknowledged {
        /// The space.
        space: SpaceName,
        /// The changes.
        locals: Vec<Local>,
        /// The greatest mark of an ack.
        mark: Mark,
    },
    /// The relay answered that it has not accepted these changes: record that, before the next
    /// effect. They are not on its disk, so another actor may make them again. The changes of a
    /// push without an answer may be on its disk. No answer.
    Refused {
        /// The space.
        space: SpaceName,
        /// The document.
        document: DocumentId,
        /// The changes.
        locals: Vec<Local>,
    },
    /// The relay rejects this document's changes: keep them, report that, and push none until the
    /// application asks. No answer.
    Reject {
        /// The space.
        space: SpaceName,
        /// The document.
        document: DocumentId,
        /// The reason.
        code: Code,
        /// The reason in words.
        what: String,
        /// Whether the rejected item is the document's deletion. If not, a deletion is still
        /// pushed.
        deletion: bool,
    },
    /// The relay rejects changes of a space for now, and they are pushed again after a wait; or it
    /// accepts them again. No answer.
    Delayed {
        /// The space.
        space: SpaceName,
        /// The relay's code and text; `None` once it accepts changes again.
        why: Option<(Code, String)>,
    },
    /// The relay lacks dependencies of this document's changes: remove all of them from the acked
    /// ranges; answer with [`handle_requeued`](super::Replica::handle_requeued).
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
        /// The new phase.
        phase: SpacePhase,
    },
    /// The application can now send ephemeral messages about the documents of this filter; with
    /// `None`, about none.
    SendsEphemeral {
        /// The space.
        space: SpaceName,
        /// The documents.
        filter: Option<Filter>,
    },
    /// An ephemeral message arrived. It is delivered once and never stored.
    Ephemeral {
        /// The space.
        space: SpaceName,
        /// The document.
        document: DocumentId,
        /// The sender.
        sender: String,
        /// The sender's session: one run of it.
        session: String,
        /// Grows strictly within the sender's session.
        count: u64,
        /// The payload.
        data: Vec<u8>,
    },
    /// The relay has these changes of a document and cannot read them. Read those that the store
    /// has, at most [`PUSH_WINDOW_BYTES`](crate::limits::PUSH_WINDOW_BYTES) of them but at least
    /// one. If some of them are in a snapshot, or none are named, make a snapshot of the whole
    /// document. Answer with [`handle_resendable`](super::Replica::handle_resendable).
    LoadResend {
        /// The space.
        space: SpaceName,
        /// The document.
        document: DocumentId,
        /// The changes; none for the whole document.
        changes: Vec<ChangeHash>,
    },
    /// A snapshot made for [`LoadResend`](Self::LoadResend) is no longer being sent: drop its
    /// bytes. No answer.
    DropMade {
        /// The snapshot.
        hash: [u8; 32],
    },
    /// The relay can read a damaged document again. If the relay reported it as damaged, compare the
    /// space. No answer.
    Repaired {
        /// The space.
        space: SpaceName,
        /// The document.
        document: DocumentId,
    },
    /// Close the connection after sending all earlier frames.
    End(EndReason),
}

/// The state of a space on the present connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SpacePhase {
    /// Not subscribed yet.
    Waiting,
    /// Entries older than the subscription are arriving, or a burst of new ones.
    CatchingUp {
        /// Log positions received since the connection was made.
        done: u64,
        /// Log positions left.
        to_go: u64,
        /// The arriving snapshot: bytes received, and all its bytes.
        snapshot: Option<(u64, u64)>,
    },
    /// The relay's log is another one than before, or the filter changed: the two ends compare
    /// their documents.
    Comparing {
        /// Documents that are known to differ and have not arrived yet.
        documents: u64,
        /// The arriving snapshot: bytes received, and all its bytes.
        snapshot: Option<(u64, u64)>,
    },
    /// Everything that the relay has is in the store.
    Live,
    /// The relay rejects the space, or the space must stop.
    Refused {
        /// The code.
        code: Code,
        /// The reason in words, with the remedy.
        what: String,
    },
}

/// Why a requested check of a space was not made.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Unchecked {
    /// The relay rejects the space.
    #[error("the relay refuses the space ({code}): {what}")]
    Refused {
        /// The code.
        code: Code,
        /// The reason in words, with the remedy.
        what: String,
    },
    /// The relay's version does not support comparison.
    #[error("this relay does not support checks; upgrade it")]
    Unsupported,
    /// Changes kept arriving.
    #[error("changes of the space were in transit all the time; check again when there are fewer")]
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
    /// The relay's bytes are not frames.
    #[error("the relay sent a malformed message: {0}")]
    Malformed(#[from] FrameError),
    /// The relay ended the session.
    #[error("the relay ended the session ({code}): {what}; {hint}")]
    Ended {
        /// The code.
        code: Code,
        /// The reason in words.
        what: String,
        /// The remedy.
        hint: String,
    },
    /// The relay refused the token: it is missing, wrong or expired. Nothing is rejected by this;
    /// pending changes stay pending.
    #[error("the relay ended the session ({}): {what}; {hint}", Code::UNAUTHORIZED)]
    Unauthorized {
        /// Whether the session was established: its token was accepted and has expired since.
        welcomed: bool,
        /// The reason in words.
        what: String,
        /// The remedy.
        hint: String,
    },
    /// Nothing was received for this long.
    #[error("the relay has been silent for {:.1} s", .0.as_secs_f64())]
    Silent(Duration),
    /// A probe was not answered in this time: the connection counts as dead.
    #[error("the relay did not answer a ping within {:.1} s", .0.as_secs_f64())]
    Unanswered(Duration),
    /// The local store failed; the next connection resumes from the store's state.
    #[error("the local store failed: {0}")]
    Store(String),
}

/// The store's record of a space with an upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResumePoint {
    /// The end of the copy of the log.
    pub cursor: Option<Cursor>,
    /// The greatest mark of an ack.
    pub acknowledged: Option<Mark>,
    /// Whether the store has documents of this space.
    pub holds: bool,
    /// The documents that the application wants.
    pub filter: Filter,
    /// A partially received snapshot.
    pub partial: Option<Partial>,
}

impl Default for ResumePoint {
    fn default() -> Self {
        let (cursor, acknowledged, holds, partial) = (None, None, false, None);
        Self { cursor, acknowledged, holds, filter: Filter::Everything, partial }
    }
}
