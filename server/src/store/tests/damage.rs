//! Damage: every byte that matters is covered by a check, findings name the damaged place, and a repair
//! leaves a whole store and makes replicas reconcile.

use std::path::Path;

use landfall_protocol::access::View;
use landfall_protocol::{DocumentId, Offset, Scope, SpaceName};
use landfall_test_rng::Rng;

use super::real::{compact, delete, entries_of, put_world, world};
use crate::store::admin::fault::{Fault, Finding};
use crate::store::admin::repair::Repaired;
use crate::store::admin::verify::Verified;
use crate::store::sqlite::FILE;
use crate::store::{Admin, Documents, Inspection, Log, Snapshots, SqliteStore};

fn space() -> SpaceName {
    "notes".parse().unwrap()
}

fn long() -> DocumentId {
    world::document(0x10, 1)
}

fn several() -> DocumentId {
    world::document(0x11, 2)
}

/// A store with a compacted document, an uncompacted one, a deleted one, and many small ones.
pub(super) fn store() -> (tempfile::TempDir, SqliteStore) {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(folder.path()).unwrap();
    put_world(&store);
    compact(&store, &space(), &long(), 280);
    delete(&store, &space(), 402, world::document(0xf0, 3));
    (folder, store)
}

pub(super) fn verify(store: &SqliteStore) -> (Verified, Vec<Finding>) {
    let mut findings = Vec::new();
    let verified = store.inspection().verify(true, &mut |finding| findings.push(finding)).unwrap();
    assert_eq!(verified.findings as usize, findings.len());
    (verified, findings)
}

/// Modifies the file behind the relay's back.
pub(super) fn damage(folder: &Path, sql: &str) {
    let conn = rusqlite::Connection::open(folder.join(FILE)).unwrap();
    conn.execute_batch("PRAGMA foreign_keys = OFF").unwrap();
    assert!(conn.execute(sql, []).unwrap() > 0, "{sql}");
}

/// A store with its temporary folder.
struct StableColumns {
    store: SqliteStore,
    _folder: tempfile::TempDir,
}

impl std::ops::Deref for StableColumns {
    type Target = SqliteStore;

    fn deref(&self) -> &SqliteStore {
        &self.store
    }
}

/// Damages a store, checks that the damage is found as expected, repairs it, and checks that it is whole.
fn found_and_repaired(sql: &str, expected: impl Fn(&Finding) -> bool) -> (StableColumns, Repaired) {
    let (folder, store) = store();
    damage(folder.path(), sql);
    let (_, findings) = verify(&store);
    assert!(findings.iter().any(&expected), "{sql}: {findings:?}");
    let repaired = store.repair(&findings).unwrap();
    if repaired.indexes.is_empty() {
        assert_eq!(verify(&store).1, [], "{sql}");
    }
    (StableColumns { store, _folder: folder }, repaired)
}

fn is_of(document: DocumentId, damage: impl Fn(&Fault) -> bool) -> impl Fn(&Finding) -> bool {
    move |finding| finding.document == Some(document) && damage(&finding.damage)
}

#[test]
fn an_undamaged_store_has_no_findings() {
    let (_folder, store) = store();
    let (verified, findings) = verify(&store);
    assert_eq!(findings, []);
    assert_eq!((verified.spaces, verified.snapshots), (3, 1));
    while store.prune(u64::MAX / 2, 100).unwrap() {}
    assert_eq!(verify(&store).1, []);
    assert_eq!(store.repair(&[]).unwrap(), Repaired::default());
}

const OF_SEVERAL: &str = "document = (SELECT d.id FROM document d JOIN space s ON s.id = d.space \
    WHERE s.name = 'notes' AND hex(d.document) LIKE '11%')";

