//! Tokens: who this client is, for relays that require authentication. The application supplies them
//! through a [`TokenProvider`], whose code never runs on a thread of the store.

use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use landfall_protocol::{error_chain, limits};
use thiserror::Error;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::{Instant, timeout_at};

use crate::failure::BoxError;

/// A token that authenticates this client to the relay. Its `Debug` output does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    bytes: Vec<u8>,
    renew_after: Option<Duration>,
}

impl Token {
    /// A token: the bytes that the relay checks, such as a JSON Web Token. At most 16 KiB.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self { bytes: bytes.into(), renew_after: None }
    }

    /// Sets the time from now after which the provider is asked for the next token, while the
    /// connection stays open; at least 1 s. Choose it a little before the token expires. Default: never
    /// renewed. The relay then ends the session when the token expires, and the link asks the provider
    /// and connects again.
    #[must_use]
    pub fn renew_after(mut self, value: Duration) -> Self {
        self.renew_after = Some(value);
        self
    }

    pub(crate) fn into_parts(self) -> (Vec<u8>, Option<Duration>) {
        (self.bytes, self.renew_after)
    }
}

/// Without the token, which must not reach a log.
impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = format_args!("{} bytes", self.bytes.len());
        f.debug_struct("Token")
            .field("bytes", &bytes)
            .field("renew_after", &self.renew_after)
            .finish()
    }
}

/// Why a provider has no token. The status shows the text: it must not contain a token.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TokenError {
    /// The person is signed out, for this reason: the status becomes
    /// [`LinkStatus::SignedOut`](crate::LinkStatus::SignedOut).
    #[error("signed out: {0}")]
    SignedOut(String),
    /// The token could not be had now, for example because its issuer does not answer. The link asks
    /// again before its next attempt.
    #[error(transparent)]
    Failed(BoxError),
}

impl TokenError {
    /// The token could not be had now, for this reason.
    pub fn failed(why: impl Into<BoxError>) -> Self {
        Self::Failed(why.into())
    }
}

type Asked = Pin<Box<dyn Future<Output = Result<Token, TokenError>> + Send>>;

/// Supplies tokens: a fixed one, or an asynchronous function of the application.
///
/// ```
/// use landfall::{LinkOptions, Token, TokenError, TokenProvider};
/// use std::time::Duration;
///
/// // A fixed token.
/// let _ = LinkOptions::new("ws://127.0.0.1:7600").token("my-token");
///
/// // A token from an issuer, renewed while the connection stays open.
/// async fn fetch() -> Result<String, std::io::Error> {
///     Ok("a fresh token".to_owned())
/// }
/// let provider = TokenProvider::new(|| async {
///     let token = fetch().await.map_err(TokenError::failed)?;
///     Ok(Token::new(token).renew_after(Duration::from_secs(50 * 60)))
/// });
/// let _ = LinkOptions::new("ws://127.0.0.1:7600").token(provider);
/// ```
#[derive(Clone)]
pub struct TokenProvider {
    source: Source,
    /// Its one permit belongs to the running call of the application's function: one that blocks would
    /// otherwise cost one more thread with each attempt.
    running: Arc<Semaphore>,
}

#[derive(Clone)]
enum Source {
    Fixed(Token),
    Function(Arc<dyn Fn() -> Asked + Send + Sync>),
}

impl TokenProvider {
    /// A provider that calls an asynchronous function: before each connection attempt, once more if the
    /// relay answers that the token is missing, wrong or expired, and when a token is to be renewed
    /// ([`Token::renew_after`]).
    ///
    /// It runs on a thread of its own, named `landfall-token`, inside a tokio runtime with I/O and time.
    /// It has [`LinkOptions::handshake`](crate::LinkOptions::handshake) (10 s); then its future is
    /// dropped, and the link tries again later. A function that blocks its thread cannot be ended: it
    /// keeps the thread until it returns, and is not called again before that. A panic in it counts as a
    /// failure.
    pub fn new<F, A>(provide: F) -> Self
    where
        F: Fn() -> A + Send + Sync + 'static,
        A: Future<Output = Result<Token, TokenError>> + Send + 'static,
    {
        let function = move || -> Asked { Box::pin(provide()) };
        Self { source: Source::Function(Arc::new(function)), running: Arc::new(Semaphore::new(1)) }
    }

