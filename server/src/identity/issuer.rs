//! The keys of an OpenID Connect issuer, found by discovery and fetched again when they are old or when
//! a token names an unknown key.
//!
//! One fetch runs at a time, and begins at most every [`limits::ISSUER_PACE`] for the whole relay, so
//! that tokens with invented key ids cost the issuer nothing. Without an answer the known keys serve
//! until they are [`limits::ISSUER_STALE`] old. A key that may exist but cannot be had now makes a token
//! neither accepted nor rejected: the relay answers when to try again.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde::Deserialize;
use thiserror::Error;
use tokio::sync::watch;
use tokio::time::timeout;
use url::Url;

use super::clock::Clock;
use super::http_client::{FetchError, HttpClient, check_scheme};
use super::keys::{KeyError, KeySet};
use super::{IdentityError, IdentityOptions};
use crate::limits;

/// The issuer, and what is known of its keys.
#[derive(Clone)]
pub(super) struct Issuer {
    shared: Arc<Shared>,
}

struct Shared {
    /// The issuer as tokens name it.
    name: String,
    discovery: Url,
    client: HttpClient,
    clock: Arc<dyn Clock>,
    /// Of one fetch, discovery and keys together.
    timeout: Duration,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    known: Option<Known>,
    /// How many fetches have begun.
    fetches: u64,
    /// When the last one began.
    began: Option<Duration>,
    /// The fetch in progress: its sender is dropped when it ends, even by a panic.
    in_progress: Option<watch::Receiver<()>>,
}

/// Keys, and the fetch that brought them.
struct Known {
    keys: Arc<KeySet>,
    fetch: u64,
    /// When that fetch began, by the monotonic clock.
    began: Duration,
}

/// The keys that could verify a token cannot be had now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct KeysUnavailable {
    pub(super) retry_after: Duration,
}

/// Why a fetch brought no keys.
#[derive(Debug, Error)]
enum RefreshError {
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error("the issuer did not answer within {0:?}")]
    Timeout(Duration),
    #[error("the issuer's configuration cannot be read: {0}")]
    Discovery(serde_json::Error),
    #[error("the configuration is of another issuer: {0:?}")]
    OtherIssuer(String),
    #[error("the configuration's `jwks_uri` is not a URL: {0}")]
    KeysUrl(url::ParseError),
    #[error(transparent)]
    Keys(#[from] KeyError),
}

