//! The reads of automerge-repo's sync: documents that are uncompacted, compacted, compacted with a tail,
//! deleted and absent.

use landfall_protocol::automerge_repo::{DocumentIndex, IndexRow};
use landfall_protocol::{ChangeHash, DocumentId, Offset, SpaceName};
use landfall_test_rng::Rng;

use super::made::{Grown, commit, heads, opens, pushed, snapshot, tombstone};
use super::open;
use crate::store::{
    Admin, CompactionWindow, Documents, Log, Recent, RecentPage, Snapshots, SqliteStore,
    StoredDocument,
};

const PLAIN: DocumentId = DocumentId::from_bytes([1; 16]);
const LONG: DocumentId = DocumentId::from_bytes([2; 16]);
const DELETED: DocumentId = DocumentId::from_bytes([3; 16]);
const ABSENT: DocumentId = DocumentId::from_bytes([4; 16]);

fn space() -> SpaceName {
    "notes".parse().unwrap()
}

/// A store with a plain document of 50 changes, a long one of 100 and a deleted one; and the two live ones.
/// The long one's changes have the offsets 51 to 150.
fn store() -> (tempfile::TempDir, SqliteStore, Grown, Grown) {
    let (folder, store) = open();
    let (mut plain, mut long) = (Grown::default(), Grown::default());
    let mut entries = Vec::new();
    let mut rng = Rng::new(3);
    for offset in 1..=150 {
        let (document, grown) = if offset <= 50 { (PLAIN, &mut plain) } else { (LONG, &mut long) };
        grown.grow(&document, &mut rng, 3);
        entries.push(grown.made(grown.changes.len() - 1, offset).entry(document));
    }
    let mut deleted = Grown::default();
    deleted.grow(&DELETED, &mut rng, 1);
    entries.push(deleted.made(0, 151).entry(DELETED));
    commit(&store, &space(), Some(opens(1, 1)), entries).unwrap();
    commit(&store, &space(), None, vec![tombstone(152, DELETED)]).unwrap();
    (folder, store, plain, long)
}

/// Compacts the long document's changes, except the last `recent_entries` of the log.
fn compact(store: &SqliteStore, long: &Grown, recent_entries: u64) {
    let window = CompactionWindow { recent_entries, ..CompactionWindow::NONE };
    let task = store.compaction_task(&space(), &LONG, 0, window).unwrap().unwrap();
    let compacted = snapshot(&long.changes[..task.through.0 as usize - 50], 700);
    assert!(store.compaction_commit(&task, compacted, 0).unwrap());
}

fn standing(store: &SqliteStore, document: DocumentId) -> StoredDocument {
    store.document_heads(&space(), &document).unwrap()
}

/// The document's index, checked against its state.
fn index(store: &SqliteStore, document: DocumentId, with_compacted: bool) -> DocumentIndex {
    let index = store.document_index(&space(), &document, with_compacted).unwrap().unwrap();
    let (heads, last) = (index.heads.clone(), index.last);
    assert_eq!(standing(store, document), StoredDocument::Present { heads, last });
    index
}

/// The rows of a history's changes from one on, the first of them at a given offset.
fn rows(grown: &Grown, from: usize, first: u64) -> Vec<IndexRow> {
    let row = |(at, change): (usize, &landfall_protocol::compacted::CompactedChange)| IndexRow {
        offset: Offset(first + at as u64),
        hash: change.hash,
        dependencies: change.dependencies.clone(),
    };
    grown.changes[from..].iter().enumerate().map(row).collect()
}

fn hashes(grown: &Grown, through: usize) -> Vec<ChangeHash> {
    let mut hashes: Vec<_> = grown.changes[..through].iter().map(|change| change.hash).collect();
    hashes.sort_unstable();
    hashes
}

#[test]
fn known_changes_match_the_document_index() {
    let (_folder, store, plain, long) = store();
    let unknown = ChangeHash([7; 32]);
    let known = |document, mut asked: Vec<ChangeHash>| {
        asked.push(unknown);
        store.changes_known(&space(), &document, &asked).unwrap()
    };
    assert_eq!(known(PLAIN, hashes(&plain, 50)), hashes(&plain, 50));
    assert_eq!(known(LONG, hashes(&plain, 50)), []);
    assert_eq!(known(DELETED, hashes(&plain, 1)), []);
    assert_eq!(known(ABSENT, hashes(&plain, 1)), []);
    // Some of them are compacted, and have no rows any more.
    compact(&store, &long, 20);
    while store.prune(u64::MAX, 1_000).unwrap() {}
    let mut twice = hashes(&long, 100);
    twice.push(twice[3]);
    assert_eq!(known(LONG, twice), hashes(&long, 100));
    assert_eq!(known(LONG, vec![long.changes[99].hash]), [long.changes[99].hash]);
}

