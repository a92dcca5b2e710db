//! The budget of a document in the engine's store: what counts against it, and that entries which a
//! relay holds are not rejected because of this replica's own changes.

use std::collections::BTreeSet;

use automerge::{ActorId, ObjType, ROOT, transaction::Transactable};
use landfall_protocol::admission::{CheckedChange, HistoryError, preflight};
use landfall_protocol::{Code, Local, limits};
use landfall_storage::{Durability, WriteError};

use super::store_support::{Author, Bench, id};
use crate::store::{
    AppendError, CompactionOptions, DocumentLimit, LocalChange, Refused, ReplaceError,
};

/// Concurrent changes on top of an author's history, each by its own actor.
fn branches(base: &Author, first: u32, count: u32) -> Vec<CheckedChange> {
    let branch = |number: u32| {
        let mut doc = base.doc.fork().with_actor(ActorId::from(number.to_be_bytes()));
        doc.transact(|tx| tx.put(ROOT, "branch", u64::from(number))).unwrap();
        preflight(doc.get_last_local_change().unwrap().raw_bytes()).unwrap()
    };
    (first..first + count).map(branch).collect()
}

/// The operations that count against the budget of the only document.
fn counted(bench: &Bench) -> u64 {
    let read = bench
        .log
        .database()
        .read(|conn| conn.query_row("SELECT operations FROM document", [], |row| row.get(0)));
    read.unwrap()
}

fn pretend(bench: &Bench, operations: u64) {
    let written = bench.log.database().write(Durability::Relaxed, move |tx| {
        tx.execute("UPDATE document SET operations = ?1", [operations])
    });
    written.unwrap();
}

fn sum(changes: &[CheckedChange]) -> u64 {
    changes.iter().map(|change| change.stored_operations).sum()
}

fn is_full(error: &WriteError<AppendError>) -> bool {
    matches!(error, WriteError::Job(AppendError::History(HistoryError::OverBudget(_))))
}

fn appended(bench: &Bench, change: &CheckedChange) -> Result<(), WriteError<AppendError>> {
    let change =
        LocalChange { space: bench.space, document: id(1), change: change.clone(), at_ms: 1 };
    bench.log.append(Durability::Relaxed, vec![change], |_| ()).map(drop)
}

#[test]
fn received_changes_are_accepted_beyond_the_limit_of_heads() {
    let mut bench = Bench::new();
    let mut author = Author::new(1, 1);
    bench.append(id(1), &author.put("base", "1"));
    bench.meet(1);
    bench.acknowledge([1]);
    let most = 3_000;
    // One edit is made here, offline; the relay has many heads. Their number does not matter: see the
    // test of admission.
    bench.append(id(1), &branches(&author, 0, 1)[0]);
    let received = bench.receive(author.incomings(branches(&author, 1, most)));
    assert_eq!(received.deferred, []);
    assert_eq!(bench.heads(id(1)).len(), most as usize + 1);
    assert_eq!(received.oversized, [], "this number is within the limit");
    bench.check();
}

#[test]
fn received_changes_are_accepted_beyond_the_operations_budget() {
    let mut bench = Bench::new();
    let mut author = Author::new(1, 1);
    bench.append(id(1), &author.put("base", "1"));
    bench.meet(1);
    bench.acknowledge([1]);
    let mut other = author.fork(2);
    // A replica leaves a quarter of the budget to the others, and still accepts their changes.
    pretend(&bench, limits::DOCUMENT_OPERATIONS / 4 * 3);
    let refused = appended(&bench, &author.fork(3).put("own", "2")).unwrap_err();
    assert!(is_full(&refused), "{refused}");
    pretend(&bench, limits::DOCUMENT_OPERATIONS);
    let theirs = other.puts(3);
    let received = bench.receive(other.incomings(theirs));
    assert_eq!(received.deferred, []);
    assert_eq!(bench.heads(id(1)), other.heads());
    let [(document, excess)] = received.oversized[..] else { panic!("{:?}", received.oversized) };
    assert_eq!((document, excess.of), (id(1), DocumentLimit::Operations));
    assert!(excess.actual > limits::DOCUMENT_OPERATIONS && excess.limit < excess.actual);
}

