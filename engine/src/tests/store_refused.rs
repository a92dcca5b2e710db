//! Changes that are rejected or superseded, deleted documents, unrelated histories.

use std::sync::mpsc;

use landfall_protocol::Code;
use landfall_protocol::admission::{CheckedChange, HistoryError, Roots};
use landfall_protocol::client::{Incoming, OutboxKind};
use landfall_protocol::frame::Holding;
use landfall_protocol::{ChangeHash, DocumentId, Local, Offset};
use landfall_storage::{Durability, WriteError};

use super::store_support::{Author, Bench, id};
use crate::store::{AppendError, Deleted, LocalChange, Refused, ReplaceError, Superseded};

fn met() -> (Bench, Author) {
    let mut bench = Bench::new();
    bench.meet(1);
    (bench, Author::new(1, 1))
}

fn tombstone(document: DocumentId) -> Incoming {
    Incoming::Tombstone { offset: Offset(1), document, author: vec![9; 16], at_ms: 1 }
}

fn delete(bench: &Bench, document: DocumentId) -> bool {
    let (sender, receiver) = mpsc::channel();
    let done = Box::new(move |done| sender.send(done).unwrap());
    bench.log.submit_delete(bench.space, document, 1, done);
    receiver.recv().unwrap().unwrap().value.1
}

fn reject(bench: &Bench, document: DocumentId) {
    let (sender, receiver) = mpsc::channel();
    let done = Box::new(move |done| sender.send(done).unwrap());
    let refused = Refused { code: Code::FORBIDDEN, what: "no".to_owned(), deletion: false };
    bench.log.submit_reject(bench.space, document, refused, done);
    receiver.recv().unwrap().unwrap();
}

/// The upstream rejects these changes: it does not have them.
fn refuse(bench: &Bench, document: DocumentId, locals: impl IntoIterator<Item = u64>) {
    let (sender, receiver) = mpsc::channel();
    let done = Box::new(move |done| sender.send(done).unwrap());
    let locals = locals.into_iter().map(Local).collect();
    bench.log.submit_refused(bench.space, document, locals, done);
    receiver.recv().unwrap().unwrap();
    reject(bench, document);
}

fn not_taken(bench: &Bench, document: DocumentId) -> Vec<ChangeHash> {
    let row = bench.log.document(bench.space, &document).unwrap().unwrap();
    let found = bench.log.not_taken(bench.space, row).unwrap();
    found.iter().map(|change| change.hash).collect()
}

fn local(bench: &Bench, change: CheckedChange) -> LocalChange {
    LocalChange { space: bench.space, document: id(1), change, at_ms: 2 }
}

#[test]
fn a_received_change_supersedes_an_unacknowledged_one() {
    let (mut bench, mut author) = met();
    bench.append_all(id(1), &author.puts(5));
    bench.acknowledge(1..=5);
    // A copy of this store diverges, with the same actor.
    let mut copy = author.fork(1);
    bench.append_all(id(1), &author.puts(3));
    let mut other = author.fork(2);
    bench.append_all(id(1), &other.puts(2));
    let theirs = vec![copy.put("copy", "one"), copy.put("copy", "two")];
    let received = bench.receive(copy.incomings(theirs));
    assert_eq!(received.superseded, [Superseded { document: id(1), changes: 5 }]);
    assert_eq!(received.deferred, []);
    bench.check();
    assert_eq!(bench.heads(id(1)), copy.heads());
    // The superseded changes are on no relay; only the application can decide what to do with them.
    assert_eq!((bench.count().totals.changes, bench.count().pending.changes), (7, 5));
    assert_eq!((bench.outbox_kinds().as_str(), bench.count().first_unacked), ("", None));
    assert_eq!(bench.log.rejected(bench.space).unwrap()[0].document, id(1));
    let row = bench.log.document(bench.space, &id(1)).unwrap().unwrap();
    let unsent = bench.log.unsent(bench.space, row).unwrap();
    assert_eq!(unsent.len(), 5);
    assert!(unsent.iter().all(|unsent| !unsent.in_log));
    // An echo of a change that was being pushed is no error.
    let echo = Incoming::Echo { document: id(1), hash: unsent[0].hash };
    bench.receive(vec![echo]);
    // They are re-authored.
    let mut again = copy.fork(3);
    let new = again.puts(2).into_iter().map(|change| local(&bench, change)).collect();
    let old = unsent.iter().map(|unsent| unsent.hash).collect();
    bench.log.replace_unsent(bench.space, id(1), old, new, || ()).unwrap();
    bench.check();
    assert_eq!(bench.heads(id(1)), again.heads());
    assert_eq!((bench.outbox_kinds().as_str(), bench.count().pending.changes), ("cc", 2));
}

