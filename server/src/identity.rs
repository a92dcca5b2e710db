//! Who a client is, as its token says.

use std::sync::Arc;

use landfall_protocol::access::{IdentifyError, Principal};

/// Identifies clients.
#[derive(Debug)]
pub(crate) enum Identities {
    /// No authentication is configured: every client may do everything.
    Open(Arc<Principal>),
}

impl Identities {
    /// Identifies any client as one that may do everything.
    pub(crate) fn open() -> Self {
        Self::Open(Arc::new(Principal::open()))
    }

    /// Whether clients need a token.
    pub(crate) fn is_open(&self) -> bool {
        matches!(self, Self::Open(_))
    }

    /// Verifies a token. May wait for a key.
    pub(crate) async fn identify(
        &self,
        _token: Option<&[u8]>,
    ) -> Result<Arc<Principal>, IdentifyError> {
        match self {
            Self::Open(principal) => Ok(Arc::clone(principal)),
        }
    }
}