/// A relay may have compacted the document to next to nothing: the long changes here are no allowance
/// for the operations of a short change there.
#[test]
fn a_change_that_a_relay_might_refuse_fails_locally() {
    let bench = Bench::new();
    let mut author = Author::new(1, 1);
    let made = |author: &mut Author| {
        preflight(author.doc.get_last_local_change().unwrap().raw_bytes()).unwrap()
    };
    let text = author.doc.transact(|tx| tx.put_object(ROOT, "text", ObjType::Text)).unwrap().result;
    let begun = made(&mut author);
    let long = "a".repeat(20_000);
    author.doc.transact(|tx| tx.splice_text(&text, 0, 0, &long)).unwrap();
    let pasted = made(&mut author);
    assert!(pasted.bytes.len() > long.len(), "it pays for itself");
    bench.append_all(id(1), &[begun, pasted]);
    author.doc.transact(|tx| tx.splice_text(&text, 0, long.len() as isize, "")).unwrap();
    let deleted = made(&mut author);
    assert!(deleted.bytes.len() < 500 && deleted.stored_operations >= 20_000);
    let free = limits::DOCUMENT_OPERATIONS_FREE / 4 * 3;
    pretend(&bench, free - 10_000);
    let refused = appended(&bench, &deleted).unwrap_err();
    assert!(is_full(&refused), "{refused}");
    pretend(&bench, free - 30_000);
    appended(&bench, &deleted).unwrap();
}

#[test]
fn two_snapshots_with_many_heads_are_both_kept() {
    let mut bench = Bench::new();
    let mut author = Author::new(1, 1);
    bench.append(id(1), &author.put("base", "1"));
    let each = 1_500;
    bench.append_all(id(1), &branches(&author, 0, each));
    assert_eq!(
        crate::compactor::compact(&bench.log, &CompactionOptions::EVERYTHING).unwrap().documents,
        1
    );
    bench.meet(1);
    let mut theirs = author.fork(2);
    let changes = branches(&author, each, each)
        .into_iter()
        .map(|change| automerge::Change::from_bytes(change.bytes).unwrap());
    theirs.doc.apply_changes(changes.collect::<Vec<_>>()).unwrap();
    let received = bench.receive(vec![theirs.snapshot()]);
    assert_eq!(received.deferred, []);
    assert_eq!(bench.heads(id(1)).len(), 2 * each as usize);
    bench.check();
}

#[test]
fn changes_that_leave_the_log_leave_the_counts() {
    let mut bench = Bench::new();
    let mut author = Author::new(1, 1);
    bench.meet(1);
    let base = author.puts(2);
    bench.append_all(id(1), &base);
    bench.acknowledge([1, 2]);
    let mut copy = author.fork(1);
    bench.append_all(id(1), &author.puts(5));
    let theirs = vec![copy.put("copy", "one")];
    let expected = sum(&base) + sum(&theirs);
    let received = bench.receive(copy.incomings(theirs));
    assert_eq!(received.superseded[0].changes, 5);
    assert_eq!(counted(&bench), expected);
    // Changes that are made again, too.
    let mut again = copy.fork(3);
    let row = bench.log.document(bench.space, &id(1)).unwrap().unwrap();
    for round in 0..3 {
        let old = bench.log.not_taken(bench.space, row).unwrap();
        let old: Vec<_> = old.iter().map(|change| change.hash).collect();
        assert_eq!(old.len(), if round == 0 { 5 } else { 2 });
        let new = again.puts(2);
        let sum = expected + sum(&new);
        let made = new.into_iter().map(|change| LocalChange {
            space: bench.space,
            document: id(1),
            change,
            at_ms: 1,
        });
        bench.log.replace_unsent(bench.space, id(1), old, made.collect(), || ()).unwrap();
        assert_eq!(counted(&bench), sum, "round {round}");
        let last = bench.count().totals.last;
        refuse(&bench, [last - 1, last]);
        again = copy.fork(4 + round);
    }
    bench.check();
    // A count that is too high is found and repaired.
    pretend(&bench, limits::DOCUMENT_OPERATIONS);
    assert_eq!(bench.log.verify().unwrap().len(), 1);
    assert_eq!(bench.log.repair().unwrap().left, []);
    assert!(counted(&bench) < 100);
}

