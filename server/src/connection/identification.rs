//! Identifies a session's client, off the session's own task: a key may have to be fetched first. Keeps the
//! token, and verifies it again when the configuration changes.

use std::sync::Arc;
use std::time::Duration;

use landfall_protocol::access::{IdentifyError, Principal};
use landfall_protocol::frame::Token;
use landfall_protocol::{Moment, limits as shared};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout};

use super::Connection;
use super::relay_state::RelayState;
use crate::clock::now_ms;
use crate::memory::{Account, Grant};
use crate::quota::{NoneLeft, One};

/// The shortest wait before a token that could not be verified is verified again.
const LEAST_RETRY: Duration = Duration::from_secs(1);

/// The result of an identification.
pub(crate) type Identified = Result<Arc<Principal>, IdentifyError>;

/// The identification of one session's client: at most one runs at a time.
pub(crate) struct Identification {
    relay: Arc<RelayState>,
    account: Account,
    task: Option<JoinHandle<Identified>>,
    /// The token that is being verified.
    current: Option<Token>,
    /// The token to verify after it; an earlier one is replaced.
    next: Option<Token>,
    /// The token that was accepted last, with its memory.
    accepted: Option<(Token, Grant)>,
    /// When to verify it again although nothing changed: it could not be verified.
    retry: Option<Instant>,
    /// `None` where clients need no token.
    changes: Option<watch::Receiver<u64>>,
    /// Held until the client is identified.
    unidentified: Option<One>,
}

impl Drop for Identification {
    fn drop(&mut self) {
        self.task.iter().for_each(JoinHandle::abort);
    }
}

impl Identification {
    /// Of a new session. Takes a place among those whose client is not yet identified, unless clients need
    /// no token.
    pub(crate) fn new(relay: &Arc<RelayState>, account: &Account) -> Result<Self, NoneLeft> {
        let changes = relay.identities.changes();
        let unidentified = changes.as_ref().map(|_| relay.unidentified.take(account.share()));
        let mut identification = Self::idle(relay, account);
        identification.unidentified = unidentified.transpose()?;
        identification.changes = changes;
        Ok(identification)
    }

    /// Of a session that is refused before its client is identified.
    pub(crate) fn idle(relay: &Arc<RelayState>, account: &Account) -> Self {
        Self {
            relay: Arc::clone(relay),
            account: account.clone(),
            task: None,
            current: None,
            next: None,
            accepted: None,
            retry: None,
            changes: None,
            unidentified: None,
        }
    }

    /// Verifies a token, after the one that is being verified.
    pub(crate) fn start(&mut self, token: Option<Token>) {
        if self.task.is_some() {
            self.next = token;
            return;
        }
        self.current.clone_from(&token);
        let relay = Arc::clone(&self.relay);
        self.task = Some(tokio::spawn(async move {
            let token = token.as_ref().map(|token| token.token.as_slice());
            let identified = timeout(shared::IDENTIFY, relay.identities.identify(token)).await;
            identified.unwrap_or_else(|_| Err(unavailable("the token was not verified in time")))
        }));
    }

    /// Waits for the next result, also of the accepted token after a change of the configuration. Pends
    /// forever if there will be none. Cancel-safe.
    pub(crate) async fn done(&mut self) -> Identified {
        loop {
            let Some(task) = &mut self.task else {
                self.verification_due().await;
                self.retry = None;
                if let Some((token, _)) = &self.accepted {
                    self.start(Some(token.clone()));
                }
                continue;
            };
            let identified = task.await;
            self.task = None;
            let identified = identified
                .unwrap_or_else(|_| Err(unavailable("the verification of the token failed")));
            let identified = identified.and_then(|principal| self.accept(principal));
            if let Err(IdentifyError::Unavailable { retry_after, .. }) = &identified {
                self.retry = Some(Instant::now() + (*retry_after).max(LEAST_RETRY));
            }
            if let Some(next) = self.next.take() {
                self.start(Some(next));
            }
            return identified;
        }
    }

    /// Waits until the accepted token must be verified again.
    async fn verification_due(&mut self) {
        let Some(changes) = &mut self.changes else { return std::future::pending().await };
        let retry = self.retry;
        tokio::select! {
            changed = changes.changed() => if changed.is_err() {
                self.changes = None;
            },
            () = async { sleep_until(retry.unwrap_or_else(Instant::now)).await }, if retry.is_some() => {}
        }
    }

    /// Keeps the accepted token for the next verification. The one before it stays until there is memory
    /// for the new one: a session without a token would escape its revocation.
    fn accept(&mut self, principal: Arc<Principal>) -> Identified {
        self.unidentified = None;
        let is_kept = |token: &Token| self.accepted.as_ref().is_some_and(|(kept, _)| kept == token);
        if let Some(token) = self.current.take().filter(|token| !is_kept(token)) {
            let grant = self.account.reserve_state(token.token.len());
            let grant = grant.ok_or_else(|| unavailable("the relay has no memory for a token"))?;
            self.accepted = Some((token, grant));
        }
        Ok(principal)
    }
}

fn unavailable(what: &str) -> IdentifyError {
    IdentifyError::Unavailable { what: what.to_owned(), retry_after: Duration::from_secs(5) }
}

/// When a principal's token expires, by the connection's clock.
pub(crate) fn expires(connection: &Connection, principal: &Principal) -> Option<Moment> {
    let left = |expires: u64| Duration::from_millis(expires.saturating_sub(now_ms()));
    principal.expires_ms.map(|expires| connection.now().after(left(expires)))
}
