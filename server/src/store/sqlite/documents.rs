//! The embedded store's Documents role.

use landfall_protocol::automerge_repo::{DocumentIndex, plan as sync_plan};
use landfall_protocol::digest::Prefix;
use landfall_protocol::frame::EncodedEntry;
use landfall_protocol::relay::DocumentPlan;
use landfall_protocol::{ChangeHash, DocumentId, Offset, SpaceName};

use super::SqliteStore;
use crate::store::contract::Documents;
use crate::store::damage::condition::Operation;
use crate::store::log::listing;
use crate::store::log::plan;
use crate::store::lookups::automerge_repo;
use crate::store::lookups::digests;
use crate::store::rows::documents;
use crate::store::rows::indexes::Unloaded;
use crate::store::rows::snapshots;
use crate::store::{BranchPage, RecentPage, StoreError, StoredDocument, SumCursor};

impl Documents for SqliteStore {
    fn load_index(&self, space: &SpaceName, document: &DocumentId) -> Result<(), StoreError> {
        let what = "load the index of compacted history";
        let operation = Operation::of_document(what, space, document);
        let found = self.read(operation, |conn| {
            let Some((_, found)) = documents::find(conn, space, document)? else { return Ok(None) };
            let Some(stored) = snapshots::current(conn, found.row)? else { return Ok(None) };
            // A missing index is treated as a damaged one: empty bytes do not parse.
            let packed = snapshots::packed(conn, stored.row)?.unwrap_or_default();
            Ok(Some(Unloaded { key: (found.row, stored.hash), packed, stored }))
        })?;
        let Some(unloaded) = found else { return Ok(()) };
        if self.indexes.get(&unloaded.key).is_some() {
            return Ok(());
        }
        self.keep_index(what, document, unloaded).map(drop)
    }

    fn store_index(
        &self,
        space: &SpaceName,
        document: &DocumentId,
        snapshot: &[u8; 32],
        packed: Vec<u8>,
    ) -> Result<bool, StoreError> {
        let what = "store the index of compacted history";
        let (named, id, snapshot) = (space.clone(), *document, *snapshot);
        let stored =
            self.write(what, move |tx| snapshots::store_index(tx, &named, &id, &snapshot, packed));
        stored.map_err(|error| match error.is_content_damage() {
            true => self.found.note(Operation::of_document(what, space, document), error),
            false => error,
        })
    }

    fn plan_document(
        &self,
        space: &SpaceName,
        document: &DocumentId,
        have: &[[u8; 32]],
    ) -> Result<DocumentPlan, StoreError> {
        let what = "find out which changes of a document are missing";
        self.read(Operation::of_document(what, space, document), |conn| {
            plan::document(conn, space, document, have)
        })
    }

    fn read_entries(
        &self,
        space: &SpaceName,
        document: &DocumentId,
        offsets: &[Offset],
    ) -> Result<Vec<EncodedEntry>, StoreError> {
        let operation = Operation::of_document("read entries of a document", space, document);
        let mut damage = Vec::new();
        let entries =
            self.read(operation, |conn| plan::entries(conn, space, document, offsets, &mut damage));
        self.note_damage(operation, damage);
        entries
    }

    fn branches(
        &self,
        space: &SpaceName,
        prefixes: &[Prefix],
        cursor: SumCursor,
        rows: usize,
    ) -> Result<BranchPage, StoreError> {
        self.read(Operation::of_space("read the digests of a space", space), |conn| {
            let mut page = digests::branches(conn, space, prefixes, cursor, rows)?;
            let damaged = self.found.damaged_of(space);
            digests::tell_damage(conn, space, &damaged, &mut page.branches)?;
            Ok(page)
        })
    }

    fn branches_of(
        &self,
        space: &SpaceName,
        documents: &[DocumentId],
        prefixes: &[Prefix],
    ) -> Result<BranchPage, StoreError> {
        self.read(Operation::of_space("read the digests of documents", space), |conn| {
            let mut page = digests::branches_of(conn, space, documents, prefixes)?;
            let damaged = self.found.damaged_of(space);
            digests::tell_damage(conn, space, &damaged, &mut page.branches)?;
            Ok(page)
        })
    }

    fn document_heads(
        &self,
        space: &SpaceName,
        document: &DocumentId,
    ) -> Result<StoredDocument, StoreError> {
        self.read(Operation::of_document("read a document's state", space, document), |conn| {
            automerge_repo::standing(conn, space, document, &self.buckets)
        })
    }

    fn document_index(
        &self,
        space: &SpaceName,
        document: &DocumentId,
        with_compacted: bool,
    ) -> Result<Option<DocumentIndex>, StoreError> {
        let what = "read a document's index";
        let wanted = with_compacted.then_some(&self.indexes);
        let found = self.read(Operation::of_document(what, space, document), |conn| {
            automerge_repo::index(conn, space, document, wanted)
        })?;
        let Some((mut index, packed)) = found else { return Ok(None) };
        if let (Some(compacted), Some(packed)) = (&mut index.compacted, packed) {
            compacted.index = Some(self.keep_index(what, document, packed)?);
        }
        Ok(Some(index))
    }

    fn changes_known(
        &self,
        space: &SpaceName,
        document: &DocumentId,
        hashes: &[ChangeHash],
    ) -> Result<Vec<ChangeHash>, StoreError> {
        let what = "find changes of a document";
        let found = self.read(Operation::of_document(what, space, document), |conn| {
            automerge_repo::tail_has(conn, space, document, hashes)
        })?;
        let Some((mut known, compacted)) = found else { return Ok(Vec::new()) };
        if compacted && known.len() < hashes.len() {
            // A change that is compacted between the two reads was still in the tail at the first one.
            let indexes = Some(&self.indexes);
            let found = self.read(Operation::of_document(what, space, document), |conn| {
                automerge_repo::compacted(conn, space, document, indexes)
            })?;
            if let Some((mut index, packed)) = found {
                if let (Some(compacted), Some(packed)) = (&mut index.compacted, packed) {
                    compacted.index = Some(self.keep_index(what, document, packed)?);
                }
                known.extend(
                    sync_plan::known(&index, hashes).map_err(|_| StoreError::unsupported())?,
                );
            }
        }
        known.sort_unstable();
        known.dedup();
        Ok(known)
    }

    fn recent_documents(
        &self,
        space: &SpaceName,
        since: Offset,
        before: Option<Offset>,
        most: usize,
    ) -> Result<RecentPage, StoreError> {
        self.read(Operation::of_space("list documents", space), |conn| {
            listing::recent(conn, space, (since, before), most)
        })
    }

    fn changes_held(&self, space: &SpaceName, document: &DocumentId) -> Result<u64, StoreError> {
        self.read(Operation::of_document("count a document's changes", space, document), |conn| {
            let found = documents::find(conn, space, document)?;
            Ok(found.map_or(0, |(_, found)| found.compacted_changes + found.tail_changes))
        })
    }
}
