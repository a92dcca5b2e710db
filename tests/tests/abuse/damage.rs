//! A relay's file with flipped bits.

use std::path::Path;

use landfall::automerge::ActorId;
use landfall_protocol::DocumentId;
use landfall_protocol::frame::{Frame, Push};
use landfall_tests::http::get;
use landfall_tests::process::Relay;
use landfall_tests::raw::change_of;

use crate::arena::attack_on;
use crate::attacker::{acknowledged, drain, reader, say, subscribed};

/// Flips a bit in each copy of these changes in a file; returns the number of copies.
fn flip(file: &Path, changes: &[Vec<u8>]) -> usize {
    let mut all = std::fs::read(file).expect("the relay's file");
    let mut flipped = 0;
    for change in changes {
        // The change without its header, which is not stored.
        let content = &change[20..];
        let places: Vec<usize> =
            (0..all.len() - content.len()).filter(|at| all[*at..].starts_with(content)).collect();
        places.iter().for_each(|at| all[at + content.len() / 2] ^= 1);
        flipped += places.len();
    }
    std::fs::write(file, all).expect("the relay's file");
    flipped
}

/// Makes a relay's store with 50 documents of one change; every other one is damaged.
fn damaged_store(data: &Path) {
    let relay = Relay::start(data, 0);
    let mut author = reader(relay.port, "damaged");
    let changes: Vec<Vec<u8>> =
        (0..50_u8).map(|n| change_of(ActorId::from([n; 16]), 1, &format!("{n} {n}"))).collect();
    for (number, change) in (0..).zip(&changes) {
        let document = DocumentId::from_bytes([number; 16]);
        let (id, changes) = (u64::from(number) + 1, vec![change.clone().into()]);
        say(&mut author, &[Frame::Push(Push { id, subscription: 1, document, changes })]);
    }
    acknowledged(&mut author, changes.len());
    drop(author);
    assert!(relay.terminate().success());
    let damaged: Vec<_> = changes.into_iter().step_by(2).collect();
    let flipped = flip(&data.join("relay.db"), &damaged);
    assert!(flipped >= damaged.len(), "{flipped} flippable places were found");
}

#[test]
fn damaged_entries_read_by_many_sessions() {
    attack_on("damaged entries that 20 sessions read", damaged_store, |attack| {
        let read = || subscribed(attack.port, "damaged");
        let mut sessions: Vec<_> = (0..20).map(|_| read()).collect();
        while attack.goes_on() {
            for session in &mut sessions {
                drain(session);
                *session = read();
            }
        }
        let (status, said) = get(attack.port, "/readyz");
        assert!(status == 503 && said.contains("damaged"), "{status} {said}");
    });
}
