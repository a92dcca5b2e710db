//! Commits edits, and publishes them in commit order.
//!
//! The completion of a commit runs on the store's writer thread and publishes the new state, its place in the
//! store and its event together, before any later commit. From the submission until then, readers of a
//! document whose edit was made in place wait. It must not know the link.

use std::sync::Arc;

use automerge::{Change, Patch, PatchLog};
use landfall_protocol::ChangeHash;

use super::edit::{Edit, Made};
use super::slot::{State, StoreCopy};
use super::{Loaded, OpenDocument};
use crate::changes::apply_parsed;
use crate::error::ChangeError;
use crate::events::{EventKind, Origin};
use crate::store::Appended;

/// One document's part of a commit.
struct Publication {
    document: Arc<OpenDocument>,
    loaded: Arc<Loaded>,
    /// As [`Edit::is_unbuilt`].
    is_unbuilt: bool,
    /// As [`Edit::number`] and [`Edit::base`]: the only state that `loaded` may replace.
    edit: u64,
    base: Option<Arc<Loaded>>,
    generation: u64,
    heads: Vec<ChangeHash>,
    /// The heads at which the patches start.
    patches_from: Vec<ChangeHash>,
    made: Vec<(Change, Option<Arc<[Patch]>>)>,
    bytes: u64,
}

/// Writes the edits in one commit, which publishes them. If the commit fails or its outcome is unknown, every
/// document is reloaded from the store, and its next change takes a fresh actor.
pub(crate) fn commit(mut edits: Vec<Edit>) -> Result<(), ChangeError> {
    edits.retain(|edit| !edit.is_empty());
    let Some(context) = edits.first().map(|edit| Arc::clone(&edit.document.context)) else {
        return Ok(());
    };
    let (mut changes, mut publications) = (Vec::new(), Vec::with_capacity(edits.len()));
    for edit in &mut edits {
        let made = std::mem::take(&mut edit.made);
        changes.extend(made.iter().map(|made| made.local.clone()));
        publications.push(prepare(edit, made)?);
    }
    let documents: Vec<_> = edits.iter().map(|edit| Arc::clone(&edit.document)).collect();
    let published = move |appended: &Appended| {
        if publications.len() > 1 {
            // Mark all before publishing the first: a reader that sees one new state must see the others.
            publications.iter().for_each(|one| one.document.slot.lock().publishing = true);
        }
        let mut places = appended.places.iter();
        for publication in publications {
            let last = places.by_ref().take(publication.made.len()).last();
            publication.publish(last.map_or(0, |place| place.1));
        }
    };
    let appended = context.append(changes, published);
    if let Err(error) = &appended {
        // The commit may have reached the store despite the error: only the store's state is certain.
        context.actors.failed(error, documents.iter().map(|document| document.key()));
        documents.iter().for_each(|document| document.roll_back());
    }
    drop(edits);
    for document in &documents {
        document.context.cache.make_room(document);
    }
    context.commits.notify_link(&appended?);
    Ok(())
}