#[test]
fn a_change_that_conflicts_with_an_acknowledged_one_is_deferred() {
    let (mut bench, mut author) = met();
    bench.append_all(id(1), &author.puts(5));
    let mut copy = author.fork(1);
    bench.append_all(id(1), &author.puts(1));
    bench.acknowledge(1..=6);
    let theirs = vec![copy.put("copy", "one")];
    let received = bench.receive(copy.incomings(theirs));
    assert_eq!((received.superseded.len(), received.deferred.len()), (0, 1));
    bench.check();
    assert_eq!(bench.heads(id(1)), author.heads());
}

#[test]
fn rejected_changes_are_retried_or_replaced() {
    let (mut bench, mut author) = met();
    bench.append_all(id(1), &author.puts(4));
    bench.acknowledge(1..=4);
    let mut acknowledged = author.fork(2);
    bench.append_all(id(1), &author.puts(3));
    refuse(&bench, id(1), 5..=7);
    assert_eq!((bench.outbox_kinds().as_str(), bench.count().pending.changes), ("", 3));
    assert_eq!(not_taken(&bench, id(1)).len(), 3);
    let (sender, receiver) = mpsc::channel();
    let done = Box::new(move |done| sender.send(done).unwrap());
    bench.log.submit_retry(bench.space, id(1), done);
    receiver.recv().unwrap().unwrap();
    assert_eq!(bench.outbox_kinds(), "ccc");
    // Pushed again, their state is unknown until the answer.
    reject(&bench, id(1));
    assert_eq!(not_taken(&bench, id(1)), []);
    // The relay cannot have accepted a dependent of a rejected change either.
    refuse(&bench, id(1), [5]);
    let old = not_taken(&bench, id(1));
    assert_eq!(old.len(), 3);
    let new: Vec<_> = acknowledged.puts(2).into_iter().map(|c| local(&bench, c)).collect();
    let replaced =
        bench.log.replace_unsent(bench.space, id(1), old[1..].to_vec(), new.clone(), || ());
    assert!(matches!(replaced, Err(WriteError::Job(ReplaceError::Changed))));
    bench.log.replace_unsent(bench.space, id(1), old, new, || ()).unwrap();
    bench.check();
    assert_eq!(bench.heads(id(1)), acknowledged.heads());
    assert_eq!(bench.log.rejected(bench.space).unwrap(), []);
    assert_eq!((bench.outbox_kinds().as_str(), bench.count().pending.changes), ("cc", 2));
    bench.receive(vec![]);
    bench.acknowledge([8, 9]);
    assert_eq!(bench.compact().changes, 6);
}

/// The relay has accepted a change, and its answer is still on the way. If the change were re-authored,
/// its content would be duplicated.
#[test]
fn sent_and_unanswered_changes_are_never_re_authored() {
    let (mut bench, mut author) = met();
    bench.append_all(id(1), &author.puts(4));
    bench.acknowledge(1..=4);
    let (mut one, mut other, mut again) = (author.fork(2), author.fork(3), author.fork(4));
    let (refused, taken) = (one.put("one", "refused"), other.put("other", "taken"));
    bench.append_all(id(1), &[refused.clone(), taken.clone()]);
    let more = one.put("more", "never sent");
    bench.append_all(id(1), std::slice::from_ref(&more));
    refuse(&bench, id(1), [5]);
    assert_eq!(not_taken(&bench, id(1)), [refused.hash, more.hash]);
    let new: Vec<_> = again.puts(2).into_iter().map(|change| local(&bench, change)).collect();
    let all = vec![refused.hash, taken.hash, more.hash];
    let replaced = bench.log.replace_unsent(bench.space, id(1), all, new.clone(), || ());
    assert!(matches!(replaced, Err(WriteError::Job(ReplaceError::Changed))));
    let old = vec![refused.hash, more.hash];
    bench.log.replace_unsent(bench.space, id(1), old, new, || ()).unwrap();
    bench.check();
    // The answer arrives as the echo of the accepted change, which is still in the log.
    bench.receive(vec![Incoming::Echo { document: id(1), hash: taken.hash }]);
    again.merge(&mut other);
    assert_eq!(bench.heads(id(1)), again.heads());
    assert_eq!(Author::shows(&bench.load(id(1))), Author::shows(&again.doc));
    assert_eq!((bench.outbox_kinds().as_str(), bench.count().pending.changes), ("cc", 2));
}

