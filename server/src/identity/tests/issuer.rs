//! The keys of an issuer: found, rotated, and not to be had.

use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use jsonwebtoken::Algorithm;
use landfall_protocol::access::IdentifyError;
use serde_json::{Value, json};

use super::issuer_server::{Answer, IssuerServer};
use super::support::*;
use crate::identity::{Identities, IdentityOptions};
use crate::limits;

/// A configuration with this issuer only.
fn of_issuer(server: &IssuerServer) -> Fixture {
    let mut fixture = Fixture::new();
    fixture.options.issuer = None;
    fixture.options.oidc_issuer = Some(server.url());
    fixture
}

fn claims_of(server: &IssuerServer) -> Value {
    claims_with("iss", json!(server.url()))
}

fn keys(keys: &[Value]) -> Answer {
    Answer::Keys(jwks(keys))
}

/// The wait that the relay demands when a token's key cannot be had.
async fn retry_after(identities: &Identities, token: &str) -> Duration {
    match identities.identify(Some(token.as_bytes())).await {
        Err(IdentifyError::Unavailable { retry_after, .. }) => retry_after,
        other => panic!("not unavailable: {other:?}"),
    }
}

#[tokio::test]
async fn keys_are_found_by_discovery_and_fetched_once() {
    let server = IssuerServer::start(keys(&[RSA.jwk("a"), EC.jwk("b"), ED.jwk("c")])).await;
    let identities = of_issuer(&server).open();
    for (key, id) in [(&*RSA, "a"), (&*EC, "b"), (&*ED, "c")] {
        accepted(&identities, key.token_of(id, &claims_of(&server))).await;
        accepted(&identities, key.token(&claims_of(&server))).await;
    }
    assert_eq!(server.fetches(), 1);
    let what = rejection(&identities, EC.token_of("b", &claims())).await;
    assert!(what.contains("issuer"), "{what}");
    let what = rejection(&identities, HMAC.token_of("a", &claims_of(&server))).await;
    assert!(what.contains("for its `alg`"), "{what}");
    let what = rejection(&identities, ED.token_of("b", &claims_of(&server))).await;
    assert!(what.contains("for its `alg`"), "{what}");
    let stranger = pair(Algorithm::ES256);
    let what = rejection(&identities, stranger.token_of("b", &claims_of(&server))).await;
    assert!(what.contains("signature"), "{what}");
}

#[tokio::test]
async fn keys_of_files_and_of_an_issuer_are_used_side_by_side() {
    let server = IssuerServer::start(keys(&[EC.jwk("a")])).await;
    let mut fixture = Fixture::with_all_keys();
    fixture.options.keys = Some(fixture.write("keys", &ED.public_pem));
    fixture.options.oidc_issuer = Some(server.url());
    let identities = fixture.open();
    for key in [&*HMAC, &*ED] {
        accepted(&identities, key.token(&claims())).await;
    }
    // Nor is it for a token of theirs whose claims cannot be read.
    let unreadable = ED.token_with(&json!({ "alg": "EdDSA" }), "[]");
    let what = rejection(&identities, unreadable).await;
    assert!(what.contains("not an object"), "{what}");
    assert_eq!(server.fetches(), 0, "the issuer is not asked for what a file has");
    accepted(&identities, EC.token_of("a", &claims_of(&server))).await;
    // Each key speaks for its own issuer only.
    for token in [ED.token(&claims_of(&server)), EC.token_of("a", &claims())] {
        let what = rejection(&identities, token).await;
        assert!(what.contains("issuer"), "{what}");
    }
}

#[tokio::test]
async fn a_rotated_key_is_fetched_at_the_issuers_pace() {
    let server = IssuerServer::start(keys(&[EC.jwk("old")])).await;
    let fixture = of_issuer(&server);
    let identities = fixture.open();
    let new = pair(Algorithm::ES256);
    let token = new.token_of("new", &claims_of(&server));
    accepted(&identities, EC.token_of("old", &claims_of(&server))).await;
    server.answer(keys(&[EC.jwk("old"), new.jwk("new")]));
    // Its key may exist, but was requested a moment ago: the relay answers when to try again.
    fixture.clock.advance(Duration::from_secs(10));
    assert_eq!(retry_after(&identities, &token).await, Duration::from_secs(20));
    assert_eq!(server.fetches(), 1);
    fixture.clock.advance(Duration::from_secs(20));
    accepted(&identities, &token).await;
    assert_eq!(server.fetches(), 2);
    // A key that the issuer withdrew is refused once its age demands a fetch.
    server.answer(keys(&[new.jwk("new")]));
    let old = EC.token_of("old", &claims_with_time(&server, limits::ISSUER_FRESH));
    fixture.clock.advance(limits::ISSUER_FRESH - Duration::from_secs(1));
    accepted(&identities, &old).await;
    fixture.clock.advance(Duration::from_secs(1));
    let what = rejection(&identities, &old).await;
    assert!(what.contains("`kid`"), "{what}");
    assert_eq!(server.fetches(), 3);
}

