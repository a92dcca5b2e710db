//! Admission: the checks that a change must pass before a relay or an engine stores it.
//!
//! Admission has two halves. [`preflight`] checks the bytes alone: it is stateless, and bounded in
//! time and memory by the size of its input and by [`crate::limits`], so sessions run it in
//! parallel. [`admit`] checks the change against the document's history. Neither half knows of
//! sessions, frames or stores.

mod chunk;
mod columns;
mod document;
mod facts;
mod form;
mod header;
mod history;
mod overlay;
mod predecessors;
mod preflight;
mod reader;
mod references;
mod runs;
mod work;

pub use document::{Budget, DocumentError, DocumentSize, OverBudget, measure};
pub use facts::{Facts, Named, WithFacts};
pub use form::FormError;
pub use history::{History, HistoryError, KnownChange, Origin, Roots, Verdict, admit, admit_from};
pub use overlay::{Layered, Overlay};
pub use preflight::{CheckedChange, change_hash, preflight, preflight_within};
pub use work::Work;
