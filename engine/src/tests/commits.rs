//! A commit that fails, or is delayed, leaves no trace.

use std::collections::BTreeSet;
use std::sync::mpsc;
use std::time::Duration;

use automerge::{ObjType, ROOT, transaction::Transactable};
use landfall_storage::FailureClass;

use super::{put, store, text_of};
use crate::{ChangeError, EventKind, StoreFailure};

#[test]
fn a_failed_commit_reverts_the_document_and_ends_its_actor() {
    let store = store();
    let space = store.space("default").unwrap();
    let document = space.create(|_| Ok(())).unwrap().0;
    put(&document, "kept").unwrap();
    let heads = document.heads().unwrap();
    let mut events = store.events();
    let faults = store.open_store().context.log.database().faults();
    faults.fail_next_commits(1, FailureClass::DiskFull);
    let error = put(&document, "lost").unwrap_err();
    assert!(
        matches!(&error, ChangeError::Store(store) if store.class == StoreFailure::DiskFull),
        "{error}"
    );
    assert_eq!((text_of(&document).as_str(), document.heads().unwrap()), ("\"kept\"", heads));
    assert!(matches!(events.try_next().unwrap().unwrap().kind, EventKind::RolledBack));
    put(&document, "after").unwrap();
    let actors = document
        .read(|doc| doc.get_changes(&[]).iter().map(|c| (c.actor_id().clone(), c.seq())).collect())
        .unwrap();
    let actors: Vec<_> = actors;
    let distinct: BTreeSet<_> = actors.iter().cloned().collect();
    assert_eq!(distinct.len(), 3, "no (actor, sequence) twice");
    assert_eq!(actors.iter().map(|(actor, _)| actor).collect::<BTreeSet<_>>().len(), 2);
}

fn actors_of(document: &crate::Document) -> usize {
    let actors = |doc: &automerge::Automerge| -> BTreeSet<_> {
        doc.get_changes(&[]).iter().map(|change| change.actor_id().clone()).collect()
    };
    document.read(actors).unwrap().len()
}

/// A change that the store rejects leaves no doubt about any actor, and a failed commit none about
/// documents that it did not change. Nothing stays loaded, so each edit looks up its actor.
#[test]
fn only_an_unknown_commit_outcome_ends_the_actors_involved() {
    let options = crate::Options { document_cache_bytes: 0, ..crate::Options::default() };
    let store = crate::Store::in_memory(options).unwrap();
    let space = store.space("default").unwrap();
    let [one, two, deleted] = [(); 3].map(|()| space.create(|_| Ok(())).unwrap().0);
    let edit_both = || {
        for n in 0..5 {
            put(&one, &n.to_string()).unwrap();
            put(&two, &n.to_string()).unwrap();
        }
        (actors_of(&one), actors_of(&two))
    };
    assert_eq!(edit_both(), (1, 1));
    space.delete(deleted.id()).unwrap();
    assert!(matches!(put(&deleted, "late"), Err(ChangeError::Deleted)));
    assert_eq!(edit_both(), (1, 1), "a refused change has a known outcome");
    store.open_store().context.log.database().faults().fail_next_commits(1, FailureClass::Io);
    put(&one, "lost").unwrap_err();
    assert_eq!(edit_both(), (2, 1), "one fresh actor, and none for the other document");
}

#[test]
fn a_failed_group_leaves_none_of_its_documents_changed() {
    let store = store();
    let space = store.space("default").unwrap();
    let documents = [(); 3].map(|()| space.create(|_| Ok(())).unwrap().0);
    let before: Vec<_> = documents.iter().map(|document| document.heads().unwrap()).collect();
    let faults = store.open_store().context.log.database().faults();
    faults.fail_next_commits(1, FailureClass::Io);
    let put_all = || {
        store.group(|group| {
            for document in &documents {
                group.change(document, |tx| Ok(tx.put(ROOT, "text", "all")?))?;
            }
            Ok(())
        })
    };
    put_all().unwrap_err();
    let after: Vec<_> = documents.iter().map(|document| document.heads().unwrap()).collect();
    assert_eq!(before, after);
    let commits = faults.counters().commits;
    put_all().unwrap();
    assert_eq!(faults.counters().commits, commits + 1, "one commit for three documents");
    assert!(documents.iter().all(|document| text_of(document) == "\"all\""));
}

