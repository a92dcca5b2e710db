//! Messages of few bytes that cause much work.

use std::time::Instant;

use landfall::automerge::{ActorId, Change, ChangeHash};
use landfall_protocol::frame::{Frame, Push, PushEntry, entry_kind};
use landfall_protocol::{DocumentId, limits};
use landfall_tests::raw::{crowded_change, dense_change};

use crate::arena::{HANG, attack};
use crate::attacker::{
    acknowledged, begin_message, drain, honest_reader, native, pings, pong, reader, repo, say,
    subscribed, until_alive,
};

/// A change of a million operations in a hundred bytes.
fn bomb() -> Vec<u8> {
    dense_change(&ActorId::from([0xb0; 16]), (1, 1), &[], 1_000_000)
}

/// Two sessions push it again and again.
fn bombard(name: &str, frame: impl Fn(u64, Vec<u8>) -> Frame) {
    attack(name, |attack| {
        let change = bomb();
        let mut sessions: Vec<_> = (0..2).map(|_| subscribed(attack.port, "bombs")).collect();
        for id in 1.. {
            for session in &mut sessions {
                if !attack.goes_on() {
                    return;
                }
                if !say(session, &[frame(id, change.clone())]) {
                    *session = subscribed(attack.port, "bombs");
                }
            }
        }
    });
}

const DOCUMENT: DocumentId = DocumentId::from_bytes([0xb0; 16]);

#[test]
fn pushes_of_a_million_operations() {
    bombard("pushes of 1,000,000 operations", |id, change| push(id, DOCUMENT, &[change]));
}

#[test]
fn entries_of_a_million_operations() {
    bombard("entries of 1,000,000 operations", |id, change| {
        let (subscription, flags, kind) = (1, 0, entry_kind::CHANGE);
        let (document, entry, body) = (DOCUMENT, [0; 32], change.into());
        Frame::PushEntry(PushEntry { id, subscription, document, kind, flags, entry, body })
    });
}

/// The actor with this number, of a kind.
fn actor(kind: u8, number: u32) -> ActorId {
    let mut bytes = [kind; 16];
    bytes[..4].copy_from_slice(&number.to_be_bytes());
    ActorId::from(bytes)
}

fn hash_of(change: &[u8]) -> ChangeHash {
    Change::from_bytes(change.to_vec()).expect("a change").hash()
}

/// A document's first change, and one change each by `count` actors on top of it.
fn crowd(kind: u8, count: u32) -> (Vec<Vec<u8>>, Vec<ActorId>) {
    let root = dense_change(&actor(kind, 0), (1, 1), &[], 2);
    let (on_root, actors) = ([hash_of(&root)], (1..=count).map(|number| actor(kind, number)));
    let actors: Vec<ActorId> = actors.collect();
    let on_it = actors.iter().map(|actor| dense_change(actor, (1, 3), &on_root, 2));
    (std::iter::once(root).chain(on_it).collect(), actors)
}

fn push(id: u64, document: DocumentId, changes: &[Vec<u8>]) -> Frame {
    let changes = changes.iter().map(|change| change.clone().into()).collect();
    Frame::Push(Push { id, subscription: 1, document, changes })
}

/// Pushes changes, and waits until they are acknowledged.
fn prepare(port: u16, space: &str, document: DocumentId, changes: &[Vec<u8>]) {
    let mut author = reader(port, space);
    for (id, some) in (1..).zip(changes.chunks(limits::PUSH_CHANGES)) {
        say(&mut author, &[push(id, document, some)]);
        acknowledged(&mut author, 1);
    }
}

