//! What a hostile reviewer found. Each test is one fault.

use std::time::{Duration, Instant};

use landfall::automerge::transaction::Transactable;
use landfall::automerge::{ActorId, AutoCommit, ROOT};
use landfall_protocol::frame::{Fetch, Frame, Push, PushSnapshot, Want};
use landfall_protocol::{DocumentId, limits};
use landfall_tests::raw::dense_change;

use crate::arena::attack;
use crate::attacker::{
    acknowledged, drain, honest_reader, numbered, reader, say, subscribed, until,
};

type Session = tokio_tungstenite::tungstenite::WebSocket<std::net::TcpStream>;

/// As `until`, of a client that answers the relay's pings.
fn until_alive(session: &mut Session, wanted: impl Fn(&Frame) -> bool) -> Frame {
    loop {
        match until(session, |frame| matches!(frame, Frame::Ping(_)) || wanted(frame)) {
            Frame::Ping(nonce) => drop(say(session, &[Frame::Pong(nonce)])),
            found => return found,
        }
    }
}

/// Each session has a budget of its own for checks, full when it comes. An honest client pastes a page.
#[test]
fn critic_a_paste_beside_the_bombs_of_many_sessions() {
    attack("2 pushes of 2,000,000 operations from each of 60 sessions", |attack| {
        let bomb = dense_change(&ActorId::from([0xb0; 16]), (1, 1), &[], 1_000_000);
        let push = |id| {
            let changes = vec![bomb.clone().into(); 2];
            let document = DocumentId::from_bytes([0xb0; 16]);
            Frame::Push(Push { id, subscription: 1, document, changes })
        };
        let mut honest = honest_reader(attack.port, "pastes");
        let mut sessions: Vec<_> = (0..60).map(|_| subscribed(attack.port, "bombs")).collect();
        for session in &mut sessions {
            say(session, &[push(1), push(2)]);
        }
        let pasted = dense_change(&ActorId::from([0xaa; 16]), (1, 1), &[], 3_000);
        let (id, subscription, document) = (1, 1, DocumentId::from_bytes([0xaa; 16]));
        let changes = vec![pasted.into()];
        let began = Instant::now();
        say(&mut honest, &[Frame::Push(Push { id, subscription, document, changes })]);
        until(&mut honest, |frame| matches!(frame, Frame::Ack(_)));
        let took = began.elapsed();
        println!("a paste of 3,000 characters took {took:?}");
        assert!(took < Duration::from_secs(5), "a paste of 3,000 characters took {took:?}");
        attack.hold();
        sessions.iter_mut().for_each(|session| {
            drain(session);
        });
    });
}

/// Folded histories of some hundred bytes and two million operations, from many sessions of one address. An
/// honest one is behind one of each.
#[test]
fn critic_an_honest_upload_beside_those_of_many_sessions() {
    attack("heavy uploads from each of 40 sessions", |attack| {
        let mut doc = AutoCommit::new().with_actor(ActorId::from([0x40; 16]));
        let text = doc.put_object(ROOT, "t", landfall::automerge::ObjType::Text).expect("a text");
        doc.commit();
        doc.splice_text(&text, 0, 0, &"x".repeat(1_000_000)).expect("letters");
        doc.commit();
        let heads: Vec<[u8; 32]> = doc.get_heads().iter().map(|hash| hash.0).collect();
        let heavy = doc.save();
        println!("a heavy upload has {} bytes", heavy.len());
        let (hash, total) = (landfall_fold::hash_of(&heavy), heavy.len() as u64);
        let mut sessions: Vec<_> = (0..40).map(|_| reader(attack.port, "heavy")).collect();
        for (number, session) in (1..).zip(&mut sessions) {
            let (id, subscription, document) = (1, 1, numbered(0x40, number));
            let heads = heads.clone();
            let offer = PushSnapshot { id, subscription, document, hash, total, heads };
            let bytes = heavy.clone().into();
            let part = landfall_protocol::frame::Part {
                subscription,
                document,
                hash,
                total,
                from: 0,
                bytes,
            };
            say(session, &[Frame::PushSnapshot(offer)]);
            until(session, |frame| matches!(frame, Frame::Wanted(_)));
            say(session, &[Frame::Part(part)]);
        }
        let mut honest = honest_reader(attack.port, "honest");
        let (history, heads) = crate::uploads::folded(77, 300, 1);
        let (hash, total) = (landfall_fold::hash_of(&history), history.len() as u64);
        let (id, subscription, document) = (1, 1, numbered(0x41, 1));
        let offer = PushSnapshot { id, subscription, document, hash, total, heads };
        let bytes = history.into();
        let part =
            landfall_protocol::frame::Part { subscription, document, hash, total, from: 0, bytes };
        let began = Instant::now();
        say(&mut honest, &[Frame::PushSnapshot(offer)]);
        until_alive(&mut honest, |frame| matches!(frame, Frame::Wanted(_)));
        say(&mut honest, &[Frame::Part(part)]);
        until_alive(&mut honest, |frame| matches!(frame, Frame::Ack(_)));
        let took = began.elapsed();
        println!("an honest upload of 300 changes took {took:?}");
        assert!(took < Duration::from_secs(5), "an honest upload of 300 changes took {took:?}");
        attack.hold();
    });
}

