//! Digests of a space: one row for each first byte of its documents' ids, updated by every commit, and sums
//! below longer prefixes, computed on request.

use std::collections::BTreeMap;

use landfall_protocol::digest::{Branch, Digest, DigestEntry, Node, Prefix};
use landfall_protocol::{DocumentId, Offset, SpaceName, limits};
use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::store::damage::damaged;
use crate::store::damage::is_damage;
use crate::store::rows::documents::head;
use crate::store::rows::documents::{Document, space_row};
use crate::store::rows::schema::{column, document_id, number};

const BELOW: &str = "SELECT document, leaf FROM document \
    WHERE space = ?1 AND document BETWEEN ?2 AND ?3 AND leaf IS NOT NULL ORDER BY document \
    LIMIT ?4";

/// Children of a prefix.
const CHILDREN: usize = 16;

/// The cost of finding a prefix, in rows, however few documents are below it.
const PREFIX_ROWS: usize = 16;

/// `i` reads the index alone, `d` the row by its id.
const INDEXED: &str = "SELECT d.leaf, d.space = ?1 AND d.document = i.document \
    FROM document i LEFT JOIN document d ON d.id = i.id \
    WHERE i.space = ?1 AND i.document BETWEEN ?2 AND ?3";

/// The digest rows of a space that one transaction changes.
pub(in crate::store) struct Buckets<'a> {
    conn: &'a Connection,
    space: i64,
    changed: BTreeMap<u8, Digest>,
}

impl<'a> Buckets<'a> {
    pub(in crate::store) fn new(conn: &'a Connection, space: i64) -> Self {
        Self { conn, space, changed: BTreeMap::new() }
    }

    /// Replaces a document's digest entry by another.
    pub(in crate::store) fn note(
        &mut self,
        document: &DocumentId,
        before: Option<DigestEntry>,
        after: Option<DigestEntry>,
    ) -> rusqlite::Result<()> {
        if before == after {
            return Ok(());
        }
        let number = document.as_bytes()[0];
        if let std::collections::btree_map::Entry::Vacant(slot) = self.changed.entry(number) {
            slot.insert(bucket(self.conn, self.space, number)?);
        }
        if let Some(digest) = self.changed.get_mut(&number) {
            before.into_iter().for_each(|digest_entry| digest.remove(digest_entry));
            after.into_iter().for_each(|digest_entry| digest.add(digest_entry));
        }
        Ok(())
    }

