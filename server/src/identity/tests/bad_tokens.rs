//! Tokens that must be rejected, each for its own reason, and those beside them that are accepted.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::support::*;
use crate::identity::{Identities, IdentityOptions};
use landfall_protocol::access::{IdentifyError, Rights};

fn text_of(length: usize) -> String {
    "x".repeat(length)
}

#[tokio::test]
async fn a_token_of_each_algorithm_is_accepted() {
    let identities = Fixture::with_all_keys().open();
    for key in [&*HMAC, &*RSA, &*EC, &*ED] {
        let principal = accepted(&identities, key.token(&claims())).await;
        assert_eq!(principal.subject.as_ref().unwrap().as_str(), "alice");
        assert_eq!(principal.expires_ms, Some((NOW + 660) * 1_000), "exp and the leeway");
        assert!(principal.rules.is_empty(), "deny by default");
    }
}

#[tokio::test]
async fn without_authentication_every_client_is_let_in() {
    let identities = Identities::new(&IdentityOptions::default()).unwrap();
    assert!(matches!(identities, Identities::Open(_)));
    let principal = identities.identify(None).await.unwrap();
    let space = "any".parse().unwrap();
    assert!(principal.rights_on_space(&space).includes(Rights::ALL));
}

#[tokio::test]
async fn a_missing_token_is_rejected_with_a_remedy() {
    let identities = Fixture::with_all_keys().open();
    let error = identities.identify(None).await.unwrap_err();
    let IdentifyError::Rejected { what, hint } = error else { panic!("{error:?}") };
    assert!(what.contains("no token") && hint.contains("sign in"), "{what}; {hint}");
}

#[tokio::test]
async fn bad_headers_are_rejected() {
    let identities = Fixture::with_all_keys().open();
    let good = claims().to_string();
    for (header, says) in [
        (json!({ "alg": "none" }), "known `alg`"),
        (json!({ "alg": "None" }), "known `alg`"),
        (json!({ "alg": "" }), "known `alg`"),
        (json!({ "alg": ["HS256"] }), "known `alg`"),
        (json!({ "typ": "JWT" }), "known `alg`"),
        (json!({ "alg": "HS256", "crit": ["exp"], "exp": 1 }), "crit"),
        (json!({ "alg": "HS256", "crit": ["b64"], "b64": true }), "crit"),
        (json!({ "alg": "HS256", "b64": false }), "crit"),
        (json!({ "alg": "HS384" }), "for its `alg`"),
        (json!({ "alg": "RS512" }), "for its `alg`"),
        // The header claims another algorithm than the key's, which signed.
        (json!({ "alg": "RS256" }), "signature"),
    ] {
        let token = HMAC.token_with(&header, &good);
        let what = rejection(&identities, token).await;
        assert!(what.contains(says), "{header}: {what}");
    }
    // Unsigned, as `alg` none means.
    let head = base64url(json!({ "alg": "none" }).to_string());
    let what = rejection(&identities, format!("{head}.{}.", base64url(&good))).await;
    assert!(what.contains("known `alg`"), "{what}");
}

#[tokio::test]
async fn keys_that_a_header_brings_are_ignored() {
    let identities = Fixture::with_all_keys().open();
    let stranger = pair(jsonwebtoken::Algorithm::ES256);
    let own = json!({ "alg": "ES256", "kid": "k", "jwk": stranger.jwk("k"),
        "jku": "http://127.0.0.1:1/keys", "x5u": "http://127.0.0.1:1/cert" });
    let what = rejection(&identities, stranger.token_with(&own, &claims().to_string())).await;
    assert!(what.contains("signature"), "{what}");
    accepted(&identities, EC.token_with(&own, &claims().to_string())).await;
}

#[tokio::test]
async fn a_public_key_is_no_shared_secret() {
    // A relay with public keys only, and one that has a secret as well.
    let mut fixture = Fixture::with_all_keys();
    for public in [&RSA.public_pem, &EC.public_pem, &ED.public_pem] {
        let forged = hmac(public.as_bytes()).token(&claims());
        let what = rejection(&fixture.open(), &forged).await;
        assert!(what.contains("signature"), "{what}");
        let secret = fixture.options.secret.take();
        let what = rejection(&fixture.open(), &forged).await;
        assert!(what.contains("for its `alg`"), "{what}");
        fixture.options.secret = secret;
    }
}

