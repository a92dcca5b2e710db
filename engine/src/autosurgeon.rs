//! autosurgeon's traits, for types that are read from documents and written to them.
//!
//! Everything here is [autosurgeon](https://docs.rs/autosurgeon/0.14)'s own, except [`Text`]: that one
//! is Landfall's, which can be written whatever arrived since it was read; and the derive macros, which
//! need no dependency of the program's but `landfall`.
//!
//! [`Document::edit`](crate::Document::edit) and its neighbours show documents to these traits so that
//! other programs' values are read and kept. The functions `hydrate` and `reconcile` here do not: a text
//! object is no `String` to them, and is replaced by one.

pub use ::autosurgeon::*;
pub use landfall_derive::{Hydrate, Reconcile};

pub use crate::typed::Text;
