//! Reads and writes documents as types of the application.
//!
//! autosurgeon accesses a document through its `ReadDoc` and `Doc` traits. A [`reader::TypedReader`] or a
//! [`writer::Writer`] stands between it and automerge, and changes two things:
//!
//! - A value is shown as a kind that the type accepts, if it denotes the same (`seen`): a text object
//!   as a string, an integer as a float, a missing key as null. Other programs, JavaScript above all,
//!   store the same value as another kind.
//! - The value in the document decides how a new one is written: a string onto a text object edits the
//!   text, a number onto a counter increments it, and an equal value makes no change.
//!
//! It knows nothing of stores, locks or commits: `handle` passes it a document or a transaction.

mod compatibility;
mod error;
mod path;
mod reader;
mod seen;
mod steps;
mod text;
mod writer;

use std::any::type_name;

use automerge::Automerge;
use automerge::transaction::Transaction;
use autosurgeon::{Hydrate, Reconcile, ReconcileError};

pub use error::TypedError;
pub(crate) use seen::Seen;
pub use text::Text;

use reader::TypedReader;
use writer::Writer;

/// The whole document as a value.
pub(crate) fn hydrate<T: Hydrate, D: autosurgeon::ReadDoc>(
    doc: &D,
    seen: &Seen,
) -> Result<T, TypedError> {
    attempt(seen, || autosurgeon::hydrate(&TypedReader::new(doc, seen)))
}

/// The value at a path.
pub(crate) fn get<T: Hydrate>(doc: &Automerge, seen: &Seen, path: &str) -> Result<T, TypedError> {
    let steps = steps::parse(path)?;
    let Some((object, prop)) = path::walk(doc, path, &steps, seen)? else {
        return hydrate(doc, seen);
    };
    let reader = TypedReader::new(doc, seen);
    attempt(seen, || T::hydrate(&reader, &object, prop.clone().into()))
}

/// Hydrates repeatedly, as long as a place is found whose value can be shown as another kind.
fn attempt<T>(
    seen: &Seen,
    hydrate: impl Fn() -> Result<T, autosurgeon::HydrateError>,
) -> Result<T, TypedError> {
    loop {
        match hydrate() {
            Ok(value) => return Ok(value),
            Err(error) if seen.learn(&error) => {}
            Err(error) => return Err(TypedError::of_hydrate(error, seen, type_name::<T>())),
        }
    }
}

/// Makes the document in the transaction equal to the value. `seen` has learnt from the same type as
/// which kinds values are shown.
pub(crate) fn reconcile<T: Reconcile>(
    tx: &mut Transaction<'_>,
    seen: &Seen,
    value: &T,
) -> Result<(), TypedError> {
    let outcome = autosurgeon::reconcile(&mut Writer::new(tx, seen), value);
    outcome.map_err(|error| match error {
        ReconcileError::StaleHeads(_) => TypedError::Stale { path: seen.path() },
        ReconcileError::TopLevelNotMap => TypedError::NotAMap { wanted: type_name::<T>() },
        ReconcileError::Automerge(source) => {
            TypedError::Automerge { path: seen.path(), source: Box::new(source) }
        }
    })
}

/// As [`reconcile`], for a value that was not hydrated with the same `seen`, which first learns the
/// kinds from the document. A document of another shape teaches less, and is written all the same.
pub(crate) fn reconcile_anew<T: Hydrate + Reconcile>(
    tx: &mut Transaction<'_>,
    seen: &Seen,
    value: &T,
) -> Result<(), TypedError> {
    let _ = hydrate::<T, _>(&*tx, seen);
    reconcile(tx, seen, value)
}
