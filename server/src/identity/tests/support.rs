//! Keys, tokens and configurations of the tests.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519, PKCS_RSA_SHA256};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::identity::clock::Clock;
use crate::identity::{Identities, IdentityOptions};
use landfall_protocol::access::{IdentifyError, Principal};

pub(super) const ISSUER: &str = "https://issuer.example/";
pub(super) const AUDIENCE: &str = "landfall";
pub(super) const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";

/// The time of day at the start of each test, in seconds.
pub(super) const NOW: u64 = 1_800_000_000;

/// Clocks that stand still until the test moves them.
pub(super) struct TestClock {
    unix_ms: AtomicU64,
    monotonic_ms: AtomicU64,
}

impl TestClock {
    pub(super) fn new() -> Arc<Self> {
        let unix_ms = AtomicU64::new(NOW * 1_000);
        Arc::new(Self { unix_ms, monotonic_ms: AtomicU64::new(0) })
    }

    pub(super) fn advance(&self, by: Duration) {
        let by = by.as_millis() as u64;
        self.unix_ms.fetch_add(by, Ordering::SeqCst);
        self.monotonic_ms.fetch_add(by, Ordering::SeqCst);
    }

    /// As if someone set the time of day.
    pub(super) fn set_unix(&self, seconds: u64) {
        self.unix_ms.store(seconds * 1_000, Ordering::SeqCst);
    }
}

impl Clock for TestClock {
    fn unix_ms(&self) -> u64 {
        self.unix_ms.load(Ordering::SeqCst)
    }

    fn monotonic(&self) -> Duration {
        Duration::from_millis(self.monotonic_ms.load(Ordering::SeqCst))
    }
}

/// A key pair, or a shared secret.
pub(super) struct TestKey {
    pub(super) algorithm: Algorithm,
    pub(super) public_pem: String,
    pub(super) private_pem: String,
    encoding: EncodingKey,
}

pub(super) static RSA: LazyLock<TestKey> = LazyLock::new(|| pair(Algorithm::RS256));
pub(super) static EC: LazyLock<TestKey> = LazyLock::new(|| pair(Algorithm::ES256));
pub(super) static ED: LazyLock<TestKey> = LazyLock::new(|| pair(Algorithm::EdDSA));
pub(super) static HMAC: LazyLock<TestKey> = LazyLock::new(|| hmac(SECRET));

/// A new key pair.
pub(super) fn pair(algorithm: Algorithm) -> TestKey {
    install_provider();
    let (generator, read): (_, fn(&[u8]) -> _) = match algorithm {
        Algorithm::RS256 => (&PKCS_RSA_SHA256, EncodingKey::from_rsa_pem),
        Algorithm::ES256 => (&PKCS_ECDSA_P256_SHA256, EncodingKey::from_ec_pem),
        _ => (&PKCS_ED25519, EncodingKey::from_ed_pem),
    };
    let pair = KeyPair::generate_for(generator).unwrap();
    let private_pem = pair.serialize_pem();
    let encoding = read(private_pem.as_bytes()).unwrap();
    TestKey { algorithm, public_pem: pair.public_key_pem(), private_pem, encoding }
}

/// A shared secret.
pub(super) fn hmac(secret: &[u8]) -> TestKey {
    install_provider();
    let encoding = EncodingKey::from_secret(secret).unwrap();
    let none = String::new;
    TestKey { algorithm: Algorithm::HS256, public_pem: none(), private_pem: none(), encoding }
}

fn install_provider() {
    let _ = jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER.install_default();
}

impl TestKey {
    /// A token with this header and these claims, whatever they say.
    pub(super) fn token_with(&self, header: &Value, claims: &str) -> String {
        let message = format!("{}.{}", base64url(header.to_string()), base64url(claims));
        let signed = jsonwebtoken::crypto::sign(message.as_bytes(), &self.encoding, self.algorithm);
        format!("{message}.{}", signed.unwrap())
    }

    /// A token with these claims.
    pub(super) fn token(&self, claims: &Value) -> String {
        self.token_with(&json!({ "typ": "JWT", "alg": self.algorithm }), &claims.to_string())
    }

