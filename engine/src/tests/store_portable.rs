//! A space's portable file reproduces it in another store, whatever it contains: the same heads, the
//! same changes, the same deletions.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::mpsc;

use automerge::transaction::CommitOptions;
use automerge::{ActorId, Automerge, Change};
use landfall_protocol::admission::{CheckedChange, preflight};
use landfall_protocol::client::Incoming;
use landfall_protocol::{ChangeHash, Code, DocumentId, Offset, ReplicaId};
use landfall_test_rng::Rng;

use super::random::edit;
use super::store_support::{Author, Bench, id};
use crate::admin::{self, OutsideReason};
use crate::compactor::compact;
use crate::store::{CompactionOptions, LocalLog, OpenMode};

fn open(path: &Path) -> Bench {
    let options = landfall_storage::Options::default();
    Bench::with(
        LocalLog::open(OpenMode::File(path), options, ReplicaId::from_bytes([7; 16])).unwrap(),
    )
}

/// A document of several actors who edit, merge and make empty commits, at random. Some begin with the
/// first one's history, some with their own.
fn history(rng: &mut Rng, document: u8) -> Automerge {
    let actor = |n: u8| ActorId::from([document, n]);
    let mut first = Automerge::new().with_actor(actor(0));
    let mut tx = first.transaction();
    automerge::transaction::Transactable::put(&mut tx, automerge::ROOT, "a", 1).unwrap();
    tx.commit();
    let mut replicas = vec![first];
    for n in 1..=rng.below(4) as u8 {
        replicas.push(match rng.below(2) {
            0 => replicas[0].fork().with_actor(actor(n)),
            _ => Automerge::new().with_actor(actor(n)),
        });
    }
    for _ in 0..rng.below(60) {
        let who = rng.below(replicas.len());
        match rng.below(6) {
            0 | 1 => {
                let mut other = replicas[rng.below(replicas.len())].clone();
                replicas[who].merge(&mut other).unwrap();
            }
            2 => drop(replicas[who].empty_commit(CommitOptions::default())),
            _ => {
                let mut tx = replicas[who].transaction();
                edit(&mut tx, rng);
                tx.commit();
            }
        }
    }
    let mut all = replicas.remove(0);
    for mut replica in replicas {
        all.merge(&mut replica).unwrap();
    }
    all
}

fn checked(change: &Change) -> CheckedChange {
    preflight(change.clone().bytes().as_ref()).unwrap()
}

/// Adds a history to a store: made here, received change by change, or received as a snapshot.
fn bring(bench: &mut Bench, document: DocumentId, doc: &Automerge, rng: &mut Rng) {
    if rng.below(4) == 0 {
        let body = doc.save();
        let mut heads = doc.get_heads();
        heads.sort_unstable();
        let (offset, hash) = (Offset(1), landfall_compaction::hash_of(&body));
        let body = Some(body);
        bench.receive(vec![Incoming::Snapshot { offset, document, hash, heads, body }]);
        return;
    }
    let mut roots = 0;
    for change in doc.get_changes(&[]) {
        let change = checked(&change);
        roots += usize::from(change.dependencies.is_empty());
        let second_root = change.dependencies.is_empty() && roots > 1;
        if !second_root && rng.below(2) == 0 {
            bench.append(document, &change);
            continue;
        }
        let (offset, author) = (Offset(1), vec![9; 16]);
        let change = Incoming::Change { offset, document, change, author, at_ms: 1, second_root };
        assert_eq!(bench.receive(vec![change]).deferred, []);
        if rng.below(20) == 0 {
            let recent_entries = rng.below(20) as u64;
            let options = CompactionOptions { recent_entries, ..CompactionOptions::EVERYTHING };
            compact(&bench.log, &options).unwrap();
        }
    }
}

