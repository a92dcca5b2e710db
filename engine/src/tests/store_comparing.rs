//! Comparison with an upstream: digests, documents that arrive outside the log's order, and the acked
//! ranges after a comparison.

use landfall_protocol::digest::{Digest, DigestEntry, Node, Prefix};
use landfall_protocol::frame::Holding;
use landfall_protocol::{Code, DocumentId};

use super::store_support::{Author, Bench, id};
use crate::store::Refused;

fn present(author: &Author) -> Holding {
    Holding::Present(author.heads().iter().map(|head| head.0).collect())
}

#[test]
fn digests_follow_every_change() {
    let bench = Bench::new();
    let mut documents = Vec::new();
    for n in 0..60u8 {
        let mut bytes = [n; 16];
        bytes[0] = if n < 40 { 0x5a } else { n };
        bytes[1] = n.wrapping_mul(37);
        documents.push(DocumentId::from_bytes(bytes));
    }
    for (n, document) in documents.iter().enumerate() {
        let mut author = Author::new(n as u8 + 1, 0);
        bench.append_all(*document, &author.puts(n % 3 + 1));
    }
    bench.check();
    walk(&bench, Prefix::ROOT, &documents);
}

/// Checks that each level equals the sum of the level below it.
fn walk(bench: &Bench, prefix: Prefix, documents: &[DocumentId]) -> Digest {
    let (first, last) = prefix.range();
    let below: Vec<_> = documents
        .iter()
        .filter(|id| first <= *id.as_bytes() && *id.as_bytes() <= last)
        .copied()
        .collect();
    let prefixes = [(prefix, false), (prefix, true)];
    let branches = bench.log.branches(bench.space, &prefixes).unwrap();
    let mut whole = Digest::default();
    let Node::DigestEntries(digest_entries) = &branches[1].node else {
        panic!("no digest entries")
    };
    assert_eq!(digest_entries.len(), below.len());
    for (id, digest_entry) in digest_entries {
        assert_eq!(*digest_entry, DigestEntry::of_heads(id, &bench.heads(*id)));
        whole.add(*digest_entry);
    }
    match &branches[0].node {
        Node::DigestEntries(few) => assert_eq!((few, few.len() <= 16), (digest_entries, true)),
        Node::Children(children) => {
            assert!(below.len() > 16);
            for (nibble, child) in (0..16).zip(children) {
                assert_eq!(walk(bench, prefix.child(nibble), documents), *child);
            }
        }
    }
    whole
}

#[test]
fn an_upstreams_heads_imply_their_ancestors() {
    let mut bench = Bench::new();
    bench.meet(1);
    let mut author = Author::new(1, 1);
    bench.append_all(id(1), &author.puts(6));
    let mut theirs = author.fork(2);
    bench.append_all(id(1), &author.puts(4));
    bench.acknowledge(1..=10);
    // It has lost the last four, and has two that are missing here.
    let new_changes = theirs.puts(2);
    let received = bench.receive_apart(id(1), present(&theirs), theirs.incomings(new_changes));
    assert_eq!(received.touched.len(), 1);
    bench.check();
    let locals: Vec<u64> = bench.outbox().iter().map(|change| change.local.0).collect();
    assert_eq!((locals, bench.count().pending.changes), (vec![7, 8, 9, 10], 4));
    // Its heads equal those here: it holds everything.
    let mut both = author.fork(3);
    both.merge(&mut theirs);
    bench.receive_apart(id(1), present(&both), vec![]);
    bench.check();
    assert_eq!((bench.outbox_kinds().as_str(), bench.count().pending.changes), ("", 0));
    bench.receive_apart(id(1), Holding::Absent, vec![]);
    bench.check();
    assert_eq!((bench.outbox_kinds().len(), bench.count().pending.changes), (12, 12));
}

