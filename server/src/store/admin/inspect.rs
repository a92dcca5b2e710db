//! Read-only inspection of a store for an operator: contents and sizes. Works beside the relay that has the
//! store open. It must not write.

use std::path::Path;

use landfall_protocol::lineage::EpochRecord;
use landfall_protocol::{ActorId, ChangeHash, DocumentId, Offset, SpaceName, Upstream};
use landfall_storage::{BackupError, Database, Options};
use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::store::StoreError;
use crate::store::admin::fault::{Fault, Finding};
use crate::store::log::read::epochs;
use crate::store::rows::documents::head;
use crate::store::rows::documents::space_name;
use crate::store::rows::documents::{self, Document, space_row};
use crate::store::rows::schema::{SCHEMA, column, number, optional_number};
use crate::store::rows::snapshots;
use crate::store::sqlite::opening::OpenStoreError;
use crate::store::sqlite::{FILE, SqliteStore};

/// A store that is open for inspection.
#[derive(Debug, Clone)]
pub struct Inspection {
    pub(in crate::store) db: Database,
}

/// The contents of a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreReport {
    /// The relay's identity; `None` if no relay has used the store yet.
    pub upstream: Option<Upstream>,
    /// Bytes on disk, including the write-ahead log.
    pub bytes: u64,
    /// Bytes of free pages, which SQLite reuses before the file grows.
    pub free_bytes: u64,
    /// The spaces, sorted by name.
    pub spaces: Vec<SpaceReport>,
}

/// The contents of a space.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpaceReport {
    /// Its name.
    pub space: SpaceName,
    /// The last offset of its log.
    pub head: Offset,
    /// Its lineage.
    pub epochs: Vec<EpochRecord>,
    /// Number of existing documents.
    pub documents: u64,
    /// Number of deleted documents.
    pub deleted: u64,
    /// Changes of the tails, which are not compacted.
    pub tail_changes: u64,
    /// Their bytes.
    pub tail_bytes: u64,
    /// Changes that snapshots stand for.
    pub compacted_changes: u64,
    /// Current snapshots in the log.
    pub snapshots: u64,
    /// Their bytes.
    pub snapshot_bytes: u64,
    /// Documents whose compaction is due.
    pub compactions_due: u64,
    /// Documents whose last compaction failed.
    pub compactions_failed: u64,
    /// Documents with rows that wait for deletion.
    pub to_prune: u64,
}

/// The contents of a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DocumentReport {
    /// Its id.
    pub document: DocumentId,
    /// Its heads, ascending.
    pub heads: Vec<ChangeHash>,
    /// The offset of its tombstone, if it is deleted.
    pub deleted_at: Option<Offset>,
    /// Changes of the tail, which are not compacted.
    pub tail_changes: u64,
    /// Their bytes.
    pub tail_bytes: u64,
    /// The offsets of the tail's first and last change.
    pub tail: Option<(Offset, Offset)>,
    /// Changes that the snapshot stands for.
    pub compacted_changes: u64,
    /// The snapshot that stands for them.
    pub snapshot: Option<SnapshotReport>,
    /// The number of actors with changes.
    pub actors: u64,
    /// Whether compaction is due.
    pub compaction_due: bool,
    /// The software version with which the last compaction failed, and the reason.
    pub compaction_failure: Option<(String, String)>,
}

/// A current snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapshotReport {
    /// SHA-256 of its bytes.
    pub hash: [u8; 32],
    /// Its offset.
    pub offset: Offset,
    /// Its size in bytes.
    pub bytes: u64,
    /// Bytes of its packed index.
    pub index_bytes: u64,
}

impl SqliteStore {
    /// An inspection of this store, beside its own connections.
    pub fn inspection(&self) -> Inspection {
        Inspection { db: self.database().clone() }
    }
}

impl Inspection {
    /// Opens the store in a data folder read-only, also beside the relay that uses it. Rejects a store of an
    /// older version: the relay migrates it when it starts.
    pub fn open(folder: &Path) -> Result<Self, OpenStoreError> {
        Self::open_file(&folder.join(FILE))
    }

    /// As [`Inspection::open`], for a copy with any file name.
    pub fn open_file(file: &Path) -> Result<Self, OpenStoreError> {
        let options = Options { readers: 1, ..Options::default() };
        Ok(Self { db: Database::open_read_only(file, &SCHEMA, options)? })
    }

