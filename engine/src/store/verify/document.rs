//! Checks one document: its changes, its snapshot, and the recorded facts about both. It changes
//! nothing.

use std::collections::{BTreeMap, BTreeSet};

use landfall_protocol::admission::{CheckedChange, preflight};
use landfall_protocol::compacted::PackedIndex;
use landfall_protocol::digest::{Digest as DigestEntrySum, DigestEntry};
use landfall_protocol::{ActorId, ChangeHash, DocumentId};
use rusqlite::{Connection, OptionalExtension, params};
use sha2::{Digest, Sha256};

use super::findings::Fault;
use crate::store::log::rows::{DocumentCounts, DocumentRow, SpaceRow, hash_of, heads, parts};
use crate::store::log::snapshots::{Opened, unpack_heads};
use crate::store::log::{digests, snapshots, tombstones};

/// The faults of a document.
pub(super) fn document_faults(
    conn: &Connection,
    space: SpaceRow,
    row: DocumentRow,
    id: &DocumentId,
) -> rusqlite::Result<Vec<Fault>> {
    let parts = parts(conn, row)?;
    let mut faults = Vec::new();
    faults.extend(sweep_fault(conn, row)?);
    if tombstones::is_deleted(conn, row)? {
        if parts != (DocumentCounts { base: parts.base, ..DocumentCounts::default() }) {
            faults.push(Fault::Counts);
        }
        if !heads(conn, row)?.is_empty() {
            faults.push(Fault::Heads);
        }
        faults.extend(digest_fault(conn, space, row, id, Some(DigestEntry::of_tombstone(id)))?);
        return Ok(faults);
    }
    let index = match snapshot_faults(conn, row, &parts, &mut faults)? {
        // Changes that depend on an unreadable snapshot cannot be checked.
        None if parts.compacted_changes > 0 => return Ok(faults),
        index => index,
    };
    let index = index.as_ref();
    if !base_is_right(&sides(conn, row, index)?, parts.base, index.is_some()) {
        // Other findings would be consequences of this one.
        return Ok(vec![Fault::SnapshotBase]);
    }
    tail_faults(conn, space, (row, id), &parts, index, &mut faults)?;
    Ok(faults)
}

/// Whether the sweep mark reaches too far, or not far enough.
fn sweep_fault(conn: &Connection, row: DocumentRow) -> rusqlite::Result<Option<Fault>> {
    let dead_through = tombstones::dead_through(conn, row)?;
    let (marked, left): (u64, bool) = conn
        .prepare_cached(
            "SELECT sweep_through, EXISTS (SELECT 1 FROM change
                 WHERE document = ?1 AND local > sweep_through AND local <= ?2)
             FROM document WHERE id = ?1",
        )?
        .query_row(params![row.0, dead_through], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(match marked > dead_through {
        true => Some(Fault::SweepMark),
        false => left.then_some(Fault::Unswept),
    })
}

/// Each row of a document, dead or alive: its number, and whether the snapshot contains it.
pub(super) fn sides(
    conn: &Connection,
    row: DocumentRow,
    index: Option<&PackedIndex>,
) -> rusqlite::Result<Vec<(u64, bool)>> {
    conn.prepare_cached("SELECT local, hash FROM change WHERE document = ?1 ORDER BY local")?
        .query_map([row.0], |row| {
            let hash = hash_of(row.get(1)?);
            Ok((row.get(0)?, index.is_some_and(|index| index.contains(&hash))))
        })?
        .collect()
}

fn base_is_right(sides: &[(u64, bool)], base: u64, has_snapshot: bool) -> bool {
    (has_snapshot || base == 0)
        && sides.iter().all(|(local, compacted)| *compacted == (*local <= base))
}

