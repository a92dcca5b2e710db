//! The handles that an application holds: a store, its spaces, its documents. All are cheap to clone
//! and may be used from any thread. Dropping the last handle closes the store. Nothing here knows
//! SQLite or the socket.

mod document;
mod group;
mod owner;
mod refused;
mod space;
mod typed;
mod waiting;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use landfall_protocol::SpaceName;

use crate::document::Changing;
use crate::error::{
    ChangeError, CheckError, ConnectError, FlushError, OpenError, RemoveSpaceError, SpaceError,
    StoreError,
};
use crate::events::{Events, Scope};
use crate::open_store::OpenStore;
use crate::options::{LinkOptions, Options};
use crate::status::{Status, StatusWatch};
use crate::store::OpenMode;

pub(crate) use owner::StoreOwner;

pub use document::{Document, DocumentWatch};
pub use group::Group;
pub use refused::OrphanedEdits;
pub use space::Space;

/// An open store: one SQLite file with documents, and the link that syncs them.
///
/// Everything but `flush`, `check`, events and watched status is synchronous and needs no async
/// runtime. Those can be awaited on any executor, and have blocking variants.
///
/// ```
/// use landfall::{Options, Store, automerge::{ReadDoc, ROOT, transaction::Transactable}};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let store = Store::in_memory(Options::default())?;
/// let notes = store.space("notes")?;
/// let (note, ()) = notes.create(|tx| Ok(tx.put(ROOT, "title", "Landfall")?))?;
/// let title = note.read(|doc| doc.get(ROOT, "title").map(|found| found.map(|(v, _)| v.to_string())))??;
/// assert_eq!(title.as_deref(), Some("\"Landfall\""));
/// store.close()?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Store {
    shared: Arc<StoreOwner>,
}

impl Store {
    /// Opens a store, and creates it if the file does not exist. Its folder must exist.
    ///
    /// # Errors
    /// [`OpenError::StoreInUse`] while another process has it open; [`OpenError::NotAStore`] and
    /// [`OpenError::TooNew`] for files that this version cannot use.
    pub fn open(path: impl AsRef<Path>, options: Options) -> Result<Self, OpenError> {
        Self::start(OpenMode::File(path.as_ref()), &options)
    }

    /// Opens a store for reading only, beside the process that has it open for editing. Each call sees
    /// everything that this process committed before the call, and reloads documents that changed.
    /// Events and the watched status arrive at most
    /// [`Options::follow_every`](crate::Options::follow_every) later. The events are
    /// [`EventKind::Changed`](crate::EventKind::Changed), without patches and with a remote origin, and
    /// [`EventKind::Deleted`](crate::EventKind::Deleted); only the writing process emits the others.
    /// Only the writing process knows which commits are on the disk: see
    /// [`SpaceStatus::not_on_disk`](crate::SpaceStatus::not_on_disk).
    ///
    /// # Errors
    /// As [`Store::open`], but never `StoreInUse`.
    pub fn open_read_only(path: impl AsRef<Path>, options: Options) -> Result<Self, OpenError> {
        Self::start(OpenMode::ReadOnly(path.as_ref()), &options)
    }

    /// Opens a store in memory. Its contents are lost when it is closed.
    ///
    /// # Errors
    /// [`OpenError::Storage`] if SQLite fails.
    pub fn in_memory(options: Options) -> Result<Self, OpenError> {
        Self::start(OpenMode::Memory, &options)
    }

    fn start(place: OpenMode<'_>, options: &Options) -> Result<Self, OpenError> {
        Ok(Self { shared: Arc::new(StoreOwner::open(place, options)?) })
    }

    /// Returns a space: a named set of documents, the unit of sync. Creates it if the store has none of
    /// that name. Names have 1 to 64 bytes of `a–z A–Z 0–9 . _ -`.
    ///
    /// # Errors
    /// [`SpaceError::BadName`] states what is wrong with the name.
    pub fn space(&self, name: &str) -> Result<Space, SpaceError> {
        let name: SpaceName = name.parse()?;
        let row = self.shared.space(&name)?;
        Ok(Space::new(Arc::clone(&self.shared), name, row))
    }

    /// The spaces of this store.
    pub fn spaces(&self) -> Vec<Space> {
        self.catch_up();
        let space = |(name, row)| Space::new(Arc::clone(&self.shared), name, row);
        self.open_store().spaces().into_iter().map(space).collect()
    }

    /// Makes several changes, of one or several documents, in one commit: all of them or none. Other
    /// groups of the store wait for this one. A single change waits for it only if the group has
    /// changed the same document.
    ///
    /// # Errors
    /// The closure's own error as [`ChangeError::Closure`]; otherwise as [`Document::change`].
    pub fn group<T>(
        &self,
        changes: impl FnOnce(&mut Group) -> Result<T, ChangeError>,
    ) -> Result<T, ChangeError> {
        group::run(self.open_store(), changes)
    }

    /// Connects to a relay and stays connected: the link reconnects whenever the connection is lost.
    /// Returns at once; [`status`](Store::status) shows the progress. A session with another relay is
    /// ended, and frames from that session are never attributed to the new relay.
    ///
    /// # Errors
    /// [`ConnectError::BadUrl`] for an invalid relay URL. An unreachable relay is no error: the status
    /// shows it, and the link tries again.
    pub fn connect(&self, options: impl Into<LinkOptions>) -> Result<(), ConnectError> {
        let store = self.open_store();
        if store.context.access.read_only {
            return Err(ConnectError::ReadOnly);
        }
        self.shared.link.connect(store, options.into())
    }