#[test]
fn changes_that_refer_to_very_many_actors() {
    attack("changes that refer to 20,000 actors", |attack| {
        let (changes, actors) = crowd(0xa0, 20_000);
        prepare(attack.port, "crowded", DOCUMENT, &changes);
        let on_root = (hash_of(&changes[0]), 5);
        let mut sessions: Vec<_> = (0..4).map(|_| subscribed(attack.port, "crowded")).collect();
        // The relay's default space for automerge-repo clients has none of these documents.
        let joined = |number: u8| repo(attack.port, &format!("crowded {number}"));
        let mut peers: Vec<_> = (0..4).map(joined).collect();
        for id in 1.. {
            for (number, (session, peer)) in (0..).zip(sessions.iter_mut().zip(&mut peers)) {
                if !attack.goes_on() {
                    return;
                }
                let change = [crowded_change(&actor(0xa1 + number, id), on_root, &actors)];
                if !say(session, &[push(u64::from(id), DOCUMENT, &change)]) {
                    *session = subscribed(attack.port, "crowded");
                }
                if !peer.push(DOCUMENT, &change) {
                    *peer = joined(number);
                }
            }
        }
    });
}

#[test]
fn changes_with_very_many_dependencies() {
    attack("changes that depend on 5,000 others", |attack| {
        let (changes, _) = crowd(0xd0, 5_000);
        prepare(attack.port, "dependent", DOCUMENT, &changes);
        let hashes: Vec<ChangeHash> = changes[1..].iter().map(|change| hash_of(change)).collect();
        let mut sessions: Vec<_> = (0..16).map(|_| subscribed(attack.port, "dependent")).collect();
        for id in 1..u32::MAX {
            for (number, session) in (0..).zip(&mut sessions) {
                if !attack.goes_on() {
                    return;
                }
                let change = dense_change(&actor(0xd1 + number, id), (1, 5), &hashes, 2);
                if !say(session, &[push(u64::from(id), DOCUMENT, &[change])]) {
                    *session = subscribed(attack.port, "dependent");
                }
            }
        }
    });
}

/// An honest client pastes a page; its check has to wait as well.
#[test]
fn pushes_of_a_million_operations_from_many_sessions() {
    attack("2 pushes of 2,000,000 operations from each of 60 sessions", |attack| {
        let (change, pair) =
            (bomb(), |id, change: &Vec<u8>| push(id, DOCUMENT, &[change.clone(), change.clone()]));
        let mut honest = honest_reader(attack.port, "pastes");
        let mut sessions: Vec<_> = (0..60).map(|_| subscribed(attack.port, "bombs")).collect();
        for session in &mut sessions {
            say(session, &[pair(1, &change), pair(2, &change)]);
        }
        let pasted = dense_change(&ActorId::from([0xaa; 16]), (1, 1), &[], 3_000);
        let began = Instant::now();
        say(&mut honest, &[push(1, DocumentId::from_bytes([0xaa; 16]), &[pasted])]);
        until_alive(&mut honest, |frame| matches!(frame, Frame::Ack(_)));
        let took = began.elapsed();
        println!("a paste of 3,000 characters took {took:?}");
        assert!(took < HANG, "a paste of 3,000 characters took {took:?}");
        attack.hold();
        for session in &mut sessions {
            drain(session);
        }
    });
}

#[test]
fn two_kinds_of_attack_at_once() {
    attack("bombs, half messages and pings at once", |attack| {
        let change = bomb();
        let mut halves: Vec<_> = (0..50).map(|_| native(attack.port)).collect();
        for half in &mut halves {
            begin_message(half, limits::MESSAGE_BYTES as u64, 1 << 20);
        }
        let mut bombers: Vec<_> = (0..2).map(|_| subscribed(attack.port, "bombs")).collect();
        let mut pingers: Vec<_> = (0..10).map(|n| repo(attack.port, &format!("p {n}"))).collect();
        for id in 1.. {
            if !attack.goes_on() {
                return;
            }
            for session in &mut bombers {
                if !say(session, &[push(id, DOCUMENT, std::slice::from_ref(&change))]) {
                    *session = subscribed(attack.port, "bombs");
                }
            }
            for session in &mut pingers {
                pings(&mut session.socket, 1_000);
            }
            for session in &mut halves {
                pong(session);
            }
        }
    });
}
