//! A writer's edits beside arriving changes, readers, compactions and a cache without room: memory
//! never lacks changes that the store has.

use std::sync::atomic::{AtomicBool, Ordering};

use automerge::{ActorId, Automerge, ROOT, ReadDoc, transaction::Transactable};

use super::busy_writers::{arrive_last, until};
use crate::compactor::compact;
use crate::store::CompactionOptions;
use crate::{Document, Options, Store};

/// The number of edits of each writer, in each document.
const EDITS: usize = 150;

/// A replica of another author puts a value; the change arrives in the order of the commits.
fn arrive(store: &Store, document: &Document, theirs: &mut Automerge, key: &str) {
    theirs.transact(|tx| tx.put(ROOT, key, 1)).unwrap();
    arrive_last(store, document, theirs);
}

fn keys(document: &Document) -> usize {
    document.read(|doc| doc.keys(ROOT).count()).unwrap()
}

fn repeat_until(stop: &AtomicBool, mut work: impl FnMut()) {
    while !stop.load(Ordering::Relaxed) {
        work();
    }
}

/// Two documents, so that loading one evicts the other.
#[test]
fn an_edit_sees_all_earlier_edits_under_contention() {
    let options = Options { document_cache_bytes: 0, compaction: false, ..Options::default() };
    let store = Store::in_memory(options).unwrap();
    let space = store.space("default").unwrap();
    let documents = [(); 2].map(|()| space.create(|tx| Ok(tx.put(ROOT, "root", 0)?)).unwrap().0);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let mut ends = Vec::new();
        for (seed, document) in (9..).zip(&documents) {
            scope.spawn(|| repeat_until(&stop, || _ = keys(document)));
            for writer in [0, 1] {
                ends.push(scope.spawn(move || {
                    for n in 0..EDITS {
                        let key = format!("own {writer} {n}");
                        document.change(|tx| Ok(tx.put(ROOT, key, 1)?)).unwrap();
                    }
                }));
            }
            let store = &store;
            ends.push(scope.spawn(move || {
                let actor = ActorId::from([seed; 16]);
                let mut theirs = document.read(|doc| doc.fork().with_actor(actor)).unwrap();
                for n in 0..EDITS {
                    arrive(store, document, &mut theirs, &format!("theirs {n}"));
                }
            }));
        }
        let log = &store.open_store().context.log;
        let compaction = || _ = compact(log, &CompactionOptions::EVERYTHING).unwrap();
        let stop = &stop;
        scope.spawn(move || repeat_until(stop, compaction));
        let panicked = ends.into_iter().filter_map(|thread| thread.join().err()).count();
        stop.store(true, Ordering::Relaxed);
        assert_eq!(panicked, 0, "threads that edit");
    });
    for document in &documents {
        until("memory lags behind", || keys(document) == 1 + 3 * EDITS);
        assert_eq!(document.status().unwrap().changes as usize, 1 + 3 * EDITS);
        let heads = document.heads().unwrap();
        until("it stays in use", || document.open().try_unload());
        assert_eq!((keys(document), document.heads().unwrap()), (1 + 3 * EDITS, heads));
    }
}
