//! Errors, one type per operation with only the errors that it can return, sorted by blame: the caller,
//! the disk, another program, or a bug of this software. Fields and sources are kept.

use std::path::PathBuf;

use landfall_protocol::admission::{FormError, HistoryError};
use landfall_protocol::ids::BadSpaceName;
use landfall_protocol::replica::Unchecked;
use landfall_protocol::{ChangeHash, Code, DocumentId, SpaceName};

use thiserror::Error;

use crate::failure::{BoxError, StoreFailure};
use crate::reauthor::ReauthorError;
use crate::status::{RejectedDocument, SyncStatus};
use crate::store::{AppendError, OpenLogError, Pending, ReplaceError, ViewError, WriteFailure};
use crate::typed::TypedError;

/// Why a store could not be opened.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Another process has the store open.
    #[error("the store {path} is in use by {holder}; close that first, or open it read-only")]
    StoreInUse {
        /// The store's file.
        path: PathBuf,
        /// The process that holds it: its id and name.
        holder: String,
    },
    /// The file is no store.
    #[error("{path} is not a Landfall store: {what}; choose another path")]
    NotAStore {
        /// The file.
        path: PathBuf,
        /// A description of the file.
        what: String,
    },
    /// A later version of this software wrote it.
    #[error("the store has format {found}, this version reads up to {supported}; upgrade")]
    TooNew {
        /// The file's format.
        found: u32,
        /// The latest that this version reads.
        supported: u32,
    },
    /// An earlier version wrote it, and it was to be opened for reading only. Opening it once for
    /// editing upgrades it to this version's format.
    #[error("the store has format {found}, this version reads {needed}; open it once for editing")]
    TooOld {
        /// The file's format.
        found: u32,
        /// The format that this version reads.
        needed: u32,
    },
    /// The folder or file cannot be read or written, or the disk is full or broken.
    #[error("the store cannot be opened: {0}")]
    Storage(#[source] BoxError),
    /// A thread could not be started.
    #[error("a thread could not be started")]
    Thread(#[source] std::io::Error),
}

impl From<OpenLogError> for OpenError {
    fn from(error: OpenLogError) -> Self {
        use landfall_storage::OpenError as Storage;
        match error {
            OpenLogError::Open(Storage::InUse { holder, path, .. }) => {
                Self::StoreInUse { path, holder: holder.to_string() }
            }
            OpenLogError::Open(Storage::NotOurs { path, what, .. }) => {
                Self::NotAStore { path, what: what.to_string() }
            }
            OpenLogError::Open(Storage::TooNew { found, supported, .. }) => {
                Self::TooNew { found, supported }
            }
            OpenLogError::Open(Storage::TooOld { found, needed, .. }) => {
                Self::TooOld { found, needed }
            }
            OpenLogError::Open(other) => Self::Storage(Box::new(other)),
            other => Self::Storage(Box::new(other)),
        }
    }
}

/// The store failed: the disk is full, broken or gone, or the store is closed.
#[derive(Debug, Error)]
#[error("the store failed ({class}): {source}")]
pub struct StoreError {
    /// The kind of failure.
    pub class: StoreFailure,
    /// The error of SQLite or of the system.
    #[source]
    pub source: BoxError,
}

impl StoreError {
    /// A thread could not be started.
    pub(crate) fn of_thread(source: std::io::Error) -> Self {
        Self { class: StoreFailure::Other, source: Box::new(source) }
    }

    /// The thread that follows the writer panicked.
    pub(crate) fn panicked(what: &str) -> Self {
        let what = format!("the thread that follows the writer panicked: {what}");
        Self { class: StoreFailure::Panicked, source: what.into() }
    }

    /// The store is closed, or is being closed.
    pub(crate) fn closed() -> Self {
        Self { class: StoreFailure::Closed, source: "the store is closed".into() }
    }

    /// The caller is inside a closure that changes a document.
    pub(crate) fn reentrant() -> Self {
        Self { class: StoreFailure::Reentrant, source: "return from the closure first".into() }
    }

    pub(crate) fn space_removed() -> Self {
        let class = StoreFailure::SpaceRemoved;
        Self { class, source: "the space was removed from this store; open it again".into() }
    }

    pub(crate) fn read_only() -> Self {
        let class = StoreFailure::ReadOnly;
        Self { class, source: "the store was opened read-only".into() }
    }
}

impl From<ViewError> for StoreError {
    fn from(error: ViewError) -> Self {
        Self { class: error.0.class().into(), source: Box::new(error) }
    }
}

impl From<WriteFailure> for StoreError {
    fn from(error: WriteFailure) -> Self {
        Self { class: error.class().into(), source: Box::new(error) }
    }
}

/// Why a space could not be opened.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SpaceError {
    /// The name is invalid.
    #[error(transparent)]
    BadName(#[from] BadSpaceName),
    /// The store was opened read-only, and has no such space.
    #[error("the store has no space `{0}`, and it is open read-only")]
    Unknown(SpaceName),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a document could not be opened.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum OpenDocumentError {
    /// The store has no change of it.
    #[error(
        "the store has no document {document} in space `{space}`; create it, or wait until it arrives"
    )]
    Unknown {
        /// The document.
        document: DocumentId,
        /// The space.
        space: SpaceName,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why waiting for a document failed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum WaitError {
    /// It is permanently deleted, here or elsewhere.
    #[error("the document {document} is deleted; no more of its changes arrive")]
    Deleted {
        /// The document.
        document: DocumentId,
    },
    /// The time ran out.
    #[error("the document {document} did not arrive in space `{space}`: {}", state_of(sync.as_ref()))]
    TimedOut {
        /// The document.
        document: DocumentId,
        /// The space.
        space: SpaceName,
        /// The state of the space's sync at the end; `None` if it was removed.
        sync: Option<SyncStatus>,
    },
    /// The store failed, or was closed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

fn state_of(sync: Option<&SyncStatus>) -> &str {
    match sync {
        None => "the space was removed from this store",
        Some(SyncStatus::Offline) => "this store is offline; call `connect` or `go_online`",
        Some(SyncStatus::Connecting) => "no relay was reached",
        Some(SyncStatus::CatchingUp { .. } | SyncStatus::Comparing { .. }) => {
            "the space was still catching up; wait for longer"
        }
        Some(SyncStatus::Live) => {
            "everything that the relay has is here, unless `sync_only` leaves it out"
        }
        Some(SyncStatus::Refused { what, .. }) => what,
    }
}

/// Why a document could not be read.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The call comes from inside a closure that changes the same document, or from a group that has
    /// changed it: read it through the transaction there.
    #[error(
        "a document cannot be read from inside its own `change` closure; read it through the closure's argument"
    )]
    Reentrant,
    /// The document is permanently deleted, here or elsewhere.
    #[error("the document is deleted; edits that no other replica has may be in `lost_edits`")]
    Deleted,
    /// The document, or the value at the path, does not have the shape of the requested type.
    #[error("the document cannot be read as the requested type: {0}")]
    Typed(#[from] TypedError),
    /// The document had to be read from the store again, and that failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a change was not made. Whatever the reason, it left no trace.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ChangeError {
    /// The closure returned an error.
    #[error("the change was abandoned: {0}")]
    Closure(#[source] BoxError),
    /// The document could not be read or written as a value of the type.
    #[error("the document cannot be edited as the requested type: {0}")]
    Typed(#[source] TypedError),
    /// The change is larger than a relay accepts.
    #[error("the change has {actual} bytes, the limit is {limit}; split it into several")]
    ChangeTooLarge {
        /// The limit in bytes.
        limit: usize,
        /// Its size in bytes.
        actual: usize,
    },
    /// The change has more operations than a relay accepts
    /// ([`CHANGE_OPERATIONS`](crate::CHANGE_OPERATIONS)): one for each character that is inserted or
    /// deleted, each value that is set, each object that is created.
    #[error("the change has {actual} operations, the limit is {limit}; split it into several")]
    TooManyOperations {
        /// The limit.
        limit: u64,
        /// How many it has.
        actual: u64,
    },
    /// The document has, or would have with the change, more bytes than local changes may bring it to:
    /// 75 % of the limit for a document ([`Options::document_bytes`](crate::Options::document_bytes)).
    /// Deleting content does not help, as a deletion is a change too and the history keeps the deleted
    /// content. Changes of other replicas still arrive.
    #[error(
        "document {document} would have {bytes} bytes, the limit for local changes is {limit}; copy its present content to a new document and continue there"
    )]
    DocumentTooLarge {
        /// The document.
        document: DocumentId,
        /// Its bytes with the change: those of its snapshot and its tail.
        bytes: u64,
        /// The size in bytes to which local changes may bring it.
        limit: u64,
    },
    /// A relay would reject the form of the change.
    #[error("a relay would refuse the change: {0}")]
    NotAdmitted(#[source] FormError),
    /// The change does not fit the document's history in the store. The next change uses a fresh actor.
    #[error("the change does not fit the store: {0}; try again")]
    Conflict(#[source] BoxError),
    /// The call comes from inside the closure of another change or group, of any document or store.
    #[error(
        "a change cannot start inside the closure of another change or group; change several documents in one group"
    )]
    Reentrant,
    /// A group received a document of another store.
    #[error(
        "the document {document} belongs to another store than the group; use one group for each store"
    )]
    OtherStore {
        /// The document.
        document: DocumentId,
    },
    /// `change_at` received the hash of a change that the document does not have.
    #[error(
        "the document has no change {missing} to edit at; wait until it arrives, or use heads that the document returned"
    )]
    UnknownHeads {
        /// The first missing one.
        missing: ChangeHash,
    },
    /// automerge could not read all of the document's bytes.
    #[error("document {document} is quarantined and accepts no changes: {reason}")]
    Quarantined {
        /// The document.
        document: DocumentId,
        /// automerge's error.
        reason: String,
    },
    /// The document has reached a limit: changes, operations, or counters of operations.
    #[error("the document accepts no more changes: {0}; continue in another document")]
    DocumentFull(#[source] BoxError),
    /// The document is permanently deleted, here or elsewhere.
    #[error("the document is deleted; create a new one")]
    Deleted,
    /// The store failed. The document is back at the state in the store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<FormError> for ChangeError {
    fn from(error: FormError) -> Self {
        match error {
            FormError::TooLarge { limit, actual } => Self::ChangeTooLarge { limit, actual },
            FormError::Counter { .. } => Self::DocumentFull(Box::new(error)),
            FormError::Operations { limit, actual } => Self::TooManyOperations { limit, actual },
            other => Self::NotAdmitted(other),
        }
    }
}

