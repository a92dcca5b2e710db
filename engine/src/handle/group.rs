//! The handle of a group: several changes in one commit.

use std::sync::Arc;

use automerge::transaction::Transaction;
use landfall_protocol::ChangeHash;

use super::Document;
use crate::document::{Changing, Edit, commit};
use crate::error::ChangeError;
use crate::failure::BoxError;
use crate::open_store::OpenStore;

/// Changes that are committed together: all of them or none.
pub struct Group {
    store: Arc<OpenStore>,
    edits: Vec<Edit>,
    /// An error after which nothing is committed was returned.
    failed: bool,
    /// Marks the thread; dropped after the edits.
    inside: Changing,
}

impl Group {
    /// Changes a document, as [`Document::change`] does, and commits the change with the group. Until
    /// the commit, this thread reads the document only through the closure's transaction, other threads
    /// see its state before the group, and other writers of the document wait. Text positions count
    /// Unicode code points.
    ///
    /// # Errors
    /// As [`Document::change`], and [`ChangeError::OtherStore`]. After [`ChangeError::Closure`] the
    /// group may go on without that change; after any other error nothing of the group is committed.
    pub fn change<T>(
        &mut self,
        document: &Document,
        change: impl FnOnce(&mut Transaction<'_>) -> Result<T, BoxError>,
    ) -> Result<T, ChangeError> {
        self.track(|group| group.edit_of(document)?.run(change))
    }

    /// Changes a document as it was at earlier heads, as [`Document::change_at`] does, and commits the
    /// change with the group.
    ///
    /// # Errors
    /// As [`Group::change`]; after [`ChangeError::UnknownHeads`], too, the group may go on.
    pub fn change_at<T>(
        &mut self,
        document: &Document,
        heads: &[ChangeHash],
        change: impl FnOnce(&mut Transaction<'_>) -> Result<T, BoxError>,
    ) -> Result<T, ChangeError> {
        self.track(|group| group.edit_of(document)?.run_at(heads, change))
    }

    /// Records an error after which nothing may be committed.
    fn track<T>(
        &mut self,
        change: impl FnOnce(&mut Self) -> Result<T, ChangeError>,
    ) -> Result<T, ChangeError> {
        let outcome = change(self);
        let harmless = matches!(
            &outcome,
            Ok(_) | Err(ChangeError::Closure(_) | ChangeError::UnknownHeads { .. })
        );
        self.failed |= !harmless;
        outcome
    }

    /// The group's edit of a document; a group has one for each document.
    fn edit_of(&mut self, document: &Document) -> Result<&mut Edit, ChangeError> {
        let open = document.open();
        if !Arc::ptr_eq(&open.context, &self.store.context) {
            return Err(ChangeError::OtherStore { document: document.id() });
        }
        let index = match self.edits.iter().position(|edit| edit.is_of(open)) {
            Some(index) => index,
            None => {
                self.edits.push(Edit::begin(&self.inside, open)?);
                self.edits.len() - 1
            }
        };
        Ok(&mut self.edits[index])
    }
}

pub(super) fn run<T>(
    store: &Arc<OpenStore>,
    changes: impl FnOnce(&mut Group) -> Result<T, ChangeError>,
) -> Result<T, ChangeError> {
    let inside = Changing::enter()?;
    // One group at a time: two groups that lock the same documents in a different order would deadlock.
    // A single change locks one document only, and never waits here.
    let _alone = store.begin_group();
    let mut group = Group { store: Arc::clone(store), edits: Vec::new(), failed: false, inside };
    let value = changes(&mut group)?;
    let Group { edits, failed, inside: _inside, .. } = group;
    if failed || edits.iter().any(Edit::is_spoiled) {
        return Err(ChangeError::Closure("an earlier change of the group failed".into()));
    }
    commit(edits)?;
    Ok(value)
}
