//! The stateless half of a push: every change's preflight, bounded as a whole.

use crate::admission::{FormError, preflight};
use crate::frame::Push;
use crate::ids::SessionId;
use crate::limits;
use crate::rights::Identity;
use crate::space::CheckedPush;

/// Runs the preflight over a push's changes, up to the first that does not pass. Pure, and as
/// expensive as the push is large: sessions run it in parallel.
pub fn check_push(session: SessionId, identity: &Identity, push: Push) -> CheckedPush {
    let mut checked = CheckedPush {
        session,
        id: push.id,
        document: push.document,
        author: identity.author.clone(),
        changes: Vec::with_capacity(push.changes.len()),
        malformed: None,
    };
    let mut inflated = 0;
    for bytes in push.changes {
        let change = preflight(&bytes).and_then(|change| {
            inflated += change.inflated_bytes;
            match inflated > limits::PUSH_INFLATED_BYTES {
                true => Err(FormError::Inflated { limit: limits::PUSH_INFLATED_BYTES }),
                false => Ok(change),
            }
        });
        match change {
            Ok(change) => checked.changes.push(change),
            Err(error) => {
                checked.malformed = Some(error);
                break;
            }
        }
    }
    checked
}