/// A rejected change that the relay has all the same, from a copy of the store.
#[test]
fn changes_that_the_relay_got_from_others_are_not_re_authored() {
    let (mut bench, mut author) = met();
    let changes = author.puts(3);
    bench.append_all(id(1), &changes);
    refuse(&bench, id(1), 1..=3);
    assert_eq!(not_taken(&bench, id(1)).len(), 3);
    bench.receive(vec![author.incoming(changes[0].clone())]);
    assert_eq!(not_taken(&bench, id(1)), []);
    bench.check();
}

#[test]
fn a_locally_deleted_document_stays_deleted() {
    let (mut bench, mut author) = met();
    bench.append_all(id(1), &author.puts(30));
    bench.acknowledge(1..=20);
    bench.compact();
    let mut other = Author::new(2, 2);
    bench.append_all(id(2), &other.puts(2));
    assert!(delete(&bench, id(1)));
    assert!(!delete(&bench, id(1)), "it is deleted once");
    bench.check();
    assert_eq!(bench.log.documents(bench.space).unwrap(), [id(2)]);
    assert_eq!((bench.heads(id(1)).len(), bench.outbox_kinds().as_str()), (0, "cct"));
    assert_eq!((bench.count().totals.changes, bench.count().pending.changes), (3, 3));
    while bench.log.sweep(4).unwrap() {
        bench.check();
    }
    assert_eq!(bench.rows(), 2);
    // No change of it is admitted any more, neither a local nor a received one.
    let change = author.put("more", "edits");
    let appended = bench.log.append(Durability::Full, vec![local(&bench, change.clone())], |_| ());
    assert!(matches!(appended, Err(WriteError::Job(AppendError::History(HistoryError::Deleted)))));
    let received = bench.receive(vec![author.incoming(change), author.snapshot()]);
    assert_eq!((received.deferred.len(), received.touched.len()), (0, 0));
    bench.check();
    // The upstream's tombstone acknowledges the local one.
    let received = bench.receive(vec![tombstone(id(1))]);
    assert_eq!(received.deleted, []);
    bench.check();
    assert_eq!((bench.outbox_kinds().as_str(), bench.count().pending.changes), ("cc", 2));
    // Another upstream still has it.
    bench.meet(2);
    bench.receive_apart(id(1), Holding::Present(vec![author.heads()[0].0]), vec![]);
    bench.check();
    assert_eq!(bench.outbox_kinds(), "cct");
    bench.receive_apart(id(1), Holding::Deleted, vec![tombstone(id(1))]);
    bench.check();
    assert_eq!(bench.outbox_kinds(), "cc");
}

#[test]
fn unsent_edits_of_a_deleted_document_are_kept_until_discarded() {
    let (mut bench, mut author) = met();
    bench.append_all(id(1), &author.puts(20));
    bench.acknowledge(1..=20);
    bench.compact();
    bench.append_all(id(1), &author.puts(2));
    bench.acknowledge([21]);
    let received = bench.receive(vec![tombstone(id(1)), tombstone(id(3))]);
    let deleted = |document, unsent| Deleted { document, unsent };
    assert_eq!(received.deleted, [deleted(id(1), 1), deleted(id(3), 0)]);
    bench.check();
    assert_eq!((bench.outbox_kinds().as_str(), bench.count().pending.changes), ("", 0));
    assert_eq!(bench.log.documents(bench.space).unwrap(), []);
    assert!(bench.log.deleted(bench.space, &id(1)).unwrap());
    while bench.log.sweep(100).unwrap() {}
    let lost = bench.log.lost(bench.space).unwrap();
    assert_eq!((lost.len(), lost[0].document, lost[0].unsent), (1, id(1), 1));
    let bytes = bench.log.orphaned_bytes(bench.space, &id(1)).unwrap().unwrap();
    let mut doc = automerge::Automerge::load(&bytes.snapshot.unwrap()).unwrap();
    bytes.changes.iter().for_each(|change| {
        doc.load_incremental(change).unwrap();
    });
    assert_eq!(Author::shows(&doc), Author::shows(&author.doc));
    let (sender, receiver) = mpsc::channel();
    let done = Box::new(move |done: Result<_, _>| sender.send(done).unwrap());
    bench.log.submit_discard(bench.space, id(1), done);
    receiver.recv().unwrap().unwrap();
    while bench.log.sweep(100).unwrap() {}
    bench.check();
    assert_eq!((bench.rows(), bench.log.lost(bench.space).unwrap().len()), (0, 0));
    assert_eq!(bench.log.orphaned_bytes(bench.space, &id(1)).unwrap(), None);
}

