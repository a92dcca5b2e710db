//! Which documents a replica syncs, and documents that share an id but no history.

use std::collections::BTreeSet;

use landfall::automerge::transaction::Transactable;
use landfall::automerge::{ActorId, ROOT};
use landfall::{Code, DocumentId, EventKind, Options, Store};
use landfall_protocol::frame::Frame;
use landfall_tests::raw;
use landfall_tests::replica::{
    Snapshot, fresh_copy, hashes, link, open, wait_for, wait_synced, wait_until,
};
use landfall_tests::site::{Replica, SPACE, Site, sync_all};

fn ids(replica: &Replica) -> BTreeSet<DocumentId> {
    replica.space.documents().unwrap().into_iter().collect()
}

#[test]
fn a_wider_scope_delivers_whole_documents_and_no_others() {
    let mut site = Site::start();
    let [mut a] = site.replicas(["a"]);
    let more = a.space.create(|tx| Ok(tx.put(ROOT, "more", 0)?)).unwrap().0;
    a.edit(100);
    a.flush();
    let store = Store::open(site.folder().join("b"), Options::default()).unwrap();
    let space = store.space(SPACE).unwrap();
    space.sync_only([a.documents[0].id()]).unwrap();
    store.connect(link(&site.url)).unwrap();
    wait_synced(&store);
    let mut b = Replica { name: "b", store, space, documents: a.documents.clone(), made: 0 };
    assert_eq!(ids(&b), BTreeSet::from([a.documents[0].id()]));
    let shared = b.space.open(a.documents[0].id()).unwrap();
    assert_eq!(hashes(&shared), hashes(&a.documents[0]));
    // The scope grows while a writes: no change of an added document is skipped.
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| a.edit(200));
        b.space.sync_only([a_id(&b, 0), a_id(&b, 1)]).unwrap();
        writer.join().unwrap();
    });
    a.flush();
    let own = a.documents[1].clone();
    wait_until(&b.store, "for the second document", || {
        let there = b.space.open(own.id());
        there.is_ok_and(|there| hashes(&there) == hashes(&own))
    });
    assert!(!ids(&b).contains(&more.id()));
    // Over a restart of both, with a change of scope while offline.
    b.store.close().unwrap();
    site.stop();
    site.restart();
    b = Replica::reopen(site.folder(), "b", Options::default(), &b.documents);
    b.space.sync_only([more.id(), own.id()]).unwrap();
    b.connect(&site.url);
    wait_until(&b.store, "for the third document", || ids(&b).contains(&more.id()));
    b.space.sync_everything().unwrap();
    wait_synced(&b.store);
    a.edit(3);
    sync_until_equal(&a, &b);
    assert_eq!(fresh_copy(&site.url, SPACE), Snapshot::of(&b.space));
}

fn a_id(replica: &Replica, number: usize) -> DocumentId {
    replica.documents[number].id()
}

fn sync_until_equal(a: &Replica, b: &Replica) {
    a.flush();
    let changes = a.space.status().unwrap().changes;
    wait_for(&b.store, "for everything", |status| {
        status.spaces.values().all(|space| space.changes == changes)
    });
    assert_eq!(Snapshot::of(&a.space), Snapshot::of(&b.space));
}

#[test]
fn unrelated_histories_of_one_id_merge_only_on_request() {
    let site = Site::start();
    let [a] = site.replicas(["a"]);
    sync_all(&[&a]);
    let store = open(&site.folder().join("b"));
    let space = store.space(SPACE).unwrap();
    let ours = space.create(|tx| Ok(tx.put(ROOT, "ours", 1)?)).unwrap().0;
    // At the relay, another author has used the same id for a document with another first change.
    let theirs = raw::change_of(ActorId::random(), 1, "theirs");
    let answer = raw::Client::start(site.port, SPACE).push(1, ours.id(), &[theirs]);
    assert!(matches!(answer, Frame::Ack(_)), "{answer:?}");
    let mut events = store.events();
    store.connect(link(&site.url)).unwrap();
    wait_for(&store, "to be refused", |status| {
        status.spaces.values().any(|space| {
            space.rejected.iter().any(|rejected| rejected.code == Code::UNRELATED)
                && space.deferred == 1
        })
    });
    let emitted = std::iter::from_fn(|| events.try_next()).flatten();
    assert!(emitted.into_iter().any(|event| matches!(event.kind, EventKind::Unrelated)));
    assert_eq!(hashes(&ours).len(), 1, "the other history was merged");
    space.merge_unrelated(ours.id()).unwrap();
    wait_synced(&store);
    wait_until(&store, "for both", || hashes(&ours).len() == 2);
    // All replicas have both histories now.
    let copy = fresh_copy(&site.url, SPACE);
    assert_eq!(copy.hashes_of(&ours.id()), hashes(&ours));
    wait_until(&a.store, "for both", || {
        a.space.open(ours.id()).is_ok_and(|there| hashes(&there) == hashes(&ours))
    });
}
