//! Repair from clients' copies: damage is found by name, and only matching bytes replace it.

use automerge::transaction::Transactable;
use landfall_protocol::admission::preflight;
use landfall_protocol::frame::Entry;
use landfall_protocol::relay::{NewEntry, NewKind, Snapshot};
use landfall_protocol::{ChangeHash, DocumentId, Offset, SpaceName};

use super::damage::{damage, store, verify};
use super::real::{entries_of, world};
use crate::store::{Admin, CompactionWindow, Documents, Examined, Log, Snapshots, SqliteStore};

fn space() -> SpaceName {
    "notes".parse().unwrap()
}

/// All findings of a document's examination.
fn examined(store: &SqliteStore, document: &DocumentId) -> Examined {
    let (mut all, mut after) = (Examined::default(), None);
    loop {
        let found = store.examine(&space(), document, after).unwrap();
        all.changes.extend(found.changes);
        all.snapshot = all.snapshot.or(found.snapshot);
        match found.next {
            Some(next) => after = Some(next),
            None => return all,
        }
    }
}

/// SQL that changes one byte of a column.
fn flipped(column: &str, at: usize) -> String {
    let (before, after) = (at - 1, at + 1);
    format!(
        "{column} = CAST(substr({column}, 1, {before}) || CASE substr({column}, {at}, 1) \
        WHEN x'07' THEN x'06' ELSE x'07' END || substr({column}, {after}) AS BLOB)"
    )
}

/// Selects the rows of the document that several authors edited.
const OF_SEVERAL: &str = "document = (SELECT d.id FROM document d JOIN space s ON s.id = d.space \
    WHERE s.name = 'notes' AND hex(d.document) LIKE '11%')";

/// Changes with their bytes.
type Changes = Vec<(ChangeHash, Vec<u8>)>;

/// A store in which two changes of a document are damaged; these changes, and the offset of another one.
fn damaged() -> (tempfile::TempDir, SqliteStore, DocumentId, Changes, u64) {
    let (folder, store) = store();
    let document = world::document(0x11, 2);
    let mut entries = entries_of(&store, &space());
    entries.retain(|entry| entry.document == document);
    let changes = [&entries[10], &entries[11]];
    assert_eq!(examined(&store, &document), Examined::default());
    let [one, two] = changes.map(|entry| entry.offset.0);
    let which = format!("{OF_SEVERAL} AND \"offset\" IN ({one}, {two})");
    damage(folder.path(), &format!("UPDATE entry SET {} WHERE {which}", flipped("body", 41)));
    let changes = changes.map(|entry| (entry.hash(), entry.body.to_vec()));
    (folder, store, document, changes.to_vec(), entries[12].offset.0)
}

/// A store with one document of these changes.
fn stored(changes: &[Vec<u8>]) -> (tempfile::TempDir, SqliteStore, DocumentId, Vec<ChangeHash>) {
    let document = DocumentId::from_bytes([1; 16]);
    let (mut hashes, mut entries) = (Vec::new(), Vec::new());
    for (offset, raw) in (1..).zip(changes) {
        let checked = preflight(raw).unwrap();
        hashes.push(checked.hash);
        let (actor, seq, max_op) = (checked.actor.clone(), checked.seq, checked.max_op);
        let operations = checked.stored_operations;
        let entry = Entry::of_change(Offset(offset), document, checked, &[3; 16], 5);
        let kind = NewKind::Change { actor, seq, max_op, operations };
        entries.push(NewEntry { entry, kind });
    }
    let (folder, store) = super::open();
    super::append(&store, super::opens(1, 1), entries).unwrap();
    (folder, store, document, hashes)
}

