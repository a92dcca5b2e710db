//! What became of edits that the relay does not take, of documents that were deleted, and of
//! documents that share an id and nothing else: told, kept, and put into the application's hands.

use std::collections::BTreeSet;
use std::sync::Arc;

use automerge::Change;
use landfall_protocol::admission::preflight;
use landfall_protocol::{ChangeHash, DocumentId};
use landfall_storage::Committed;

use super::Space;
use crate::document::now_ms;
use crate::error::{KeptError, StoreError};
use crate::events::EventKind;
use crate::reauthor;
use crate::store::{Done, LocalChange, SpaceCount, Unsent, WriteFailure};

/// A deleted document that still has edits which no other replica has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LostEdits {
    /// The document.
    pub document: DocumentId,
    /// How many changes were made here and never reached the relay.
    pub unsent: u64,
}

impl Space {
    /// Deletes a document, here at once and everywhere when the replicas meet: for good. What it
    /// had is freed; edits that somebody makes to it elsewhere without knowing are not taken, and
    /// he is told. Deleting it once more is no error.
    ///
    /// # Errors
    /// If the store cannot be written.
    pub fn delete(&self, document: DocumentId) -> Result<(), StoreError> {
        let (core, row) = (self.core(), self.row()?);
        if core.read_only {
            return Err(StoreError::read_only());
        }
        let (for_commit, name) = (Arc::clone(core), self.name().clone());
        let committed = move |committed: Committed<(SpaceCount, bool)>| {
            let kind = committed.value.1.then_some(EventKind::Deleted { unsent: 0 });
            for_commit.delete_document(&name, row, document, kind);
        };
        self.ask(|done| core.log.submit_delete(row, document, now_ms(), done), committed)?;
        core.tell_link_of(row);
        Ok(())
    }

