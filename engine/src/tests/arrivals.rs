//! Changes that arrive for an open document are applied to it, whatever is written meanwhile.

use std::time::{Duration, Instant};

use automerge::{ROOT, transaction::Transactable};
use landfall_protocol::admission::preflight;
use landfall_test_rng::Rng;

use super::{put, store};
use crate::store::LocalChange;

/// More than one batch arrives while the application writes: a local change must not mark the unread
/// rest as applied.
#[test]
fn a_writer_does_not_skip_unapplied_changes() {
    let store = store();
    let document = store.space("default").unwrap().create(|_| Ok(())).unwrap().0;
    let mut other = document.read(|doc| doc.fork()).unwrap();
    let mut rng = Rng::new(1);
    let arrived = (0..30).map(|n| {
        let mut tx = other.transaction();
        let bytes: Vec<u8> = (0..700_000).map(|_| rng.next_u64() as u8).collect();
        tx.put(ROOT, format!("key{n}"), bytes).unwrap();
        tx.commit();
        let change = preflight(other.get_last_local_change().unwrap().raw_bytes()).unwrap();
        LocalChange { space: document.open().row, document: document.id(), change, at_ms: 0 }
    });
    let open = store.open_store();
    let arrived = arrived.collect();
    open.context.log.append(landfall_storage::Durability::Relaxed, arrived, |_| ()).unwrap();
    open.context.applier.notify(document.open());
    let deadline = Instant::now() + Duration::from_secs(60);
    let row = open.context.log.document(document.open().row, &document.id()).unwrap().unwrap();
    let mut written = 0;
    while document.heads().unwrap() != open.context.log.heads(row).unwrap() || written < 50 {
        assert!(Instant::now() < deadline, "the document lags behind its store");
        if written < 50 {
            put(&document, &format!("local {written}")).unwrap();
            written += 1;
        }
        std::thread::yield_now();
    }
    let count = document.read(|doc| doc.get_changes(&[]).len()).unwrap();
    assert_eq!(count as u64, document.status().unwrap().changes);
}