/// The index of the snapshot, if it can be read.
fn snapshot_faults(
    conn: &Connection,
    row: DocumentRow,
    parts: &DocumentCounts,
    faults: &mut Vec<Fault>,
) -> rusqlite::Result<Option<PackedIndex>> {
    let stored = conn
        .prepare_cached("SELECT hash, heads, body FROM snapshot WHERE document = ?1")?
        .query_row([row.0], |row| {
            Ok((row.get::<_, [u8; 32]>(0)?, row.get::<_, Vec<u8>>(1)?, row.get::<_, Vec<u8>>(2)?))
        })
        .optional()?;
    let Some((hash, noted, body)) = stored else {
        if parts.compacted_changes > 0 {
            faults.push(Fault::Snapshot("it is missing".to_owned()));
        }
        return Ok(None);
    };
    if <[u8; 32]>::from(Sha256::digest(&body)) != hash {
        faults.push(Fault::Snapshot("its bytes do not have its hash".to_owned()));
        return Ok(None);
    }
    let length = body.len() as u64;
    let opened = match Opened::open(body) {
        Ok(opened) => opened,
        Err(error) => {
            faults.push(Fault::Snapshot(error.to_string()));
            return Ok(None);
        }
    };
    let mut actors: Vec<(ActorId, u64, ChangeHash)> = conn
        .prepare_cached(
            "SELECT a.actor, f.seq, f.hash FROM folded_actor f JOIN actor a ON a.id = f.actor
             WHERE f.document = ?1",
        )?
        .query_map([row.0], |row| {
            let actor = ActorId::from(row.get::<_, Vec<u8>>(0)?);
            Ok((actor, row.get(1)?, hash_of(row.get(2)?)))
        })?
        .collect::<rusqlite::Result<_>>()?;
    actors.sort();
    let mut acked: Vec<(ActorId, u64, ChangeHash)> =
        opened.index.actors().map(|last| (last.actor, last.seq, last.hash)).collect();
    acked.sort();
    let counted = (parts.compacted_changes, parts.snapshot_bytes) == (opened.changes(), length);
    if actors != acked || unpack_heads(&noted) != opened.heads() || !counted {
        faults.push(Fault::SnapshotNotes);
    }
    Ok(Some((*opened.index).clone()))
}

/// A row of the log, unchecked.
pub(super) struct RawRow {
    pub(in crate::store) local: u64,
    pub(in crate::store) hash: ChangeHash,
    pub(in crate::store) actor: ActorId,
    pub(in crate::store) seq: u64,
    pub(in crate::store) max_op: u64,
    pub(in crate::store) body: Vec<u8>,
}

impl RawRow {
    /// The change, if the bytes have the hash.
    pub(in crate::store) fn check(&self) -> Result<CheckedChange, String> {
        let change = preflight(&self.body).map_err(|error| error.to_string())?;
        match change.hash == self.hash {
            true => Ok(change),
            false => Err(format!("its bytes are those of change {}", change.hash)),
        }
    }
}

pub(super) fn raw_rows(
    conn: &Connection,
    row: DocumentRow,
    base: u64,
) -> rusqlite::Result<Vec<RawRow>> {
    conn.prepare_cached(
        "SELECT c.local, c.hash, a.actor, c.seq, c.max_op, c.body
         FROM change c LEFT JOIN actor a ON a.id = c.actor
         WHERE c.document = ?1 AND c.local > ?2 ORDER BY c.local",
    )?
    .query_map(params![row.0, base], |row| {
        Ok(RawRow {
            local: row.get(0)?,
            hash: hash_of(row.get(1)?),
            actor: ActorId::from(row.get::<_, Option<Vec<u8>>>(2)?.unwrap_or_default()),
            seq: row.get(3)?,
            max_op: row.get(4)?,
            body: row.get(5)?,
        })
    })?
    .collect()
}