    /// The damage of the write-ahead log of a stopped relay, if any.
    pub fn wal_finding(folder: &Path) -> Option<Finding> {
        let look = || landfall_storage::wal_damage(&folder.join(FILE)).ok().flatten();
        // A running relay may be in the middle of a commit during one look: only damage that two looks find
        // alike counts.
        let damage = look().filter(|damage| look().as_ref() == Some(damage))?;
        let damage = Fault::WriteAheadLog { what: damage.to_string() };
        Some(Finding { space: None, document: None, offset: None, damage })
    }

    /// Copies the current state of the store to a new file in one read transaction, while others write. The
    /// copy contains no deleted bytes.
    pub fn backup_to(&self, target: &Path) -> Result<(), BackupError> {
        self.db.backup_to(target)
    }

    /// The contents of the store.
    pub fn store(&self) -> Result<StoreReport, StoreError> {
        let bytes = self.db.size_bytes();
        let bytes =
            bytes.map_err(|error| StoreError::new("read its size", error.class(), error))?;
        self.read(|conn| {
            let page = |name| conn.pragma_query_value(None, name, |row| number(row, 0));
            let free_bytes = page("freelist_count")? * page("page_size")?;
            let find = "SELECT upstream FROM meta WHERE id = 1";
            let upstream = conn.query_row(find, [], |row| row.get(0)).optional()?;
            let mut find = conn.prepare_cached("SELECT id, name FROM space ORDER BY name")?;
            let named = |row: &Row<'_>| Ok((row.get(0)?, row.get::<_, String>(1)?));
            let names = find.query_map([], named)?.collect::<rusqlite::Result<Vec<_>>>()?;
            let spaces = names.into_iter().map(|(row, name)| space(conn, row, name));
            let spaces = spaces.collect::<rusqlite::Result<_>>()?;
            let upstream = upstream.map(Upstream::from_bytes);
            Ok(StoreReport { upstream, bytes, free_bytes, spaces })
        })
    }

    /// At most `most` documents of a space in the order of their ids, behind a given id.
    pub fn documents(
        &self,
        space: &SpaceName,
        after: Option<DocumentId>,
        most: usize,
    ) -> Result<Vec<DocumentReport>, StoreError> {
        self.read(|conn| {
            let Some(space) = space_row(conn, space)? else { return Ok(Vec::new()) };
            let sql = "SELECT id FROM document WHERE space = ?1 AND document > ?2 \
                ORDER BY document LIMIT ?3";
            let mut find = conn.prepare_cached(sql)?;
            let after = after.map_or(Vec::new(), |after| after.as_bytes().to_vec());
            let rows = find.query_map(params![space, after, most as i64], |row| row.get(0))?;
            rows.map(|row| report(conn, &Document::at(conn, row?)?)).collect()
        })
    }

    /// One document.
    pub fn document(
        &self,
        space: &SpaceName,
        document: &DocumentId,
    ) -> Result<Option<DocumentReport>, StoreError> {
        self.read(|conn| {
            let found = documents::find(conn, space, document)?;
            found.map(|(_, found)| report(conn, &found)).transpose()
        })
    }

    /// The actors of a document, each with its last sequence number, in the order of their ids.
    pub fn actors(
        &self,
        space: &SpaceName,
        document: &DocumentId,
    ) -> Result<Vec<(ActorId, u64)>, StoreError> {
        self.read(|conn| {
            let Some((_, found)) = documents::find(conn, space, document)? else {
                return Ok(Vec::new());
            };
            let sql = "SELECT a.actor, max(u.seq) FROM (SELECT actor, seq FROM folded_actor \
                WHERE document = ?1 UNION ALL SELECT actor, max(seq) FROM entry \
                WHERE document = ?1 GROUP BY actor) u JOIN actor a ON a.id = u.actor \
                GROUP BY a.actor ORDER BY a.actor";
            let mut find = conn.prepare_cached(sql)?;
            let actor = |row: &Row<'_>| {
                let bytes: Vec<u8> = row.get(0)?;
                Ok((ActorId::from(bytes), number(row, 1)?))
            };
            find.query_map([found.row], actor)?.collect()
        })
    }

    pub(in crate::store) fn read<T>(
        &self,
        query: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        self.db.read(query).map_err(|error| StoreError::of_read("be inspected", error))
    }
}

