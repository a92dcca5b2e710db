//! The promises, scenario by scenario.

use landfall_protocol::SessionId;
use landfall_protocol::client::SpacePhase;
use landfall_protocol::relay::{Author, PushVerdict, PushedEntry, StoreFailure};

use crate::relay::{Disk, Relay};
use crate::world::{Faults, World};

pub const HOSTILE: Faults = Faults {
    lose: 3,
    repeat: 3,
    cut: 20,
    commit_fails: 15,
    store_fails: 3,
    compaction: 0,
    delete: 0,
};

/// The seeds of a run: fixed ones, or the one in `LANDFALL_SEED`.
pub fn seeds(count: u64) -> Vec<u64> {
    match std::env::var("LANDFALL_SEED").ok().and_then(|seed| seed.parse().ok()) {
        Some(seed) => vec![seed],
        None => (0..count).collect(),
    }
}

#[test]
fn replicas_converge_without_faults() {
    for seed in seeds(10) {
        let mut world = World::new(seed, 3, Faults::default());
        (0..1_000).for_each(|_| world.step());
        world.settle();
        world.check();
        assert!(world.returned.len() > 30, "the run did something");
    }
}

#[test]
fn lost_repeated_and_cut_messages_and_failed_commits_lose_nothing() {
    for seed in seeds(60) {
        let mut world = World::new(seed, 3, HOSTILE);
        (0..2_000).for_each(|_| world.step());
        world.settle();
        world.check();
    }
}

#[test]
fn a_relay_that_restarts_at_any_moment_loses_nothing_that_it_acknowledged() {
    for seed in seeds(30) {
        let mut world = World::new(seed, 3, HOSTILE);
        for _ in 0..8 {
            (0..200).for_each(|_| world.step());
            let disk = world.relay.disk.clone();
            world.restart_relay(disk);
        }
        world.settle();
        world.check();
    }
}

#[test]
fn a_wiped_relay_is_healed_from_its_clients() {
    for seed in seeds(20) {
        let mut world = World::new(seed, 3, HOSTILE);
        (0..800).for_each(|_| world.step());
        world.settle();
        let identity = world.rng.bytes();
        world.restart_relay(Disk::new(identity));
        (0..400).for_each(|_| world.step());
        world.settle();
        world.check();
    }
}

#[test]
fn a_relay_wiped_under_the_same_identity_is_healed_too() {
    for seed in seeds(20) {
        let mut world = World::new(seed, 2, HOSTILE);
        (0..800).for_each(|_| world.step());
        world.settle();
        let mut disk = Disk::new([0; 16]);
        disk.upstream = world.relay.disk.upstream;
        world.restart_relay(disk);
        (0..400).for_each(|_| world.step());
        world.settle();
        world.check();
    }
}

#[test]
fn an_old_copy_that_grows_past_the_cursors_is_detected() {
    for seed in seeds(30) {
        let mut world = World::new(seed, 3, HOSTILE);
        (0..500).for_each(|_| world.step());
        let backup = world.relay.disk.clone();
        (0..500).for_each(|_| world.step());
        world.settle();
        let before = world.relay.disk.head.0;
        world.restart_relay(backup);
        // One client fills the old copy beyond the others' cursors.
        (0..before + 20).for_each(|_| world.edit(0));
        world.connect(0);
        (0..3_000).for_each(|_| world.step());
        world.settle();
        world.check();
    }
}

/// The client's cursor is older than the backup, its acks are younger: only the cursor is valid.
#[test]
fn a_restore_that_loses_acknowledged_changes_below_a_valid_cursor_is_noticed() {
    let mut world = World::new(1, 2, Faults::default());
    world.settle();
    let backup = world.relay.disk.clone();
    world.edit(0);
    // The push is acknowledged, but the entries that would move the cursor are lost.
    for _ in 0..50 {
        let session = world.sessions[0];
        if let Some(message) = world.clients[0].sent.pop_front() {
            world.relay.handle(world.now, session.unwrap(), &message);
        }
        world.relay.begin_commit();
        world.relay.finish_commit(world.now, true);
        let connection = world.relay.sessions.get_mut(&session.unwrap()).unwrap();
        while let Some(message) = connection.sent.pop_front() {
            world.clients[0].replica.handle_message(world.now, &message);
            world.clients[0].collect();
        }
        while world.clients[0].work(world.now, false) {}
    }
    assert_eq!(world.clients[0].link().held.len(), 2, "the changes are acknowledged");
    assert_eq!(world.clients[0].link().cursor, None, "and the cursor has not moved");
    world.restart_relay(backup);
    world.settle();
    world.check();
}