    /// Writes the changed rows.
    pub(in crate::store) fn save(self) -> rusqlite::Result<()> {
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

/// Checks the documents found by id against the stored sum of a bucket: a document missing from the index
/// would look absent.
pub(in crate::store) fn check_bucket(
    conn: &Connection,
    space: i64,
    number: u8,
) -> rusqlite::Result<()> {
    let (mut first, mut last) = ([0; 16], [u8::MAX; 16]);
    (first[0], last[0]) = (number, number);
    let mut sum = Digest::default();
    let mut find = conn.prepare_cached(INDEXED)?;
    let mut rows = find.query(params![space, first, last])?;
    let mut is_row_of_index = true;
    while let Some(row) = rows.next()? {
        let digest_entry: Option<[u8; 16]> = row.get(0)?;
        digest_entry
            .into_iter()
            .for_each(|digest_entry| sum.add(DigestEntry::from_bytes(digest_entry)));
        is_row_of_index &= row.get::<_, Option<bool>>(1)? == Some(true);
    }
    match is_row_of_index && sum == bucket(conn, space, number)? {
        true => Ok(()),
        false => {
            let what = format!("a wrong digest of the documents whose ids begin with {number:02x}");
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
pub(in crate::store) fn buckets(
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

/// How far a summation below some prefixes has come. The default is the start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SumCursor {
    /// The prefix that is being summed.
    prefix: usize,
    /// The next document of that prefix; `None` at its first.
    from: Option<[u8; 16]>,
    /// The rows of that prefix read so far.
    below: Below,
}

/// A page of the answer to a query about prefixes, read in one view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BranchPage {
    /// The log's last durable offset.
    pub head: Offset,
    /// The branches of the prefixes that this page completes.
    pub branches: Vec<Branch>,
    /// Where the next page begins; `None` at the end.
    pub next: Option<SumCursor>,
    /// Rows read; each prefix adds a fixed cost.
    pub rows: usize,
}

/// The digests below prefixes, from a cursor on, as far as `rows` rows allow. Reads at least one row.
pub(in crate::store) fn branches(
    conn: &Connection,
    name: &SpaceName,
    prefixes: &[Prefix],
    cursor: SumCursor,
    rows: usize,
) -> rusqlite::Result<BranchPage> {
    let space = space_row(conn, name)?;
    let head = space.map_or(Ok(Offset(0)), |space| head(conn, space))?;
    let mut page = BranchPage { head, branches: Vec::new(), next: None, rows: 0 };
    let mut cursor = cursor;
    while let Some(prefix) = prefixes.get(cursor.prefix).copied() {
        if page.rows >= rows {
            page.next = Some(cursor);
            break;
        }
        page.rows += PREFIX_ROWS;
        let node = match space {
            Some(space) => node(conn, space, prefix, &mut cursor, rows, &mut page.rows)?,
            None => Some(Node::DigestEntries(Vec::new())),
        };
        if let Some(node) = node {
            page.branches.push(Branch { prefix, node });
            cursor = SumCursor { prefix: cursor.prefix + 1, ..SumCursor::default() };
        }
    }
    Ok(page)
}

/// As [`branches`], in one page, of some documents only, in the order of their ids: as if the space had no
/// others.
pub(in crate::store) fn branches_of(
    conn: &Connection,
    name: &SpaceName,
    documents: &[DocumentId],
    prefixes: &[Prefix],
) -> rusqlite::Result<BranchPage> {
    let space = space_row(conn, name)?;
    let head = space.map_or(Ok(Offset(0)), |space| head(conn, space))?;
    let mut found = Vec::new();
    for document in documents {
        let Some(space) = space else { break };
        let row = Document::find(conn, space, document)?;
        let digest_entry = row.and_then(|row| row.digest_entry);
        found.extend(digest_entry.map(|digest_entry| (*document, digest_entry)));
    }
    let branch = |prefix: &Prefix| {
        let (first, last) = prefix.range();
        let mut below = Below::default();
        found
            .iter()
            .filter(|(document, _)| (first..=last).contains(document.as_bytes()))
            .for_each(|(document, digest_entry)| below.add(*prefix, *document, *digest_entry));
        Branch { prefix: *prefix, node: below.node() }
    };
    let rows = documents.len() + PREFIX_ROWS * prefixes.len();
    Ok(BranchPage { head, branches: prefixes.iter().map(branch).collect(), next: None, rows })
}

/// Replaces the digest entries of damaged documents by a value that no replica has. A client that reconciles
/// then requests those documents, and receives the damage.
pub(in crate::store) fn tell_damage(
    conn: &Connection,
    name: &SpaceName,
    damaged: &[DocumentId],
    branches: &mut [Branch],
) -> rusqlite::Result<()> {
    let Some(space) = space_row(conn, name)? else { return Ok(()) };
    for id in damaged {
        let is_above = |branch: &&mut Branch| {
            let (first, last) = branch.prefix.range();
            (first..=last).contains(id.as_bytes())
        };
        let mut above = branches.iter_mut().filter(is_above).peekable();
        if above.peek().is_none() {
            continue;
        }
        let digest_entry = match Document::find(conn, space, id) {
            // The row cannot be read, so it is not in the sums either.
            Err(error) if is_damage(&error) => continue,
            found => found?.and_then(|found| found.digest_entry),
        };
        let Some(digest_entry) = digest_entry else { continue };
        let damaged_entry = DigestEntry::of_damage(id);
        for branch in above {
            match &mut branch.node {
                Node::Children(children) => {
                    let child = &mut children[usize::from(branch.prefix.child_of(id))];
                    child.remove(digest_entry);
                    child.add(damaged_entry);
                }
                Node::DigestEntries(digest_entries) => {
                    let its = digest_entries.iter_mut().find(|(of, _)| of == id);
                    its.into_iter().for_each(|its| its.1 = damaged_entry);
                }
            }
        }
    }
    Ok(())
}

/// `None` if rows remain.
fn node(
    conn: &Connection,
    space: i64,
    prefix: Prefix,
    cursor: &mut SumCursor,
    rows: usize,
    read: &mut usize,
) -> rusqlite::Result<Option<Node>> {
    if prefix.depth < 2 {
        let (first, last) = prefix.range();
        let mut children = vec![Digest::default(); CHILDREN];
        let mut count = 0;
        for (number, digest) in buckets(conn, space, first[0], last[0])? {
            let child = if prefix.depth == 0 { number >> 4 } else { number & 15 };
            let child = &mut children[usize::from(child)];
            *child = child.plus(digest);
            count += digest.count;
        }
        if count > limits::BRANCH_ENTRIES as u64 {
            return Ok(Some(Node::Children(children)));
        }
    }
    let most = rows.saturating_sub(*read).max(1);
    let found = cursor.below.read(conn, space, prefix, cursor.from, most)?;
    *read += found.rows;
    cursor.from = found.next;
    Ok(match found.next {
        Some(_) => None,
        None => Some(std::mem::take(&mut cursor.below).node()),
    })
}

/// The documents read below a prefix.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Below {
    children: [Digest; CHILDREN],
    /// The first of the documents.
    digest_entries: Vec<(DocumentId, DigestEntry)>,
    count: usize,
}

/// The number of rows read, and where the rest begin.
struct DigestRead {
    rows: usize,
    next: Option<[u8; 16]>,
}

impl Below {
    /// Reads some more of them.
    fn read(
        &mut self,
        conn: &Connection,
        space: i64,
        prefix: Prefix,
        from: Option<[u8; 16]>,
        most: usize,
    ) -> rusqlite::Result<DigestRead> {
        let (first, last) = prefix.range();
        let mut find = conn.prepare_cached(BELOW)?;
        let limit = i64::try_from(most).unwrap_or(i64::MAX);
        let mut rows = find.query(params![space, from.unwrap_or(first), last, limit])?;
        let (mut count, mut end) = (0, None);
        while let Some(row) = rows.next()? {
            let (document, digest_entry) =
                (document_id(row, 0)?, DigestEntry::from_bytes(row.get(1)?));
            self.add(prefix, document, digest_entry);
            count += 1;
            end = Some(*document.as_bytes());
        }
        let next = end.filter(|end| count == most && *end < last).map(|end| {
            // `end` is below the last id of the prefix, so a next id exists.
            u128::from_be_bytes(end).wrapping_add(1).to_be_bytes()
        });
        Ok(DigestRead { rows: count, next })
    }

    fn add(&mut self, prefix: Prefix, document: DocumentId, digest_entry: DigestEntry) {
        self.children[usize::from(prefix.child_of(&document))].add(digest_entry);
        if self.digest_entries.len() < limits::BRANCH_ENTRIES {
            self.digest_entries.push((document, digest_entry));
        }
        self.count += 1;
    }

    fn node(self) -> Node {
        match self.count > limits::BRANCH_ENTRIES {
            true => Node::Children(self.children.to_vec()),
            false => Node::DigestEntries(self.digest_entries),
        }
    }
}
