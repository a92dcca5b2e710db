//! Snapshot uploads that never complete, or that come in large numbers.

use std::net::TcpStream;
use std::time::Instant;

use landfall::automerge::transaction::Transactable;
use landfall::automerge::{ActorId, AutoCommit, ObjType, ROOT};
use landfall_protocol::frame::{Frame, Part, Push, PushSnapshot};
use landfall_protocol::{DocumentId, limits};
use landfall_test_rng::Rng;
use landfall_tests::raw::Typist;
use tokio_tungstenite::tungstenite::WebSocket;

use crate::arena::{HANG, attack};
use crate::attacker::{
    honest_reader, numbered, patient, reader, say, subscribed, until, until_alive,
};

fn push_snapshot(id: u64, document: [u8; 16], total: u64) -> Frame {
    let (subscription, hash, heads) = (1, [id as u8; 32], vec![]);
    let document = DocumentId::from_bytes(document);
    Frame::PushSnapshot(PushSnapshot { id, subscription, document, hash, total, heads })
}

fn document(number: u64) -> [u8; 16] {
    let mut id = [0xab; 16];
    id[..8].copy_from_slice(&number.to_be_bytes());
    id
}

#[test]
fn uploads_without_parts_do_not_keep_a_session_alive() {
    attack("64 snapshot uploads and a close, 300 times", |attack| {
        let offers: Vec<Frame> = (1..=limits::PUSHES_IN_FLIGHT as u64)
            .map(|id| push_snapshot(id, document(id), 1 << 20))
            .collect();
        for _ in 0..300 {
            let mut session = subscribed(attack.port, "offers");
            say(&mut session, &offers);
            // The attacker's end is closed; the relay must notice.
        }
        attack.hold();
    });
}

#[test]
fn very_many_uploads_in_one_message_take_linear_time() {
    attack("47,000 snapshot uploads in one message", |attack| {
        let offers: Vec<Frame> =
            (1..=47_000).map(|id| push_snapshot(id, document(id), 1)).collect();
        while attack.goes_on() {
            let mut session = subscribed(attack.port, "offers");
            let mut sent = 0;
            // As many as fit into one message, and then the others.
            for some in offers.chunks(40_000) {
                sent += usize::from(say(&mut session, some));
            }
            let _ = sent;
        }
    });
}

/// A snapshot of `changes` changes, each with so many incompressible bytes.
pub(crate) fn compacted(seed: u64, changes: u64, bytes: usize) -> (Vec<u8>, Vec<[u8; 32]>) {
    let mut doc = AutoCommit::new().with_actor(ActorId::from(document(seed)));
    let mut rng = Rng::new(seed);
    for number in 1..=changes {
        let noise: Vec<u8> = (0..bytes).map(|_| rng.next_u64() as u8).collect();
        doc.put(ROOT, format!("noise {number}"), noise).expect("bytes");
        doc.commit();
    }
    let heads = doc.get_heads().iter().map(|hash| hash.0).collect();
    (doc.save(), heads)
}

/// Begins a snapshot upload; returns the relay's first answer.
fn offered(
    session: &mut WebSocket<TcpStream>,
    id: u64,
    document: DocumentId,
    (snapshot, heads): &(Vec<u8>, Vec<[u8; 32]>),
) -> Frame {
    let (subscription, total, heads) = (1, snapshot.len() as u64, heads.clone());
    let hash = landfall_compaction::hash_of(snapshot);
    let upload = PushSnapshot { id, subscription, document, hash, total, heads };
    say(session, &[Frame::PushSnapshot(upload)]);
    until(session, is_of_upload)
}

/// One part of a snapshot.
fn part(document: DocumentId, snapshot: &[u8], from: usize, length: usize) -> Frame {
    let bytes = snapshot[from..snapshot.len().min(from + length)].to_vec().into();
    let (subscription, hash) = (1, landfall_compaction::hash_of(snapshot));
    let (total, from) = (snapshot.len() as u64, from as u64);
    Frame::Part(Part { subscription, document, hash, total, from, bytes })
}

#[test]
fn consecutive_uploads_from_one_peer() {
    attack("histories of 300 changes uploaded in a row", |attack| {
        for number in 1.. {
            if !attack.goes_on() {
                return;
            }
            let mut session = reader(attack.port, "row");
            let document = DocumentId::from_bytes(document(number));
            upload(&mut session, document, &compacted(number, 300, 1), || ());
        }
    });
}

