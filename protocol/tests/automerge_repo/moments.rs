//! When messages are sent, and what may happen between a query and its answer.

use std::time::Duration;

use automerge::Automerge;
use landfall_protocol::admission::FormError;
use landfall_protocol::automerge_repo::message::Message;
use landfall_protocol::automerge_repo::sync::{Reply, SyncMessage};
use landfall_protocol::{Code, DocumentId, limits};

use crate::world::World;

const TEN: usize = 10;

/// Two clients with the same ten changes.
fn two(seed: u64) -> (World, DocumentId) {
    let (mut world, document) = World::of_one(seed, 2);
    world.connect(0);
    world.edit_often(0, document, TEN);
    world.open(1, document);
    world.connect(1);
    world.settle();
    world.assert_equal();
    world.traffic(0);
    world.traffic(1);
    (world, document)
}

/// The client reconnects, and the store is read for its message in its present state.
fn return_and_read(world: &mut World, client: usize) {
    world.connect(client);
    let id = world.session_id(client);
    // `join`, its answer, and the client's first sync message.
    world.carry_up(client);
    let peer = world.session(client).sent.pop_front().expect("an answer to `join`");
    world.clients[client].receive(&peer);
    world.carry_up(client);
    world.relay.read_plan(id);
}

/// The client sends its messages, and the relay does all work except reading answers.
fn push(world: &mut World, client: usize) {
    while !world.clients[client].out.is_empty() {
        world.carry_up(client);
    }
    world.relay.settle_pushes();
}

fn sent(world: &mut World, client: usize) -> usize {
    world.session(client).sent.len()
}

#[test]
fn updates_are_batched_for_a_moment_except_the_first() {
    let (mut world, document) = two(1);
    world.pass(Duration::from_secs(1));
    let step = Duration::from_millis(1);
    world.edit(0, document);
    push(&mut world, 0);
    assert_eq!(sent(&mut world, 1), 1, "nothing arrived recently: it is sent at once");
    // The reader answers at once.
    while world.carry(1) {}
    world.edit(0, document);
    push(&mut world, 0);
    world.edit(0, document);
    push(&mut world, 0);
    world.relay.settle_pushes();
    assert_eq!(sent(&mut world, 1), 0);
    world.pass(limits::REPO_PACE - step);
    assert_eq!(sent(&mut world, 1), 0);
    world.pass(step);
    assert_eq!(world.last_sync(1).chunks, 2, "both in one message");
    world.assert_all_live();
}

#[test]
fn a_peer_that_has_not_answered_gets_updates_less_often() {
    let (mut world, document) = two(2);
    world.pass(Duration::from_secs(1));
    world.edit(0, document);
    push(&mut world, 0);
    assert_eq!(sent(&mut world, 1), 1);
    world.edit(0, document);
    push(&mut world, 0);
    let step = Duration::from_millis(1);
    world.pass(limits::REPO_UNANSWERED - step);
    assert_eq!(sent(&mut world, 1), 1);
    world.pass(step);
    assert_eq!(sent(&mut world, 1), 2);
}

#[test]
fn batched_updates_leave_out_the_peers_own_changes() {
    let (mut world, document) = two(3);
    world.pass(Duration::from_secs(1));
    world.edit(0, document);
    push(&mut world, 0);
    while world.carry(1) {}
    // An entry of the other client waits for its pace, then one of its own arrives, then another of
    // the other's.
    world.edit(0, document);
    push(&mut world, 0);
    world.edit(1, document);
    push(&mut world, 1);
    world.edit(0, document);
    push(&mut world, 0);
    world.traffic(1);
    world.settle();
    world.assert_equal();
    assert_eq!(world.traffic(1).received_chunks, 2);
}

#[test]
fn a_peer_that_lost_its_data_during_an_answer_gets_everything() {
    let (mut world, document) = two(4);
    world.disconnect(1);
    world.edit_often(0, document, 5);
    world.settle();
    return_and_read(&mut world, 1);
    // The answer holds changes that the client had when it asked, and has lost since.
    let actor = world.rng.bytes();
    world.clients[1].put(document, &Automerge::new(), actor);
    world.carry_up(1);
    let id = world.session_id(1);
    world.relay.tell_plan(id);
    world.relay.read_plan(id);
    world.relay.tell_plan(id);
    assert_eq!(sent(&mut world, 1), 1);
    assert_eq!(world.last_sync(1).chunks, TEN + 5);
}

#[test]
fn changes_committed_while_an_answer_is_read_are_sent_too() {
    let (mut world, document) = two(5);
    return_and_read(&mut world, 1);
    let id = world.session_id(1);
    world.edit(0, document);
    while !world.clients[0].out.is_empty() {
        world.carry_up(0);
    }
    world.relay.commit_all_past(id);
    world.relay.tell_plan(id);
    world.settle();
    world.assert_equal();
}

