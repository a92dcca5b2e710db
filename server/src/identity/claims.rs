//! The claims of a token whose signature is right: which of them must be there, of which type, and
//! whether the token is for this relay and valid now.
//!
//! `exp`, `iss`, `aud` and `sub` are required. `nbf`, `iat` and `jti` are checked where they are
//! present: few issuers set `nbf`.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::Value;

use super::token_error::TokenError;
use crate::limits;

/// The claims as the token has them, no name twice.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Claims(BTreeMap<String, Value>);

impl<'de> Deserialize<'de> for Claims {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ClaimsVisitor)
    }
}

struct ClaimsVisitor;

impl<'de> Visitor<'de> for ClaimsVisitor {
    type Value = Claims;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of claims")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Claims, A::Error> {
        let mut claims = BTreeMap::new();
        while let Some((name, value)) = map.next_entry::<String, Value>()? {
            // RFC 7519 section 4 allows to take the last one; two parsers may disagree on which that is.
            if claims.insert(name, value).is_some() {
                return Err(A::Error::custom("a claim is given twice"));
            }
        }
        Ok(Claims(claims))
    }
}

/// The values that a relay expects in every token.
#[derive(Debug, Clone)]
pub(super) struct Expected<'a> {
    pub(super) issuer: &'a str,
    pub(super) audience: &'a str,
    /// In milliseconds of Unix time.
    pub(super) now_ms: u64,
}

/// The checked claims that say who a client is, and until when.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Checked {
    /// The subject as the token has it.
    pub(super) subject: String,
    /// When the token ends with its leeway, in milliseconds of Unix time.
    pub(super) ends_ms: u64,
    /// When it was issued, in milliseconds of Unix time.
    pub(super) issued_ms: Option<u64>,
    pub(super) token_id: Option<String>,
}

const TEXT: &str = "a text";
const TIME: &str = "a time in seconds since 1970";

/// The last second of the year 9999.
const LAST_SECOND: f64 = 253_402_300_799.0;

impl Claims {
    pub(super) fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name)
    }

    pub(super) fn check(&self, expected: &Expected<'_>) -> Result<Checked, TokenError> {
        if self.required("iss", Self::text)? != expected.issuer {
            return Err(TokenError::Issuer);
        }
        self.check_audience(expected.audience)?;
        let leeway_ms = limits::TOKEN_LEEWAY.as_millis() as u64;
        let expires_ms = self.required("exp", Self::time_ms)?;
        let ends_ms = expires_ms.saturating_add(leeway_ms);
        if ends_ms <= expected.now_ms {
            let seconds = (expected.now_ms - expires_ms) / 1_000;
            return Err(TokenError::Expired { seconds });
        }
        let not_before_ms = self.time_ms("nbf")?.unwrap_or_default();
        if not_before_ms > expected.now_ms.saturating_add(leeway_ms) {
            let seconds = (not_before_ms - expected.now_ms).div_ceil(1_000);
            return Err(TokenError::NotYet { seconds });
        }
        let subject = self.required("sub", Self::text)?.to_owned();
        if subject.is_empty() {
            let expected = "a text that is not empty";
            return Err(TokenError::ClaimType { claim: "sub".to_owned(), expected });
        }
        let issued_ms = self.time_ms("iat")?;
        let token_id = self.text("jti")?.map(ToOwned::to_owned);
        Ok(Checked { subject, ends_ms, issued_ms, token_id })
    }

    /// One audience is a text; several are an array that names the relay among others.
    fn check_audience(&self, audience: &str) -> Result<(), TokenError> {
        const AUDIENCE: &str = "a text or an array of texts";
        let wrong = || TokenError::ClaimType { claim: "aud".to_owned(), expected: AUDIENCE };
        let is_named = match self.get("aud") {
            None => return Err(TokenError::MissingClaim("aud".to_owned())),
            Some(Value::String(one)) => one == audience,
            Some(Value::Array(several)) => {
                let names: Option<Vec<&str>> = several.iter().map(Value::as_str).collect();
                names.ok_or_else(wrong)?.contains(&audience)
            }
            Some(_) => return Err(wrong()),
        };
        if is_named { Ok(()) } else { Err(TokenError::Audience) }
    }

    fn required<'a, T>(
        &'a self,
        name: &str,
        read: impl Fn(&'a Self, &str) -> Result<Option<T>, TokenError>,
    ) -> Result<T, TokenError> {
        read(self, name)?.ok_or_else(|| TokenError::MissingClaim(name.to_owned()))
    }

    fn text(&self, name: &str) -> Result<Option<&str>, TokenError> {
        let wrong = || TokenError::ClaimType { claim: name.to_owned(), expected: TEXT };
        self.get(name).map(|value| value.as_str().ok_or_else(wrong)).transpose()
    }

    /// In milliseconds. The claim may have a fraction of a second.
    fn time_ms(&self, name: &str) -> Result<Option<u64>, TokenError> {
        let wrong = || TokenError::ClaimType { claim: name.to_owned(), expected: TIME };
        let Some(value) = self.get(name) else { return Ok(None) };
        let seconds = value.as_f64().filter(|seconds| (0.0..=LAST_SECOND).contains(seconds));
        // The product is below 2^48: exact enough, and the cast cannot overflow.
        seconds.map(|seconds| Some((seconds * 1_000.0) as u64)).ok_or_else(wrong)
    }
}
