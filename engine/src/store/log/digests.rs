//! Digest entries and sums of documents' heads, with which two ends find in a few hundred bytes where
//! they differ. They are updated in every transaction that changes heads.
//!
//! Sums are stored for the 256 first bytes of document ids; deeper ones are computed from the digest
//! entries on demand.

use landfall_protocol::client::DocumentHeads;
use landfall_protocol::digest::{Branch, Digest, DigestEntry, Node, Prefix};
use landfall_protocol::{ChangeHash, DocumentId, limits};
use rusqlite::{Connection, OptionalExtension, params};

use super::rows::{DocumentRow, SpaceRow, heads};
use super::snapshots::compacted_heads;
use crate::store::{LocalLog, ViewError};

/// Writes a document's heads, its digest entry and the sum that includes it.
pub(in crate::store) fn set_heads(
    conn: &Connection,
    space: SpaceRow,
    (document, id): (DocumentRow, &DocumentId),
    before: &[ChangeHash],
    after: &[ChangeHash],
) -> rusqlite::Result<()> {
    put_heads(conn, document, before, after)?;
    set_digest_entry(conn, space, (document, id), digest_entry_of(id, after))
}

/// The digest entry of a document with these heads; none if it has none.
pub(super) fn digest_entry_of(id: &DocumentId, heads: &[ChangeHash]) -> Option<DigestEntry> {
    (!heads.is_empty()).then(|| DigestEntry::of_heads(id, heads))
}

/// Writes a document's heads, without its digest entry.
pub(super) fn put_heads(
    conn: &Connection,
    document: DocumentRow,
    before: &[ChangeHash],
    after: &[ChangeHash],
) -> rusqlite::Result<()> {
    let is_in = |heads: &[ChangeHash], hash: &ChangeHash| heads.binary_search(hash).is_ok();
    for gone in before.iter().filter(|hash| !is_in(after, hash)) {
        conn.prepare_cached("DELETE FROM head WHERE document = ?1 AND hash = ?2")?
            .execute(params![document.0, gone.0])?;
    }
    for new in after.iter().filter(|hash| !is_in(before, hash)) {
        conn.prepare_cached("INSERT INTO head (document, hash) VALUES (?1, ?2)")?
            .execute(params![document.0, new.0])?;
    }
    Ok(())
}

/// Writes a document's digest entry and the sum that includes it.
pub(in crate::store) fn set_digest_entry(
    conn: &Connection,
    space: SpaceRow,
    (document, id): (DocumentRow, &DocumentId),
    digest_entry: Option<DigestEntry>,
) -> rusqlite::Result<()> {
    let before = conn
        .prepare_cached("SELECT leaf FROM document WHERE id = ?1")?
        .query_row([document.0], |row| row.get::<_, Option<[u8; 16]>>(0))?
        .map(DigestEntry::from_bytes);
    if before == digest_entry {
        return Ok(());
    }
    conn.prepare_cached("UPDATE document SET leaf = ?2 WHERE id = ?1")?
        .execute(params![document.0, digest_entry.map(DigestEntry::to_bytes)])?;
    move_digest_entry(conn, space, id, before, digest_entry)
}

/// Updates the sum that includes a digest entry.
pub(super) fn move_digest_entry(
    conn: &Connection,
    space: SpaceRow,
    id: &DocumentId,
    before: Option<DigestEntry>,
    after: Option<DigestEntry>,
) -> rusqlite::Result<()> {
    if before == after {
        return Ok(());
    }
    let bucket = id.as_bytes()[0];
    let mut digest = conn
        .prepare_cached("SELECT count, sum FROM digest WHERE space = ?1 AND bucket = ?2")?
        .query_row(params![space.0, bucket], digest_of)
        .optional()?
        .unwrap_or_default();
    before.into_iter().for_each(|digest_entry| digest.remove(digest_entry));
    after.into_iter().for_each(|digest_entry| digest.add(digest_entry));
    put_digest(conn, space, bucket, digest)
}

