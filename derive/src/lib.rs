//! `#[derive(Hydrate, Reconcile)]` for types of programs that depend on `landfall` alone.
//!
//! The traits are autosurgeon's, and so are the attributes and what the documents look like: a type
//! may change from one derive to the other. autosurgeon's own derives name `::autosurgeon` and
//! `::automerge`, which a program would have to depend on in just the versions that Landfall has;
//! these name `::landfall` only. It knows nothing of the engine but the names that it writes.

mod attributes;
mod hydrate;
mod keys;
mod model;
mod reconcile;

use proc_macro::TokenStream;
use syn::{DeriveInput, parse_macro_input};

use model::Model;

/// Derives `Hydrate`: how a value is read from a document. See `landfall`'s page on types.
#[proc_macro_derive(Hydrate, attributes(autosurgeon, landfall, key))]
pub fn derive_hydrate(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    let derived = Model::read(&input).map(|model| hydrate::derive(&model));
    derived.unwrap_or_else(syn::Error::into_compile_error).into()
}

/// Derives `Reconcile`: how a value is written to a document. See `landfall`'s page on types.
#[proc_macro_derive(Reconcile, attributes(autosurgeon, landfall, key))]
pub fn derive_reconcile(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    let derived = Model::read(&input).map(|model| reconcile::derive(&model));
    derived.unwrap_or_else(syn::Error::into_compile_error).into()
}
