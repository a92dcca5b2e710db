//! The store alone: reads after writes, rejected commits, and the state after a failure.

mod automerge_repo;
mod compactions;
mod damage;
mod digests;
mod flips;
mod heavy;
mod made;
mod migration;
mod model;
mod model_world;
mod oversized;
mod real;
mod repairing;

use std::sync::{Arc, mpsc};

use landfall_protocol::access::View;
use landfall_protocol::admission::KnownChange;
use landfall_protocol::frame::{Entry, entry_kind};
use landfall_protocol::relay::{Chunk, Commit, EpochRecord, NewEntry, NewKind, Page, StoreFailure};
use landfall_protocol::{ActorId, ChangeHash, DocumentId, Epoch, Offset, SpaceName, limits};
use landfall_storage::FailureClass;

use crate::store::{Log, OpenStoreError, SqliteStore, StoreError, StoreHint};

fn space() -> SpaceName {
    "notes".parse().unwrap()
}

fn epoch(number: u8) -> Epoch {
    Epoch::from_bytes([number; 16])
}

fn opens(number: u8, first: u64) -> Option<EpochRecord> {
    let predecessor = (number > 1).then(|| epoch(number - 1));
    Some(EpochRecord { epoch: epoch(number), first: Offset(first), predecessor })
}

/// An entry of the one author and document, with a body of `body` bytes.
fn entry(offset: u64, body: usize) -> NewEntry {
    let entry = Entry {
        offset: Offset(offset),
        document: DocumentId::from_bytes([1; 16]),
        kind: entry_kind::CHANGE,
        flags: 0,
        id: hash(offset).0,
        dependencies: if offset > 1 { vec![hash(offset - 1).0] } else { vec![] },
        author: vec![3; 16].into(),
        at_ms: 5,
        body: vec![offset as u8; body].into(),
    };

    let (seq, max_op) = (offset, offset * 10);
    let kind = NewKind::Change { actor: ActorId::from([2; 16]), seq, max_op, operations: 1 };
    NewEntry { entry, kind }
}

/// The same, with bytes that match the hash in its row: reads return no others.
fn whole(offset: u64, body: usize) -> NewEntry {
    let NewEntry { entry, kind } = entry(offset, body);
    let (id, body) = made::chunk(&[&offset.to_le_bytes()[..], &entry.body].concat());
    NewEntry { entry: Entry { id: id.0, body: body.into(), ..entry }, kind }
}

fn page_after(store: &SqliteStore, after: u64) -> Option<Page> {
    match store.next(&space(), Offset(after), &View::everything(), None).unwrap() {
        Some(Chunk::Entries(page)) => Some(page),
        None => None,
        Some(part) => panic!("{part:?}"),
    }
}

fn hash(offset: u64) -> ChangeHash {
    let mut hash = [9; 32];
    hash[..8].copy_from_slice(&offset.to_le_bytes());
    ChangeHash(hash)
}

fn append(
    store: &SqliteStore,
    opens: Option<EpochRecord>,
    entries: Vec<NewEntry>,
) -> Result<(), StoreError> {
    let (done, committed) = mpsc::channel();
    let commit = Commit { space: space(), opens, entries };
    store.append(Arc::new(commit), Box::new(move |result| done.send(result).unwrap()));
    committed.recv().unwrap()
}

fn open() -> (tempfile::TempDir, SqliteStore) {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(folder.path()).unwrap();
    (folder, store)
}

#[test]
fn pages_return_the_appended_entries_across_epochs() {
    let (folder, store) = open();
    let entries: Vec<_> = (1..=3).map(|offset| whole(offset, 20)).collect();
    append(&store, opens(1, 1), entries).unwrap();
    append(&store, opens(2, 10), vec![whole(10, 0)]).unwrap();
    store.close().unwrap();
    let store = SqliteStore::open(folder.path()).unwrap();

    let lineage = store.open_space(&space()).unwrap();
    assert_eq!((lineage.head(), lineage.epoch()), (Offset(10), Some(epoch(2))));
    assert_eq!(lineage.epoch_at(Offset(3)), Some(epoch(1)));
    let page = page_after(&store, 1).unwrap();
    assert_eq!((page.after, page.up_to), (Offset(1), Offset(10)));
    assert_eq!((page.epoch, page.head), (epoch(2), Offset(10)));
    let expected: Vec<_> = [whole(2, 20), whole(3, 20), whole(10, 0)]
        .iter()
        .map(|new| Arc::new(landfall_protocol::frame::EncodedEntry::new(&new.entry)))
        .collect();
    assert_eq!(page.entries, expected);
    assert!(page_after(&store, 10).is_none());
}

