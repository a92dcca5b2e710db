//! A store written by an earlier version: all data is kept, and this version's columns follow from it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use landfall_protocol::access::View;
use landfall_protocol::admission::KnownChange;
use landfall_protocol::digest::{DigestEntry, Node, Prefix};
use landfall_protocol::frame::Entry;
use landfall_protocol::relay::EpochRecord;
use landfall_protocol::{ActorId, ChangeHash, DocumentId, Offset, SpaceName};
use landfall_storage::{Database, Durability, Options};
use rusqlite::Connection;

use super::real::{self, entries_of, put_world};
use crate::store::log::fill;
use crate::store::rows::schema::SCHEMA;
use crate::store::sqlite::FILE;
use crate::store::{CompactionWindow, Log, Snapshots, SqliteStore};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

/// A copy of a fixture in a folder of its own.
fn copied(name: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(fixtures().join(name), folder.path().join(FILE)).unwrap();
    folder
}

/// A row of version 1.
struct Old {
    entry: Entry,
    actor: ActorId,
    seq: u64,
    max_op: u64,
}

/// All rows of a store of version 1, by space, read without our code.
fn old_rows(folder: &Path) -> BTreeMap<SpaceName, Vec<Old>> {
    let conn = Connection::open(folder.join(FILE)).unwrap();
    let sql = "SELECT s.name, e.\"offset\", d.document, e.kind, e.flags, e.hash, e.deps, e.author, \
        e.at_ms, e.body, a.actor, e.seq, e.max_op FROM entry e \
        JOIN document d ON d.id = e.document JOIN space s ON s.id = e.space \
        JOIN actor a ON a.id = e.actor ORDER BY s.name, e.\"offset\"";
    let mut find = conn.prepare(sql).unwrap();
    let mut rows = find.query([]).unwrap();
    let mut old: BTreeMap<SpaceName, Vec<Old>> = BTreeMap::new();
    while let Some(row) = rows.next().unwrap() {
        let name: String = row.get(0).unwrap();
        let deps: Vec<u8> = row.get(6).unwrap();
        let entry = Entry {
            offset: Offset(row.get(1).unwrap()),
            document: DocumentId::from_bytes(row.get(2).unwrap()),
            kind: row.get(3).unwrap(),
            flags: row.get(4).unwrap(),
            id: row.get(5).unwrap(),
            dependencies: deps.as_chunks::<32>().0.to_vec(),
            author: row.get::<_, Vec<u8>>(7).unwrap().into(),
            at_ms: row.get(8).unwrap(),
            body: row.get::<_, Vec<u8>>(9).unwrap().into(),
        };
        let (actor, seq) = (row.get::<_, Vec<u8>>(10).unwrap(), row.get(11).unwrap());
        let (actor, max_op) = (ActorId::from(actor), row.get(12).unwrap());
        old.entry(name.parse().unwrap()).or_default().push(Old { entry, actor, seq, max_op });
    }
    old
}

fn old_epochs(folder: &Path, space: &SpaceName) -> Vec<EpochRecord> {
    let conn = Connection::open(folder.join(FILE)).unwrap();
    let sql = "SELECT e.epoch, e.first, e.predecessor FROM epoch e JOIN space s ON s.id = e.space \
        WHERE s.name = ?1 ORDER BY e.first";
    let mut find = conn.prepare(sql).unwrap();
    let record = |row: &rusqlite::Row<'_>| {
        let predecessor: Option<[u8; 16]> = row.get(2)?;
        Ok(EpochRecord {
            epoch: landfall_protocol::Epoch::from_bytes(row.get(0)?),
            first: Offset(row.get(1)?),
            predecessor: predecessor.map(landfall_protocol::Epoch::from_bytes),
        })
    };
    find.query_map([space.as_str()], record).unwrap().map(Result::unwrap).collect()
}

/// The heads, computed from all changes.
fn heads(old: &[Old], document: &DocumentId) -> Vec<ChangeHash> {
    let of_document = || old.iter().filter(|old| old.entry.document == *document);
    let has_subscribers = |id| of_document().any(|old| old.entry.dependencies.contains(&id));
    let mut heads: Vec<_> = of_document().map(|old| old.entry.hash()).collect();
    heads.retain(|head| !has_subscribers(head.0));
    heads.sort();
    heads
}

