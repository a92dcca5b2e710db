//! A local change: closure, automerge commit, admission, SQLite commit, publication. Until the
//! last step nothing of it is seen, and if any step fails the document is what the store holds.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{SystemTime, UNIX_EPOCH};

use automerge::transaction::{CommitOptions, Transaction};
use automerge::{Change, Patch, PatchLog};
use landfall_protocol::ChangeHash;
use landfall_protocol::admission::preflight;
use parking_lot::{ArcMutexGuard, ArcRwLockWriteGuard, RawMutex, RawRwLock};

use super::{Content, Loaded, OpenDocument, branch, thread_number};
use crate::actors::TakeError;
use crate::error::{BoxError, ChangeError, StoreError};
use crate::events::{EventKind, Origin};
use crate::random;
use crate::store::LocalChange;

/// A document that is being changed: it holds the document's locks. Dropped without `commit`, it
/// takes the document back to what the store holds.
pub(crate) struct Edit {
    pub(crate) document: Arc<OpenDocument>,
    content: ArcRwLockWriteGuard<RawRwLock, Content>,
    made: Vec<Made>,
    /// Something was made and then had to be forgotten.
    spoiled: bool,
    // Last, so that it is released last.
    _writer: ArcMutexGuard<RawMutex, ()>,
}

/// One automerge change, not yet in the store.
struct Made {
    local: LocalChange,
    change: Change,
    patches: Option<Arc<[Patch]>>,
}

impl Edit {
    pub(crate) fn begin(document: &Arc<OpenDocument>) -> Result<Self, ChangeError> {
        if document.is_owner() {
            return Err(ChangeError::Reentrant);
        }
        let writer = document.writer.lock_arc();
        let mut content = document.content.write_arc();
        document.ensure_loaded(&mut content)?;
        if let Content::Loaded(loaded) = &*content
            && let Some(reason) = &loaded.quarantined
        {
            let (document, reason) = (document.id, reason.clone());
            return Err(ChangeError::Quarantined { document, reason });
        }
        document.owner.store(thread_number(), Ordering::Relaxed);
        let document = Arc::clone(document);
        Ok(Self { document, content, made: Vec::new(), spoiled: false, _writer: writer })
    }

