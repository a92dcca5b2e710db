//! Reads for automerge-repo's sync: a document's state, and its index. Each is one read of the store, so each
//! is consistent.

use landfall_protocol::automerge_repo::{CompactedHistory, DocumentIndex, IndexRow};
use landfall_protocol::digest::{DigestEntry, DocumentState};
use landfall_protocol::{ChangeHash, DocumentId, Offset, SpaceName};
use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::store::StoredDocument;
use crate::store::damage::damaged;
use crate::store::lookups::digests;
use crate::store::rows::checked::{self, CheckedBuckets};
use crate::store::rows::documents::{self, Document};
use crate::store::rows::indexes::{IndexCache, Unloaded};
use crate::store::rows::schema::{column, hashes, number};
use crate::store::rows::snapshots::{self, Stored};

/// Dead rows that are not deleted yet are at or below the snapshot's offset.
pub(in crate::store) const STANDING: &str = "SELECT d.tombstone IS NOT NULL, d.heads, d.leaf, \
    max(d.folded, coalesce((SELECT max(\"offset\") FROM entry WHERE document = d.id), 0)) \
    FROM document d WHERE d.space = ?1 AND d.document = ?2 AND d.leaf IS NOT NULL";

const TAIL: &str = "SELECT \"offset\", hash, deps FROM entry \
    WHERE document = ?1 AND \"offset\" > ?2 ORDER BY \"offset\"";

pub(in crate::store) const HAS: &str = "SELECT 1 FROM entry WHERE document = ?1 AND hash = ?2";

/// The state of a document.
pub(in crate::store) fn standing(
    conn: &Connection,
    space: &SpaceName,
    document: &DocumentId,
    buckets: &CheckedBuckets,
) -> rusqlite::Result<StoredDocument> {
    let of_row = |row: &Row<'_>| {
        let state = match row.get(0)? {
            true => DocumentState::Deleted,
            false => DocumentState::Present(changes(row, 1)?),
        };
        if DigestEntry::of(document, &state) != DigestEntry::from_bytes(row.get(2)?) {
            let what = "heads that do not match the digest entry";
            return Err(damaged(Some(*document), None, what));
        }
        Ok(match state {
            DocumentState::Deleted => StoredDocument::Deleted,
            DocumentState::Present(heads) => {
                StoredDocument::Present { heads, last: Offset(number(row, 3)?) }
            }
        })
    };
    let Some(space) = documents::space_row(conn, space)? else { return Ok(StoredDocument::Absent) };
    let mut find = conn.prepare_cached(STANDING)?;
    let found = find.query_row(params![space, document.as_bytes()], of_row).optional()?;
    if found.is_none() {
        let bucket = document.as_bytes()[0];
        buckets.check((space, bucket), || digests::check_bucket(conn, space, bucket))?;
    }
    Ok(found.unwrap_or(StoredDocument::Absent))
}

fn changes(row: &Row<'_>, column: usize) -> rusqlite::Result<Vec<ChangeHash>> {
    Ok(hashes(row, column)?.into_iter().map(ChangeHash).collect())
}

/// A document's index. With `wanted`, including its compacted changes: from the cache, or packed as read from
/// disk, for the caller to parse after the read.
pub(in crate::store) fn index(
    conn: &Connection,
    space: &SpaceName,
    document: &DocumentId,
    wanted: Option<&IndexCache>,
) -> rusqlite::Result<Option<(DocumentIndex, Option<Unloaded>)>> {
    read_index(conn, space, document, wanted, true)
}

/// The same without its tail.
pub(in crate::store) fn compacted(
    conn: &Connection,
    space: &SpaceName,
    document: &DocumentId,
    wanted: Option<&IndexCache>,
) -> rusqlite::Result<Option<(DocumentIndex, Option<Unloaded>)>> {
    read_index(conn, space, document, wanted, false)
}

/// A document that has changes and is not deleted.
fn present(
    conn: &Connection,
    space: &SpaceName,
    document: &DocumentId,
) -> rusqlite::Result<Option<Document>> {
    let found = documents::find(conn, space, document)?.map(|(_, found)| found);
    Ok(found.filter(|found| found.digest_entry.is_some() && found.tombstone.is_none()))
}

/// Those of some changes that are in the tail, and whether there is a snapshot that may have the others.
/// `None` if the document is absent.
pub(in crate::store) fn tail_has(
    conn: &Connection,
    space: &SpaceName,
    document: &DocumentId,
    hashes: &[ChangeHash],
) -> rusqlite::Result<Option<(Vec<ChangeHash>, bool)>> {
    let Some(found) = present(conn, space, document)? else { return Ok(None) };
    let mut is_there = conn.prepare_cached(HAS)?;
    let mut known = Vec::new();
    for hash in hashes {
        if is_there.exists(params![found.row, &hash.0[..]])? {
            known.push(*hash);
        }
    }
    Ok(Some((known, found.compacted > 0)))
}

fn read_index(
    conn: &Connection,
    space: &SpaceName,
    document: &DocumentId,
    wanted: Option<&IndexCache>,
    with_tail: bool,
) -> rusqlite::Result<Option<(DocumentIndex, Option<Unloaded>)>> {
    let Some(found) = present(conn, space, document)? else { return Ok(None) };
    checked::document(conn, &found)?;
    let stored = match found.compacted {
        0 => None,
        _ => snapshots::current(conn, found.row)?,
    };
    let tail = if with_tail { tail(conn, &found)? } else { Vec::new() };
    if with_tail {
        let hashes = tail.iter().map(|row| row.hash.0);
        checked::tail(&found, stored.as_ref(), hashes)?;
    }
    let last = tail.last().map_or(Offset(found.compacted), |row| row.offset);
    let (mut compacted, mut unloaded) = (None, None);
    if let Some(stored) = stored {
        let mut history = history(&stored);
        if let Some(cache) = wanted {
            let key = (found.row, stored.hash);
            history.index = cache.get(&key);
            if history.index.is_none() {
                // A missing index counts as damaged: an empty one does not parse.
                let packed = snapshots::packed(conn, stored.row)?.unwrap_or_default();
                unloaded = Some(Unloaded { key, packed, stored });
            }
        }
        compacted = Some(history);
    }
    let heads = found.heads.iter().copied().map(ChangeHash).collect();
    Ok(Some((DocumentIndex { heads, last, compacted, tail }, unloaded)))
}

fn history(stored: &Stored) -> CompactedHistory {
    CompactedHistory {
        hash: stored.hash,
        bytes: stored.bytes,
        offset: Offset(stored.offset),
        heads: stored.heads.iter().map(|(head, _)| *head).collect(),
        index: None,
    }
}

fn tail(conn: &Connection, document: &Document) -> rusqlite::Result<Vec<IndexRow>> {
    let mut find = conn.prepare_cached(TAIL)?;
    let of_row = |row: &Row<'_>| {
        Ok(IndexRow {
            offset: Offset(number(row, 0)?),
            hash: ChangeHash(row.get(1)?),
            dependencies: changes(row, 2)?,
        })
    };
    find.query_map(params![document.row, column(document.compacted)?], of_row)?.collect()
}