#[test]
fn unrelated_histories_are_merged_on_request() {
    let (mut bench, mut author) = met();
    bench.append_all(id(1), &author.puts(3));
    let mut theirs = Author::new(2, 1);
    let changes = theirs.puts(4);
    let received = bench.receive(theirs.incomings(changes));
    assert_eq!((received.unrelated.as_slice(), received.deferred.len()), (&[id(1)][..], 4));
    bench.check();
    reject(&bench, id(1));
    let (sender, receiver) = mpsc::channel();
    let done = Box::new(move |done| sender.send(done).unwrap());
    bench.log.submit_allow_merge(bench.space, id(1), done);
    let received = receiver.recv().unwrap().unwrap().value;
    assert_eq!((received.recovered, received.touched.len()), (4, 1));
    bench.check();
    author.merge(&mut theirs);
    assert_eq!(Author::shows(&bench.load(id(1))), Author::shows(&author.doc));
    assert_eq!((bench.heads(id(1)).len(), bench.count().pending.changes), (2, 3));
    let roots: Vec<Roots> = bench
        .outbox()
        .iter()
        .map(|change| match &change.what {
            OutboxKind::Change(_, roots) => *roots,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(roots, [Roots::Several, Roots::One, Roots::One]);
}

#[test]
fn an_unrelated_snapshot_is_deferred_until_a_merge_is_requested() {
    let (mut bench, mut author) = met();
    bench.append_all(id(1), &author.puts(3));
    let mut theirs = Author::new(2, 1);
    theirs.puts(4);
    let snapshot = theirs.snapshot();
    let more = theirs.puts(2);
    let received = bench.receive(vec![snapshot.clone()]);
    assert_eq!((received.unrelated.as_slice(), received.touched.len()), (&[id(1)][..], 0));
    bench.receive(vec![snapshot]);
    bench.receive(theirs.incomings(more));
    bench.check();
    assert_eq!(bench.count().deferred, 3);
    let (sender, receiver) = mpsc::channel();
    let done = Box::new(move |done| sender.send(done).unwrap());
    bench.log.submit_allow_merge(bench.space, id(1), done);
    assert_eq!(receiver.recv().unwrap().unwrap().value.recovered, 3);
    bench.check();
    author.merge(&mut theirs);
    assert_eq!(Author::shows(&bench.load(id(1))), Author::shows(&author.doc));
    assert_eq!((bench.count().totals.changes, bench.count().pending.changes), (9, 3));
}

#[test]
fn a_snapshot_supersedes_unsent_changes() {
    let (mut bench, mut author) = met();
    bench.append_all(id(1), &author.puts(5));
    bench.acknowledge(1..=5);
    let mut copy = author.fork(1);
    let mut other = author.fork(2);
    bench.append_all(id(1), &author.puts(3));
    bench.append_all(id(1), &other.puts(2));
    copy.put("copy", "one");
    let received = bench.receive(vec![copy.snapshot()]);
    assert_eq!(received.superseded, [Superseded { document: id(1), changes: 3 }]);
    bench.check();
    // Changes without a conflict stay.
    copy.merge(&mut other);
    assert_eq!(bench.heads(id(1)), copy.heads());
    assert_eq!(bench.outbox_kinds(), "cc");
    // If the relay holds the conflicting change, the snapshot is deferred, and nothing blocks.
    let mut acked = copy.fork(1);
    let mut conflicting = copy.fork(1);
    bench.append_all(id(1), &[acked.put("one", "acknowledged")]);
    let locals: Vec<u64> = bench.outbox().iter().map(|change| change.local.0).collect();
    bench.acknowledge(locals);
    conflicting.put("other", "conflicting");
    let received = bench.receive(vec![conflicting.snapshot()]);
    assert_eq!((received.superseded.len(), received.deferred.len()), (0, 1));
    bench.check();
    bench.compact();
    let received = bench.receive(vec![conflicting.snapshot()]);
    assert_eq!((received.touched.len(), bench.count().deferred), (0, 1));
    bench.check();
}