fn check_space(store: &SqliteStore, space: &SpaceName, old: &[Old]) {
    let read = entries_of(store, space);
    assert_eq!(read, old.iter().map(|old| old.entry.clone()).collect::<Vec<_>>());
    let look = &mut |view: &dyn landfall_protocol::admission::History<Error = _>| {
        for Old { entry, actor, seq, max_op } in old {
            let known = KnownChange { hash: entry.hash(), position: entry.offset };
            let id = &entry.document;
            assert_eq!(view.at_sequence(id, actor, *seq).unwrap(), Some(known));
            assert_eq!(view.max_op(id, &entry.hash()).unwrap(), Some(*max_op));
            assert_eq!(view.deleted_at(id).unwrap(), None);
            assert!(view.has_changes(id).unwrap());
        }
    };
    store.with_history(space, look).unwrap();
    let documents: std::collections::BTreeSet<_> =
        old.iter().map(|old| old.entry.document).collect();
    let mut sum = 0u128;
    for document in &documents {
        let digest_entry = DigestEntry::of_heads(document, &heads(old, document));
        sum = sum.wrapping_add(digest_entry.0);
        let report = store.inspection().document(space, document).unwrap().unwrap();
        assert_eq!(report.heads, heads(old, document));
        let tail = || old.iter().filter(|old| old.entry.document == *document);
        assert_eq!(report.tail_changes as usize, tail().count());
        let bytes: usize = tail().map(|old| old.entry.body.len()).sum();
        assert_eq!(report.tail_bytes as usize, bytes);
    }
    let (head, branches) = super::model::all_branches(store, space, &[Prefix::ROOT], 1_000);
    assert_eq!(Some(head), old.last().map(|old| old.entry.offset));
    let (count, found) = match &branches[0].node {
        Node::DigestEntries(digest_entries) => {
            let sum = digest_entries
                .iter()
                .fold(0u128, |sum, (_, digest_entry)| sum.wrapping_add(digest_entry.0));
            (digest_entries.len() as u64, sum)
        }
        Node::Children(children) => {
            let all = children
                .iter()
                .fold(Default::default(), |all: landfall_protocol::digest::Digest, child| {
                    all.plus(*child)
                });
            (all.count, all.sum)
        }
    };
    assert_eq!((count, found), (documents.len() as u64, sum));
}

fn check_all(folder: &Path, old: &BTreeMap<SpaceName, Vec<Old>>) -> SqliteStore {
    let store = SqliteStore::open(folder).unwrap();
    for (space, old) in old {
        check_space(&store, space, old);
    }
    let mut findings = Vec::new();
    store.inspection().verify(true, &mut |finding| findings.push(finding)).unwrap();
    assert_eq!(findings, []);
    store
}

#[test]
fn a_store_of_version_1_keeps_everything() {
    let folder = copied("relay-v1.db");
    let old = old_rows(folder.path());
    assert_eq!(old.values().map(Vec::len).sum::<usize>(), 494);
    let epochs: Vec<_> = old.keys().map(|space| old_epochs(folder.path(), space)).collect();
    let store = check_all(folder.path(), &old);
    for (space, records) in old.keys().zip(epochs) {
        let lineage = store.open_space(space).unwrap();
        assert_eq!(lineage.epoch(), records.last().map(|record| record.epoch));
        let report = store.inspection().store().unwrap();
        let report = report.spaces.iter().find(|report| report.space == *space).unwrap();
        assert_eq!(report.epochs, records);
    }
    // Its long document is due for compaction.
    let task = store.compaction_candidate(u64::MAX / 2, CompactionWindow::NONE).unwrap().unwrap();
    assert_eq!((task.document, task.changes), (real::world::document(0x10, 1), 300));
}

#[test]
fn an_interrupted_migration_continues() {
    let folder = copied("relay-v1.db");
    let old = old_rows(folder.path());
    // The file's own migration, then one document at a time, interrupted after some.
    for _ in 0..3 {
        let db = Database::open(folder.path().join(FILE), &SCHEMA, Options::default()).unwrap();
        for _ in 0..7 {
            let slice = db.write(Durability::Full, |tx| fill::slice(tx, 1)).unwrap();
            assert!(slice.value);
        }
        db.close().unwrap();
    }
    check_all(folder.path(), &old);
}

#[test]
fn a_store_of_version_2_opens_undamaged() {
    let folder = copied("relay-v2.db");
    let store = SqliteStore::open(folder.path()).unwrap();
    let mut findings = Vec::new();
    store.inspection().verify(true, &mut |finding| findings.push(finding)).unwrap();
    assert_eq!(findings, []);
    let space: SpaceName = "notes".parse().unwrap();
    let report = store.inspection().document(&space, &real::world::document(0x10, 1)).unwrap();
    let report = report.unwrap();
    assert_eq!((report.compacted_changes, report.tail_changes), (280, 20));
    let deleted = store.inspection().document(&space, &real::world::document(0xf0, 3)).unwrap();
    assert!(deleted.unwrap().deleted_at.is_some());
    // The rows that were to be pruned still are, and can be.
    assert!(store.inspection().store().unwrap().spaces.iter().any(|space| space.to_prune > 0));
    while store.prune(u64::MAX / 2, 50).unwrap() {}
    assert!(store.next(&space, Offset(0), &View::everything(), None).unwrap().is_some());
}

/// Writes the fixture of the current version, on request: once for each version, with the last commit of that
/// version, `LANDFALL_FIXTURE=1 cargo test -p landfall-relay write_the_fixture`.
#[test]
fn write_the_fixture() {
    if std::env::var_os("LANDFALL_FIXTURE").is_none() {
        println!("skipped: it writes a permanent fixture");
        return;
    }
    let target = fixtures().join(format!("relay-v{}.db", SCHEMA.version()));
    assert!(!target.exists(), "{} already exists", target.display());
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(folder.path()).unwrap();
    put_world(&store);
    let space: SpaceName = "notes".parse().unwrap();
    real::compact(&store, &space, &real::world::document(0x10, 1), 280);
    real::compact(&store, &space, &real::world::document(0x11, 2), 60);
    real::delete(&store, &space, 402, real::world::document(0xf0, 3));
    store.prune(1, 100).unwrap();
    store.close().unwrap();
    std::fs::copy(folder.path().join(FILE), target).unwrap();
}
