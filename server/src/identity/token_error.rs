//! Why a token is rejected, and the remedy.

use landfall_protocol::limits as shared;
use thiserror::Error;

/// Why a token is rejected. Of the token, the text has at most a claim's name and a wrong value of a rule.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum TokenError {
    #[error("no token was sent")]
    Missing,
    #[error("the token has {actual} bytes, more than {}", shared::TOKEN_BYTES)]
    TooLong { actual: usize },
    #[error("the token is not a signed JSON Web Token")]
    Malformed,
    #[error("the token's header is not a JSON object with a known `alg`")]
    Header,
    #[error("the token's header demands extensions (`crit`, `b64`)")]
    Critical,
    #[error("no key of the relay has the token's `kid`")]
    UnknownKey,
    #[error("no key that may have signed the token is for its `alg`")]
    Algorithm,
    #[error("the token has no `kid`, and {count} keys may have signed it")]
    ManyKeys { count: usize },
    #[error("the token's signature is wrong")]
    Signature,
    #[error("the token's claims are not a JSON object: {what}")]
    Claims { what: &'static str },
    #[error("the claim `{0}` is missing")]
    MissingClaim(String),
    #[error("the claim `{claim}` is not {expected}")]
    ClaimType { claim: String, expected: &'static str },
    #[error("the token expired {seconds} s ago")]
    Expired { seconds: u64 },
    #[error("the token is valid only in {seconds} s")]
    NotYet { seconds: u64 },
    #[error("the token's issuer (`iss`) is not the relay's")]
    Issuer,
    #[error("the token's audience (`aud`) does not name the relay")]
    Audience,
    #[error("the token was revoked")]
    Revoked,
    #[error("the token's subject was signed out after the token was issued")]
    SignedOut,
    #[error("the claim `{claim}` has {actual} entries, more than {max}")]
    TooMany { claim: String, actual: usize, max: usize },
    #[error("token and configuration give {actual} rules, more than {}", shared::PRINCIPAL_RULES)]
    TooManyRules { actual: usize },
    #[error("the claim `{claim}` is not valid: {what}")]
    Rule { claim: String, what: String },
}

impl TokenError {
    /// The remedy.
    pub(crate) fn hint(&self) -> &'static str {
        match self {
            Self::Missing => "sign in, and send the token in the hello",
            Self::Expired { .. } | Self::Revoked | Self::SignedOut => "sign in again",
            Self::NotYet { .. } => "check the clocks of the issuer and of the relay",
            Self::Issuer | Self::Audience => {
                "use a token that was issued for this relay, or check its --jwt-issuer and --jwt-audience"
            }
            Self::UnknownKey | Self::Algorithm | Self::ManyKeys { .. } | Self::Signature => {
                "use a token that the relay's issuer signed, or check the relay's keys"
            }
            Self::Header | Self::Critical | Self::Malformed => {
                "use a JSON Web Token signed with HS256, RS256, ES256 or EdDSA"
            }
            Self::TooLong { .. } | Self::TooMany { .. } | Self::TooManyRules { .. } => {
                "let the issuer put fewer groups and rules into the token"
            }
            Self::Claims { .. }
            | Self::MissingClaim(_)
            | Self::ClaimType { .. }
            | Self::Rule { .. } => "correct the claims at the issuer",
        }
    }
}
