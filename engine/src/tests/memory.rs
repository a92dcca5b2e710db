//! Which documents stay loaded, and which are evicted.

use std::sync::Arc;

use automerge::{ObjType, ROOT, ReadDoc, transaction::Transactable};

use super::{put, text_of};
use crate::{Document, EventKind, Options, Space, Store};

/// Two of the small documents below fit, three do not.
const TWO: u64 = 40 * 1024;

fn store(document_cache_bytes: u64) -> (Store, Space) {
    let store = Store::in_memory(Options { document_cache_bytes, ..Options::default() }).unwrap();
    let space = store.space("default").unwrap();
    (store, space)
}

/// Documents of some 20 KiB each.
fn documents(space: &Space, count: usize) -> Vec<Document> {
    let create = |n: usize| {
        let document = space.create(|_| Ok(())).unwrap().0;
        put(&document, &n.to_string()).unwrap();
        document
    };
    (0..count).map(create).collect()
}

fn is_loaded(document: &Document) -> bool {
    document.status().unwrap().loaded
}

fn actors(document: &Document) -> u64 {
    document.status().unwrap().actors
}

#[test]
fn the_cache_keeps_the_most_recently_used_documents() {
    let (store, space) = store(TWO);
    let all = documents(&space, 4);
    let loaded: Vec<bool> = all.iter().map(is_loaded).collect();
    assert_eq!(loaded, [false, false, true, true]);
    let status = store.status().loaded;
    assert_eq!(status.documents, 2);
    assert!(status.bytes > 2 * 16 * 1024 && status.bytes <= TWO, "{status:?}");
    // The third is read, so the fourth is evicted.
    assert_eq!(text_of(&all[2]), "\"2\"");
    assert_eq!(text_of(&all[0]), "\"0\"");
    let loaded: Vec<bool> = all.iter().map(is_loaded).collect();
    assert_eq!(loaded, [true, false, true, false]);
    for document in &all {
        put(document, "changed").unwrap();
        assert_eq!((text_of(document).as_str(), actors(document)), ("\"changed\"", 1));
        assert_eq!(document.status().unwrap().changes, 3);
    }
    assert_eq!(store.status().loaded.documents, 2);
}

#[test]
fn without_a_budget_only_the_document_in_use_stays_loaded() {
    let (store, space) = store(0);
    let all = documents(&space, 3);
    assert_eq!(store.status().loaded.documents, 1);
    assert_eq!(all.iter().map(text_of).collect::<Vec<_>>(), ["\"0\"", "\"1\"", "\"2\""]);
    assert!(is_loaded(&all[2]) && !is_loaded(&all[1]));
}

#[test]
fn documents_in_use_stay_loaded() {
    let (store, space) = store(0);
    let all = documents(&space, 3);
    all[0]
        .read(|_| {
            // Read and changed while the first one is being read.
            assert_eq!(text_of(&all[1]), "\"1\"");
            put(&all[2], "changed").unwrap();
            assert_eq!(store.status().loaded.documents, 2, "the first and the third");
        })
        .unwrap();
    assert!(is_loaded(&all[0]) && !is_loaded(&all[1]) && is_loaded(&all[2]));
    store
        .group(|group| {
            for document in &all {
                group.change(document, |tx| Ok(tx.put(ROOT, "k", 1)?))?;
            }
            Ok(())
        })
        .unwrap();
    let heads: Vec<usize> = all.iter().map(|document| document.heads().unwrap().len()).collect();
    assert_eq!(heads, [1, 1, 1]);
}

#[test]
fn a_document_without_handles_stays_loaded_until_a_change_arrives() {
    let (store, space) = store(1 << 30);
    let document = documents(&space, 1).remove(0);
    let id = document.id();
    let open = Arc::downgrade(document.open());
    drop(document);
    assert_eq!(store.status().loaded.documents, 1);
    let document = space.open(id).unwrap();
    assert!(is_loaded(&document));
    drop(document);
    // As if a change had arrived.
    let mut events = store.events();
    store.open_store().context.applier.notify(&open.upgrade().unwrap());
    let event = events.next_blocking().unwrap().unwrap();
    assert!(matches!(event.kind, EventKind::Changed { patches: None, .. }), "{event:?}");
    assert_eq!(store.status().loaded.documents, 0, "no handle uses it, so it is not applied");
    assert_eq!(text_of(&space.open(id).unwrap()), "\"0\"");
}

#[test]
fn a_longer_document_uses_more_of_the_budget() {
    let (store, space) = store(1 << 30);
    let document = space.create(|_| Ok(())).unwrap().0;
    let mut before = store.status().loaded.bytes;
    let text = document.change(|tx| Ok(tx.put_object(ROOT, "text", ObjType::Text)?)).unwrap();
    for characters in [100, 10_000] {
        let more = "x".repeat(characters);
        document.change(|tx| Ok(tx.splice_text(&text, 0, 0, &more)?)).unwrap();
        let after = store.status().loaded.bytes;
        assert!(after >= before + 32 * characters as u64, "{before} {after}");
        before = after;
    }
    assert!(document.open().try_unload());
    assert_eq!((store.status().loaded.documents, store.status().loaded.bytes), (0, 0));
    assert_eq!(document.read(|doc| doc.length(&text)).unwrap(), 10_100);
    assert_eq!(store.status().loaded.bytes, before, "loaded again it counts the same");
}

#[test]
fn a_closed_store_unloads_its_documents() {
    let (store, space) = store(1 << 30);
    let open = Arc::downgrade(documents(&space, 2)[0].open());
    let shared = Arc::downgrade(store.open_store());
    assert!(open.upgrade().is_some());
    drop(space);
    drop(store);
    assert!(open.upgrade().is_none());
    assert!(shared.upgrade().is_none());
}

/// Readers and writers of many documents, of which hardly one fits into the cache.
#[test]
fn documents_are_loaded_and_unloaded_beside_readers_and_writers() {
    let (store, space) = store(TWO / 2);
    let all = documents(&space, 6);
    std::thread::scope(|scope| {
        for thread in 0..4_usize {
            let all = &all;
            scope.spawn(move || {
                for n in 0..60 {
                    let document = &all[(n + thread * 2) % all.len()];
                    let key = format!("{thread}-{n}");
                    document.change(|tx| Ok(tx.put(ROOT, &key, 1)?)).unwrap();
                    let other = &all[(n * 5 + thread) % all.len()];
                    other.read(|doc| doc.length(ROOT)).unwrap();
                }
            });
        }
    });
    let keys: usize = all.iter().map(|d| d.read(|doc| doc.length(ROOT)).unwrap() - 1).sum();
    assert_eq!(keys, 240);
    assert!(all.iter().all(|document| actors(document) == 1));
    assert!(store.status().loaded.documents <= 2);
}
