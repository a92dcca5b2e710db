//! autosurgeon's traits, for types that are read from documents and written to them.
//!
//! Everything here is [autosurgeon](https://docs.rs/autosurgeon/0.14)'s own, except [`Text`]: that one
//! is Landfall's, which can be written whatever arrived since it was read, and counts as automerge does.

pub use ::autosurgeon::*;
pub use landfall_derive::{Hydrate, Reconcile};

pub use crate::typed::Text;
