//! Queries with expensive answers: digests of very many documents, repeated whole histories, and
//! heads.

use std::ops::Range;
use std::time::{Duration, Instant};

use landfall::automerge::{ActorId, ChangeHash};
use landfall_protocol::digest::{Prefix, tombstone_id};
use landfall_protocol::frame::{DigestQuery, Fetch, Frame, Push, PushEntry, Want, entry_kind};
use landfall_protocol::{DocumentId, limits};
use landfall_tests::raw::{Typist, change_of};

use crate::arena::{HANG, attack};
use crate::attacker::{
    acknowledged, honest_reader, numbered, reader, repo, say, subscribed, until_alive,
};

/// The document with this number in one bucket of the digests.
fn of_bucket(number: u64) -> DocumentId {
    let mut id = [0xdd; 16];
    id[8..].copy_from_slice(&number.to_be_bytes());
    DocumentId::from_bytes(id)
}

/// Deletes 50,000 documents of a bucket; returns the query for a digest of them.
fn deleted(port: u16) -> Frame {
    let mut author = reader(port, "deleted");
    let deletion = |id| {
        let document = of_bucket(id);
        let (subscription, flags, body) = (1, 0, vec![].into());
        let (kind, entry) = (entry_kind::TOMBSTONE, tombstone_id(&document));
        Frame::PushEntry(PushEntry { id, subscription, document, kind, flags, entry, body })
    };
    let all: Vec<Frame> = (1..=50_000).map(deletion).collect();
    for some in all.chunks(limits::PUSHES_IN_FLIGHT) {
        assert!(say(&mut author, some));
        acknowledged(&mut author, some.len());
    }
    let bucket = Prefix::ROOT.child(0xd).child(0xd);
    let prefixes = vec![bucket; limits::BRANCHES.min(8)];
    Frame::Digest(DigestQuery { subscription: 1, prefixes })
}

#[test]
fn digests_over_very_many_deleted_documents() {
    attack("digests over 50,000 tombstones", |attack| {
        let question = deleted(attack.port);
        let mut sessions: Vec<_> = (0..10).map(|_| subscribed(attack.port, "deleted")).collect();
        while attack.goes_on() {
            for session in &mut sessions {
                if !say(session, std::slice::from_ref(&question)) {
                    *session = subscribed(attack.port, "deleted");
                }
            }
        }
    });
}

/// Each session has as many queries as allowed, while an honest client requests one document.
#[test]
fn digests_over_very_many_deleted_documents_from_many_sessions() {
    attack("digests over 50,000 tombstones from each of 400 sessions", |attack| {
        let questions = vec![deleted(attack.port); limits::QUERIES];
        let mut honest = honest_reader(attack.port, "default");
        let mut sessions: Vec<_> = (0..400).map(|_| subscribed(attack.port, "deleted")).collect();
        for session in &mut sessions {
            say(session, &questions);
        }
        let wants = vec![Want { document: DocumentId::from_bytes([7; 16]), have: vec![] }];
        let began = Instant::now();
        say(&mut honest, &[Frame::Fetch(Fetch { subscription: 1, wants })]);
        until_alive(&mut honest, |frame| matches!(frame, Frame::Document(_)));
        let took = began.elapsed();
        println!("a fetch of one document took {took:?}");
        assert!(took < HANG, "a fetch of one document took {took:?}");
        attack.hold();
    });
}

#[test]
fn repeated_requests_for_a_long_history() {
    attack("questions for a history of 20,000 changes", |attack| {
        let document = DocumentId::from_bytes([0x1a; 16]);
        let mut typist = Typist::new(ActorId::from([0x1a; 16]));
        let mut author = reader(attack.port, "default");
        for id in 1..=20 {
            let changes = (0..1_000).map(|_| typist.type_one().into()).collect();
            say(&mut author, &[Frame::Push(Push { id, subscription: 1, document, changes })]);
            acknowledged(&mut author, 1);
        }
        let fetch = Frame::Fetch(Fetch {
            subscription: 1,
            wants: vec![Want { document, have: vec![] }; 64],
        });
        let mut natives: Vec<_> = (0..10).map(|_| subscribed(attack.port, "default")).collect();
        let joined = |number: usize| repo(attack.port, &format!("asks {number}"));
        let mut others: Vec<_> = (0..10).map(joined).collect();
        while attack.goes_on() {
            for session in &mut natives {
                if !say(session, std::slice::from_ref(&fetch)) {
                    *session = subscribed(attack.port, "default");
                }
            }
            for (number, session) in others.iter_mut().enumerate() {
                if !session.ask(document, vec![], vec![]) {
                    *session = joined(number);
                }
            }
        }
    });
}

#[test]
fn heads_of_very_many_unknown_documents() {
    attack("4 MiB of heads from each of 100 automerge-repo peers", |attack| {
        let sends = |number: u8| {
            let hash = |n: u32| {
                let mut hash = [number; 32];
                hash[..4].copy_from_slice(&n.to_be_bytes());
                ChangeHash(hash)
            };
            let hashes = |range: Range<u32>| range.map(hash).collect::<Vec<_>>();
            let sender = format!("heads {number}");
            let mut session = repo(attack.port, &sender);
            for n in 0..64_u64 {
                let mut document = [number; 16];
                document[8..].copy_from_slice(&n.to_be_bytes());
                let document = DocumentId::from_bytes(document);
                let (heads, need) = (hashes(0..1_000), hashes(1_000..2_000));
                if !session.ask(document, heads, need) {
                    break;
                }
            }
            session
        };
        let sessions: Vec<_> = (0..100).map(sends).collect();
        attack.hold();
        drop(sessions);
    });
}

/// How long an attacker waits for a socket that accepts no bytes of a large message.
const IMPATIENT: Duration = Duration::from_millis(500);

/// Queries wait behind the answer to the first one, which their session does not read.
#[test]
fn queued_fetches_of_very_many_hashes() {
    attack("4 fetches of 66,560 hashes from each of 100 sessions that do not read", |attack| {
        let mut author = reader(attack.port, "fetches");
        for id in 1..=10_u64 {
            let text = "x".repeat(limits::CHANGE_BYTES - 1_000);
            let changes = vec![change_of(ActorId::from([id as u8; 16]), 1, &text).into()];
            let document = numbered(0xfe, id);
            say(&mut author, &[Frame::Push(Push { id, subscription: 1, document, changes })]);
            acknowledged(&mut author, 1);
        }
        drop(author);
        let wants = (1..=10).map(|id| Want { document: numbered(0xfe, id), have: vec![] });
        let first = Frame::Fetch(Fetch { subscription: 1, wants: wants.collect() });
        let have = (0..limits::FETCH_HASHES as u64).map(|n| {
            let mut hash = [0xfe; 32];
            hash[..8].copy_from_slice(&n.to_be_bytes());
            hash
        });
        let wants = vec![Want { document: numbered(0, 0), have: have.collect() }];
        let long = Frame::Fetch(Fetch { subscription: 1, wants });
        let mut sessions: Vec<_> = (0..100).map(|_| subscribed(attack.port, "fetches")).collect();
        for session in &mut sessions {
            assert!(say(session, std::slice::from_ref(&first)));
            // The relay does not read messages for which it has no memory.
            session.get_ref().set_write_timeout(Some(IMPATIENT)).expect("a timeout");
            for _ in 1..limits::QUERIES {
                let _ = say(session, std::slice::from_ref(&long));
            }
        }
        attack.hold();
    });
}