#[tokio::test]
async fn bad_claims_are_rejected_with_the_claim_and_the_reason() {
    let identities = Fixture::with_all_keys().open();
    for (bad, says) in [
        (claims_without("exp"), "`exp` is missing"),
        (claims_without("sub"), "`sub` is missing"),
        (claims_without("iss"), "`iss` is missing"),
        (claims_without("aud"), "`aud` is missing"),
        (claims_with("exp", json!((NOW + 600).to_string())), "`exp` is not a time"),
        (claims_with("exp", json!(null)), "`exp` is not a time"),
        (claims_with("exp", json!(-1)), "`exp` is not a time"),
        (claims_with("exp", json!(1e300)), "`exp` is not a time"),
        (claims_with("exp", json!(NOW - 61)), "expired 61 s ago"),
        (claims_with("exp", json!(NOW - 60)), "expired 60 s ago"),
        (claims_with("exp", json!(0)), "expired"),
        (claims_with("nbf", json!("0")), "`nbf` is not a time"),
        (claims_with("nbf", json!(NOW + 61)), "valid only in 61 s"),
        (claims_with("iat", json!("now")), "`iat` is not a time"),
        (claims_with("jti", json!(7)), "`jti` is not a text"),
        (claims_with("iss", json!("https://issuer.example")), "issuer"),
        (claims_with("iss", json!([ISSUER])), "`iss` is not a text"),
        (claims_with("aud", json!("other")), "audience"),
        (claims_with("aud", json!(["other", "Landfall"])), "audience"),
        (claims_with("aud", json!([])), "audience"),
        (claims_with("aud", json!([AUDIENCE, 7])), "`aud` is not a text or an array"),
        (claims_with("aud", json!({ "landfall": true })), "`aud` is not a text or an array"),
        (claims_with("sub", json!(7)), "`sub` is not a text"),
        (claims_with("sub", json!("")), "`sub` is not a text that is not empty"),
        (json!([claims()]), "not an object"),
        (json!("alice"), "not an object"),
    ] {
        let what = rejection(&identities, HMAC.token(&bad)).await;
        assert!(what.contains(says), "{bad}: {what}");
    }
}

#[tokio::test]
async fn claims_at_the_edge_are_accepted() {
    let identities = Fixture::with_all_keys().open();
    for good in [
        claims_with("aud", json!([AUDIENCE])),
        claims_with("aud", json!(["other", AUDIENCE])),
        claims_with("exp", json!(NOW - 59)),
        claims_with("exp", json!(NOW as f64 + 0.5)),
        claims_with("nbf", json!(NOW + 60)),
        claims_with("iat", json!(NOW + 3_600)),
        claims_without("iat"),
        claims_with("landfall", json!([])),
    ] {
        accepted(&identities, HMAC.token(&good)).await;
    }
}

#[tokio::test]
async fn a_clock_that_is_an_hour_off_rejects_with_the_difference() {
    let fixture = Fixture::with_all_keys();
    let identities = fixture.open();
    let mut claims = claims_with("nbf", json!(NOW - 10));
    claims["exp"] = json!(NOW + 600);
    let token = HMAC.token(&claims);
    fixture.clock.set_unix(NOW + 3_600);
    let what = rejection(&identities, &token).await;
    assert!(what.contains("expired 3000 s ago"), "{what}");
    fixture.clock.set_unix(NOW - 3_600);
    let what = rejection(&identities, &token).await;
    assert!(what.contains("valid only in 3590 s"), "{what}");
    fixture.clock.set_unix(NOW);
    accepted(&identities, &token).await;
}

#[tokio::test]
async fn rules_and_groups_come_from_the_claims() {
    let identities = Fixture::with_all_keys().open();
    let mut claims = claims_with("groups", json!(["dev", "ops"]));
    claims["landfall"] = json!([
        { "spaces": "team-*", "rights": ["read"] },
        { "spaces": "team-a", "rights": ["write", "create"] },
    ]);
    let principal = accepted(&identities, HMAC.token(&claims)).await;
    assert_eq!(principal.groups, ["dev".to_owned(), "ops".to_owned()].into());
    let rights = |space: &str| principal.rights_on_space(&space.parse().unwrap());
    assert_eq!(rights("team-b"), Rights::READ);
    assert_eq!(rights("team-a"), Rights::WRITE.union(Rights::CREATE));
    assert_eq!(rights("other"), Rights::NONE);
}

#[tokio::test]
async fn bad_rules_are_rejected_with_their_place() {
    let identities = Fixture::with_all_keys().open();
    let rule = |rule: Value| claims_with("landfall", json!([rule]));
    let many = |count: usize| -> Vec<String> { (0..count).map(|at| format!("g{at}")).collect() };
    let rules = |count: usize| -> Vec<Value> {
        many(count).iter().map(|name| json!({ "spaces": name, "rights": ["read"] })).collect()
    };
    for (bad, says) in [
        (claims_with("landfall", json!({})), "`landfall` is not an array"),
        (rule(json!("read")), "`landfall[0]` is not an object"),
        (rule(json!({ "rights": ["read"] })), "`landfall[0].spaces` is missing"),
        (rule(json!({ "spaces": "a" })), "`landfall[0].rights` is missing"),
        (rule(json!({ "spaces": 1, "rights": [] })), "`landfall[0].spaces` is not a text"),
        (rule(json!({ "spaces": "a*b", "rights": [] })), "`landfall[0].spaces` is not valid"),
        (rule(json!({ "spaces": "a", "rights": "read" })), "`landfall[0].rights` is not an array"),
        (rule(json!({ "spaces": "a", "rights": ["read", "own"] })), "`landfall[0].rights[1]`"),
        (rule(json!({ "spaces": "a", "rights": [1] })), "`landfall[0].rights[0]` is not a text"),
        (rule(json!({ "spaces": "a", "rights": ["read"], "deny": true })), "`landfall[0]` is not"),
        (
            rule(json!({ "spaces": "a", "document": "x", "rights": ["read"] })),
            "`landfall[0].document` is not valid",
        ),
        (claims_with("landfall", json!(rules(257))), "`landfall` has 257 entries"),
        (claims_with("groups", json!("dev")), "`groups` is not an array"),
        (claims_with("groups", json!(["dev", 1])), "`groups` is not an array of texts"),
        (claims_with("groups", json!(many(65))), "`groups` has 65 entries"),
    ] {
        let what = rejection(&identities, HMAC.token(&bad)).await;
        assert!(what.contains(says), "{what}");
    }
    accepted(&identities, HMAC.token(&claims_with("landfall", json!(rules(256))))).await;
    accepted(&identities, HMAC.token(&claims_with("groups", json!(many(64))))).await;
}

