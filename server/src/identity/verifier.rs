//! From a token to a principal: the keys of files first, then the issuer's; the claims; the list of revoked
//! tokens; the rules of the token and of the configuration.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use landfall_protocol::access::{IdentifyError, Principal, Subject};
use landfall_protocol::limits as shared;
use tokio::sync::watch;

use super::access_file::AccessRules;
use super::claims::{Checked, Claims, Expected};
use super::clock::Clock;
use super::issuer::{Issuer, KeysUnavailable};
use super::keys::KeySet;
use super::revoked::Revoked;
use super::token::Unverified;
use super::token_error::TokenError;
use super::watched::{Changes, WatchedFile};
use super::{IdentityError, IdentityOptions, rules};
use crate::limits;

/// What tokens are verified with.
pub(crate) struct Verifier {
    file_keys: Option<FileKeys>,
    issuer: Option<Issuer>,
    audience: String,
    access: Option<Arc<WatchedFile<AccessRules>>>,
    groups_claim: String,
    revoked: Option<Arc<WatchedFile<Revoked>>>,
    changes: Changes,
    clock: Arc<dyn Clock>,
}

/// The keys of files, and the issuer that signs with them.
struct FileKeys {
    issuer: String,
    secret: Option<Arc<WatchedFile<KeySet>>>,
    public: Option<Arc<WatchedFile<KeySet>>>,
}

/// Why a token has no principal.
enum Refusal {
    Token(TokenError),
    Keys(KeysUnavailable),
}

impl From<TokenError> for Refusal {
    fn from(error: TokenError) -> Self {
        Self::Token(error)
    }
}

impl Verifier {
    pub(super) fn open(
        options: &IdentityOptions,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, IdentityError> {
        // Another crate of the process may select the library's other implementation as well, and the
        // library then has no default. An error means that a provider is installed already.
        let _ = jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER.install_default();
        let now = clock.monotonic();
        let changes = Changes::new(0);
        let access =
            |path| WatchedFile::open(path, limits::ACCESS_BYTES, parse_access, &changes, now);
        let revoked =
            |path| WatchedFile::open(path, limits::REVOKED_BYTES, parse_revoked, &changes, now);
        let audience = options.audience.clone();
        let issuer = |name: &String| Issuer::new(name, options, Arc::clone(&clock));
        Ok(Self {
            file_keys: FileKeys::open(options, &changes, &*clock)?,
            issuer: options.oidc_issuer.as_ref().map(issuer).transpose()?,
            audience: audience.ok_or(IdentityError::Incomplete("--jwt-audience"))?,
            access: options.access.as_deref().map(access).transpose()?,
            groups_claim: options.groups_claim.clone(),
            revoked: options.revoked.as_deref().map(revoked).transpose()?,
            changes,
            clock,
        })
    }

    /// Counts the changes of the files.
    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Looks at the files without end, so that their changes reach sessions that send nothing.
    pub(super) async fn watch_files(&self) {
        loop {
            tokio::time::sleep(limits::FILE_LOOK).await;
            let now = self.clock.monotonic();
            if let Some(access) = &self.access {
                access.current(now).await;
            }
            if let Some(revoked) = &self.revoked {
                revoked.current(now).await;
            }
            if let Some(keys) = &self.file_keys {
                keys.current(&*self.clock).await;
            }
        }
    }

    pub(super) async fn identify(
        &self,
        token: Option<&[u8]>,
    ) -> Result<Arc<Principal>, IdentifyError> {
        let refusal = match self.principal(token).await {
            Ok(principal) => return Ok(Arc::new(principal)),
            Err(refusal) => refusal,
        };
        Err(match refusal {
            Refusal::Token(error) => {
                tracing::debug!(reason = %error, "rejected a token");
                IdentifyError::Rejected { what: error.to_string(), hint: error.hint().to_owned() }
            }
            Refusal::Keys(KeysUnavailable { retry_after }) => {
                let what = "the issuer's keys cannot be fetched now".to_owned();
                IdentifyError::Unavailable { what, retry_after }
            }
        })
    }

    async fn principal(&self, token: Option<&[u8]>) -> Result<Principal, Refusal> {
        let token = Unverified::read(token.ok_or(TokenError::Missing)?)?;
        let (claims, issuer) = self.verify(&token).await?;
        let now_ms = self.clock.unix_ms();
        let expected = Expected { issuer, audience: &self.audience, now_ms };
        let checked = claims.check(&expected)?;
        if let Some(revoked) = &self.revoked {
            revoked.current(self.clock.monotonic()).await.check(&checked)?;
        }
        Ok(self.principal_of(&claims, &checked).await?)
    }

    /// The claims of a token whose signature is right, and the issuer whose key made it.
    async fn verify(&self, token: &Unverified<'_>) -> Result<(Claims, &str), Refusal> {
        let mut refusal = TokenError::Algorithm;
        if let Some(keys) = &self.file_keys {
            match token.verify(&*keys.current(&*self.clock).await) {
                Ok(claims) => return Ok((claims, &keys.issuer)),
                Err(error) => refusal = error,
            }
        }
        match &self.issuer {
            // The signature is right, or nothing is: the issuer's keys change neither.
            _ if matches!(refusal, TokenError::Claims { .. } | TokenError::Malformed) => {}
            Some(issuer) if token.is_asymmetric() => {
                let keys = issuer.keys(token.key_id()).await.map_err(Refusal::Keys)?;
                return Ok((token.verify(&keys)?, issuer.name()));
            }
            _ => {}
        }
        Err(refusal.into())
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

impl FileKeys {
    fn open(
        options: &IdentityOptions,
        changes: &Changes,
        clock: &dyn Clock,
    ) -> Result<Option<Self>, IdentityError> {
        if !options.has_file_keys() {
            return Ok(None);
        }
        let open = |path: &Option<PathBuf>, parse| {
            let open = |path: &PathBuf| {
                WatchedFile::open(path, limits::KEYS_BYTES, parse, changes, clock.monotonic())
            };
            path.as_ref().map(open).transpose()
        };
        Ok(Some(Self {
            issuer: options.issuer.clone().ok_or(IdentityError::Incomplete("--jwt-issuer"))?,
            secret: open(&options.secret, parse_secret)?,
            public: open(&options.keys, parse_keys)?,
        }))
    }

    /// The keys of both files.
    async fn current(&self, clock: &dyn Clock) -> Arc<KeySet> {
        let now = clock.monotonic();
        match (&self.secret, &self.public) {
            (Some(secret), Some(public)) => {
                let secret = secret.current(now).await;
                Arc::new(secret.joined(&*public.current(now).await))
            }
            (Some(one), None) | (None, Some(one)) => one.current(now).await,
            (None, None) => Arc::default(),
        }
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
