//! `#[derive(Hydrate, Reconcile)]` for types of programs that depend on `landfall` alone.
//!
//! The traits, the attributes and the shape of the documents are autosurgeon's, so a type can change
//! from one derive to the other. autosurgeon's own derives name `::autosurgeon` and `::automerge`, so a
//! program would have to depend on exactly the versions that Landfall uses; these name `::landfall`
//! only. This crate must not know the engine except for the names that it writes.

#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::unreachable,
        reason = "a test fails by panicking"
    )
)]

mod attributes;
mod hydrate;
mod keys;
mod model;
mod reconcile;

use proc_macro::TokenStream;
use syn::{DeriveInput, parse_macro_input};

use model::Model;

/// Derives `Hydrate`, which reads a value from a document. See `landfall`'s page on types.
#[proc_macro_derive(Hydrate, attributes(autosurgeon, landfall, key))]
pub fn derive_hydrate(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    let derived = Model::read(&input).map(|model| hydrate::derive(&model));
    derived.unwrap_or_else(syn::Error::into_compile_error).into()
}

/// Derives `Reconcile`, which writes a value to a document. See `landfall`'s page on types.
#[proc_macro_derive(Reconcile, attributes(autosurgeon, landfall, key))]
pub fn derive_reconcile(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    let derived = Model::read(&input).map(|model| reconcile::derive(&model));
    derived.unwrap_or_else(syn::Error::into_compile_error).into()
}