#[tokio::test]
async fn long_and_deep_tokens_are_bounded() {
    let identities = Fixture::with_all_keys().open();
    let header = json!({ "alg": "HS256" });
    let largest = {
        let of = |fill: usize| HMAC.token(&claims_with("fill", json!(text_of(fill))));
        let room = 16 * 1024 - of(0).len();
        of(room * 3 / 4 - 2)
    };
    assert!((16 * 1024 - 8..=16 * 1024).contains(&largest.len()), "{}", largest.len());
    accepted(&identities, &largest).await;
    let what = rejection(&identities, format!("{largest}{}", text_of(16))).await;
    assert!(what.contains("more than 16384"), "{what}");
    // Deep claims: of the token's own claims, and of one that the relay does not read.
    for depth in [200, 5_000] {
        let deep = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        for name in ["fill", "landfall", "aud"] {
            let claims = claims_with(name, json!("DEEP")).to_string().replace("\"DEEP\"", &deep);
            let what = rejection(&identities, HMAC.token_with(&header, &claims)).await;
            assert!(what.contains("nested too deeply"), "{what}");
        }
        let head = format!("{{\"alg\":\"HS256\",\"x\":{deep}}}");
        let token = format!("{}.{}.AAAA", base64url(head), base64url("{}"));
        let what = rejection(&identities, token).await;
        assert!(what.contains("header"), "{what}");
    }
}

#[tokio::test]
async fn claims_that_are_given_twice_are_rejected() {
    let identities = Fixture::with_all_keys().open();
    // The library that verifies signatures finds the first one itself, but not the others.
    for first in ["\"sub\":\"bob\"", "\"groups\":[],\"groups\":[\"root\"]", "\"x\":1,\"x\":1"] {
        let twice = claims().to_string().replacen('{', &format!("{{{first},"), 1);
        let token = HMAC.token_with(&json!({ "alg": "HS256" }), &twice);
        let what = rejection(&identities, token).await;
        assert!(what.contains("used twice"), "{what}");
    }
}

#[tokio::test]
async fn a_long_subject_becomes_a_hash() {
    let identities = Fixture::with_all_keys().open();
    let long = accepted(&identities, HMAC.token(&claims_with("sub", json!(text_of(65))))).await;
    let subject = long.subject.as_ref().unwrap().as_str();
    assert!(subject.starts_with("h:") && subject.len() == 64, "{subject}");
}

#[tokio::test]
async fn a_changed_byte_anywhere_is_rejected() {
    let identities = Fixture::with_all_keys().open();
    for key in [&*HMAC, &*RSA, &*EC, &*ED] {
        let token = key.token(&claims()).into_bytes();
        for at in (0..token.len()).step_by(7) {
            let mut changed = token.clone();
            // Another symbol of base64url, whose change is not only in unused bits.
            changed[at] = if changed[at] == b'A' { b'x' } else { b'A' };
            rejection(&identities, changed).await;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn random_bytes_are_rejected(token in proptest::collection::vec(any::<u8>(), 0..600)) {
        let identities = Fixture::with_all_keys().open();
        let error = pollster_block(identities.identify(Some(&token))).unwrap_err();
        let is_rejected = matches!(error, IdentifyError::Rejected { .. });
        prop_assert!(is_rejected);
    }

    #[test]
    fn random_headers_and_signed_claims_never_panic(
        header in "[{}\\[\\]\":,a-z0-9]{0,60}",
        claims in "\\{(\"(sub|aud|iss|exp|nbf|landfall|groups)\":(\"[a-z]{0,5}\"|[0-9]{1,20}|\\[\\]|null|\\{\\}),?){0,8}\\}?",
    ) {
        let identities = Fixture::with_all_keys().open();
        let unsigned = format!("{}.{}.AAAA", base64url(&header), base64url(&claims));
        pollster_block(identities.identify(Some(unsigned.as_bytes()))).unwrap_err();
        let signed = HMAC.token_with(&json!({ "alg": "HS256" }), &claims);
        pollster_block(identities.identify(Some(signed.as_bytes()))).unwrap_err();
    }
}

fn pollster_block<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}