    /// A token that names its key.
    pub(super) fn token_of(&self, kid: &str, claims: &Value) -> String {
        self.token_with(&json!({ "alg": self.algorithm, "kid": kid }), &claims.to_string())
    }

    /// The public key as a member of a JSON Web Key Set.
    pub(super) fn jwk(&self, kid: &str) -> Value {
        let read: fn(&[u8]) -> _ = match self.algorithm {
            Algorithm::RS256 => DecodingKey::from_rsa_pem,
            Algorithm::ES256 => DecodingKey::from_ec_pem,
            _ => DecodingKey::from_ed_pem,
        };
        let decoding = read(self.public_pem.as_bytes()).unwrap();
        let jwk = Jwk::from_decoding_key(&decoding, Some(self.algorithm)).unwrap();
        let mut jwk = serde_json::to_value(jwk).unwrap();
        jwk["kid"] = json!(kid);
        jwk["use"] = json!("sig");
        jwk
    }
}

/// A JSON Web Key Set.
pub(super) fn jwks(keys: &[Value]) -> String {
    json!({ "keys": keys }).to_string()
}

/// Claims that are accepted.
pub(super) fn claims() -> Value {
    json!({ "iss": ISSUER, "aud": AUDIENCE, "sub": "alice", "iat": NOW - 10, "exp": NOW + 600 })
}

/// [`claims`] with one of them replaced.
pub(super) fn claims_with(name: &str, value: Value) -> Value {
    let mut claims = claims();
    claims[name] = value;
    claims
}

/// [`claims`] without one of them.
pub(super) fn claims_without(name: &str) -> Value {
    let mut claims = claims();
    claims.as_object_mut().unwrap().remove(name).unwrap();
    claims
}

pub(super) fn base64url(bytes: impl AsRef<[u8]>) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let encode = |chunk: &[u8]| {
        let bits = (0..3).fold(0, |bits, at| bits << 8 | u32::from(*chunk.get(at).unwrap_or(&0)));
        let symbol = |at: usize| char::from(ALPHABET[(bits >> (18 - 6 * at)) as usize & 63]);
        (0..=chunk.len()).map(symbol).collect::<String>()
    };
    bytes.as_ref().chunks(3).map(encode).collect()
}

/// A folder with files of a configuration, and the identities that were opened from it.
pub(super) struct Fixture {
    pub(super) folder: TempDir,
    pub(super) options: IdentityOptions,
    pub(super) clock: Arc<TestClock>,
}

impl Fixture {
    /// Without any key.
    pub(super) fn new() -> Self {
        let options = IdentityOptions {
            issuer: Some(ISSUER.to_owned()),
            audience: Some(AUDIENCE.to_owned()),
            ..IdentityOptions::default()
        };
        Self { folder: TempDir::new().unwrap(), options, clock: TestClock::new() }
    }

    /// With the shared secret and one public key of each kind.
    pub(super) fn with_all_keys() -> Self {
        let mut fixture = Self::new();
        fixture.options.secret = Some(fixture.write("secret", SECRET));
        let pem = format!("{}{}{}", RSA.public_pem, EC.public_pem, ED.public_pem);
        fixture.options.keys = Some(fixture.write("keys.pem", pem));
        fixture
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file as an operator should: complete, under another name, then renamed.
    pub(super) fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let (new, path) = (self.path("new"), self.path(name));
        std::fs::write(&new, content).unwrap();
        std::fs::rename(new, &path).unwrap();
        path
    }

    pub(super) fn open(&self) -> Identities {
        let clock: Arc<dyn Clock> = Arc::clone(&self.clock) as _;
        Identities::with_clock(&self.options, clock).unwrap()
    }
}

/// The text of a rejection.
pub(super) async fn rejection(identities: &Identities, token: impl AsRef<[u8]>) -> String {
    match identities.identify(Some(token.as_ref())).await {
        Err(IdentifyError::Rejected { what, .. }) => what,
        other => panic!("not rejected: {other:?}"),
    }
}

/// The principal of a token.
pub(super) async fn accepted(identities: &Identities, token: impl AsRef<[u8]>) -> Arc<Principal> {
    identities.identify(Some(token.as_ref())).await.unwrap()
}

/// Names a file that does not exist.
pub(super) fn missing_file(folder: &Path) -> PathBuf {
    folder.join("missing")
}