impl From<landfall_storage::WriteError<AppendError>> for ChangeError {
    fn from(error: landfall_storage::WriteError<AppendError>) -> Self {
        let class = error.class().into();
        match error {
            landfall_storage::WriteError::Job(AppendError::History(HistoryError::Deleted)) => {
                Self::Deleted
            }
            landfall_storage::WriteError::Job(AppendError::History(
                error @ (HistoryError::OverBudget(_) | HistoryError::CounterHole { .. }),
            )) => Self::DocumentFull(Box::new(error)),
            landfall_storage::WriteError::Job(AppendError::History(error)) => {
                Self::Conflict(Box::new(error))
            }
            landfall_storage::WriteError::Job(AppendError::DocumentTooLarge {
                document,
                bytes,
                limit,
            }) => Self::DocumentTooLarge { document, bytes, limit },
            other => Self::Store(StoreError { class, source: Box::new(other) }),
        }
    }
}

/// Why `flush` ended before everything was acknowledged.
#[derive(Debug, Clone, Error)]
#[non_exhaustive]
pub enum FlushError {
    /// The link is offline on purpose, was never connected, or has ended with a panic, which
    /// `last_error` then describes.
    #[error("offline: saved here and not on the relay: {}{}{}", saved(pending), unreached(*reached), because(last_error))]
    Offline {
        /// The pending counts, for the relay that was connected last.
        pending: Pending,
        /// Why the connection was lost last.
        last_error: Option<String>,
        /// Whether a relay has answered since `connect`. If none has, `pending` describes an earlier
        /// connection, and perhaps another relay.
        reached: bool,
    },
    /// The time ran out.
    #[error("timed out: saved here and not on the relay: {}{}{}", saved(pending), unreached(*reached), because(last_error))]
    TimedOut {
        /// The pending counts, for the relay that was connected last.
        pending: Pending,
        /// Why there is no connection, or why the last one was lost.
        last_error: Option<String>,
        /// Whether a relay has answered since `connect`. If none has, `pending` describes an earlier
        /// connection, and perhaps another relay.
        reached: bool,
    },
    /// The relay rejects the remaining changes.
    #[error("the relay refuses {} of {}: {}", counted(pending.changes, "change"), counted(rejected.len() as u64, "document"), first(rejected))]
    Refused {
        /// The pending counts.
        pending: Pending,
        /// The documents, and the reasons.
        rejected: Vec<RejectedDocument>,
    },
    /// The relay rejects whole spaces that have pending changes.
    #[error("the relay refuses {}, with changes that are saved here only: {}", counted(spaces.len() as u64, "space"), first_space(spaces))]
    SpaceRefused {
        /// The pending counts, over all spaces.
        pending: Pending,
        /// The spaces, with reasons and remedies.
        spaces: Vec<RefusedSpace>,
    },
    /// The store is closed.
    #[error("the store is closed")]
    Closed,
}