fn tail_faults(
    conn: &Connection,
    space: SpaceRow,
    (row, id): (DocumentRow, &DocumentId),
    parts: &DocumentCounts,
    index: Option<&PackedIndex>,
    faults: &mut Vec<Fault>,
) -> rusqlite::Result<()> {
    let mut seen: BTreeSet<ChangeHash> = BTreeSet::new();
    let mut sequences: BTreeMap<ActorId, u64> = BTreeMap::new();
    let mut computed: BTreeSet<ChangeHash> =
        index.map(|index| index.heads().into_iter().collect()).unwrap_or_default();
    let (mut changes, mut bytes, mut damaged) = (0, 0, false);
    let mut operations = match index {
        Some(_) => snapshots::body(conn, row)?.map_or(0, |body| snapshots::operations_of(&body)),
        None => 0,
    };
    for raw in raw_rows(conn, row, parts.base)? {
        (changes, bytes) = (changes + 1, bytes + raw.body.len() as u64);
        let hash = raw.hash;
        let change = match raw.check() {
            Ok(change) => change,
            Err(reason) => {
                damaged = true;
                faults.push(Fault::Change { hash, reason });
                continue;
            }
        };
        operations += change.stored_operations;
        if (&change.actor, change.seq, change.max_op) != (&raw.actor, raw.seq, raw.max_op) {
            faults.push(Fault::Row(hash));
        }
        let there = |hash: &ChangeHash| {
            seen.contains(hash) || index.is_some_and(|index| index.contains(hash))
        };
        if let Some(&missing) = change.dependencies.iter().find(|hash| !there(hash)) {
            damaged = true;
            faults.push(Fault::Dependency { hash, missing });
        }
        let compacted =
            || index.and_then(|index| index.last(&change.actor)).map_or(0, |last| last.seq);
        let last = sequences.entry(change.actor.clone()).or_insert_with(compacted);
        if change.seq != *last + 1 {
            damaged = true;
            faults.push(Fault::Sequence(hash));
        }
        *last = change.seq;
        seen.insert(hash);
        for dependency in &change.dependencies {
            computed.remove(dependency);
        }
        computed.insert(hash);
    }
    // A document from before operations were counted may have a count that is too low, never too high:
    // that would reject changes for which it has room.
    let too_many = !damaged && parts.operations > operations;
    if (parts.tail_changes, parts.tail_bytes) != (changes, bytes) || too_many {
        faults.push(Fault::Counts);
    }
    let noted = heads(conn, row)?;
    if !damaged && !noted.iter().eq(computed.iter()) {
        faults.push(Fault::Heads);
    }
    // Where changes are damaged, the recorded heads supply their hashes.
    let heads = if damaged { noted } else { computed.into_iter().collect() };
    let digest_entry = (!heads.is_empty()).then(|| DigestEntry::of_heads(id, &heads));
    faults.extend(digest_fault(conn, space, row, id, digest_entry)?);
    Ok(())
}

/// Whether a digest entry is correct; and if not, whether the entry or the document's id is damaged,
/// which the sum shows.
fn digest_fault(
    conn: &Connection,
    space: SpaceRow,
    row: DocumentRow,
    id: &DocumentId,
    expected: Option<DigestEntry>,
) -> rusqlite::Result<Option<Fault>> {
    let digest_entry = conn
        .prepare_cached("SELECT leaf FROM document WHERE id = ?1")?
        .query_row([row.0], |row| row.get::<_, Option<[u8; 16]>>(0))?
        .map(DigestEntry::from_bytes);
    if digest_entry == expected {
        return Ok(None);
    }
    let total = |sums: Vec<DigestEntrySum>| {
        sums.into_iter().fold(DigestEntrySum::default(), |sum, one| sum.plus(one))
    };
    let kept = total(digests::kept_sums(conn, space)?);
    let now = total(digests::sums(conn, space)?);
    tracing::debug!(%id, ?digest_entry, ?expected, "a digest entry differs");
    // The sum was made with this very entry: the entry is unchanged, so the id is damaged.
    Ok(Some(if kept == now && digest_entry.is_some() {
        Fault::Identity
    } else {
        Fault::DigestEntry
    }))
}