#[test]
fn a_snapshot_is_acked_as_a_whole_or_not_at_all() {
    let mut bench = Bench::new();
    bench.meet(1);
    let mut author = Author::new(1, 1);
    bench.append_all(id(1), &author.puts(8));
    let early = author.fork(2);
    bench.append_all(id(1), &author.puts(2));
    bench.acknowledge(1..=10);
    assert_eq!(bench.compact().changes, 10);
    bench.append_all(id(1), &author.puts(3));
    let now = author.fork(3);
    bench.receive_apart(id(1), present(&early), vec![]);
    bench.check();
    assert_eq!((bench.outbox_kinds().as_str(), bench.count().pending.changes), ("sccc", 13));
    bench.receive_apart(id(1), present(&now), vec![]);
    bench.check();
    assert_eq!((bench.outbox_kinds().as_str(), bench.count().pending.changes), ("", 0));
    bench.receive_apart(id(1), Holding::Absent, vec![]);
    bench.check();
    assert_eq!((bench.outbox_kinds().as_str(), bench.count().pending.changes), ("sccc", 13));
    // Its snapshot of the compacted part arrives.
    bench.receive_apart(id(1), present(&early), vec![early.snapshot()]);
    bench.check();
    assert_eq!(bench.outbox_kinds(), "sccc", "`early` is less than the local snapshot covers");
}

#[test]
fn a_comparison_acks_every_document_that_did_not_differ() {
    let mut bench = Bench::new();
    bench.meet(1);
    let mut authors: Vec<Author> = (1..=4).map(|n| Author::new(n, n)).collect();
    for author in &mut authors {
        let changes = author.puts(5);
        bench.append_all(author.document, &changes);
    }
    bench.acknowledge(1..=10);
    bench.compact();
    bench.acknowledge(11..=20);
    let through = bench.reset();
    bench.check();
    assert_eq!((through.0, bench.count().pending.changes), (20, 20));
    assert_eq!(bench.outbox_kinds(), "ssccccccccccc"[..12].to_owned());
    // Meanwhile a change is written; the first and the third document differ.
    bench.append_all(id(2), &authors[1].puts(1));
    let third = Author::new(3, 3);
    bench.receive_apart(id(3), present(&third), vec![]);
    let count = bench.finish_comparison(20, vec![id(1), id(3)]);
    bench.check();
    assert_eq!(bench.outbox_kinds(), "scccccc");
    assert_eq!(count.pending.changes, 5 + 5 + 1);
    bench.reset();
    bench.check();
    bench.finish_comparison(21, vec![]);
    bench.check();
    assert_eq!((bench.outbox_kinds().as_str(), bench.count().pending.changes), ("", 0));
}

fn wait<T: Send + 'static>(submit: impl FnOnce(crate::store::Done<T>)) {
    let (sender, receiver) = std::sync::mpsc::channel();
    submit(Box::new(move |done| sender.send(done.is_ok()).unwrap()));
    assert!(receiver.recv().unwrap());
}

fn reject(bench: &Bench, document: DocumentId) {
    let refused = Refused { code: Code::FORBIDDEN, what: "no".to_owned(), deletion: false };
    wait(|done| bench.log.submit_reject(bench.space, document, refused, done));
}

/// The documents that a check reads, and for which a difference is expected.
fn expected(bench: &Bench) -> Vec<DocumentId> {
    let read = bench.log.compared_branches(bench.space, &[(Prefix::ROOT, true)]).unwrap();
    let by_walk: Vec<_> = read.expected.into_iter().collect();
    let all: Vec<_> = (1..=9).map(id).collect();
    let by_heads = bench.log.compared_heads(bench.space, &all).unwrap().expected;
    assert_eq!(by_heads.into_iter().collect::<Vec<_>>(), by_walk);
    by_walk
}

