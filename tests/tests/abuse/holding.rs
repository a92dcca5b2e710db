//! Memory that a peer makes the relay hold by saying half of something, or by never reading.

use landfall_protocol::frame::Filter;
use landfall_protocol::{DocumentId, limits};

use crate::arena::attack;
use crate::attacker::{begin_message, native, pong, repo, say, subscribe};

#[test]
fn half_messages_that_are_kept_by_pongs() {
    attack("200 half messages of 4 MiB, 8 of 60 MiB", |attack| {
        let mut sessions: Vec<_> = (0..200).map(|_| native(attack.port)).collect();
        for session in &mut sessions {
            begin_message(session, limits::MESSAGE_BYTES as u64, limits::MESSAGE_BYTES - 1);
        }
        let mut large: Vec<_> = (0..8).map(|n| repo(attack.port, &format!("half {n}"))).collect();
        for session in &mut large {
            begin_message(session, 60 << 20, 50 << 20);
        }
        while attack.goes_on() {
            sessions.iter_mut().chain(&mut large).for_each(|session| {
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
        let ids = (0..limits::SESSION_FILTER_DOCUMENTS as u64).map(|number| {
            let mut id = [0xfe; 16];
            id[..8].copy_from_slice(&number.to_be_bytes());
            DocumentId::from_bytes(id)
        });
        let filter = Filter::Documents(ids.collect());
        let mut sessions: Vec<_> = (0..100).map(|_| native(attack.port)).collect();
        for session in &mut sessions {
            say(session, &[subscribe(1, "filters", filter.clone())]);
        }
        attack.hold();
    });
}