#[test]
fn nothing_is_acknowledged_or_sent_before_the_commit_returns() {
    let mut world = World::new(7, 2, Faults::default());
    world.settle();
    world.edit(0);
    for _ in 0..100 {
        for client in 0..2 {
            let session = world.sessions[client].unwrap();
            if let Some(message) = world.clients[client].sent.pop_front() {
                world.relay.handle(world.now, session, &message);
            }
            while world.clients[client].work(world.now, false) {}
            assert!(!world.relay.feed(session), "fan-out before the commit");
            assert!(world.relay.sessions[&session].sent.is_empty(), "an ack before the commit");
        }
        world.relay.begin_commit();
    }
    assert!(world.relay.writing.is_some(), "the commit is delayed");
    world.relay.finish_commit(world.now, true);
    world.settle();
    world.check();
}

/// The offset of a failed commit is never written, so no answer may wait for it.
#[test]
fn after_a_failed_commit_a_waiting_push_is_answered() {
    let mut world = World::new(1, 1, Faults::default());
    world.edit(0);
    world.settle();
    let (session, author) = (SessionId(9), Author::of_all(vec![1]));
    let push = PushedEntry { session, id: 1, document: world.documents[0], author };
    let Relay { space, disk, .. } = &mut world.relay;
    assert!(matches!(space.handle_deletion(&push, disk, 0), Ok(PushVerdict::Waits)));
    assert!(space.poll_commit().is_some());
    assert_eq!(space.handle_commit_failed(StoreFailure::Failed).len(), 1);
    let push_verdict: PushVerdict<()> = space.handle_duplicate_snapshot(&push);
    assert!(matches!(push_verdict, PushVerdict::Answered(answer) if answer.count == 1));
}

#[test]
fn a_cut_at_any_message_of_an_exchange_loses_nothing() {
    let mut cut = 0;
    loop {
        let mut world = World::new(3, 2, Faults::default());
        (0..5).for_each(|_| world.edit(0));
        (0..2).for_each(|client| world.connect(client));
        let mut delivered = 0;
        for _ in 0..400 {
            let before = world.clients[0].sent.len();
            if delivered == cut && before > 0 {
                world.disconnect(0);
                world.connect(0);
                delivered += 1;
            }
            world.step();
            delivered += usize::from(world.clients[0].sent.len() < before);
        }
        world.settle();
        world.check();
        if delivered < cut || cut > 40 {
            break;
        }
        cut += 1;
    }
    assert!(cut > 5, "the exchange had messages to cut at");
}

#[test]
fn a_silent_relay_is_pinged_and_then_dropped() {
    let mut world = World::new(5, 1, Faults::default());
    world.settle();
    assert_eq!(world.clients[0].phase, SpacePhase::Live);
    let client = &mut world.clients[0];
    let ping_at = client.replica.poll_timeout();
    client.replica.handle_timeout(ping_at);
    client.collect();
    assert_eq!(client.sent.len(), 1, "a ping");
    let drop_at = client.replica.poll_timeout();
    assert!(drop_at > ping_at);
    client.replica.handle_timeout(drop_at);
    client.collect();
    assert!(client.ended.as_deref().is_some_and(|why| why.contains("silent")));
}

#[test]
fn a_reconnect_without_changes_takes_six_small_messages() {
    let mut world = World::new(11, 1, Faults::default());
    (0..50).for_each(|_| world.edit(0));
    world.settle();
    world.connect(0);
    let session = world.sessions[0].unwrap();
    let (mut messages, mut bytes) = (0, 0);
    for _ in 0..50 {
        let connection = world.relay.sessions.get_mut(&session).unwrap();
        if let Some(message) = connection.sent.pop_front() {
            (messages, bytes) = (messages + 1, bytes + message.len());
            world.clients[0].replica.handle_message(world.now, &message);
            world.clients[0].collect();
        }
        if let Some(message) = world.clients[0].sent.pop_front() {
            (messages, bytes) = (messages + 1, bytes + message.len());
            assert!(world.relay.handle(world.now, session, &message));
        }
        world.clients[0].work(world.now, false);
        assert!(!world.relay.feed(session), "there is nothing to feed");
    }
    assert_eq!(world.clients[0].phase, SpacePhase::Live);
    assert_eq!(messages, 6);
    assert!(bytes < 512, "{bytes} bytes");
}
