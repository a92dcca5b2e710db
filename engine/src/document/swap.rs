//! Replaces the published state by the one that the applier has built.
//!
//! Local changes that were made meanwhile are added to it first, by the holder of the writer right: the
//! applier if no writer is busy, else the next writer before its closure. Readers continue with the old
//! state. A built state of another generation is dropped, and so is one that lacks changes of the state
//! that it would replace: within a generation, states only grow.

use std::sync::Arc;

use automerge::{Automerge, Change, Patch, PatchLog};
use landfall_protocol::ChangeHash;

use super::built::{Built, Bytes, NewState};
use super::load::Whole;
use super::right::Right;
use super::slot::State;
use super::{Changing, Loaded, OpenDocument};
use crate::changes::{apply_parsed, contained};
use crate::error::StoreError;
use crate::events::{EventKind, Origin};

/// Swaps in a built state now, or leaves it to the busy writer. Returns whether it is done.
pub(super) fn try_swap(document: &Arc<OpenDocument>, built: Box<Built>) -> bool {
    let right = {
        let mut slot = document.slot.lock();
        match Right::of_swap(document, &mut slot) {
            Some(right) => right,
            None => {
                if slot.building(built.number).is_some() {
                    slot.built = Some(built);
                }
                return false;
            }
        }
    };
    finish(&right, *built);
    true
}

/// Swaps in the state that was left in the slot, if it is still there and no writer is busy.
pub(super) fn retry_swap(document: &Arc<OpenDocument>) -> bool {
    let (right, built) = {
        let mut slot = document.slot.lock();
        let Some(built) = slot.built.take() else { return true };
        match Right::of_swap(document, &mut slot) {
            Some(right) => (right, built),
            None => {
                slot.built = Some(built);
                return false;
            }
        }
    };
    finish(&right, *built);
    true
}

/// Takes the writer right for a thread of the application: waits for the document's other writers, and
/// swaps in the state that the applier has built meanwhile.
pub(super) fn begin_writing(document: &Arc<OpenDocument>, inside: &Changing) -> Right {
    let (right, built) = Right::of_application(document, inside);
    if let Some(built) = built {
        finish(&right, *built);
    }
    right
}

/// Publishes a built state with its event.
pub(super) fn finish(right: &Right, built: Built) {
    let document = &right.document;
    let Built { state, more, number } = built;
    let _ends = Ends { document, number };
    let found = {
        let mut slot = document.slot.lock();
        slot.arrived |= more;
        let (generation, reported) = (slot.generation, slot.told.clone());
        // No local change is published while this thread has the right.
        let since = slot.building(number).map(|building| std::mem::take(&mut building.since));
        match (&slot.state, since) {
            (State::Published(loaded), Some(since)) => {
                Some((Arc::clone(loaded), generation, since, reported))
            }
            // It is loaded from the store, complete, and the applier sends the event.
            (_, Some(_)) => {
                slot.arrived = true;
                None
            }
            // The same applies to another generation.
            (_, None) => None,
        }
    };
    if let Some((before, generation, since, reported)) = found {
        // The state before may have been loaded from the store while this one was built.
        let state = state.filter(|state| state.last > before.applied);
        match next_state(document, state, &before, since, reported) {
            Ok(Some(next)) => publish(document, generation, next),
            Ok(None) => {}
            Err(reason) => give_up(document, reason),
        }
    }
}

/// Ends a build, however its swap ends: the applier may begin the next one.
struct Ends<'a> {
    document: &'a Arc<OpenDocument>,
    number: u64,
}

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        let mut slot = self.document.slot.lock();
        if slot.building(self.number).is_some() {
            slot.building = None;
        }
        if slot.arrived {
            self.document.context.applier.enqueue(self.document, &mut slot);
        }
    }
}

/// A state and its event.
struct Next {
    /// `None` if the published state stays.
    loaded: Option<Arc<Loaded>>,
    heads: Vec<ChangeHash>,
    patches: Option<Arc<[Patch]>>,
}

type ReportedHeads = Option<(Origin, Vec<ChangeHash>)>;

