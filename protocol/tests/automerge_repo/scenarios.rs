//! The ordinary encounters of two clients, one by one, with their allowed cost.

use std::collections::BTreeSet;
use std::time::Duration;

use automerge::Automerge;
use automerge::transaction::Transactable;
use landfall_protocol::DocumentId;
use landfall_protocol::limits;

use crate::client::Traffic;
use crate::world::World;

/// A world in which the first client has pushed a document of so many changes.
fn world_with(seed: u64, clients: usize, changes: usize) -> (World, DocumentId) {
    let (mut world, document) = World::of_one(seed, clients);
    world.connect(0);
    world.edit_often(0, document, changes);
    world.settle();
    world.assert_equal();
    world.assert_all_live();
    world.traffic(0);
    (world, document)
}

#[test]
fn an_empty_client_gets_everything_in_one_message() {
    let (mut world, document) = world_with(1, 2, 30);
    world.open(1, document);
    world.connect(1);
    world.settle();
    world.assert_equal();
    let Traffic { sent, received, received_chunks, sent_chunks, .. } = world.traffic(1);
    // The client sends a request, and then its heads.
    assert_eq!((sent, received, received_chunks, sent_chunks), (2, 1, 30, 0));
}

#[test]
fn an_equal_client_that_returns_costs_one_message_each_way_and_no_changes() {
    for keeps in [true, false] {
        let (mut world, _) = world_with(2, 1, 30);
        world.clients[0].keeps_states = keeps;
        for _ in 0..3 {
            world.connect(0);
            world.settle();
            let Traffic { sent, received, received_chunks, sent_chunks, received_bytes } =
                world.traffic(0);
            assert_eq!((sent, received, received_chunks, sent_chunks), (1, 1, 0, 0));
            // The heads, and one `have` without a filter.
            assert!(received_bytes < 100, "{received_bytes}");
        }
        assert_eq!(world.relay.log.index_loads, 0);
    }
}

#[test]
fn an_edit_is_answered_once_forwarded_once_and_not_echoed() {
    let (mut world, document) = world_with(3, 2, 5);
    world.open(1, document);
    world.connect(1);
    world.settle();
    world.traffic(0);
    world.traffic(1);
    world.edit(0, document);
    world.settle();
    world.assert_equal();
    let author = world.traffic(0);
    assert_eq!((author.sent, author.sent_chunks), (1, 1));
    assert_eq!(
        (author.received, author.received_chunks),
        (1, 0),
        "acknowledged, and nothing echoed"
    );
    let other = world.traffic(1);
    assert_eq!((other.received, other.received_chunks), (1, 1));
    assert_eq!((other.sent, other.sent_chunks), (1, 0));
}

#[test]
fn a_peer_slightly_behind_gets_missing_changes_without_expansion() {
    for keeps in [true, false] {
        let (mut world, document) = world_with(4, 2, 40);
        world.clients[1].keeps_states = keeps;
        world.open(1, document);
        world.connect(1);
        world.settle();
        world.disconnect(1);
        world.relay.log.compact(&document, 40);
        world.edit_often(0, document, 3);
        world.settle();
        world.traffic(1);
        world.connect(1);
        world.settle();
        world.assert_equal();
        let traffic = world.traffic(1);
        assert_eq!((traffic.received, traffic.received_chunks), (1, 3));
        assert_eq!(world.relay.log.index_loads, 0);
    }
}

#[test]
fn a_peer_far_behind_gets_the_snapshot_and_the_tail() {
    let (mut world, document) = world_with(5, 2, 10);
    world.open(1, document);
    world.connect(1);
    world.settle();
    world.disconnect(1);
    world.edit_often(0, document, 60);
    world.settle();
    world.relay.log.compact(&document, 65);
    world.traffic(1);
    world.connect(1);
    world.settle();
    world.assert_equal();
    let traffic = world.traffic(1);
    assert_eq!((traffic.received, traffic.received_chunks), (1, 1 + 5));
    assert_eq!(world.relay.log.index_loads, 1);
}

