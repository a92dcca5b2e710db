//! Calls for changes that the relay rejects, for orphaned edits of deleted documents, and for documents
//! that share an id but no history.

use std::collections::BTreeSet;
use std::sync::Arc;

use automerge::Change;
use landfall_protocol::admission::preflight;
use landfall_protocol::{ChangeHash, DocumentId};
use landfall_storage::Committed;

use super::Space;
use crate::clock::now_ms;
use crate::error::{RejectedChangesError, StoreError};
use crate::events::EventKind;
use crate::reauthor;
use crate::store::{Done, LocalChange, SpaceCount, Unsent, WriteFailure};

/// A deleted document with orphaned edits: edits that no other replica has.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct OrphanedEdits {
    /// The document.
    pub document: DocumentId,
    /// How many changes were made here and never reached the relay.
    pub unsent: u64,
}

impl Space {
    /// Deletes a document permanently: here at once, and in every replica when it syncs. Its storage is
    /// freed. Edits that another replica makes without knowledge of the deletion are not accepted; that
    /// replica keeps them as orphaned edits and emits
    /// [`EventKind::Deleted`](crate::EventKind::Deleted). Deleting a deleted document is no error.
    ///
    /// # Errors
    /// If the store cannot be written.
    pub fn delete(&self, document: DocumentId) -> Result<(), StoreError> {
        let (store, row) = (self.open_store(), self.row()?);
        if store.context.access.read_only {
            return Err(StoreError::read_only());
        }
        let (for_commit, name) = (Arc::clone(store), self.name().clone());
        let committed = move |committed: Committed<(SpaceCount, bool)>| {
            let kind = committed.value.1.then_some(EventKind::Deleted { unsent: 0 });
            for_commit.delete_document(&name, row, document, kind);
        };
        self.ask(|done| store.context.log.submit_delete(row, document, now_ms(), done), committed)?;
        store.notify_link_of(row);
        Ok(())
    }