    /// Closes the connection until [`Store::go_online`] is called. Editing continues.
    pub fn go_offline(&self) {
        self.shared.link.set_online(false);
    }

    /// Connects again after [`Store::go_offline`].
    pub fn go_online(&self) {
        self.shared.link.set_online(true);
    }

    /// For an app that wakes up, or that detects a network change: checks the connection at once. A
    /// reconnection wait is cut short, and a connection attempt in progress is abandoned for a new one.
    /// An open connection is pinged; if nothing is received within 2 s, it is dropped and made again.
    pub fn reconnect_now(&self) {
        self.shared.link.reconnect_now();
    }

    /// Waits, through reconnects, until every change made so far is on the disk of the relay that was
    /// last [connected](Store::connect) to. Acknowledgements of another relay do not count; earlier
    /// ones of this relay count once it has answered and confirmed its log. Needs no particular
    /// executor. Dropping the future cancels the wait at no further cost.
    ///
    /// # Errors
    /// [`FlushError::Offline`] at once if the link is offline on purpose or was never connected;
    /// [`FlushError::TimedOut`]; [`FlushError::Refused`] and [`FlushError::SpaceRefused`] at once if
    /// the relay refuses the remaining changes. Each carries the pending counts; all changes stay saved
    /// here. [`FlushError::Closed`] once the store is closed, with or without a link.
    pub async fn flush(&self, timeout: Duration) -> Result<(), FlushError> {
        let flush = self.shared.link.flush(self.open_store(), timeout);
        flush.done().await
    }

    /// Like [`Store::flush`], on this thread.
    ///
    /// # Errors
    /// As [`Store::flush`].
    pub fn flush_blocking(&self, timeout: Duration) -> Result<(), FlushError> {
        pollster::block_on(self.flush(timeout))
    }

    /// Compares the relay's documents with this store's, and repairs differences that no pending
    /// transfer explains. In each space the comparison starts when no transfer is in progress. The call
    /// ends when every space has been compared or cannot be, and at the latest when no space has made
    /// progress for 30 s. Returns the number of documents that differed. The link also runs checks by
    /// itself ([`LinkOptions::check_every`]). Needs no particular executor.
    ///
    /// # Errors
    /// [`CheckError::NotCompared`] names the spaces that could not be compared, and why; all others
    /// were. [`CheckError::Offline`] without a link that is meant to be online; [`CheckError::Closed`].
    pub async fn check(&self) -> Result<u64, CheckError> {
        let check = self.shared.link.check(self.open_store());
        check.done().await
    }

    /// Like [`Store::check`], on this thread.
    ///
    /// # Errors
    /// As [`Store::check`].
    pub fn check_blocking(&self) -> Result<u64, CheckError> {
        pollster::block_on(self.check())
    }

    /// Removes a space with all its documents from this store only. The relay and other replicas keep
    /// theirs, and a space that is created again under this name receives them again. Handles of the
    /// removed space and of its documents return [`StoreFailure::SpaceRemoved`](crate::StoreFailure)
    /// afterwards.
    ///
    /// With `force`, changes that are on no relay are lost. The call takes time in proportion to the
    /// size of the space; other writes wait meanwhile.
    ///
    /// # Errors
    /// [`RemoveSpaceError::Unsent`] if not all of it is known to be on the relay that was connected
    /// last, unless `force` is set; [`RemoveSpaceError::Unknown`].
    pub fn remove_space(&self, name: &str, force: bool) -> Result<(), RemoveSpaceError> {
        if self.open_store().context.access.read_only {
            return Err(StoreError::read_only().into());
        }
        self.open_store().remove_space(&name.parse()?, force)
    }

    /// The present status: which changes are saved where, and which are pending.
    pub fn status(&self) -> Status {
        self.catch_up();
        self.open_store().context.status.watch().now()
    }

    /// Watches the status.
    pub fn watch(&self) -> StatusWatch {
        self.open_store().context.status.watch()
    }

    /// Listens to events of all documents from now on. [`Space::events`] and [`Document::events`]
    /// give those of one space or document.
    pub fn events(&self) -> Events {
        self.open_store().context.events.listen(Scope::Store)
    }

    /// This store's own id, drawn at random when the store was created.
    pub fn replica(&self) -> landfall_protocol::ReplicaId {
        self.open_store().context.log.replica()
    }

    /// Waits for running operations, says goodbye to the relay, makes everything durable and releases
    /// the file. Later calls on any handle return a typed error. Dropping the last handle does the
    /// same. `close` never waits for a closure of the application: a change whose closure still runs
    /// fails.
    ///
    /// # Errors
    /// [`StoreError`] if the last writes could not be made durable;
    /// [`StoreFailure::Reentrant`](crate::StoreFailure::Reentrant) inside a `change` or group
    /// closure, whose change would be lost.
    pub fn close(&self) -> Result<(), StoreError> {
        if Changing::is_here() {
            return Err(StoreError::reentrant());
        }
        self.shared.close()
    }

    #[cfg(test)]
    pub(crate) fn publisher(&self) -> crate::link::Publisher {
        self.shared.link.publisher(self.open_store())
    }

    #[cfg(test)]
    pub(crate) fn link(&self) -> &crate::link::Link {
        &self.shared.link
    }

    /// For calls that return no error: a failed read was logged, and the next call tries again.
    fn catch_up(&self) {
        let _ = self.shared.catch_up();
    }

    pub(crate) fn open_store(&self) -> &Arc<OpenStore> {
        &self.shared.store
    }
}
