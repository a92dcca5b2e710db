//! A damaged store: faults are found and named, derived values are derived again, and lost bytes are
//! received again.

use std::collections::BTreeMap;

use landfall_protocol::DocumentId;
use landfall_protocol::frame::Holding;
use landfall_storage::Durability;

use super::store_support::{Author, Bench, id};
use crate::store::{Fault, Finding};

/// A store with a compacted document, one with a tail only, one with both, a deleted one.
fn store() -> (Bench, BTreeMap<DocumentId, Author>) {
    let mut bench = Bench::new();
    bench.meet(1);
    let mut authors: BTreeMap<_, _> = (1..=4).map(|n| (id(n), Author::new(n, n))).collect();
    for author in authors.values_mut() {
        let changes = author.puts(12);
        bench.append_all(author.document, &changes);
    }
    bench.acknowledge((1..=12).chain(25..=36));
    bench.compact();
    bench.acknowledge(1..=48);
    let more = authors.get_mut(&id(3)).unwrap().puts(5);
    bench.append_all(id(3), &more);
    bench.acknowledge(1..=53);
    let tombstone = landfall_protocol::client::Incoming::Tombstone {
        offset: landfall_protocol::Offset(1),
        document: id(4),
        author: vec![1],
        at_ms: 1,
    };
    bench.receive(vec![tombstone]);
    authors.remove(&id(4));
    bench.check();
    (bench, authors)
}

fn damage(bench: &Bench, sql: &'static str) {
    let changed = bench.log.database().write(Durability::Full, move |tx| tx.execute(sql, []));
    assert!(changed.unwrap().value > 0, "{sql}");
}

/// Everything that was dropped arrives again as from a relay: whole, outside the log's order.
fn bring_back(bench: &Bench, authors: &BTreeMap<DocumentId, Author>) {
    for (document, author) in authors {
        if bench.heads(*document) != author.heads() {
            let heads = author.heads().iter().map(|head| head.0).collect();
            bench.receive_apart(*document, Holding::Present(heads), vec![author.snapshot()]);
        }
    }
}

fn all_is_back(bench: &Bench, authors: &BTreeMap<DocumentId, Author>) {
    bench.check();
    for (document, author) in authors {
        assert_eq!(bench.heads(*document), author.heads());
        assert_eq!(Author::shows(&bench.load(*document)), Author::shows(&author.doc));
    }
}