/// Claims that are valid for this much longer than others.
fn claims_with_time(server: &IssuerServer, longer: Duration) -> Value {
    let mut claims = claims_of(server);
    claims["exp"] = json!(NOW + 600 + longer.as_secs());
    claims
}

#[tokio::test]
async fn invented_key_ids_cost_the_issuer_one_fetch_in_thirty_seconds() {
    let server = IssuerServer::start(keys(&[EC.jwk("a")])).await;
    let fixture = of_issuer(&server);
    let identities = Arc::new(fixture.open());
    let good = EC.token_of("a", &claims_of(&server));
    accepted(&identities, &good).await;
    let stranger = pair(Algorithm::EdDSA);
    let mut rejected = 0;
    // 10,000 in 100 s: the relay asks each to try again, but for those that caused a fetch.
    for at in 0..10_000 {
        fixture.clock.advance(Duration::from_millis(10));
        let token = stranger.token_of(&format!("random-{at}"), &claims_of(&server));
        match identities.identify(Some(token.as_bytes())).await.unwrap_err() {
            IdentifyError::Unavailable { retry_after, .. } => {
                assert!(retry_after <= limits::ISSUER_PACE, "{retry_after:?}");
            }
            IdentifyError::Rejected { .. } => rejected += 1,
        }
    }
    assert_eq!((server.fetches(), rejected), (4, 3));
    accepted(&identities, &good).await;
}

#[tokio::test]
async fn concurrent_tokens_share_one_fetch() {
    let server = IssuerServer::start(Answer::Nothing).await;
    let identities = Arc::new(of_issuer(&server).open());
    let token = EC.token_of("a", &claims_of(&server));
    let ask = || {
        let (identities, token) = (Arc::clone(&identities), token.clone());
        tokio::spawn(async move { identities.identify(Some(token.as_bytes())).await })
    };
    let first = ask();
    server.requested().await;
    let others: Vec<_> = (0..50).map(|_| ask()).collect();
    // The client that caused the fetch hangs up: the others get the keys nevertheless.
    first.abort();
    tokio::task::yield_now().await;
    server.answer(keys(&[EC.jwk("a")]));
    for other in others {
        other.await.unwrap().unwrap();
    }
    assert_eq!(server.fetches(), 1);
}

#[tokio::test]
async fn without_keys_a_token_is_neither_accepted_nor_rejected() {
    let server = IssuerServer::start(Answer::Text).await;
    let mut fixture = of_issuer(&server);
    fixture.options.issuer_timeout = Duration::from_millis(200);
    let identities = fixture.open();
    let token = EC.token_of("a", &claims_of(&server));
    for (at, answer) in [
        Answer::Text,
        Answer::Status(StatusCode::INTERNAL_SERVER_ERROR, jwks(&[EC.jwk("a")])),
        Answer::Status(StatusCode::ACCEPTED, jwks(&[EC.jwk("a")])),
        Answer::Redirect(server.url()),
        Answer::Redirect("http://issuer.example/".to_owned()),
        Answer::OtherIssuer(jwks(&[EC.jwk("a")])),
        Answer::KeysAt("http://issuer.example/keys".to_owned()),
        Answer::KeysAt("file:///etc/passwd".to_owned()),
        Answer::KeysAt("keys".to_owned()),
        Answer::Keys("{}".to_owned()),
        keys(&[]),
        keys(&vec![EC.jwk("a"); limits::KEYS + 1]),
        Answer::Huge,
        Answer::Nothing,
    ]
    .into_iter()
    .enumerate()
    {
        server.answer(answer);
        assert_eq!(retry_after(&identities, &token).await, limits::ISSUER_PACE, "answer {at}");
        assert_eq!(server.fetches(), at + 1);
        fixture.clock.advance(limits::ISSUER_PACE);
    }
    // As much as the sockets' buffers hold, and not 50.
    assert!(server.megabytes() < 20, "{} MB were taken", server.megabytes());
    // Which algorithm the key has is known without it.
    let what = rejection(&identities, HMAC.token(&claims_of(&server))).await;
    assert!(what.contains("for its `alg`"), "{what}");
    server.answer(keys(&[EC.jwk("a")]));
    accepted(&identities, &token).await;
}