impl Issuer {
    pub(super) fn new(
        name: &str,
        options: &IdentityOptions,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, IdentityError> {
        let unusable = |what: String| IdentityError::Issuer { issuer: name.to_owned(), what };
        let url = Url::parse(name).map_err(|error| unusable(error.to_string()))?;
        check_scheme(&url).map_err(|error| unusable(error.to_string()))?;
        if url.query().is_some() || url.fragment().is_some() || !url.username().is_empty() {
            return Err(unusable("it has more than a host and a path".to_owned()));
        }
        let discovery = format!("{}/.well-known/openid-configuration", name.trim_end_matches('/'));
        let discovery = Url::parse(&discovery).map_err(|error| unusable(error.to_string()))?;
        let shared = Shared {
            name: name.to_owned(),
            discovery,
            client: HttpClient::new(options.oidc_ca.as_deref())?,
            clock,
            timeout: options.issuer_timeout,
            state: Mutex::default(),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// The issuer as tokens name it.
    pub(super) fn name(&self) -> &str {
        &self.shared.name
    }

    /// Keys to verify a token with that names this key: known ones, or those of a fetch that began
    /// after the question.
    pub(super) async fn keys(&self, id: Option<&str>) -> Result<Arc<KeySet>, KeysUnavailable> {
        let (asked_at, in_progress) = {
            let mut state = self.shared.state.lock();
            let now = self.shared.clock.monotonic();
            if let Some(known) = state.younger_than(limits::ISSUER_FRESH, now)
                && known.keys.has(id)
            {
                return Ok(Arc::clone(&known.keys));
            }
            (state.fetches, self.fetch(&mut state, now))
        };
        if let Some(mut in_progress) = in_progress {
            // An error means that the fetch ended: nothing is ever sent.
            let _ = in_progress.changed().await;
        }
        let state = self.shared.state.lock();
        let now = self.shared.clock.monotonic();
        match state.younger_than(limits::ISSUER_STALE, now) {
            Some(known) if known.keys.has(id) || known.fetch > asked_at => {
                Ok(Arc::clone(&known.keys))
            }
            _ => Err(KeysUnavailable { retry_after: state.next_fetch(now).max(MIN_RETRY) }),
        }
    }

    /// The fetch in progress, or a new one if the last one began long enough ago.
    fn fetch(&self, state: &mut State, now: Duration) -> Option<watch::Receiver<()>> {
        let running = state.in_progress.clone().filter(|fetch| fetch.has_changed().is_ok());
        if running.is_some() || !state.next_fetch(now).is_zero() {
            return running;
        }
        state.fetches += 1;
        state.began = Some(now);
        let (ends, in_progress) = watch::channel(());
        state.in_progress = Some(in_progress.clone());
        let (shared, fetch) = (Arc::clone(&self.shared), state.fetches);
        // A task of its own: it goes on if the client that caused it hangs up.
        tokio::spawn(async move {
            shared.refresh(fetch, now).await;
            drop(ends);
        });
        Some(in_progress)
    }
}

/// A client that may try again at once would only add to the load.
const MIN_RETRY: Duration = Duration::from_secs(1);

impl State {
    fn younger_than(&self, age: Duration, now: Duration) -> Option<&Known> {
        self.known.as_ref().filter(|known| now.saturating_sub(known.began) < age)
    }

    /// The time until another fetch may begin.
    fn next_fetch(&self, now: Duration) -> Duration {
        let since = |began: Duration| now.saturating_sub(began);
        self.began.map_or(Duration::ZERO, |began| limits::ISSUER_PACE.saturating_sub(since(began)))
    }
}

impl Shared {
    async fn refresh(&self, fetch: u64, began: Duration) {
        let fetched = timeout(self.timeout, self.fetch_keys()).await;
        match fetched.unwrap_or(Err(RefreshError::Timeout(self.timeout))) {
            Ok(keys) => {
                tracing::debug!(issuer = self.name, "fetched the issuer's keys");
                let keys = Arc::new(keys);
                self.state.lock().known = Some(Known { keys, fetch, began });
            }
            Err(error) => {
                let known = self.state.lock().known.as_ref().map(|known| known.began);
                let age = known.map(|known| began.saturating_sub(known));
                tracing::warn!(
                    issuer = self.name,
                    %error,
                    age_of_known_keys = ?age,
                    "cannot fetch the issuer's keys"
                );
            }
        }
    }

    async fn fetch_keys(&self) -> Result<KeySet, RefreshError> {
        #[derive(Deserialize)]
        struct Configuration {
            issuer: String,
            jwks_uri: String,
        }
        let body = self.client.get(&self.discovery).await?;
        let configuration: Configuration =
            serde_json::from_slice(&body).map_err(RefreshError::Discovery)?;
        // OpenID Connect Discovery 1.0 section 4.3: otherwise one issuer could speak for another.
        if configuration.issuer != self.name {
            let other = configuration.issuer.chars().take(limits::SHOWN_HEADER_BYTES).collect();
            return Err(RefreshError::OtherIssuer(other));
        }
        let keys_url = Url::parse(&configuration.jwks_uri).map_err(RefreshError::KeysUrl)?;
        if self.discovery.scheme() == "https" && keys_url.scheme() != "https" {
            return Err(FetchError::Scheme(keys_url.to_string()).into());
        }
        Ok(KeySet::of_jwks(&self.client.get(&keys_url).await?)?)
    }
}