fn put_digest(
    conn: &Connection,
    space: SpaceRow,
    bucket: u8,
    digest: Digest,
) -> rusqlite::Result<()> {
    conn.prepare_cached(
        "INSERT INTO digest (space, bucket, count, sum) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT DO UPDATE SET count = excluded.count, sum = excluded.sum",
    )?
    .execute(params![space.0, bucket, digest.count, digest.sum_bytes()])?;
    Ok(())
}

fn digest_of(row: &rusqlite::Row<'_>) -> rusqlite::Result<Digest> {
    Ok(Digest { count: row.get(0)?, sum: u128::from_le_bytes(row.get(1)?) })
}

/// Computes missing digest entries and their sums for documents that have heads, as in a migrated
/// store. The store records that this is done, so that later openings read no documents for it.
pub(in crate::store) fn fill(conn: &Connection) -> rusqlite::Result<()> {
    if conn.query_row("SELECT leaves_filled FROM replica", [], |row| row.get(0))? {
        return Ok(());
    }
    let missing: Vec<(DocumentRow, SpaceRow, DocumentId)> = conn
        .prepare(
            "SELECT id, space, document FROM document d
             WHERE leaf IS NULL AND EXISTS (SELECT 1 FROM head WHERE document = d.id)",
        )?
        .query_map([], |row| {
            let id = DocumentId::from_bytes(row.get(2)?);
            Ok((DocumentRow(row.get(0)?), SpaceRow(row.get(1)?), id))
        })?
        .collect::<rusqlite::Result<_>>()?;
    for (document, space, id) in missing {
        let digest_entry = DigestEntry::of_heads(&id, &heads(conn, document)?);
        set_digest_entry(conn, space, (document, &id), Some(digest_entry))?;
    }
    conn.execute("UPDATE replica SET leaves_filled = 1", [])?;
    Ok(())
}

/// Computes a space's sums from its digest entries, for all 256 first bytes.
pub(in crate::store) fn sums(conn: &Connection, space: SpaceRow) -> rusqlite::Result<Vec<Digest>> {
    let mut sums = vec![Digest::default(); 256];
    for (id, digest_entry) in digest_entries_below(conn, space, Prefix::ROOT, None)? {
        sums[usize::from(id.as_bytes()[0])].add(digest_entry);
    }
    Ok(sums)
}

/// The stored sums.
pub(in crate::store) fn kept_sums(
    conn: &Connection,
    space: SpaceRow,
) -> rusqlite::Result<Vec<Digest>> {
    let mut sums = vec![Digest::default(); 256];
    let mut statement =
        conn.prepare_cached("SELECT count, sum, bucket FROM digest WHERE space = ?1")?;
    let mut rows = statement.query([space.0])?;
    while let Some(row) = rows.next()? {
        sums[usize::from(row.get::<_, u8>(2)?)] = digest_of(row)?;
    }
    Ok(sums)
}

/// Writes computed sums.
pub(in crate::store) fn set_sums(
    conn: &Connection,
    space: SpaceRow,
    sums: &[Digest],
) -> rusqlite::Result<()> {
    for (bucket, digest) in (0u8..=255).zip(sums) {
        put_digest(conn, space, bucket, *digest)?;
    }
    Ok(())
}

/// The documents below a prefix with their digest entries, in order; at most `most` of them.
fn digest_entries_below(
    conn: &Connection,
    space: SpaceRow,
    prefix: Prefix,
    most: Option<usize>,
) -> rusqlite::Result<Vec<(DocumentId, DigestEntry)>> {
    let (first, last) = prefix.range();
    let most = most.map_or(-1, |most| i64::try_from(most).unwrap_or(i64::MAX));
    conn.prepare_cached(
        "SELECT document, leaf FROM document
         WHERE space = ?1 AND document BETWEEN ?2 AND ?3 AND leaf IS NOT NULL
         ORDER BY document LIMIT ?4",
    )?
    .query_map(params![space.0, first, last, most], |row| {
        Ok((DocumentId::from_bytes(row.get(0)?), DigestEntry::from_bytes(row.get(1)?)))
    })?
    .collect()
}