/// The damage that is done to a store, and the fault that must be found.
type Case = (&'static str, fn(&Fault) -> bool);

#[test]
fn a_repair_recomputes_derived_rows() {
    let cases: &[Case] = &[
        ("UPDATE change SET seq = seq + 1 WHERE id = (SELECT max(id) FROM change)", |fault| {
            matches!(fault, Fault::Row(_))
        }),
        ("UPDATE change SET max_op = 77 WHERE id = (SELECT min(id) FROM change)", |fault| {
            matches!(fault, Fault::Row(_))
        }),
        ("UPDATE head SET hash = zeroblob(32) WHERE document = 2", |f| *f == Fault::Heads),
        ("DELETE FROM head WHERE document = 1", |fault| *fault == Fault::Heads),
        ("UPDATE document SET leaf = zeroblob(16) WHERE id = 4", |fault| {
            *fault == Fault::DigestEntry
        }),
        ("UPDATE digest SET count = 9 WHERE bucket = 2", |fault| *fault == Fault::Digest(2)),
        ("UPDATE digest SET sum = zeroblob(16)", |fault| matches!(fault, Fault::Digest(_))),
        ("UPDATE document SET tail_bytes = 1 WHERE id = 2", |fault| *fault == Fault::Counts),
        ("UPDATE document SET base = 20 WHERE id = 2", |fault| *fault == Fault::SnapshotBase),
        ("UPDATE document SET base = 50 WHERE id = 3", |fault| *fault == Fault::SnapshotBase),
        ("UPDATE space SET changes = 3, bytes = 2", |fault| *fault == Fault::Counts),
        ("UPDATE space SET last = 3", |fault| *fault == Fault::Counts),
        ("UPDATE snapshot SET heads = zeroblob(40)", |fault| *fault == Fault::SnapshotNotes),
        ("UPDATE folded_actor SET seq = 4", |fault| *fault == Fault::SnapshotNotes),
        ("UPDATE held SET last = 7000", |fault| matches!(fault, Fault::Held(_))),
        ("UPDATE held SET last = last - 1", |fault| matches!(fault, Fault::Held(_))),
        ("UPDATE link SET held_changes = 1", |fault| matches!(fault, Fault::Held(_))),
        ("INSERT INTO owed SELECT 1, 1, 5, 2", |fault| matches!(fault, Fault::Held(_))),
    ];
    for (sql, expected) in cases {
        let (bench, authors) = store();
        damage(&bench, sql);
        let found: Vec<Finding> = bench.log.verify().unwrap();
        assert!(found.iter().any(|finding| expected(&finding.fault)), "{sql}: {found:#?}");
        let repaired = bench.log.repair().unwrap();
        assert_eq!(
            (repaired.left.as_slice(), repaired.dropped.as_slice()),
            (&[][..], &[][..]),
            "{sql}"
        );
        assert_eq!(repaired.repaired, found);
        all_is_back(&bench, &authors);
    }
}

#[test]
fn a_repair_drops_damaged_changes_and_receives_them_again() {
    let cases: &[(&'static str, u8, u64)] = &[
        ("UPDATE change SET body = CAST(substr(body, 1, 60) || x'00' || substr(body, 62) AS BLOB)
              WHERE document = 2 AND local = 16", 2, 9),
        ("UPDATE change SET body = CAST(x'00' || substr(body, 2) AS BLOB)
              WHERE document = 3 AND local = 49", 3, 5),
        ("UPDATE change SET hash = zeroblob(32) WHERE document = 2 AND local = 24", 2, 1),
        ("UPDATE change SET hash = zeroblob(32) WHERE document = 2 AND local = 13", 2, 12),
        ("DELETE FROM change WHERE document = 2 AND local = 20", 2, 4),
        ("UPDATE snapshot SET body = CAST(substr(body, 1, 40) || x'ff' || substr(body, 42) AS BLOB)
              WHERE document = 3", 3, 17),
        ("DELETE FROM snapshot WHERE document = 1", 1, 12),
        ("UPDATE document SET document = x'22020202020202020202020202020202' WHERE id = 2", 0x22, 12),
    ];
    for (sql, document, dropped) in cases {
        let (bench, authors) = store();
        damage(&bench, sql);
        let found = bench.log.verify().unwrap();
        assert!(!found.is_empty(), "{sql}");
        let named = |number| found.iter().any(|finding| finding.document == Some(id(number)));
        let repaired = bench.log.repair().unwrap();
        assert_eq!(repaired.left, [], "{sql}");
        let (_, of, changes) = &repaired.dropped[0];
        assert_eq!((repaired.dropped.len(), changes), (1, dropped), "{sql}: {found:#?}");
        assert!(of.as_bytes()[0] == *document && (*document == 0x22 || named(*document)));
        bench.check();
        bring_back(&bench, &authors);
        all_is_back(&bench, &authors);
    }
}

#[test]
fn a_repair_never_drops_changes_that_the_upstream_lacks() {
    let (bench, mut authors) = store();
    let more = authors.get_mut(&id(2)).unwrap().puts(1);
    bench.append_all(id(2), &more);
    damage(&bench, "UPDATE change SET body = zeroblob(50) WHERE document = 2 AND local = 16");
    let (rows, found) = (bench.rows(), bench.log.verify().unwrap());
    assert!(found.iter().any(|finding| matches!(finding.fault, Fault::Change { .. })));
    let repaired = bench.log.repair().unwrap();
    assert_eq!((repaired.dropped.len(), bench.rows()), (0, rows));
    assert!(repaired.left.iter().any(|finding| matches!(finding.fault, Fault::Change { .. })));
    assert!(repaired.left.iter().all(|finding| finding.document == Some(id(2))));
}

#[test]
fn dropped_changes_are_requested_again() {
    let (mut bench, _) = store();
    assert!(bench.meet(1).cursor.is_some());
    damage(&bench, "DELETE FROM snapshot WHERE document = 1");
    bench.log.repair().unwrap();
    assert_eq!(bench.meet(1).cursor, None);
}
