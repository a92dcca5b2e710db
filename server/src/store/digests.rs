//! Digests of a space: one row for each first byte of its documents' ids, kept up by every commit,
//! and sums below longer prefixes, which are taken when somebody asks.

use std::collections::BTreeMap;

use landfall_protocol::digest::{Branch, Digest, Leaf, Node, Prefix};
use landfall_protocol::{DocumentId, Offset, SpaceName, limits};
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::checked::damaged;
use super::documents::space_row;
use super::log::head;
use super::schema::{column, document_id, number};

const BELOW: &str = "SELECT document, leaf FROM document \
    WHERE space = ?1 AND document BETWEEN ?2 AND ?3 AND leaf IS NOT NULL ORDER BY document";

/// `i` is read from the index alone, `d` by its row id.
const INDEXED: &str = "SELECT d.leaf, d.space = ?1 AND d.document = i.document \
    FROM document i LEFT JOIN document d ON d.id = i.id \
    WHERE i.space = ?1 AND i.document BETWEEN ?2 AND ?3";

/// The rows of a space that one transaction changes.
pub(super) struct Buckets<'a> {
    conn: &'a Connection,
    space: i64,
    changed: BTreeMap<u8, Digest>,
}

impl<'a> Buckets<'a> {
    pub(super) fn new(conn: &'a Connection, space: i64) -> Self {
        Self { conn, space, changed: BTreeMap::new() }
    }

    /// A document went from one leaf to another.
    pub(super) fn note(
        &mut self,
        document: &DocumentId,
        before: Option<Leaf>,
        after: Option<Leaf>,
    ) -> rusqlite::Result<()> {
        if before == after {
            return Ok(());
        }
        let number = document.as_bytes()[0];
        if let std::collections::btree_map::Entry::Vacant(slot) = self.changed.entry(number) {
            slot.insert(bucket(self.conn, self.space, number)?);
        }
        if let Some(digest) = self.changed.get_mut(&number) {
            before.into_iter().for_each(|leaf| digest.remove(leaf));
            after.into_iter().for_each(|leaf| digest.add(leaf));
        }
        Ok(())
    }

    /// Writes the rows.
    pub(super) fn save(self) -> rusqlite::Result<()> {
        let sql = "INSERT INTO digest (space, bucket, count, sum) VALUES (?1, ?2, ?3, ?4) \
            ON CONFLICT (space, bucket) DO UPDATE SET count = excluded.count, sum = excluded.sum";
        let mut write = self.conn.prepare_cached(sql)?;
        for (number, digest) in self.changed {
            write.execute(params![
                self.space,
                number,
                column(digest.count)?,
                digest.sum_bytes()
            ])?;
        }
        Ok(())
    }
}

/// Holds the documents that are found by their ids against the sum of all of a bucket: one that the
/// index does not lead to would pass for one that is absent.
pub(super) fn check_bucket(conn: &Connection, space: i64, number: u8) -> rusqlite::Result<()> {
    let (mut first, mut last) = ([0; 16], [u8::MAX; 16]);
    (first[0], last[0]) = (number, number);
    let mut sum = Digest::default();
    let mut find = conn.prepare_cached(INDEXED)?;
    let mut rows = find.query(params![space, first, last])?;
    let mut is_row_of_index = true;
    while let Some(row) = rows.next()? {
        let leaf: Option<[u8; 16]> = row.get(0)?;
        leaf.into_iter().for_each(|leaf| sum.add(Leaf::from_bytes(leaf)));
        is_row_of_index &= row.get::<_, Option<bool>>(1)? == Some(true);
    }
    match is_row_of_index && sum == bucket(conn, space, number)? {
        true => Ok(()),
        false => {
            let what =
                format!("documents that begin with {number:02x} and are not as their digest");
            Err(damaged(None, None, what))
        }
    }
}

fn of_row(row: &Row<'_>, first: usize) -> rusqlite::Result<Digest> {
    let sum: [u8; 16] = row.get(first + 1)?;
    Ok(Digest { count: number(row, first)?, sum: u128::from_le_bytes(sum) })
}

fn bucket(conn: &Connection, space: i64, number: u8) -> rusqlite::Result<Digest> {
    let sql = "SELECT count, sum FROM digest WHERE space = ?1 AND bucket = ?2";
    let mut find = conn.prepare_cached(sql)?;
    let found = find.query_row(params![space, number], |row| of_row(row, 0)).optional()?;
    Ok(found.unwrap_or_default())
}

/// The rows of the buckets from one to another, both included.
pub(super) fn buckets(
    conn: &Connection,
    space: i64,
    first: u8,
    last: u8,
) -> rusqlite::Result<Vec<(u8, Digest)>> {
    let sql = "SELECT bucket, count, sum FROM digest \
        WHERE space = ?1 AND bucket BETWEEN ?2 AND ?3 ORDER BY bucket";
    let mut find = conn.prepare_cached(sql)?;
    let rows =
        find.query_map(params![space, first, last], |row| Ok((row.get(0)?, of_row(row, 1)?)));
    rows?.collect()
}

/// What lies below each prefix, and the log's head in the same view.
pub(super) fn branches(
    conn: &Connection,
    name: &SpaceName,
    prefixes: &[Prefix],
) -> rusqlite::Result<(Offset, Vec<Branch>)> {
    let space = space_row(conn, name)?;
    let head = space.map_or(Ok(Offset(0)), |space| head(conn, space))?;
    let node = |prefix: &Prefix| match space {
        Some(space) => node(conn, space, *prefix),
        None => Ok(Node::Leaves(Vec::new())),
    };
    let branch = |prefix: &Prefix| Ok(Branch { prefix: *prefix, node: node(prefix)? });
    Ok((head, prefixes.iter().map(branch).collect::<rusqlite::Result<_>>()?))
}

fn node(conn: &Connection, space: i64, prefix: Prefix) -> rusqlite::Result<Node> {
    if prefix.depth >= 2 {
        return below(conn, space, prefix);
    }
    let (first, last) = prefix.range();
    let mut children = vec![Digest::default(); 16];
    let mut count = 0;
    for (number, digest) in buckets(conn, space, first[0], last[0])? {
        let child = if prefix.depth == 0 { number >> 4 } else { number & 15 };
        let child = &mut children[usize::from(child)];
        *child = child.plus(digest);
        count += digest.count;
    }
    match count > limits::BRANCH_LEAVES as u64 {
        true => Ok(Node::Children(children)),
        false => below(conn, space, prefix),
    }
}

/// By the documents themselves.
fn below(conn: &Connection, space: i64, prefix: Prefix) -> rusqlite::Result<Node> {
    let (first, last) = prefix.range();
    let mut find = conn.prepare_cached(BELOW)?;
    let mut rows = find.query(params![space, first, last])?;
    let mut leaves = Vec::new();
    let mut children = vec![Digest::default(); 16];
    let mut count = 0;
    while let Some(row) = rows.next()? {
        let (document, leaf) = (document_id(row, 0)?, Leaf::from_bytes(row.get(1)?));
        children[usize::from(prefix.child_of(&document))].add(leaf);
        count += 1;
        if count <= limits::BRANCH_LEAVES {
            leaves.push((document, leaf));
        }
    }
    match count > limits::BRANCH_LEAVES {
        true => Ok(Node::Children(children)),
        false => Ok(Node::Leaves(leaves)),
    }
}