/// Computes the next state and its event; `None` if there is no event to send.
fn next_state(
    document: &OpenDocument,
    new: Option<NewState>,
    before: &Loaded,
    meanwhile: Vec<Change>,
    reported: ReportedHeads,
) -> Result<Option<Next>, String> {
    let seen = before.automerge.get_heads();
    let listening = document.has_listeners();
    let since = reported.as_ref().map(|(_, heads)| heads);
    let Some(NewState { automerge, last, bytes, patches }) = new else {
        if reported
            .as_ref()
            .is_some_and(|(origin, heads)| *origin == Origin::Remote && *heads == seen)
        {
            return Ok(None);
        }
        let since = since.filter(|_| listening);
        let patches = since.and_then(|since| document.diff(&before.automerge, since));
        return Ok(Some(Next { loaded: None, heads: seen, patches }));
    };
    let (mut automerge, undisturbed) = (automerge, meanwhile.is_empty());
    if !undisturbed {
        automerge = apply_parsed(automerge, meanwhile, &mut PatchLog::inactive())?;
    }
    if !contains(&automerge, &seen) {
        return Err("the built state lacks changes of the present one".to_owned());
    }
    let patches = match patches.filter(|_| undisturbed && since.is_none_or(|since| *since == seen))
    {
        _ if !listening => None,
        Some(mut log) => document.patches(|| automerge.make_patches(&mut log)),
        None => document.diff(&automerge, since.unwrap_or(&seen)),
    };
    automerge.set_actor(before.automerge.get_actor().clone());
    let heads = automerge.get_heads();
    let stored_bytes = match bytes {
        Bytes::More(more) => before.stored_bytes + more,
        Bytes::All(all) => all,
    };
    let applied = before.applied.max(last);
    let loaded = Loaded { automerge, own: before.own.clone(), applied, stored_bytes };
    Ok(Some(Next { loaded: Some(Arc::new(loaded)), heads, patches }))
}

fn publish(document: &Arc<OpenDocument>, generation: u64, next: Next) {
    let Next { loaded, heads, patches } = next;
    let bytes = loaded.as_ref().map(|loaded| loaded.bytes());
    let replaced = {
        let mut slot = document.slot.lock();
        let current = slot.generation == generation;
        if !current {
            // It is loaded again from the store, and the applier sends the event.
            slot.arrived = true;
            return;
        }
        if let Some(bytes) = bytes {
            document.context.cache.put(document, bytes);
        }
        let replaced = loaded.map(|new| std::mem::replace(&mut slot.state, State::Published(new)));
        document.tell_changed(&mut slot, Origin::Remote, heads, patches);
        document.wake(&mut slot);
        replaced
    };
    drop(replaced);
    document.context.cache.make_room(document);
}

/// Whether a document has these changes.
fn contains(automerge: &Automerge, heads: &[ChangeHash]) -> bool {
    heads.iter().all(|head| automerge.get_change_meta_by_hash(head).is_some())
}

impl OpenDocument {
    /// The patches from the state at these heads; `None` if that state is unknown, or automerge panics
    /// over it: then the listener reads the document.
    pub(super) fn diff(&self, automerge: &Automerge, since: &[ChangeHash]) -> Option<Arc<[Patch]>> {
        match contains(automerge, since) {
            true => self.patches(|| automerge.diff(since, &automerge.get_heads())),
            false => None,
        }
    }

    /// The result of `make`, unless automerge panics.
    pub(super) fn patches(&self, make: impl FnOnce() -> Vec<Patch>) -> Option<Arc<[Patch]>> {
        let make = || {
            #[cfg(test)]
            if self.panic_in_patches.swap(false, std::sync::atomic::Ordering::Relaxed) {
                panic!("as automerge might");
            }
            Ok::<_, String>(make())
        };
        match contained(make) {
            Ok(patches) => Some(patches.into()),
            Err(reason) => {
                tracing::error!(document = %self.id, reason, "no patches could be computed");
                None
            }
        }
    }
}

/// Stored changes could not be added to the loaded state. Either automerge cannot load them at all, or
/// changes were removed from the store meanwhile, and the loaded state is wrong.
pub(super) fn give_up(document: &Arc<OpenDocument>, reason: String) {
    let log = &document.context.log;
    let whole = match log.document(document.row, &document.id).map_err(StoreError::from) {
        Ok(Some(row)) => Whole::read(log, row, None),
        Ok(None) => Ok(Whole::default()),
        Err(error) => Err(error),
    };
    match whole.map(|whole| whole.build()) {
        Ok(Ok(_)) => {
            document.slot.lock().building = None;
            document.outdate();
            document.note_unloaded();
        }
        Ok(Err(_)) => quarantine(document, reason),
        Err(error) => {
            tracing::warn!(document = %document.id, %error, "the document could not be read again");
            let mut slot = document.slot.lock();
            (slot.building, slot.arrived) = (None, true);
        }
    }
}

/// Keeps the last good state and sets the reason. The bytes stay in the store.
pub(super) fn quarantine(document: &OpenDocument, reason: String) {
    tracing::error!(document = %document.id, reason, "the document is quarantined");
    let gone = {
        let mut slot = document.slot.lock();
        slot.building = None;
        slot.quarantined = Some(reason.clone());
        document.tell(&slot, EventKind::Quarantined { reason: reason.clone() });
        if !matches!(slot.state, State::Deleted) {
            document.context.status.set_unreadable(document.row, document.id, Some(reason.clone()));
        }
        slot.built.take()
    };
    drop(gone);
    document.reported_quarantine.store(true, std::sync::atomic::Ordering::Relaxed);
    document.context.log.submit_quarantine(document.row, document.id, Some(reason));
}

#[cfg(test)]
mod tests {
    use automerge::{ActorId, ROOT, ReadDoc, transaction::Transactable};
    use landfall_protocol::admission::preflight;

