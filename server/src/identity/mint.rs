//! Tokens for development, signed with the shared secret. In production an issuer signs tokens: who
//! has the secret can be anyone.

use std::path::PathBuf;
use std::time::Duration;

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use landfall_protocol::access::{Rights, SpacePattern, UnknownRight};
use serde_json::json;
use thiserror::Error;

use super::keys::{KeyError, secret_of};
use crate::{clock, limits};

/// The claims of a token.
#[derive(Debug, Clone)]
pub struct MintOptions {
    /// The file of the shared secret.
    pub secret: PathBuf,
    /// The `iss`.
    pub issuer: String,
    /// The `aud`.
    pub audience: String,
    /// The `sub`.
    pub subject: String,
    /// The groups.
    pub groups: Vec<String>,
    /// The claim that lists the groups.
    pub groups_claim: String,
    /// The spaces of its rules, such as `team-*`. With none the token has no rules.
    pub spaces: Vec<SpacePattern>,
    /// The names of the rights on each of them.
    pub rights: Vec<String>,
    /// How long it is valid.
    pub expires: Duration,
}

/// Why no token was made.
#[derive(Debug, Error)]
pub enum MintError {
    /// The secret's file cannot be read.
    #[error("{} cannot be read: {source}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The secret is too short.
    #[error(transparent)]
    Secret(#[from] KeyError),
    /// Not a right.
    #[error(transparent)]
    Right(#[from] UnknownRight),
    /// The system gave no randomness for the token's id.
    #[error("the system gave no randomness: {0}")]
    Randomness(getrandom::Error),
    /// The library could not sign.
    #[error("the token could not be signed: {0}")]
    Sign(jsonwebtoken::errors::Error),
}

/// A token with these claims.
///
/// # Errors
///
/// See [`MintError`].
pub fn mint(options: &MintOptions) -> Result<String, MintError> {
    let _ = jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER.install_default();
    let content = std::fs::read(&options.secret)
        .map_err(|source| MintError::Read { file: options.secret.clone(), source })?;
    let secret = secret_of(&content);
    if secret.len() < limits::SECRET_BYTES {
        return Err(KeyError::ShortSecret { actual: secret.len() }.into());
    }
    options.rights.iter().try_for_each(|right| right.parse::<Rights>().map(drop))?;
    let mut id = [0; 16];
    getrandom::fill(&mut id).map_err(MintError::Randomness)?;
    let now = clock::now_ms() / 1_000;
    let rule =
        |spaces: &SpacePattern| json!({ "spaces": spaces.to_string(), "rights": options.rights });
    let rules: Vec<_> = options.spaces.iter().map(rule).collect();
    let mut claims = json!({
        "iss": options.issuer,
        "aud": options.audience,
        "sub": options.subject,
        "iat": now,
        "exp": now.saturating_add(options.expires.as_secs()),
        "jti": hex::encode(id),
    });
    if !options.groups.is_empty() {
        claims[&options.groups_claim] = json!(options.groups);
    }
    if !rules.is_empty() {
        claims[super::rules::CLAIM] = json!(rules);
    }
    let key = EncodingKey::from_secret(secret).map_err(MintError::Sign)?;
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &key).map_err(MintError::Sign)
}
