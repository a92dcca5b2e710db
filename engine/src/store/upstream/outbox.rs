//! The outbox: changes, deletions and snapshots that an upstream is not known to hold, counted, and
//! read in pages, in the order of the log. Nothing is queued anywhere else.

use std::collections::BTreeMap;

use landfall_protocol::admission::Roots;
use landfall_protocol::client::{OutboxChange, OutboxKind};
use landfall_protocol::{DocumentId, Local, limits};
use rusqlite::{Connection, params};

use super::acked::gaps_between;
use crate::store::log::rows::{SpaceRow, UpstreamRow, space_totals};
use crate::store::log::snapshots::unpack_heads;

/// A page of the outbox, without rejected documents; `true` if it was cut.
pub(in crate::store) fn outbox_page(
    conn: &Connection,
    upstream: UpstreamRow,
    space: SpaceRow,
    after: Local,
    changes: usize,
    bytes: usize,
) -> rusqlite::Result<(Vec<OutboxChange>, bool)> {
    let last = space_totals(conn, space)?.last;
    let gaps = gaps_between(conn, upstream, space, after.0 + 1, last)?;
    let mut page = Page { items: Vec::new(), weight: 0, changes, bytes };
    let mut others = snapshots(conn, upstream, space, after, (changes, bytes))?;
    deletions(conn, upstream, space, &gaps, changes, &mut others)?;
    // Snapshots and deletions have local numbers too. They are merged in by number, so that the
    // upstream receives everything in the order of the log, with dependencies first.
    for (first, last) in gaps {
        let mut statement = conn.prepare_cached(
            "SELECT c.local, d.document, c.body, d.merges AND c.seq = 1
             FROM change c JOIN document d ON d.id = c.document
             WHERE c.space = ?2 AND c.local BETWEEN ?3 AND ?4 AND c.local > d.base AND NOT EXISTS
                 (SELECT 1 FROM parked p WHERE p.upstream = ?1 AND p.document = c.document)
             ORDER BY c.local",
        )?;
        let mut rows = statement.query(params![upstream.0, space.0, first, last])?;
        while let Some(row) = rows.next()? {
            let local = Local(row.get(0)?);
            if !page.take_before(&mut others, Some(local)) {
                return Ok((page.items, true));
            }
            let (document, body): (_, Vec<u8>) = (DocumentId::from_bytes(row.get(1)?), row.get(2)?);
            let roots = match row.get::<_, bool>(3)? && is_root(&body) {
                true => Roots::Several,
                false => Roots::One,
            };
            let weight = body.len();
            let what = OutboxKind::Change(body, roots);
            if !page.take(OutboxChange { local, document, what }, weight) {
                return Ok((page.items, true));
            }
        }
    }
    let whole = page.take_before(&mut others, None);
    Ok((page.items, !whole))
}

/// Whether a change has no dependencies.
fn is_root(body: &[u8]) -> bool {
    let change = automerge::Change::from_bytes(body.to_vec());
    change.is_ok_and(|change| change.deps().is_empty())
}

struct Page {
    items: Vec<OutboxChange>,
    weight: usize,
    changes: usize,
    bytes: usize,
}

impl Page {
    /// Adds an item; `false` if the page is full.
    fn take(&mut self, item: OutboxChange, weight: usize) -> bool {
        // A page holds at least one item, or an item larger than a page would block the outbox for
        // ever.
        let fits = self.items.len() < self.changes && self.weight + weight <= self.bytes;
        if !fits && !self.items.is_empty() {
            return false;
        }
        self.weight += weight;
        self.items.push(item);
        true
    }

    /// Adds the snapshots and deletions before a position; `false` if the page is full.
    fn take_before(
        &mut self,
        others: &mut BTreeMap<u64, OutboxChange>,
        before: Option<Local>,
    ) -> bool {
        while let Some(first) = others.first_entry()
            && before.is_none_or(|before| *first.key() < before.0)
        {
            let weight = weight(&first.get().what);
            if !self.take(first.get().clone(), weight) {
                return false;
            }
            first.remove();
        }
        true
    }
}

/// The weight of a snapshot upload or a deletion in a page.
fn weight(what: &OutboxKind) -> usize {
    match what {
        OutboxKind::Snapshot { heads, .. } => heads.len() * limits::UPLOAD_HEAD_WEIGHT,
        OutboxKind::Change(..) | OutboxKind::Tombstone => 0,
    }
}

/// Unacked snapshots by local number, no more than fit a page.
fn snapshots(
    conn: &Connection,
    upstream: UpstreamRow,
    space: SpaceRow,
    after: Local,
    (most, bytes): (usize, usize),
) -> rusqlite::Result<BTreeMap<u64, OutboxChange>> {
    let snapshot = |row: &rusqlite::Row<'_>| {
        let heads = unpack_heads(&row.get::<_, Vec<u8>>(4)?);
        let heads = heads.into_iter().map(|(hash, _)| hash).collect();
        let what = OutboxKind::Snapshot { hash: row.get(2)?, total: row.get(3)?, heads };
        let (local, document) = (Local(row.get(0)?), DocumentId::from_bytes(row.get(1)?));
        Ok((local.0, OutboxChange { local, document, what }))
    };
    let mut find = conn.prepare_cached(
        "SELECT o.local, d.document, s.hash, d.folded_bytes, s.heads
         FROM owed o JOIN document d ON d.id = o.document JOIN snapshot s ON s.document = d.id
         WHERE o.upstream = ?1 AND o.space = ?2 AND o.local > ?3 AND NOT EXISTS
             (SELECT 1 FROM parked p WHERE p.upstream = ?1 AND p.document = o.document)
         ORDER BY o.local LIMIT ?4",
    )?;
    let rows = find.query_map(params![upstream.0, space.0, after.0, most + 1], snapshot)?;
    let (mut found, mut heads) = (BTreeMap::new(), 0);
    for row in rows {
        let (local, upload) = row?;
        // One more than fits shows that the page was cut.
        let fits = heads <= bytes;
        heads += weight(&upload.what);
        found.insert(local, upload);
        if !fits {
            break;
        }
    }
    Ok(found)
}

/// Adds the deletions that the upstream does not hold, no more than fit a page.
fn deletions(
    conn: &Connection,
    upstream: UpstreamRow,
    space: SpaceRow,
    gaps: &[(u64, u64)],
    most: usize,
    others: &mut BTreeMap<u64, OutboxChange>,
) -> rusqlite::Result<()> {
    let (Some((first, _)), Some((_, last))) = (gaps.first(), gaps.last()) else { return Ok(()) };
    let mut statement = conn.prepare_cached(
        "SELECT x.local, d.document FROM deleted x JOIN document d ON d.id = x.document
         WHERE x.space = ?2 AND x.local BETWEEN ?3 AND ?4 AND NOT EXISTS
             (SELECT 1 FROM parked p WHERE p.upstream = ?1 AND p.document = x.document)
         ORDER BY x.local",
    )?;
    let mut rows = statement.query(params![upstream.0, space.0, first, last])?;
    let mut found = 0;
    // One more than fits shows that the page was cut.
    while found <= most
        && let Some(row) = rows.next()?
    {
        let local: u64 = row.get(0)?;
        if gaps.iter().any(|(first, last)| (*first..=*last).contains(&local)) {
            let (local, document) = (Local(local), DocumentId::from_bytes(row.get(1)?));
            others.insert(local.0, OutboxChange { local, document, what: OutboxKind::Tombstone });
            found += 1;
        }
    }
    Ok(())
}