/// A store with one damaged change; its document, hash, and bytes compressed, where the store had them
/// uncompressed.
fn damaged_long() -> (tempfile::TempDir, SqliteStore, DocumentId, ChangeHash, Vec<u8>) {
    let mut doc = world::author(21);
    doc.put(automerge::ROOT, "text", "long ".repeat(1_000)).unwrap();
    let raw = world::commit(&mut doc);
    let deflated = automerge::Change::from_bytes(raw.clone()).unwrap().bytes().into_owned();
    assert!(deflated.len() < raw.len() / 2, "{} of {}", deflated.len(), raw.len());
    let (folder, store, document, hashes) = stored(&[raw]);
    damage(folder.path(), &format!("UPDATE entry SET {}", flipped("body", 41)));
    (folder, store, document, hashes[0], deflated)
}

#[test]
fn damaged_changes_are_listed_and_replaced_in_their_rows() {
    let (_folder, store, document, changes, _) = damaged();
    let named: Vec<ChangeHash> = changes.iter().map(|(hash, _)| *hash).collect();
    assert_eq!(examined(&store, &document).changes, named);
    // Wrong bytes under these hashes, and these bytes under another document, change nothing.
    let swapped = vec![(named[0], changes[1].1.clone()), (named[1], vec![1, 2, 3])];
    assert_eq!(store.repair_changes(&space(), &document, swapped).unwrap().count, 0);
    let other = world::document(0x10, 1);
    assert_eq!(store.repair_changes(&space(), &other, changes.clone()).unwrap().count, 0);
    assert_eq!(examined(&store, &document).changes, named);
    assert_eq!(store.repair_changes(&space(), &document, changes[..1].to_vec()).unwrap().count, 1);
    assert_eq!(examined(&store, &document).changes, named[1..]);
    assert_eq!(store.repair_changes(&space(), &document, changes.clone()).unwrap().count, 1);
    assert_eq!(
        store.repair_changes(&space(), &document, changes).unwrap().count,
        0,
        "it is repaired already"
    );
    assert_eq!(examined(&store, &document), Examined::default());
    assert_eq!(verify(&store).1, []);
}

#[test]
fn a_compaction_that_damage_stopped_is_due_after_the_repair() {
    let mut doc = world::author(21);
    let changes: Vec<Vec<u8>> = (0..300)
        .map(|number| {
            doc.put(automerge::ROOT, "number", number).unwrap();
            world::commit(&mut doc)
        })
        .collect();
    let (folder, store, document, hashes) = stored(&changes);
    let which = "WHERE \"offset\" = 7";
    damage(folder.path(), &format!("UPDATE entry SET {} {which}", flipped("body", 41)));
    let due = || store.compaction_candidate(u64::MAX / 2, CompactionWindow::NONE).unwrap();
    store.compaction_failed(&due().unwrap(), "damaged", "it cannot be read").unwrap();
    assert_eq!(due(), None);
    let repair = |bytes: &[u8]| {
        let copies = vec![(hashes[6], bytes.to_vec())];
        store.repair_changes(&space(), &document, copies).unwrap().count
    };
    assert_eq!((repair(&changes[5]), due()), (0, None), "nothing was repaired");
    assert_eq!(repair(&changes[6]), 1);
    assert!(due().is_some());
}

#[test]
fn a_change_may_be_replaced_by_its_other_encoding() {
    let (_folder, store, document, hash, deflated) = damaged_long();
    assert_eq!(examined(&store, &document).changes, [hash]);
    let copies = vec![(hash, deflated)];
    assert_eq!(store.repair_changes(&space(), &document, copies).unwrap().count, 1);
    // The document's counters match its rows.
    assert_eq!(verify(&store).1, []);
}

