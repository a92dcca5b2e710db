//! Identifies a session's client, off the session's own task: a key may have to be fetched first.

use std::sync::Arc;
use std::time::Duration;

use landfall_protocol::access::{IdentifyError, Principal};
use landfall_protocol::frame::Token;
use landfall_protocol::{Code, ReplicaId, limits as shared};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::NativeDriver;
use crate::clock::now_ms;
use crate::connection::RelayState;
use crate::connection::bindings::{Binding, InUse};
use crate::memory::ShareKey;
use crate::quota::{NoneLeft, One};

/// The result of an identification.
pub(super) type Identified = Result<Arc<Principal>, IdentifyError>;

/// The identification in progress, at most one.
#[derive(Default)]
pub(super) struct Identification {
    task: Option<JoinHandle<Identified>>,
    /// Held until the client is identified.
    unidentified: Option<One>,
    /// The client's replica.
    binding: Option<Binding<ReplicaId>>,
}

impl Drop for Identification {
    fn drop(&mut self) {
        self.task.iter().for_each(JoinHandle::abort);
    }
}

impl Identification {
    /// Takes a place among the sessions whose client is not yet identified, unless no client needs to be.
    pub(super) fn begin(&mut self, relay: &RelayState, share: ShareKey) -> Result<(), NoneLeft> {
        if !relay.identities.is_open() {
            self.unidentified = Some(relay.unidentified.take(share)?);
        }
        Ok(())
    }

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
    /// Ends the session at once if too many clients wait to be identified.
    pub(super) fn begin_identification(&mut self) {
        let share = self.connection.account.share();
        if let Err(NoneLeft(limit)) = self.identification.begin(&self.connection.relay, share) {
            let what = format!("{limit} connections wait for their clients to be identified");
            self.machine.fail(Code::OVERLOADED, what, "connect again later");
        }
    }

    pub(super) fn identify(&mut self, token: Option<Token>) {
        self.identification.start(Arc::clone(&self.connection.relay), token);
    }

    pub(super) fn handle_identified(&mut self, identified: Identified) {
        let identified = identified.and_then(|principal| self.bind(principal));
        let expires = identified.as_ref().ok().and_then(|principal| principal.expires_ms);
        let left = |expires: u64| Duration::from_millis(expires.saturating_sub(now_ms()));
        let until = expires.map(|expires| self.connection.now().after(left(expires)));
        if let Ok(principal) = &identified {
            self.uploads.handle_identified(principal.subject.clone());
            self.identification.unidentified = None;
        }
        self.machine.handle_identified(identified, until);
    }

    /// Binds the client's replica to its principal.
    fn bind(&mut self, principal: Arc<Principal>) -> Identified {
        let (Some(replica), Some(subject)) = (self.machine.replica(), &principal.subject) else {
            return Ok(principal);
        };
        // A renewed token of the same subject adds a use of the same binding.
        match self.connection.relay.replicas.bind(replica, Some(subject)) {
            Ok(binding) => {
                self.identification.binding = Some(binding);
                Ok(principal)
            }
            Err(InUse) => Err(IdentifyError::Rejected {
                what: "another principal uses this replica now".to_owned(),
                hint: "give each principal a store of its own, or connect again once the other \
                       has signed out"
                    .to_owned(),
            }),
        }
    }
}
