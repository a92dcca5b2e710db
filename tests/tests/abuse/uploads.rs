//! Offered snapshots that never come, or come in heaps.

use landfall_protocol::DocumentId;
use landfall_protocol::frame::{Frame, PushSnapshot};
use landfall_protocol::limits;

use crate::arena::attack;
use crate::attacker::{say, subscribed};

fn offer(id: u64, document: [u8; 16], total: u64) -> Frame {
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
fn offers_whose_parts_never_come_do_not_keep_a_session() {
    attack("64 offers and a close, 300 times", |attack| {
        let offers: Vec<Frame> = (1..=limits::PUSHES_IN_FLIGHT as u64)
            .map(|id| offer(id, document(id), 1 << 20))
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
fn very_many_offers_in_one_message_are_no_quadratic_work() {
    attack("47,000 offers in one message", |attack| {
        let offers: Vec<Frame> = (1..=47_000).map(|id| offer(id, document(id), 1)).collect();
        while attack.goes_on() {
            let mut session = subscribed(attack.port, "offers");
            let mut sent = 0;
            // As many as fit into one message, and the next.
            for some in offers.chunks(40_000) {
                sent += usize::from(say(&mut session, some));
            }
            let _ = sent;
        }
    });
}