#[test]
fn a_row_that_contradicts_its_index_is_not_left_to_clients() {
    let (folder, store, document, _, other) = damaged();
    let named = examined(&store, &document).changes.len();
    assert_eq!(named, 2);
    // A row of another space than its index says; then a document whose count does not match its rows.
    let elsewhere =
        format!("UPDATE entry SET space = 99 WHERE {OF_SEVERAL} AND \"offset\" = {other}");
    damage(folder.path(), &elsewhere);
    assert!(store.examine(&space(), &document, None).unwrap_err().is_damage());
    let back = elsewhere.replace("99", "(SELECT id FROM space WHERE name = 'notes')");
    damage(folder.path(), &back);
    assert_eq!(examined(&store, &document).changes.len(), named);
    damage(folder.path(), "UPDATE document SET tail_changes = 1 WHERE tail_changes > 1");
    assert!(store.examine(&space(), &document, None).unwrap_err().is_damage());
}

#[test]
fn a_damaged_snapshot_is_replaced_by_one_of_the_same_changes_only() {
    let (folder, store) = store();
    let long = world::document(0x10, 1);
    let index = store.document_index(&space(), &long, false).unwrap().unwrap();
    let before = index.compacted.unwrap();
    let entries = entries_of(&store, &space());
    let body = entries.iter().find(|entry| entry.id == before.hash).unwrap().body.to_vec();
    let changes = landfall_compaction::changes_since(&body, &[]).unwrap();
    let compacted = |changes: &[Vec<u8>]| {
        let compacted = landfall_compaction::compact(&[], changes.to_vec()).unwrap();
        Snapshot::new(compacted.snapshot, compacted.hash, compacted.index).unwrap()
    };
    damage(folder.path(), &format!("UPDATE snapshot_piece SET {}", flipped("bytes", 91)));
    assert_eq!(examined(&store, &long).snapshot, Some(before.hash));
    // A snapshot of fewer changes, and one for a snapshot that is not current.
    let less = compacted(&changes[..changes.len() - 1]);
    assert!(!store.repair_snapshot(&space(), &long, &before.hash, less).unwrap());
    assert!(!store.repair_snapshot(&space(), &long, &[9; 32], compacted(&changes)).unwrap());
    assert_eq!(examined(&store, &long).snapshot, Some(before.hash));
    assert!(store.repair_snapshot(&space(), &long, &before.hash, compacted(&changes)).unwrap());
    assert_eq!(examined(&store, &long), Examined::default());
    assert_eq!(verify(&store).1, []);
    let after = store.document_index(&space(), &long, true).unwrap().unwrap();
    assert_eq!(after.compacted.map(|compacted| compacted.offset), Some(before.offset));
}

/// A document is deleted while a client pushes its damaged change, in the other encoding.
#[test]
fn a_repair_of_a_deleted_document_changes_nothing() {
    let (_folder, store, document, hash, deflated) = damaged_long();
    super::real::delete(&store, &space(), 2, document);
    let before = verify(&store).1;
    let repaired = store.repair_changes(&space(), &document, vec![(hash, deflated)]).unwrap().count;
    assert_eq!((before, verify(&store).1), (vec![], vec![]), "{repaired} were repaired");
}

/// `Condition::damaged`: a document is listed until it can be read again, any other place until the store is
/// opened again.
#[test]
fn damage_outside_documents_is_listed_until_the_next_open() {
    let (folder, store) = store();
    let shorter = "UPDATE space SET head = head - 1 WHERE name = 'notes'";
    damage(folder.path(), shorter);
    let view = landfall_protocol::access::View::everything();
    let _ = store.next(&space(), Offset(0), &view, None);
    let damaged = store.condition().damaged;
    assert!(damaged.iter().any(|place| place.document.is_none()), "{damaged:?}");
    store.close().unwrap();
    drop(store);
    // The page is restored, as by copying the file from a mirror.
    damage(folder.path(), &shorter.replace("- 1", "+ 1"));
    let store = SqliteStore::open(folder.path()).unwrap();
    assert_eq!(verify(&store).1, []);
    store.next(&space(), Offset(0), &view, None).unwrap();
    assert_eq!(store.condition().damaged, [], "an undamaged store is reported damaged");
}