/// A random event of a document after it was created.
fn befall(bench: &mut Bench, document: DocumentId, doc: &Automerge, rng: &mut Rng) {
    match rng.below(8) {
        0 => {
            let (sender, receiver) = mpsc::channel();
            let done = Box::new(move |done: Result<_, _>| sender.send(done).unwrap());
            bench.log.submit_delete(bench.space, document, 5, done);
            receiver.recv().unwrap().unwrap();
        }
        1 => {
            let (offset, author) = (Offset(1), vec![9; 16]);
            bench.receive(vec![Incoming::Tombstone { offset, document, author, at_ms: 1 }]);
        }
        2 => {
            let (sender, receiver) = mpsc::channel();
            let done = Box::new(move |done: Result<_, _>| sender.send(done).unwrap());
            let (code, what) = (Code::FORBIDDEN, "no".to_owned());
            let refused = crate::store::Refused { code, what, deletion: false };
            bench.log.submit_reject(bench.space, document, refused, done);
            receiver.recv().unwrap().unwrap();
        }
        3 => {
            // A change without its dependency is deferred.
            let mut other = Author { doc: doc.fork().with_actor(ActorId::from([9; 9])), document };
            other.put("never", "sent");
            let orphan = other.put("an", "orphan");
            bench.receive(vec![other.incoming(orphan)]);
        }
        _ => {}
    }
}

type State = BTreeMap<DocumentId, (Vec<ChangeHash>, BTreeSet<ChangeHash>)>;

fn state(bench: &Bench) -> (State, BTreeSet<DocumentId>) {
    bench.check();
    let of = |document: DocumentId| {
        let doc = bench.load(document);
        let changes = doc.get_changes(&[]).iter().map(Change::hash).collect();
        (document, (bench.heads(document), changes))
    };
    let documents = bench.log.documents(bench.space).unwrap().into_iter().map(of).collect();
    let deleted = bench.log.deleted_documents(bench.space).unwrap().into_iter().collect();
    (documents, deleted)
}

#[test]
fn an_import_restores_the_heads_of_every_exported_document() {
    let seeds = std::env::var("LANDFALL_SEEDS").map_or(30, |seeds| seeds.parse().unwrap());
    for seed in 0..seeds {
        let rng = &mut Rng::new(seed);
        let folder = tempfile::tempdir().unwrap();
        let [path, file, fresh, again, back] =
            ["s", "file", "fresh", "again", "back"].map(|name| folder.path().join(name));
        let mut bench = open(&path);
        bench.meet(1);
        let count = 2 + rng.below(5) as u8;
        let docs: Vec<Automerge> = (1..=count).map(|n| history(rng, n)).collect();
        for (n, doc) in (1..).zip(&docs) {
            bring(&mut bench, id(n), doc, rng);
        }
        for (n, doc) in (1..).zip(&docs) {
            befall(&mut bench, id(n), doc, rng);
        }
        let (documents, deleted) = state(&bench);
        let name = bench.name.clone();
        let exported = admin::export(&path, &name, &file).unwrap();
        assert_eq!(exported.documents as usize, documents.len() + deleted.len(), "seed {seed}");
        // An empty store, and one with an earlier state of some of the documents.
        open(&fresh).log.database().close().unwrap();
        let mut earlier = open(&again);
        earlier.meet(2);
        for (n, doc) in (1..).zip(&docs).step_by(2) {
            let first: Vec<CheckedChange> = doc.get_changes(&[]).iter().map(checked).collect();
            earlier.append(id(n), &first[0]);
        }
        earlier.log.database().close().unwrap();
        for target in [&fresh, &again] {
            let imported = admin::import(target, &file, None).unwrap();
            assert_eq!(imported.refused, [], "seed {seed}");
            let imported = open(target);
            assert_eq!(state(&imported), (documents.clone(), deleted.clone()), "seed {seed}");
            imported.log.database().close().unwrap();
        }
        // The copy's file has the same contents, and nothing that is new to the original.
        admin::export(&fresh, &name, &back).unwrap();
        bench.log.database().close().unwrap();
        let imported = admin::import(&path, &back, None).unwrap();
        assert_eq!((imported.refused, imported.deletions), (vec![], 0), "seed {seed}");
        assert_eq!(state(&open(&path)), (documents, deleted), "seed {seed}");
    }
}