#[test]
fn repair_drops_a_damaged_change_with_its_dependents() {
    let sql = format!(
        "UPDATE entry SET body = CAST(substr(body, 1, 40) || x'00' || substr(body, 42) AS BLOB) \
        WHERE {OF_SEVERAL} AND \"offset\" = 100"
    );
    let is_bytes = |damage: &Fault| matches!(damage, Fault::ChangeBytes { .. });
    let expected = |finding: &Finding| {
        is_of(several(), is_bytes)(finding) && finding.offset == Some(Offset(100))
    };
    let (store, repaired) = found_and_repaired(&sql, expected);
    assert!(repaired.dropped_changes > 1, "{repaired:?}");
    assert!(repaired.broken.contains(&space()) && repaired.broken.len() == 1);
    // All cursors of this space are invalid; other logs continue.
    let lineage = store.open_space(&space()).unwrap();
    assert_eq!((lineage.head(), lineage.epoch_at(Offset(1))), (Offset(402), lineage.epoch()));
    let cursor = landfall_protocol::Cursor {
        epoch: landfall_protocol::Epoch::from_bytes([1; 16]),
        offset: Offset(50),
        scope: Scope::WHOLE_SPACE,
    };
    assert_eq!(lineage.resume(Some(cursor), None, Scope::WHOLE_SPACE), None);
    // The remaining changes are a valid history: automerge loads it.
    let left = entries_of(&store, &space());
    let left = left.iter().filter(|entry| entry.document == several());
    let changes: Vec<Vec<u8>> = left.map(|entry| entry.body.to_vec()).collect();
    assert!(!changes.is_empty());
    landfall_compaction::compact(&[], changes).unwrap();
}

#[test]
fn rows_are_repaired_from_intact_bytes_without_loss() {
    let fields = [
        ("hash = randomblob(32)", "hash"),
        ("max_op = max_op + 1", "max_op"),
        ("seq = 5000", "seq"),
        ("kind = 9", "kind"),
        ("flags = 64", "flags"),
        ("deps = randomblob(64)", "deps"),
        ("actor = (SELECT max(id) FROM actor)", "actor"),
    ];
    for (set, field) in fields {
        let sql = format!("UPDATE entry SET {set} WHERE {OF_SEVERAL} AND \"offset\" = 100");
        let is_row = |damage: &Fault| {
            matches!(damage, Fault::ChangeField { .. } | Fault::OtherChange { .. })
        };
        let (_, repaired) = found_and_repaired(&sql, is_of(several(), is_row));
        assert_eq!((repaired.dropped_changes, repaired.broken.len()), (0, 0), "{field}");
    }
}

#[test]
fn derived_values_are_recomputed() {
    let document = "UPDATE document SET";
    let of = "WHERE hex(document) LIKE '11%' AND length(heads) > 32";
    let statements = [
        format!("{document} heads = randomblob(32) {of}"),
        format!("{document} heads = x'' {of}"),
        format!("{document} leaf = randomblob(16) {of}"),
        format!("{document} leaf = NULL {of}"),
        format!("{document} tail_changes = 3 {of}"),
        format!("{document} tail_bytes = 3 {of}"),
    ];
    for sql in statements {
        let is_field = |damage: &Fault| matches!(damage, Fault::DocumentField { .. });
        let (_, repaired) = found_and_repaired(&sql, is_of(several(), is_field));
        assert_eq!(repaired.dropped_changes, 0);
    }
    let digest = |finding: &Finding| matches!(finding.damage, Fault::Digest { .. });
    found_and_repaired("UPDATE digest SET count = count + 1 WHERE bucket = 16", digest);
    found_and_repaired("UPDATE digest SET sum = randomblob(16) WHERE bucket = 16", digest);
    found_and_repaired("DELETE FROM digest WHERE bucket = 17", digest);
    let head = |finding: &Finding| matches!(finding.damage, Fault::Head { .. });
    let (store, _) = found_and_repaired("UPDATE space SET head = 7 WHERE name = 'notes'", head);
    assert_eq!(store.open_space(&space()).unwrap().head(), Offset(402));
}

#[test]
fn a_missing_change_is_found() {
    let sql = format!("DELETE FROM entry WHERE {OF_SEVERAL} AND \"offset\" = 100");
    let is_missing = |damage: &Fault| matches!(damage, Fault::MissingDependency { .. });
    let (_, repaired) = found_and_repaired(&sql, is_of(several(), is_missing));
    assert!(repaired.dropped_changes > 1 && repaired.broken.contains(&space()));
}