/// A flag of a row flips: no read returns that row any more.
#[test]
fn an_examination_finds_flags_that_reads_reject() {
    let (folder, store) = store();
    let document = world::document(0x11, 2);
    let sql = format!(
        "UPDATE entry SET flags = 64 WHERE {OF_SEVERAL} AND \"offset\" = (SELECT \
        max(\"offset\") FROM entry WHERE {OF_SEVERAL})"
    );
    damage(folder.path(), &sql);
    let entries = entries_of(&store, &space());
    let is_damage = |e: &&Entry| e.kind == landfall_protocol::frame::entry_kind::DAMAGED;
    assert_eq!(entries.iter().filter(is_damage).count(), 1);
    let known = store.condition().damaged.len();
    let found = store.examine(&space(), &document, None);
    assert!(
        found.is_err() || found.as_ref().is_ok_and(|found| *found != Examined::default()),
        "{known} place is damaged, but the examination finds nothing"
    );
}

/// Writing the known damage fails once, as on a full disk.
#[test]
fn known_damage_is_written_when_the_store_accepts_writes_again() {
    let (folder, store, document, _, _) = damaged();
    let _ = entries_of(&store, &space());
    assert!(store.condition().damaged.iter().any(|place| place.document == Some(document)));
    store.faults().fail_next_commits(1, landfall_storage::FailureClass::DiskFull);
    assert!(!store.keep_condition());
    // The disk has room again. The repair task retries once a second; closing does, too.
    assert!(store.keep_condition());
    store.close().unwrap();
    drop(store);
    let store = SqliteStore::open(folder.path()).unwrap();
    let damaged = store.condition().damaged;
    assert!(!damaged.is_empty(), "after a restart `/readyz` reports no damage");
}

/// A bit of a document's row flips: a counter is negative. This document and another one are due for
/// compaction.
#[test]
fn an_unreadable_document_row_does_not_stop_other_compactions() {
    let (folder, store, ids) = two_due();
    let sql = "UPDATE document SET tail_bytes = -3 WHERE id = (SELECT min(id) FROM document)";
    damage(folder.path(), sql);
    let found = store.compaction_candidate(u64::MAX / 2, CompactionWindow::NONE);
    let found = found.map(|task| task.map(|task| task.document));
    assert!(matches!(found, Ok(Some(id)) if id == ids[1]), "{found:?}");
}

/// The same, with rows to prune: two documents have them.
#[test]
fn an_unreadable_document_row_does_not_stop_pruning() {
    let (folder, store, _) = two_due();
    damage(folder.path(), "UPDATE document SET dead = 1");
    damage(folder.path(), "UPDATE document SET folded = 300, tail_bytes = 0");
    let sql = "UPDATE document SET tail_bytes = -3 WHERE id = (SELECT min(id) FROM document)";
    damage(folder.path(), sql);
    let pruned = store.prune(u64::MAX / 2, 100);
    assert!(pruned.is_ok(), "{pruned:?}: pruning has stopped");
}

/// A store with two documents of 300 changes each.
fn two_due() -> (tempfile::TempDir, SqliteStore, [DocumentId; 2]) {
    let (folder, store) = super::open();
    let ids = [1, 2].map(|number| DocumentId::from_bytes([number; 16]));
    let (mut offset, mut entries) = (0, Vec::new());
    for (number, document) in (21..).zip(ids) {
        let mut doc = world::author(number);
        for edit in 0..300 {
            doc.put(automerge::ROOT, "number", edit).unwrap();
            let checked = preflight(&world::commit(&mut doc)).unwrap();
            offset += 1;
            let (actor, seq, max_op) = (checked.actor.clone(), checked.seq, checked.max_op);
            let operations = checked.stored_operations;
            let entry = Entry::of_change(Offset(offset), document, checked, &[3; 16], 5);
            let kind = NewKind::Change { actor, seq, max_op, operations };
            entries.push(NewEntry { entry, kind });
        }
    }
    super::append(&store, super::opens(1, 1), entries).unwrap();
    (folder, store, ids)
}