/// The copy of a relay that rejects a document differs at each check; so does one to which an edit or a
/// deletion is still to be sent. That is no drift.
#[test]
fn rejected_deferred_and_unsent_changes_explain_a_difference() {
    let mut bench = Bench::new();
    bench.meet(1);
    let mut authors: Vec<Author> = (1..=5).map(|n| Author::new(n, n)).collect();
    for author in &mut authors {
        let changes = author.puts(1);
        bench.append_all(author.document, &changes);
    }
    assert_eq!(expected(&bench), [id(1), id(2), id(3), id(4), id(5)], "nothing is sent");
    bench.acknowledge(1..=5);
    assert_eq!(expected(&bench), [], "all is sent");
    // Edited, with one change that the relay rejects; deleted; deferred, of a document that is not
    // here.
    bench.append_all(id(2), &authors[1].puts(1));
    bench.append_all(id(3), &authors[2].puts(1));
    reject(&bench, id(3));
    wait(|done| bench.log.submit_delete(bench.space, id(4), 1, done));
    let mut orphan = Author::new(9, 9);
    let changes = orphan.puts(2);
    assert_eq!(bench.receive(orphan.incomings(changes[1..].to_vec())).deferred.len(), 1);
    for _check in 0..3 {
        assert_eq!(expected(&bench), [id(2), id(3), id(4), id(9)]);
        assert_eq!(bench.log.unexplained(bench.space, &[id(3), id(9)]).unwrap(), []);
    }
    // The reason may be gone when the check ends: then only the earlier look has it.
    wait(|done| bench.log.submit_delete(bench.space, id(3), 1, done));
    let last = bench.count().totals.last;
    bench.acknowledge(1..=last);
    assert_eq!(bench.log.unexplained(bench.space, &[id(3)]).unwrap(), [id(3)]);
    assert_eq!(expected(&bench), [id(9)]);
    bench.check();
}

/// Entries that the relay has and cannot read are recorded with the cursor, and forgotten when the
/// document has arrived whole or the relay's log is another one.
#[test]
fn damaged_entries_at_the_upstream_are_recorded_until_they_arrive() {
    use landfall_protocol::Offset;
    use landfall_protocol::client::{DeferredReason, Incoming};
    use landfall_protocol::frame::Entry;

    let damaged = |offset, document| Incoming::Deferred {
        entry: Entry::of_damage(Offset(offset), document),
        reason: DeferredReason::Damaged,
    };
    let mut bench = Bench::new();
    bench.meet(1);
    let mut author = Author::new(1, 1);
    let first = author.puts(3);
    let entries = vec![damaged(3, Some(id(1))), damaged(4, Some(id(2))), damaged(5, None)];
    let received = bench.receive(entries.clone());
    assert_eq!(received.deferred.len(), 3);
    let at_relay = |bench: &Bench| bench.log.damaged_at_relay(bench.space).unwrap();
    assert_eq!(at_relay(&bench), [None, Some(id(1)), Some(id(2))]);
    // A second time it is not new, so that it does not cause a comparison again and again.
    assert_eq!(bench.receive(entries.clone()).deferred.len(), 0);
    bench.check();
    let count = bench.acknowledge([]);
    assert_eq!((count.deferred, count.damaged), (3, 3));
    bench.receive_apart(id(1), present(&author), author.incomings(first));
    assert_eq!(at_relay(&bench), [None, Some(id(2))]);
    bench.check();
    bench.reset();
    assert_eq!(at_relay(&bench), []);
    assert_eq!(bench.acknowledge([]).damaged, 0);
    bench.receive(entries);
    assert_eq!(at_relay(&bench).len(), 3, "reported again after the reset");
}

/// A relay reports damage by entry, and for a fetched document as a whole.
#[test]
fn damage_that_is_reported_twice_counts_once() {
    use landfall_protocol::Offset;
    use landfall_protocol::client::{DeferredReason, Incoming};
    use landfall_protocol::frame::Entry;

    let damaged = |offset, document| Incoming::Deferred {
        entry: Entry::of_damage(Offset(offset), Some(document)),
        reason: DeferredReason::Damaged,
    };
    let mut bench = Bench::new();
    bench.meet(1);
    bench.receive(vec![damaged(3, id(1)), damaged(4, id(1)), damaged(0, id(1))]);
    assert_eq!(bench.count().damaged, 2, "two entries, named");
    bench.receive(vec![damaged(0, id(2))]);
    assert_eq!(bench.count().damaged, 3);
    bench.receive(vec![damaged(5, id(2))]);
    assert_eq!(bench.count().damaged, 3, "now the document is known");
    bench.check();
}