    /// Runs a closure as one automerge change. If it fails, the document is as it was before.
    pub(crate) fn run<T>(
        &mut self,
        closure: impl FnOnce(&mut Transaction<'_>) -> Result<T, BoxError>,
    ) -> Result<T, ChangeError> {
        self.run_view(None, closure)
    }

    /// As [`Edit::run`], on the document as it was at these heads.
    pub(crate) fn run_at<T>(
        &mut self,
        heads: &[ChangeHash],
        closure: impl FnOnce(&mut Transaction<'_>) -> Result<T, BoxError>,
    ) -> Result<T, ChangeError> {
        let Content::Loaded(loaded) = &*self.content else {
            return Err(ChangeError::Reentrant);
        };
        match branch::view(&loaded.automerge, heads)? {
            branch::View::Present => self.run_view(None, closure),
            branch::View::Past(heads) => self.run_view(Some(&heads), closure),
        }
    }

    fn run_view<T>(
        &mut self,
        heads: Option<&[ChangeHash]>,
        closure: impl FnOnce(&mut Transaction<'_>) -> Result<T, BoxError>,
    ) -> Result<T, ChangeError> {
        self.take_actor()?;
        let patches = self.document.core.events.has_listeners();
        let Content::Loaded(loaded) = &mut *self.content else {
            return Err(ChangeError::Reentrant);
        };
        let attempt = catch_unwind(AssertUnwindSafe(|| match heads {
            None => transact(loaded, patches, closure),
            Some(heads) => branch::transact_at(loaded, heads, patches, closure),
        }));
        let outcome = match attempt {
            Ok(outcome) => outcome,
            Err(panic) => {
                // automerge may be in the middle of something: only the store is sure.
                self.forget();
                resume_unwind(panic);
            }
        };
        let (value, change, patches) = outcome?;
        if let Some(change) = change {
            self.add(change, patches)?;
        }
        Ok(value)
    }

    /// Gives the document the actor of this opening: one that may be used again, or a fresh one.
    fn take_actor(&mut self) -> Result<(), ChangeError> {
        let document = &self.document;
        let Content::Loaded(loaded) = &mut *self.content else {
            return Err(ChangeError::Reentrant);
        };
        if loaded.own.is_some() {
            return Ok(());
        }
        let own = document.core.actors.take(&document.core.log, document.key())?;
        loaded.automerge.set_actor(own.actor.clone());
        loaded.own = Some(own);
        Ok(())
    }

    /// Adds a change that makes nothing, so that a document without content exists and syncs.
    pub(crate) fn run_empty(&mut self) -> Result<(), ChangeError> {
        self.take_actor()?;
        let Content::Loaded(loaded) = &mut *self.content else {
            return Err(ChangeError::Reentrant);
        };
        loaded.automerge.empty_commit(options());
        match loaded.automerge.get_last_local_change() {
            Some(change) => self.add(change, None),
            None => Ok(()),
        }
    }

    /// Adds a change that was built elsewhere: a named document's first one.
    pub(crate) fn run_given(&mut self, change: Change) -> Result<(), ChangeError> {
        let Content::Loaded(loaded) = &mut *self.content else {
            return Err(ChangeError::Reentrant);
        };
        let automerge = std::mem::replace(&mut loaded.automerge, super::load::empty());
        match super::load::apply_parsed(automerge, vec![change.clone()], &mut PatchLog::inactive())
        {
            Ok(built) => {
                loaded.automerge = built;
                self.add(change, None)
            }
            Err(reason) => {
                self.forget();
                Err(ChangeError::Closure(reason.into()))
            }
        }
    }

    /// Whether anything was changed.
    pub(crate) fn is_empty(&self) -> bool {
        self.made.is_empty()
    }

    /// Whether something that the caller was told had worked is lost.
    pub(crate) fn is_spoiled(&self) -> bool {
        self.spoiled
    }

    fn add(
        &mut self,
        mut change: Change,
        patches: Option<Arc<[Patch]>>,
    ) -> Result<(), ChangeError> {
        let checked = preflight(&change.bytes()).inspect_err(|_| self.forget())?;
        let local = LocalChange {
            space: self.document.row,
            document: self.document.id,
            change: checked,
            at_ms: now_ms(),
        };
        self.made.push(Made { local, change, patches });
        Ok(())
    }

    /// Takes the document back to what the store holds: it is read again at the next access.
    /// What was made in this edit is forgotten.
    fn forget(&mut self) {
        self.document.let_go(&mut self.content);
        self.made.clear();
        self.spoiled = true;
    }

    fn publish(&mut self, place: u64) {
        let document = &self.document;
        let Content::Loaded(loaded) = &mut *self.content else { return };
        // Unless changes that came before it are still to be applied.
        if loaded.since_clone.is_none() && !document.dirty.load(Ordering::Acquire) {
            loaded.applied = loaded.applied.max(place);
        }
        let made = std::mem::take(&mut self.made);
        if let Some(own) = &loaded.own {
            document.core.actors.keep(&document.core.log, document.key(), own);
        }
        for Made { local, change, patches } in made {
            loaded.stored_bytes += local.change.bytes.len() as u64;
            if let Some(since) = &mut loaded.since_clone {
                since.push(change);
            }
            let (origin, heads) = (Origin::Local, loaded.automerge.get_heads());
            let kind = EventKind::Changed { origin, heads, patches };
            document.core.events.send(&document.space, document.id, kind);
        }
        document.weigh(&self.content);
    }
}

impl Drop for Edit {
    fn drop(&mut self) {
        if !self.made.is_empty() {
            self.forget();
        }
        self.document.owner.store(0, Ordering::Relaxed);
    }
}

pub(super) type Transacted<T> = (T, Option<Change>, Option<Arc<[Patch]>>);

fn transact<T>(
    loaded: &mut Loaded,
    patches: bool,
    closure: impl FnOnce(&mut Transaction<'_>) -> Result<T, BoxError>,
) -> Result<Transacted<T>, ChangeError> {
    let log = if patches { PatchLog::active() } else { PatchLog::inactive() };
    let mut transaction = loaded
        .automerge
        .transaction_log_patches(log)
        .map_err(|error| ChangeError::Closure(Box::new(error)))?;
    let value = match closure(&mut transaction) {
        Ok(value) => value,
        Err(error) => {
            transaction.rollback();
            return Err(ChangeError::Closure(error));
        }
    };
    let (hash, mut log) = transaction.commit_with(options());
    if hash.is_none() {
        return Ok((value, None, None));
    }
    let change = loaded.automerge.get_last_local_change();
    let patches = patches.then(|| loaded.automerge.make_patches(&mut log).into());
    Ok((value, change, patches))
}

/// Writes what the edits made in one commit, then publishes it. If the commit fails, or may have,
/// every document goes back to what the store holds, and its next change takes a fresh actor.
pub(crate) fn commit(mut edits: Vec<Edit>) -> Result<(), ChangeError> {
    let Some(core) = edits.first().map(|edit| Arc::clone(&edit.document.core)) else {
        return Ok(());
    };
    let changes: Vec<LocalChange> =
        edits.iter().flat_map(|edit| edit.made.iter().map(|made| made.local.clone())).collect();
    if changes.is_empty() {
        return Ok(());
    }
    match core.append(changes) {
        Ok(appended) => {
            let mut places = appended.places.iter();
            for edit in &mut edits {
                let last = places.by_ref().take(edit.made.len()).last();
                edit.publish(last.map_or(0, |place| place.1));
            }
            drop(edits);
            core.tell_link(&appended);
            Ok(())
        }
        Err(error) => {
            core.actors.failed(&error, edits.iter().map(|edit| edit.document.key()));
            for edit in &mut edits {
                let document = &edit.document;
                core.events.send(&document.space, document.id, EventKind::RolledBack);
                edit.forget();
            }
            Err(error)
        }
    }
}

impl From<TakeError> for ChangeError {
    fn from(error: TakeError) -> Self {
        match error {
            TakeError::Store(error) => Self::Store(error),
            TakeError::Randomness(error) => error.into(),
        }
    }
}

impl From<random::NoRandomness> for ChangeError {
    fn from(error: random::NoRandomness) -> Self {
        let class = crate::error::StoreFailure::Other;
        Self::Store(StoreError { class, source: Box::new(error) })
    }
}

pub(super) fn options() -> CommitOptions {
    let seconds = i64::try_from(now_ms() / 1000).unwrap_or(0);
    CommitOptions::default().with_time(seconds)
}

/// Milliseconds since 1970.
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