/// Imported roots are pushed with their flag, or a relay would reject the second one.
#[test]
fn an_imported_merge_of_unrelated_histories_is_pushed_as_one() {
    let folder = tempfile::tempdir().unwrap();
    let [path, file, fresh] = ["s", "file", "fresh"].map(|name| folder.path().join(name));
    for compacted in [false, true] {
        let mut bench = open(&path);
        bench.meet(1);
        let (mut one, mut two) = (Author::new(1, 1), Author::new(2, 1));
        let (first, second) = (one.put("one", "1"), two.put("two", "2"));
        bench.append(id(1), &first);
        let mut theirs = two.incoming(second);
        if let Incoming::Change { second_root, .. } = &mut theirs {
            *second_root = true;
        }
        bench.receive(vec![theirs]);
        if compacted {
            bench.acknowledge([1, 2]);
            bench.compact();
        }
        let name = bench.name.clone();
        bench.log.database().close().unwrap();
        admin::export(&path, &name, &file).unwrap();
        open(&fresh).log.database().close().unwrap();
        assert_eq!(admin::import(&fresh, &file, None).unwrap().refused, []);
        let mut imported = open(&fresh);
        imported.meet(3);
        let roots = imported.outbox().into_iter().filter(|change| {
            use landfall_protocol::admission::Roots::Several;
            matches!(&change.what, landfall_protocol::client::OutboxKind::Change(_, Several))
        });
        assert_eq!(roots.count(), 2, "compacted: {compacted}");
        imported.log.database().close().unwrap();
        for path in [&path, &file, &fresh] {
            std::fs::remove_file(path).unwrap();
        }
    }
}

/// The author of the file did not know of the edits made here since.
#[test]
fn an_imported_deletion_keeps_edits_that_no_relay_has() {
    let folder = tempfile::tempdir().unwrap();
    let [path, file, other] = ["s", "file", "other"].map(|name| folder.path().join(name));
    let bench = open(&path);
    let mut author = Author::new(1, 1);
    bench.append_all(id(1), &author.puts(3));
    let (sender, receiver) = mpsc::channel();
    let done = Box::new(move |done: Result<_, _>| sender.send(done).unwrap());
    bench.log.submit_delete(bench.space, id(1), 5, done);
    receiver.recv().unwrap().unwrap();
    let name = bench.name.clone();
    bench.log.database().close().unwrap();
    admin::export(&path, &name, &file).unwrap();
    let mut bench = open(&other);
    bench.meet(1);
    let mut author = Author::new(2, 1);
    bench.append_all(id(1), &author.puts(3));
    bench.acknowledge(1..=2);
    bench.log.database().close().unwrap();
    let imported = admin::import(&other, &file, None).unwrap();
    assert_eq!((imported.deletions, imported.kept), (1, 1));
    let bench = open(&other);
    while bench.log.sweep(100).unwrap() {}
    bench.check();
    let lost = bench.log.lost(bench.space).unwrap();
    assert_eq!((lost.len(), lost[0].unsent), (1, 1));
    let bytes = bench.log.orphaned_bytes(bench.space, &id(1)).unwrap().unwrap();
    assert_eq!(bytes.changes.len(), 3);
    bench.log.database().close().unwrap();
    // A file does not contain them, and the result lists them.
    std::fs::remove_file(&file).unwrap();
    let exported = admin::export(&other, &name, &file).unwrap();
    let left: Vec<_> = exported.left_out.iter().map(|left| (left.kept, left.changes)).collect();
    assert_eq!(left, [(OutsideReason::OrphanedEdits, 1)]);
}
