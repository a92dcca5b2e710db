//! Why nothing could be folded.

use std::io;
use std::time::Duration;

use landfall_protocol::ChangeHash;
use landfall_protocol::admission::{DocumentError, FormError, HistoryError};
use landfall_protocol::folded::BadIndex;
use thiserror::Error;

/// Why a document could not be folded, inspected or read. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum FoldError {
    /// What should be a snapshot is not exactly one document chunk.
    #[error("snapshot {position} is not one automerge document: {what}")]
    NotADocument {
        /// Which of the given snapshots, from 0.
        position: usize,
        /// What is wrong.
        what: &'static str,
    },
    /// A snapshot states more than automerge is given, or cannot be read.
    #[error("snapshot {position} is not opened: {source}")]
    Measured {
        /// Which of the given snapshots, from 0.
        position: usize,
        /// What is wrong.
        source: DocumentError,
    },
    /// automerge does not load a snapshot.
    #[error("automerge does not load snapshot {position}: {reason}")]
    Snapshot {
        /// Which of the given snapshots, from 0.
        position: usize,
        /// automerge's own words.
        reason: String,
    },
    /// More heads than an entry of a log can name: the document is to be merged by an edit first.
    #[error("the document has {actual} heads, a snapshot can have {limit}")]
    TooManyHeads {
        /// How many it has.
        actual: usize,
        /// How many it may have.
        limit: usize,
    },
    /// The snapshot has or would have more bytes than may be sent in one. The history is whole: it
    /// stays single changes.
    #[error("the snapshot has {actual} bytes, the limit is {limit}; the changes stay single")]
    TooLarge {
        /// Its bytes.
        actual: usize,
        /// How many it may have.
        limit: usize,
    },
    /// The snapshot's bytes are not those that were promised.
    #[error("the snapshot's SHA-256 is not the one that was told")]
    Hash,
    /// The snapshot's heads are not those that were promised.
    #[error("its heads are not those that were told")]
    Heads,
    /// Bytes that are no chunk, or one that automerge does not open.
    #[error("the chunk at byte {at} of part {part}: {what}")]
    Chunk {
        /// Which of the given parts, from 0.
        part: usize,
        /// Where in it, in bytes.
        at: usize,
        /// What is wrong.
        what: String,
    },
    /// Bytes that are no change.
    #[error("automerge does not read change {position}: {reason}")]
    Change {
        /// Which of the given changes, from 0.
        position: usize,
        /// automerge's own words.
        reason: String,
    },
    /// A stranger's change that would not be admitted by itself.
    #[error("it holds change {hash}, which is refused: {source}")]
    Form {
        /// Which change.
        hash: ChangeHash,
        /// What is wrong with it.
        source: FormError,
    },
    /// A stranger's change that does not fit those before it.
    #[error("it holds change {hash}, which does not fit: {source}")]
    History {
        /// Which change.
        hash: ChangeHash,
        /// Why it does not.
        source: HistoryError,
    },
    /// automerge refuses the changes together.
    #[error("automerge does not apply the changes: {reason}")]
    Apply {
        /// automerge's own words.
        reason: String,
    },
    /// Changes whose dependencies are not there.
    #[error("changes rest on {missing}, which is not among them")]
    Orphans {
        /// The first change that is missing.
        missing: ChangeHash,
    },
    /// automerge has lost a change without a word.
    #[error("automerge was given change {hash} but does not hold it")]
    Lost {
        /// Which change.
        hash: ChangeHash,
    },
    /// What automerge has saved is not what it held. The history is whole; only its snapshot
    /// cannot be made by this version of automerge.
    #[error("the saved document does not load as it was: {what}")]
    Unfaithful {
        /// What differs, or automerge's own words.
        what: String,
    },
    /// The changes cannot be indexed.
    #[error("the changes cannot be indexed: {0}")]
    Index(#[from] BadIndex),
    /// automerge panicked.
    #[error("automerge panicked: {0}")]
    Panicked(String),
}

/// Why a worker brought nothing. The parent is as it was.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum WorkerError {
    /// It ran, and this is what it found ([`FoldError`] as text).
    #[error("{reason}")]
    Refused {
        /// The worker's reason.
        reason: String,
    },
    /// It ran, and the stranger's changes rest on one that is neither held nor among them.
    #[error("changes rest on {missing}, which is not there; send that first")]
    Missing {
        /// The first one that is missing.
        missing: ChangeHash,
    },
    /// It ran, and the snapshot would have more bytes than may be sent in one.
    #[error("the snapshot has {actual} bytes, the limit is {limit}; the changes stay single")]
    TooLarge {
        /// Its bytes.
        actual: usize,
        /// How many it may have.
        limit: usize,
    },
    /// It died: of its memory limit, of an abort, or by somebody's hand.
    #[error("the worker died ({how}){}{said}", if said.is_empty() { "" } else { ": " })]
    Died {
        /// Its exit status in words.
        how: String,
        /// The beginning of what it wrote to its standard error.
        said: String,
    },
    /// It took longer than it may, by the clock or by its processor time, and was killed.
    #[error("the worker was not done after {limit:?} and was killed")]
    TimedOut {
        /// Its limit.
        limit: Duration,
    },
    /// It was killed, or not started at all, since whoever wanted it stops.
    #[error("the worker was stopped")]
    Stopped,
    /// It answered what no worker answers: it is another program, or another version.
    #[error("the worker's answer makes no sense: {what}")]
    Answer {
        /// What is wrong with the answer.
        what: String,
    },
    /// It is of another release: the program's file was replaced.
    #[error("{said}")]
    OtherRelease {
        /// Its own words.
        said: String,
    },
    /// It could not be started.
    #[error("the worker `{command}` could not be started: {source}")]
    Spawn {
        /// The command's program.
        command: String,
        /// Why.
        source: io::Error,
    },
}

impl WorkerError {
    /// Whether no worker can be had now, which says nothing about what it was to work on.
    pub fn is_no_worker(&self) -> bool {
        matches!(self, Self::Spawn { .. } | Self::OtherRelease { .. })
    }
}