fn refuse(bench: &Bench, locals: impl IntoIterator<Item = u64>) {
    let (sender, receiver) = std::sync::mpsc::channel();
    let rejected = sender.clone();
    let done = Box::new(move |done: Result<_, _>| sender.send(Result::is_ok(&done)).unwrap());
    let locals = locals.into_iter().map(Local).collect();
    bench.log.submit_refused(bench.space, id(1), locals, done);
    let done = Box::new(move |done: Result<_, _>| rejected.send(Result::is_ok(&done)).unwrap());
    let refused = Refused { code: Code::FORBIDDEN, what: "no".to_owned(), deletion: false };
    bench.log.submit_reject(bench.space, id(1), refused, done);
    assert!(receiver.recv().unwrap() && receiver.recv().unwrap());
}

#[test]
fn a_snapshots_operations_add_to_the_documents_count() {
    let mut bench = Bench::new();
    let mut author = Author::new(1, 1);
    let base = author.put("base", "1");
    bench.append(id(1), &base);
    bench.meet(1);
    let mut theirs = author.fork(2);
    let own = author.puts(9);
    bench.append_all(id(1), &own);
    let in_snapshot = theirs.puts(7);
    bench.receive(vec![theirs.snapshot()]);
    assert_eq!(counted(&bench), base.stored_operations + sum(&own) + sum(&in_snapshot));
    bench.check();
}

/// A change that a full document rejects is not in the store: it leaves no doubt about the actor.
#[test]
fn a_full_document_keeps_its_actor() {
    let store = super::store();
    let document = store.space("s").unwrap().create(|tx| Ok(tx.put(ROOT, "k", 0)?)).unwrap().0;
    let pretend = |operations: u64| {
        let log = &store.open_store().context.log;
        let written = log.database().write(Durability::Relaxed, move |tx| {
            tx.execute("UPDATE document SET operations = ?1", [operations])
        });
        written.unwrap();
    };
    for round in 1..4_i64 {
        pretend(limits::DOCUMENT_OPERATIONS);
        let refused = super::put(&document, "refused").unwrap_err();
        assert!(matches!(refused, crate::ChangeError::DocumentFull(_)), "{refused}");
        pretend(0);
        document.change(|tx| Ok(tx.put(ROOT, "k", round)?)).unwrap();
    }
    let actors = document.read(|doc| {
        let changes = doc.get_changes(&[]);
        changes.iter().map(|change| change.actor_id().clone()).collect::<BTreeSet<_>>().len()
    });
    assert_eq!(actors.unwrap(), 1);
}

/// A change that is made again counts as a local one. A relay that has compacted the document need not
/// have more room than a local change needs, and would reject it again.
#[test]
fn re_authored_changes_have_the_limits_of_local_changes() {
    let mut bench = Bench::new();
    let mut author = Author::new(1, 1);
    bench.append(id(1), &author.put("base", "1"));
    bench.meet(1);
    bench.acknowledge([1]);
    let mut again = author.fork(2);
    bench.append(id(1), &author.put("refused", "2"));
    refuse(&bench, [2]);
    let row = bench.log.document(bench.space, &id(1)).unwrap().unwrap();
    let refused = || bench.log.not_taken(bench.space, row).unwrap();
    let hashes = || refused().iter().map(|unsent| unsent.hash).collect::<Vec<_>>();
    let change = again.put("again", "2");
    let new = LocalChange { space: bench.space, document: id(1), change, at_ms: 1 };
    let replace =
        || bench.log.replace_unsent(bench.space, id(1), hashes(), vec![new.clone()], || ());
    let before = counted(&bench);
    pretend(&bench, limits::DOCUMENT_OPERATIONS / 4 * 3 + 1);
    let full = replace().unwrap_err();
    assert!(
        matches!(full, WriteError::Job(ReplaceError::History(HistoryError::OverBudget(_)))),
        "{full}"
    );
    assert_eq!((hashes().len(), bench.heads(id(1))), (1, author.heads()), "nothing was done");
    let error = crate::RejectedChangesError::from(full);
    assert!(matches!(error, crate::RejectedChangesError::DocumentFull(_)), "{error}");
    pretend(&bench, before);
    replace().unwrap();
    assert_eq!(bench.heads(id(1)), again.heads());
    bench.check();
}
