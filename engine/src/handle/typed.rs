//! Typed access: documents as types of the application.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use automerge::Automerge;
use automerge::transaction::Transaction;
use autosurgeon::{Hydrate, Reconcile};
use landfall_protocol::ChangeHash;

use super::{Document, Group, Space};
use crate::document::{Changing, Edit, commit};
use crate::error::{ChangeError, ReadError};
use crate::failure::BoxError;
use crate::threads::panic_text;
use crate::typed::{self, Seen, TypedError};

/// Typed access: see [the crate page](crate#three-ways-to-edit) for the choice between the calls.
impl Document {
    /// Edits the document as a value of the application's own type: reads it, passes it to `edit`, and
    /// writes the difference as one change. Concurrent edits are not lost: changes that arrive
    /// meanwhile are merged, and fields that the closure leaves alone are not written. Texts are
    /// compared, and only the difference is written; an equal value makes no change.
    ///
    /// While the closure runs, other threads that change the same document wait, as in
    /// [`Document::change`]. For a form that a person fills in, use [`Document::hydrate_with_heads`]
    /// and [`Document::reconcile_at`].
    ///
    /// ```
    /// # use landfall::{Hydrate, Options, Reconcile, Store, Text};
    /// #[derive(Hydrate, Reconcile)]
    /// struct Todo {
    ///     title: Text,
    ///     done: bool,
    /// }
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let store = Store::in_memory(Options::default())?;
    /// let todo = store.space("todos")?.create_from(&Todo { title: "Milk".into(), done: false })?;
    /// todo.edit::<Todo>(|todo| todo.done = true)?;
    /// assert!(todo.get::<bool>("done")?);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`ChangeError::Typed`] if the document has another shape, or the value cannot be written;
    /// otherwise as [`Document::change`].
    pub fn edit<T: Hydrate + Reconcile>(
        &self,
        edit: impl FnOnce(&mut T),
    ) -> Result<(), ChangeError> {
        self.try_edit(|value| {
            edit(value);
            Ok(())
        })
    }

    /// As [`Document::edit`], with a closure that may return a result. A closure that fails leaves no
    /// trace.
    ///
    /// # Errors
    /// As [`Document::edit`], and [`ChangeError::Closure`] with the closure's own error.
    pub fn try_edit<T: Hydrate + Reconcile, R>(
        &self,
        edit: impl FnOnce(&mut T) -> Result<R, BoxError>,
    ) -> Result<R, ChangeError> {
        let typed = Typed::default();
        typed.contain(|| self.change(|tx| typed.edit(tx, edit)))
    }

    /// Makes the document equal to a value, relative to the state at which the value was read: pass the
    /// [heads](Document::hydrate_with_heads) that were returned with it. The change is concurrent to
    /// all later changes, and is merged with them. Returns the heads at which the document, without
    /// concurrent changes of others, equals the value: pass them to the next call.
    ///
    /// Heads that are not the present ones cost an actor, which automerge keeps for ever, in every
    /// replica: concurrent changes need one each. A call with the heads that the last call returned, or
    /// with the present heads, uses the same actor again.
    ///
    /// # Errors
    /// [`ChangeError::UnknownHeads`]; [`ChangeError::Typed`]; otherwise as [`Document::change`].
    pub fn reconcile_at<T: Hydrate + Reconcile>(
        &self,
        heads: &[ChangeHash],
        value: &T,
    ) -> Result<Vec<ChangeHash>, ChangeError> {
        let typed = Typed::default();
        typed.contain(|| {
            let inside = Changing::enter()?;
            let mut edit = Edit::begin(&inside, self.open())?;
            edit.run_at(heads, |tx| typed.reconcile(tx, value))?;
            let made = edit.last_made();
            commit(vec![edit])?;
            Ok(made.map_or_else(|| heads.to_vec(), |made| vec![made]))
        })
    }

    /// Makes the document equal to a value, **whatever others changed since the value was read**:
    /// content that arrived meanwhile is deleted where the value lacks it. For a value that was not
    /// read from the document, such as an import. To edit a value that was read, use [`Document::edit`]
    /// or [`Document::reconcile_at`].
    ///
    /// # Errors
    /// [`ChangeError::Typed`]; otherwise as [`Document::change`].
    pub fn reconcile<T: Hydrate + Reconcile>(&self, value: &T) -> Result<(), ChangeError> {
        let typed = Typed::default();
        typed.contain(|| self.change(|tx| typed.reconcile(tx, value)))
    }

    /// Reads the document as a type of the application's own.
    ///
    /// # Errors
    /// [`ReadError::Typed`] if the document has another shape.
    pub fn hydrate<T: Hydrate>(&self) -> Result<T, ReadError> {
        self.read_typed(|doc, seen| typed::hydrate(doc, seen))
    }

