//! Memory that a peer makes the relay hold by saying half of something, or by never reading.

use landfall::automerge::ActorId;
use landfall_protocol::frame::{Filter, Frame, Push};
use landfall_protocol::{DocumentId, limits};
use landfall_tests::raw::change_of;

use crate::arena::attack;
use crate::attacker::{begin_message, native, pong, repo, say, subscribe, subscribed};

#[test]
fn half_messages_that_are_kept_by_pongs() {
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

/// A change that is nearly as large as one may be, of a document and an actor of its own.
fn large_change(number: u8) -> Vec<u8> {
    change_of(ActorId::from([number; 16]), 1, &"x".repeat(limits::CHANGE_BYTES - 1_000))
}

#[test]
fn the_largest_messages_of_200_sessions_that_never_read() {
    attack("the largest messages of 200 sessions", |attack| {
        // Each subscribes to all that the others push, and reads nothing.
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
fn messages_that_stall_in_the_lane_of_small_ones() {
    attack("66 stalled messages of 87 kB, 18 of 4 MiB", |attack| {
        let mut sessions: Vec<_> = (0..84).map(|_| native(attack.port)).collect();
        for (number, session) in sessions.iter_mut().enumerate() {
            let bytes = if number < 66 { 87_000 } else { limits::MESSAGE_BYTES as u64 };
            begin_message(session, bytes, 1_000);
        }
        attack.hold();
    });
}
