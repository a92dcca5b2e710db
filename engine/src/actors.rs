//! Decides which actors may be used again.
//!
//! automerge keeps data for every actor that ever changed a document, so a program that opens its
//! store, changes a document and closes the store should not need a new one each time. But two writers
//! must never share an actor: a copied file, a restored backup and a crash each produce two histories
//! that could both continue it. So an actor of an earlier opening is used again only if that opening
//! closed the store cleanly and the very same file is opened now. The close writes a random number into
//! the store and the same number outside it, where it is not copied with the store (`outside`); both
//! are removed before the first change. In any doubt actors are fresh.
//!
//! Within one opening an actor is used again whenever its document is loaded again, until a commit with
//! a change of the document has an unknown outcome: then the actors of that document end, and its next
//! change uses a fresh one. A change that the store rejected, or never tried to commit, leaves no
//! doubt. A failed commit leaves no doubt about documents that it did not change.

pub(crate) mod outside;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use automerge::ActorId;
use landfall_protocol::DocumentId;
use parking_lot::Mutex;

use crate::error::{ChangeError, StoreError};
use crate::failure::StoreFailure;
use crate::random::{self, NoRandomness};
use crate::store::{LocalLog, OwnActor, SpaceRow, WriteFailure};

/// How many actors memory holds; further ones are in the store only.
const REMEMBERED: usize = 4096;

type Key = (SpaceRow, DocumentId);

/// The actors that an opening uses for one document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Own {
    /// For changes of the present state.
    pub(crate) actor: ActorId,
    /// Further ones, for changes of earlier states. They end with the opening.
    pub(crate) branches: Vec<ActorId>,
    /// How often the document's actors had ended when these were chosen.
    age: u64,
}

/// The actors of one opened store.
pub(crate) struct Actors {
    known: Mutex<KnownActors>,
    /// The store is read-only or closed: remembered actors may not be used.
    ended: AtomicBool,
    /// The outcome of a commit is unknown: this opening may not leave the clean-shutdown marker.
    unsure: AtomicBool,
}

#[derive(Default)]
struct KnownActors {
    own: BTreeMap<Key, Own>,
    /// How often a document's actors have ended.
    ended: BTreeMap<Key, u64>,
}

impl KnownActors {
    fn age(&self, key: &Key) -> u64 {
        self.ended.get(key).copied().unwrap_or_default()
    }

    fn take(&mut self) -> Vec<OwnActor> {
        let own = std::mem::take(&mut self.own);
        own.into_iter().map(|((space, document), own)| (space, document, own.actor)).collect()
    }
}

impl Actors {
    /// At the opening of a store: `found` is the marker that an earlier close left outside it.
    pub(crate) fn begin(
        log: &LocalLog,
        read_only: bool,
        found: Option<outside::FoundMarker>,
    ) -> Result<Self, WriteFailure> {
        if !read_only {
            log.take_clean_close(found.and_then(outside::FoundMarker::take))?;
        }
        let (known, unsure) = (Mutex::default(), AtomicBool::new(false));
        Ok(Self { known, ended: AtomicBool::new(read_only), unsure })
    }

    /// Chooses the actors for a document: the remembered ones if they may be used, or a fresh one.
    pub(crate) fn take(&self, log: &LocalLog, key: Key) -> Result<Own, TakeError> {
        let sure = !self.ended.load(Ordering::Acquire);
        let age = {
            let known = self.known.lock();
            if let Some(own) = known.own.get(&key).filter(|_| sure) {
                return Ok(own.clone());
            }
            known.age(&key)
        };
        let earlier = match sure && age == 0 {
            true => log.own_actor(key.0, &key.1).map_err(StoreError::from)?,
            false => None,
        };
        let actor = match earlier {
            Some(actor) => actor,
            None => ActorId::from(random::bytes::<16>()?),
        };
        Ok(Own { actor, branches: Vec::new(), age })
    }

    /// Remembers actors that have changed the document, after the changes are in the store.
    pub(crate) fn keep(&self, log: &LocalLog, key: Key, own: &Own) {
        let too_many = {
            let mut known = self.known.lock();
            if known.own.get(&key) == Some(own) || known.age(&key) != own.age {
                return;
            }
            known.own.insert(key, own.clone());
            if known.own.len() > REMEMBERED { known.take() } else { Vec::new() }
        };
        // Not under the lock, which the writer thread takes too: this waits for room in its queue.
        if !too_many.is_empty() {
            log.submit_own_actors(too_many);
        }
    }

    /// Ends a document's actors: changes of theirs were removed from the document. Never waits. The
    /// document must be loaded again afterwards, or its loaded state would continue them.
    pub(crate) fn end(&self, key: Key) {
        let mut known = self.known.lock();
        known.own.remove(&key);
        *known.ended.entry(key).or_default() += 1;
    }

    /// A failed commit may be in the store all the same: the actors of its documents end. All others
    /// continue.
    pub(crate) fn doubt(&self, documents: impl IntoIterator<Item = Key>) {
        self.unsure.store(true, Ordering::Release);
        documents.into_iter().for_each(|document| self.end(document));
    }

    /// Moves the remembered actors to the store, as if there were too many.
    #[cfg(test)]
    pub(crate) fn forget_what_is_in_memory(&self, log: &LocalLog) {
        let known = self.known.lock().take();
        log.submit_own_actors(known);
    }

    /// A commit of these documents failed. If it was rejected before it was written, it is not in the
    /// store, and all documents keep their actors; a document whose change conflicts has other changes
    /// in the store. After any other failure the commit may be in the store: then the actors of exactly
    /// these documents end.
    pub(crate) fn failed(&self, error: &ChangeError, documents: impl Iterator<Item = Key>) {
        match error {
            ChangeError::Deleted
            | ChangeError::DocumentTooLarge { .. }
            | ChangeError::DocumentFull(_)
            | ChangeError::Store(StoreError {
                class: StoreFailure::Closed | StoreFailure::ReadOnly,
                ..
            }) => {}
            ChangeError::Conflict(_) => documents.for_each(|document| self.end(document)),
            _ => self.doubt(documents),
        }
    }

    /// Before the store is closed: returns the marker to leave outside it afterwards, if any.
    pub(crate) fn close(&self, log: &LocalLog) -> Option<outside::Leaving> {
        if self.ended.swap(true, Ordering::AcqRel) || self.unsure.load(Ordering::Acquire) {
            return None;
        }
        let path = log.database().path()?.to_owned();
        let nonce = random::bytes().ok()?;
        let (actors, ended) = {
            let mut known = self.known.lock();
            (known.take(), known.ended.keys().copied().collect())
        };
        match log.close_cleanly(actors, ended, nonce) {
            Ok(true) => Some(outside::Leaving::new(path, nonce)),
            Ok(false) => None,
            Err(error) => {
                tracing::debug!(%error, "cannot mark the clean close; fresh actors are used next");
                None
            }
        }
    }
}

/// Why no actor could be taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TakeError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Randomness(#[from] NoRandomness),
}