    use super::super::build::{Job, build};
    use super::*;
    use crate::store::LocalChange;
    use crate::{Document, Options, ReadError, Space, Store};

    /// A document with a received change that the applier has built in and not swapped in.
    fn built() -> (Store, Space, Document, Box<Built>) {
        let store = Store::in_memory(Options::default()).unwrap();
        let space = store.space("default").unwrap();
        let document = space.create(|tx| Ok(tx.put(ROOT, "mine", 1)?)).unwrap().0;
        let mut other = document.read(|doc| doc.fork().with_actor(ActorId::from([9; 16]))).unwrap();
        other.transact(|tx| tx.put(ROOT, "theirs", 1)).unwrap();
        let change = preflight(other.get_last_local_change().unwrap().raw_bytes()).unwrap();
        let (open, open_store) = (document.open(), store.open_store());
        let change = LocalChange { space: open.row, document: open.id, change, at_ms: 0 };
        open_store
            .context
            .log
            .append(landfall_storage::Durability::Full, vec![change], |_| ())
            .unwrap();
        open.slot.lock().arrived = true;
        let Job::Build(base) = open.next_job() else { panic!("there is something to build") };
        let built = build(open, base).unwrap().unwrap();
        (store, space, document, built)
    }

    fn keys(document: &Document) -> Vec<String> {
        document.read(|doc| doc.keys(ROOT).collect()).unwrap()
    }

    #[test]
    fn a_swap_keeps_changes_made_during_the_build() {
        let (_store, _space, document, built) = built();
        document.change(|tx| Ok(tx.put(ROOT, "more", 1)?)).unwrap();
        assert_eq!(keys(&document), ["mine", "more"]);
        assert!(try_swap(document.open(), built));
        assert_eq!(keys(&document), ["mine", "more", "theirs"]);
    }

    #[test]
    fn a_build_from_before_a_deletion_is_discarded() {
        let (store, space, document, built) = built();
        let mut events = store.events();
        space.delete(document.id()).unwrap();
        try_swap(document.open(), built);
        assert!(matches!(document.read(|_| ()), Err(ReadError::Deleted)));
        let emitted: Vec<_> = std::iter::from_fn(|| events.try_next()).collect();
        assert!(
            matches!(&emitted[..], [Ok(event)] if matches!(event.kind, EventKind::Deleted { .. })),
            "{emitted:?}"
        );
    }

    /// As after `reauthor`: the loaded state and states built on it differ from the store.
    #[test]
    fn a_build_on_an_outdated_state_is_discarded() {
        let (_store, _space, document, mut built) = built();
        if let Some(state) = &mut built.state {
            state.automerge.transact(|tx| tx.put(ROOT, "never stored", 1)).unwrap();
        }
        document.open().outdate();
        try_swap(document.open(), built);
        assert_eq!(keys(&document), ["mine", "theirs"]);
    }

    /// The applier may run between a writer's taking of a built state and its swap, and while it waits
    /// for a writer: it must not begin a build that would take over the local changes of this one.
    #[test]
    fn a_build_keeps_its_local_changes_until_its_swap() {
        let (_store, _space, document, built) = built();
        document.change(|tx| Ok(tx.put(ROOT, "more", 1)?)).unwrap();
        let open = document.open();
        open.slot.lock().arrived = true;
        let job = open.next_job();
        try_swap(open, built);
        assert_eq!(keys(&document), ["mine", "more", "theirs"]);
        assert!(matches!(job, Job::None), "two builds at a time");
        document.change(|tx| Ok(tx.put(ROOT, "last", 1)?)).unwrap();
        assert_eq!(keys(&document), ["last", "mine", "more", "theirs"]);
    }

    /// A built state that lacks a change that readers have seen is not shown.
    #[test]
    fn a_build_without_all_present_changes_is_discarded() {
        let (_store, _space, document, built) = built();
        document.change(|tx| Ok(tx.put(ROOT, "more", 1)?)).unwrap();
        document.open().slot.lock().building.as_mut().unwrap().since.clear();
        try_swap(document.open(), built);
        document.change(|tx| Ok(tx.put(ROOT, "last", 1)?)).unwrap();
        assert_eq!(keys(&document), ["last", "mine", "more", "theirs"]);
    }

    /// A busy writer swaps in a built state before its next change.
    #[test]
    fn the_next_writer_swaps_in_the_finished_build() {
        let (_store, _space, document, built) = built();
        let mut built = Some(built);
        document
            .change(|tx| {
                assert!(!try_swap(document.open(), built.take().unwrap()), "a writer is busy");
                Ok(tx.put(ROOT, "first", 1)?)
            })
            .unwrap();
        document
            .change(|tx| {
                assert!(tx.get(ROOT, "theirs")?.is_some());
                Ok(tx.put(ROOT, "second", 1)?)
            })
            .unwrap();
        assert_eq!(keys(&document), ["first", "mine", "second", "theirs"]);
    }
}
