//! autosurgeon's traits, for types that are read from documents and written to them.
//!
//! Everything here is [autosurgeon](https://docs.rs/autosurgeon/0.14)'s own, except [`Text`], which is
//! Landfall's and can be written whatever has arrived since it was read, and the derive macros, which
//! need no dependency of the program except `landfall`.
//!
//! [`Document::edit`](crate::Document::edit) and the other typed calls convert values of other programs
//! for these traits, and preserve their types. The functions `hydrate` and `reconcile` here do not:
//! they do not read a text object as a `String`, and replace it by one.

pub use ::autosurgeon::*;
pub use landfall_derive::{Hydrate, Reconcile};

pub use crate::typed::Text;