/// A space that the relay rejects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedSpace {
    /// The space.
    pub space: SpaceName,
    /// The reason.
    pub code: Code,
    /// A description, with a remedy.
    pub what: String,
}

/// Why `check` did not compare every space with the relay.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum CheckError {
    /// The link is offline on purpose, was never connected, or has ended with a panic, which
    /// `last_error` then describes.
    #[error("offline: nothing was compared{}", because(last_error))]
    Offline {
        /// Why the connection was lost last.
        last_error: Option<String>,
    },
    /// Some spaces could not be compared. All others were.
    #[error("{} could not be compared with the relay: {}", counted(spaces.len() as u64, "space"), first_uncompared(spaces))]
    NotCompared {
        /// How many documents differed in the spaces that were compared.
        drifted: u64,
        /// The spaces that were not compared, and the reasons.
        spaces: Vec<(SpaceName, NotCompared)>,
    },
    /// The store is closed.
    #[error("the store is closed")]
    Closed,
}

/// Why a space could not be compared with the relay.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum NotCompared {
    /// The relay rejects the space.
    #[error("the relay refuses it ({code}): {what}")]
    Refused {
        /// The reason.
        code: Code,
        /// A description, with a remedy.
        what: String,
    },
    /// The relay's version cannot compare.
    #[error("this relay does not support checks; upgrade it")]
    Unsupported,
    /// Transfers of its changes never paused for long enough.
    #[error("changes were in transit all the time; check again when there are fewer")]
    Busy,
    /// The space was removed meanwhile.
    #[error("the space was removed")]
    Removed,
    /// The relay was not reached, or does not answer.
    #[error("no relay answered{}", because(last_error))]
    NoAnswer {
        /// Why there is no connection, or why the last one was lost.
        last_error: Option<String>,
    },
}

