//! The cost of a commit beside many documents, counted in operations of SQLite's virtual machine, which
//! are the same on every machine and at every load.

use std::path::Path;

use landfall_protocol::Code;
use landfall_storage::Durability;

use super::store_support::{Author, Bench, id};
use crate::store::{LocalChange, OpenMode, Refused};

/// How many more operations a commit beside many may cost. SQLite's own bookkeeping varies by a few.
const SLACK: u64 = 60;

/// The operations of appending one change to a document of its own. The first one prepares the
/// statements, and creates the document.
fn cost_of_a_change(bench: &Bench, path: &Path, author: &mut Author) -> u64 {
    let (space, document) = (bench.space, author.document);
    let change = |change| LocalChange { space, document, change, at_ms: 1 };
    let changes = author.puts(3).into_iter().map(change).collect();
    bench.log.operations_of(path, changes).unwrap()[2]
}

/// Compares the cost beside a few of something with the cost beside many.
fn costs_the_same(beside: impl Fn(&mut Bench, usize)) {
    let [few, many] = [3, 300].map(|count| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let mut bench = Bench::at(OpenMode::File(&path));
        bench.meet(1);
        beside(&mut bench, count);
        bench.check();
        cost_of_a_change(&bench, &path, &mut Author::new(1, 1))
    });
    assert!(many <= few + SLACK, "{few} operations beside 3, {many} beside 300");
    assert!(few > 100, "something was counted: {few}");
}

/// Other documents than the one that is edited.
fn document(number: usize) -> landfall_protocol::DocumentId {
    let mut bytes = [7; 16];
    bytes[..8].copy_from_slice(&(number as u64).to_be_bytes());
    landfall_protocol::DocumentId::from_bytes(bytes)
}

fn wait<T: Send + 'static>(submit: impl FnOnce(crate::store::Done<T>)) -> T {
    let (sender, receiver) = std::sync::mpsc::channel();
    submit(Box::new(move |result| sender.send(result).unwrap()));
    receiver.recv().unwrap().unwrap().value
}

#[test]
fn many_pending_deletions_do_not_slow_a_commit() {
    costs_the_same(|bench, count| {
        for n in 0..count {
            let local = bench.append(document(n), &Author::new(2, 2).put("k", &n.to_string()));
            bench.acknowledge([local]);
        }
        for n in 0..count {
            wait(|done| bench.log.submit_delete(bench.space, document(n), 1, done));
        }
    });
}

/// Every second change is acked, so that the rejected ones are as many gaps.
#[test]
fn many_rejected_changes_do_not_slow_a_commit() {
    costs_the_same(|bench, count| {
        let (mut refused, mut acked) = (Author::new(3, 3), Author::new(4, 4));
        bench.append(id(3), &refused.puts(1)[0]);
        let what = "no".to_owned();
        wait(|done| {
            bench.log.submit_reject(
                bench.space,
                id(3),
                Refused { code: Code::FORBIDDEN, what, deletion: false },
                done,
            )
        });
        for _ in 0..count {
            bench.append(id(3), &refused.puts(1)[0]);
            let local = bench.append(id(4), &acked.puts(1)[0]);
            bench.acknowledge([local]);
        }
        assert_eq!(bench.count().first_unacked, None);
    });
}

#[test]
fn many_spaces_and_relays_do_not_slow_a_commit() {
    costs_the_same(|bench, count| {
        for n in 0..count {
            let row = bench.log.ensure_space(&format!("s{n}").parse().unwrap()).unwrap();
            let upstream = landfall_protocol::Upstream::from_bytes([1; 16]);
            wait(|done| bench.log.submit_attach(upstream, row, done));
        }
    });
}

/// Half of the documents are compacted: snapshots over the limit are searched among those.
#[test]
fn many_documents_do_not_slow_the_opening_of_a_store() {
    let [few, many] = [4, 400].map(|count| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let mut bench = Bench::at(OpenMode::File(&path));
        bench.meet(1);
        for n in 0..count {
            bench.append_all(document(n), &Author::new(2, 2).puts(1 + n % 2));
        }
        bench.acknowledge(1..=count as u64 * 3 / 2);
        let sql = "UPDATE document SET folded_changes = 1, folded_bytes = 1000 WHERE id % 2 = 0;
            INSERT INTO quarantine (document, version, reason) VALUES (1, 'v', 'r');
            INSERT INTO parked (upstream, document, code, what) VALUES (1, 2, 1, 'no')";
        let database = bench.log.database();
        database.write(Durability::Relaxed, |tx| tx.execute_batch(sql)).unwrap();
        let opened = bench.log.opened().unwrap();
        assert_eq!((opened.spaces[0].rejected.len(), opened.spaces[0].unreadable.len()), (1, 1));
        bench.log.operations_of_opening(&path).unwrap()
    });
    assert!(many <= few + SLACK, "{few} operations with 4 documents, {many} with 400");
    assert!(few > 100, "something was counted: {few}");
}

#[test]
fn many_deferred_or_superseded_changes_do_not_slow_a_commit() {
    costs_the_same(|bench, count| {
        let mut others = Author::new(5, 5);
        let changes = others.puts(count + 2);
        // All but the first, on which the rest depends.
        let orphans = others.incomings(changes[1..].to_vec());
        bench.receive(orphans);
        bench.append(id(6), &Author::new(6, 6).puts(1)[0]);
        for n in 0..count {
            let sql = format!(
                "INSERT INTO displaced (document, hash, at_ms, body)
                 SELECT id, x'{n:064x}', 1, x'00' FROM document WHERE document = x'{}'",
                "06".repeat(16)
            );
            let database = bench.log.database();
            database.write(Durability::Relaxed, move |tx| tx.execute_batch(&sql)).unwrap();
        }
        // Rejected documents are reported once, and not again by each commit that leaves them
        // unchanged.
        bench.append(id(7), &Author::new(7, 7).puts(1)[0]);
        assert_eq!(bench.count().deferred, count as u64 + 1);
        assert_eq!(bench.count().pending.changes, count as u64 + 2);
    });
}
