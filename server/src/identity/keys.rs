//! The keys that tokens are verified with: a shared secret, public keys in PEM, or a JSON Web Key
//! Set. Each has one algorithm: HS256, RS256, ES256 or EdDSA (Ed25519).

use std::fmt;

use jsonwebtoken::jwk::{
    AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, KeyOperations, PublicKeyUse,
};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;
use serde_json::Value;
use thiserror::Error;

use crate::limits;

/// A key, and the only algorithm that it verifies.
#[derive(Clone)]
pub(super) struct Key {
    /// Its `kid`; keys in PEM and secrets have none.
    id: Option<String>,
    algorithm: Algorithm,
    decoding: DecodingKey,
}

impl Key {
    pub(super) fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    pub(super) fn decoding(&self) -> &DecodingKey {
        &self.decoding
    }
}

// Leaves out the key itself: it may be a secret.
impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("id", &self.id).field("algorithm", &self.algorithm).finish()
    }
}

/// Some keys, at most [`limits::KEYS`].
#[derive(Debug, Clone, Default)]
pub(super) struct KeySet {
    keys: Vec<Key>,
}

/// Why a secret or a file of keys cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum KeyError {
    /// Not enough bytes to resist guessing.
    #[error("the secret has {actual} bytes, fewer than {}", limits::SECRET_BYTES)]
    ShortSecret {
        /// Its length.
        actual: usize,
    },
    /// No PEM block and no object.
    #[error("it has no PEM block and is no JSON Web Key Set")]
    NoKeys,
    /// A PEM block of another kind.
    #[error("block {number} is a {label:?}, not a PUBLIC KEY")]
    Label {
        /// The block's number, from 1.
        number: usize,
        /// What stands after `BEGIN`.
        label: String,
    },
    /// A PEM block with a key that is not supported.
    #[error(
        "block {number} is not a public key for RS256 (2,048 to 8,192 bits), ES256 or EdDSA (Ed25519)"
    )]
    Block {
        /// The block's number, from 1.
        number: usize,
    },
    /// The set's JSON is wrong.
    #[error("the JSON Web Key Set cannot be read: {what}")]
    Json {
        /// What, and where.
        what: String,
    },
    /// Too many keys for one relay.
    #[error("it has {actual} keys, more than {}", limits::KEYS)]
    TooMany {
        /// How many.
        actual: usize,
    },
    /// None of the set's keys verifies signatures.
    #[error("none of its {} keys can be used: {}", reasons.len(), reasons.join(", "))]
    NoneUsable {
        /// One reason for each key.
        reasons: Vec<String>,
    },
}

impl KeyError {
    /// The remedy.
    pub(crate) fn hint(&self) -> &'static str {
        match self {
            Self::ShortSecret { .. } => "make one with `openssl rand -base64 32`",
            Self::Label { label, .. } if label.contains("PRIVATE") => {
                "keep private keys off the relay: give their public keys (`openssl pkey -pubout`)"
            }
            Self::Label { label, .. } if label.contains("CERTIFICATE") => {
                "give the certificate's public key (`openssl x509 -noout -pubkey`)"
            }
            _ => "give public keys in PEM, or a JSON Web Key Set as the issuer publishes it",
        }
    }
}

impl KeySet {
    /// HS256 with a shared secret. The line end of a text file is not part of it.
    pub(super) fn of_secret(content: &[u8]) -> Result<Self, KeyError> {
        let secret = secret_of(content);
        if secret.len() < limits::SECRET_BYTES {
            return Err(KeyError::ShortSecret { actual: secret.len() });
        }
        let decoding = DecodingKey::from_secret(secret)
            .map_err(|_| KeyError::ShortSecret { actual: secret.len() })?;
        Ok(Self { keys: vec![Key { id: None, algorithm: Algorithm::HS256, decoding }] })
    }

    /// Public keys of a file: a JSON Web Key Set, or one or more PEM blocks.
    pub(super) fn of_file(content: &[u8]) -> Result<Self, KeyError> {
        match content.trim_ascii_start().first() {
            Some(b'{') => Self::of_jwks(content),
            _ => Self::of_pem(content),
        }
    }

    fn of_pem(content: &[u8]) -> Result<Self, KeyError> {
        let text = String::from_utf8_lossy(content);
        let blocks: Vec<&str> = text.split("-----BEGIN ").skip(1).collect();
        match blocks.len() {
            0 => return Err(KeyError::NoKeys),
            actual if actual > limits::KEYS => return Err(KeyError::TooMany { actual }),
            _ => {}
        }
        let keys = blocks.iter().enumerate().map(|(at, block)| pem_key(at + 1, block));
        Ok(Self { keys: keys.collect::<Result<_, _>>()? })
    }

    /// The keys of a set that verify signatures. Others are left out, as RFC 7517 section 5 has it:
    /// issuers publish keys of new kinds beside the old ones.
    pub(super) fn of_jwks(content: &[u8]) -> Result<Self, KeyError> {
        #[derive(Deserialize)]
        struct Set {
            keys: Vec<Value>,
        }
        let set: Set = serde_json::from_slice(content).map_err(|error| {
            let what = format!("{error}");
            KeyError::Json { what: what.chars().take(limits::SHOWN_HEADER_BYTES).collect() }
        })?;
        if set.keys.len() > limits::KEYS {
            return Err(KeyError::TooMany { actual: set.keys.len() });
        }
        let (keys, reasons) = set.keys.into_iter().enumerate().fold(
            (Vec::new(), Vec::new()),
            |(mut keys, mut reasons), (at, value)| {
                match jwk_key(value) {
                    Ok(key) => keys.push(key),
                    Err(reason) => reasons.push(format!("key {} {reason}", at + 1)),
                }
                (keys, reasons)
            },
        );
        if keys.is_empty() {
            return Err(KeyError::NoneUsable { reasons });
        }
        Ok(Self { keys })
    }

