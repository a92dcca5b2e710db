//! Who a client is: JSON Web Tokens become principals with rules. It knows files, keys, the issuer
//! and the clock; it must not know sessions, frames or the store.
//!
//! | module | what it holds |
//! |---|---|
//! | `token`, `claims` | one token: header, signature, and the claims that every token needs |
//! | `rules`, `access_file` | rules in the token and in the configuration |
//! | `keys`, `issuer` | the keys of files, and those of an OpenID Connect issuer |
//! | `revoked` | revoked tokens |
//! | `watched`, `http_client`, `clock` | what they are read with |
//! | `mint` | tokens for development |
//!
//! Decision: `docs/decisions/0101-json-web-tokens.md`.

mod access_file;
mod claims;
mod clock;
mod keys;
mod mint;
mod revoked;
mod rules;
mod token;
mod watched;

#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use landfall_protocol::access::{IdentifyError, Principal, Subject};
use landfall_protocol::limits as shared;
use thiserror::Error;

pub use access_file::ConfigFileError;
pub use keys::KeyError;
pub use mint::{MintError, MintOptions, mint};

use crate::limits;
use access_file::AccessRules;
use claims::{Checked, Claims, Expected};
use clock::{Clock, SystemClock};
use keys::KeySet;
use revoked::Revoked;
use token::{TokenError, Unverified};
use watched::WatchedFile;

/// How clients are identified. By default they are not: every client may do everything.
#[derive(Debug, Clone)]
pub struct IdentityOptions {
    /// The file of a shared secret for HS256. Default none.
    pub secret: Option<PathBuf>,
    /// A file of public keys, in PEM or as a JSON Web Key Set. Default none.
    pub keys: Option<PathBuf>,
    /// The `iss` of tokens that are verified with `secret` or `keys`.
    pub issuer: Option<String>,
    /// The `aud` that names this relay.
    pub audience: Option<String>,
    /// The access file. Default none: only the tokens' own rules apply.
    pub access: Option<PathBuf>,
    /// The claim that lists the groups. Default `groups`.
    pub groups_claim: String,
    /// The file of revoked tokens. Default none.
    pub revoked: Option<PathBuf>,
}

impl Default for IdentityOptions {
    fn default() -> Self {
        Self {
            secret: None,
            keys: None,
            issuer: None,
            audience: None,
            access: None,
            groups_claim: "groups".to_owned(),
            revoked: None,
        }
    }
}

impl IdentityOptions {
    /// Whether clients need a token.
    pub fn is_required(&self) -> bool {
        self.secret.is_some() || self.keys.is_some()
    }
}

/// Why identification cannot be configured so.
#[derive(Debug, Clone, Error)]
pub enum IdentityError {
    /// An option is missing that others need.
    #[error("{0} is missing")]
    Incomplete(&'static str),
    /// A file cannot be read.
    #[error("{} cannot be read: {source}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// Why.
        source: Arc<io::Error>,
    },
    /// A file is too large for what it should hold.
    #[error("{} has more than {max_bytes} bytes", file.display())]
    TooLarge {
        /// The file.
        file: PathBuf,
        /// The limit.
        max_bytes: u64,
    },
    /// A file of keys or a secret cannot be used.
    #[error("{}: {source}", file.display())]
    Keys {
        /// The file.
        file: PathBuf,
        /// Why.
        source: KeyError,
    },
    /// An access file or a list of revoked tokens cannot be used.
    #[error("{}: {source}", file.display())]
    Config {
        /// The file.
        file: PathBuf,
        /// Why, and where.
        source: ConfigFileError,
    },
}

impl IdentityError {
    /// The remedy.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Incomplete(_) => {
                "every token is checked for its issuer and its audience: name both"
            }
            Self::Read { .. } => "check that it exists and that the relay may read it",
            Self::TooLarge { .. } => "name the right file, or make it smaller",
            Self::Keys { source, .. } => source.hint(),
            Self::Config { .. } => {
                "correct the file; docs/operations.md, section Identity, shows its form"
            }
        }
    }
}

/// Identifies clients.
pub(crate) enum Identities {
    /// No authentication is configured: every client may do everything.
    Open(Arc<Principal>),
    /// Clients need a token.
    Tokens(Box<Tokens>),
}

/// What tokens are verified with.
pub(crate) struct Tokens {
    secret: Option<Arc<WatchedFile<KeySet>>>,
    keys: Option<Arc<WatchedFile<KeySet>>>,
    issuer: String,
    audience: String,
    access: Option<Arc<WatchedFile<AccessRules>>>,
    groups_claim: String,
    revoked: Option<Arc<WatchedFile<Revoked>>>,
    clock: Arc<dyn Clock>,
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
        Ok(Self::Tokens(Box::new(Tokens::open(options, clock)?)))
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
            Self::Tokens(tokens) => tokens.identify(token).await,
        }
    }
}

