//! Compaction in the store: when a document is due, concurrent reads, and compactions that commit too late or
//! fail.

use std::ops::ControlFlow;
use std::time::Duration;

use landfall_protocol::access::View;
use landfall_protocol::compacted::BadIndex;
use landfall_protocol::digest::tombstone_id;
use landfall_protocol::frame::{Partial, entry_kind};
use landfall_protocol::relay::{Chunk, Page, Snapshot, SnapshotPart, StoreFailure};
use landfall_protocol::{DocumentId, Offset, SpaceName, limits};
use landfall_test_rng::Rng;

use super::made::{Grown, commit, opens, pushed, snapshot, tombstone};
use crate::store::rows::indexes::IndexCache;
use crate::store::{
    Admin, CompactionTask, CompactionWindow, Documents, FailureClass, Log, Snapshots, SqliteStore,
};

const DOCUMENT: DocumentId = DocumentId::from_bytes([5; 16]);

/// A store with one growing document, one change at each offset.
struct One {
    _folder: tempfile::TempDir,
    store: SqliteStore,
    space: SpaceName,
    grown: Grown,
    head: u64,
    /// Seconds by which the relay's clock is ahead.
    clock: u64,
}

impl One {
    fn new(changes: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(folder.path()).unwrap();
        let (space, grown) = ("notes".parse().unwrap(), Grown::default());
        let mut one = Self { _folder: folder, store, space, grown, head: 0, clock: 0 };
        one.grow(changes);
        one
    }

    fn grow(&mut self, changes: u64) {
        let opening = (self.head == 0).then(|| opens(1, 1));
        let mut rng = Rng::new(self.head + 1);
        let entries = (0..changes).map(|_| {
            self.head += 1;
            self.grown.grow(&DOCUMENT, &mut rng, 1);
            let made = self.grown.made(self.grown.changes.len() - 1, self.head);
            let mut entry = made.entry(DOCUMENT);
            entry.entry.at_ms += self.clock * 1_000;
            entry
        });
        commit(&self.store, &self.space, opening, entries.collect()).unwrap();
    }

    /// At a time in seconds: the change at offset n was written at n seconds.
    fn candidate(&self, now: u64, window: CompactionWindow) -> Option<CompactionTask> {
        self.store.compaction_candidate(now * 1_000, window).unwrap()
    }

    fn task(&self, recent_entries: u64) -> CompactionTask {
        let window = CompactionWindow { recent_entries, ..CompactionWindow::NONE };
        self.store.compaction_task(&self.space, &DOCUMENT, 0, window).unwrap().unwrap()
    }

    fn compacted(&self, through: u64, bytes: usize) -> Snapshot {
        snapshot(&self.grown.changes[..through as usize], bytes)
    }

    /// Compacts all but the last `recent` changes into `bytes` bytes, at a time in seconds.
    fn compact(&self, recent: u64, bytes: usize, now: u64) -> Snapshot {
        let task = self.task(recent);
        let made = self.compacted(task.through.0, bytes);
        assert!(self.store.compaction_commit(&task, made.clone(), now * 1_000).unwrap());
        made
    }

    /// The next non-empty piece.
    fn next(&self, after: u64, partial: Option<(&Snapshot, u64)>) -> Option<Chunk> {
        let partial = partial.map(|(made, bytes)| Partial { hash: made.hash, bytes });
        let next = self.store.next(&self.space, Offset(after), &View::everything(), partial);
        match next.unwrap() {
            Some(Chunk::Entries(page)) if page.entries.is_empty() => {
                assert!(page.up_to.0 > after);
                let next = self.store.next(&self.space, page.up_to, &View::everything(), partial);
                next.unwrap()
            }
            next => next,
        }
    }

    fn page(&self, after: u64, partial: Option<(&Snapshot, u64)>) -> Page {
        match self.next(after, partial) {
            Some(Chunk::Entries(page)) => page,
            other => panic!("{other:?}"),
        }
    }

    fn part(&self, after: u64, partial: Option<(&Snapshot, u64)>) -> SnapshotPart {
        match self.next(after, partial) {
            Some(Chunk::Part(part)) => part,
            other => panic!("{other:?}"),
        }
    }
}

fn offsets(page: &Page) -> Vec<u64> {
    page.entries.iter().map(|entry| entry.offset().0).collect()
}

