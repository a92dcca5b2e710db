//! Admission: what a change must satisfy before anybody stores it.
//!
//! It has two halves. [`preflight`] looks at the bytes alone: stateless, bounded in time and
//! memory by the size of its input and by [`crate::limits`], so sessions run it in parallel.
//! [`admit`] is the half that looks at the document's history.

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
pub use facts::{Facts, Foreknown, Named};
pub use form::FormError;
pub use history::{History, HistoryError, Known, Origin, Roots, Verdict, admit, admit_from};
pub use overlay::{Layered, Overlay};
pub use preflight::{CheckedChange, change_hash, preflight, preflight_within};
pub use work::Work;
