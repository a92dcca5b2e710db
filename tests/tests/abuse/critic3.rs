//! What a hostile reviewer found. Each test is one fault.

use std::time::{Duration, Instant};

use landfall::automerge::transaction::Transactable;
use landfall::automerge::{ActorId, AutoCommit, ROOT};
use landfall_protocol::frame::{Fetch, Frame, Push, PushSnapshot, Want};
use landfall_protocol::{DocumentId, limits};
use landfall_tests::raw::{change_of, dense_change};
use landfall_tests::rng::Rng;

use crate::arena::attack;
use crate::attacker::{
    acknowledged, begin_message, drain, honest_reader, reader, repo, say, subscribed, until,
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