#[test]
fn the_index_of_a_plain_document_is_its_rows() {
    let (_folder, store, plain, _) = store();
    for with_compacted in [false, true] {
        let index = index(&store, PLAIN, with_compacted);
        assert_eq!((index.heads, index.last), (heads(&plain.changes), Offset(50)));
        assert!(index.compacted.is_none());
        assert_eq!(index.tail, rows(&plain, 0, 1));
    }
}

#[test]
fn the_index_of_a_compacted_document_has_snapshot_and_tail() {
    let (_folder, store, _, long) = store();
    compact(&store, &long, 32);
    // Whether or not the compacted rows are deleted already.
    for pruned in [false, true] {
        while pruned && store.prune(u64::MAX / 2, 100).unwrap() {}
        let index = index(&store, LONG, true);
        assert_eq!((index.heads, index.last), (heads(&long.changes), Offset(150)));
        let compacted = index.compacted.unwrap();
        assert_eq!((compacted.offset, compacted.bytes), (Offset(120), 700));
        assert_eq!(compacted.hash, snapshot(&long.changes[..70], 700).hash);
        assert_eq!(compacted.heads, heads(&long.changes[..70]));
        let mut known: Vec<_> = compacted.index.unwrap().hashes().collect();
        known.sort_unstable();
        assert_eq!(known, hashes(&long, 70));
        assert_eq!(index.tail, rows(&long, 70, 121));
    }
}

#[test]
fn a_document_without_a_tail_ends_at_its_snapshot() {
    let (_folder, store, _, long) = store();
    compact(&store, &long, 0);
    let whole = index(&store, LONG, false);
    assert_eq!((whole.heads, whole.last), (heads(&long.changes), Offset(150)));
    assert!(whole.tail.is_empty());
    // A snapshot that a client pushed has an offset of its own.
    let mut more = long.clone();
    more.grow(&LONG, &mut Rng::new(9), 1);
    let snapshot = snapshot(&more.changes, 900);
    commit(&store, &space(), None, vec![pushed(153, LONG, snapshot)]).unwrap();
    let whole = index(&store, LONG, false);
    assert_eq!((whole.heads, whole.last), (heads(&more.changes), Offset(153)));
}

#[test]
fn compacted_changes_are_loaded_on_demand_and_once() {
    let (folder, store, _, long) = store();
    compact(&store, &long, 32);
    let loads = || store.gauges().unwrap().index_loads;
    assert!(index(&store, LONG, false).compacted.unwrap().index.is_none());
    assert_eq!(loads(), 0);
    for _ in 0..3 {
        index(&store, LONG, true);
    }
    assert_eq!(loads(), 1);
    // Admission finds it in memory, and vice versa.
    store.load_index(&space(), &LONG).unwrap();
    assert_eq!(loads(), 1);
    store.close().unwrap();
    let store = SqliteStore::open(folder.path()).unwrap();
    store.load_index(&space(), &LONG).unwrap();
    index(&store, LONG, true);
    assert_eq!(store.gauges().unwrap().index_loads, 1);
}

#[test]
fn a_damaged_index_is_reported() {
    let (folder, store, _, long) = store();
    compact(&store, &long, 32);
    let conn = rusqlite::Connection::open(folder.path().join("relay.db")).unwrap();
    for sql in ["UPDATE snapshot_index SET packed = x'00'", "DELETE FROM snapshot_index"] {
        assert_eq!(conn.execute(sql, []).unwrap(), 1);
        let error = store.document_index(&space(), &LONG, true).unwrap_err();
        assert_eq!(error.damaged_index().unwrap().document, LONG);
        assert!(
            index(&store, LONG, false).compacted.is_some(),
            "this query does not need the index"
        );
    }
    assert_eq!(store.gauges().unwrap().damaged_indexes, 2);
    let made = snapshot(&long.changes[..70], 700);
    assert!(store.store_index(&space(), &LONG, &made.hash, made.packed).unwrap());
    assert_eq!(index(&store, LONG, true).compacted.unwrap().index.unwrap().len(), 70);
}

