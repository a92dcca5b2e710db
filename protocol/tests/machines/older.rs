//! Peers from before snapshots, and documents with two histories.

use landfall_protocol::frame::{
    Filter, Frame, Frames, Hello, Subscribe, decode, encode, entry_flags, entry_kind,
};
use landfall_protocol::{Code, Cursor, Epoch, Offset, ReplicaId, Scope, SessionId};

use crate::relay::Disk;
use crate::scenarios::{HOSTILE, seeds};
use crate::world::{Faults, World};

/// Subscribes as an older client.
fn subscribe(world: &mut World, cursor: Option<Cursor>) -> SessionId {
    let session = world.relay.accept(world.now);
    let replica = ReplicaId::from_bytes([5; 16]);
    let hello = Hello { versions: vec![1], replica, token: None, agent: "older".into() };
    let space = world.space.clone();
    let subscribe = Subscribe {
        subscription: 4,
        space,
        filter: Filter::Everything,
        cursor,
        acknowledged: None,
    };
    for frame in [Frame::Hello(hello), Frame::Subscribe(subscribe)] {
        assert!(world.relay.handle(world.now, session, &encode(&frame)));
    }
    session
}

/// Everything that the relay sends it now, without skipped frames.
fn read(world: &mut World, session: SessionId) -> Vec<Frame> {
    while world.relay.feed(session) {}
    let sent = std::mem::take(&mut world.relay.sessions.get_mut(&session).unwrap().sent);
    let frames = sent.iter().flat_map(|message| Frames::new(message).unwrap());
    let frames = frames.map(|frame| frame.unwrap());
    frames.filter(|frame| !matches!(frame, Frame::Features(_))).collect()
}

#[test]
fn an_older_client_receives_uncompacted_entries() {
    let mut world = World::new(1, 1, Faults::default());
    (0..20).for_each(|_| world.edit(0));
    world.settle();
    // An unknown cursor: the client is fed from the start.
    let epoch = Epoch::from_bytes([1; 16]);
    let cursor = Cursor { epoch, offset: Offset(3), scope: Scope::WHOLE_SPACE };
    let session = subscribe(&mut world, Some(cursor));
    let frames = read(&mut world, session);
    let [Frame::Welcome(_), Frame::Subscribed(subscribed), rest @ ..] = &frames[..] else {
        panic!("no such frames")
    };
    assert!(!subscribed.resumed);
    let entries = rest.iter().map(|frame| match frame {
        Frame::Entries(entries) => entries.entries.len(),
        other => panic!("{other:?}"),
    });
    assert_eq!(entries.sum::<usize>(), world.returned.len());
}

#[test]
fn an_older_client_is_stopped_before_a_snapshot() {
    let mut world = World::new(1, 1, Faults::default());
    (0..40).for_each(|_| world.edit(0));
    world.settle();
    let document = world.documents[0];
    world.relay.compact(&document, 30);
    let session = subscribe(&mut world, None);
    let frames = read(&mut world, session);
    let Some(Frame::Unsubscribed(ended)) = frames.last() else { panic!("no such frame") };
    assert_eq!(ended.code, Code::MUST_UNDERSTAND);
    assert!(!frames.iter().any(|frame| matches!(frame, Frame::Part(_))));
    // A short snapshot is in its entry, and flagged.
    let mut world = World::new(1, 1, Faults::default());
    world.edit_document(0, document);
    world.settle();
    world.relay.compact(&document, 2);
    let session = subscribe(&mut world, None);
    let frames = read(&mut world, session);
    let Some(Frame::Entries(entries)) = frames.last() else { panic!("no such frame") };
    let entry = &entries.entries[0];
    assert_eq!(entry.kind, entry_kind::SNAPSHOT);
    assert!(entry.flags & entry_flags::MUST_UNDERSTAND != 0 && !entry.body.is_empty());
}

#[test]
fn an_older_relay_that_lost_its_history_is_healed_as_before() {
    for seed in seeds(30) {
        let mut world = World::new(seed, 3, HOSTILE);
        world.older_relay = true;
        (0..500).for_each(|_| world.step());
        let backup = world.relay.disk.clone();
        (0..500).for_each(|_| world.step());
        world.restart_relay(backup);
        (0..1_000).for_each(|_| world.step());
        world.settle();
        world.check();
    }
}

#[test]
fn features_that_an_older_relay_lacks_wait_for_its_upgrade() {
    let mut world = World::new(4, 2, Faults::default());
    world.older_relay = true;
    (0..30).for_each(|_| world.edit(0));
    world.settle();
    let documents = world.documents.clone();
    world.delete(0, documents[0]);
    let disk = Disk::new(world.rng.bytes());
    world.clients[0].store.compact(documents[1], 4);
    world.restart_relay(disk);
    // It is not pushed, and does not end the connection.
    for _ in 0..300 {
        world.step();
    }
    assert!(world.ends.is_empty(), "{:?}", world.ends);
    let upstream = world.relay.disk.upstream;
    assert!(world.clients[0].store.pending(upstream) > 0);
    world.older_relay = false;
    let disk = world.relay.disk.clone();
    world.restart_relay(disk);
    world.settle();
    world.check();
}

#[test]
fn a_second_history_is_refused_until_a_merge_is_requested() {
    for compacted in [false, true] {
        let mut world = World::new(2, 3, Faults::default());
        let document = world.documents[0];
        world.clients[1].root = 8;
        (0..4).for_each(|_| world.edit_document(0, document));
        (0..3).for_each(|_| world.edit_document(1, document));
        world.connect(0);
        for _ in 0..60 {
            world.exchange(0);
        }
        assert_eq!(world.relay.disk.head.0, 5);
        if compacted {
            world.relay.compact(&document, 3);
        }
        world.settle();
        let upstream = world.relay.disk.upstream;
        let refused = &world.clients[1].store;
        assert!(refused.links[&upstream].rejected.contains(&document), "it is rejected");
        assert_eq!(refused.deferred.len(), 5, "the received entries are deferred");
        assert_eq!(world.relay.disk.holds().len(), 5);
        assert_eq!(world.clients[2].store.holds().len(), 5);
        let now = world.now;
        world.clients[1].merge_histories(now, document);
        world.settle();
        world.check();
        assert_eq!(world.relay.disk.holds().len(), 9, "two roots and seven edits");
    }
}

#[test]
fn features_are_optional() {
    let message = encode(&Frame::Features(landfall_protocol::frame::Features { bits: 1 << 40 }));
    assert_eq!(message[2], 1);
    assert!(decode(&message).is_ok(), "bits of a later version are not looked at");
}