impl From<Unchecked> for NotCompared {
    fn from(why: Unchecked) -> Self {
        match why {
            Unchecked::Refused { code, what } => Self::Refused { code, what },
            Unchecked::Unsupported => Self::Unsupported,
            Unchecked::Removed => Self::Removed,
            // Reasons that a later version of the machine may add belong here.
            _ => Self::Busy,
        }
    }
}

/// Why a space was not removed from this store. It is unchanged.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RemoveSpaceError {
    /// The store has no such space.
    #[error("the store has no space `{0}`")]
    Unknown(SpaceName),
    /// The relay is not known to have all of it.
    #[error(
        "space `{space}` has changes that are on no relay: {}; flush first, or remove it by force and lose them",
        saved(pending)
    )]
    Unsent {
        /// The space.
        space: SpaceName,
        /// The changes that would be lost.
        pending: Pending,
    },
    /// The name is invalid.
    #[error(transparent)]
    BadName(#[from] BadSpaceName),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A number with its noun: `one` is the singular.
pub(crate) fn counted(number: u64, one: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {one}{plural}")
}

/// The pending counts, in words.
fn saved(pending: &Pending) -> String {
    format!("{} ({})", counted(pending.changes, "change"), counted(pending.bytes, "byte"))
}

fn unreached(reached: bool) -> &'static str {
    if reached { "" } else { "; no relay was reached since the last `connect`" }
}

fn first_space(spaces: &[RefusedSpace]) -> String {
    let first = spaces.first();
    first.map_or_else(String::new, |refused| format!("{}: {}", refused.space, refused.what))
}

fn first_uncompared(spaces: &[(SpaceName, NotCompared)]) -> String {
    let first = spaces.first();
    first.map_or_else(String::new, |(space, why)| format!("`{space}`: {why}"))
}

fn because(cause: &Option<String>) -> String {
    cause.as_ref().map_or_else(String::new, |cause| format!(" ({cause})"))
}

fn first(rejected: &[RejectedDocument]) -> String {
    let first = rejected.first();
    first.map_or_else(String::new, |rejected| format!("{}: {}", rejected.document, rejected.what))
}