#[test]
fn a_deleted_or_absent_document_has_no_index() {
    let (_folder, store, ..) = store();
    assert_eq!(standing(&store, DELETED), StoredDocument::Deleted);
    assert_eq!(standing(&store, ABSENT), StoredDocument::Absent);
    let elsewhere = "elsewhere".parse().unwrap();
    assert_eq!(store.document_heads(&elsewhere, &PLAIN).unwrap(), StoredDocument::Absent);
    for (space, document) in [(space(), DELETED), (space(), ABSENT), (elsewhere, PLAIN)] {
        assert!(store.document_index(&space, &document, true).unwrap().is_none());
    }
}

/// The listed documents with their last offsets, negative for deleted ones; and the next page's position.
fn listed(page: &RecentPage) -> (Vec<(DocumentId, i64)>, Option<u64>) {
    let offset = |recent: &Recent| match recent.is_deleted {
        true => -(recent.last.0 as i64),
        false => recent.last.0 as i64,
    };
    let documents = page.documents.iter().map(|recent| (recent.document, offset(recent)));
    (documents.collect(), page.next.map(|next| next.0))
}

#[test]
fn documents_are_listed_newest_first_in_pages() {
    let (_folder, store, _, long) = store();
    let list = |since, before: Option<u64>, most| {
        let before = before.map(Offset);
        listed(&store.recent_documents(&space(), Offset(since), before, most).unwrap())
    };
    // First as single changes, then compacted except for the last three, then compacted whole.
    for recent in [None, Some(5), Some(0)] {
        if let Some(recent) = recent {
            compact(&store, &long, recent);
        }
        assert_eq!(list(0, None, 10), (vec![(LONG, 150), (PLAIN, 50)], None));
        assert_eq!(list(0, None, 1), (vec![(LONG, 150)], Some(150)));
        assert_eq!(list(0, Some(150), 1).0, [(PLAIN, 50)]);
        assert_eq!(list(0, Some(50), 10), (vec![], None));
        // A client that knows the log up to an offset receives later deletions.
        assert_eq!(list(50, None, 10), (vec![(DELETED, -152), (LONG, 150)], None));
        assert_eq!(list(150, None, 10), (vec![(DELETED, -152)], None));
        assert_eq!(list(152, None, 10), (vec![], None));
    }
    let elsewhere = "elsewhere".parse().unwrap();
    let page = store.recent_documents(&elsewhere, Offset(0), None, 10).unwrap();
    assert_eq!(listed(&page), (vec![], None));
}

/// A document with a long tail does not block a read: the page is empty, and advances.
#[test]
fn a_read_of_the_list_is_bounded() {
    let (folder, ..) = store();
    let conn = rusqlite::Connection::open(folder.path().join("relay.db")).unwrap();
    let (mut before, mut reads, mut found) = (None, 0, Vec::new());
    loop {
        let range = (Offset(0), before);
        let page = crate::store::log::listing::walk(&conn, &space(), range, 10, 20).unwrap();
        reads += 1;
        found.extend(listed(&page).0);
        let Some(next) = page.next else { break };
        assert!(before.is_none_or(|before| next < before), "the walk makes no progress at {next}");
        before = Some(next);
    }
    assert_eq!(found, [(LONG, 150), (PLAIN, 50)]);
    // 152 rows, twenty at a time.
    assert_eq!(reads, 8);
}

/// Every statement here uses an index: its cost does not grow with the store.
#[test]
fn every_statement_uses_an_index() {
    let (folder, ..) = store();
    let conn = rusqlite::Connection::open(folder.path().join("relay.db")).unwrap();
    use crate::store::log::listing::{CHANGES, SNAPSHOTS, TOMBSTONES};
    use crate::store::lookups::automerge_repo::{HAS, STANDING};
    for sql in [STANDING, HAS, CHANGES, SNAPSHOTS, TOMBSTONES] {
        let mut plan = conn.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
        let names = ["?1", "?2", "?3", "?4"].iter().filter(|name| sql.contains(**name)).count();
        let parameters = rusqlite::params_from_iter(vec![rusqlite::types::Null; names]);
        let steps = plan.query_map(parameters, |row| row.get::<_, String>(3)).unwrap();
        let steps: Vec<String> = steps.map(Result::unwrap).collect();
        let searched = steps.iter().filter(|step| step.starts_with("SEARCH")).count();
        assert!(searched == steps.len() || searched >= 2, "{steps:#?}");
        assert!(!steps.iter().any(|step| step.contains("SCAN d") || step.contains("SCAN e")));
        assert!(!steps.iter().any(|step| step.contains("TEMP B-TREE")), "{steps:#?}");
    }
}