#[test]
fn peers_that_diverged_inside_compacted_history_converge() {
    for (seed, keeps) in [(6, true), (7, false)] {
        let (mut world, document) = world_with(seed, 2, 20);
        world.clients[1].keeps_states = keeps;
        world.open(1, document);
        world.connect(1);
        world.settle();
        world.disconnect(1);
        world.edit_often(0, document, 50);
        world.settle();
        world.relay.log.compact(&document, 70);
        world.edit_often(1, document, 15);
        world.traffic(1);
        world.connect(1);
        world.settle();
        world.assert_equal();
        let traffic = world.traffic(1);
        assert!(traffic.sent <= 4 && traffic.received <= 4, "{traffic:?}");
        // Its own 15 are sent once. It receives the snapshot, and not its own 15 again.
        assert_eq!((traffic.sent_chunks, traffic.received_chunks), (15, 1));
        assert_eq!(world.relay.log.documents[&document].changes.len(), 85);
    }
}

#[test]
fn histories_that_share_nothing_are_both_kept() {
    let (mut world, document) = World::of_one(8, 2);
    world.edit_often(0, document, 4);
    world.edit_often(1, document, 6);
    world.connect(0);
    world.connect(1);
    world.settle();
    world.assert_equal();
    assert_eq!(world.heads(0, document).len(), 2);
    assert_eq!(world.relay.log.documents[&document].changes.len(), 10);
}

#[test]
fn a_first_upload_of_thousands_of_changes_is_forwarded_whole() {
    let (mut world, document) = World::of_one(9, 2);
    world.edit_often(0, document, 5_000);
    world.connect(0);
    world.settle();
    world.assert_equal();
    assert_eq!(world.session(0).wholes, 1);
    let traffic = world.traffic(0);
    assert_eq!(traffic.sent_chunks, 1);
    assert!(traffic.sent <= 3 && traffic.received <= 3, "{traffic:?}");
    assert_eq!(world.relay.log.documents[&document].tail_len(), 0, "it is compacted at once");
    // From now on its edits are sent as single changes, whether or not it sent a whole document.
    world.edit(0, document);
    world.settle();
    world.open(1, document);
    world.connect(1);
    world.settle();
    world.assert_equal();
    assert_eq!(world.session(0).wholes, 1);
    let traffic = world.traffic(1);
    assert_eq!((traffic.received, traffic.received_chunks <= 2), (1, true), "{traffic:?}");
}

#[test]
fn a_smaller_first_upload_is_forwarded_as_single_changes() {
    let (mut world, document) = World::of_one(10, 1);
    world.edit_often(0, document, 4_000);
    world.connect(0);
    world.settle();
    world.assert_equal();
    assert_eq!(world.session(0).wholes, 0);
    assert_eq!(world.relay.log.documents[&document].tail_len(), 4_000);
}

#[test]
fn a_long_answer_has_several_complete_pages() {
    for compaction in [0, 50] {
        let (mut world, document) = world_with(11, 2, 200);
        world.relay.log.compact(&document, compaction);
        world.relay.log.page_bytes = 2_000;
        world.open(1, document);
        world.connect(1);
        world.settle();
        world.assert_equal();
        let traffic = world.traffic(1);
        assert!(traffic.received > 5, "{traffic:?}");
        let snapshot = usize::from(compaction > 0);
        assert_eq!(traffic.received_chunks, 200 - compaction + snapshot, "nothing is sent twice");
    }
}

#[test]
fn changes_made_between_two_pages_are_sent_exactly_once() {
    let (mut world, document) = world_with(12, 2, 200);
    world.relay.log.page_bytes = 2_000;
    world.open(1, document);
    world.connect(1);
    for round in 0..60 {
        world.step();
        if round % 20 == 0 {
            world.edit(0, document);
        }
    }
    world.settle();
    world.assert_equal();
    assert_eq!(world.traffic(1).received_chunks, 203);
}

