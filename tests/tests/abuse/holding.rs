//! Memory that the relay holds for a peer that sends half a message, or never reads.

use std::time::{Duration, Instant};

use landfall::automerge::transaction::Transactable;
use landfall::automerge::{ActorId, AutoCommit, ROOT};
use landfall_protocol::frame::{Ephemeral, Filter, Frame, Push};
use landfall_protocol::{DocumentId, limits};
use landfall_test_rng::Rng;
use landfall_tests::raw::change_of;

use crate::arena::attack;
use crate::attacker::{
    acknowledged, begin_message, native, numbered, patient, pong, reader, repo, say, subscribe,
    subscribed, until,
};

#[test]
fn half_messages_kept_alive_by_pongs() {
    attack("200 half messages of 4 MiB, 8 of 60 MiB", |attack| {
        let mut sessions: Vec<_> = (0..200).map(|_| native(attack.port)).collect();
        for session in &mut sessions {
            begin_message(session, limits::MESSAGE_BYTES as u64, limits::MESSAGE_BYTES - 1);
        }
        let mut large: Vec<_> = (0..8).map(|n| repo(attack.port, &format!("half {n}"))).collect();
        for session in &mut large {
            begin_message(&mut session.socket, 60 << 20, 50 << 20);
        }
        while attack.goes_on() {
            let large = large.iter_mut().map(|session| &mut session.socket);
            sessions.iter_mut().chain(large).for_each(|session| {
                let _ = pong(session);
            });
            // sleep: a client that only shows now and then that it is alive
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
    });
}

#[test]
fn filters_of_very_many_documents() {
    attack("100 sessions with filters of 65,536 documents", |attack| {
        let id = |number: u64| {
            let mut id = [0xfe; 16];
            id[..8].copy_from_slice(&number.to_be_bytes());
            DocumentId::from_bytes(id)
        };
        let each = limits::FILTER_DOCUMENTS as u64;
        let filters: Vec<Frame> = (0..limits::SESSION_FILTER_DOCUMENTS as u64 / each)
            .map(|number| {
                let ids = (number * each..(number + 1) * each).map(id);
                subscribe(number as u32, "filters", Filter::Documents(ids.collect()))
            })
            .collect();
        let mut sessions: Vec<_> = (0..100).map(|_| native(attack.port)).collect();
        for session in &mut sessions {
            say(session, &filters);
        }
        attack.hold();
    });
}

/// A change of nearly the largest size, of a document and an actor of its own.
fn large_change(number: u8) -> Vec<u8> {
    change_of(ActorId::from([number; 16]), 1, &"x".repeat(limits::CHANGE_BYTES - 1_000))
}

#[test]
fn the_largest_messages_of_200_sessions_that_never_read() {
    attack("the largest messages of 200 sessions", |attack| {
        // Each subscribes to the others' pushes, and reads nothing.
        let mut sessions: Vec<_> = (0..100).map(|_| subscribed(attack.port, "large")).collect();
        for (number, session) in sessions.iter_mut().enumerate() {
            let (id, subscription, number) = (1, 1, number as u8);
            let document = DocumentId::from_bytes([number; 16]);
            let changes = vec![large_change(number).into()];
            say(session, &[Frame::Push(Push { id, subscription, document, changes })]);
        }
        let mut others = Vec::new();
        for number in 0..100_u8 {
            let mut session = repo(attack.port, &format!("large {number}"));
            match number % 25 {
                0 => {
                    let document = DocumentId::from_bytes([100 + number; 16]);
                    let changes: Vec<_> = (0..15).map(|n| large_change(100 + n)).collect();
                    session.push(document, &changes);
                }
                _ => drop(begin_message(
                    &mut session.socket,
                    limits::REPO_MESSAGE_BYTES as u64,
                    1 << 20,
                )),
            }
            others.push(session);
        }
        attack.hold();
    });
}

#[test]
fn messages_that_stall_in_the_lane_of_small_messages() {
    attack("66 stalled messages of 87 kB, 18 of 4 MiB", |attack| {
        let mut sessions: Vec<_> = (0..84).map(|_| native(attack.port)).collect();
        for (number, session) in sessions.iter_mut().enumerate() {
            let bytes = if number < 66 { 87_000 } else { limits::MESSAGE_BYTES as u64 };
            begin_message(session, bytes, 1_000);
        }
        attack.hold();
    });
}

/// The relay handles new entries of a deaf session's open documents at each of that session's
/// deadlines. Each time it builds a message, which waits in memory.
#[test]
fn automerge_repo_peers_that_do_not_read_others_edits() {
    const DOCUMENTS: u64 = 8;
    attack("8 automerge-repo peers with half a message that do not read", |attack| {
        let mut rng = Rng::new(7);
        let mut docs: Vec<AutoCommit> = (1..=DOCUMENTS as u8)
            .map(|number| AutoCommit::new().with_actor(ActorId::from([number; 16])))
            .collect();
        let mut type_into = |at: usize| {
            let noise: Vec<u8> = (0..90_000).map(|_| rng.next_u64() as u8).collect();
            docs[at].put(ROOT, "noise", noise).expect("bytes");
            docs[at].commit();
            docs[at].get_last_local_change().expect("the change was just made").raw_bytes().to_vec()
        };
        let mut author = reader(attack.port, "default");
        patient(&author);
        let mut id = 0;
        // Pushes `count` changes of 90 kB to each document.
        let mut type_all = |author: &mut _, count: usize| {
            for at in 0..DOCUMENTS as usize {
                id += 1;
                let changes = (0..count).map(|_| type_into(at).into()).collect();
                let document = numbered(0xd0, at as u64);
                let push = Push { id, subscription: 1, document, changes };
                assert!(say(author, &[Frame::Push(push)]));
            }
            acknowledged(author, DOCUMENTS as usize);
        };
        type_all(&mut author, 1);
        let mut peers: Vec<_> = (0..8).map(|n| repo(attack.port, &format!("mute {n}"))).collect();
        for peer in &mut peers {
            for at in 0..DOCUMENTS {
                assert!(peer.ask(numbered(0xd0, at), vec![], vec![]));
            }
            begin_message(&mut peer.socket, 17_000, 1_000);
        }
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(30) {
            type_all(&mut author, 8);
            // sleep: more than 8 MiB between two looks and the relay reads its store instead
            std::thread::sleep(Duration::from_millis(2_000));
        }
        attack.hold();
    });
}

/// The relay remembers the last counts of 4,096 ephemeral sessions per space, under names that the
/// senders choose.
#[test]
fn ephemeral_messages_of_very_many_session_names() {
    attack("8,192 ephemeral session names from each of 120 sessions", |attack| {
        let names = |subscription: u32| {
            (1..=limits::EPHEMERAL_SOURCES).map(move |number| {
                let (sender, session) = (String::new(), format!("{number:0>256}"));
                let (document, data) = (numbered(0xe0, 1), vec![].into());
                let count = number as u64;
                Frame::Ephemeral(Ephemeral { subscription, document, sender, session, count, data })
            })
        };
        let batches: Vec<Vec<Frame>> = (1..=2).map(|number| names(number).collect()).collect();
        let mut sessions = Vec::new();
        for number in 0..120 {
            let mut session = reader(attack.port, &format!("names-{number}"));
            patient(&session);
            let filter = Filter::Everything;
            let more = subscribe(2, &format!("more-{number}"), filter);
            say(&mut session, &[more]);
            until(&mut session, |frame| matches!(frame, Frame::Subscribed(_)));
            for some in &batches {
                assert!(say(&mut session, some));
            }
            sessions.push(session);
        }
        attack.hold();
    });
}