    /// The keys with this id. Without one, and if none has it, those that could be meant: all, or all
    /// without an id.
    pub(super) fn named(&self, id: Option<&str>) -> Vec<&Key> {
        let Some(id) = id else { return self.keys.iter().collect() };
        let named: Vec<&Key> =
            self.keys.iter().filter(|key| key.id.as_deref() == Some(id)).collect();
        match named.is_empty() {
            true => self.keys.iter().filter(|key| key.id.is_none()).collect(),
            false => named,
        }
    }

    /// Whether a token that names this key can be tried.
    pub(super) fn has(&self, id: Option<&str>) -> bool {
        !self.named(id).is_empty()
    }

    /// The keys of both sets.
    pub(super) fn joined(&self, other: &Self) -> Self {
        Self { keys: self.keys.iter().chain(&other.keys).cloned().collect() }
    }
}

/// The secret in a file's content, without the line end of a text.
pub(super) fn secret_of(content: &[u8]) -> &[u8] {
    let line = content.strip_suffix(b"\n").map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let is_text = |line: &&[u8]| line.iter().all(|byte| (0x20..0x7f).contains(byte));
    line.filter(is_text).unwrap_or(content)
}

fn pem_key(number: usize, block: &str) -> Result<Key, KeyError> {
    let label = block.split("-----").next().unwrap_or_default();
    // The library would also take a private key, and a key somewhere inside a certificate.
    if !matches!(label, "PUBLIC KEY" | "RSA PUBLIC KEY") {
        let label = label.chars().take(limits::SHOWN_HEADER_BYTES).collect();
        return Err(KeyError::Label { number, label });
    }
    let pem = format!("-----BEGIN {block}");
    type Read = fn(&[u8]) -> jsonwebtoken::errors::Result<DecodingKey>;
    let readers: [(Algorithm, Read); 3] = [
        (Algorithm::ES256, DecodingKey::from_ec_pem),
        (Algorithm::EdDSA, DecodingKey::from_ed_pem),
        // The last one: it takes a PKCS #1 block without a look at its kind.
        (Algorithm::RS256, DecodingKey::from_rsa_pem),
    ];
    let read = readers.into_iter().find_map(|(algorithm, read)| {
        read(pem.as_bytes()).ok().map(|decoding| (algorithm, decoding))
    });
    let (algorithm, decoding) = read.ok_or(KeyError::Block { number })?;
    let key = Key { id: None, algorithm, decoding };
    // Its parameters are checked in one place: as those of a JSON Web Key.
    let jwk = Jwk::from_decoding_key(&key.decoding, Some(algorithm));
    let checked = jwk.map_err(|_| KeyError::Block { number })?;
    check_parameters(&checked).map_err(|_| KeyError::Block { number })?;
    Ok(key)
}

fn jwk_key(value: Value) -> Result<Key, &'static str> {
    let jwk: Jwk = serde_json::from_value(value).map_err(|_| "is of an unknown kind")?;
    if matches!(&jwk.common.public_key_use, Some(use_) if *use_ != PublicKeyUse::Signature) {
        return Err("is not for signatures (`use`)");
    }
    let may_verify = |operations: &Vec<KeyOperations>| operations.contains(&KeyOperations::Verify);
    if !jwk.common.key_operations.as_ref().is_none_or(may_verify) {
        return Err("is not for verifying (`key_ops`)");
    }
    let algorithm = check_parameters(&jwk)?;
    let declared = jwk.common.key_algorithm;
    if declared.is_some_and(|declared| declared != KeyAlgorithm::from(algorithm)) {
        return Err("is for another algorithm than RS256, ES256 and EdDSA (`alg`)");
    }
    let decoding = DecodingKey::from_jwk(&jwk).map_err(|_| "has wrong parameters")?;
    Ok(Key { id: jwk.common.key_id, algorithm, decoding })
}

/// The algorithm of a key's type and curve, if its parameters have the right lengths.
fn check_parameters(jwk: &Jwk) -> Result<Algorithm, &'static str> {
    const WRONG_LENGTH: &str = "has parameters of a wrong length";
    // Bytes of unpadded base64url.
    let bytes = |text: &str| text.len() * 3 / 4;
    let checked = |holds: bool, algorithm| if holds { Ok(algorithm) } else { Err(WRONG_LENGTH) };
    match &jwk.algorithm {
        AlgorithmParameters::RSA(rsa) => {
            let is_strong = (256..=1024).contains(&bytes(&rsa.n)) && bytes(&rsa.e) <= 8;
            checked(is_strong, Algorithm::RS256)
        }
        AlgorithmParameters::EllipticCurve(point) if point.curve == EllipticCurve::P256 => {
            checked(bytes(&point.x) == 32 && bytes(&point.y) == 32, Algorithm::ES256)
        }
        AlgorithmParameters::OctetKeyPair(pair) if pair.curve == EllipticCurve::Ed25519 => {
            checked(bytes(&pair.x) == 32, Algorithm::EdDSA)
        }
        AlgorithmParameters::OctetKey(_) => Err("is a secret (give it with --jwt-secret)"),
        _ => Err("is of a curve or kind that is not supported"),
    }
}
