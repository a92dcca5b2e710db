//! Documents over the limit of a snapshot, and documents of few large changes: how far they are
//! compacted, and that snapshots over the limit are split again.

use automerge::{ObjType, ROOT, ScalarValue, transaction::Transactable};
use landfall_compaction::CompactionLimits;
use landfall_protocol::admission::{CheckedChange, preflight};
use landfall_protocol::limits;
use landfall_storage::Durability;
use landfall_storage::WriteError;
use landfall_test_rng::Rng;

use super::store_support::{Author, Bench, id};
use crate::compactor::compact;
use crate::store::{AppendError, CompactionOptions, DocumentLimit, LocalChange};

/// Bytes that do not compress.
fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut rng = Rng::new(seed);
    (0..bytes).map(|_| rng.next_u64() as u8).collect()
}

/// Changes of 1,000 bytes each that do not compress.
fn images(author: &mut Author, count: u64) -> Vec<CheckedChange> {
    let before = author.doc.get_changes(&[]).len() as u64;
    let seed = author.doc.get_actor().to_bytes()[0];
    let image = |n: u64| {
        let mut tx = author.doc.transaction();
        tx.put(
            ROOT,
            format!("image {n}"),
            ScalarValue::Bytes(noise(n << 8 | u64::from(seed), 1_000)),
        )
        .unwrap();
        tx.commit();
        preflight(author.doc.get_last_local_change().unwrap().raw_bytes()).unwrap()
    };
    (before..before + count).map(image).collect()
}

fn within(snapshot_bytes: usize) -> CompactionOptions {
    CompactionOptions {
        limits: CompactionLimits { snapshot_bytes },
        ..CompactionOptions::EVERYTHING
    }
}

/// Tail, compacted changes, and the bytes of the snapshot, of the first document.
fn shape(bench: &Bench) -> (u64, u64, u64) {
    let inspection = bench.log.inspect().unwrap();
    let document = &inspection.spaces[0].documents[0];
    (document.tail_changes, document.compacted_changes, document.snapshot_bytes)
}

#[test]
fn compaction_stops_at_the_limit_of_a_snapshot() {
    let bench = Bench::new();
    let mut author = Author::new(1, 1);
    bench.append_all(id(1), &images(&mut author, 30));
    let compacted = compact(&bench.log, &within(20_500)).unwrap();
    assert_eq!((compacted.documents, compacted.failed), (1, 0));
    // The cut counted uncompacted bytes, so a little more may fit.
    while compact(&bench.log, &within(20_500)).unwrap().documents > 0 {}
    bench.check();
    let (tail, compacted, bytes) = shape(&bench);
    assert_eq!(tail + compacted, 30);
    assert!((15..=20).contains(&compacted) && bytes <= 20_500, "{compacted} of 30, {bytes} bytes");
    // The rest does not fit, and is not tried again and again.
    let again = compact(&bench.log, &within(20_500)).unwrap();
    assert_eq!((again.documents, again.failed), (0, 0));
    assert_eq!(bench.outbox_kinds(), "", "no upstream is known");
    assert_eq!(bench.load(id(1)).get_heads(), author.doc.get_heads());
}

#[test]
fn a_snapshot_beyond_the_limit_is_split_into_changes() {
    let mut bench = Bench::new();
    let mut author = Author::new(1, 1);
    bench.append_all(id(1), &images(&mut author, 12));
    // Upstream 1 holds everything, upstream 2 nothing; for each the document is a snapshot.
    bench.meet(2);
    bench.meet(1);
    bench.acknowledge(1..=12);
    assert_eq!(bench.compact().changes, 12);
    bench.append_all(id(1), &images(&mut author, 3));
    bench.acknowledge([13, 14]);
    bench.meet(2);
    assert_eq!((bench.outbox_kinds().as_str(), bench.count().pending.changes), ("sccc", 15));
    assert_eq!(bench.log.expand_oversized(1 << 20).unwrap(), 0, "it is within this limit");
    assert_eq!(bench.log.expand_oversized(10_000).unwrap(), 1);
    bench.check();
    let (tail, compacted, bytes) = shape(&bench);
    assert_eq!((tail, compacted, bytes), (15, 0, 0));
    bench.meet(2);
    bench.check();
    assert_eq!(bench.outbox_kinds(), "c".repeat(15));
    assert_eq!(bench.count().pending.changes, 15);
    bench.meet(1);
    bench.check();
    assert_eq!((bench.outbox_kinds().as_str(), bench.count().pending.changes), ("c", 1));
    assert_eq!(bench.load(id(1)).get_heads(), author.doc.get_heads());
    // Admission knows the changes, and the document continues.
    bench.append_all(id(1), &images(&mut author, 2));
    assert_eq!(bench.log.expand_oversized(10_000).unwrap(), 0);
    bench.check();
}

