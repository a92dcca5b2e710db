//! Documents with a snapshot and a tail in the store.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use automerge::transaction::{Transactable, Transaction};
use automerge::{ObjType, ROOT, ReadDoc};
use landfall_test_rng::Rng;

use super::poisoned::{append, poison};
use super::random::{edit, visible};
use super::{put, store, text_of};
use crate::compactor::compact;
use crate::store::CompactionOptions;
use crate::{ChangeError, Document, EventKind, Options, Store};

fn compact_changes(store: &Store, changes: u64) {
    let compacted =
        compact(&store.open_store().context.log, &CompactionOptions::EVERYTHING).unwrap();
    assert_eq!((compacted.changes, compacted.failed), (changes, 0));
}

fn reload(document: &Document) {
    assert!(document.open().try_unload());
}

#[test]
fn a_document_is_loaded_from_its_snapshot_and_tail() {
    let store = store();
    let document = store.space("default").unwrap().create(|_| Ok(())).unwrap().0;
    for n in 0..20 {
        put(&document, &n.to_string()).unwrap();
    }
    let heads = document.heads().unwrap();
    compact_changes(&store, 21);
    reload(&document);
    assert_eq!((text_of(&document).as_str(), document.heads().unwrap()), ("\"19\"", heads));
    put(&document, "behind").unwrap();
    put(&document, "further behind").unwrap();
    reload(&document);
    assert_eq!(text_of(&document), "\"further behind\"");
    let status = document.status().unwrap();
    assert_eq!((status.changes, status.actors), (23, 1));
    compact_changes(&store, 2);
    put(&document, "and again").unwrap();
    reload(&document);
    let text = document.change(|tx| Ok(tx.put_object(ROOT, "long", ObjType::Text)?)).unwrap();
    document.change(|tx| Ok(tx.splice_text(&text, 0, 0, "漢字")?)).unwrap();
    compact_changes(&store, 3);
    reload(&document);
    assert_eq!(document.read(|doc| doc.length(&text)).unwrap(), 2, "positions count code points");
}

/// The shown state is the snapshot with the longest part of the tail that works.
#[test]
fn a_poisoned_tail_leaves_the_snapshot_readable() {
    let store = store();
    let document = store.space("default").unwrap().create(|_| Ok(())).unwrap().0;
    for n in 0..5 {
        put(&document, &n.to_string()).unwrap();
    }
    compact_changes(&store, 6);
    put(&document, "good").unwrap();
    append(&store, &document, &poison(&document));
    reload(&document);
    assert_eq!(text_of(&document), "\"good\"");
    assert!(matches!(put(&document, "more"), Err(ChangeError::Quarantined { .. })));
    let compacted =
        compact(&store.open_store().context.log, &CompactionOptions::EVERYTHING).unwrap();
    assert_eq!((compacted.documents, compacted.failed), (0, 1), "it is not compacted");
    assert_eq!(document.status().unwrap().changes, 8, "its bytes are kept");
    let other = store.space("default").unwrap().create(|_| Ok(())).unwrap().0;
    put(&other, "fine").unwrap();
    reload(&document);
    assert_eq!(text_of(&document), "\"good\"");
    // The rest of the tail is removed and added again, and the state stays.
    let mut events = store.events();
    store.open_store().context.applier.notify(document.open());
    let event = events.next_blocking().unwrap().unwrap();
    assert!(matches!(event.kind, EventKind::Changed { patches: None, .. }), "{event:?}");
    assert_eq!(text_of(&document), "\"good\"");
}

