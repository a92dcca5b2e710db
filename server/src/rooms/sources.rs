//! The last count of each sender's session, so that a repeated ephemeral message is known as one.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::Said;
use crate::limits;

/// A sender's session.
type Source = (String, String);

/// Those that were heard last, so many of them.
#[derive(Default)]
pub(super) struct Sources {
    last: HashMap<Arc<Source>, Heard>,
    /// By when they were heard, the longest ago first.
    order: BTreeMap<u64, Arc<Source>>,
    clock: u64,
}

struct Heard {
    count: u64,
    at: u64,
}

impl Sources {
    /// Whether a message's count is larger than any that its session is known to have had; it is
    /// remembered if it is.
    pub(super) fn grows(&mut self, said: &Said) -> bool {
        let source = (said.sender.clone(), said.session.clone());
        if self.last.get(&source).is_some_and(|heard| heard.count >= said.count) {
            return false;
        }
        self.clock += 1;
        let (source, heard) = (Arc::new(source), Heard { count: said.count, at: self.clock });
        self.order.insert(heard.at, Arc::clone(&source));
        if let Some(before) = self.last.insert(source, heard) {
            self.order.remove(&before.at);
        }
        if self.last.len() > limits::EPHEMERAL_SOURCES
            && let Some((_, oldest)) = self.order.pop_first()
        {
            self.last.remove(&oldest);
        }
        true
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        debug_assert_eq!(self.last.len(), self.order.len());
        self.last.len()
    }
}
