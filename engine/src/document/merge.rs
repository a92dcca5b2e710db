//! Merges heads, so that a change does not exceed the limit of dependencies.
//!
//! A change depends on every head of its document, and an engine merges at most
//! [`limits::MERGED_HEADS`] with one change. Where there are more, it first makes changes without
//! operations, in a chain: each depends on the one before it and on some further heads. They are
//! committed with the edit.

use automerge::{ActorId, Automerge, Change, ExpandedChange};
use landfall_protocol::{ChangeHash, limits};

use super::transact::now_seconds;

/// Changes without operations, the last of which has all of the heads as ancestors.
pub(super) fn chain(
    automerge: &mut Automerge,
    actor: &ActorId,
    heads: &[ChangeHash],
) -> Vec<Change> {
    let before = automerge.get_actor().clone();
    automerge.set_actor(actor.clone());
    let own = automerge.get_last_local_change();
    automerge.set_actor(before);
    let (mut seq, mut max_op) = own.as_ref().map_or((0, 0), |own| (own.seq(), own.max_op()));
    // The actor's own last change comes first, unless it is a head.
    let mut last = own.map(|own| own.hash()).filter(|own| !heads.contains(own));
    let mut changes = Vec::new();
    let mut rest = heads;
    while rest.len() + usize::from(last.is_some()) > 1 {
        let free_heads = limits::MERGED_HEADS - usize::from(last.is_some());
        let (now, later) = rest.split_at(free_heads.min(rest.len()));
        for head in now {
            let meta = automerge.get_change_meta_by_hash(head);
            max_op = max_op.max(meta.map_or(0, |meta| meta.max_op));
        }
        seq += 1;
        let change = empty_change(actor, seq, max_op, last.iter().chain(now).copied().collect());
        last = Some(change.hash());
        changes.push(change);
        rest = later;
    }
    changes
}

fn empty_change(actor: &ActorId, seq: u64, max_op: u64, mut deps: Vec<ChangeHash>) -> Change {
    deps.sort_unstable();
    let start_op = std::num::NonZeroU64::MIN.saturating_add(max_op);
    Change::from(ExpandedChange {
        operations: Vec::new(),
        actor_id: actor.clone(),
        hash: None,
        seq,
        start_op,
        time: now_seconds(),
        message: None,
        deps,
        extra_bytes: Vec::new(),
        author: None,
    })
}
