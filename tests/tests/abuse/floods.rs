//! Messages of very many frames, and pings from sessions that do not read the pongs.

use landfall_protocol::digest::Prefix;
use landfall_protocol::frame::{DigestQuery, Frame, PushEntry, entry_kind};
use landfall_protocol::{DocumentId, digest::tombstone_id};

use crate::arena::attack;
use crate::attacker::{native, pings, repo, say, subscribed};

/// Sessions of each attack.
const SESSIONS: usize = 20;

/// As many frames as fit into one message.
fn full(frame: impl Fn(u64) -> Frame) -> Vec<Frame> {
    let each = landfall_protocol::frame::encode(&frame(1)).len();
    let count = landfall_protocol::limits::MESSAGE_BYTES / each;
    (1..=count as u64).map(frame).collect()
}

fn flood(name: &str, frame: impl Fn(u64) -> Frame) {
    attack(name, |attack| {
        let frames = full(frame);
        let mut sessions: Vec<_> =
            (0..SESSIONS).map(|_| subscribed(attack.port, "floods")).collect();
        while attack.goes_on() {
            for session in &mut sessions {
                if attack.goes_on() && !say(session, &frames) {
                    *session = subscribed(attack.port, "floods");
                }
            }
        }
    });
}

#[test]
fn a_message_of_pings() {
    flood("messages of 4 MiB of pings", Frame::Ping);
}

#[test]
fn a_message_of_questions() {
    flood("messages of 4 MiB of digests", |_| {
        let prefixes = vec![Prefix::ROOT; 8];
        Frame::Digest(DigestQuery { subscription: 1, prefixes })
    });
}

#[test]
fn a_message_of_deletions() {
    flood("messages of 4 MiB of deletions", |id| {
        let mut document = [0xdd; 16];
        document[..8].copy_from_slice(&(id % 100).to_be_bytes());
        let document = DocumentId::from_bytes(document);
        let (subscription, flags, body) = (1, 0, vec![].into());
        let (kind, entry) = (entry_kind::TOMBSTONE, tombstone_id(&document));
        Frame::PushEntry(PushEntry { id, subscription, document, kind, flags, entry, body })
    });
}

#[test]
fn websocket_pings_with_unread_pongs() {
    attack("WebSocket pings, unread", |attack| {
        let mut sessions: Vec<_> = (0..SESSIONS).map(|_| native(attack.port)).collect();
        let peers = (0..SESSIONS).map(|n| repo(attack.port, &format!("pings {n}")).socket);
        sessions.extend(peers);
        while attack.goes_on() {
            for session in &mut sessions {
                // Where the relay stops reading, part of a frame remains unsent. The next round
                // continues it.
                let _ = pings(session, 10_000);
            }
        }
    });
}
