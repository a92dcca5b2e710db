//! Orphaned edits of a deleted document, which no other replica has, are kept until the application
//! exports or discards them: through compaction, restarts, copies, maintenance and migration.

use std::path::Path;
use std::sync::mpsc;

use landfall_compaction::compact;
use landfall_protocol::client::Incoming;
use landfall_protocol::{Offset, ReplicaId};
use landfall_storage::Durability;

use super::store_support::{Author, Bench, id};
use crate::admin;
use crate::store::{CompactionOptions, Fault, LocalLog, OpenMode, Opened};

/// The state of a compaction before the deletion.
#[derive(Debug, Clone, Copy)]
enum CompactionState {
    Not,
    /// Compacted; the rows are still there, marked as removable.
    Compacted,
    /// Some of the rows were removed.
    PartlySwept,
    Swept,
}

const CASES: [CompactionState; 4] = [
    CompactionState::Not,
    CompactionState::Compacted,
    CompactionState::PartlySwept,
    CompactionState::Swept,
];

fn open(path: &Path) -> Bench {
    let options = landfall_storage::Options::default();
    Bench::with(
        LocalLog::open(OpenMode::File(path), options, ReplicaId::from_bytes([7; 16])).unwrap(),
    )
}

fn sweep(bench: &Bench) {
    while bench.log.sweep(3).unwrap() {}
}

/// Compacts everything that may be compacted, and removes no row.
fn compact_only(bench: &Bench) {
    for task in
        bench.log.compaction_candidates(bench.space, &CompactionOptions::EVERYTHING, 1).unwrap()
    {
        let input = bench.log.compaction_read(&task).unwrap().unwrap();
        let snapshots: Vec<&[u8]> = input.snapshot.as_deref().into_iter().collect();
        let opened = Opened::of(compact(&snapshots, input.changes).unwrap()).unwrap();
        assert!(bench.log.compaction_commit(&task, opened).unwrap());
    }
}

/// A store in which a document was compacted, edited and then deleted by the relay: 20 changes that the
/// relay held, and 5 that only this store has.
fn orphaned(path: &Path, compacted: CompactionState) -> (Bench, Author) {
    let mut bench = open(path);
    bench.meet(1);
    let mut author = Author::new(1, 1);
    bench.append_all(id(1), &author.puts(15));
    bench.acknowledge(1..=15);
    match compacted {
        CompactionState::Not => {}
        CompactionState::Compacted => compact_only(&bench),
        CompactionState::PartlySwept => {
            compact_only(&bench);
            assert!(bench.log.sweep(7).unwrap());
        }
        CompactionState::Swept => {
            compact_only(&bench);
            sweep(&bench);
        }
    }
    bench.append_all(id(1), &author.puts(10));
    bench.acknowledge(16..=20);
    let tombstone =
        Incoming::Tombstone { offset: Offset(1), document: id(1), author: vec![9; 16], at_ms: 1 };
    let received = bench.receive(vec![tombstone]);
    assert_eq!(received.deleted[0].unsent, 5, "{compacted:?}");
    bench.check();
    (bench, author)
}

/// All of the document is there, and is listed among the orphaned edits.
fn check_kept(bench: &Bench, author: &Author, when: &str) {
    bench.check();
    let lost = bench.log.lost(bench.space).unwrap();
    assert_eq!((lost.len(), lost.first().map(|lost| lost.unsent)), (1, Some(5)), "{when}");
    let bytes = bench.log.orphaned_bytes(bench.space, &id(1)).unwrap().expect(when);
    let mut doc = automerge::Automerge::new();
    for body in bytes.snapshot.iter().chain(&bytes.changes) {
        doc.load_incremental(body).unwrap();
    }
    assert_eq!(doc.get_changes(&[]).len(), 25, "{when}");
    assert_eq!(Author::shows(&doc), Author::shows(&author.doc), "{when}");
}

#[test]
fn orphaned_edits_survive_every_compaction_and_restart() {
    for compacted in CASES {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let (bench, author) = orphaned(&path, compacted);
        check_kept(&bench, &author, &format!("{compacted:?}, just deleted"));
        sweep(&bench);
        check_kept(&bench, &author, &format!("{compacted:?}, swept"));
        for start in 1..=2 {
            bench.log.database().close().unwrap();
            let bench = open(&path);
            bench.compact();
            sweep(&bench);
            check_kept(&bench, &author, &format!("{compacted:?}, start {start}"));
            bench.log.database().close().unwrap();
        }
        // Discarding them removes everything.
        let bench = open(&path);
        let (sender, receiver) = mpsc::channel();
        let done = Box::new(move |done: Result<_, _>| sender.send(done).unwrap());
        bench.log.submit_discard(bench.space, id(1), done);
        receiver.recv().unwrap().unwrap();
        sweep(&bench);
        bench.check();
        assert_eq!((bench.rows(), bench.log.lost(bench.space).unwrap().len()), (0, 0));
    }
}