#[test]
fn a_damaged_snapshot_is_dropped_and_unpruned_changes_return() {
    let sql = "UPDATE snapshot_piece SET \
        bytes = CAST(substr(bytes, 1, 60) || x'ee' || substr(bytes, 62) AS BLOB)";
    let is_bytes = |damage: &Fault| matches!(damage, Fault::SnapshotBytes);
    let (store, repaired) = found_and_repaired(sql, is_of(long(), is_bytes));
    assert_eq!((repaired.dropped_snapshots, repaired.dropped_changes), (1, 0), "not pruned yet");
    assert_eq!(store.changes_held(&space(), &long()).unwrap(), 300);
    // After pruning, the dependents of the dropped changes are dropped too.
    let (folder, store) = super::damage::store();
    while store.prune(u64::MAX / 2, 100).unwrap() {}
    damage(folder.path(), sql);
    let repaired = store.repair(&verify(&store).1).unwrap();
    assert_eq!((repaired.dropped_snapshots, repaired.dropped_changes), (1, 20));
    assert_eq!(verify(&store).1, []);
    assert_eq!(store.changes_held(&space(), &long()).unwrap(), 0);
    let plan = store.plan_document(&space(), &long(), &[]).unwrap();
    assert_eq!(plan.holding, landfall_protocol::frame::Holding::Absent);
}

#[test]
fn snapshot_rows_and_index_are_rebuilt() {
    let is_field = |damage: &Fault| matches!(damage, Fault::SnapshotField { .. });
    let sql = "UPDATE snapshot SET heads = randomblob(40)";
    let (_, repaired) = found_and_repaired(sql, is_of(long(), is_field));
    assert_eq!(repaired.dropped_changes + repaired.dropped_snapshots, 0);
    found_and_repaired("UPDATE snapshot SET changes = 7", is_of(long(), is_field));
    let is_actors = |damage: &Fault| matches!(damage, Fault::CompactedActors);
    let sql = "UPDATE folded_actor SET hash = randomblob(32)";
    found_and_repaired(sql, is_of(long(), is_actors));
    found_and_repaired("DELETE FROM folded_actor", is_of(long(), is_actors));
    let is_index = |damage: &Fault| matches!(damage, Fault::SnapshotIndex { .. });
    for sql in ["DELETE FROM snapshot_index", "UPDATE snapshot_index SET packed = x'00'"] {
        let (store, repaired) = found_and_repaired(sql, is_of(long(), is_index));
        let [(_, document, hash)] = &repaired.indexes[..] else { panic!("{repaired:?}") };
        let mut body = None;
        let mut take = |input| {
            if let crate::store::CompactionInput::Base(base) = input {
                body = Some(base);
            }
            std::ops::ControlFlow::Break(())
        };
        store.document_bases(&space(), document, &mut take).unwrap();
        let made = landfall_compaction::inspect(&body.unwrap(), *hash).unwrap();
        assert!(store.store_index(&space(), document, hash, made.index).unwrap());
        assert_eq!(verify(&store).1, []);
    }
}

#[test]
fn a_deletion_survives_damage_to_either_record() {
    let deleted = world::document(0xf0, 3);
    let is_it = |damage: &Fault| matches!(damage, Fault::Tombstone);
    for sql in ["DELETE FROM tombstone", "UPDATE tombstone SET hash = randomblob(32)"] {
        let (store, _) = found_and_repaired(sql, is_of(deleted, is_it));
        let plan = store.plan_document(&space(), &deleted, &[]).unwrap();
        assert_eq!(plan.offsets, [Offset(402)]);
    }
    let sql = "UPDATE document SET tombstone = NULL WHERE tombstone IS NOT NULL";
    let (store, _) = found_and_repaired(sql, is_of(deleted, is_it));
    let plan = store.plan_document(&space(), &deleted, &[]).unwrap();
    assert_eq!(plan.offsets, [Offset(402)]);
}

/// All spaces as readers receive them; `None` if a space cannot be read.
fn given(store: &SqliteStore) -> Option<Vec<String>> {
    let mut given = Vec::new();
    for name in ["elsewhere", "notes", "team.plans"] {
        let mut after = Offset(0);
        let space: SpaceName = name.parse().unwrap();
        while let Some(chunk) = store.next(&space, after, &View::everything(), None).ok()? {
            let landfall_protocol::relay::Chunk::Entries(page) = chunk else { return None };
            after = page.up_to;
            given.extend(page.entries.iter().map(|entry| format!("{entry:?}")));
        }
    }
    Some(given)
}

