//! Events and status.

use landfall::automerge::{ROOT, transaction::Transactable};
use landfall::{EventKind, Options, Origin, Store, SyncStatus};

#[test]
fn local_changes_send_events_with_patches() {
    let store = Store::in_memory(Options::default()).unwrap();
    let note = store.space("default").unwrap().create(|_| Ok(())).unwrap().0;
    let mut events = store.events();
    note.change(|tx| Ok(tx.put(ROOT, "k", "v")?)).unwrap();
    let event = events.next_blocking().unwrap().unwrap();
    assert_eq!(event.document, note.id());
    let EventKind::Changed { origin, heads, patches } = event.kind else { panic!("{event:?}") };
    assert_eq!((origin, heads), (Origin::Local, note.heads().unwrap()));
    assert_eq!(patches.unwrap().len(), 1);
    assert!(events.try_next().is_none());
}

#[test]
fn a_slow_listener_gets_a_lag_error_and_blocks_no_other() {
    let options = Options::default().events(8);
    let store = Store::in_memory(options).unwrap();
    let note = store.space("default").unwrap().create(|_| Ok(())).unwrap().0;
    let mut events = store.events();
    for n in 0..20 {
        note.change(|tx| Ok(tx.put(ROOT, "n", n)?)).unwrap();
    }
    assert_eq!(events.try_next().unwrap().unwrap_err().missed, 12);
    let rest = std::iter::from_fn(|| events.try_next()).filter(Result::is_ok).count();
    assert_eq!(rest, 8);
}

#[test]
fn the_status_can_be_awaited_on_any_executor() {
    let store = Store::in_memory(Options::default()).unwrap();
    let mut watch = store.watch();
    let writer = {
        let store = store.clone();
        std::thread::spawn(move || {
            let space = store.space("default").unwrap();
            space.create(|_| Ok(())).unwrap();
        })
    };
    let status = watch.until_blocking(|status| status.pending().changes == 1).unwrap();
    assert_eq!(status.spaces["default"].sync, SyncStatus::Offline);
    writer.join().unwrap();
    let note = store.space("default").unwrap().create(|_| Ok(())).unwrap().0;
    let mut of_note = note.watch();
    assert_eq!(of_note.changed_blocking().unwrap().unwrap().pending.changes, 1);
    note.change(|tx| Ok(tx.put(ROOT, "k", "v")?)).unwrap();
    assert_eq!(of_note.changed_blocking().unwrap().unwrap().pending.changes, 2);
}

#[test]
fn normal_durability_reports_changes_that_are_not_on_disk_yet() {
    let folder = tempfile::tempdir().unwrap();
    let options = Options::default().durability(landfall::Durability::Normal);
    let store = Store::open(folder.path().join("s"), options).unwrap();
    let note = store.space("default").unwrap().create(|_| Ok(())).unwrap().0;
    note.change(|tx| Ok(tx.put(ROOT, "k", "v")?)).unwrap();
    assert!(store.status().spaces["default"].not_on_disk > 0);
    assert!(!note.status().unwrap().on_disk);
    let mut watch = store.watch();
    watch.until_blocking(|status| status.spaces["default"].not_on_disk == 0).unwrap();
    assert!(note.status().unwrap().on_disk);
}
