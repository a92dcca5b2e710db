//! Digest queries: read in pages, and never blocking the hub.

use crate::store::{Documents, Log};
use std::collections::BTreeMap;
use std::sync::mpsc;
use std::time::Duration;

use landfall_protocol::digest::{Branch, Digest, Node, Prefix};

use super::*;
use crate::store::{BranchPage, SumCursor};

/// A document in bucket 7, with its first change.
fn of_document(number: u64) -> NewEntry {
    let mut id = [7; 16];
    id[8..].copy_from_slice(&number.to_be_bytes());
    let mut new = entry(number, 1);
    new.entry.document = DocumentId::from_bytes(id);
    new.entry.dependencies = Vec::new();
    if let NewKind::Change { actor, seq, .. } = &mut new.kind {
        (*actor, *seq) = (ActorId::from(id), 1);
    }
    new
}

/// A store with `documents` documents below one prefix of two steps.
fn crowded(documents: u64) -> (tempfile::TempDir, SqliteStore, Prefix) {
    let (folder, store) = open();
    for first in (1..=documents).step_by(1_000) {
        let entries = (first..(first + 1_000).min(documents + 1)).map(of_document).collect();
        append(&store, if first == 1 { opens(1, 1) } else { None }, entries).unwrap();
    }
    (folder, store, Prefix::ROOT.child(0).child(7))
}

fn count(branch: &Branch) -> u64 {
    match &branch.node {
        Node::Children(children) => {
            children.iter().fold(Digest::default(), |a, b| a.plus(*b)).count
        }
        Node::DigestEntries(digest_entries) => digest_entries.len() as u64,
    }
}

#[test]
fn rows_per_read_are_bounded_for_repeated_prefixes() {
    let (_folder, store, crowded) = crowded(3_000);
    let prefixes = vec![crowded; 20];
    let (mut cursor, mut branches, mut reads) = (SumCursor::default(), Vec::new(), 0);
    loop {
        let BranchPage { branches: some, next, rows, head } =
            store.branches(&space(), &prefixes, cursor, 500).unwrap();
        assert!(rows <= 500 + 2 * 16, "{rows} rows in one read");
        assert_eq!(head, Offset(3_000));
        branches.extend(some);
        reads += 1;
        match next {
            Some(next) => cursor = next,
            None => break,
        }
    }
    assert!(reads >= 20 * 3_000 / 532, "{reads} reads");
    assert_eq!(branches.len(), 20);
    assert!(branches.iter().all(|branch| *branch == branches[0] && count(branch) == 3_000));
}

#[test]
fn a_log_that_grows_between_pages_reports_its_new_head() {
    let (_folder, store, crowded) = crowded(300);
    let ask = |cursor| store.branches(&space(), &[crowded], cursor, 200).unwrap();
    let first = ask(SumCursor::default());
    assert_eq!((first.head, first.branches.len()), (Offset(300), 0));
    append(&store, None, vec![of_document(301)]).unwrap();
    let second = ask(first.next.unwrap());
    assert_eq!((second.head, count(&second.branches[0])), (Offset(301), 301));
}

#[test]
fn the_hub_opens_spaces_while_all_pooled_readers_are_busy() {
    let (_folder, store, _) = crowded(1);
    let (go, busy) = (mpsc::channel::<()>(), mpsc::channel());
    let (go, waits) = (go.0, std::sync::Mutex::new(go.1));
    std::thread::scope(|scope| {
        for _ in 0..crate::limits::PAGE_READS {
            let (sender, waits, store) = (busy.0.clone(), &waits, &store);
            scope.spawn(move || {
                let read = store.database().read(|_| -> rusqlite::Result<()> {
                    sender.send(()).unwrap();
                    let _ = waits.lock().unwrap().recv();
                    Ok(())
                });
                read.unwrap();
            });
        }
        (0..crate::limits::PAGE_READS).for_each(|_| busy.1.recv().unwrap());
        let (sender, receiver) = mpsc::channel();
        let store = &store;
        scope.spawn(move || sender.send(store.open_space(&space()).unwrap().head()).unwrap());
        let opened = receiver.recv_timeout(Duration::from_secs(20));
        drop(go);
        assert_eq!(opened, Ok(Offset(1)));
    });
}

#[test]
fn digests_do_not_depend_on_page_boundaries() {
    let (_folder, store, crowded) = crowded(100);
    let prefixes: Vec<_> =
        [Prefix::ROOT, crowded, crowded.child(0), crowded.child(7)].into_iter().collect();
    let all: BTreeMap<_, _> = [1, 15, 16, 17, 99, 100, 101, 10_000]
        .map(|rows| (rows, super::model::all_branches(&store, &space(), &prefixes, rows)))
        .into();
    assert!(all.values().all(|answer| *answer == all[&1]));
}