/// Random bit flips: each is found, or readers receive the same as before, or the difference is in something
/// that a replica checks itself (a hash) or that is informational (author and time).
#[test]
fn a_flipped_bit_is_found_or_harmless() {
    let (folder, store) = store();
    let expected = given(&store).unwrap();
    store.close().unwrap();
    let whole = std::fs::read(folder.path().join(FILE)).unwrap();
    let mut rng = Rng::new(7);
    let (mut found, mut refused, mut harmless, mut unseen) = (0, 0, 0, Vec::new());
    for _ in 0..500 {
        let mut bytes = whole.clone();
        let (at, bit) = (rng.below(bytes.len()), rng.below(8));
        bytes[at] ^= 1 << bit;
        let copy = tempfile::tempdir().unwrap();
        std::fs::write(copy.path().join(FILE), &bytes).unwrap();
        let Ok(store) = SqliteStore::open(copy.path()) else {
            refused += 1;
            continue;
        };
        let mut findings = 0;
        let verified = store.inspection().verify(true, &mut |_| findings += 1);
        match verified {
            Err(_) => found += 1,
            Ok(_) if findings > 0 => found += 1,
            Ok(_) if given(&store).as_ref() == Some(&expected) => harmless += 1,
            Ok(_) => unseen.push((at, bit)),
        }
    }
    // Author and time of an entry: 24 bytes of some 300.
    assert!(unseen.len() < 25, "{unseen:?}");
    assert!(found > 50, "found {found}, refused {refused}, harmless {harmless}");
}

#[test]
fn an_inspection_reads_the_store_of_a_running_relay() {
    let (folder, store) = store();
    let inspection = Inspection::open(folder.path()).unwrap();
    let report = inspection.store().unwrap();
    assert_eq!(report.upstream, Some(store.upstream()));
    let notes = report.spaces.iter().find(|report| report.space == space()).unwrap();
    assert_eq!((notes.documents, notes.deleted, notes.snapshots), (2, 1, 1));
    assert_eq!((notes.compacted_changes, notes.head), (280, Offset(402)));
    let documents = inspection.documents(&space(), None, 10).unwrap();
    assert_eq!(documents.len(), 3);
    assert_eq!(inspection.documents(&space(), Some(long()), 10).unwrap(), documents[1..]);
    let actors = inspection.actors(&space(), &long()).unwrap();
    assert_eq!(actors, [(landfall_protocol::ActorId::from([21; 16]), 300)]);
    assert_eq!(documents[0].actors, 1);
    // A copy is an ordinary store.
    let copy = tempfile::tempdir().unwrap();
    inspection.backup_to(&copy.path().join(FILE)).unwrap();
    let copied = SqliteStore::open(copy.path()).unwrap();
    assert_eq!(verify(&copied).1, []);
    assert_eq!(given(&copied), given(&store));
    store.close().unwrap();
    assert!(inspection.verify(false, &mut |_| {}).is_ok(), "an inspection outlives the relay");
}

/// A snapshot is found damaged before the changes that it replaced were pruned: those rows are the only copy,
/// and `verify --repair` restores them (see above).
#[test]
fn changes_of_a_damaged_snapshot_are_not_pruned() {
    let sql = "UPDATE snapshot_piece SET \
        bytes = CAST(substr(bytes, 1, 60) || x'ee' || substr(bytes, 62) AS BLOB)";
    let (folder, store) = super::damage::store();
    damage(folder.path(), sql);
    // A client reads the document, and the store records the damage.
    let mut read = |_| std::ops::ControlFlow::Continue(());
    assert!(store.document_bases(&space(), &long(), &mut read).is_err());
    assert!(store.known_damage(&space(), &long()).is_some());
    while store.prune(u64::MAX / 2, 100).unwrap() {}
    let repaired = store.repair(&verify(&store).1).unwrap();
    let held = store.changes_held(&space(), &long()).unwrap();
    assert_eq!((repaired.dropped_changes, held), (0, 300), "the relay deleted the last copy");
}
