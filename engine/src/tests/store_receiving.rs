//! Receiving snapshots: whole, in parts, over local changes.

use landfall_protocol::admission::Roots;
use landfall_protocol::client::{Incoming, OutboxChange, OutboxKind};
use landfall_protocol::frame::Partial;
use landfall_storage::{Durability, WriteError};

use super::store_support::{Author, Bench, id};
use crate::store::{ReceiveError, SnapshotPart};

/// A store that is connected to an upstream, and an author whom both know.
fn met() -> (Bench, Author) {
    let mut bench = Bench::new();
    bench.meet(1);
    (bench, Author::new(1, 1))
}

#[test]
fn a_snapshot_fills_an_empty_store() {
    let (mut bench, mut author) = met();
    author.puts(50);
    let received = bench.receive(vec![author.snapshot()]);
    assert_eq!(received.touched.len(), 1);
    assert_eq!(received.touched[0].heads, author.heads());
    bench.check();
    let count = bench.count();
    assert_eq!((count.totals.changes, count.pending.changes), (50, 0));
    assert_eq!(Author::shows(&bench.load(id(1))), Author::shows(&author.doc));
    // The changes that follow it, and the same once more.
    let more = author.puts(3);
    bench.receive(author.incomings(more.clone()));
    bench.receive(author.incomings(more));
    bench.receive(vec![author.snapshot()]);
    bench.check();
    assert_eq!((bench.count().totals.changes, bench.outbox_kinds().as_str()), (53, ""));
    assert_eq!(bench.heads(id(1)), author.heads());
}

#[test]
fn a_second_root_received_from_the_relay_is_pushed_back_as_one() {
    let (mut bench, mut first) = met();
    let mut second = Author::new(2, 1);
    let root = first.put("a", "1");
    bench.receive(vec![first.incoming(root)]);
    let other = second.put("b", "2");
    let Incoming::Change { offset, document, change, author, at_ms, .. } = second.incoming(other)
    else {
        unreachable!()
    };
    let second_root = true;
    bench.receive(vec![Incoming::Change { offset, document, change, author, at_ms, second_root }]);
    bench.check();
    assert_eq!(bench.heads(id(1)).len(), 2);
    // The relay has lost everything: a first change carries the flag that others may be beside it.
    bench.reset();
    let several = |item: &OutboxChange| matches!(item.what, OutboxKind::Change(_, Roots::Several));
    assert_eq!(bench.outbox().iter().filter(|item| several(item)).count(), 2);
}

#[test]
fn local_changes_stay_behind_a_received_snapshot() {
    let (mut bench, mut author) = met();
    let shared = author.puts(10);
    bench.append_all(id(1), &shared);
    bench.acknowledge(1..=10);
    let mut ours = author.fork(2);
    bench.append_all(id(1), &ours.puts(4));
    author.puts(30);
    // The snapshot has the shared changes and theirs, and not the four local ones.
    let received = bench.receive(vec![author.snapshot()]);
    bench.check();
    assert_eq!(received.touched[0].heads.len(), 2);
    let count = bench.count();
    assert_eq!((count.totals.changes, count.pending.changes), (44, 4));
    assert_eq!(bench.outbox_kinds(), "cccc");
    ours.merge(&mut author);
    assert_eq!(Author::shows(&bench.load(id(1))), Author::shows(&ours.doc));
    while bench.log.sweep(3).unwrap() {
        bench.check();
    }
    assert_eq!(bench.rows(), 4);
    let locals: Vec<u64> = bench.outbox().iter().map(|change| change.local.0).collect();
    bench.acknowledge(locals);
    assert_eq!(bench.compact().changes, 4);
    assert_eq!((bench.count().pending.changes, bench.outbox_kinds().as_str()), (0, ""));
}

#[test]
fn two_snapshots_are_merged_into_one() {
    let (mut bench, mut author) = met();
    bench.append_all(id(1), &author.puts(10));
    bench.acknowledge(1..=10);
    let mut ours = author.fork(2);
    bench.append_all(id(1), &ours.puts(5));
    bench.acknowledge(11..=15);
    assert_eq!(bench.compact().changes, 15);
    // The upstream's snapshot is older than the five local changes, which it holds as changes.
    author.puts(20);
    bench.receive(vec![author.snapshot()]);
    bench.check();
    assert_eq!((bench.count().totals.changes, bench.count().pending.changes), (35, 0));
    ours.merge(&mut author);
    assert_eq!(Author::shows(&bench.load(id(1))), Author::shows(&ours.doc));
    assert_eq!(bench.heads(id(1)).len(), 2);
    // Another upstream has neither.
    bench.meet(2);
    bench.check();
    assert_eq!((bench.outbox_kinds().as_str(), bench.count().pending.changes), ("s", 35));
    // It sends its own snapshot: the part that only this store had compacted stays unacked.
    let mut theirs = author.fork(3);
    theirs.puts(2);
    bench.receive(vec![theirs.snapshot()]);
    bench.check();
    assert_eq!(bench.outbox_kinds(), "s");
    assert_eq!((bench.count().totals.changes, bench.count().pending.changes), (37, 37));
    bench.meet(1);
    bench.check();
    assert_eq!(bench.outbox_kinds(), "s", "the first one lacks the changes of the second");
}

