//! The stateless half of a push: the preflight of every change, bounded as a whole. Knows no
//! history.

use crate::admission::{Roots, Work, preflight_within};
use crate::frame::{Push, PushEntry, entry_flags};
use crate::ids::SessionId;
use crate::limits;
use crate::relay::{Author, CheckedPush, Refusal};

/// A push before its preflight.
#[derive(Debug, Clone)]
pub struct UncheckedPush {
    session: SessionId,
    author: Author,
    push: Push,
    roots: Roots,
}

impl UncheckedPush {
    /// A push of changes of one document.
    pub fn new(session: SessionId, author: Author, push: Push) -> Self {
        Self { session, author, push, roots: Roots::One }
    }

    /// A single change that may begin a second history, as its flag states.
    pub fn of_entry(session: SessionId, author: Author, entry: PushEntry) -> Self {
        let PushEntry { id, subscription, document, flags, body, .. } = entry;
        let push = Push { id, subscription, document, changes: vec![body] };
        let roots = match flags & entry_flags::SECOND_ROOT {
            0 => Roots::One,
            _ => Roots::Several,
        };
        Self { roots, ..Self::new(session, author, push) }
    }

    /// Runs the preflight over the changes, up to the first that fails, or until the work limit of
    /// one push. Pure; takes up to half a second of work, which is counted.
    pub fn check(&self, work: &mut Work) -> CheckedPush {
        // Without a bound there is always a result.
        self.check_up_to(None, work).unwrap_or_else(|| self.none_checked())
    }

    /// As [`Self::check`]; if it takes more than `most` work, returns `None` and counts nothing.
    pub fn check_within(&self, most: Work, work: &mut Work) -> Option<CheckedPush> {
        let mut own = Work::default();
        let bytes: usize = self.push.changes.iter().map(|change| change.len()).sum();
        if bytes as u64 > most.bytes {
            return None;
        }
        let checked = self.check_up_to(Some(most), &mut own);
        if checked.is_some() {
            *work = work.plus(own);
        }
        checked
    }

    /// Rejects all of it, for this reason.
    pub fn refused(&self, refusal: Refusal) -> CheckedPush {
        CheckedPush { rest: Some(refusal), ..self.none_checked() }
    }

    fn check_up_to(&self, most: Option<Work>, work: &mut Work) -> Option<CheckedPush> {
        let mut checked = self.none_checked();
        let (mut inflated, mut operations) = (0, 0);
        for (index, bytes) in self.push.changes.iter().enumerate() {
            // Checked before the next change, so that a push always advances by at least one
            // change.
            if inflated > limits::PUSH_INFLATED_BYTES || operations > limits::PUSH_OPERATIONS {
                checked.rest = Some(Refusal::of_weight());
                break;
            }
            match preflight_within(bytes, most, work) {
                Ok(None) => return None,
                Ok(Some(change)) => {
                    inflated += change.inflated_bytes;
                    operations += change.operations;
                    checked.changes.push(change);
                }
                Err(error) => {
                    checked.rest = Some(Refusal::of_form(index, &error));
                    break;
                }
            }
        }
        Some(checked)
    }

    fn none_checked(&self) -> CheckedPush {
        CheckedPush {
            session: self.session,
            id: self.push.id,
            document: self.push.document,
            author: self.author.clone(),
            changes: Vec::with_capacity(self.push.changes.len()),
            rest: None,
            roots: self.roots,
        }
    }
}

#[cfg(test)]
mod tests {
    use automerge::{Automerge, ObjType, ROOT, transaction::Transactable};

    use super::*;
    use crate::code::NackClass;
    use crate::ids::DocumentId;

    #[test]
    fn a_push_over_the_work_limit_is_accepted_in_part() {
        let mut automerge = Automerge::new();
        let mut tx = automerge.transaction();
        let text = tx.put_object(ROOT, "text", ObjType::Text).unwrap();
        tx.commit();
        let pasted = "x".repeat(1_000_000);
        for _ in 0..6 {
            let mut tx = automerge.transaction();
            tx.splice_text(&text, 0, 0, &pasted).unwrap();
            tx.commit();
        }
        let changes: Vec<_> = automerge.get_changes(&[]);
        let count = changes.len();
        let push = Push {
            id: 1,
            subscription: 0,
            document: DocumentId::from_bytes([0; 16]),
            changes: changes.into_iter().map(|mut c| c.bytes().into_owned().into()).collect(),
        };
        let push = UncheckedPush::new(SessionId(1), Author::of_all(vec![]), push);
        let mut work = Work::default();
        let checked = push.check(&mut work);
        assert!(checked.changes.len() > 1 && checked.changes.len() < count);
        assert_eq!(checked.rest.map(|rest| rest.class), Some(NackClass::RETRY_AFTER));
        assert!(work.operations >= 1_000_000, "each pasted letter is an operation");
        // A bound stops it before any expansion, and nothing is counted.
        let (most, mut within) = (Work { operations: 999_999, bytes: u64::MAX }, Work::default());
        assert!(push.check_within(most, &mut within).is_none());
        assert_eq!(within, Work::default());
    }
}