#[tokio::test]
async fn known_keys_serve_for_a_day_while_the_issuer_is_dead() {
    let server = IssuerServer::start(keys(&[EC.jwk("a")])).await;
    let fixture = of_issuer(&server);
    let identities = fixture.open();
    let token = EC.token_of("a", &claims_with_time(&server, Duration::from_secs(200_000)));
    let other = EC.token_of("b", &claims_with_time(&server, Duration::from_secs(200_000)));
    accepted(&identities, &token).await;
    let address = server.kill().await;
    fixture.clock.advance(limits::ISSUER_FRESH);
    accepted(&identities, &token).await;
    assert_eq!(retry_after(&identities, &other).await, limits::ISSUER_PACE);
    fixture.clock.advance(limits::ISSUER_STALE - limits::ISSUER_FRESH - Duration::from_secs(1));
    accepted(&identities, &token).await;
    fixture.clock.advance(Duration::from_secs(1));
    assert_eq!(retry_after(&identities, &token).await, Duration::from_secs(29));
    let server = IssuerServer::restart(address, keys(&[EC.jwk("a")])).await;
    fixture.clock.advance(limits::ISSUER_PACE);
    accepted(&identities, &token).await;
    assert_eq!(server.fetches(), 1);
}

#[tokio::test]
async fn an_issuer_is_reached_over_tls_if_its_certificate_is_trusted() {
    let certified = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let server = IssuerServer::start_tls(keys(&[EC.jwk("a")]), &certified).await;
    let mut fixture = of_issuer(&server);
    let token = EC.token_of("a", &claims_of(&server));
    retry_after(&fixture.open(), &token).await;
    assert_eq!(server.fetches(), 0, "the handshake failed");
    fixture.options.oidc_ca = Some(fixture.write("ca.pem", certified.cert.pem()));
    let identities = fixture.open();
    // No step from HTTPS to HTTP, not even to this machine.
    let plain = IssuerServer::start(keys(&[EC.jwk("a")])).await;
    server.answer(Answer::KeysAt(format!("{}/keys", plain.url())));
    retry_after(&identities, &token).await;
    fixture.clock.advance(limits::ISSUER_PACE);
    server.answer(keys(&[EC.jwk("a")]));
    accepted(&identities, &token).await;
}

#[test]
fn unusable_issuers_and_certificates_are_refused() {
    let mut fixture = Fixture::new();
    let refusal = |options: &IdentityOptions| {
        let Err(error) = Identities::new(options) else { panic!("accepted") };
        format!("{error}; {}", error.hint())
    };
    for (issuer, says) in [
        ("issuer.example", "not the URL of an issuer"),
        ("http://issuer.example", "not an https:// URL"),
        ("http://127.0.0.1.example", "not an https:// URL"),
        ("ftp://localhost", "not an https:// URL"),
        ("https://issuer.example/?a=b", "more than a host and a path"),
        ("https://user@issuer.example/", "more than a host and a path"),
    ] {
        fixture.options.oidc_issuer = Some(issuer.to_owned());
        let said = refusal(&fixture.options);
        assert!(said.contains(says), "{issuer}: {said}");
    }
    fixture.options.oidc_issuer = Some("https://issuer.example/".to_owned());
    for content in ["", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
        fixture.options.oidc_ca = Some(fixture.write("ca.pem", content));
        let said = refusal(&fixture.options);
        assert!(said.contains("ca.pem") && said.contains("PEM"), "{said}");
    }
    fixture.options.oidc_ca = None;
    fixture.options.audience = None;
    let said = refusal(&fixture.options);
    assert!(said.contains("--jwt-audience"), "{said}");
}
