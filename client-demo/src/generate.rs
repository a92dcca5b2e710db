//! Synthetic authors who type like people: mostly forwards, sometimes elsewhere, sometimes deleting; with
//! text that breaks careless code. Deterministic for a seed.

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

/// A random seed.
pub(crate) fn seed() -> u64 {
    // Short enough for a user to type.
    fastrand::u64(..1_000_000)
}

/// A synthetic author.
#[derive(Debug, Clone)]
pub(crate) struct Author {
    random: fastrand::Rng,
    cursor: usize,
}

impl Author {
    pub(crate) fn new(seed: u64, number: u64) -> Self {
        let random = fastrand::Rng::with_seed(seed.wrapping_mul(31).wrapping_add(number));
        Self { random, cursor: 0 }
    }

    /// The next edit, in a text that other authors change too.
    pub(crate) fn stroke(
        &mut self,
        tx: &mut Transaction<'_>,
        text: &ObjId,
    ) -> Result<(), BoxError> {
        let length = tx.length(text);
        if self.random.usize(..12) == 0 {
            self.cursor = self.random.usize(..length + 1);
        }
        self.cursor = self.cursor.min(length);
        if self.random.usize(..6) == 0 && self.cursor > 0 {
            let back = 1 + self.random.usize(..3.min(self.cursor));
            self.cursor -= back;
            tx.splice_text(text, self.cursor, isize::try_from(back)?, "")?;
        } else {
            let piece = PIECES[self.random.usize(..PIECES.len())];
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