/// Entries that one relay cannot read do not count for another, and are recorded until it is connected
/// again.
#[test]
fn damaged_entries_are_counted_for_their_upstream_only() {
    use landfall_protocol::Offset;
    use landfall_protocol::client::{DeferredReason, Incoming};
    use landfall_protocol::frame::Entry;

    let damaged = |offset, document| Incoming::Deferred {
        entry: Entry::of_damage(Offset(offset), document),
        reason: DeferredReason::Damaged,
    };
    let mut bench = Bench::new();
    bench.meet(1);
    bench.receive(vec![damaged(3, Some(id(1))), damaged(4, Some(id(2)))]);
    let reported = |bench: &Bench| {
        let count = bench.count();
        (count.deferred, count.damaged, bench.log.damaged_at_relay(bench.space).unwrap())
    };
    assert_eq!(reported(&bench), (2, 2, vec![Some(id(1)), Some(id(2))]));
    bench.meet(2);
    assert_eq!(reported(&bench), (0, 0, vec![]), "the other upstream has reported no damage");
    bench.receive(vec![damaged(3, Some(id(3)))]);
    assert_eq!(reported(&bench), (1, 1, vec![Some(id(3))]));
    bench.check();
    bench.meet(1);
    assert_eq!(reported(&bench), (2, 2, vec![Some(id(1)), Some(id(2))]));
    bench.reset();
    assert_eq!(reported(&bench), (0, 0, vec![]));
    bench.meet(2);
    assert_eq!(
        reported(&bench),
        (1, 1, vec![Some(id(3))]),
        "a reset of one forgets nothing of another"
    );
    bench.check();
    let wrong = "UPDATE link SET damaged = damaged + 1";
    let database = bench.log.database();
    database.write(landfall_storage::Durability::Full, |tx| tx.execute(wrong, [])).unwrap();
    assert_eq!(bench.log.repair().unwrap().left, []);
    assert_eq!(reported(&bench), (1, 1, vec![Some(id(3))]));
}

/// So many damaged entries that no more are recorded: those of other relays are removed.
#[test]
fn damaged_entries_of_all_upstreams_are_bounded_and_reported() {
    use landfall_protocol::client::{DeferredReason, Incoming};
    use landfall_protocol::frame::Entry;
    use landfall_protocol::{Offset, limits};

    let mut bench = Bench::new();
    bench.meet(1);
    bench.receive(vec![]);
    let fill = format!(
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {})
         INSERT INTO aside (upstream, space, offset, document, kind, flags, hash, dependencies,
             author, at_ms, body, reason)
         SELECT 1, 1, i, zeroblob(16), 7, 0, CAST(i AS BLOB), x'', x'', 1, x'', 'r' FROM n",
        limits::DAMAGED_ENTRIES
    );
    let database = bench.log.database();
    database.write(landfall_storage::Durability::Full, move |tx| tx.execute_batch(&fill)).unwrap();
    let most = limits::DAMAGED_ENTRIES as u64;
    let damaged = |offset| Incoming::Deferred {
        entry: Entry::of_damage(Offset(offset), Some(id(3))),
        reason: DeferredReason::Damaged,
    };
    bench.receive(vec![damaged(103)]);
    assert_eq!(bench.count().damaged, most, "of one relay, no more");
    bench.meet(2);
    bench.receive(vec![damaged(3)]);
    assert_eq!(bench.count().damaged, 1);
    bench.check();
    let point = bench.meet(1);
    assert_eq!((point.cursor, bench.count().damaged), (None, 0), "a comparison reports it again");
}
