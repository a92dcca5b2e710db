//! Admission of changes by the budget of their document.

use std::convert::Infallible;

use automerge::transaction::Transactable;
use automerge::{Automerge, ROOT};

use super::*;
use crate::admission::{Facts, Layered, Named, Overlay, WithFacts, preflight};

/// A document of one root change, of any size.
struct One {
    root: CheckedChange,
    size: DocumentSize,
    /// Whether the root is a head.
    is_head: bool,
}

impl History for One {
    type Error = Infallible;

    fn last_sequence(&self, _: &DocumentId, actor: &ActorId) -> Result<Option<u64>, Infallible> {
        Ok((*actor == self.root.actor).then_some(1))
    }

    fn at_sequence(
        &self,
        _: &DocumentId,
        _: &ActorId,
        _: u64,
    ) -> Result<Option<KnownChange>, Infallible> {
        Ok(Some(KnownChange { hash: self.root.hash, position: Offset(1) }))
    }

    fn max_op(&self, _: &DocumentId, hash: &ChangeHash) -> Result<Option<u64>, Infallible> {
        Ok((*hash == self.root.hash).then_some(self.root.max_op))
    }

    fn deleted_at(&self, _: &DocumentId) -> Result<Option<Offset>, Infallible> {
        Ok(None)
    }

    fn has_changes(&self, _: &DocumentId) -> Result<bool, Infallible> {
        Ok(true)
    }

    fn size(&self, _: &DocumentId) -> Result<DocumentSize, Infallible> {
        Ok(self.size)
    }

    fn is_head(&self, _: &DocumentId, _: &ChangeHash) -> Result<bool, Infallible> {
        Ok(self.is_head)
    }
}

const DOCUMENT: DocumentId = DocumentId::from_bytes([1; 16]);

/// A document's first change, and two that follow it in sequence.
fn written() -> (One, [CheckedChange; 2]) {
    let mut automerge = Automerge::new().with_actor([1; 16].into());
    let mut changes = (0..3).map(|value| {
        let mut tx = automerge.transaction();
        tx.put(ROOT, "k", value).unwrap();
        tx.commit();
        preflight(automerge.get_last_local_change().unwrap().raw_bytes()).unwrap()
    });
    let root = changes.next().unwrap();
    let rest = [changes.next().unwrap(), changes.next().unwrap()];
    (One { root, size: DocumentSize::default(), is_head: false }, rest)
}

fn push_verdict<H: History<Error = Infallible>>(
    history: &H,
    change: &CheckedChange,
) -> Result<Verdict, HistoryError> {
    let Ok(verdict) = admit(history, &DOCUMENT, change, Roots::One);
    verdict
}

#[test]
fn a_full_document_refuses_changes_and_names_the_budget() {
    let (mut history, [next, _]) = written();
    assert_eq!(push_verdict(&history, &next), Ok(Verdict::New));
    history.size.operations = limits::DOCUMENT_OPERATIONS;
    let error = push_verdict(&history, &next).unwrap_err();
    assert_eq!(error.nack(), (Code::DOCUMENT_FULL, NackClass::REFUSED));
    let expected = "operations, the limit for one of its bytes is 8388608";
    assert!(error.to_string().contains(expected), "{error}");
    history.size = DocumentSize { changes: limits::DOCUMENT_CHANGES, ..DocumentSize::default() };
    assert!(matches!(push_verdict(&history, &next), Err(HistoryError::OverBudget(_))));
}

#[test]
fn admitted_changes_count_before_they_are_stored() {
    let (mut history, [next, last]) = written();
    history.size.changes = limits::DOCUMENT_CHANGES - 1;
    let mut overlay = Overlay::default();
    overlay.add(DOCUMENT, &next, Offset(2));
    let layered = Layered { overlay: &overlay, stored: &history };
    let Ok(size) = layered.size(&DOCUMENT);
    assert_eq!(size.operations, next.stored_operations);
    assert!(matches!(push_verdict(&layered, &last), Err(HistoryError::OverBudget(_))));
    overlay.settle(DOCUMENT, &next.actor, next.seq, next.hash);
    let Ok(size) = Layered { overlay: &overlay, stored: &history }.size(&DOCUMENT);
    assert_eq!(size, history.size);
}