#[test]
fn a_page_may_end_at_the_offset_of_a_later_snapshot() {
    let one = One::new(2_000);
    let page = one.page(0, None);
    let end = page.up_to.0;
    assert_eq!(end, limits::ENTRIES_COUNT as u64);
    // The snapshot's offset is the reader's position: the reader has all its changes.
    one.compact(2_000 - end, 1_000, 1);
    let page = one.page(end, None);
    assert_eq!(offsets(&page)[0], end + 1);
    // A snapshot that begins before the reader's position and ends after it is sent whole.
    one.compact(500, 1_000, 2);
    let page = one.page(end, None);
    assert_eq!(offsets(&page)[..2], [1_500, 1_501]);
    assert_eq!(page.entries[0].kind(), entry_kind::SNAPSHOT);
    // A reader just before the snapshot's end also receives it, although it lacks one change.
    assert_eq!(offsets(&one.page(1_499, None))[0], 1_500);
    assert_eq!(offsets(&one.page(1_500, None))[0], 1_501);
}

#[test]
fn a_replaced_snapshot_stays_readable_for_its_grace_period() {
    let mut one = One::new(300);
    let part_bytes = limits::PART_BYTES as u64;
    let first = one.compact(100, 3 * limits::PART_BYTES + 5, 1_000);
    let part = one.part(0, None);
    assert_eq!((part.hash, part.from, part.bytes.len() as u64), (first.hash, 0, part_bytes));
    one.grow(100);
    let second = one.compact(50, 700_000, 2_000);
    // A reader that has begun continues from any byte.
    let part = one.part(0, Some((&first, part_bytes + 7)));
    assert_eq!((part.hash, part.from), (first.hash, part_bytes + 7));
    assert_eq!(part.bytes, first.body[part.from as usize..][..limits::PART_BYTES]);
    let total = first.body.len() as u64;
    let page = one.page(0, Some((&first, total)));
    assert_eq!((offsets(&page), page.entries[0].kind()), (vec![200], entry_kind::SNAPSHOT));
    assert_eq!(one.part(page.up_to.0, None).hash, second.hash, "the page ends at the new snapshot");
    // A reader that has not begun receives the new one.
    assert_eq!(one.part(0, None).hash, second.hash);
    assert_eq!(
        one.store.snapshot_part(&one.space, &first.hash, total - 1).unwrap().unwrap().bytes.len(),
        1
    );
    // During and after its deletion it is not continued.
    let late = 2_000_000 + limits::SNAPSHOT_GRACE.as_millis() as u64;
    while one.store.prune(late - 1, 10).unwrap() {}
    assert_eq!(one.part(0, Some((&first, 5))).hash, first.hash);
    while one.store.prune(late, 1).unwrap() {
        let part = one.part(0, Some((&first, part_bytes)));
        assert_eq!((part.hash, part.from), (second.hash, 0));
    }
    assert_eq!(one.part(0, Some((&first, part_bytes))).hash, second.hash);
    assert!(one.store.snapshot_part(&one.space, &first.hash, 0).unwrap().is_none());
}

#[test]
fn a_compaction_is_due_when_enough_has_left_the_window() {
    let mut one = One::new(limits::COMPACTION_MIN_CHANGES - 1);
    assert_eq!(one.candidate(10_000, CompactionWindow::NONE), None, "too little");
    one.grow(100);
    let (entries, age) = (50, Duration::from_secs(60));
    let window =
        CompactionWindow { recent_entries: entries, recent_age: age, ..CompactionWindow::NONE };
    // The change at offset n is n seconds old at 0; from 355 on there are enough.
    assert_eq!(one.candidate(355 + 59, window), None, "too young");
    assert_eq!(one.candidate(10_000, window), None, "too few changes are beyond the window");
    one.grow(entries);
    let task = one.candidate(10_000, window).unwrap();
    assert_eq!((task.through.0, task.changes, task.has_base), (355, 355, false));
    let task = one.candidate(355 + 60 + 10, window).unwrap();
    assert_eq!(task.through.0, 355, "the count keeps changes that the age does not");
    assert!(one.store.compaction_commit(&task, one.compacted(355, 100), 0).unwrap());
    assert_eq!(one.candidate(10_000, window), None);
    // Above that, a share of the compacted changes.
    let mut one = One::new(2_000);
    one.compact(0, 100, 0);
    one.grow(999);
    assert_eq!(one.candidate(10_000, CompactionWindow::NONE), None);
    one.grow(1);
    let task = one.candidate(10_000, CompactionWindow::NONE).unwrap();
    assert_eq!((task.changes, task.has_base), (1_000, true));
}

