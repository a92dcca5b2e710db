//! The house rules, as tests: each reads the tree (or `cargo metadata`) and names what breaks it,
//! where, and what to do. Beside every rule stands a test that shows the rule failing on a bad sample.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::unreachable,
    reason = "a test fails by panicking"
)]
mod house {
    mod commits;
    mod containers;
    mod dialect;
    mod edges;
    mod finding;
    mod glossary;
    mod licences;
    mod manifests;
    mod markdown;
    mod names;
    mod packages;
    mod pages;
    mod purity;
    mod sizes;
    mod source;
    mod survey;
    mod tree;
    mod words;
}
