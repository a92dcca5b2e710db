//! Admission: what a change must satisfy before anybody stores it.
//!
//! It has two halves. [`preflight`] looks at the bytes alone: stateless, bounded in time and
//! memory by the size of its input and by [`crate::limits`], so sessions run it in parallel.
//! [`admit`] is the half that looks at the document's history.

mod columns;
mod history;
mod overlay;
mod preflight;

pub use history::{History, HistoryError, Known, Verdict, admit};
pub use overlay::{Layered, Overlay};
pub use preflight::{CheckedChange, FormError, preflight};
