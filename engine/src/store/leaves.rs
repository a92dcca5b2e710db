//! Leaves and digests: what documents' heads come to, summed, so that two ends find out in a few
//! hundred bytes where they differ. Kept up in every transaction that changes heads.
//!
//! Sums are kept for the 256 first bytes of document ids; what lies deeper is summed from the
//! leaves when somebody asks.

use landfall_protocol::digest::{Branch, Digest, Leaf, Node, Prefix};
use landfall_protocol::replica::DocumentHeads;
use landfall_protocol::{ChangeHash, DocumentId, limits};
use rusqlite::{Connection, OptionalExtension, params};

use super::rows::{DocumentRow, SpaceRow, heads};
use super::snapshots::folded_heads;
use super::{LocalLog, ViewError};

/// Writes a document's heads, its leaf and the sum that the leaf is in.
pub(super) fn set_heads(
    conn: &Connection,
    space: SpaceRow,
    (document, id): (DocumentRow, &DocumentId),
    before: &[ChangeHash],
    after: &[ChangeHash],
) -> rusqlite::Result<()> {
    put_heads(conn, document, before, after)?;
    set_leaf(conn, space, (document, id), leaf_of(id, after))
}

/// The leaf of a document with these heads; none if it has none.
pub(super) fn leaf_of(id: &DocumentId, heads: &[ChangeHash]) -> Option<Leaf> {
    (!heads.is_empty()).then(|| Leaf::of_heads(id, heads))
}

/// Writes a document's heads, without its leaf.
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

/// Writes a document's leaf and the sum that it is in.
pub(super) fn set_leaf(
    conn: &Connection,
    space: SpaceRow,
    (document, id): (DocumentRow, &DocumentId),
    leaf: Option<Leaf>,
) -> rusqlite::Result<()> {
    let before = conn
        .prepare_cached("SELECT leaf FROM document WHERE id = ?1")?
        .query_row([document.0], |row| row.get::<_, Option<[u8; 16]>>(0))?
        .map(Leaf::from_bytes);
    if before == leaf {
        return Ok(());
    }
    conn.prepare_cached("UPDATE document SET leaf = ?2 WHERE id = ?1")?
        .execute(params![document.0, leaf.map(Leaf::to_bytes)])?;
    move_leaf(conn, space, id, before, leaf)
}

/// Brings the sum that a leaf is in after it.
pub(super) fn move_leaf(
    conn: &Connection,
    space: SpaceRow,
    id: &DocumentId,
    before: Option<Leaf>,
    after: Option<Leaf>,
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
    before.into_iter().for_each(|leaf| digest.remove(leaf));
    after.into_iter().for_each(|leaf| digest.add(leaf));
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

/// Computes the leaves of documents that have none although they have heads, as a store that was
/// migrated has them, and with them the sums. A store says once that it is done: no later opening
/// looks at its documents.
pub(super) fn fill(conn: &Connection) -> rusqlite::Result<()> {
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
        let leaf = Leaf::of_heads(&id, &heads(conn, document)?);
        set_leaf(conn, space, (document, &id), Some(leaf))?;
    }
    conn.execute("UPDATE replica SET leaves_filled = 1", [])?;
    Ok(())
}

/// Sums a space's leaves anew, for all 256 first bytes.
pub(super) fn sums(conn: &Connection, space: SpaceRow) -> rusqlite::Result<Vec<Digest>> {
    let mut sums = vec![Digest::default(); 256];
    for (id, leaf) in leaves_below(conn, space, Prefix::ROOT, None)? {
        sums[usize::from(id.as_bytes()[0])].add(leaf);
    }
    Ok(sums)
}

/// The sums as they are kept.
pub(super) fn kept_sums(conn: &Connection, space: SpaceRow) -> rusqlite::Result<Vec<Digest>> {
    let mut sums = vec![Digest::default(); 256];
    let mut statement =
        conn.prepare_cached("SELECT count, sum, bucket FROM digest WHERE space = ?1")?;
    let mut rows = statement.query([space.0])?;
    while let Some(row) = rows.next()? {
        sums[usize::from(row.get::<_, u8>(2)?)] = digest_of(row)?;
    }
    Ok(sums)
}

