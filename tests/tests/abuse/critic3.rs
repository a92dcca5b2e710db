//! What a hostile reviewer found. Each test is one fault.

use std::time::{Duration, Instant};

use landfall::automerge::transaction::Transactable;
use landfall::automerge::{ActorId, AutoCommit, ROOT};
use landfall_protocol::frame::{Fetch, Frame, Push, PushSnapshot, Want};
use landfall_protocol::{DocumentId, limits};
use landfall_tests::raw::change_of;
use landfall_tests::rng::Rng;

use crate::arena::attack;
use crate::attacker::{
    acknowledged, begin_message, honest_reader, reader, repo, say, subscribed, until,
};

fn numbered(kind: u8, number: u64) -> DocumentId {
    let mut id = [kind; 16];
    id[..8].copy_from_slice(&number.to_be_bytes());
    DocumentId::from_bytes(id)
}

fn patient(socket: &tokio_tungstenite::tungstenite::WebSocket<std::net::TcpStream>) {
    socket.get_ref().set_write_timeout(Some(Duration::from_secs(20))).expect("a timeout");
}

/// An offer's heads are kept until its parts came, beside the memory that it has reserved: one byte.
#[test]
fn critic_offers_of_one_byte_with_very_many_heads() {
    attack("3 offers of a byte and 65,536 heads from each of 100 sessions", |attack| {
        let offer = |id: u64| {
            let heads = (0..limits::DOCUMENT_HEADS as u64).map(|n| {
                let mut hash = [id as u8; 32];
                hash[..8].copy_from_slice(&n.to_be_bytes());
                hash
            });
            let (subscription, document) = (1, numbered(0x0f, id));
            let (hash, total, heads) = ([id as u8; 32], 1, heads.collect());
            Frame::PushSnapshot(PushSnapshot { id, subscription, document, hash, total, heads })
        };
        let most = (limits::SESSION_OFFERED_HEADS / limits::DOCUMENT_HEADS) as u64;
        let offers: Vec<Frame> = (1..=most).map(offer).collect();
        let mut sessions: Vec<_> = (0..100).map(|_| subscribed(attack.port, "heads")).collect();
        for session in &mut sessions {
            patient(session);
            for offer in &offers {
                assert!(say(session, std::slice::from_ref(offer)));
            }
        }
        attack.hold();
    });
}

/// Questions wait for the answer to the first, which its session does not read; without any memory.
#[test]
fn critic_fetches_of_very_many_hashes_that_wait() {
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
            patient(session);
            assert!(say(session, std::slice::from_ref(&first)));
            for _ in 1..limits::QUERIES {
                assert!(say(session, std::slice::from_ref(&long)));
            }
        }
        attack.hold();
    });
}

/// A session that does not read takes up news of its open documents all the same, whenever a deadline of its
/// own has come; each time they are made into a message that waits in memory.
#[test]
fn critic_automerge_repo_peers_that_do_not_read_what_others_type() {
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
            docs[at].get_last_local_change().expect("just made").raw_bytes().to_vec()
        };
        let mut author = reader(attack.port, "default");
        patient(&author);
        let mut id = 0;
        // All of them get so many changes of 90 kB more.
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

/// Two sessions offer the same hash: the first with a total of one byte, the second with 64 MiB, into the
/// memory of the first.
#[test]
fn critic_offers_of_one_hash_with_two_lengths() {
    attack("8 offers of 60 MiB with memory for a byte", |attack| {
        let offer = |id: u64, total: u64| {
            let (subscription, document, hash) = (1, numbered(0x0e, id), [id as u8; 32]);
            let heads = vec![];
            Frame::PushSnapshot(PushSnapshot { id, subscription, document, hash, total, heads })
        };
        let wanted = |frame: &Frame| matches!(frame, Frame::Wanted(_));
        let (mut first, mut second) = (reader(attack.port, "two"), reader(attack.port, "two"));
        patient(&second);
        for id in 1..=8 {
            say(&mut first, &[offer(id, 1)]);
            until(&mut first, wanted);
            say(&mut second, &[offer(id, 64 << 20)]);
            until(&mut second, wanted);
            let mut from = 0_u64;
            while from < 60 << 20 {
                let (subscription, document, hash) = (1, numbered(0x0e, id), [id as u8; 32]);
                let bytes = vec![7; limits::PART_BYTES];
                let (total, next) = (64 << 20, from + bytes.len() as u64);
                let bytes = bytes.into();
                let part = landfall_protocol::frame::Part {
                    subscription,
                    document,
                    hash,
                    total,
                    from,
                    bytes,
                };
                say(&mut second, &[Frame::Part(part)]);
                until(&mut second, wanted);
                from = next;
            }
        }
        attack.hold();
    });
}

/// Of each space the last counts of 4,096 senders' sessions are remembered, under names that they choose.
#[test]
fn critic_ephemeral_messages_under_very_many_names() {
    attack("8,192 names of sessions from each of 120 sessions", |attack| {
        let names = |subscription: u32| {
            (1..=limits::EPHEMERAL_SOURCES).map(move |number| {
                let (sender, session) = (String::new(), format!("{number:0>256}"));
                let (document, data) = (numbered(0xe0, 1), vec![].into());
                let count = number as u64;
                Frame::Ephemeral(landfall_protocol::frame::Ephemeral {
                    subscription,
                    document,
                    sender,
                    session,
                    count,
                    data,
                })
            })
        };
        let said: Vec<Vec<Frame>> = (1..=2).map(|number| names(number).collect()).collect();
        let mut sessions = Vec::new();
        for number in 0..120 {
            let mut session = reader(attack.port, &format!("names-{number}"));
            patient(&session);
            let filter = landfall_protocol::frame::Filter::Everything;
            let more = crate::attacker::subscribe(2, &format!("more-{number}"), filter);
            say(&mut session, &[more]);
            until(&mut session, |frame| matches!(frame, Frame::Subscribed(_)));
            for some in &said {
                assert!(say(&mut session, some));
            }
            sessions.push(session);
        }
        attack.hold();
    });
}

/// Honest engines heal a wiped relay: three documents of 60 MiB at once. What a child makes of an upload is
/// in memory beside it, in no budget.
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
