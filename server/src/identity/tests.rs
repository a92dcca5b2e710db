//! Tests of identification over real keys and files.

mod bad_tokens;
mod files;
mod minting;
mod support;
