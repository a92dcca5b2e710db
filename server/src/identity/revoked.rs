//! The list of revoked tokens: single ones by their `jti`, and all those of a subject that were
//! issued before a moment.

use std::collections::{HashMap, HashSet};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Deserialize;

use super::access_file::ConfigFileError;
use super::claims::Checked;
use super::token_error::TokenError;

/// Revoked tokens.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Revoked {
    tokens: HashSet<String>,
    /// The first moment of which tokens are accepted again, in milliseconds of Unix time.
    not_before_ms: HashMap<String, u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    tokens: HashSet<String>,
    #[serde(default)]
    subjects: HashMap<String, Moment>,
}

/// A moment such as `2026-12-01T00:00:00Z`.
struct Moment(u64);

impl<'de> Deserialize<'de> for Moment {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let moment: SystemTime = humantime::parse_rfc3339(&text).map_err(|error| {
            serde::de::Error::custom(format!("{error}; write a time as 2026-12-01T00:00:00Z"))
        })?;
        let since = moment.duration_since(UNIX_EPOCH).unwrap_or_default();
        Ok(Self(u64::try_from(since.as_millis()).unwrap_or(u64::MAX)))
    }
}

impl Revoked {
    pub(super) fn parse(content: &[u8]) -> Result<Self, ConfigFileError> {
        let file: File = serde_json::from_slice(content).map_err(ConfigFileError::of_json)?;
        let not_before_ms =
            file.subjects.into_iter().map(|(subject, moment)| (subject, moment.0)).collect();
        Ok(Self { tokens: file.tokens, not_before_ms })
    }

    /// Whether a token may still be used. A token that does not say when it was issued counts as
    /// issued before any moment.
    pub(super) fn check(&self, token: &Checked) -> Result<(), TokenError> {
        if token.token_id.as_ref().is_some_and(|id| self.tokens.contains(id)) {
            return Err(TokenError::Revoked);
        }
        let not_before_ms = self.not_before_ms.get(&token.subject).copied().unwrap_or_default();
        match token.issued_ms.unwrap_or_default() < not_before_ms {
            true => Err(TokenError::SignedOut),
            false => Ok(()),
        }
    }
}