impl Tokens {
    fn open(options: &IdentityOptions, clock: Arc<dyn Clock>) -> Result<Self, IdentityError> {
        // Another crate of the process may select the library's other implementation as well, and the
        // library then has no default. An error means that a provider is installed already.
        let _ = jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER.install_default();
        let now = clock.monotonic();
        let missing = IdentityError::Incomplete;
        let key_file = |path: &Option<PathBuf>, parse| {
            let open = |path: &PathBuf| WatchedFile::open(path, limits::KEYS_BYTES, parse, now);
            path.as_ref().map(open).transpose()
        };
        let access = |path| WatchedFile::open(path, limits::ACCESS_BYTES, parse_access, now);
        let revoked = |path| WatchedFile::open(path, limits::REVOKED_BYTES, parse_revoked, now);
        Ok(Self {
            secret: key_file(&options.secret, parse_secret)?,
            keys: key_file(&options.keys, parse_keys)?,
            issuer: options.issuer.clone().ok_or(missing("--jwt-issuer"))?,
            audience: options.audience.clone().ok_or(missing("--jwt-audience"))?,
            access: options.access.as_deref().map(access).transpose()?,
            groups_claim: options.groups_claim.clone(),
            revoked: options.revoked.as_deref().map(revoked).transpose()?,
            clock,
        })
    }

    async fn identify(&self, token: Option<&[u8]>) -> Result<Arc<Principal>, IdentifyError> {
        let identified = self.principal(token).await;
        identified.map(Arc::new).map_err(|error| {
            tracing::debug!(reason = %error, "rejected a token");
            IdentifyError::Rejected { what: error.to_string(), hint: error.hint().to_owned() }
        })
    }

    async fn principal(&self, token: Option<&[u8]>) -> Result<Principal, TokenError> {
        let token = Unverified::read(token.ok_or(TokenError::Missing)?)?;
        let claims = token.verify(&*self.file_keys().await)?;
        let expected = Expected {
            issuer: &self.issuer,
            audience: &self.audience,
            now_ms: self.clock.unix_ms(),
        };
        let checked = claims.check(&expected)?;
        if let Some(revoked) = &self.revoked {
            revoked.current(self.clock.monotonic()).await.check(&checked)?;
        }
        self.principal_of(&claims, &checked).await
    }

    /// The keys of both files.
    async fn file_keys(&self) -> Arc<KeySet> {
        let now = self.clock.monotonic();
        match (&self.secret, &self.keys) {
            (Some(secret), Some(keys)) => {
                let secret = secret.current(now).await;
                Arc::new(secret.joined(&*keys.current(now).await))
            }
            (Some(one), None) | (None, Some(one)) => one.current(now).await,
            (None, None) => Arc::default(),
        }
    }

    /// The union of the rules in the token and in the configuration.
    async fn principal_of(
        &self,
        claims: &Claims,
        checked: &Checked,
    ) -> Result<Principal, TokenError> {
        let groups = rules::groups(claims.get(&self.groups_claim), &self.groups_claim)?;
        let mut rules = rules::of_claim(claims.get(rules::CLAIM))?;
        if let Some(access) = &self.access {
            let access = access.current(self.clock.monotonic()).await;
            rules.extend(access.applying(&checked.subject, &groups));
        }
        rules.sort();
        rules.dedup();
        if rules.len() > shared::PRINCIPAL_RULES {
            return Err(TokenError::TooManyRules { actual: rules.len() });
        }
        Ok(Principal {
            subject: Some(Subject::new(&checked.subject)),
            groups: groups.into_iter().collect(),
            rules,
            expires_ms: Some(checked.ends_ms),
        })
    }
}

fn parse_secret(file: &Path, content: &[u8]) -> Result<KeySet, IdentityError> {
    KeySet::of_secret(content)
        .map_err(|source| IdentityError::Keys { file: file.to_owned(), source })
}

fn parse_keys(file: &Path, content: &[u8]) -> Result<KeySet, IdentityError> {
    KeySet::of_file(content).map_err(|source| IdentityError::Keys { file: file.to_owned(), source })
}

fn parse_access(file: &Path, content: &[u8]) -> Result<AccessRules, IdentityError> {
    AccessRules::parse(content)
        .map_err(|source| IdentityError::Config { file: file.to_owned(), source })
}

fn parse_revoked(file: &Path, content: &[u8]) -> Result<Revoked, IdentityError> {
    Revoked::parse(content)
        .map_err(|source| IdentityError::Config { file: file.to_owned(), source })
}