    /// As [`Document::hydrate`], and returns the heads of the state that was read, for
    /// [`Document::reconcile_at`].
    ///
    /// # Errors
    /// [`ReadError::Typed`] if the document has another shape.
    pub fn hydrate_with_heads<T: Hydrate>(&self) -> Result<(T, Vec<ChangeHash>), ReadError> {
        self.read_typed(|doc, seen| Ok((typed::hydrate(doc, seen)?, doc.get_heads())))
    }

    /// Reads the value at a path, such as `todos[3].title`. A key with other characters is written
    /// `settings["odd.key"]`; the empty path is the whole document. An `Option` is `None` where the
    /// last key of the path is missing.
    ///
    /// # Errors
    /// [`ReadError::Typed`], which states what is wrong with the path or with the value there.
    pub fn get<T: Hydrate>(&self, path: &str) -> Result<T, ReadError> {
        self.read_typed(|doc, seen| typed::get(doc, seen, path))
    }

    fn read_typed<T>(
        &self,
        read: impl FnOnce(&Automerge, &Seen) -> Result<T, TypedError>,
    ) -> Result<T, ReadError> {
        let seen = Seen::default();
        let outcome = self.read(|doc| catch_unwind(AssertUnwindSafe(|| read(doc, &seen))))?;
        Ok(outcome.unwrap_or_else(|panic| Err(contained(panic, &seen)))?)
    }
}

impl Space {
    /// Creates a document from a value of the application's own type.
    ///
    /// # Errors
    /// [`ChangeError::Typed`] if it cannot be written; otherwise as [`Space::create`].
    pub fn create_from<T: Reconcile>(&self, value: &T) -> Result<Document, ChangeError> {
        let typed = Typed::default();
        typed.contain(|| self.create(|tx| typed.create(tx, value)).map(|(document, _)| document))
    }
}

impl Group {
    /// Edits a document as [`Document::edit`] does, and commits it with the group.
    ///
    /// # Errors
    /// As [`Document::edit`] and [`Group::change`]. After [`ChangeError::Typed`] the group may go on
    /// without that change, unless something panicked.
    pub fn edit<T: Hydrate + Reconcile>(
        &mut self,
        document: &Document,
        edit: impl FnOnce(&mut T),
    ) -> Result<(), ChangeError> {
        let typed = Typed::default();
        let edit = |value: &mut T| {
            edit(value);
            Ok(())
        };
        typed.contain(|| self.change(document, |tx| typed.edit(tx, edit)))
    }
}

/// One typed operation. It returns typed errors, and turns panics outside the application's closure
/// into errors.
#[derive(Default)]
struct Typed {
    seen: Seen,
    /// Whether autosurgeon runs, rather than the application's closure or the engine.
    inside: Cell<bool>,
}

impl Typed {
    fn edit<T: Hydrate + Reconcile, R>(
        &self,
        tx: &mut Transaction<'_>,
        edit: impl FnOnce(&mut T) -> Result<R, BoxError>,
    ) -> Result<R, BoxError> {
        let mut value = self.inside(|| typed::hydrate::<T, _>(&*tx, &self.seen))?;
        let given = edit(&mut value)?;
        self.inside(|| typed::reconcile(tx, &self.seen, &value))?;
        Ok(given)
    }

    fn reconcile<T: Hydrate + Reconcile>(
        &self,
        tx: &mut Transaction<'_>,
        value: &T,
    ) -> Result<(), BoxError> {
        self.inside(|| typed::reconcile_anew(tx, &self.seen, value))
    }

    fn create<T: Reconcile>(&self, tx: &mut Transaction<'_>, value: &T) -> Result<(), BoxError> {
        self.inside(|| typed::reconcile(tx, &self.seen, value))
    }

    /// Runs autosurgeon.
    fn inside<T>(&self, run: impl FnOnce() -> Result<T, TypedError>) -> Result<T, BoxError> {
        self.inside.set(true);
        let outcome = run();
        self.inside.set(false);
        outcome.map_err(|error| Failed(error).into())
    }

    /// Runs the whole operation.
    fn contain<T>(&self, run: impl FnOnce() -> Result<T, ChangeError>) -> Result<T, ChangeError> {
        match catch_unwind(AssertUnwindSafe(run)) {
            Ok(Err(ChangeError::Closure(error))) => Err(match error.downcast::<Failed>() {
                Ok(failed) => ChangeError::Typed(failed.0),
                Err(error) => ChangeError::Closure(error),
            }),
            Ok(outcome) => outcome,
            Err(panic) if self.inside.get() => {
                Err(ChangeError::Typed(contained(panic, &self.seen)))
            }
            Err(panic) => resume_unwind(panic),
        }
    }
}

/// Carries the error through the closure of a change.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
struct Failed(TypedError);

fn contained(panic: Box<dyn std::any::Any + Send>, seen: &Seen) -> TypedError {
    let error = TypedError::of_panic(panic_text(&*panic), seen);
    // Dropping it may call the application's code, which may panic again.
    std::mem::forget(panic);
    error
}
