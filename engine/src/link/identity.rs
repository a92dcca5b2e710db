//! The link's identity: the token of a connection, its renewal, and what follows from a refusal.

use std::future::Future;
use std::pin::Pin;
use std::time::{Duration, Instant};

use super::commands::RelayTarget;
use super::run::sleep_until;
use super::socket::{Socket, SocketError, connect};
use crate::limits::LEAST_RENEWAL;
use crate::token::{NoToken, Token, TokenProvider};

/// Why no connection was made.
pub(super) enum NoConnection {
    Token(NoToken),
    Socket(SocketError),
}

/// Asks for the token, and then connects: the relay waits only a short time for a client's hello.
pub(super) async fn open(target: &RelayTarget) -> Result<(Socket, Option<Token>), NoConnection> {
    let within = target.timings.patience.handshake;
    let token = match &target.token {
        Some(provider) => Some(provider.clone().ask(within).await.map_err(NoConnection::Token)?),
        None => None,
    };
    let socket = connect(&target.address, within).await.map_err(NoConnection::Socket)?;
    Ok((socket, token))
}

/// What the wanted relay and the provider say about this client's identity.
#[derive(Debug, Default)]
pub(super) struct Identity {
    /// Refusals by the relay in a row, without a session between them.
    refusals: u32,
    signed_out: bool,
}

impl Identity {
    /// The relay refused a token. Returns whether to ask the provider once more and connect at once;
    /// otherwise the client is signed out.
    pub(super) fn handle_refusal(&mut self, has_provider: bool) -> bool {
        self.refusals = self.refusals.saturating_add(1);
        let again = has_provider && self.refusals == 1;
        self.signed_out |= !again;
        again
    }

    /// The provider reports that the person is signed out.
    pub(super) fn handle_signed_out(&mut self) {
        self.signed_out = true;
    }

    pub(super) fn is_signed_out(&self) -> bool {
        self.signed_out
    }

    /// The application wants an attempt: the provider may be asked twice again.
    pub(super) fn handle_hurry(&mut self) {
        self.refusals = 0;
    }
}

type Asking = Pin<Box<dyn Future<Output = Result<Token, NoToken>> + Send>>;

/// The renewal of a session's token.
pub(super) struct Renewal {
    provider: Option<TokenProvider>,
    within: Duration,
    /// The wait after a failed renewal.
    retry: Duration,
    due: Option<Instant>,
    asking: Option<Asking>,
}

impl Renewal {
    /// Begins a session with a token that is to be renewed after `after`.
    pub(super) fn new(target: &RelayTarget, after: Option<Duration>) -> Self {
        let (provider, within) = (target.token.clone(), target.timings.patience.handshake);
        let retry = target.timings.reconnect_most.max(LEAST_RENEWAL);
        Self { provider, within, retry, due: due(after), asking: None }
    }

    /// Waits until a renewal is due, asks the provider, and returns the new token. It can be dropped
    /// and called again at any time. A failed renewal is repeated, while the session goes on with its
    /// present token.
    pub(super) async fn next(&mut self) -> Vec<u8> {
        loop {
            if let Some(asking) = &mut self.asking {
                let answer = asking.await;
                self.asking = None;
                match answer {
                    Ok(token) => {
                        let (bytes, after) = token.into_parts();
                        self.due = due(after);
                        return bytes;
                    }
                    Err(error) => {
                        tracing::warn!(%error, "the token was not renewed; trying again later");
                        self.due = due(Some(self.retry));
                    }
                }
            }
            sleep_until(self.due).await;
            self.due = None;
            self.asking =
                self.provider.clone().map(|provider| Box::pin(provider.ask(self.within)) as Asking);
        }
    }
}

fn due(after: Option<Duration>) -> Option<Instant> {
    Instant::now().checked_add(after?.max(LEAST_RENEWAL))
}