#[test]
fn pages_are_bounded_in_entries_and_in_bytes() {
    let (_folder, store) = open();
    let many = limits::ENTRIES_COUNT as u64 + 5;
    append(&store, opens(1, 1), (1..=many).map(|offset| whole(offset, 1)).collect()).unwrap();
    let page = page_after(&store, 0).unwrap();
    assert_eq!(page.up_to, Offset(limits::ENTRIES_COUNT as u64));
    let large = limits::ENTRIES_TARGET_BYTES + 1;
    let entries = (many + 1..=many + 3).map(|offset| whole(offset, large)).collect();
    append(&store, None, entries).unwrap();
    let page = page_after(&store, many).unwrap();
    assert_eq!(
        (page.entries.len(), page.up_to),
        (1, Offset(many + 1)),
        "an entry over the limit is a page by itself"
    );
}

#[test]
fn history_is_limited_to_its_space_and_document() {
    let (_folder, store) = open();
    append(&store, opens(1, 1), vec![entry(1, 1), entry(2, 1)]).unwrap();
    let (document, actor) = (DocumentId::from_bytes([1; 16]), ActorId::from([2; 16]));
    let mut calls = 0;
    let mut ask = |name: &str, document: DocumentId, found: bool| {
        let mut look = |view: &dyn landfall_protocol::admission::History<Error = StoreError>| {
            let known = KnownChange { hash: hash(2), position: Offset(2) };
            let last = view.last_sequence(&document, &actor).unwrap();
            assert_eq!(last, found.then_some(2));
            assert_eq!(view.at_sequence(&document, &actor, 2).unwrap(), found.then_some(known));
            assert_eq!(view.max_op(&document, &hash(2)).unwrap(), found.then_some(20));
            assert_eq!(view.max_op(&document, &hash(7)).unwrap(), None);
            assert_eq!(view.at_sequence(&document, &actor, 9).unwrap(), None);
            calls += 1;
        };
        store.with_history(&name.parse().unwrap(), &mut look).unwrap();
    };
    ask("notes", document, true);
    ask("notes", DocumentId::from_bytes([8; 16]), false);
    ask("other", document, false);
    assert_eq!(calls, 3);
}

#[test]
fn a_commit_that_breaks_a_rule_of_the_log_leaves_nothing() {
    let (_folder, store) = open();
    append(&store, opens(1, 1), vec![entry(1, 1)]).unwrap();
    // The second one's sequence number is taken.
    let mut second = entry(3, 1);
    second.kind =
        NewKind::Change { actor: ActorId::from([2; 16]), seq: 1, max_op: 30, operations: 1 };
    let error = append(&store, None, vec![entry(2, 1), second]).unwrap_err();
    assert_eq!(error.failure, StoreFailure::Failed);
    assert!(error.chain().contains("UNIQUE"), "{}", error.chain());
    assert_eq!(store.open_space(&space()).unwrap().head(), Offset(1));
    append(&store, None, vec![entry(2, 1)]).unwrap();
}

#[test]
fn a_full_disk_is_distinguished_from_other_failures() {
    let (_folder, store) = open();
    append(&store, opens(1, 1), vec![entry(1, 1)]).unwrap();
    store.faults().fail_next_commits(1, FailureClass::DiskFull);
    let error = append(&store, None, vec![entry(2, 1)]).unwrap_err();
    assert_eq!(error.failure, StoreFailure::Full);
    store.faults().limit_pages(Some(1)).unwrap();
    let (done, probed) = mpsc::channel();
    store.probe(Box::new(move |result| done.send(result).unwrap()));
    assert_eq!(probed.recv().unwrap().unwrap_err().failure, StoreFailure::Full);
    store.faults().limit_pages(None).unwrap();
    let (done, probed) = mpsc::channel();
    store.probe(Box::new(move |result| done.send(result).unwrap()));
    probed.recv().unwrap().unwrap();
}

#[test]
fn reading_an_unknown_space_creates_nothing() {
    let (_folder, store) = open();
    assert_eq!(store.open_space(&space()).unwrap().head(), Offset(0));
    assert!(page_after(&store, 0).is_none());
    store.with_history(&space(), &mut |_| {}).unwrap();
    append(&store, opens(1, 1), vec![entry(1, 1)]).unwrap();
    let spaces: i64 = {
        let path = _folder.path().join("relay.db");
        let conn = rusqlite::Connection::open(path).unwrap();
        conn.query_row("SELECT count(*) FROM space", [], |row| row.get(0)).unwrap()
    };
    assert_eq!(spaces, 1);
}

#[test]
fn the_identity_persists_and_the_folder_is_locked() {
    let (folder, store) = open();
    let upstream = store.upstream();
    let Err(error @ OpenStoreError::Open(_)) = SqliteStore::open(folder.path()) else {
        panic!("opened twice")
    };
    assert_eq!(error.hint(), StoreHint::InUse);
    store.close().unwrap();
    assert!(append(&store, None, vec![entry(1, 1)]).is_err(), "closed");
    assert!(store.with_history(&space(), &mut |_| {}).is_err(), "closed");
    assert_eq!(SqliteStore::open(folder.path()).unwrap().upstream(), upstream);
}