#[test]
fn a_deletion_during_an_answer_discards_the_answer() {
    let (mut world, document) = two(12);
    world.disconnect(1);
    world.edit(0, document);
    world.settle();
    return_and_read(&mut world, 1);
    world.relay.delete(document);
    world.relay.settle_pushes();
    let id = world.session_id(1);
    world.relay.tell_plan(id);
    let sent = std::mem::take(&mut world.session(1).sent);
    let is_unavailable =
        |bytes: &Vec<u8>| matches!(Message::decode(bytes), Ok(Message::Unavailable { .. }));
    assert!(sent.len() == 1 && sent.iter().all(is_unavailable), "{} messages", sent.len());
}

#[test]
fn a_peers_change_during_its_answer_is_not_echoed() {
    let (mut world, document) = two(6);
    let id = world.session_id(1);
    world.relay.overflow(id);
    world.relay.read_plan(id);
    world.edit(1, document);
    push(&mut world, 1);
    world.edit(0, document);
    push(&mut world, 0);
    world.relay.tell_plan(id);
    world.settle();
    world.assert_equal();
    assert_eq!(world.traffic(1).received_chunks, 1, "the other's");
}

#[test]
fn a_whole_upload_reaches_peers_that_have_other_parts() {
    let (mut world, document) = World::of_one(7, 3);
    world.edit_often(0, document, limits::REPO_WHOLE_CHANGES as usize);
    world.edit(1, document);
    // One client waits for the document; one has begun it on its own.
    world.open(2, document);
    world.connect(2);
    world.settle();
    world.connect(0);
    world.settle();
    assert_eq!(world.session(0).wholes, 1);
    assert_eq!(world.heads(2, document), world.heads(0, document));
    world.connect(1);
    world.settle();
    world.assert_equal();
    assert_eq!(world.heads(1, document).len(), 2);
}

#[test]
fn repeated_requests_for_an_unknown_document_get_unavailable() {
    let (mut world, document) = World::of_one(8, 1);
    world.open(0, document);
    world.connect(0);
    world.settle();
    for _ in 0..2 {
        assert!(world.clients[0].unavailable.is_empty());
        world.pass(limits::REPO_REQUEST_WAIT);
        world.settle();
        assert!(world.clients[0].unavailable.remove(&document));
        // A sync message that is no `request` gets no answer.
        let empty = Reply::default().encode().unwrap();
        world.clients[0].send(document, false, &empty);
        world.settle();
        world.pass(limits::REPO_REQUEST_WAIT);
        world.settle();
        assert!(world.clients[0].unavailable.is_empty());
        world.clients[0].send(document, true, &empty);
        world.settle();
    }
}

#[test]
fn a_second_join_has_its_own_wait_for_a_document() {
    let (mut world, document) = World::of_one(9, 1);
    // Time passes only where the test says.
    let talk = |world: &mut World| {
        world.settle_relay();
        while world.carry(0) {
            world.settle_relay();
        }
    };
    world.open(0, document);
    world.connect(0);
    talk(&mut world);
    world.pass(limits::REPO_REQUEST_WAIT / 2);
    world.clients[0].join();
    talk(&mut world);
    world.pass(limits::REPO_REQUEST_WAIT * 2 / 3);
    talk(&mut world);
    assert!(world.clients[0].unavailable.is_empty());
    world.pass(limits::REPO_REQUEST_WAIT / 3 + Duration::from_millis(1));
    talk(&mut world);
    assert!(world.clients[0].unavailable.contains(&document));
}

#[test]
fn dependents_of_a_too_large_change_are_refused_and_others_accepted() {
    let (mut world, document) = two(10);
    world.edit(1, document);
    let large = world.heads(1, document)[0];
    // The check answers that the change is too large.
    world.clients[1].out.clear();
    let id = world.session_id(1);
    let error = FormError::Refused { reason: "so large".into() };
    let ticket = world.session(1).peer.ticket(document);
    world.relay.with(id, |peer| peer.handle_too_large(ticket, large, &error));
    world.edit(1, document);
    world.settle();
    world.assert_all_live();
    let codes: Vec<_> =
        world.relay.refused.iter().map(|(_, code, count)| (*code, *count)).collect();
    assert_eq!(codes, [(Code::TOO_LARGE, 1), (Code::MISSING_DEPENDENCY, 1)]);
    // It is not requested, even beside other changes.
    world.edit_often(0, document, 3);
    while world.carry(0) {}
    world.relay.commit_all_past(id);
    world.settle_but(1);
    let mut changes_sent = 0;
    while let Some(message) = world.session(1).sent.pop_front() {
        let Message::Sync(sync) = Message::decode(&message).unwrap() else { continue };
        let message = SyncMessage::decode(sync.data).unwrap();
        assert_eq!(message.need, []);
        changes_sent += message.chunks.len();
    }
    assert_eq!(changes_sent, 3);
    assert_eq!(world.heads(0, document), world.relay.log.heads(&document));
}
