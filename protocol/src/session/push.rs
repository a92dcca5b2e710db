//! The stateless half of a push: every change's preflight, bounded as a whole.

use crate::admission::{Roots, preflight};
use crate::frame::{Push, PushEntry, entry_flags};
use crate::ids::SessionId;
use crate::limits;
use crate::rights::Identity;
use crate::space::{CheckedPush, Refusal};

/// Runs the preflight over a push's changes, up to the first that does not pass, or until they
/// are more work than one push may ask for. Pure, and as expensive as the push is large: sessions
/// run it in parallel.
pub fn check_push(session: SessionId, identity: &Identity, push: Push) -> CheckedPush {
    let mut checked = CheckedPush {
        session,
        id: push.id,
        document: push.document,
        author: identity.author.clone(),
        changes: Vec::with_capacity(push.changes.len()),
        rest: None,
        roots: Roots::One,
    };
    let (mut inflated, mut operations) = (0, 0);
    for (index, bytes) in push.changes.into_iter().enumerate() {
        // Asked before the next one, so that a push always gets on by one change at least.
        if inflated > limits::PUSH_INFLATED_BYTES || operations > limits::PUSH_OPERATIONS {
            checked.rest = Some(Refusal::of_weight());
            break;
        }
        match preflight(&bytes) {
            Ok(change) => {
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
    checked
}

/// As [`check_push`], for a single change that may begin a second history, as its flag says.
pub fn check_pushed_change(
    session: SessionId,
    identity: &Identity,
    entry: PushEntry,
) -> CheckedPush {
    let PushEntry { id, subscription, document, flags, body, .. } = entry;
    let push = Push { id, subscription, document, changes: vec![body] };
    let roots = match flags & entry_flags::SECOND_ROOT {
        0 => Roots::One,
        _ => Roots::Several,
    };
    CheckedPush { roots, ..check_push(session, identity, push) }
}

#[cfg(test)]
mod tests {
    use automerge::{Automerge, ObjType, ROOT, transaction::Transactable};

    use super::*;
    use crate::code::NackClass;
    use crate::ids::{DocumentId, ReplicaId};

    #[test]
    fn a_push_that_is_too_much_work_is_taken_in_part_and_not_refused() {
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
        let identity = Identity { replica: ReplicaId::from_bytes([0; 16]), author: vec![] };
        let checked = check_push(SessionId(1), &identity, push);
        assert!(checked.changes.len() > 1 && checked.changes.len() < count);
        assert_eq!(checked.rest.map(|rest| rest.class), Some(NackClass::RETRY_AFTER));
    }
}