/// A change that arrived for an open document was compacted before it was applied.
#[test]
fn compacted_changes_that_were_not_applied_yet_are_applied() {
    let store = store();
    let document = store.space("default").unwrap().create(|_| Ok(())).unwrap().0;
    put(&document, "before").unwrap();
    let mut other = document.read(|doc| doc.fork()).unwrap();
    for n in 0..10 {
        let mut tx = other.transaction();
        tx.put(ROOT, "theirs", n).unwrap();
        tx.commit();
        append(&store, &document, other.get_last_local_change().unwrap().raw_bytes());
    }
    compact_changes(&store, 12);
    let mut events = store.events();
    store.open_store().context.applier.notify(document.open());
    // A change made beside it is not lost, whichever comes first.
    document.change(|tx| Ok(tx.put(ROOT, "mine", 1)?)).unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while document.read(|doc| doc.get(ROOT, "theirs").unwrap().is_none()).unwrap() {
        assert!(Instant::now() < deadline);
        std::thread::yield_now();
    }
    let keys: Vec<String> = document.read(|doc| doc.keys(ROOT).collect()).unwrap();
    assert_eq!(keys, ["mine", "text", "theirs"]);
    document.change(|tx| Ok(tx.put(ROOT, "later", 1)?)).unwrap();
    reload(&document);
    assert_eq!(document.read(|doc| doc.get_changes(&[]).len()).unwrap(), 14);
    let mut patches = 0;
    while let Some(event) = events.try_next() {
        if let EventKind::Changed { patches: Some(some), .. } = event.unwrap().kind {
            patches += some.len();
        }
    }
    assert_eq!(patches, 3, "the local key, the remote one at its last value, and `later`");
}

/// Writers, arriving changes, compactions and a cache that is too small, all on the same documents.
#[test]
fn concurrent_edits_compactions_and_arrivals_agree() {
    let options = Options { document_cache_bytes: 0, ..Options::default() };
    let store = Store::in_memory(options).unwrap();
    let space = store.space("default").unwrap();
    let documents: Vec<Document> = (0..3).map(|_| space.create(|_| Ok(())).unwrap().0).collect();
    let busy = AtomicUsize::new(3);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let rng = &mut Rng::new(1);
            let mut past: Vec<_> = documents.iter().map(|d| vec![d.heads().unwrap()]).collect();
            for _ in 0..300 {
                let which = rng.below(3);
                let (document, past) = (&documents[which], &mut past[which]);
                let at = past[past.len() - 1 - rng.below(past.len().min(3))].clone();
                let edit = |tx: &mut Transaction<'_>| {
                    edit(tx, rng);
                    Ok(())
                };
                document.change_at(&at, edit).unwrap();
                past.push(document.heads().unwrap());
            }
            busy.fetch_sub(1, Ordering::Relaxed);
        });
        scope.spawn(|| {
            for n in 0..300_usize {
                put(&documents[n % 3], &n.to_string()).unwrap();
            }
            busy.fetch_sub(1, Ordering::Relaxed);
        });
        scope.spawn(|| {
            let mut others: Vec<_> =
                documents.iter().map(|d| d.read(|doc| doc.fork()).unwrap()).collect();
            for n in 0..300_usize {
                let (document, other) = (&documents[n % 3], &mut others[n % 3]);
                other.transact(|tx| tx.put(ROOT, format!("theirs{}", n % 9), n as u64)).unwrap();
                let change = other.get_last_local_change().unwrap();
                append(&store, document, change.raw_bytes());
                store.open_store().context.applier.notify(document.open());
            }
            busy.fetch_sub(1, Ordering::Relaxed);
        });
        scope.spawn(|| {
            while busy.load(Ordering::Relaxed) > 0 {
                compact(&store.open_store().context.log, &CompactionOptions::EVERYTHING).unwrap();
                for document in &documents {
                    document.open().try_unload();
                    document.read(|doc| doc.length(ROOT)).unwrap();
                }
            }
        });
    });
    documents.iter().for_each(|document| check_settled(&store, document));
}

/// The document reaches the store's state, without duplicates, and loads as it is shown.
fn check_settled(store: &Store, document: &Document) {
    let log = &store.open_store().context.log;
    let row = log.document(document.open().row, &document.id()).unwrap().unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while document.heads().unwrap() != log.heads(row).unwrap() {
        assert!(Instant::now() < deadline, "it lags behind its store");
        std::thread::yield_now();
    }
    let (shown, changes) = document.read(|doc| (visible(doc), doc.get_changes(&[]))).unwrap();
    let status = document.status().unwrap();
    assert_eq!((status.changes, &status.quarantined), (changes.len() as u64, &None));
    let places: BTreeSet<_> = changes.iter().map(|c| (c.actor_id().clone(), c.seq())).collect();
    assert_eq!(places.len(), changes.len());
    while !document.open().try_unload() {
        std::thread::yield_now();
    }
    assert_eq!(document.read(visible).unwrap(), shown);
}
