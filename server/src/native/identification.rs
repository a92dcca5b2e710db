//! Identifies a session's client, off the session's own task: a key may have to be fetched first.

use std::sync::Arc;
use std::time::Duration;

use landfall_protocol::access::{IdentifyError, Principal};
use landfall_protocol::frame::Token;
use landfall_protocol::limits as shared;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::NativeDriver;
use crate::clock::now_ms;
use crate::connection::RelayState;

/// The result of an identification.
pub(super) type Identified = Result<Arc<Principal>, IdentifyError>;

/// The identification in progress, at most one.
#[derive(Default)]
pub(super) struct Identification {
    task: Option<JoinHandle<Identified>>,
}

impl Drop for Identification {
    fn drop(&mut self) {
        self.task.iter().for_each(JoinHandle::abort);
    }
}

impl Identification {
    fn start(&mut self, relay: Arc<RelayState>, token: Option<Token>) {
        self.task = Some(tokio::spawn(async move {
            let token = token.as_ref().map(|token| token.token.as_slice());
            let identified = timeout(shared::IDENTIFY, relay.identities.identify(token)).await;
            identified.unwrap_or_else(|_| Err(unavailable("the token was not verified in time")))
        }));
    }

    /// Waits for the result; pends forever if nothing is in progress.
    pub(super) async fn done(&mut self) -> Identified {
        let Some(task) = &mut self.task else { return std::future::pending().await };
        let identified = task.await;
        self.task = None;
        identified.unwrap_or_else(|_| Err(unavailable("the verification of the token failed")))
    }
}

fn unavailable(what: &str) -> IdentifyError {
    IdentifyError::Unavailable { what: what.to_owned(), retry_after: Duration::from_secs(5) }
}

impl NativeDriver {
    pub(super) fn identify(&mut self, token: Option<Token>) {
        self.identification.start(Arc::clone(&self.connection.relay), token);
    }

    pub(super) fn handle_identified(&mut self, identified: Identified) {
        let expires = identified.as_ref().ok().and_then(|principal| principal.expires_ms);
        let left = |expires: u64| Duration::from_millis(expires.saturating_sub(now_ms()));
        let until = expires.map(|expires| self.connection.now().after(left(expires)));
        self.machine.handle_identified(identified, until);
    }
}
