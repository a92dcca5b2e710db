//! Heavy documents: few changes with many operations, worth compacting at any age.

use std::time::Duration;

use landfall_protocol::relay::NewKind;
use landfall_protocol::{DocumentId, SpaceName, limits};
use landfall_test_rng::Rng;

use super::made::{Grown, commit, opens, snapshot};
use crate::limits::COMPACTION_OPERATIONS_IN_A_BYTE;
use crate::store::{CompactionTask, CompactionWindow, Snapshots, SqliteStore};

const DOCUMENT: DocumentId = DocumentId::from_bytes([5; 16]);
const OTHER: DocumentId = DocumentId::from_bytes([6; 16]);
const PASTED: u64 = 1_000_000;

/// A store with growing documents; the window never ends.
struct World {
    _folder: tempfile::TempDir,
    store: SqliteStore,
    space: SpaceName,
    grown: [Grown; 2],
    head: u64,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(folder.path()).unwrap();
        let space = "notes".parse().unwrap();
        Self { _folder: folder, store, space, grown: Default::default(), head: 0 }
    }

    /// Adds a change of `operations` operations and `bytes` bytes to a document.
    fn add(&mut self, document: DocumentId, operations: u64, bytes: usize) {
        let opening = (self.head == 0).then(|| opens(1, 1));
        self.head += 1;
        let grown = &mut self.grown[usize::from(document == OTHER)];
        grown.grow(&document, &mut Rng::new(self.head), 1);
        let last = grown.changes.len() - 1;
        grown.changes[last].max_op += operations - 1;
        let mut new = grown.made(last, self.head).entry(document);
        let NewKind::Change { operations: counted, .. } = &mut new.kind else { unreachable!() };
        *counted = operations;
        new.entry.body = vec![7; bytes].into();
        commit(&self.store, &self.space, opening, vec![new]).unwrap();
    }

    /// The next compaction while nothing is old enough for the window.
    fn candidate(&self) -> Option<CompactionTask> {
        let recent_age = Duration::from_secs(1_000_000);
        let window =
            CompactionWindow { recent_entries: 1_000, recent_age, ..CompactionWindow::NONE };
        self.store.compaction_candidate(1_000_000, window).unwrap()
    }

    fn compact(&self, task: &CompactionTask) {
        let grown = &self.grown[usize::from(task.document == OTHER)];
        assert!(self.store.compaction_commit(task, snapshot(&grown.changes, 1_000), 0).unwrap());
    }
}

#[test]
fn a_pasted_text_is_compacted_at_once() {
    let mut world = World::new();
    world.add(DOCUMENT, limits::COMPACTION_MIN_OPERATIONS - 1, 400_000);
    assert_eq!(world.candidate(), None, "too few operations");
    world.add(DOCUMENT, 1_024, 1_024);
    let task = world.candidate().expect("enough, of two changes");
    assert_eq!((task.document, task.through.0, task.changes), (DOCUMENT, 2, 2));
    world.compact(&task);
    assert_eq!(world.candidate(), None);

    // Due again after half as many new operations.
    world.add(DOCUMENT, PASTED, PASTED as usize);
    world.compact(&world.candidate().expect("it has many more operations than the snapshot"));
    world.add(DOCUMENT, PASTED / 2 - 1, 400_000);
    assert_eq!(world.candidate(), None, "too few operations for the snapshot's size");
    world.add(DOCUMENT, PASTED / 8, 100_000);
    assert_eq!(world.candidate().expect("it is due now").changes, 2);
}

#[test]
fn changes_typed_into_a_heavy_document_wait_for_the_window() {
    let mut world = World::new();
    world.add(DOCUMENT, PASTED, PASTED as usize);
    world.compact(&world.candidate().unwrap());
    for _ in 0..limits::COMPACTION_MIN_CHANGES {
        world.add(DOCUMENT, 1, 100);
    }
    assert_eq!(world.candidate(), None);
}

#[test]
fn operations_claimed_without_bytes_do_not_make_a_compaction_due() {
    let mut world = World::new();
    let fewest = (PASTED / COMPACTION_OPERATIONS_IN_A_BYTE) as usize;
    world.add(DOCUMENT, PASTED, fewest - 1);
    assert_eq!(world.candidate(), None);
    world.add(OTHER, PASTED, fewest);
    assert_eq!(world.candidate().expect("real text can be as small as this").document, OTHER);
}

#[test]
fn a_heavy_document_precedes_waiting_ones_and_hides_none() {
    let mut world = World::new();
    for _ in 0..limits::COMPACTION_MIN_CHANGES {
        world.add(DOCUMENT, 1, 100);
    }
    assert_eq!(world.candidate(), None, "it is due, and young");
    world.add(OTHER, PASTED, PASTED as usize);
    let task = world.candidate().unwrap();
    assert_eq!(task.document, OTHER);
    // A failed one is not retried before it has grown.
    world.store.compaction_failed(&task, "1.0", "the child died").unwrap();
    assert_eq!(world.candidate(), None);
    let found =
        world.store.compaction_candidate(1_000_000, CompactionWindow::NONE).unwrap().unwrap();
    assert_eq!(found.document, DOCUMENT);
    world.store.retry_failed_compactions("1.1").unwrap();
    assert_eq!(world.candidate().expect("a later version tries").document, OTHER);
}