/// Uploads a snapshot, and retries while the relay has no room. Calls a function after each answer.
pub(crate) fn upload(
    session: &mut WebSocket<TcpStream>,
    document: DocumentId,
    history: &(Vec<u8>, Vec<[u8; 32]>),
    mut meanwhile: impl FnMut(),
) {
    let mut offers = 1..;
    let mut upload_next = |session: &mut _| {
        let id = offers.next().unwrap_or_default();
        offered(session, id, document, history)
    };
    let (mut answer, mut sent) = (upload_next(session), 0);
    loop {
        meanwhile();
        answer = match answer {
            Frame::UploadFrom(wanted) => {
                sent = sent.max(wanted.from as usize);
                while sent < wanted.up_to as usize {
                    say(session, &[part(document, &history.0, sent, limits::PART_BYTES)]);
                    sent += limits::PART_BYTES;
                }
                until(session, is_of_upload)
            }
            Frame::Nack(nack) => {
                assert!(nack.retry_after_ms > 0, "the relay refused an honest upload: {nack:?}");
                sent = 0;
                upload_next(session)
            }
            _ => return,
        };
    }
}

fn is_of_upload(frame: &Frame) -> bool {
    matches!(frame, Frame::UploadFrom(_) | Frame::Ack(_) | Frame::Nack(_))
}

#[test]
fn uploads_that_trickle_beside_an_honest_one() {
    attack("6 slow uploads of 60 MiB", |attack| {
        let mut slow: Vec<_> = (0..6).map(|_| reader(attack.port, "trickle")).collect();
        for (number, session) in (0..).zip(&mut slow) {
            say(session, &[push_snapshot(1, document(number), 60 << 20)]);
        }
        let history = compacted(99, 10, 2 << 20);
        let mut session = honest_reader(attack.port, "honest");
        let mut from = 0;
        upload(&mut session, DocumentId::from_bytes([0x99; 16]), &history, || {
            for (number, session) in (0..).zip(&mut slow) {
                let (subscription, hash, total, bytes) = (1, [1; 32], 60 << 20, vec![0; 1_000]);
                let (document, bytes) = (DocumentId::from_bytes(document(number)), bytes.into());
                let part = Part { subscription, document, hash, total, from, bytes };
                say(session, &[Frame::Part(part)]);
            }
            from += 1_000;
        });
        attack.hold();
    });
}

/// A snapshot of some hundred bytes with so many operations.
fn heavy(operations: usize) -> (Vec<u8>, Vec<[u8; 32]>) {
    let mut doc = AutoCommit::new().with_actor(ActorId::from([0x40; 16]));
    let text = doc.put_object(ROOT, "t", ObjType::Text).expect("a text");
    doc.commit();
    doc.splice_text(&text, 0, 0, &"x".repeat(operations)).expect("letters");
    doc.commit();
    let heads = doc.get_heads().iter().map(|hash| hash.0).collect();
    (doc.save(), heads)
}

/// An honest upload waits only for the one that is running.
#[test]
fn heavy_uploads_from_many_sessions() {
    attack("heavy uploads from each of 40 sessions", |attack| {
        let heavy = heavy(1_000_000);
        let mut sessions: Vec<_> = (0..40).map(|_| reader(attack.port, "heavy")).collect();
        for (number, session) in (1..).zip(&mut sessions) {
            let document = DocumentId::from_bytes(document(number));
            assert!(matches!(offered(session, 1, document, &heavy), Frame::UploadFrom(_)));
            say(session, &[part(document, &heavy.0, 0, limits::PART_BYTES)]);
        }
        let mut honest = honest_reader(attack.port, "honest");
        let (history, document) = (compacted(77, 300, 1), DocumentId::from_bytes([0x41; 16]));
        let began = Instant::now();
        assert!(matches!(offered(&mut honest, 1, document, &history), Frame::UploadFrom(_)));
        say(&mut honest, &[part(document, &history.0, 0, limits::PART_BYTES)]);
        until_alive(&mut honest, |frame| matches!(frame, Frame::Ack(_)));
        let took = began.elapsed();
        println!("an honest upload of 300 changes took {took:?}");
        assert!(took < HANG, "an honest upload of 300 changes took {took:?}");
        attack.hold();
    });
}

