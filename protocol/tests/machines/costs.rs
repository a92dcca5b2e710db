//! The cost of recovery in messages and bytes: equal documents are not sent, and received ones are
//! not sent again.

use landfall_protocol::DocumentId;

use crate::relay::Disk;
use crate::world::{Faults, Traffic, World};

/// A settled world of `documents` with `edits` each, made by the first client.
fn world(clients: usize, documents: usize, edits: usize) -> World {
    let mut world = World::new(1, clients, Faults::default());
    world.documents = (0..documents).map(|_| DocumentId::from_bytes(world.rng.bytes())).collect();
    for document in world.documents.clone() {
        (0..edits).for_each(|_| world.edit_document(0, document));
    }
    world.settle();
    world.check();
    world
}

/// The traffic until the world has settled.
fn settle(world: &mut World) -> Traffic {
    world.traffic = Traffic::default();
    world.settle();
    world.check();
    assert!(world.ends.is_empty(), "{:?}", world.ends);
    world.traffic
}

/// The same log under unknown epochs.
fn of_unknown_epochs(world: &mut World) -> Disk {
    let mut disk = world.relay.disk.clone();
    for record in &mut disk.epochs {
        record.epoch = landfall_protocol::Epoch::from_bytes(world.rng.bytes());
    }
    disk
}

#[test]
fn an_unknown_epoch_with_200_equal_documents_costs_a_handful_of_messages() {
    let mut world = world(1, 200, 2);
    let disk = of_unknown_epochs(&mut world);
    world.restart_relay(disk);
    let Traffic { messages, bytes } = settle(&mut world);
    // The handshake with its features, the subscription, one query, one answer, and the end.
    assert_eq!(messages, 9);
    assert!(bytes < 1_200, "{bytes} bytes");
}

#[test]
fn three_of_200_documents_that_differ_cost_in_proportion() {
    let mut world = world(2, 200, 2);
    let disk = of_unknown_epochs(&mut world);
    world.disconnect(1);
    world.restart_relay(disk);
    // The second client is away, so only the first one's traffic counts.
    let second = world.clients.pop().unwrap();
    world.sessions.pop();
    for index in 0..3 {
        world.edit_document(0, world.documents[index]);
    }
    let Traffic { messages, bytes } = settle(&mut world);
    assert!(messages < 30, "{messages} messages");
    assert!(bytes < 15_000, "{bytes} bytes");
    drop(second);
}

#[test]
fn a_client_ahead_of_a_restored_relay_receives_nothing_it_has() {
    let mut world = world(1, 1, 200);
    let disk = of_unknown_epochs(&mut world);
    let whole = disk.holds().len() * 100;
    let document = world.documents[0];
    (0..5).for_each(|_| world.edit_document(0, document));
    world.settle();
    world.restart_relay(disk);
    let Traffic { bytes, .. } = settle(&mut world);
    assert!(bytes < whole / 4, "{bytes} bytes, and the document has more than {whole}");
}

#[test]
fn an_interrupted_snapshot_resumes_where_it_was_cut() {
    let mut world = world(1, 1, 60);
    let document = world.documents[0];
    world.relay.compact(&document, 61);
    let mut cuts = 0;
    // A second replica, whose connection breaks after every few messages.
    let fresh = crate::client::Client::new(world.rng.bytes(), &world.space);
    world.add_client(fresh);
    world.traffic = Traffic::default();
    while world.clients[1].store.holds().is_empty() {
        world.connect(1);
        cuts += 1;
        for _ in 0..10 {
            world.exchange(1);
        }
        assert!(cuts < 100, "it never completes");
    }
    assert!(cuts > 4, "only {cuts} cuts");
    let bytes = world.traffic.bytes;
    world.settle();
    world.check();
    let whole = world.relay.disk.snapshot_bytes(&document);
    // Each connection has its handshake, and loses the messages in transit.
    assert!(bytes < whole + cuts * 1_600, "{bytes} bytes for {whole} and {cuts} cuts");
}

#[test]
fn a_wiped_relay_receives_snapshots_and_not_single_changes() {
    let mut world = world(1, 3, 40);
    for document in world.documents.clone() {
        world.clients[0].store.compact(document, 41);
    }
    let disk = Disk::new(world.rng.bytes());
    world.restart_relay(disk);
    let Traffic { bytes, .. } = settle(&mut world);
    let whole = world.documents.iter().map(|d| world.relay.disk.snapshot_bytes(d)).sum::<usize>();
    // Parts are tiny here, so headers and queries double each part's size.
    assert!(bytes < 2 * whole, "{bytes} bytes for {whole}: they come back");
    assert_eq!(world.relay.disk.snapshots(), 3);
    assert_eq!(world.relay.disk.head.0, 3, "an entry for each");
}

#[test]
fn an_upload_restarts_if_its_snapshot_is_replaced() {
    let mut world = world(1, 1, 150);
    let document = world.documents[0];
    world.clients[0].store.compact(document, 20);
    let disk = Disk::new(world.rng.bytes());
    world.restart_relay(disk);
    world.connect(0);
    for more in 21..=151 {
        (0..8).for_each(|_| assert!(world.exchange(0)));
        world.clients[0].store.compact(document, more);
    }
    settle(&mut world);
}