#[test]
fn changes_beyond_the_sessions_memory_are_read_from_the_store() {
    let (mut world, document) = world_with(13, 2, 1);
    world.open(1, document);
    world.connect(1);
    world.settle();
    // Each has a third of the bytes that are kept for a document with an open query.
    let large = "x".repeat(limits::REPO_CHANGES_BYTES / 3);
    let answers = world.relay.log.answers;
    for (number, key) in ["a", "b", "c", "d"].iter().enumerate() {
        let value = format!("{number}{}", incompressible(&large, number as u64));
        world.clients[0].edit(document, key, &value);
    }
    world.settle();
    world.assert_equal();
    world.assert_all_live();
    assert!(world.relay.log.answers > answers);
}

/// A text of the same length that does not deflate.
fn incompressible(like: &str, seed: u64) -> String {
    let mut rng = landfall_test_rng::Rng::new(seed);
    (0..like.len()).map(|_| char::from(b'!' + (rng.next_u64() % 90) as u8)).collect()
}

#[test]
fn an_unavailable_document_is_sent_once_it_arrives() {
    let (mut world, document) = World::of_one(14, 2);
    world.open(0, document);
    world.connect(0);
    world.settle();
    assert!(world.clients[0].unavailable.is_empty(), "not before another peer had time to send it");
    assert_eq!(world.traffic(0).received, 0);
    world.pass(limits::REPO_REQUEST_WAIT);
    world.settle();
    assert_eq!(world.clients[0].unavailable, BTreeSet::from([document]));
    world.pass(Duration::from_secs(5));
    world.settle();
    world.connect(1);
    world.edit(1, document);
    world.settle();
    world.assert_equal();
    assert_eq!(world.clients[0].unavailable, BTreeSet::new());
    assert_eq!(world.heads(0, document), world.heads(1, document));
}

#[test]
fn a_request_during_an_upload_is_not_answered_unavailable() {
    let (mut world, document) = World::of_one(15, 2);
    world.open(0, document);
    world.connect(0);
    world.settle();
    world.edit_often(1, document, 10);
    world.connect(1);
    world.settle();
    world.pass(limits::REPO_REQUEST_WAIT);
    world.settle();
    world.assert_equal();
    assert!(world.clients[0].unavailable.is_empty());
}

#[test]
fn a_deleted_document_is_unavailable_and_accepts_no_changes() {
    let (mut world, document) = world_with(16, 3, 3);
    world.open(1, document);
    world.connect(1);
    world.settle();
    world.relay.delete(document);
    world.settle();
    // Both clients with the document open receive `unavailable`, and so does a new one, with or
    // without changes.
    assert!((0..2).all(|client| world.clients[client].unavailable.contains(&document)));
    world.edit(0, document);
    world.settle();
    for asks in [true, false] {
        if !asks {
            world.edit(2, document);
        }
        world.clients[2].unavailable.clear();
        world.open(2, document);
        world.connect(2);
        world.settle();
        assert!(world.clients[2].unavailable.contains(&document));
        assert_eq!(world.traffic(2).received, 0);
    }
    assert!(world.relay.log.documents[&document].changes.is_empty());
    world.assert_all_live();
}

#[test]
fn a_peer_that_reads_nothing_still_publishes() {
    let (mut world, document) = world_with(17, 3, 3);
    world.open(1, document);
    world.clients[1].copies.get_mut(&document).unwrap().reads_only = true;
    world.edit(1, document);
    let own = world.heads(1, document);
    world.connect(1);
    world.settle();
    // The others edit, which the read-only client is sent heads of; then it edits as well.
    for round in 0..3 {
        world.edit_often(0, document, 2);
        world.settle();
        world.edit(1, document);
        world.settle();
        let heads = world.heads(1, document);
        assert!(heads.iter().all(|head| world.relay.log.contains(&document, head)), "{round}");
    }
    assert_eq!(world.traffic(1).received_chunks, 0);
    assert_eq!(world.clients[1].copy(&document).automerge.get_changes(&own).len(), 3);
    world.open(2, document);
    world.connect(2);
    world.settle();
    assert_eq!(world.heads(2, document), world.relay.log.heads(&document));
    assert_eq!(world.heads(0, document), world.relay.log.heads(&document));
    // It ends its read-only mode, and requests what it was not sent.
    let copy = world.clients[1].copies.get_mut(&document).unwrap();
    copy.state.set_read_only(false);
    copy.reads_only = false;
    world.clients[1].say(document);
    world.settle();
    world.assert_equal();
}