fn space(conn: &Connection, row: i64, text: String) -> rusqlite::Result<SpaceReport> {
    let sql = "SELECT count(*), count(tombstone), coalesce(sum(tail_changes), 0), \
        coalesce(sum(tail_bytes), 0), coalesce(sum(folded_changes), 0), count(due), \
        coalesce(sum(dead), 0) FROM document WHERE space = ?1";
    let mut sums = conn.prepare_cached(sql)?;
    let sums = sums.query_row([row], |row| {
        let mut sums = [0; 7];
        for (index, sum) in sums.iter_mut().enumerate() {
            *sum = number(row, index)?;
        }
        Ok(sums)
    })?;
    let [all, deleted, tail_changes, tail_bytes, compacted_changes, compactions_due, to_prune] =
        sums;
    let sql = "SELECT count(*), coalesce(sum(bytes), 0) FROM snapshot \
        WHERE space = ?1 AND replaced_at_ms IS NULL";
    let pair = |row: &Row<'_>| Ok((number(row, 0)?, number(row, 1)?));
    let (snapshots, snapshot_bytes) = conn.prepare_cached(sql)?.query_row([row], pair)?;
    let sql = "SELECT count(*) FROM fold_failure f JOIN document d ON d.id = f.document \
        WHERE d.space = ?1";
    let compactions_failed = conn.prepare_cached(sql)?.query_row([row], |row| number(row, 0))?;
    Ok(SpaceReport {
        space: space_name(text)?,
        head: head(conn, row)?,
        epochs: epochs(conn, row)?,
        documents: all - deleted,
        deleted,
        tail_changes,
        tail_bytes,
        compacted_changes,
        snapshots,
        snapshot_bytes,
        compactions_due,
        compactions_failed,
        to_prune,
    })
}

fn report(conn: &Connection, document: &Document) -> rusqlite::Result<DocumentReport> {
    let live_from = match document.tombstone {
        Some(_) => i64::MAX,
        None => column(document.compacted)?,
    };
    let sql = "SELECT min(\"offset\"), max(\"offset\") FROM entry \
        WHERE document = ?1 AND \"offset\" > ?2";
    let ends = |row: &Row<'_>| {
        let ends = optional_number(row, 0)?.zip(optional_number(row, 1)?);
        Ok(ends.map(|(first, last)| (Offset(first), Offset(last))))
    };
    let tail = conn.prepare_cached(sql)?.query_row(params![document.row, live_from], ends)?;
    let sql = "SELECT count(*) FROM (SELECT actor FROM folded_actor WHERE document = ?1 \
        UNION SELECT actor FROM entry WHERE document = ?1 AND \"offset\" > ?2)";
    let mut count = conn.prepare_cached(sql)?;
    let actors = count.query_row(params![document.row, live_from], |row| number(row, 0))?;
    let sql = "SELECT version, reason FROM fold_failure WHERE document = ?1";
    let both = |row: &Row<'_>| Ok((row.get(0)?, row.get(1)?));
    let compaction_failure =
        conn.prepare_cached(sql)?.query_row([document.row], both).optional()?;
    Ok(DocumentReport {
        document: document.id,
        heads: document.heads.iter().copied().map(ChangeHash).collect(),
        deleted_at: document.tombstone.map(Offset),
        tail_changes: document.tail_changes,
        tail_bytes: document.tail_bytes,
        tail,
        compacted_changes: document.compacted_changes,
        snapshot: snapshot(conn, document)?,
        actors,
        compaction_due: document.due.is_some(),
        compaction_failure,
    })
}

fn snapshot(conn: &Connection, document: &Document) -> rusqlite::Result<Option<SnapshotReport>> {
    let Some(stored) = snapshots::current(conn, document.row)? else { return Ok(None) };
    let sql = "SELECT length(packed) FROM snapshot_index WHERE snapshot = ?1";
    let length = |row: &Row<'_>| number(row, 0);
    let index_bytes = conn.prepare_cached(sql)?.query_row([stored.row], length).optional()?;
    Ok(Some(SnapshotReport {
        hash: stored.hash,
        offset: Offset(stored.offset),
        bytes: stored.bytes,
        index_bytes: index_bytes.unwrap_or_default(),
    }))
}