/// An honest client's change to the same document waits only for the upload that is running.
#[test]
fn heavy_uploads_of_a_document_under_edit() {
    attack("heavy uploads of one document from each of 40 sessions", |attack| {
        let (heavy, document) = (heavy(200_000), DocumentId::from_bytes([0x42; 16]));
        let mut typist = Typist::new(ActorId::from([0x43; 16]));
        let mut honest = honest_reader(attack.port, "shared");
        let mut type_one = |id: u64| {
            let (subscription, changes) = (1, vec![typist.type_one().into()]);
            say(&mut honest, &[Frame::Push(Push { id, subscription, document, changes })]);
            let began = Instant::now();
            let answer = until_alive(&mut honest, |f| matches!(f, Frame::Ack(_) | Frame::Nack(_)));
            assert!(
                matches!(answer, Frame::Ack(_)),
                "the relay answered an honest push with {answer:?}"
            );
            began.elapsed()
        };
        type_one(1);
        let mut sessions: Vec<_> = (0..40).map(|_| reader(attack.port, "shared")).collect();
        for session in &mut sessions {
            assert!(matches!(offered(session, 1, document, &heavy), Frame::UploadFrom(_)));
            say(session, &[part(document, &heavy.0, 0, limits::PART_BYTES)]);
        }
        let took = type_one(2);
        println!("a change took {took:?}");
        assert!(took < HANG, "a change took {took:?}");
        attack.hold();
    });
}

/// An upload's heads are kept until its parts have arrived, beside the memory reserved for it: one
/// byte.
#[test]
fn snapshot_uploads_of_one_byte_with_very_many_heads() {
    attack("3 snapshot uploads of a byte and 65,536 heads from each of 100 sessions", |attack| {
        let upload = |id: u64| {
            let heads = (0..limits::DOCUMENT_HEADS as u64).map(|n| {
                let mut hash = [id as u8; 32];
                hash[..8].copy_from_slice(&n.to_be_bytes());
                hash
            });
            let (subscription, document) = (1, numbered(0x0f, id));
            let (hash, total, heads) = ([id as u8; 32], 1, heads.collect());
            Frame::PushSnapshot(PushSnapshot { id, subscription, document, hash, total, heads })
        };
        let most = (limits::SESSION_UPLOAD_HEADS / limits::DOCUMENT_HEADS) as u64;
        let offers: Vec<Frame> = (1..=most).map(upload).collect();
        let mut sessions: Vec<_> = (0..100).map(|_| subscribed(attack.port, "heads")).collect();
        for session in &mut sessions {
            patient(session);
            for upload in &offers {
                // The relay ends the session with the most memory.
                let _ = say(session, std::slice::from_ref(upload));
            }
        }
        attack.hold();
    });
}

/// Two sessions upload the same hash: the first states a total of one byte, the second 40 MiB. The
/// first one's reservation is of one byte.
#[test]
fn snapshot_uploads_of_one_hash_with_two_lengths() {
    attack("8 snapshot uploads of 36 MiB with memory for a byte", |attack| {
        let upload = |id: u64, total: u64| {
            let (subscription, document, hash) = (1, numbered(0x0e, id), [id as u8; 32]);
            let heads = vec![];
            Frame::PushSnapshot(PushSnapshot { id, subscription, document, hash, total, heads })
        };
        let wanted = |frame: &Frame| matches!(frame, Frame::UploadFrom(_));
        let (mut first, mut second) = (reader(attack.port, "two"), reader(attack.port, "two"));
        patient(&second);
        for id in 1..=8 {
            say(&mut first, &[upload(id, 1)]);
            until(&mut first, wanted);
            say(&mut second, &[upload(id, 40 << 20)]);
            if matches!(until(&mut second, is_of_upload), Frame::Nack(_)) {
                // Memory is reserved for it, whatever others have begun.
                assert!(id > 1, "there is memory for one");
                return attack.hold();
            }
            let mut from = 0_u64;
            while from < 36 << 20 {
                let (subscription, document, hash) = (1, numbered(0x0e, id), [id as u8; 32]);
                let bytes = vec![7; limits::PART_BYTES];
                let (total, next) = (40 << 20, from + bytes.len() as u64);
                let bytes = bytes.into();
                let part = Part { subscription, document, hash, total, from, bytes };
                say(&mut second, &[Frame::Part(part)]);
                until(&mut second, wanted);
                from = next;
            }
        }
        attack.hold();
    });
}

/// Honest engines repair a wiped relay: three documents of 60 MiB at once. The
/// child process's result is in memory beside the upload.
#[test]
fn three_honest_uploads_of_60_mib() {
    let histories: Vec<_> = (1..=3).map(|seed| compacted(seed, 30, 2 << 20)).collect();
    attack("3 honest uploads of 60 MiB at once", |attack| {
        std::thread::scope(|scope| {
            for (number, history) in (1..).zip(&histories) {
                scope.spawn(move || {
                    let mut session = honest_reader(attack.port, &format!("heals-{number}"));
                    upload(&mut session, numbered(0x60, number), history, || ());
                });
            }
        });
        attack.hold();
    });
}