/// The relay's clock was ten years ahead for a while.
#[test]
fn changes_dated_in_the_future_are_compacted_and_pruned() {
    const AHEAD: u64 = 10 * 365 * 24 * 3_600;
    let mut one = One::new(0);
    one.clock = AHEAD;
    one.grow(300);
    let age = Duration::from_secs(60);
    let window = CompactionWindow { recent_age: age, ..CompactionWindow::NONE };
    let task = one.candidate(1_000, window).expect("an age from the future does not count");
    assert_eq!(task.through.0, 300);
    // Within the tolerance, a timestamp in the future counts as such.
    assert_eq!(one.candidate(AHEAD - 600, window), None);
    let first = one.compact(100, 100, AHEAD);
    one.compact(50, 100, AHEAD + 1);
    while one.store.prune(AHEAD * 1_000 - 1, 10).unwrap() {}
    assert!(
        one.store.snapshot_part(&one.space, &first.hash, 0).unwrap().is_some(),
        "its grace period has not passed"
    );
    while one.store.prune(1_000_000, 10).unwrap() {}
    assert!(one.store.snapshot_part(&one.space, &first.hash, 0).unwrap().is_none());
}

#[test]
fn a_failed_compaction_waits_for_a_doubled_tail_or_a_new_version() {
    let mut one = One::new(300);
    let task = one.candidate(10_000, CompactionWindow::NONE).unwrap();
    one.store.compaction_failed(&task, "1.0", "the child died").unwrap();
    assert_eq!(one.candidate(10_000, CompactionWindow::NONE), None);
    let report = one.store.inspection().document(&one.space, &DOCUMENT).unwrap().unwrap();
    assert_eq!(report.compaction_failure, Some(("1.0".to_owned(), "the child died".to_owned())));
    one.grow(299);
    assert_eq!(one.candidate(10_000, CompactionWindow::NONE), None);
    one.grow(1);
    let task = one.candidate(10_000, CompactionWindow::NONE).unwrap();
    assert_eq!(task.changes, 600);
    one.store.compaction_failed(&task, "1.0", "the child died").unwrap();
    one.store.retry_failed_compactions("1.0").unwrap();
    assert_eq!(one.candidate(10_000, CompactionWindow::NONE), None);
    one.store.retry_failed_compactions("1.1").unwrap();
    assert!(one.candidate(10_000, CompactionWindow::NONE).is_some());
}

#[test]
fn a_compaction_of_a_changed_document_is_rejected() {
    let mut one = One::new(300);
    let task = one.task(0);
    let made = one.compacted(300, 100);
    // The tail may grow meanwhile.
    one.grow(10);
    assert!(one.store.compaction_commit(&task, made.clone(), 0).unwrap());
    assert!(!one.store.compaction_commit(&task, made, 0).unwrap());
    let held = one.store.changes_held(&one.space, &DOCUMENT).unwrap();
    assert_eq!(held, 310);
    // A snapshot that a client pushed covers everything.
    let task = one.task(0);
    one.head += 1;
    let everything = one.compacted(310, 500);
    commit(&one.store, &one.space, None, vec![pushed(one.head, DOCUMENT, everything)]).unwrap();
    assert!(!one.store.compaction_commit(&task, one.compacted(310, 100), 0).unwrap());
    let mut inputs = 0;
    let mut count = |_| {
        inputs += 1;
        ControlFlow::Continue(())
    };
    assert!(!one.store.compaction_read(&task, &mut count).unwrap());
    assert_eq!(inputs, 0);
    // A deleted document is not compacted.
    one.grow(300);
    let task = one.task(0);
    one.head += 1;
    commit(&one.store, &one.space, None, vec![tombstone(one.head, DOCUMENT)]).unwrap();
    assert!(!one.store.compaction_commit(&task, one.compacted(610, 100), 0).unwrap());
    assert_eq!(one.candidate(10_000, CompactionWindow::NONE), None);
    let page = one.page(0, None);
    assert_eq!((offsets(&page), page.entries[0].kind()), (vec![one.head], entry_kind::TOMBSTONE));
    let plan = one.store.plan_document(&one.space, &DOCUMENT, &[]).unwrap();
    let read = one.store.read_entries(&one.space, &DOCUMENT, &plan.offsets).unwrap();
    assert_eq!(read.len(), 1);
    assert_eq!(page.entries[0].as_ref(), &read[0]);
    assert_ne!(tombstone_id(&DOCUMENT), [0; 32]);
}

