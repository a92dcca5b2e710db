//! What both ends need for ephemeral messages: the names of senders, and what was heard before.
//!
//! An ephemeral message is bytes about a document, for whoever follows it now. It is never stored,
//! and may be lost. What its bytes mean is the applications' business.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use crate::ids::ReplicaId;

/// What the senders' names of Landfall's own replicas begin with.
pub const SENDER_PREFIX: &str = "landfall-";

/// The name under which a replica's ephemeral messages travel. A relay writes it, whatever the
/// replica wrote.
pub fn sender_of(replica: &ReplicaId) -> String {
    let hex = replica.as_bytes().iter().map(|byte| format!("{byte:02x}"));
    std::iter::once(SENDER_PREFIX.to_owned()).chain(hex).collect()
}

/// Whether a name is one that [`sender_of`] gives: nobody else may take it.
pub fn is_replica(name: &str) -> bool {
    name.strip_prefix(SENDER_PREFIX)
        .is_some_and(|hex| hex.len() == 32 && hex.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// A sender's name and one run of it, as a hash: names are long, and whoever sends chooses them.
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

/// The last count of each sender's session, so that a repeated message is known as one. The one that
/// was silent longest is forgotten first.
#[derive(Debug, Default)]
pub struct Sources {
    last: BTreeMap<Source, Heard>,
    /// By when they were heard, the longest ago first.
    order: BTreeMap<u64, Source>,
    clock: u64,
}

#[derive(Debug)]
struct Heard {
    count: u64,
    at: u64,
}

impl Sources {
    /// Whether a message's count is larger than any that its session is known to have had. If it
    /// is, it is remembered, of so many sessions at `most`.
    pub fn grows(&mut self, sender: &str, session: &str, count: u64, most: usize) -> bool {
        let source = source(sender, session);
        if self.last.get(&source).is_some_and(|heard| heard.count >= count) {
            return false;
        }
        self.clock += 1;
        let at = self.clock;
        self.order.insert(at, source);
        if let Some(before) = self.last.insert(source, Heard { count, at }) {
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
    fn so_many_are_remembered_and_the_longest_silent_is_forgotten() {
        let (mut sources, most) = (Sources::default(), 100);
        for n in 0..most {
            assert!(sources.grows(&n.to_string(), "", 1, most));
        }
        // The first is heard again: the second is the longest silent now.
        assert!(sources.grows("0", "", 2, most));
        assert!(sources.grows("one more", "", 1, most));
        assert_eq!((sources.last.len(), sources.order.len()), (most, most));
        assert!(!sources.grows("0", "", 2, most));
        assert!(!sources.grows("2", "", 1, most));
        assert!(sources.grows("1", "", 1, most), "it was not forgotten");
        // Fewer are remembered from now on.
        assert!(sources.grows("1", "", 2, 2));
        assert_eq!((sources.last.len(), sources.order.len()), (2, 2));
    }
}