/// Builds the publication after the closure has ended. From here on, readers of an in-place edit wait for
/// the commit.
fn prepare(edit: &mut Edit, made: Vec<Made>) -> Result<Publication, ChangeError> {
    let (told, copy) = {
        let mut slot = edit.document.slot.lock();
        let copy = slot.in_place(edit.number).and_then(|in_place| {
            in_place.committing = true;
            match std::mem::take(&mut in_place.copy) {
                StoreCopy::Loaded(copy) => Some(copy),
                StoreCopy::None | StoreCopy::Loading => None,
            }
        });
        (slot.told.as_ref().map(|(_, heads)| heads.clone()), copy)
    };
    let changes: Vec<Change> = made.iter().map(|made| made.change.clone()).collect();
    if let Some(copy) = copy.filter(|copy| copy.automerge.get_heads() != edit.began_at) {
        // A reader may have read received changes from the copy: include them in the edit, so that no
        // reader's view goes backwards.
        let own = edit.loaded()?.own.clone();
        let actor = edit.loaded()?.automerge.get_actor().clone();
        let none = &mut PatchLog::inactive();
        if let Ok(mut automerge) = apply_parsed(copy.automerge.clone(), changes.clone(), none) {
            automerge.set_actor(actor);
            let (applied, stored_bytes) = (copy.applied, copy.stored_bytes);
            edit.work = Some(Arc::new(Loaded { automerge, own, applied, stored_bytes }));
        }
    }
    let bytes = made.iter().map(|made| made.local.change.bytes.len() as u64).sum::<u64>();
    let loaded = edit.loaded()?;
    loaded.stored_bytes += bytes;
    let heads = match (edit.is_unbuilt, made.last()) {
        (true, Some(made)) => vec![made.change.hash()],
        _ => edit.loaded()?.automerge.get_heads(),
    };
    let mut patches: Vec<_> = made.into_iter().map(|made| made.patches).collect();
    let mut patches_from = edit.began_at.clone();
    if let Some(told) = told.filter(|told| *told != patches_from) {
        // The changed state includes changes that no event has reported: the patches must start at the last
        // reported heads.
        let listening = edit.document.has_listeners();
        let document = Arc::clone(&edit.document);
        let automerge = &edit.loaded()?.automerge;
        let whole = if listening { document.diff(automerge, &told) } else { None };
        patches.iter_mut().for_each(|patches| *patches = None);
        if let Some(last) = patches.last_mut() {
            *last = whole;
        }
        patches_from = told;
    }
    let bytes = edit.loaded()?.bytes();
    let gone = || ChangeError::Closure("an earlier change of this document failed".into());
    Ok(Publication {
        document: Arc::clone(&edit.document),
        loaded: edit.work.take().ok_or_else(gone)?,
        is_unbuilt: edit.is_unbuilt,
        edit: edit.number,
        base: edit.base.take(),
        generation: edit.generation,
        heads,
        patches_from,
        made: changes.into_iter().zip(patches).collect(),
        bytes,
    })
}

impl Publication {
    /// Publishes after the commit; `place` is the local sequence number of its last change of the document.
    /// Runs on the store's writer thread, so it must not wait.
    fn publish(self, place: u64) {
        let Self { document, mut loaded, edit, base, heads, patches_from, made, bytes, .. } = self;
        if let Some(own) = &loaded.own {
            document.context.actors.keep(&document.context.log, document.key(), own);
        }
        let replaced = {
            let mut slot = document.slot.lock();
            slot.publishing = false;
            let current =
                slot.generation == self.generation && slot.is_unchanged_since(edit, base.as_ref());
            let told = slot.told.as_ref().map(|(_, heads)| heads.clone());
            let patches_apply = current && told.is_none_or(|told| told == patches_from);
            // Not while earlier received changes are still to be applied: `applied` must not skip them.
            if slot.building.is_none() && !slot.arrived {
                Arc::make_mut(&mut loaded).applied = loaded.applied.max(place);
            }
            for (change, patches) in made {
                if let Some(building) = &mut slot.building {
                    building.since.push(change);
                }
                let patches = patches.filter(|_| patches_apply);
                document.tell_changed(&mut slot, Origin::Local, heads.clone(), patches);
            }
            let replaced = current.then(|| {
                let state = match self.is_unbuilt {
                    true => {
                        document.context.cache.unloaded(&document);
                        State::Unloaded
                    }
                    false => {
                        document.context.cache.put(&document, bytes);
                        State::Published(loaded)
                    }
                };
                std::mem::replace(&mut slot.state, state)
            });
            document.wake(&mut slot);
            replaced
        };
        if replaced.is_none() {
            // A newer state has replaced the one that was edited. It may lack this change, and this state
            // lacks its changes: reload.
            document.outdate();
        }
    }
}

impl OpenDocument {
    /// Drops the loaded state after a commit that failed or whose outcome is unknown.
    fn roll_back(self: &Arc<Self>) {
        self.begin_generation(State::Unloaded, Some(EventKind::RolledBack));
    }
}