/// Writes sums that were computed anew.
pub(super) fn set_sums(
    conn: &Connection,
    space: SpaceRow,
    sums: &[Digest],
) -> rusqlite::Result<()> {
    for (bucket, digest) in (0u8..=255).zip(sums) {
        put_digest(conn, space, bucket, *digest)?;
    }
    Ok(())
}

/// The documents below a prefix with their leaves, in order; no more than `most` of them.
fn leaves_below(
    conn: &Connection,
    space: SpaceRow,
    prefix: Prefix,
    most: Option<usize>,
) -> rusqlite::Result<Vec<(DocumentId, Leaf)>> {
    let (first, last) = prefix.range();
    let most = most.map_or(-1, |most| i64::try_from(most).unwrap_or(i64::MAX));
    conn.prepare_cached(
        "SELECT document, leaf FROM document
         WHERE space = ?1 AND document BETWEEN ?2 AND ?3 AND leaf IS NOT NULL
         ORDER BY document LIMIT ?4",
    )?
    .query_map(params![space.0, first, last, most], |row| {
        Ok((DocumentId::from_bytes(row.get(0)?), Leaf::from_bytes(row.get(1)?)))
    })?
    .collect()
}

fn node(conn: &Connection, space: SpaceRow, prefix: Prefix, whole: bool) -> rusqlite::Result<Node> {
    if whole {
        return Ok(Node::Leaves(leaves_below(conn, space, prefix, None)?));
    }
    let few = leaves_below(conn, space, prefix, Some(limits::BRANCH_LEAVES + 1))?;
    if few.len() <= limits::BRANCH_LEAVES {
        return Ok(Node::Leaves(few));
    }
    let mut children = vec![Digest::default(); 16];
    if prefix.depth < 2 {
        // Children of depth 1 or 2 are made of whole first bytes.
        let first = usize::from(prefix.first[0]);
        let below = if prefix.depth == 0 { 0..256 } else { first..first + 16 };
        let sums = kept_sums(conn, space)?;
        for byte in below {
            let child = if prefix.depth == 0 { byte >> 4 } else { byte & 15 };
            children[child] = children[child].plus(sums[byte]);
        }
    } else {
        for (id, leaf) in leaves_below(conn, space, prefix, None)? {
            children[usize::from(prefix.child_of(&id))].add(leaf);
        }
    }
    Ok(Node::Children(children))
}

pub(super) fn branches(
    conn: &Connection,
    space: SpaceRow,
    prefixes: &[(Prefix, bool)],
) -> rusqlite::Result<Vec<Branch>> {
    let below = |&(prefix, whole)| Ok(Branch { prefix, node: node(conn, space, prefix, whole)? });
    prefixes.iter().map(below).collect()
}

pub(super) fn heads_of(
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
        // One question has no room for more; the others are asked for again.
        if hashes >= limits::FETCH_HASHES {
            break;
        }
    }
    Ok(found)
}

impl LocalLog {
    /// What the store has below some prefixes. With `true` the documents themselves, however many
    /// they are; else digests of the children, or the documents if they are few. Deleted documents
    /// have a leaf as all others.
    pub(crate) fn branches(
        &self,
        space: SpaceRow,
        prefixes: &[(Prefix, bool)],
    ) -> Result<Vec<Branch>, ViewError> {
        self.view(|conn| branches(conn, space, prefixes))
    }

    /// The heads of documents, with some of what they rest on; none of one that the store does not
    /// have, or that is deleted.
    pub(crate) fn heads_of(
        &self,
        space: SpaceRow,
        documents: &[DocumentId],
    ) -> Result<Vec<DocumentHeads>, ViewError> {
        self.view(|conn| heads_of(conn, space, documents))
    }
}

/// What a document's heads rest on, ever further back in its tail, and the heads of what is folded:
/// somewhere there a relay that lost a little finds what it has.
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
    found.extend(folded_heads(conn, document)?.into_iter().map(|(hash, _)| hash));
    Ok(found)
}
