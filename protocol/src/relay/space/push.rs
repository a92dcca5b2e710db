//! Pushes before, during and after admission.

use super::Refusal;
#[cfg(doc)]
use super::Space;
use crate::admission::{CheckedChange, Facts, Named, Roots};
use crate::frame::Mark;
use crate::ids::{DocumentId, Offset, SessionId};
use crate::relay::Author;

/// A push whose changes passed the preflight.
#[derive(Debug, Clone)]
pub struct CheckedPush {
    /// The pushing session.
    pub session: SessionId,
    /// The session's number for it.
    pub id: u64,
    /// The document.
    pub document: DocumentId,
    /// The author of its entries.
    pub author: Author,
    /// The changes that passed, in the order of the push.
    pub changes: Vec<CheckedChange>,
    /// Why the later changes failed or were not checked, if there are any.
    pub rest: Option<Refusal>,
    /// Whether a change among them may begin a second history.
    pub roots: Roots,
}

/// A pushed entry that is not a change.
#[derive(Debug, Clone)]
pub struct PushedEntry {
    /// The pushing session.
    pub session: SessionId,
    /// The session's number for it.
    pub id: u64,
    /// The document.
    pub document: DocumentId,
    /// The author of the entry.
    pub author: Author,
}

impl PushedEntry {
    pub(super) fn answer(&self) -> PushAnswer {
        let (session, push) = (self.session, self.id);
        PushAnswer { session, push, count: 0, through: None, added: None, refusal: None }
    }

    /// The answer that rejects it.
    pub fn refused(&self, refusal: Refusal) -> PushAnswer {
        PushAnswer { refusal: Some(refusal), ..self.answer() }
    }
}

/// The answer to a push.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PushAnswer {
    /// The pushing session.
    pub session: SessionId,
    /// The session's number for the push.
    pub push: u64,
    /// The number of its changes that are durable.
    pub count: u32,
    /// The position of the last of them; `None` if `count` is 0.
    pub through: Option<Mark>,
    /// The offsets that this push added: first and last.
    pub added: Option<(Offset, Offset)>,
    /// Why the rest was rejected.
    pub refusal: Option<Refusal>,
}

/// A push during admission.
#[derive(Debug)]
pub struct PendingPush {
    pub(super) push: CheckedPush,
    /// The number of its changes that have a verdict.
    pub(super) done: usize,
    pub(super) answer: PushAnswer,
    pub(super) until: Offset,
    /// Its changes are those of one snapshot: the answer counts them as one pushed entry.
    pub(super) is_snapshot: bool,
    /// The facts looked up before.
    pub(super) facts: Facts,
}

impl PendingPush {
    /// A push before admission.
    pub fn new(push: CheckedPush) -> Self {
        let (session, id) = (push.session, push.id);
        let (count, through, added, refusal) = (0, None, None, None);
        let answer = PushAnswer { session, push: id, count, through, added, refusal };
        let (until, facts) = (Offset(0), Facts::default());
        Self { push, done: 0, answer, until, is_snapshot: false, facts }
    }

    /// The changes of an uploaded snapshot, admitted one by one. Together they count as the one
    /// pushed entry; if one is rejected, the snapshot is rejected.
    pub fn of_snapshot(push: CheckedPush) -> Self {
        Self { is_snapshot: true, ..Self::new(push) }
    }

    /// Suspends the push until the view can be read.
    pub(super) fn stopped<E>(mut self, facts: Facts, error: E) -> PushVerdict<E> {
        self.facts = facts;
        PushVerdict::Stopped(Box::new(self), error)
    }

    /// The answer, once no further change of it will be admitted.
    pub(super) fn answered(self) -> (PushAnswer, Offset) {
        let Self { mut answer, until, is_snapshot, .. } = self;
        if is_snapshot {
            answer.count = u32::from(answer.refusal.is_none());
        }
        (answer, until)
    }

    /// The changes and actors that its changes name and do not contain. If they are looked up
    /// before, [`Space::handle_push`] needs no look-ups.
    pub fn named(&self) -> Named {
        Named::by(&self.push.changes)
    }

    /// Adds the facts found.
    pub fn know(&mut self, facts: Facts) {
        self.facts = facts;
    }

    /// Its document.
    pub fn document(&self) -> DocumentId {
        self.push.document
    }

    /// Its changes; the admitted ones no longer have their bytes.
    pub fn changes(&self) -> &[CheckedChange] {
        &self.push.changes
    }

    /// The pushing session, and its number for the push.
    pub fn key(&self) -> (SessionId, u64) {
        (self.push.session, self.push.id)
    }

    /// Its author.
    pub fn author(&self) -> &Author {
        &self.push.author
    }
}

/// The state of a push after admission.
#[derive(Debug)]
pub enum PushVerdict<E> {
    /// The answer is available at once.
    Answered(PushAnswer),
    /// The answer comes with a commit.
    Waits,
    /// The view could not be read. Earlier verdicts remain valid; continue with
    /// [`Space::handle_push`] once the view is readable, or give up with
    /// [`Space::handle_unreadable`].
    Stopped(Box<PendingPush>, E),
}
