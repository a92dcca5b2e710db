//! Ephemeral messages, the part shared by both ends: the names of senders, and duplicate detection.
//!
//! An ephemeral message is bytes about a document, for its current followers. It is never stored,
//! and may be lost. Only applications interpret its bytes.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use crate::ids::ReplicaId;

/// The prefix of the sender names of Landfall's own replicas.
pub const SENDER_PREFIX: &str = "landfall-";

/// The sender name of a replica's ephemeral messages. A relay sets it, and ignores the name that
/// the replica sent.
pub fn sender_of(replica: &ReplicaId) -> String {
    SENDER_PREFIX.to_owned() + &hex::encode(replica.as_bytes())
}

/// Whether [`sender_of`] produces this name: other clients must not use it.
pub fn is_replica(name: &str) -> bool {
    name.strip_prefix(SENDER_PREFIX)
        .is_some_and(|hex| hex.len() == 32 && hex.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// A hash of a sender's name and session: names are long, and the sender chooses them.
type Source = [u8; 16];

fn source(sender: &str, session: &str) -> Source {
    let mut hash = Sha256::new();
    hash.update((sender.len() as u64).to_le_bytes());
    hash.update(sender);
    hash.update(session);
    let mut source = [0; 16];
    source.copy_from_slice(&hash.finalize()[..16]);
    source
}

/// The last count of each sender's session, which identifies repeated messages. The session that
/// was silent longest is forgotten first.
#[derive(Debug, Default)]
pub struct Sources {
    last: BTreeMap<Source, SourceCount>,
    /// Sessions by the time of their last message, the oldest first.
    order: BTreeMap<u64, Source>,
    clock: u64,
}

#[derive(Debug)]
struct SourceCount {
    count: u64,
    at: u64,
}

impl Sources {
    /// Whether a message's count is larger than any known count of its session. If so, it is
    /// remembered, for at most `most` sessions.
    pub fn grows(&mut self, sender: &str, session: &str, count: u64, most: usize) -> bool {
        let source = source(sender, session);
        if self.last.get(&source).is_some_and(|heard| heard.count >= count) {
            return false;
        }
        self.clock += 1;
        let at = self.clock;
        self.order.insert(at, source);
        if let Some(before) = self.last.insert(source, SourceCount { count, at }) {
            self.order.remove(&before.at);
        }
        while self.last.len() > most {
            let Some((_, silent)) = self.order.pop_first() else { break };
            self.last.remove(&silent);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replicas_name_is_its_id_in_hex() {
        let replica = ReplicaId::from_bytes([0x0a; 16]);
        assert_eq!(sender_of(&replica), format!("landfall-{}", "0a".repeat(16)));
    }

    #[test]
    fn a_count_must_grow_within_its_session() {
        let mut sources = Sources::default();
        let mut grows = |sender, session, count| sources.grows(sender, session, count, 10);
        assert!(grows("ann", "1", 5));
        assert!(!grows("ann", "1", 5));
        assert!(!grows("ann", "1", 4));
        assert!(grows("ann", "2", 1));
        assert!(grows("bob", "1", 1));
        assert!(grows("an", "n1", 1), "where one name ends counts");
        assert!(grows("ann", "1", 6));
    }

    #[test]
    fn senders_are_bounded_and_the_longest_silent_is_evicted() {
        let (mut sources, most) = (Sources::default(), 100);
        for n in 0..most {
            assert!(sources.grows(&n.to_string(), "", 1, most));
        }
        // A message of the first one makes the second one the longest silent.
        assert!(sources.grows("0", "", 2, most));
        assert!(sources.grows("one more", "", 1, most));
        assert_eq!((sources.last.len(), sources.order.len()), (most, most));
        assert!(!sources.grows("0", "", 2, most));
        assert!(!sources.grows("2", "", 1, most));
        assert!(sources.grows("1", "", 1, most), "it was not forgotten");
        // Fewer sessions are remembered from now on.
        assert!(sources.grows("1", "", 2, 2));
        assert_eq!((sources.last.len(), sources.order.len()), (2, 2));
    }
}