#[test]
fn orphaned_edits_survive_maintenance() {
    for compacted in CASES {
        let folder = tempfile::tempdir().unwrap();
        let [path, copy, file, restored] =
            ["s", "copy", "file", "restored"].map(|name| folder.path().join(name));
        let (bench, author) = orphaned(&path, compacted);
        bench.log.database().close().unwrap();
        admin::backup(&path, &copy).unwrap();
        admin::restore(&copy, &restored, false, false).unwrap();
        let exported = admin::export(&path, &bench.name, &file).unwrap();
        assert_eq!((exported.documents, exported.tombstones), (1, 1));
        for all in [false, true] {
            admin::compact(&path, all).unwrap();
            admin::compact(&restored, all).unwrap();
        }
        admin::import(&path, &file, None).unwrap();
        assert_eq!(admin::repair(&path).unwrap().left, []);
        for path in [&path, &restored] {
            let bench = open(path);
            sweep(&bench);
            check_kept(&bench, &author, &format!("{compacted:?}, {}", path.display()));
            bench.log.database().close().unwrap();
        }
    }
}

/// A store of version 2 recorded only that there is something to remove, and a deletion did not change
/// that.
#[test]
fn orphaned_edits_survive_a_migration() {
    for compacted in CASES {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let (bench, author) = orphaned(&path, compacted);
        let back = "DROP TRIGGER aside_insert;
            DROP TRIGGER aside_delete;
            DROP TRIGGER aside_wait;
            DROP TRIGGER link_damaged_insert;
            DROP TRIGGER link_damaged_delete;
            ALTER TABLE link DROP COLUMN damaged;
            DROP INDEX document_folded;
            ALTER TABLE replica DROP COLUMN leaves_filled;
            DROP TRIGGER aside_damaged_insert;
            DROP TRIGGER aside_damaged_delete;
            DROP INDEX aside_damaged;
            ALTER TABLE space DROP COLUMN aside_damaged;
            DROP TRIGGER displaced_insert;
            DROP TRIGGER displaced_delete;
            DROP TRIGGER deleted_insert;
            DROP TRIGGER parked_insert;
            DROP TRIGGER parked_update;
            DROP TRIGGER space_insert;
            ALTER TABLE replica DROP COLUMN last_space;
            DROP TRIGGER parked_delete;
            DROP TRIGGER owed_insert;
            DROP INDEX link_of_space;
            DROP INDEX parked_of_document;
            ALTER TABLE space DROP COLUMN added;
            ALTER TABLE space DROP COLUMN moved;
            ALTER TABLE space DROP COLUMN aside_entries;
            ALTER TABLE space DROP COLUMN aside_waiting;
            ALTER TABLE space DROP COLUMN displaced_changes;
            ALTER TABLE space DROP COLUMN displaced_bytes;
            ALTER TABLE space DROP COLUMN refusals;
            ALTER TABLE link DROP COLUMN unheld_from;
            DROP INDEX document_heavy;
            ALTER TABLE document DROP COLUMN counter;
            ALTER TABLE document DROP COLUMN folded_counter;
            ALTER TABLE document DROP COLUMN operations;
            DROP INDEX document_sweep;
            ALTER TABLE document ADD COLUMN sweep INTEGER NOT NULL DEFAULT 0;
            UPDATE document SET sweep = 1;
            ALTER TABLE document DROP COLUMN sweep_through;
            CREATE INDEX document_sweep ON document (sweep) WHERE sweep = 1;
            DROP TABLE refused;
            PRAGMA user_version = 2";
        bench.log.database().write(Durability::Full, |tx| tx.execute_batch(back)).unwrap();
        bench.log.database().close().unwrap();
        let bench = open(&path);
        sweep(&bench);
        check_kept(&bench, &author, &format!("{compacted:?}"));
    }
}

#[test]
fn a_sweep_mark_that_reaches_too_far_is_repaired_without_loss() {
    let folder = tempfile::tempdir().unwrap();
    let (bench, author) = orphaned(&folder.path().join("s"), CompactionState::Compacted);
    let damage = |sql: &'static str| {
        bench.log.database().write(Durability::Full, move |tx| tx.execute(sql, [])).unwrap();
    };
    damage("UPDATE document SET sweep_through = base");
    let faults: Vec<Fault> = bench.log.verify().unwrap().into_iter().map(|f| f.fault).collect();
    assert_eq!(faults, [Fault::SweepMark]);
    assert_eq!(bench.log.repair().unwrap().left, []);
    sweep(&bench);
    check_kept(&bench, &author, "repaired");
    // Damaged bytes of a deleted document are never received again; its orphaned edits must stay.
    damage("UPDATE document SET document = zeroblob(16)");
    bench.log.repair().unwrap();
    damage("UPDATE document SET document = x'01010101010101010101010101010101'");
    bench.log.repair().unwrap();
    check_kept(&bench, &author, "repaired again");
}