#[test]
fn a_compaction_whose_commit_fails_changes_nothing() {
    let one = One::new(300);
    let before = one.page(0, None);
    let (task, made) = (one.task(0), one.compacted(300, 400_000));
    for _ in 0..3 {
        one.store.faults().fail_next_commits(1, FailureClass::DiskFull);
        let error = one.store.compaction_commit(&task, made.clone(), 0).unwrap_err();
        assert_eq!(error.failure, StoreFailure::Full);
        assert_eq!(one.page(0, None).entries, before.entries);
        assert!(!one.store.prune(u64::MAX / 2, 100).unwrap(), "there is nothing to prune");
    }
    assert!(one.store.compaction_commit(&task, made, 0).unwrap());
    // A failed slice is retried.
    one.store.faults().fail_next_commits(1, FailureClass::Io);
    assert!(one.store.prune(u64::MAX / 2, 100).is_err());
    while one.store.prune(u64::MAX / 2, 100).unwrap() {}
    assert_eq!(one.part(0, None).total, 400_000);
}

#[test]
fn a_commit_that_would_lose_changes_is_rejected() {
    let mut one = One::new(300);
    let task = one.task(0);
    assert!(one.store.compaction_commit(&task, one.compacted(299, 100), 0).is_err());
    one.head += 1;
    let lacking = pushed(one.head, DOCUMENT, one.compacted(299, 100));
    assert!(commit(&one.store, &one.space, None, vec![lacking]).is_err());
    commit(&one.store, &one.space, None, vec![tombstone(one.head, DOCUMENT)]).unwrap();
    let again = vec![tombstone(one.head + 1, DOCUMENT)];
    assert!(commit(&one.store, &one.space, None, again).is_err());
}

#[test]
fn a_damaged_index_is_reported_and_can_be_rebuilt() {
    let one = One::new(300);
    let made = one.compact(0, 100, 0);
    let path = one._folder.path().join("relay.db");
    let conn = rusqlite::Connection::open(path).unwrap();
    let flip = "UPDATE snapshot_index SET packed = \
        CAST(substr(packed, 1, 50) || x'ff' || substr(packed, 52) AS BLOB)";
    conn.execute(flip, []).unwrap();
    let error = one.store.load_index(&one.space, &DOCUMENT).unwrap_err();
    let damage = error.damaged_index().unwrap();
    assert_eq!((damage.document, damage.snapshot), (DOCUMENT, made.hash));
    assert_eq!(damage.source, BadIndex::Checksum);
    assert_eq!(one.store.gauges().unwrap().damaged_indexes, 1);
    let store = |packed: Vec<u8>| one.store.store_index(&one.space, &DOCUMENT, &made.hash, packed);
    assert!(!store(vec![1, 2, 3]).unwrap(), "no index");
    assert!(store(one.compacted(299, 1).packed).is_err(), "of another history");
    assert!(store(made.packed.clone()).unwrap());
    one.store.load_index(&one.space, &DOCUMENT).unwrap();
    let gauges = one.store.gauges().unwrap();
    assert_eq!((gauges.indexes, gauges.index_loads), (1, 1));
    assert!(gauges.index_bytes > made.packed.len());
}

#[test]
fn cached_indexes_keep_their_budget_and_the_newest_always_stays() {
    let one = One::new(100);
    let parsed = |through| {
        landfall_protocol::compacted::PackedIndex::parse(one.compacted(through, 1).packed).unwrap()
    };
    let bytes = parsed(100).memory_bytes();
    let cache = IndexCache::new(3 * bytes);
    for row in 0..3 {
        cache.insert((row, [0; 32]), parsed(100));
    }
    assert!(cache.get(&(0, [0; 32])).is_some());
    cache.insert((3, [0; 32]), parsed(100));
    assert!(cache.get(&(1, [0; 32])).is_none(), "the least recently used index is evicted");
    assert!(cache.get(&(0, [0; 32])).is_some());
    // A later snapshot of a document replaces its earlier one.
    cache.insert((0, [1; 32]), parsed(50));
    assert!(cache.get(&(0, [0; 32])).is_none());
    let small = IndexCache::new(10);
    small.insert((0, [0; 32]), parsed(100));
    assert!(small.get(&(0, [0; 32])).is_some());
    small.insert((1, [0; 32]), parsed(10));
    assert_eq!(small.gauges().indexes, 1);
}