fn node(conn: &Connection, space: SpaceRow, prefix: Prefix, whole: bool) -> rusqlite::Result<Node> {
    if whole {
        return Ok(Node::DigestEntries(digest_entries_below(conn, space, prefix, None)?));
    }
    let few = digest_entries_below(conn, space, prefix, Some(limits::BRANCH_ENTRIES + 1))?;
    if few.len() <= limits::BRANCH_ENTRIES {
        return Ok(Node::DigestEntries(few));
    }
    let mut children = vec![Digest::default(); 16];
    if prefix.depth < 2 {
        // Children of depth 1 or 2 consist of whole first bytes.
        let first = usize::from(prefix.first[0]);
        let below = if prefix.depth == 0 { 0..256 } else { first..first + 16 };
        let sums = kept_sums(conn, space)?;
        for byte in below {
            let child = if prefix.depth == 0 { byte >> 4 } else { byte & 15 };
            children[child] = children[child].plus(sums[byte]);
        }
    } else {
        for (id, digest_entry) in digest_entries_below(conn, space, prefix, None)? {
            children[usize::from(prefix.child_of(&id))].add(digest_entry);
        }
    }
    Ok(Node::Children(children))
}

pub(in crate::store) fn branches(
    conn: &Connection,
    space: SpaceRow,
    prefixes: &[(Prefix, bool)],
) -> rusqlite::Result<Vec<Branch>> {
    let below = |&(prefix, whole)| Ok(Branch { prefix, node: node(conn, space, prefix, whole)? });
    prefixes.iter().map(below).collect()
}

pub(in crate::store) fn heads_of(
    conn: &Connection,
    space: SpaceRow,
    documents: &[DocumentId],
) -> rusqlite::Result<Vec<DocumentHeads>> {
    let (mut found, mut hashes) = (Vec::new(), 0);
    for id in documents {
        let (mut heads_of, mut older_of) = (Vec::new(), Vec::new());
        if let Some(row) = super::rows::document_row(conn, space, id)? {
            heads_of = heads(conn, row)?;
            older_of = older(conn, row)?;
        }
        hashes += heads_of.len() + older_of.len();
        found.push(DocumentHeads { document: *id, heads: heads_of, older: older_of });
        // One request has no room for more; the other documents are requested again.
        if hashes >= limits::FETCH_HASHES {
            break;
        }
    }
    Ok(found)
}

impl LocalLog {
    /// The contents below some prefixes: with `true` the documents themselves, however many; else
    /// digests of the children, or the documents if they are few. Deleted documents have a digest
    /// entry, as all others.
    pub(crate) fn branches(
        &self,
        space: SpaceRow,
        prefixes: &[(Prefix, bool)],
    ) -> Result<Vec<Branch>, ViewError> {
        self.view(|conn| branches(conn, space, prefixes))
    }

    /// The heads of documents, with some of their ancestors; none for a document that is missing or
    /// deleted.
    pub(crate) fn heads_of(
        &self,
        space: SpaceRow,
        documents: &[DocumentId],
    ) -> Result<Vec<DocumentHeads>, ViewError> {
        self.view(|conn| heads_of(conn, space, documents))
    }
}

/// Ancestors of a document's heads, ever further back in its tail, and the heads of its snapshot. A
/// relay that lost a little finds changes that it has among them.
fn older(conn: &Connection, document: DocumentRow) -> rusqlite::Result<Vec<ChangeHash>> {
    let mut find = conn.prepare_cached(
        "SELECT c.hash FROM change c JOIN document d ON d.id = c.document
         WHERE c.document = ?1 AND c.local > d.base ORDER BY c.local DESC LIMIT 1 OFFSET ?2",
    )?;
    let mut found = Vec::new();
    for back in (0..32).map(|power| 1u64 << power) {
        match find.query_row(params![document.0, back], |row| row.get(0)).optional()? {
            Some(hash) => found.push(ChangeHash(hash)),
            None => break,
        }
    }
    found.extend(compacted_heads(conn, document)?.into_iter().map(|(hash, _)| hash));
    Ok(found)
}