/// The store's two readers are given to whoever asked first, a page at a time: each session of an address has
/// as many turns as an honest one.
#[test]
fn critic_an_honest_read_beside_the_questions_of_many_sessions() {
    attack("digests over 50,000 tombstones from each of 800 sessions", |attack| {
        let mut author = reader(attack.port, "deleted");
        let deletion = |id| {
            let document = numbered(0xdd, 0xdd << 56 | id);
            let (subscription, flags, body) = (1, 0, vec![].into());
            let kind = landfall_protocol::frame::entry_kind::TOMBSTONE;
            let entry = landfall_protocol::digest::tombstone_id(&document);
            Frame::PushEntry(landfall_protocol::frame::PushEntry {
                id,
                subscription,
                document,
                kind,
                flags,
                entry,
                body,
            })
        };
        let all: Vec<Frame> = (1..=50_000).map(deletion).collect();
        for some in all.chunks(limits::PUSHES_IN_FLIGHT) {
            assert!(say(&mut author, some));
            acknowledged(&mut author, some.len());
        }
        let bucket = landfall_protocol::digest::Prefix::ROOT.child(0xd).child(0xd);
        let prefixes = vec![bucket; 8];
        let query = landfall_protocol::frame::DigestQuery { subscription: 1, prefixes };
        let questions = vec![Frame::Digest(query); limits::QUERIES];
        let mut honest = honest_reader(attack.port, "default");
        let mut sessions: Vec<_> = (0..800).map(|_| subscribed(attack.port, "deleted")).collect();
        for session in &mut sessions {
            say(session, &questions);
        }
        let mut worst = Duration::ZERO;
        for _ in 0..1 {
            let wants = vec![Want { document: numbered(0, 7), have: vec![] }];
            let began = Instant::now();
            say(&mut honest, &[Frame::Fetch(Fetch { subscription: 1, wants })]);
            until_alive(&mut honest, |frame| matches!(frame, Frame::Document(_)));
            worst = worst.max(began.elapsed());
        }
        println!("an honest question for one document took {worst:?}");
        assert!(worst < Duration::from_secs(2), "a question for one document took {worst:?}");
        attack.hold();
    });
}

/// Honest engines heal a wiped relay: three documents of 60 MiB at once. What a child makes of an upload is
/// in memory beside it.
#[test]
fn critic_three_honest_uploads_of_60_mib() {
    let histories: Vec<_> = (1..=3).map(|seed| crate::uploads::folded(seed, 30, 2 << 20)).collect();
    attack("3 honest uploads of 60 MiB at once", |attack| {
        std::thread::scope(|scope| {
            for (number, history) in (1..).zip(&histories) {
                scope.spawn(move || {
                    let mut session = honest_reader(attack.port, &format!("heals-{number}"));
                    crate::uploads::upload(&mut session, numbered(0x60, number), history, || ());
                });
            }
        });
        attack.hold();
    });
}
