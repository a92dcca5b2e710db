//! Few bytes that ask for much work.

use landfall::automerge::ActorId;
use landfall_protocol::DocumentId;
use landfall_protocol::frame::{Frame, Push, PushEntry, entry_kind};
use landfall_tests::raw::dense_change;

use crate::arena::attack;
use crate::attacker::{say, subscribed};

/// A change of a million operations in a hundred bytes.
fn bomb() -> Vec<u8> {
    dense_change(&ActorId::from([0xb0; 16]), (1, 1), &[], 1_000_000)
}

/// Two sessions that push it again and again.
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
    bombard("pushes of 1,000,000 operations", |id, change| {
        let (subscription, changes) = (1, vec![change.into()]);
        Frame::Push(Push { id, subscription, document: DOCUMENT, changes })
    });
}

#[test]
fn entries_of_a_million_operations() {
    bombard("entries of 1,000,000 operations", |id, change| {
        let (subscription, flags, kind) = (1, 0, entry_kind::CHANGE);
        let (document, entry, body) = (DOCUMENT, [0; 32], change.into());
        Frame::PushEntry(PushEntry { id, subscription, document, kind, flags, entry, body })
    });
}
