//! A deletion is final: for replicas that edited while offline, against a restored relay, and over
//! restarts. Every lost edit is reported.

use landfall::automerge::transaction::Transactable;
use landfall::automerge::{Automerge, ROOT, ReadDoc};
use landfall::{ChangeError, Document, EventKind, Events, Options, Store};
use landfall_tests::replica::{Snapshot, fresh_copy, wait_for, wait_synced, wait_until};
use landfall_tests::site::{COMPACTIONS, Replica, SPACE, Site, compactions, sync_all};

fn deleted(replica: &Replica, document: &Document) -> bool {
    replica.space.is_deleted(&document.id()).unwrap()
}

/// The number of orphaned edits in each event so far that reports the document's deletion.
fn deletions(events: &mut Events, document: &Document) -> Vec<u64> {
    std::iter::from_fn(|| events.try_next())
        .map(|event| event.expect("no event is dropped"))
        .filter(|event| event.document == document.id())
        .filter_map(|event| match event.kind {
            EventKind::Deleted { unsent } => Some(unsent),
            _ => None,
        })
        .collect()
}

#[test]
fn a_deletion_wins_over_concurrent_edits() {
    for (arguments, options) in [(&[][..], Options::default()), (COMPACTIONS, compactions())] {
        let long = if arguments.is_empty() { 10 } else { 700 };
        let mut site = Site::start_with(arguments, options);
        let [mut a, b, mut c] = site.replicas(["a", "b", "c"]);
        a.edit(long);
        sync_all(&[&a, &b, &c]);
        c.store.go_offline();
        site.back_up();
        let shared = a.documents[0].clone();
        // c edits the document twice, unaware of the deletion.
        c.edit(4);
        a.space.delete(shared.id()).unwrap();
        assert!(matches!(
            shared.change(|tx| Ok(tx.put(ROOT, "late", true)?)),
            Err(ChangeError::Deleted)
        ));
        a.flush();
        wait_until(&b.store, "for the deletion", || deleted(&b, &shared));
        assert!(!b.space.documents().unwrap().contains(&shared.id()));
        let mut events = c.store.events();
        c.store.go_online();
        wait_until(&c.store, "for the deletion", || deleted(&c, &shared));
        let lost = c.space.orphaned_edits().unwrap();
        assert_eq!((lost.len(), lost[0].document, lost[0].unsent), (1, shared.id(), 2));
        // The store is ahead of its events, which another thread sends.
        let mut counts = deletions(&mut events, &shared);
        wait_until(&c.store, "for the event", || {
            counts.extend(deletions(&mut events, &shared));
            !counts.is_empty()
        });
        assert_eq!(counts, [2], "the orphaned edits exist");
        let export = c.space.export_orphaned(&shared.id()).unwrap().unwrap();
        let rescued = Automerge::load(&export).unwrap();
        let value = rescued.get(ROOT, "text").unwrap().unwrap().0.to_string();
        assert!(value.contains("c "), "{value} is not c's last edit");
        c.space.discard_orphaned(shared.id()).unwrap();
        assert_eq!(c.space.orphaned_edits().unwrap(), []);
        // The relay is restored to a state before the deletion; all replicas still have the tombstone.
        site.stop();
        site.restore();
        site.restart();
        for replica in [&a, &b, &c] {
            replica.flush();
            wait_synced(&replica.store);
            assert!(deleted(replica, &shared), "{}", replica.name);
        }
        let copy = fresh_copy(&site.url, SPACE);
        assert_eq!(copy.hashes_of(&shared.id()).len(), 0, "the deleted document reappeared");
        assert_eq!(copy, Snapshot::of(&a.space));
        assert!(deletions(&mut events, &shared).is_empty(), "the deletion is reported once");
        // The deletion also survives a restart of the application.
        a.store.close().unwrap();
        let again = Store::open(site.folder().join("a"), Options::default()).unwrap();
        let space = again.space(SPACE).unwrap();
        assert!(space.is_deleted(&shared.id()).unwrap() && space.open(shared.id()).is_err());
        assert_eq!(Snapshot::of(&space), copy);
    }
}

#[test]
fn an_offline_deletion_is_pushed_later() {
    let site = Site::start();
    let [a, b] = site.replicas(["a", "b"]);
    sync_all(&[&a, &b]);
    a.store.go_offline();
    let own = a.documents[1].clone();
    a.space.delete(own.id()).unwrap();
    assert!(a.store.status().pending().changes > 0, "a deletion is pending like an edit");
    a.store.go_online();
    a.flush();
    wait_until(&b.store, "for the deletion", || deleted(&b, &own));
    wait_for(&b.store, "to be settled", |status| status.pending().changes == 0);
    assert_eq!(Snapshot::of(&a.space), Snapshot::of(&b.space));
}