/// Why rejected changes or orphaned edits could not be exported or made again. They are kept.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RejectedChangesError {
    /// The relay rejects nothing of the document.
    #[error("the relay refuses no change of the document")]
    NothingRejected,
    /// The relay rejects the document, but has not answered which changes it does not have; or they are
    /// in the snapshot. Send them again with [`Space::retry`](crate::Space::retry) and wait for the
    /// answer, or export them.
    #[error(
        "the relay has not reported which changes it lacks; retry the document and wait for its \
         answer, or export the document"
    )]
    Unanswered,
    /// The document was edited, or the relay accepted something, in between.
    #[error("the document changed meanwhile; try again")]
    Changed,
    /// automerge could not build the document, or decode a change.
    #[error("the document could not be rebuilt: {0}")]
    Rebuild(#[source] BoxError),
    /// The relay would reject the form of a change that was made again.
    #[error("a relay would refuse the new change: {0}")]
    Form(#[source] FormError),
    /// The document has reached the limit for local changes, so that the relay might reject the new
    /// ones: changes, operations, or counters of operations.
    #[error(
        "the document accepts no more changes: {0}; export the edits and continue in another document"
    )]
    DocumentFull(#[source] BoxError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<ViewError> for RejectedChangesError {
    fn from(error: ViewError) -> Self {
        Self::Store(error.into())
    }
}

impl From<ReauthorError> for RejectedChangesError {
    fn from(error: ReauthorError) -> Self {
        Self::Rebuild(Box::new(error))
    }
}

impl From<landfall_storage::WriteError<ReplaceError>> for RejectedChangesError {
    fn from(error: landfall_storage::WriteError<ReplaceError>) -> Self {
        let class = error.class().into();
        match error {
            landfall_storage::WriteError::Job(ReplaceError::Changed) => Self::Changed,
            landfall_storage::WriteError::Job(ReplaceError::History(
                error @ (HistoryError::OverBudget(_) | HistoryError::CounterHole { .. }),
            )) => Self::DocumentFull(Box::new(error)),
            landfall_storage::WriteError::Job(ReplaceError::History(error)) => {
                Self::Rebuild(Box::new(error))
            }
            other => Self::Store(StoreError { class, source: Box::new(other) }),
        }
    }
}

/// Why a space's filter was not changed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SubscribeError {
    /// More documents than a subscription may name.
    #[error(
        "the filter names {actual} documents, the limit is {limit}; sync the whole space instead"
    )]
    TooMany {
        /// How many.
        actual: usize,
        /// The limit.
        limit: usize,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why an ephemeral message was not sent. It is not kept, and is not sent later.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum BroadcastError {
    /// It is too long.
    #[error(
        "the message has {actual} bytes, the limit is {limit}; put large data into the document"
    )]
    TooLarge {
        /// The limit in bytes.
        limit: usize,
        /// Its length in bytes.
        actual: usize,
    },
    /// The document's space is not synced with a relay at present.
    #[error("not connected; the message was not sent{}", because(last_error))]
    Offline {
        /// Why there is no connection, or why the last one was lost.
        last_error: Option<String>,
    },
    /// The relay's version forwards no messages.
    #[error("this relay does not forward ephemeral messages; upgrade it")]
    Unsupported,
    /// The application's filter of the space excludes the document.
    #[error("the space's filter excludes the document; see `Space::sync_only`")]
    OutOfScope,
    /// Messages are sent faster than the relay accepts them.
    #[error("too many messages wait for the relay; send fewer")]
    Congested,
    /// The store is closed.
    #[error("the store is closed")]
    Closed,
}

/// Why a link could not be made.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The URL is no valid relay URL.
    #[error("`{url}` is not the URL of a relay: {what}; a relay's URL looks like ws://host:port")]
    BadUrl {
        /// The URL as given.
        url: String,
        /// The problem.
        what: String,
    },
    /// The store was opened read-only.
    #[error("the store is open read-only and cannot sync")]
    ReadOnly,
    /// The store is closed.
    #[error("the store is closed")]
    Closed,
    /// A thread could not be started.
    #[error("the link's thread could not be started")]
    Thread(#[source] std::io::Error),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flush_errors_spell_out_the_pending_counts() {
        let flush = |changes, bytes| {
            let pending = Pending { changes, bytes };
            FlushError::Offline { pending, last_error: None, reached: true }.to_string()
        };
        assert_eq!(flush(1, 1), "offline: saved here and not on the relay: 1 change (1 byte)");
        assert_eq!(flush(2, 90), "offline: saved here and not on the relay: 2 changes (90 bytes)");
    }
}
