//! The options of `serve` that say how clients are identified, and `landfall-relay token`, which makes tokens
//! for development.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use landfall_protocol::access::SpacePattern;

use super::{FILE, Failure, OTHER, USAGE, print};
use crate::identity::{Identities, IdentityOptions, MintError, MintOptions, mint};

/// How clients are identified. Without any keys, every client may do everything.
#[derive(Debug, Clone, Args)]
pub struct IdentityArgs {
    /// The file of a secret that the relay shares with the issuer of tokens (HS256), at least 32 bytes
    #[arg(
        long,
        env = "LANDFALL_JWT_SECRET",
        value_name = "FILE",
        requires = "jwt_issuer",
        requires = "jwt_audience"
    )]
    pub jwt_secret: Option<PathBuf>,
    /// A file of public keys that tokens are verified with (RS256, ES256, EdDSA): PEM, or a JSON Web Key Set
    #[arg(
        long,
        env = "LANDFALL_JWT_KEYS",
        value_name = "FILE",
        requires = "jwt_issuer",
        requires = "jwt_audience"
    )]
    pub jwt_keys: Option<PathBuf>,
    /// The URL of an OpenID Connect issuer, as its tokens have it in `iss`; its keys are fetched
    #[arg(long, env = "LANDFALL_OIDC_ISSUER", value_name = "URL", requires = "jwt_audience")]
    pub oidc_issuer: Option<String>,
    /// Certificates (PEM) that are trusted for the issuer, besides those of the system
    #[arg(long, env = "LANDFALL_OIDC_CA", value_name = "FILE", requires = "oidc_issuer")]
    pub oidc_ca: Option<PathBuf>,
    /// The `iss` that tokens verified with `--jwt-secret` or `--jwt-keys` must have
    #[arg(long, env = "LANDFALL_JWT_ISSUER", value_name = "TEXT")]
    pub jwt_issuer: Option<String>,
    /// The `aud` that names this relay in tokens
    #[arg(long, env = "LANDFALL_JWT_AUDIENCE", value_name = "TEXT")]
    pub jwt_audience: Option<String>,
    /// A file of rules for subjects and groups, besides those in the tokens
    #[arg(long, env = "LANDFALL_ACCESS", value_name = "FILE")]
    pub access: Option<PathBuf>,
    /// The claim that lists the groups of a token's subject
    #[arg(long, env = "LANDFALL_GROUPS_CLAIM", value_name = "NAME", default_value = "groups")]
    pub groups_claim: String,
    /// A file of revoked tokens
    #[arg(long, env = "LANDFALL_REVOKED", value_name = "FILE")]
    pub revoked: Option<PathBuf>,
}

impl IdentityArgs {
    pub(super) fn options(self) -> Result<IdentityOptions, Failure> {
        let options = IdentityOptions {
            secret: self.jwt_secret,
            keys: self.jwt_keys,
            issuer: self.jwt_issuer,
            oidc_issuer: self.oidc_issuer,
            oidc_ca: self.oidc_ca,
            audience: self.jwt_audience,
            access: self.access,
            groups_claim: self.groups_claim,
            revoked: self.revoked,
            ..IdentityOptions::default()
        };
        let is_asked_for = options.issuer.is_some()
            || options.audience.is_some()
            || options.access.is_some()
            || options.revoked.is_some();
        if is_asked_for && !options.is_required() {
            let what = "clients cannot be identified";
            let why = "no keys of tokens are given";
            return Err(Failure::new(
                USAGE,
                what,
                why,
                "give --jwt-secret, --jwt-keys or --oidc-issuer",
            ));
        }
        // Before the relay listens, and before it makes a store.
        Identities::new(&options).map_err(|error| {
            Failure::new(FILE, "clients cannot be identified", &error, error.hint())
        })?;
        Ok(options)
    }
}

/// Options of `token`.
#[derive(Debug, Args)]
pub struct TokenArgs {
    /// The file of the secret, the same as the relay's --jwt-secret
    #[arg(long, env = "LANDFALL_JWT_SECRET", value_name = "FILE")]
    secret: PathBuf,
    /// The issuer, the same as the relay's --jwt-issuer
    #[arg(long, env = "LANDFALL_JWT_ISSUER", value_name = "TEXT")]
    issuer: String,
    /// The audience, the same as the relay's --jwt-audience
    #[arg(long, env = "LANDFALL_JWT_AUDIENCE", value_name = "TEXT")]
    audience: String,
    /// Who the token is for
    #[arg(long, value_name = "NAME")]
    sub: String,
    /// A group of the subject; may be repeated
    #[arg(long, value_name = "NAME")]
    group: Vec<String>,
    /// The claim that lists the groups
    #[arg(long, env = "LANDFALL_GROUPS_CLAIM", value_name = "NAME", default_value = "groups")]
    groups_claim: String,
    /// Spaces that the token gives rights on, such as `notes` or `team-*`; may be repeated
    #[arg(long, value_name = "PATTERN", requires = "rights")]
    space: Vec<SpacePattern>,
    /// The rights on those spaces: read, write, create, delete, admin
    #[arg(long, value_delimiter = ',', value_name = "RIGHTS", requires = "space")]
    rights: Vec<String>,
    /// How long the token is valid, such as `1h` or `30d`
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = lifetime)]
    expires: Duration,
}

fn lifetime(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(lifetime) if lifetime >= Duration::from_secs(1) => Ok(lifetime),
        Ok(_) => Err("it must be at least a second".to_owned()),
        Err(error) => Err(format!("{error}; give a time such as 1h or 30d")),
    }
}

pub(super) fn run_token(args: TokenArgs) -> Result<(), Failure> {
    let options = MintOptions {
        secret: args.secret,
        issuer: args.issuer,
        audience: args.audience,
        subject: args.sub,
        groups: args.group,
        groups_claim: args.groups_claim,
        spaces: args.space,
        rights: args.rights,
        expires: args.expires,
    };
    let token = mint(&options).map_err(|error| {
        let (code, hint) = match &error {
            MintError::Read { .. } => (FILE, "make a secret with `openssl rand -base64 32`"),
            MintError::Secret(secret) => (FILE, secret.hint()),
            MintError::Right(_) => (USAGE, "correct --rights"),
            MintError::Randomness(_) | MintError::Sign(_) => (OTHER, "please report this"),
        };
        Failure::new(code, "no token was made", &error, hint)
    })?;
    print::line(&token);
    Ok(())
}
