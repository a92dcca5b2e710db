//! Tests of identification over real keys and files.

mod bad_tokens;
mod files;
mod issuer;
mod issuer_server;
mod minting;
mod support;
