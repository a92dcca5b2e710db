//! Who a client is: JSON Web Tokens become principals with rules. It knows files, keys, the issuer
//! and the clock; it must not know sessions, frames or the store.
//!
//! | module | what it holds |
//! |---|---|
//! | `verifier` | from a token to a principal |
//! | `token`, `token_error`, `claims` | one token: header, signature, and the claims that every token needs |
//! | `rules`, `access_file` | rules in the token and in the configuration |
//! | `options` | how clients are identified |
//! | `keys`, `issuer` | the keys of files, and those of an OpenID Connect issuer |
//! | `revoked` | revoked tokens |
//! | `watched`, `http_client`, `clock` | what they are read with |
//! | `mint` | tokens for development |
//!
//! Decision: `docs/decisions/0101-json-web-tokens.md`.

mod access_file;
mod claims;
mod clock;
mod http_client;
mod issuer;
mod keys;
mod mint;
mod options;
mod revoked;
mod rules;
mod token;
mod token_error;
mod verifier;
mod watched;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use landfall_protocol::access::{IdentifyError, Principal};
use tokio::sync::watch;

pub use access_file::ConfigFileError;
pub use keys::KeyError;
pub(crate) use mint::{MintError, MintOptions, mint};
pub use options::{IdentityError, IdentityOptions};

use clock::{Clock, SystemClock};
use verifier::Verifier;

/// Identifies clients.
pub(crate) enum Identities {
    /// No authentication is configured: every client may do everything.
    Open(Arc<Principal>),
    /// Clients need a token.
    Tokens(Box<Verifier>),
}

impl Identities {
    /// Reads the files that the options name.
    pub(crate) fn new(options: &IdentityOptions) -> Result<Self, IdentityError> {
        Self::with_clock(options, Arc::new(SystemClock::new()))
    }

    fn with_clock(options: &IdentityOptions, clock: Arc<dyn Clock>) -> Result<Self, IdentityError> {
        if !options.is_required() {
            return Ok(Self::Open(Arc::new(Principal::open())));
        }
        Ok(Self::Tokens(Box::new(Verifier::open(options, clock)?)))
    }

    /// Whether clients need no token.
    pub(crate) fn is_open(&self) -> bool {
        matches!(self, Self::Open(_))
    }

    /// Who the client with this token is. May wait for the issuer's keys.
    pub(crate) async fn identify(
        &self,
        token: Option<&[u8]>,
    ) -> Result<Arc<Principal>, IdentifyError> {
        match self {
            Self::Open(principal) => Ok(Arc::clone(principal)),
            Self::Tokens(verifier) => verifier.identify(token).await,
        }
    }

    /// Changes with each change of the configuration, after which sessions verify their tokens again;
    /// `None` where clients need no token.
    pub(crate) fn changes(&self) -> Option<watch::Receiver<u64>> {
        match self {
            Self::Open(_) => None,
            Self::Tokens(verifier) => Some(verifier.changes()),
        }
    }

    /// Looks at the files without end.
    pub(crate) async fn watch_files(&self) {
        match self {
            Self::Open(_) => std::future::pending().await,
            Self::Tokens(verifier) => verifier.watch_files().await,
        }
    }
}
