//! Several changes in one commit.

use std::sync::Arc;

use automerge::transaction::Transaction;
use landfall_protocol::ChangeHash;

use super::Document;
use crate::core::Core;
use crate::document::{Edit, commit};
use crate::error::{BoxError, ChangeError};

/// Changes that are committed together: all of them or none.
pub struct Group {
    core: Arc<Core>,
    edits: Vec<Edit>,
}

impl Group {
    /// Changes a document, as [`Document::change`] does, but is committed with the group. The
    /// document is locked until then: read it through the closure's transaction. Text positions
    /// count Unicode code points.
    ///
    /// # Errors
    /// As [`Document::change`]. After [`ChangeError::Closure`] the group may go on without that
    /// one change; after any other error nothing of the group will be committed.
    pub fn change<T>(
        &mut self,
        document: &Document,
        change: impl FnOnce(&mut Transaction<'_>) -> Result<T, BoxError>,
    ) -> Result<T, ChangeError> {
        self.edit(document)?.run(change)
    }

    /// Changes a document as it was at some heads, as [`Document::change_at`] does, but is
    /// committed with the group.
    ///
    /// # Errors
    /// As [`Group::change`]; after [`ChangeError::UnknownHeads`] too the group may go on.
    pub fn change_at<T>(
        &mut self,
        document: &Document,
        heads: &[ChangeHash],
        change: impl FnOnce(&mut Transaction<'_>) -> Result<T, BoxError>,
    ) -> Result<T, ChangeError> {
        self.edit(document)?.run_at(heads, change)
    }

    /// The group's one edit of a document.
    fn edit(&mut self, document: &Document) -> Result<&mut Edit, ChangeError> {
        let open = document.open();
        if !Arc::ptr_eq(&open.core, &self.core) {
            return Err(ChangeError::Closure("the document is of another store".into()));
        }
        let index = match self.edits.iter().position(|edit| Arc::ptr_eq(&edit.document, open)) {
            Some(index) => index,
            None => {
                self.edits.push(Edit::begin(open)?);
                self.edits.len() - 1
            }
        };
        Ok(&mut self.edits[index])
    }
}

pub(super) fn run<T>(
    core: &Arc<Core>,
    changes: impl FnOnce(&mut Group) -> Result<T, ChangeError>,
) -> Result<T, ChangeError> {
    // One group at a time: two that lock the same documents in another order would wait for each
    // other for ever. A single change locks one document only and cannot.
    let _alone = core.begin_group();
    let mut group = Group { core: Arc::clone(core), edits: Vec::new() };
    let value = changes(&mut group)?;
    if group.edits.iter().any(Edit::is_spoiled) {
        return Err(ChangeError::Closure("a change of the group failed before".into()));
    }
    commit(group.edits)?;
    Ok(value)
}
