//! What goes out of the replica's machine and comes back: plain data.

use std::time::Duration;

use thiserror::Error;

use crate::admission::{CheckedChange, FormError};
use crate::code::Code;
use crate::frame::{Entry, Frame, FrameError, Mark};
use crate::ids::{Cursor, DocumentId, Local, Offset, SpaceName, Upstream};

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
    /// Read changes that the upstream is not known to hold, from after a position, without those
    /// of parked documents; answer with [`handle_outbox`](super::Replica::handle_outbox).
    LoadOutbox {
        /// The space.
        space: SpaceName,
        /// Only later ones.
        after: Local,
        /// At most so many.
        changes: usize,
        /// At most so many bytes, but at least one change.
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
    /// The local store failed; the connection begins again from what it holds.
    #[error("the local store failed: {0}")]
    Store(String),
}

/// What the store knows of a space and an upstream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ResumePoint {
    /// Where the copy of the log ends.
    pub cursor: Option<Cursor>,
    /// The furthest ack.
    pub acknowledged: Option<Mark>,
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
    /// Its bytes do not pass the preflight.
    #[error("the change is malformed: {0}")]
    Form(#[from] FormError),
    /// It is not the change that its header says.
    #[error("the entry's id is not its change's hash")]
    WrongId,
}