#[test]
fn a_bad_snapshot_rejects_its_document_alone() {
    let (mut bench, mut author) = met();
    author.puts(20);
    let Incoming::Snapshot { offset, document, hash, heads, body } = author.snapshot() else {
        panic!("no snapshot")
    };
    let body = body.unwrap();
    let mut changed = body.clone();
    changed[40] ^= 1;
    let snapshot_of =
        |hash, heads, body| Incoming::Snapshot { offset, document, hash, heads, body };
    // A few bytes that claim a document for which automerge would take gigabytes.
    let claims = claiming(300_000);
    let bad = [
        (snapshot_of([1; 32], heads.clone(), Some(body.clone())), "SHA-256"),
        (snapshot_of(hash, heads[..0].to_vec(), Some(body)), "heads"),
        (
            snapshot_of(landfall_compaction::hash_of(&changed), heads.clone(), Some(changed)),
            "automerge",
        ),
        (
            snapshot_of(landfall_compaction::hash_of(&claims), heads.clone(), Some(claims)),
            "300000 changes",
        ),
    ];
    for (count, (incoming, what)) in bad.into_iter().enumerate() {
        // Another document of the same batch is unaffected.
        let mut other = Author::new(10 + count as u8, 50 + count as u8);
        let change = other.put("k", "v");
        let received = bench.receive(vec![incoming, other.incoming(change)]);
        let [(rejected, reason)] = &received.deferred[..] else { panic!("{what} was accepted") };
        assert_eq!(*rejected, id(1));
        assert!(reason.contains(what), "{reason}");
        assert_eq!(bench.heads(other.document), other.heads());
    }
    bench.check();
    assert_eq!(bench.count().deferred, 4, "they are kept, with the reason");
    // A snapshot with missing parts may arrive again.
    let received = bench.receive(vec![snapshot_of([2; 32], heads, None)]);
    assert!(received.deferred[0].1.contains("parts"), "{:?}", received.deferred);
    assert_eq!(bench.count().totals.changes, 4);
    bench.receive(vec![author.snapshot()]);
    assert_eq!(bench.count().totals.changes, 24);
}

/// A document chunk of a few bytes that claims so many changes.
fn claiming(changes: i64) -> Vec<u8> {
    let number = |mut value: usize| {
        let mut out = Vec::new();
        while value > 0x7f {
            out.push(value as u8 | 0x80);
            value >>= 7;
        }
        out.push(value as u8);
        out
    };
    let run = |value: u8| {
        let (mut out, mut left) = (Vec::new(), changes);
        while left > 0x3f {
            out.push(left as u8 | 0x80);
            left >>= 7;
        }
        out.extend([left as u8, value]);
        out
    };
    let columns = [(0x01, run(0)), (0x03, run(1)), (0x13, run(0))];
    let mut body = [&[1, 16][..], &[1; 16], &[1], &[7; 32], &[3]].concat();
    columns.iter().for_each(|(spec, data)| body.extend([*spec, data.len() as u8]));
    body.push(0);
    columns.iter().for_each(|(_, data)| body.extend(data));
    body.push(0);
    let typed = [vec![0], number(body.len()), body].concat();
    [&[0x85, 0x6f, 0x4a, 0x83], &landfall_compaction::hash_of(&typed)[..4], &typed].concat()
}

fn part(bench: &Bench, body: &[u8], from: usize, to: usize) -> Result<(), String> {
    let (sender, receiver) = std::sync::mpsc::channel();
    let part = SnapshotPart {
        document: id(1),
        hash: landfall_compaction::hash_of(body),
        total: body.len() as u64,
        from: from as u64,
        bytes: body[from..to].to_vec(),
    };
    let done = move |result: Result<_, WriteError<ReceiveError>>| {
        sender.send(result.map(drop).map_err(|error| error.to_string())).unwrap();
    };
    bench.log.submit_part(bench.space, part, done);
    receiver.recv().unwrap()
}