    /// Asks for a token. Dropping the future cancels the request.
    pub(crate) async fn ask(self, within: Duration) -> Result<Token, NoToken> {
        let token = match &self.source {
            Source::Fixed(token) => token.clone(),
            Source::Function(function) => {
                let deadline = Instant::now() + within;
                // A call that was cancelled ends a little later, on its own thread.
                let running = timeout_at(deadline, Arc::clone(&self.running).acquire_owned());
                let running = running.await.ok().and_then(Result::ok).ok_or(NoToken::Blocked)?;
                let (give, answer) = oneshot::channel();
                let function = Arc::clone(function);
                let call = move || call(&*function, give, running);
                let thread = std::thread::Builder::new().name("landfall-token".to_owned());
                thread.spawn(call).map_err(NoToken::Thread)?;
                let answer = timeout_at(deadline, answer).await;
                // A sender that is dropped without an answer is a panic outside of the call itself.
                answer.map_err(|_| NoToken::Late(within))?.unwrap_or(Err(NoToken::Panicked))?
            }
        };
        match token.bytes.len() {
            0 => Err(NoToken::Empty),
            bytes if bytes > limits::TOKEN_BYTES => Err(NoToken::TooLarge { bytes }),
            _ => Ok(token),
        }
    }
}

impl fmt::Debug for TokenProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.source {
            Source::Fixed(token) => f.debug_tuple("TokenProvider").field(token).finish(),
            Source::Function(_) => f.write_str("TokenProvider(function)"),
        }
    }
}

impl From<Token> for TokenProvider {
    fn from(token: Token) -> Self {
        Self { source: Source::Fixed(token), running: Arc::new(Semaphore::new(1)) }
    }
}

impl From<&str> for TokenProvider {
    fn from(token: &str) -> Self {
        Token::new(token).into()
    }
}

impl From<String> for TokenProvider {
    fn from(token: String) -> Self {
        Token::new(token).into()
    }
}

impl From<Vec<u8>> for TokenProvider {
    fn from(token: Vec<u8>) -> Self {
        Token::new(token).into()
    }
}

/// Calls the application's function on the present thread, until it ends or nobody waits for it.
fn call(
    function: &(dyn Fn() -> Asked + Send + Sync),
    mut give: oneshot::Sender<Result<Token, NoToken>>,
    running: OwnedSemaphorePermit,
) {
    let run = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(NoToken::Thread)?;
        let token = runtime.block_on(async {
            let asked = async { function().await.map_err(NoToken::from) };
            tokio::select! {
                token = asked => Some(token),
                () = give.closed() => None,
            }
        });
        // Does not wait for blocking work that the function has begun.
        runtime.shutdown_background();
        token.unwrap_or(Err(NoToken::Panicked))
    };
    // Unwind safety: nothing that the call may have left half done is used afterwards. The panic's
    // message is the application's, and may contain a token.
    let token = catch_unwind(AssertUnwindSafe(run)).unwrap_or(Err(NoToken::Panicked));
    // Before the answer, which may lead to the next call at once.
    drop(running);
    // Nobody may wait for it any more.
    let _ = give.send(token);
}

/// Why there is no token.
#[derive(Debug, Error)]
pub(crate) enum NoToken {
    #[error("{0}")]
    SignedOut(String),
    #[error("the token provider failed: {0}")]
    Failed(String),
    #[error("the token provider did not answer within {0:?}")]
    Late(Duration),
    #[error("the token provider panicked")]
    Panicked,
    #[error("the token provider's previous call blocks its thread and has not returned")]
    Blocked,
    #[error("the token provider's thread could not be started: {0}")]
    Thread(#[source] std::io::Error),
    #[error(
        "the token provider returned a token of {bytes} bytes; at most {} are allowed",
        limits::TOKEN_BYTES
    )]
    TooLarge { bytes: usize },
    #[error("the token provider returned an empty token")]
    Empty,
}

impl From<TokenError> for NoToken {
    fn from(error: TokenError) -> Self {
        match error {
            TokenError::SignedOut(why) => Self::SignedOut(why),
            TokenError::Failed(error) => Self::Failed(error_chain(&*error)),
        }
    }
}
