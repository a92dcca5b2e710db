//! One token: its size, its header, and its signature under the keys that may have made it.
//!
//! The algorithm is the key's. The header only has to agree; its `jku`, `jwk`, `x5u` and
//! `x5c` are never followed, and a `crit` is refused since no extension is known.

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, Header, Validation, decode, decode_header};
use landfall_protocol::limits as shared;

use super::claims::Claims;
use super::keys::{Key, KeySet};
use super::token_error::TokenError;
use crate::limits;

/// A token before its signature is verified.
#[derive(Debug)]
pub(super) struct Unverified<'a> {
    token: &'a [u8],
    algorithm: Algorithm,
    key_id: Option<String>,
}

impl<'a> Unverified<'a> {
    pub(super) fn read(token: &'a [u8]) -> Result<Self, TokenError> {
        if token.len() > shared::TOKEN_BYTES {
            return Err(TokenError::TooLong { actual: token.len() });
        }
        let header: Header = decode_header(token).map_err(|error| match error.kind() {
            ErrorKind::Json(_) | ErrorKind::Utf8(_) => TokenError::Header,
            _ => TokenError::Malformed,
        })?;
        if header.crit.is_some() || header.extras.inner().contains_key("b64") {
            return Err(TokenError::Critical);
        }
        Ok(Self { token, algorithm: header.alg, key_id: header.kid })
    }

    pub(super) fn key_id(&self) -> Option<&str> {
        self.key_id.as_deref()
    }

    /// Whether it claims a signature by a public key's owner, as those of an OIDC issuer are.
    pub(super) fn is_asymmetric(&self) -> bool {
        self.algorithm.family() != jsonwebtoken::AlgorithmFamily::Hmac
    }

    /// The claims, if one of the keys made the signature. Nothing of them is checked yet.
    pub(super) fn verify(&self, keys: &KeySet) -> Result<Claims, TokenError> {
        let named = keys.named(self.key_id());
        if named.is_empty() {
            return Err(TokenError::UnknownKey);
        }
        let usable: Vec<&Key> =
            named.into_iter().filter(|key| key.algorithm() == self.algorithm).collect();
        match usable.len() {
            0 => return Err(TokenError::Algorithm),
            count if count > limits::KEYS_TRIED => return Err(TokenError::ManyKeys { count }),
            _ => {}
        }
        let mut refused = TokenError::Signature;
        for key in usable {
            match self.verify_with(key) {
                Err(TokenError::Signature) => {}
                Err(other) => refused = other,
                Ok(claims) => return Ok(claims),
            }
        }
        Err(refused)
    }

    fn verify_with(&self, key: &Key) -> Result<Claims, TokenError> {
        // The library would skip claims that are absent, and reads the system's clock: every claim is
        // checked in `claims` instead.
        let mut only_signature = Validation::new(key.algorithm());
        only_signature.required_spec_claims.clear();
        only_signature.validate_exp = false;
        only_signature.validate_nbf = false;
        only_signature.validate_aud = false;
        let decoded = decode::<Claims>(self.token, key.decoding(), &only_signature);
        decoded.map(|data| data.claims).map_err(|error| match error.kind() {
            ErrorKind::Json(error) => TokenError::Claims { what: json_trouble(error) },
            ErrorKind::InvalidSignature => TokenError::Signature,
            ErrorKind::InvalidAlgorithm => TokenError::Algorithm,
            _ => TokenError::Malformed,
        })
    }
}

/// Says what is wrong without quoting: the text is signed, but may be anything.
fn json_trouble(error: &serde_json::Error) -> &'static str {
    use serde_json::error::Category;
    match error.classify() {
        Category::Data => "not an object, or a name is used twice",
        Category::Eof => "they end early",
        Category::Syntax | Category::Io => "the syntax is wrong, or they are nested too deeply",
    }
}