#[test]
fn heads_grow_to_their_limit_and_can_always_be_merged() {
    let (mut history, [next, last]) = written();
    history.size.heads = limits::DOCUMENT_HEADS as u64;
    let error = push_verdict(&history, &next).unwrap_err();
    assert!(matches!(error, HistoryError::OverBudget(OverBudget { budget: Budget::Heads, .. })));
    // A change that a relay has accepted is admitted regardless of the number of heads, and so is a
    // merge.
    history.size.heads *= 2;
    let Ok(received) = admit_from(&history, &DOCUMENT, &next, Roots::One, Origin::Received);
    assert_eq!(received, Ok(Verdict::New));
    history.is_head = true;
    assert_eq!(push_verdict(&history, &next), Ok(Verdict::New));
    history.is_head = false;
    // A change that follows an admitted, unstored change makes no new head.
    let mut overlay = Overlay::default();
    overlay.add(DOCUMENT, &next, Offset(2));
    let layered = Layered { overlay: &overlay, stored: &history };
    assert_eq!(push_verdict(&layered, &last), Ok(Verdict::New));
}

#[test]
fn a_gap_in_the_counters_is_bounded() {
    let (history, [next, _]) = written();
    let at = |start_op| {
        let max_op = start_op + next.operations - 1;
        CheckedChange { start_op, max_op, ..next.clone() }
    };
    let most = history.root.max_op + limits::COUNTER_HOLE;
    assert_eq!(push_verdict(&history, &at(most)), Ok(Verdict::New));
    for start_op in [most + 1, limits::OPERATION_COUNTER] {
        let error = push_verdict(&history, &at(start_op)).unwrap_err();
        assert!(matches!(error, HistoryError::CounterHole { .. }), "{error}");
        assert_eq!(error.nack(), (Code::COUNTER, NackClass::REFUSED));
    }
}

/// A history that panics when it is queried for known facts.
struct Unasked(One);

impl History for Unasked {
    type Error = Infallible;

    fn last_sequence(
        &self,
        document: &DocumentId,
        actor: &ActorId,
    ) -> Result<Option<u64>, Infallible> {
        self.0.last_sequence(document, actor)
    }

    fn has_actor(&self, _: &DocumentId, actor: &ActorId) -> Result<bool, Infallible> {
        panic!("{actor} is known")
    }

    fn at_sequence(
        &self,
        document: &DocumentId,
        actor: &ActorId,
        sequence: u64,
    ) -> Result<Option<KnownChange>, Infallible> {
        self.0.at_sequence(document, actor, sequence)
    }

    fn max_op(&self, _: &DocumentId, hash: &ChangeHash) -> Result<Option<u64>, Infallible> {
        panic!("{hash} is known")
    }

    fn deleted_at(&self, document: &DocumentId) -> Result<Option<Offset>, Infallible> {
        self.0.deleted_at(document)
    }

    fn has_changes(&self, document: &DocumentId) -> Result<bool, Infallible> {
        self.0.has_changes(document)
    }

    fn size(&self, document: &DocumentId) -> Result<DocumentSize, Infallible> {
        self.0.size(document)
    }

    fn is_head(&self, document: &DocumentId, hash: &ChangeHash) -> Result<bool, Infallible> {
        self.0.is_head(document, hash)
    }
}

#[test]
fn looked_up_changes_are_cached() {
    let (history, [next, last]) = written();
    let next = CheckedChange {
        actor: ActorId::from([2; 16]),
        seq: 1,
        other_actors: vec![history.root.actor.clone()],
        ..next
    };
    // Changes inside the push are not looked up.
    let push = [next, last];
    let mut named = Named::by(&push);
    let [next, _] = push;
    assert_eq!(named.changes, [history.root.hash]);
    assert_eq!(named.actors, std::slice::from_ref(&history.root.actor));
    let mut facts = Facts::default();
    while !named.is_empty() {
        let some = named.take(1);
        assert_eq!(some.len(), 1);
        let Ok(()) = facts.look_up(&history, &DOCUMENT, some);
    }
    let history =
        Unasked(One { root: CheckedChange { actor: [9; 16].into(), ..history.root }, ..history });
    let known = WithFacts { document: DOCUMENT, facts: &facts, history: &history };
    assert_eq!(push_verdict(&known, &next), Ok(Verdict::New));
    // Facts belong to one document.
    let other = WithFacts { document: DocumentId::from_bytes([2; 16]), ..known };
    let asks = std::panic::AssertUnwindSafe(|| push_verdict(&other, &next));
    assert!(
        std::panic::catch_unwind(asks).is_err(),
        "another document's facts are none of this one"
    );
}