#[test]
fn a_second_join_restarts_the_session() {
    let (mut world, document) = world_with(18, 2, 10);
    world.open(1, document);
    world.connect(1);
    world.settle();
    world.clients[1].join();
    world.settle();
    world.edit(0, document);
    world.settle();
    world.assert_equal();
    // At every point while the answers to earlier messages are in flight.
    for cut in 0..40 {
        let (mut world, document) = world_with(100 + cut as u64, 2, 10);
        world.open(1, document);
        world.connect(1);
        world.clients[1].keeps_states = false;
        world.steps(cut);
        world.edit(1, document);
        world.steps(cut % 7);
        // The page was reloaded behind the same connection: its document is empty.
        let actor = world.rng.bytes();
        world.clients[1].out.clear();
        world.session(1).sent.clear();
        world.clients[1].put(document, &Automerge::new(), actor);
        world.clients[1].join();
        world.settle();
        world.edit(0, document);
        world.settle();
        world.assert_equal();
        world.assert_all_live();
    }
}

#[test]
fn a_peer_that_reopens_a_document_on_a_connection_gets_it_again() {
    for cut in 0..30 {
        let (mut world, document) = world_with(200 + cut as u64, 2, 10);
        world.open(1, document);
        world.connect(1);
        world.steps(cut);
        // Messages in flight are lost with the copy.
        let actor = world.rng.bytes();
        if world.clients[1].ready {
            world.clients[1].out.clear();
            world.session(1).sent.clear();
            world.clients[1].put(document, &Automerge::new(), actor);
        }
        world.settle();
        assert_eq!(world.heads(1, document), world.relay.log.heads(&document), "{cut}");
    }
}

#[test]
fn a_relay_that_lost_its_log_receives_it_back_and_sends_new_changes() {
    // The client's sync state names common heads that only the client has; others have filled the
    // new log.
    let (mut world, document) = world_with(19, 2, 50);
    world.wipe();
    world.connect(1);
    world.edit_often(1, document, 80);
    world.settle();
    world.traffic(0);
    world.connect(0);
    world.settle();
    world.assert_equal();
    let traffic = world.traffic(0);
    assert_eq!(world.relay.log.documents[&document].changes.len(), 130);
    assert!(traffic.received <= 5, "{traffic:?}");
    assert_eq!((traffic.sent_chunks, traffic.received_chunks), (50, 80));
}

#[test]
fn a_document_that_was_merged_elsewhere_is_not_sent_back() {
    // Two clients that also sync directly: the second has already what the first pushes.
    let (mut world, document) = world_with(20, 2, 5);
    let mut merged = world.clients[0].copy(&document).automerge.fork();
    let actor = world.rng.bytes();
    let mut transaction = merged.transaction();
    transaction.put(automerge::ROOT, "elsewhere", 1).unwrap();
    transaction.commit();
    world.clients[1].put(document, &merged, actor);
    world.connect(1);
    world.settle();
    world.assert_equal();
    let traffic = world.traffic(1);
    assert_eq!((traffic.sent_chunks, traffic.received_chunks), (1, 0));
}

#[test]
fn a_peer_that_edits_during_an_answer_is_asked_for_all_at_once() {
    // Its heads have changed by the time the relay requests those that it announced.
    for seed in 0..30 {
        let (mut world, document) = world_with(seed, 1, 3);
        world.disconnect(0);
        world.edit_often(0, document, 41);
        world.connect(0);
        for _ in 0..10 {
            world.steps(2);
            world.edit(0, document);
        }
        world.settle();
        world.assert_equal();
        let traffic = world.traffic(0);
        assert!(traffic.received <= 14, "{traffic:?}");
        assert_eq!(traffic.sent_chunks, 51, "{traffic:?}");
    }
}
