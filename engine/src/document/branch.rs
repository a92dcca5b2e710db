//! Changes a document as it was at earlier heads.
//!
//! automerge's own `transaction_at` uses another actor, derived from the document's, where the
//! document's actor has made operations since those heads. It considers operations only: an actor whose
//! last change is an empty one would seem to have nothing after the heads, and would make a change that
//! does not depend on its own last one. So the actor is chosen here, by changes: one whose changes are
//! all at or before the heads. `transaction_at` then keeps it.

use std::collections::BTreeSet;

use automerge::transaction::Transaction;
use automerge::{ActorId, Automerge, PatchLog};
use landfall_protocol::ChangeHash;

use super::transact::{Transacted, excess, options};
use super::{Loaded, OpenDocument};
use crate::error::ChangeError;
use crate::failure::BoxError;
use crate::random;

/// The state that some heads name.
pub(super) enum View {
    /// The present one.
    Present,
    /// An earlier one: the heads, each once.
    Past(Vec<ChangeHash>),
}

/// Finds the state that heads name.
pub(super) fn view(automerge: &Automerge, heads: &[ChangeHash]) -> Result<View, ChangeError> {
    let heads: BTreeSet<ChangeHash> = heads.iter().copied().collect();
    if automerge.get_heads().iter().eq(&heads) {
        return Ok(View::Present);
    }
    let missing = heads.iter().find(|head| automerge.get_change_meta_by_hash(head).is_none());
    match missing {
        Some(missing) => Err(ChangeError::UnknownHeads { missing: *missing }),
        None => Ok(View::Past(heads.into_iter().collect())),
    }
}

/// Runs a closure as one automerge change on top of these heads. The patches lead from the present
/// state to the state with the change merged in.
pub(super) fn transact_at<T>(
    document: &OpenDocument,
    loaded: &mut Loaded,
    heads: &[ChangeHash],
    closure: impl FnOnce(&mut Transaction<'_>) -> Result<T, BoxError>,
) -> Result<Transacted<T>, ChangeError> {
    let (actor, is_new) = actor_at(loaded, heads)?;
    let own = loaded.automerge.get_actor().clone();
    let listening = document.has_listeners();
    let before = listening.then(|| loaded.automerge.get_heads());
    loaded.automerge.set_actor(actor.clone());
    let made = make(&mut loaded.automerge, heads, closure);
    let change = match &made {
        Ok((_, true)) => loaded.automerge.get_last_local_change(),
        Ok((_, false)) | Err(_) => None,
    };
    loaded.automerge.set_actor(own);
    let (value, _) = made?;
    if change.is_none() {
        return Ok((value, None, None));
    }
    if let Some(own) = loaded.own.as_mut().filter(|_| is_new) {
        own.branches.push(actor);
    }
    let patches = before.and_then(|before| document.diff(&loaded.automerge, &before));
    Ok((value, change, patches))
}

/// Chooses the actor for changes at these heads, and adds it to the actors of this opening.
pub(super) fn take_actor_at(
    loaded: &mut Loaded,
    heads: &[ChangeHash],
) -> Result<ActorId, ChangeError> {
    let (actor, is_new) = actor_at(loaded, heads)?;
    if let Some(own) = loaded.own.as_mut().filter(|_| is_new) {
        own.branches.push(actor.clone());
    }
    Ok(actor)
}

/// Runs the closure; returns whether it changed anything.
fn make<T>(
    automerge: &mut Automerge,
    heads: &[ChangeHash],
    closure: impl FnOnce(&mut Transaction<'_>) -> Result<T, BoxError>,
) -> Result<(T, bool), ChangeError> {
    let mut transaction = automerge
        .transaction_at(PatchLog::inactive(), heads)
        .map_err(|error| ChangeError::Closure(Box::new(error)))?;
    match closure(&mut transaction) {
        Ok(value) => {
            let excess = excess(&transaction);
            let changed = transaction.commit_with(options()).0.is_some();
            excess.map(|()| (value, changed))
        }
        Err(error) => {
            transaction.rollback();
            Err(ChangeError::Closure(error))
        }
    }
}

/// An actor of this opening whose changes are all at or before the heads; a fresh one if there is none.
/// The second value is true if `branches` does not have it.
fn actor_at(loaded: &Loaded, heads: &[ChangeHash]) -> Result<(ActorId, bool), ChangeError> {
    let behind = loaded.automerge.get_changes_meta(heads);
    let gone_on: BTreeSet<&ActorId> = behind.iter().map(|meta| &*meta.actor).collect();
    let own = std::iter::once(loaded.automerge.get_actor());
    let branches = loaded.own.iter().flat_map(|own| &own.branches);
    match own.chain(branches).find(|actor| !gone_on.contains(actor)) {
        Some(actor) => Ok((actor.clone(), false)),
        None => Ok((ActorId::from(random::bytes::<16>()?), true)),
    }
}