/// A short document is changed beside its published state, a long one in place.
#[test]
fn change_returns_only_after_the_commit_and_readers_see_nothing_before() {
    for length in [1, 3_000] {
        let folder = tempfile::tempdir().unwrap();
        let store = crate::Store::open(folder.path().join("s"), crate::Options::default()).unwrap();
        let document = store.space("default").unwrap().create(|_| Ok(())).unwrap().0;
        document
            .change(|tx| {
                let long = tx.put_object(ROOT, "long", ObjType::Text)?;
                Ok(tx.splice_text(&long, 0, 0, &"x".repeat(length))?)
            })
            .unwrap();
        put(&document, "before").unwrap();
        let hold = store.open_store().context.log.database().faults().hold_commits();
        let (sender, receiver) = mpsc::channel();
        let writer = std::thread::spawn({
            let document = document.clone();
            move || {
                put(&document, "after").unwrap();
                sender.send(()).unwrap();
            }
        });
        assert!(hold.wait_reached(Duration::from_secs(30)));
        assert!(receiver.try_recv().is_err(), "it returned before the commit");
        let reader = std::thread::spawn({
            let document = document.clone();
            move || text_of(&document)
        });
        assert!(receiver.try_recv().is_err());
        if length == 1 {
            assert_eq!(reader.join().unwrap(), "\"before\"", "it is visible before the commit");
            drop(hold);
        } else {
            drop(hold);
            assert_eq!(reader.join().unwrap(), "\"after\"", "the reader waited for the commit");
        }
        writer.join().unwrap();
        receiver.recv().unwrap();
        assert_eq!(text_of(&document), "\"after\"");
    }
}

#[test]
fn the_writing_connection_has_the_documented_durability() {
    let folder = tempfile::tempdir().unwrap();
    let store = crate::Store::open(folder.path().join("s"), crate::Options::default()).unwrap();
    let pragmas = store.open_store().context.log.database().pragmas().unwrap();
    assert_eq!(pragmas.journal_mode, "wal");
    assert_eq!((pragmas.synchronous_full, pragmas.synchronous_relaxed), (2, 1));
    assert!(pragmas.foreign_keys && !pragmas.trusted_schema);
    let faults = store.open_store().context.log.database().faults();
    let document = store.space("default").unwrap().create(|_| Ok(())).unwrap().0;
    let before = faults.counters().full_commits;
    put(&document, "x").unwrap();
    assert_eq!(faults.counters().full_commits, before + 1, "the default is one fsync a change");
}

#[test]
fn after_a_failed_fsync_every_change_fails_until_the_store_is_reopened() {
    use crate::{Durability, Options, Store};
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let options = || Options { durability: Durability::Normal, ..Options::default() };
    let store = Store::open(&path, options()).unwrap();
    let space = store.space("default").unwrap();
    let document = space.create(|_| Ok(())).unwrap().0;
    put(&document, "not on the disk yet").unwrap();
    let database = store.open_store().context.log.database().clone();
    let is_final = |error: ChangeError| {
        let ChangeError::Store(error) = error else { panic!("{error}") };
        assert_eq!(error.class, StoreFailure::FsyncFailed, "{error}");
    };
    // The commit of the change, or of the store's own fsync, whichever comes first.
    database.faults().fail_next_commits(1, FailureClass::FsyncFailed);
    is_final(put(&document, "failed").unwrap_err());
    let synced = database.synced();
    is_final(put(&document, "refused").unwrap_err());
    is_final(space.create(|_| Ok(())).map(drop).unwrap_err());
    assert_eq!(database.synced(), synced);
    let shown = text_of(&document);
    assert_eq!(store.close().unwrap_err().class, StoreFailure::FsyncFailed);
    drop((store, space, document, database));
    let store = Store::open(&path, options()).unwrap();
    let space = store.space("default").unwrap();
    let document = space.open(space.documents().unwrap()[0]).unwrap();
    assert_eq!(text_of(&document), shown);
    put(&document, "goes on").unwrap();
    store.close().unwrap();
}
