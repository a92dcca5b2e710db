//! A document that thousands of actors edited concurrently: engines receive and compact it, restore it
//! at a relay that lost it, and merge its heads with their next edit.

use landfall::automerge::transaction::Transactable;
use landfall::automerge::{ActorId, Automerge, ROOT};
use landfall_protocol::frame::Frame;
use landfall_tests::http;
use landfall_tests::raw::Client;
use landfall_tests::replica::wait_until;
use landfall_tests::site::{COMPACTIONS, Replica, SPACE, Site, compactions, sync_all};

const HEADS: usize = 5_000;

/// Makes changes on top of a document, each by a different actor.
fn branches(base: &Automerge) -> Vec<Vec<u8>> {
    let branch = |number: usize| {
        let actor = ActorId::from((number as u64).to_be_bytes());
        let mut branch = base.clone().with_actor(actor);
        let mut tx = branch.transaction();
        tx.put(ROOT, "branch", number as u64).unwrap();
        tx.commit();
        branch.get_last_local_change().unwrap().raw_bytes().to_vec()
    };
    (0..HEADS).map(branch).collect()
}

#[test]
fn five_thousand_heads_are_synced_compacted_healed_and_merged() {
    let mut site = Site::start_with(COMPACTIONS, compactions());
    let [mut a, b] = site.replicas(["a", "b"]);
    sync_all(&[&a, &b]);
    // Received changes are in the store before they are in an open document.
    let heads = |replica: &Replica| replica.documents[0].heads().unwrap();
    wait_until(&a.store, "for the other's changes", || heads(&a) == heads(&b));
    let shared = a.documents[0].id();
    let base = a.documents[0].read(|doc| doc.clone()).unwrap();
    let mut authors = Client::start_from(site.port, SPACE);
    for (number, some) in branches(&base).chunks(500).enumerate() {
        let answer = authors.push(number as u64 + 1, shared, some);
        assert!(matches!(answer, Frame::Ack(_)), "{answer:?}");
    }
    drop(authors);
    a.made += HEADS as u64;
    sync_all(&[&a, &b]);
    wait_until(&a.store, "for all heads", || a.documents[0].heads().unwrap().len() == HEADS);
    http::wait("for a compaction", || {
        http::metric(site.port, "landfall_relay_compactions_total{outcome=\"compacted\"}") > 0.0
    });
    assert_eq!(a.store.check_blocking().unwrap(), 0, "nothing differs");
    // A relay that lost everything gets it back, compacted or not.
    site.stop();
    std::fs::remove_dir_all(site.data()).unwrap();
    site.restart();
    sync_all(&[&a, &b]);
    // The next edit merges all heads, in a chain of changes without operations.
    let changes = a.documents[0].status().unwrap().changes;
    a.documents[0].change(|tx| Ok(tx.put(ROOT, "text", "merged")?)).unwrap();
    a.made += a.documents[0].status().unwrap().changes - changes;
    wait_until(&b.store, "for the merge", || b.documents[0].heads().unwrap().len() == 1);
    site.check(&[&a, &b]);
}