    /// Whether a document is deleted.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn is_deleted(&self, document: &DocumentId) -> Result<bool, StoreError> {
        Ok(self.core().log.deleted(self.row()?, document)?)
    }

    /// The documents that are deleted, in the order in which this store heard of it.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn deleted_documents(&self) -> Result<Vec<DocumentId>, StoreError> {
        Ok(self.core().log.deleted_documents(self.row()?)?)
    }

    /// Deleted documents that still have edits which no other replica has: export or discard them.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn lost_edits(&self) -> Result<Vec<LostEdits>, StoreError> {
        let lost = self.core().log.lost(self.row()?)?;
        let told =
            |lost: crate::store::Lost| LostEdits { document: lost.document, unsent: lost.unsent };
        Ok(lost.into_iter().map(told).collect())
    }

    /// The documents of which the relay could not send something, because its own store is damaged
    /// there, each once; `None` stands for those that it could not even name. Empty once the relay has
    /// been repaired and met again, or another replica has brought what is missing.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn damaged_at_relay(&self) -> Result<Vec<Option<DocumentId>>, StoreError> {
        Ok(self.core().log.damaged_at_relay(self.row()?)?)
    }

    /// A deleted document as it was here, with the edits that never reached the relay: an
    /// automerge document's bytes, to be made a new document of, or read. `None` if there is
    /// nothing of it.
    ///
    /// # Errors
    /// [`KeptError::Rebuild`] if automerge cannot build it.
    pub fn export_lost(&self, document: &DocumentId) -> Result<Option<Vec<u8>>, KeptError> {
        let Some(lost) = self.core().log.lost_bytes(self.row()?, document)? else {
            return Ok(None);
        };
        let history = unfold(lost.snapshot.as_deref(), lost.changes)?;
        Ok(Some(reauthor::export(&history, &parse(lost.displaced)?)?))
    }

    /// Lets go of what is left of a deleted document.
    ///
    /// # Errors
    /// If the store cannot be written.
    pub fn discard_lost(&self, document: DocumentId) -> Result<(), StoreError> {
        let (core, row) = (self.core(), self.row()?);
        self.ask(|done| core.log.submit_discard(row, document, done), drop)
    }

    /// Offers a document's changes to the relay again that it refused: after a quota was raised, a
    /// right was given, a newer relay was installed.
    ///
    /// # Errors
    /// If the store cannot be written.
    pub fn retry(&self, document: DocumentId) -> Result<(), StoreError> {
        let (core, row) = (self.core(), self.row()?);
        self.ask(|done| core.log.submit_retry(row, document, done), drop)?;
        core.link.unparked(row, document);
        Ok(())
    }

    /// A document with the changes that the relay refuses: an automerge document's bytes. Where a
    /// refused change and one that was taken have the same place, this has the refused one.
    ///
    /// # Errors
    /// [`KeptError::NothingRefused`] if the relay refuses nothing of it.
    pub fn export_refused(&self, document: &DocumentId) -> Result<Vec<u8>, KeptError> {
        let (history, unsent) = self.refused(document)?;
        Ok(reauthor::export(&history, &parse(unsent.into_iter().map(|unsent| unsent.body))?)?)
    }

    /// Makes the changes of a document that the relay refuses anew: the same edits, by a fresh
    /// actor, on top of what the relay has. For changes whose actor and sequence number somebody
    /// else's changes have (a copied store), and for whatever a relay takes only from another
    /// actor. Gives how many were made anew. Those that the relay was sent and has not answered
    /// stay as they are: it may have them.
    ///
    /// # Errors
    /// [`KeptError::NothingRefused`]; [`KeptError::Unanswered`]; [`KeptError::Rebuild`] if a change cannot be taken apart;
    /// [`KeptError::Changed`] if the document was edited meanwhile: try again;
    /// [`KeptError::DocumentFull`].
    pub fn reauthor(&self, document: DocumentId) -> Result<usize, KeptError> {
        let (core, row) = (self.core(), self.row()?);
        let (mut history, _) = self.refused(&document)?;
        let unsent = match core.log.document(row, &document)? {
            Some(document) => core.log.not_taken(row, document)?,
            None => Vec::new(),
        };
        if unsent.is_empty() {
            return Err(KeptError::Unanswered);
        }
        let displaced = unsent.iter().filter(|unsent| !unsent.in_log);
        history.extend(parse(displaced.map(|unsent| unsent.body.clone()))?);
        let refused: BTreeSet<ChangeHash> = unsent.iter().map(|unsent| unsent.hash).collect();
        let made = reauthor::reauthor(&history, &refused)?;
        let old = unsent.iter().map(|unsent| unsent.hash).collect();
        let mut new = Vec::with_capacity(made.changes.len());
        for mut change in made.changes {
            let change = preflight(&change.bytes()).map_err(KeptError::Form)?;
            new.push(LocalChange { space: row, document, change, at_ms: now_ms() });
        }
        let count = new.len();
        let for_commit = Arc::clone(core);
        let replaced = move || for_commit.forget_document(row, document);
        core.log.replace_unsent(row, document, old, new, replaced)?;
        core.link.unparked(row, document);
        Ok(count)
    }

    /// Merges a document's history with another of the same id that shares nothing with it, and
    /// that is kept aside or refused by the relay: both contents are in the document afterwards, on
    /// every replica.
    ///
    /// # Errors
    /// If the store cannot be written.
    pub fn merge_unrelated(&self, document: DocumentId) -> Result<(), StoreError> {
        let (core, row) = (self.core(), self.row()?);
        let (for_commit, name) = (Arc::clone(core), self.name().clone());
        let committed = move |received| for_commit.received(&name, row, received);
        self.ask(|done| core.log.submit_allow_merge(row, document, done), committed)?;
        core.link.unparked(row, document);
        Ok(())
    }

    /// All changes of a document that has some which the relay does not take, and those.
    fn refused(&self, document: &DocumentId) -> Result<(Vec<Change>, Vec<Unsent>), KeptError> {
        let (log, row) = (&self.core().log, self.row()?);
        let is_refused = log.parked(row)?.iter().any(|parked| parked.document == *document);
        let found = if is_refused { log.document(row, document)? } else { None };
        let Some(document_row) = found else { return Err(KeptError::NothingRefused) };
        let unsent = log.unsent(row, document_row)?;
        if unsent.is_empty() {
            return Err(KeptError::NothingRefused);
        }
        let (mut base, mut tail, mut after) = (None, Vec::new(), 0);
        loop {
            let (page, more) = log.changes_after(document_row, after, PAGE_BYTES)?;
            after = page.last().map_or(after, |stored| stored.local);
            for stored in page {
                if stored.folded {
                    // It stands for what came before it, too.
                    base = Some(stored.body);
                    tail.clear();
                } else {
                    tail.push(stored.body);
                }
            }
            if !more {
                break;
            }
        }
        Ok((unfold(base.as_deref(), tail)?, unsent))
    }

    /// Has the store do something, and waits for it. Its completion calls `committed`, on the
    /// store's writer thread: what it publishes is in the order of the commits.
    fn ask<T: Send + 'static, U: Send + 'static>(
        &self,
        submit: impl FnOnce(Done<T>),
        committed: impl FnOnce(Committed<T>) -> U + Send + 'static,
    ) -> Result<U, StoreError> {
        let (tell, told) = std::sync::mpsc::sync_channel(1);
        submit(Box::new(move |result: Result<Committed<T>, WriteFailure>| {
            // The caller waits for it below.
            let _ = tell.send(result.map(committed));
        }));
        let result = told.recv().unwrap_or(Err(WriteFailure::Closed));
        Ok(result?)
    }
}

/// Bytes of changes that are read from the store in one page.
const PAGE_BYTES: usize = 16 * 1024 * 1024;

/// A document's changes one by one, dependencies first.
fn unfold(snapshot: Option<&[u8]>, tail: Vec<Vec<u8>>) -> Result<Vec<Change>, KeptError> {
    let folded = match snapshot {
        Some(snapshot) => landfall_fold::changes_since(snapshot, &[])
            .map_err(|error| KeptError::Rebuild(Box::new(error)))?,
        None => Vec::new(),
    };
    parse(folded.into_iter().chain(tail))
}

fn parse(chunks: impl IntoIterator<Item = Vec<u8>>) -> Result<Vec<Change>, KeptError> {
    let parse = |bytes| Change::from_bytes(bytes);
    let parsed: Result<_, _> = chunks.into_iter().map(parse).collect();
    parsed.map_err(|error| KeptError::Rebuild(Box::new(error)))
}