    /// Whether a document is deleted.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn is_deleted(&self, document: &DocumentId) -> Result<bool, StoreError> {
        Ok(self.open_store().context.log.deleted(self.row()?, document)?)
    }

    /// The deleted documents, in the order in which this store learned of each deletion.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn deleted_documents(&self) -> Result<Vec<DocumentId>, StoreError> {
        Ok(self.open_store().context.log.deleted_documents(self.row()?)?)
    }

    /// Deleted documents with orphaned edits, which no other replica has: export or discard them.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn orphaned_edits(&self) -> Result<Vec<OrphanedEdits>, StoreError> {
        let lost = self.open_store().context.log.lost(self.row()?)?;
        let edits = |lost: crate::store::OrphanedDocument| OrphanedEdits {
            document: lost.document,
            unsent: lost.unsent,
        };
        Ok(lost.into_iter().map(edits).collect())
    }

    /// The documents of which the relay could not send something, because its own store is damaged;
    /// each is listed once. `None` stands for documents that the relay could not name. The list is
    /// empty once the relay has been repaired and has been connected again, or another replica has
    /// supplied what is missing.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn damaged_at_relay(&self) -> Result<Vec<Option<DocumentId>>, StoreError> {
        Ok(self.open_store().context.log.damaged_at_relay(self.row()?)?)
    }

    /// Exports a deleted document as it was here, with its orphaned edits, as the bytes of an automerge
    /// document: read it, or create a new document from it. `None` if nothing of it is left.
    ///
    /// # Errors
    /// [`RejectedChangesError::Rebuild`] if automerge cannot build it.
    pub fn export_orphaned(
        &self,
        document: &DocumentId,
    ) -> Result<Option<Vec<u8>>, RejectedChangesError> {
        let Some(lost) = self.open_store().context.log.orphaned_bytes(self.row()?, document)?
        else {
            return Ok(None);
        };
        let history = expand(lost.snapshot.as_deref(), lost.changes)?;
        Ok(Some(reauthor::export(&history, &parse(lost.superseded)?)?))
    }

    /// Discards the orphaned edits of a deleted document.
    ///
    /// # Errors
    /// If the store cannot be written.
    pub fn discard_orphaned(&self, document: DocumentId) -> Result<(), StoreError> {
        let (store, row) = (self.open_store(), self.row()?);
        self.ask(|done| store.context.log.submit_discard(row, document, done), drop)
    }

    /// Sends the rejected changes of a document to the relay again, for example after a quota was
    /// raised, a right was granted or the relay was upgraded.
    ///
    /// # Errors
    /// If the store cannot be written.
    pub fn retry(&self, document: DocumentId) -> Result<(), StoreError> {
        let (store, row) = (self.open_store(), self.row()?);
        self.ask(|done| store.context.log.submit_retry(row, document, done), drop)?;
        self.shared().link.retried(row, document);
        Ok(())
    }

    /// Exports a document including the changes that the relay rejects, as the bytes of an automerge
    /// document. Where a rejected change and an accepted one have the same actor and sequence number,
    /// the export holds the rejected one.
    ///
    /// # Errors
    /// [`RejectedChangesError::NothingRejected`] if the relay refuses nothing of it.
    pub fn export_rejected(&self, document: &DocumentId) -> Result<Vec<u8>, RejectedChangesError> {
        let (history, unsent) = self.refused(document)?;
        Ok(reauthor::export(&history, &parse(unsent.into_iter().map(|unsent| unsent.body))?)?)
    }

    /// Makes the rejected changes of a document again: the same edits by a fresh actor, on top of the
    /// relay's state. For changes whose actor and sequence number other changes have too (a copied
    /// store), and for changes that a relay accepts only from another actor. Returns how many changes
    /// were made. Changes that were sent and not answered yet are left alone: the relay may have them.
    ///
    /// # Errors
    /// [`RejectedChangesError::NothingRejected`]; [`RejectedChangesError::Unanswered`];
    /// [`RejectedChangesError::Rebuild`] if a change cannot be decoded; [`RejectedChangesError::Changed`] if
    /// the document was edited meanwhile: try again; [`RejectedChangesError::DocumentFull`].
    pub fn reauthor(&self, document: DocumentId) -> Result<usize, RejectedChangesError> {
        let (store, row) = (self.open_store(), self.row()?);
        let (mut history, _) = self.refused(&document)?;
        let unsent = match store.context.log.document(row, &document)? {
            Some(document) => store.context.log.not_taken(row, document)?,
            None => Vec::new(),
        };
        if unsent.is_empty() {
            return Err(RejectedChangesError::Unanswered);
        }
        let superseded = unsent.iter().filter(|unsent| !unsent.in_log);
        history.extend(parse(superseded.map(|unsent| unsent.body.clone()))?);
        let refused: BTreeSet<ChangeHash> = unsent.iter().map(|unsent| unsent.hash).collect();
        let made = reauthor::reauthor(&history, &refused)?;
        let old = unsent.iter().map(|unsent| unsent.hash).collect();
        let mut new = Vec::with_capacity(made.changes.len());
        for mut change in made.changes {
            let change = preflight(&change.bytes()).map_err(RejectedChangesError::Form)?;
            new.push(LocalChange { space: row, document, change, at_ms: now_ms() });
        }
        let count = new.len();
        let for_commit = Arc::clone(store);
        let replaced = move || for_commit.forget_document(row, document);
        store.context.log.replace_unsent(row, document, old, new, replaced)?;
        self.shared().link.retried(row, document);
        Ok(count)
    }

    /// Merges a document's history with an unrelated history of the same id, which this store has
    /// deferred or the relay rejects. Afterwards the document has both contents, on every replica.
    ///
    /// # Errors
    /// If the store cannot be written.
    pub fn merge_unrelated(&self, document: DocumentId) -> Result<(), StoreError> {
        let (store, row) = (self.open_store(), self.row()?);
        let (for_commit, name) = (self.shared().link.publisher(store), self.name().clone());
        let committed = move |received| for_commit.received(&name, row, received);
        self.ask(|done| store.context.log.submit_allow_merge(row, document, done), committed)?;
        self.shared().link.retried(row, document);
        Ok(())
    }

    /// All changes of a document that has rejected changes, and those rejected changes.
    fn refused(
        &self,
        document: &DocumentId,
    ) -> Result<(Vec<Change>, Vec<Unsent>), RejectedChangesError> {
        let (log, row) = (&self.open_store().context.log, self.row()?);
        let is_refused = log.rejected(row)?.iter().any(|rejected| rejected.document == *document);
        let found = if is_refused { log.document(row, document)? } else { None };
        let Some(document_row) = found else { return Err(RejectedChangesError::NothingRejected) };
        let unsent = log.unsent(row, document_row)?;
        if unsent.is_empty() {
            return Err(RejectedChangesError::NothingRejected);
        }
        let (mut base, mut tail, mut after) = (None, Vec::new(), 0);
        loop {
            let (page, more) = log.changes_after(document_row, after, PAGE_BYTES)?;
            after = page.last().map_or(after, |stored| stored.local);
            for stored in page {
                if stored.compacted {
                    // The snapshot stands for everything before it, too.
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
        Ok((expand(base.as_deref(), tail)?, unsent))
    }

    /// Submits a write to the store and waits for it. The completion calls `committed` on the store's
    /// writer thread, so that results are published in the order of the commits.
    fn ask<T: Send + 'static, U: Send + 'static>(
        &self,
        submit: impl FnOnce(Done<T>),
        committed: impl FnOnce(Committed<T>) -> U + Send + 'static,
    ) -> Result<U, StoreError> {
        let (sender, receiver) = std::sync::mpsc::sync_channel(1);
        submit(Box::new(move |result: Result<Committed<T>, WriteFailure>| {
            // The receiver exists: the caller waits for it below.
            let _ = sender.send(result.map(committed));
        }));
        let result = receiver.recv().unwrap_or(Err(WriteFailure::Closed));
        Ok(result?)
    }
}

/// How many bytes of changes one page reads from the store.
const PAGE_BYTES: usize = 16 * 1024 * 1024;

/// A document's changes one by one, dependencies first.
fn expand(
    snapshot: Option<&[u8]>,
    tail: Vec<Vec<u8>>,
) -> Result<Vec<Change>, RejectedChangesError> {
    let compacted = match snapshot {
        Some(snapshot) => landfall_compaction::changes_since(snapshot, &[])
            .map_err(|error| RejectedChangesError::Rebuild(Box::new(error)))?,
        None => Vec::new(),
    };
    parse(compacted.into_iter().chain(tail))
}

fn parse(chunks: impl IntoIterator<Item = Vec<u8>>) -> Result<Vec<Change>, RejectedChangesError> {
    let parse = |bytes| Change::from_bytes(bytes);
    let parsed: Result<_, _> = chunks.into_iter().map(parse).collect();
    parsed.map_err(|error| RejectedChangesError::Rebuild(Box::new(error)))
}
