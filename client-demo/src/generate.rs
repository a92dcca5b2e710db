//! Synthetic authors who type like people: mostly forwards, sometimes elsewhere, sometimes deleting; with
//! text that breaks careless code. Deterministic for a seed.

use std::hash::{BuildHasher, Hasher, RandomState};

use landfall::BoxError;
use landfall::automerge::transaction::{Transactable, Transaction};
use landfall::automerge::{ObjId, ReadDoc};

/// The typed pieces: words, joined emoji, combining marks, CJK, right-to-left, both line ends.
const PIECES: &[&str] = &[
    "a",
    "e",
    "t",
    " ",
    " ",
    "the ",
    "and ",
    "note",
    ", ",
    ". ",
    "é",
    "e\u{301}",
    "n\u{303}",
    "ß",
    "漢字",
    "日本語",
    "雨",
    "한국어",
    "שלום",
    "👍",
    "👩‍👩‍👧",
    "🇦🇹",
    "🏳️‍🌈",
    "\u{1d11e}",
    "\n",
    "\r\n",
];

/// A small random number generator (SplitMix64): sufficient for choices, and the same on all platforms.
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`, or 0.
    fn below(&mut self, end: usize) -> usize {
        (self.next() % (end as u64).max(1)) as usize
    }
}

/// A random seed.
pub(crate) fn seed() -> u64 {
    // Short enough for a user to type.
    RandomState::new().build_hasher().finish() % 1_000_000
}

/// A synthetic author.
#[derive(Debug, Clone)]
pub(crate) struct Author {
    random: Random,
    cursor: usize,
}

impl Author {
    pub(crate) fn new(seed: u64, number: u64) -> Self {
        Self { random: Random::new(seed.wrapping_mul(31).wrapping_add(number)), cursor: 0 }
    }

    /// The next edit, in a text that other authors change too.
    pub(crate) fn stroke(
        &mut self,
        tx: &mut Transaction<'_>,
        text: &ObjId,
    ) -> Result<(), BoxError> {
        let length = tx.length(text);
        if self.random.below(12) == 0 {
            self.cursor = self.random.below(length + 1);
        }
        self.cursor = self.cursor.min(length);
        if self.random.below(6) == 0 && self.cursor > 0 {
            let back = 1 + self.random.below(3.min(self.cursor));
            self.cursor -= back;
            tx.splice_text(text, self.cursor, isize::try_from(back)?, "")?;
        } else {
            let piece = PIECES[self.random.below(PIECES.len())];
            tx.splice_text(text, self.cursor, 0, piece)?;
            self.cursor += piece.chars().count();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::note;
    use landfall::{Options, Store};

    fn typed(seed: u64) -> String {
        let store = Store::in_memory(Options::default()).unwrap();
        let space = store.space("default").unwrap();
        let made = space.create(|tx| {
            let body = note::write(tx, "", "", None)?;
            let mut author = Author::new(seed, 0);
            (0..200).try_for_each(|_| author.stroke(tx, &body))
        });
        made.unwrap().0.read(note::read).unwrap().unwrap().body
    }

    #[test]
    fn a_seed_generates_the_same_session() {
        assert_eq!(typed(7), typed(7));
        assert_ne!(typed(7), typed(8));
        assert!(!typed(7).is_ascii());
    }
}
