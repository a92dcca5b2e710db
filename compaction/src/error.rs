//! The reasons why a compaction fails.

use std::io;
use std::time::Duration;

use landfall_protocol::ChangeHash;
use landfall_protocol::admission::{DocumentError, FormError, HistoryError};
use landfall_protocol::compacted::BadIndex;
use thiserror::Error;

/// Why a document could not be compacted, inspected or read. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum CompactionError {
    /// A supposed snapshot is not exactly one document chunk.
    #[error("snapshot {position} is not one automerge document: {what}")]
    NotADocument {
        /// The index of the snapshot, from 0.
        position: usize,
        /// The problem.
        what: &'static str,
    },
    /// A snapshot claims more than the limits for automerge, or cannot be parsed.
    #[error("snapshot {position} exceeds a limit or cannot be parsed: {source}")]
    Measured {
        /// The index of the snapshot, from 0.
        position: usize,
        /// The problem.
        source: DocumentError,
    },
    /// automerge fails to load a snapshot.
    #[error("automerge cannot load snapshot {position}: {reason}")]
    Snapshot {
        /// The index of the snapshot, from 0.
        position: usize,
        /// automerge's error message.
        reason: String,
    },
    /// More heads than a log entry can name: an edit has to merge the document first.
    #[error("the document has {actual} heads; a snapshot can have at most {limit}")]
    TooManyHeads {
        /// Its number of heads.
        actual: usize,
        /// The limit.
        limit: usize,
    },
    /// The snapshot has or would have more bytes than allowed. The history is intact and stays
    /// single changes.
    #[error("the snapshot has {actual} bytes, the limit is {limit}; the changes stay uncompacted")]
    TooLarge {
        /// Its size in bytes.
        actual: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// The snapshot's SHA-256 is not the expected one.
    #[error("the snapshot's SHA-256 is not the expected one")]
    Hash,
    /// The snapshot's heads are not the expected ones.
    #[error("the snapshot's heads are not the expected ones")]
    Heads,
    /// Bytes that are not a chunk, or a chunk that automerge cannot open.
    #[error("the chunk at byte {at} of part {part}: {what}")]
    Chunk {
        /// The index of the part, from 0.
        part: usize,
        /// The offset in the part, in bytes.
        at: usize,
        /// The problem.
        what: String,
    },
    /// Bytes that are not a change.
    #[error("automerge cannot read change {position}: {reason}")]
    Change {
        /// The index of the change, from 0.
        position: usize,
        /// automerge's error message.
        reason: String,
    },
    /// An untrusted change that fails the preflight.
    #[error("it contains the invalid change {hash}: {source}")]
    Form {
        /// The change.
        hash: ChangeHash,
        /// The problem.
        source: FormError,
    },
    /// An untrusted change that does not fit the history before it.
    #[error("it contains change {hash}, which conflicts with the history before it: {source}")]
    History {
        /// The change.
        hash: ChangeHash,
        /// The reason.
        source: HistoryError,
    },
    /// automerge fails to apply the changes together.
    #[error("automerge cannot apply the changes: {reason}")]
    Apply {
        /// automerge's error message.
        reason: String,
    },
    /// Changes whose dependencies are missing.
    #[error("changes depend on {missing}, which is not among them")]
    Orphans {
        /// The first missing change.
        missing: ChangeHash,
    },
    /// automerge dropped a change without an error.
    #[error("automerge dropped change {hash} without an error")]
    Lost {
        /// The change.
        hash: ChangeHash,
    },
    /// The document that automerge saved does not load as it was. The history is intact, but this
    /// version of automerge cannot make a snapshot of it.
    #[error("the saved document does not load unchanged: {what}")]
    Unfaithful {
        /// The difference, or automerge's error message.
        what: String,
    },
    /// The changes cannot be indexed.
    #[error("the changes cannot be indexed: {0}")]
    Index(#[from] BadIndex),
    /// automerge panicked.
    #[error("automerge panicked: {0}")]
    Panicked(String),
}

/// Why a worker returned no result. The parent is not affected.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum WorkerError {
    /// The worker ran, and refused the job with this [`CompactionError`], as text.
    #[error("{reason}")]
    Refused {
        /// The worker's reason.
        reason: String,
    },
    /// The worker ran; the untrusted changes depend on one that is neither in the document nor among
    /// them.
    #[error("changes depend on {missing}, which is missing here; send that first")]
    Missing {
        /// The first missing change.
        missing: ChangeHash,
    },
    /// The worker ran; the snapshot would have more bytes than allowed.
    #[error("the snapshot has {actual} bytes, the limit is {limit}; the changes stay uncompacted")]
    TooLarge {
        /// Its size in bytes.
        actual: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// The worker died: by its memory limit, an abort, or a signal from outside.
    #[error("the worker died ({how}){}{said}", if said.is_empty() { "" } else { ": " })]
    Died {
        /// Its exit status as text.
        how: String,
        /// The beginning of what it wrote to its standard error.
        said: String,
    },
    /// The worker exceeded its limit of wall-clock or processor time, and was killed.
    #[error("the worker exceeded its time limit of {limit:?} and was killed")]
    TimedOut {
        /// The limit.
        limit: Duration,
    },
    /// The worker was killed, or not started, because its caller is stopping.
    #[error("the worker was stopped")]
    Stopped,
    /// The worker's answer is not a valid one: it is another program, or another version.
    #[error("the worker's answer is invalid: {what}")]
    Answer {
        /// The invalid part of the answer.
        what: String,
    },
    /// The worker is of another release: the program's file was replaced.
    #[error("{said}")]
    OtherRelease {
        /// Its error message.
        said: String,
    },
    /// The worker could not be started.
    #[error("the worker `{command}` could not be started: {source}")]
    Spawn {
        /// The command's program.
        command: String,
        /// The cause.
        source: io::Error,
    },
}

impl WorkerError {
    /// Whether no worker can be started now, which does not depend on the job's input.
    pub fn is_no_worker(&self) -> bool {
        matches!(self, Self::Spawn { .. } | Self::OtherRelease { .. })
    }
}