#[test]
fn two_snapshots_that_exceed_one_together_are_both_kept() {
    let mut bench = Bench::new();
    bench.log = bench.log.clone().with_document_bytes(20_500);
    let mut ours = Author::new(1, 1);
    bench.append_all(id(1), &images(&mut ours, 1));
    bench.meet(1);
    let mut theirs = ours.fork(2);
    let own = images(&mut ours, 14);
    bench.append_all(id(1), &own);
    bench.acknowledge(1..=15);
    let compacted = compact(&bench.log, &within(20_500)).unwrap();
    assert_eq!(compacted.changes, 15);
    images(&mut theirs, 14);
    let received = bench.receive(vec![theirs.snapshot()]);
    assert_eq!(received.deferred, []);
    let [(document, excess)] = received.oversized[..] else { panic!("{:?}", received.oversized) };
    assert!(document == id(1) && excess.actual > 20_500, "{excess:?}");
    assert_eq!((excess.of, excess.limit), (DocumentLimit::Bytes, 20_500));
    bench.check();
    assert_eq!(shape(&bench).0, 14, "the remote changes were stored as single changes");
    assert_eq!((bench.count().totals.changes, bench.count().pending.changes), (29, 0));
    ours.merge(&mut theirs);
    assert_eq!(bench.heads(id(1)), ours.heads());
    // A received change is accepted; a local one is not.
    let more = images(&mut theirs, 1);
    let received = bench.receive(theirs.incomings(more));
    assert_eq!((received.deferred, received.oversized.len()), (vec![], 1));
    let change = ours.put("key", "value");
    let local = vec![LocalChange { space: bench.space, document: id(1), change, at_ms: 1 }];
    let most = bench.log.local_bytes();
    let refused = bench.log.append_up_to(most, Durability::Full, local.clone(), |_| ());
    match refused {
        Err(WriteError::Job(AppendError::DocumentTooLarge { document, bytes, limit })) => {
            assert_eq!((document, limit), (id(1), 20_500 / 4 * 3));
            assert!(bytes > 20_500);
        }
        other => panic!("{other:?}"),
    }
    bench.check();
}

/// One change with many operations is compacted at once, however young it is; typing is not.
#[test]
fn a_tail_of_few_heavy_changes_is_due_at_once() {
    let bench = Bench::new();
    let options = CompactionOptions::default();
    let mut author = Author::new(1, 1);
    bench.append_all(id(1), &author.puts(300));
    let due = || bench.log.compaction_candidates(bench.space, &options, 2).unwrap();
    assert_eq!(due(), [], "it is young");
    let text = {
        let mut tx = author.doc.transaction();
        let text = tx.put_object(ROOT, "text", ObjType::Text).unwrap();
        tx.splice_text(&text, 0, 0, &"a".repeat(limits::COMPACTION_MIN_OPERATIONS as usize))
            .unwrap();
        tx.commit();
        text
    };
    let last = |author: &mut Author| {
        preflight(author.doc.get_last_local_change().unwrap().raw_bytes()).unwrap()
    };
    bench.append(id(1), &last(&mut author));
    let tasks = due();
    assert_eq!((tasks.len(), tasks[0].changes, tasks[0].whole), (1, 301, true));
    assert_eq!(compact(&bench.log, &options).unwrap().changes, 301);
    bench.check();
    // A few more characters are not worth another compaction.
    for n in 0..20 {
        let mut tx = author.doc.transaction();
        tx.splice_text(&text, n, 0, "b").unwrap();
        tx.commit();
        bench.append(id(1), &last(&mut author));
    }
    assert_eq!(due(), []);
}