#[test]
fn a_snapshot_in_parts_resumes_where_it_was_cut() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let mut bench = Bench::at(crate::store::OpenMode::File(&path));
    bench.meet(1);
    let mut author = Author::new(1, 1);
    author.puts(60);
    let body = author.doc.save();
    let hash = landfall_compaction::hash_of(&body);
    part(&bench, &body, 0, 100).unwrap();
    part(&bench, &body, 100, 150).unwrap();
    part(&bench, &body, 160, 170).unwrap_err();
    part(&bench, &[&body[..], &[0]].concat(), 150, 160).unwrap_err();
    bench.log.database().close().unwrap();
    drop(bench);
    let mut bench = Bench::at(crate::store::OpenMode::File(&path));
    assert_eq!(bench.meet(1).partial, Some(Partial { hash, bytes: 150 }));
    assert_eq!(bench.meet(2).partial, None);
    assert_eq!(bench.meet(1).partial, Some(Partial { hash, bytes: 150 }));
    part(&bench, &body, 150, body.len()).unwrap();
    let Incoming::Snapshot { offset, document, hash, heads, .. } = author.snapshot() else {
        panic!("no snapshot")
    };
    let whole = Incoming::Snapshot { offset, document, hash, heads, body: None };
    bench.receive(vec![whole.clone()]);
    bench.check();
    assert_eq!(bench.heads(id(1)), author.heads());
    assert_eq!(bench.meet(1).partial, None, "it is not kept twice");
    // The first part of another snapshot replaces the parts that were there; so does one that begins
    // again.
    part(&bench, &body, 0, 100).unwrap();
    part(&bench, &body, 0, 50).unwrap();
    part(&bench, &body, 50, 60).unwrap();
    let other = Author::new(9, 2).doc.save();
    part(&bench, &other, 0, 1).unwrap();
    let other = landfall_compaction::hash_of(&other);
    assert_eq!(bench.meet(1).partial, Some(Partial { hash: other, bytes: 1 }));
}

#[test]
fn a_change_waits_for_its_dependencies() {
    let (mut bench, mut author) = met();
    let mut changes = author.puts(9);
    let last = changes.split_off(2);
    bench.receive(author.incomings(changes));
    let late: Vec<_> = last[1..].to_vec();
    let received = bench.receive(author.incomings(late.clone()));
    assert_eq!((received.deferred.len(), bench.count().deferred), (6, 6));
    bench.receive(author.incomings(late));
    assert_eq!(bench.count().deferred, 6, "none is kept twice");
    let received = bench.receive(author.incomings(vec![last[0].clone()]));
    assert_eq!((received.recovered, received.touched.len()), (6, 1));
    assert_eq!(bench.count().deferred, 0);
    bench.check();
    assert_eq!(bench.heads(id(1)), author.heads());
    assert_eq!((bench.count().pending.changes, bench.outbox_kinds().as_str()), (0, ""));
    // A snapshot brings the dependencies of deferred changes, too.
    let mut author = Author::new(5, 2);
    author.puts(5);
    let snapshot = author.snapshot();
    let after = author.puts(2);
    bench.receive(author.incomings(after));
    assert_eq!(bench.receive(vec![snapshot]).recovered, 2);
    bench.check();
    assert_eq!(bench.heads(id(2)), author.heads());
}

#[test]
fn a_damaged_snapshot_affects_its_own_document_only() {
    let (mut bench, mut author) = met();
    let all = author.puts(20);
    bench.receive(author.incomings(all.clone()));
    assert_eq!(bench.compact().changes, 20);
    let mut early = Author::new(3, 1);
    for change in &all[..10] {
        early.doc.load_incremental(&change.bytes).unwrap();
    }
    let damage = "UPDATE snapshot SET body = x'00', hash = zeroblob(32)";
    bench.log.database().write(Durability::Full, move |tx| tx.execute(damage, [])).unwrap();
    let mut others = Author::new(2, 2);
    let (late, other) = (early.put("late", "branch"), others.put("key", "value"));
    let received = bench.receive(vec![early.incoming(late), others.incoming(other)]);
    assert_eq!((received.deferred.len(), received.deferred[0].0), (1, id(1)));
    assert_eq!(received.touched.len(), 1, "the other one is accepted");
    let other = others.put("key", "more");
    let received = bench.receive(vec![early.snapshot(), others.incoming(other)]);
    assert_eq!((received.deferred.len(), received.deferred[0].0), (1, id(1)));
    assert_eq!(received.touched.len(), 1);
}

/// A flush waits for all changes up to the last number at its beginning.
#[test]
fn a_flush_waits_for_changes_that_a_snapshot_renumbered() {
    let mut bench = Bench::new();
    let mut author = Author::new(1, 1);
    bench.append(id(1), &author.put("base", "1"));
    bench.meet(1);
    bench.acknowledge([1]);
    let mut theirs = author.fork(2);
    bench.append(id(1), &author.put("own", "2"));
    let target = bench.count().totals.last;
    assert_eq!(bench.count().first_unacked, Some(target));
    theirs.puts(3);
    bench.receive(vec![theirs.snapshot()]);
    let count = bench.count();
    assert_eq!(count.pending.changes, 1, "it is on no relay");
    assert!(count.first_unacked.unwrap() <= count.totals.moved.max(target), "{count:?}");
}
