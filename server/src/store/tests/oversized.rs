//! Documents above the snapshot size limit: how far they are compacted, and splitting a snapshot.

use std::ops::ControlFlow;

use landfall_protocol::admission::{CheckedChange, preflight};
use landfall_protocol::frame::entry_kind;
use landfall_protocol::{DocumentId, Epoch, SpaceName};

use super::real::{compact, entries_of, put_world, world};
use crate::store::{
    CompactionInput, CompactionWindow, Documents, Log, Snapshots, SqliteStore, StoredDocument,
};

fn space() -> SpaceName {
    "notes".parse().unwrap()
}

fn document() -> DocumentId {
    world::document(0x10, 1)
}

fn store() -> (tempfile::TempDir, SqliteStore) {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(folder.path()).unwrap();
    put_world(&store);
    (folder, store)
}

/// The snapshot of the document, and its changes.
fn snapshot(store: &SqliteStore) -> ([u8; 32], Vec<CheckedChange>) {
    let mut base = Vec::new();
    let mut take = |input| {
        if let CompactionInput::Base(bytes) = input {
            base = bytes;
        }
        ControlFlow::Break(())
    };
    store.document_bases(&space(), &document(), &mut take).unwrap();
    let changes = landfall_compaction::changes_since(&base, &[]).unwrap();
    let changes = changes.iter().map(|change| preflight(change).unwrap()).collect();
    (landfall_compaction::hash_of(&base), changes)
}

fn findings(store: &SqliteStore) -> Vec<String> {
    let mut findings = Vec::new();
    store.inspection().verify(true, &mut |found| findings.push(format!("{found:?}"))).unwrap();
    findings
}

#[test]
fn a_split_snapshot_becomes_entries_at_the_logs_end() {
    let (_folder, store) = store();
    compact(&store, &space(), &document(), 280);
    let (lineage, before) = (store.open_space(&space()).unwrap(), entries_of(&store, &space()));
    let is_of = |entry: &&landfall_protocol::frame::Entry| entry.document == document();
    let tail: Vec<[u8; 32]> = before.iter().filter(is_of).map(|entry| entry.id).skip(1).collect();
    let heads = || match store.document_heads(&space(), &document()).unwrap() {
        StoredDocument::Present { heads, .. } => heads,
        other => panic!("{other:?}"),
    };
    let before_heads = heads();
    let (hash, changes) = snapshot(&store);
    let ids: Vec<[u8; 32]> = changes.iter().map(|change| change.hash.0).collect();
    assert_eq!(store.oversized(1 << 20).unwrap(), []);
    let found = store.oversized(100).unwrap();
    assert_eq!((found.len(), &found[0].0, found[0].1), (1, &space(), document()));
    let fresh = Epoch::from_bytes([77; 16]);
    // Another snapshot's hash has no effect.
    let other = store.expand(&space(), &document(), &[1; 32], changes.clone(), fresh).unwrap();
    assert!(!other);
    assert!(store.expand(&space(), &document(), &hash, changes.clone(), fresh).unwrap());
    assert_eq!(findings(&store), Vec::<String>::new());
    let after = store.open_space(&space()).unwrap();
    assert_eq!(after.epoch(), Some(fresh), "a replica can distinguish these offsets");
    assert!(after.head().0 >= lineage.head().0 + 280);
    let entries = entries_of(&store, &space());
    let moved: Vec<_> = entries.iter().filter(is_of).collect();
    assert!(moved.iter().all(|entry| entry.kind == entry_kind::CHANGE));
    assert!(moved.iter().all(|entry| entry.offset > lineage.head()));
    let found: Vec<[u8; 32]> = moved.iter().map(|entry| entry.id).collect();
    assert_eq!(found, [ids, tail].concat(), "dependencies come first, and none is lost");
    assert_eq!(heads(), before_heads);
    let rest = |entries: &[landfall_protocol::frame::Entry]| {
        entries.iter().filter(|entry| !is_of(entry)).map(|e| (e.offset, e.id)).collect::<Vec<_>>()
    };
    assert_eq!(rest(&entries), rest(&before), "other documents keep their offsets");
    while store.prune(u64::MAX / 2, 100).unwrap() {}
    assert_eq!(findings(&store), Vec::<String>::new());
    // It can be compacted again.
    let window = CompactionWindow::NONE;
    let task = store.compaction_task(&space(), &document(), u64::MAX / 2, window).unwrap().unwrap();
    assert_eq!(task.changes as usize, found.len());
}

#[test]
fn a_compaction_stops_before_its_snapshot_is_too_large() {
    let (_folder, store) = store();
    let whole = CompactionWindow::NONE;
    let task = |window| {
        store.compaction_task(&space(), &document(), u64::MAX / 2, window).unwrap().unwrap()
    };
    let all = task(whole);
    assert!(!all.is_oversized && all.changes > 280, "{all:?}");
    // By their estimated sizes, only some fit.
    let some =
        task(CompactionWindow { snapshot_bytes: all.bytes - all.changes * 64 - 200, ..whole });
    assert!(!some.is_oversized && some.changes < all.changes, "{some:?}");
    assert!(some.through < all.through && some.changes >= 256);
    // Too few to be worth compacting: it is not attempted.
    let none = task(CompactionWindow { snapshot_bytes: 1_000, ..whole });
    assert!(none.is_oversized);
}
