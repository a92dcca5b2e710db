//! The rings of all spaces: a cache that gives way to what sessions need, the ring that was written
//! longest ago first.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::Feed;
use crate::memory::Memory;

/// Which rings hold something.
pub(crate) struct Rings {
    memory: Memory,
    turns: Mutex<Turns>,
}

#[derive(Default)]
struct Turns {
    last: u64,
    /// The feeds, by when they were last written.
    feeds: BTreeMap<u64, Weak<Feed>>,
}

impl Rings {
    pub(crate) fn new(memory: Memory) -> Arc<Self> {
        Arc::new(Self { memory, turns: Mutex::default() })
    }

    /// A ring was written, and holds `after` bytes where it held `before`; gives its new turn.
    pub(super) fn written(&self, turn: u64, feed: &Arc<Feed>, before: usize, after: usize) -> u64 {
        let mut turns = self.turns.lock();
        turns.feeds.remove(&turn);
        turns.last += 1;
        let turn = turns.last;
        if after > 0 {
            turns.feeds.insert(turn, Arc::downgrade(feed));
        }
        drop(turns);
        self.memory.set_cached(before, after);
        turn
    }

    /// A ring lost some of what it held.
    pub(super) fn forgot(&self, turn: u64, before: usize, after: usize) {
        if after == 0 {
            self.turns.lock().feeds.remove(&turn);
        }
        self.memory.set_cached(before, after);
    }

    /// Rings give way until they hold no more than they may. To be called with no ring locked.
    pub(crate) fn shrink(&self) {
        while self.memory.cached() > self.memory.cache_room() {
            let Some((_, feed)) = self.turns.lock().feeds.pop_first() else { return };
            // One that is gone has given its memory back.
            if let Some(feed) = feed.upgrade() {
                feed.clear();
            }
        }
    }

    /// Shrinks whenever sessions wait for what rings hold; never ends.
    pub(crate) async fn give_way(&self) {
        loop {
            self.memory.pressed().await;
            self.shrink();
        }
    }
}
