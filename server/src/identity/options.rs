//! How clients are identified, and why it cannot be configured so.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

use super::access_file::ConfigFileError;
use super::keys::KeyError;
use crate::limits;

/// How clients are identified. By default they are not: every client may do everything.
#[derive(Debug, Clone)]
pub struct IdentityOptions {
    /// The file of a shared secret for HS256. Default none.
    pub secret: Option<PathBuf>,
    /// A file of public keys, in PEM or as a JSON Web Key Set. Default none.
    pub keys: Option<PathBuf>,
    /// The `iss` of tokens that are verified with `secret` or `keys`.
    pub issuer: Option<String>,
    /// The URL of an OpenID Connect issuer, whose keys are fetched, as its tokens' `iss` has it.
    /// Default none.
    pub oidc_issuer: Option<String>,
    /// Certificates in PEM that are trusted for it besides the system's. Default none.
    pub oidc_ca: Option<PathBuf>,
    /// How long a fetch of its keys may take. Default 4 s. Longer than
    /// [`IDENTIFY`](landfall_protocol::limits::IDENTIFY) it is in vain for the client that waits.
    pub issuer_timeout: Duration,
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
            oidc_issuer: None,
            oidc_ca: None,
            issuer_timeout: limits::ISSUER_FETCH,
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
        self.has_file_keys() || self.oidc_issuer.is_some()
    }

    pub(super) fn has_file_keys(&self) -> bool {
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
    /// The issuer's URL cannot be used.
    #[error("{issuer} is not the URL of an issuer: {what}")]
    Issuer {
        /// The URL.
        issuer: String,
        /// Why.
        what: String,
    },
    /// A file of certificates cannot be used.
    #[error("{}: {what}", file.display())]
    Certificates {
        /// The file.
        file: PathBuf,
        /// Why.
        what: String,
    },
    /// Our bug, or the build's: TLS has no usable version.
    #[error("TLS cannot be used: {what}")]
    Tls {
        /// Why.
        what: String,
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
            Self::Issuer { .. } => {
                "give the issuer's https:// URL exactly as its tokens have it in `iss`"
            }
            Self::Certificates { .. } => "give certificates in PEM",
            Self::Tls { .. } => "please report this",
        }
    }
}
