//! The files of the configuration: their errors, and what happens when they change.

use std::time::Duration;

use serde_json::json;

use super::support::*;
use crate::identity::{Identities, IdentityError, IdentityOptions};
use crate::limits;
use landfall_protocol::access::Rights;

fn refusal(options: &IdentityOptions) -> String {
    let Err(error) = Identities::new(options) else { panic!("accepted") };
    format!("{error}; {}", error.hint())
}

#[test]
fn issuer_and_audience_are_required_with_any_key() {
    let mut fixture = Fixture::with_all_keys();
    fixture.options.audience = None;
    let said = refusal(&fixture.options);
    assert!(said.contains("--jwt-audience is missing"), "{said}");
    fixture.options = IdentityOptions { issuer: None, ..Fixture::with_all_keys().options };
    fixture.options.keys = None;
    fixture.options.secret = Some(fixture.write("secret", SECRET));
    let said = refusal(&fixture.options);
    assert!(said.contains("--jwt-issuer is missing"), "{said}");
}

#[test]
fn unusable_key_files_are_refused_with_the_reason() {
    let mut fixture = Fixture::new();
    fixture.options.secret = Some(fixture.write("secret", "too short\n"));
    let said = refusal(&fixture.options);
    assert!(said.contains("9 bytes, fewer than 32") && said.contains("openssl rand"), "{said}");
    fixture.options.secret = None;
    let p384 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    let twice = format!("{}{}", RSA.public_pem, EC.private_pem);
    let other_use = {
        let mut key = EC.jwk("a");
        key["use"] = json!("enc");
        key
    };
    let other_alg = {
        let mut key = RSA.jwk("a");
        key["alg"] = json!("RS512");
        key
    };
    let weak = {
        let mut key = RSA.jwk("a");
        key["n"] = json!("AQAB");
        key
    };
    let secret = json!({ "kty": "oct", "k": base64url(SECRET), "kid": "a" });
    for (content, says) in [
        (String::new(), "no PEM block"),
        ("hello".to_owned(), "no PEM block"),
        (twice, "block 2 is a \"PRIVATE KEY\""),
        (RSA.private_pem.clone(), "keep private keys off the relay"),
        (p384.public_key_pem(), "block 1 is not a public key for RS256"),
        ("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n".to_owned(), "block 1"),
        ("-----BEGIN CERTIFICATE-----\nAAAA\n".to_owned(), "certificate's public key"),
        (RSA.public_pem.repeat(65), "65 keys, more than 64"),
        ("{".to_owned(), "line 1 column 1"),
        ("{\"keys\":7}".to_owned(), "cannot be read"),
        (jwks(&[]), "none of its 0 keys"),
        (jwks(&vec![EC.jwk("a"); 65]), "65 keys, more than 64"),
        (jwks(&[other_use]), "key 1 is not for signatures"),
        (jwks(&[other_alg]), "another algorithm"),
        (jwks(&[weak]), "wrong length"),
        (jwks(&[secret]), "--jwt-secret"),
        (" ".repeat(64 * 1024 + 1), "more than 65536 bytes"),
    ] {
        fixture.options.keys = Some(fixture.write("keys", content));
        let said = refusal(&fixture.options);
        assert!(said.contains(says), "{says}: {said}");
    }
    fixture.options.keys = Some(missing_file(fixture.folder.path()));
    let Err(IdentityError::Read { .. }) = Identities::new(&fixture.options) else { panic!() };
}

#[tokio::test]
async fn a_set_of_keys_is_used_by_key_id() {
    let mut fixture = Fixture::new();
    let unknown = json!({ "kty": "AKP", "alg": "ML-DSA-44", "kid": "pq", "pub": "AAAA" });
    let set = jwks(&[RSA.jwk("rsa"), unknown, EC.jwk("ec"), ED.jwk("ed")]);
    fixture.options.keys = Some(fixture.write("keys", set));
    let identities = fixture.open();
    for (key, kid) in [(&*RSA, "rsa"), (&*EC, "ec"), (&*ED, "ed")] {
        accepted(&identities, key.token_of(kid, &claims())).await;
        accepted(&identities, key.token(&claims())).await;
    }
    let what = rejection(&identities, RSA.token_of("ec", &claims())).await;
    assert!(what.contains("for its `alg`"), "{what}");
    let what = rejection(&identities, RSA.token_of("other", &claims())).await;
    assert!(what.contains("has the token's `kid`"), "{what}");
}

#[tokio::test]
async fn keys_with_the_same_id_are_all_tried() {
    let mut fixture = Fixture::new();
    let second = pair(jsonwebtoken::Algorithm::ES256);
    let set = jwks(&[EC.jwk("a"), second.jwk("a"), RSA.jwk("a")]);
    fixture.options.keys = Some(fixture.write("keys", set));
    let identities = fixture.open();
    for key in [&*EC, &second, &*RSA] {
        accepted(&identities, key.token_of("a", &claims())).await;
    }
    let what = rejection(&identities, ED.token_of("a", &claims())).await;
    assert!(what.contains("for its `alg`"), "{what}");
}

#[tokio::test]
async fn a_token_that_many_keys_may_have_signed_needs_a_key_id() {
    let mut fixture = Fixture::new();
    let set: Vec<_> = (0..=limits::KEYS_TRIED).map(|at| EC.jwk(&format!("k{at}"))).collect();
    fixture.options.keys = Some(fixture.write("keys", jwks(&set)));
    let identities = fixture.open();
    let what = rejection(&identities, EC.token(&claims())).await;
    assert!(what.contains("no `kid`, and 9 keys"), "{what}");
    accepted(&identities, EC.token_of("k8", &claims())).await;
}

#[tokio::test]
async fn the_line_end_of_a_secret_is_not_part_of_it() {
    let mut fixture = Fixture::new();
    for end in ["", "\n", "\r\n"] {
        let content = [SECRET, end.as_bytes()].concat();
        fixture.options.secret = Some(fixture.write("secret", content));
        accepted(&fixture.open(), HMAC.token(&claims())).await;
    }
    // In a secret of arbitrary bytes it may be.
    let binary = [&[0x80; 31][..], b"\n"].concat();
    fixture.options.secret = Some(fixture.write("secret", &binary));
    accepted(&fixture.open(), hmac(&binary).token(&claims())).await;
}

#[tokio::test]
async fn a_changed_key_file_is_read_again() {
    let mut fixture = Fixture::new();
    fixture.options.keys = Some(fixture.write("keys", &EC.public_pem));
    let identities = fixture.open();
    let (old, new) = (EC.token(&claims()), ED.token(&claims()));
    accepted(&identities, &old).await;
    fixture.write("keys", &ED.public_pem);
    // Not looked at again within the same second.
    accepted(&identities, &old).await;
    fixture.clock.advance(limits::FILE_LOOK);
    accepted(&identities, &new).await;
    rejection(&identities, &old).await;
    // A wrong or missing file neither opens the relay nor changes the keys.
    for broken in [Some("-----BEGIN"), None] {
        match broken {
            Some(content) => drop(fixture.write("keys", content)),
            None => std::fs::remove_file(fixture.path("keys")).unwrap(),
        }
        fixture.clock.advance(limits::FILE_LOOK);
        accepted(&identities, &new).await;
        rejection(&identities, &old).await;
    }
    fixture.write("keys", &EC.public_pem);
    fixture.clock.advance(limits::FILE_LOOK);
    accepted(&identities, &old).await;
}

#[tokio::test]
async fn an_access_file_gives_rules_to_subjects_groups_and_anyone() {
    let mut fixture = Fixture::with_all_keys();
    let document = "automerge:4NMNnkMhL8jXrdJ9jamS58PAVdXu";
    let file = json!({
        "rules": [
            { "subject": "alice", "spaces": "home-alice", "rights": ["admin", "create"] },
            { "group": "dev", "spaces": "team-*", "rights": ["write"] },
            { "anyone": true, "spaces": "public", "rights": ["read"] },
            { "anyone": true, "spaces": "board", "document": document, "rights": ["read"] },
        ],
        "admins": ["root"],
    });
    fixture.options.access = Some(fixture.write("access", file.to_string()));
    fixture.options.groups_claim = "roles".to_owned();
    let identities = fixture.open();
    let with = |subject: &str, groups: serde_json::Value| {
        let mut claims = claims_with("roles", groups);
        claims["sub"] = json!(subject);
        claims["landfall"] = json!([{ "spaces": "home-*", "rights": ["read"] }]);
        HMAC.token(&claims)
    };
    let alice = accepted(&identities, with("alice", json!(["dev"]))).await;
    let rights = |space: &str| alice.rights_on_space(&space.parse().unwrap());
    assert_eq!(rights("home-alice"), Rights::ADMIN.union(Rights::CREATE));
    assert_eq!(rights("home-bob"), Rights::READ, "the union with the claim's rules");
    assert_eq!(rights("team-a"), Rights::WRITE);
    assert_eq!(rights("public"), Rights::READ);
    assert_eq!(rights("board"), Rights::NONE);
    assert_eq!(alice.rights(&"board".parse().unwrap(), &document.parse().unwrap()), Rights::READ);
    let bob = accepted(&identities, with("bob", json!([]))).await;
    assert_eq!(bob.rights_on_space(&"team-a".parse().unwrap()), Rights::NONE);
    assert_eq!(bob.rights_on_space(&"home-alice".parse().unwrap()), Rights::READ);
    let root = accepted(&identities, with("root", json!([]))).await;
    assert_eq!(root.rights_on_space(&"team-a".parse().unwrap()), Rights::ALL);
}

#[test]
fn a_wrong_access_file_is_refused_with_the_position() {
    let mut fixture = Fixture::with_all_keys();
    let rule = |text: &str| format!("{{\n  \"rules\": [\n    {text}\n  ]\n}}");
    for (content, says) in [
        ("{".to_owned(), "line 1, column 1"),
        (rule(r#"{ "subject": "a", "spaces": "s", "rights": ["own"] }"#), "line 3, column 54"),
        (rule(r#"{ "subject": "a", "spaces": "s*t", "rights": [] }"#), "line 3"),
        (
            rule(r#"{ "subject": "a", "spaces": "s", "rights": [], "deny": 1 }"#),
            "unknown field `deny`",
        ),
        (rule(r#"{ "spaces": "s", "rights": [] }"#), "exactly one of"),
        (rule(r#"{ "anyone": false, "spaces": "s", "rights": [] }"#), "exactly one of"),
        (
            rule(r#"{ "subject": "a", "group": "b", "spaces": "s", "rights": [] }"#),
            "exactly one of",
        ),
        (rule(r#"{ "subject": "a", "rights": [] }"#), "missing field `spaces`"),
        (r#"{ "rule": [] }"#.to_owned(), "unknown field `rule`"),
        (json!({ "admins": vec!["a"; 8_193] }).to_string(), "8193 rules, more than 8192"),
    ] {
        fixture.options.access = Some(fixture.write("access.json", content));
        let said = refusal(&fixture.options);
        assert!(said.contains(says) && said.contains("access.json"), "{says}: {said}");
    }
}

#[tokio::test]
async fn more_rules_than_a_principal_may_have_are_refused() {
    let mut fixture = Fixture::with_all_keys();
    let rules: Vec<_> = (0..200)
        .map(|at| json!({ "anyone": true, "spaces": format!("s{at}"), "rights": ["read"] }))
        .collect();
    fixture.options.access = Some(fixture.write("access", json!({ "rules": rules }).to_string()));
    let identities = fixture.open();
    let with = |count: usize| {
        let own: Vec<_> = (0..count)
            .map(|at| json!({ "spaces": format!("t{at}"), "rights": ["read"] }))
            .collect();
        HMAC.token(&claims_with("landfall", json!(own)))
    };
    assert_eq!(accepted(&identities, with(56)).await.rules.len(), 256);
    let what = rejection(&identities, with(57)).await;
    assert!(what.contains("257 rules, more than 256"), "{what}");
}

#[tokio::test]
async fn tokens_are_revoked_by_their_id_and_by_their_subject() {
    let mut fixture = Fixture::with_all_keys();
    fixture.options.revoked = Some(fixture.write("revoked", "{}"));
    let identities = fixture.open();
    let token = |id: &str, issued: u64| {
        let mut claims = claims_with("jti", json!(id));
        claims["iat"] = json!(issued);
        HMAC.token(&claims)
    };
    accepted(&identities, token("a", NOW - 10)).await;
    // 2027-01-15T08:00:00Z is the time of day of the tests.
    let list = json!({ "tokens": ["a"], "subjects": { "alice": "2027-01-15T08:00:00Z" } });
    fixture.write("revoked", list.to_string());
    fixture.clock.advance(limits::FILE_LOOK);
    let what = rejection(&identities, token("a", NOW)).await;
    assert!(what.contains("was revoked"), "{what}");
    let what = rejection(&identities, token("b", NOW - 1)).await;
    assert!(what.contains("signed out"), "{what}");
    accepted(&identities, token("b", NOW)).await;
    let what = rejection(&identities, HMAC.token(&claims_without("iat"))).await;
    assert!(what.contains("signed out"), "{what}");
    let other = claims_with("sub", json!("bob"));
    accepted(&identities, HMAC.token(&other)).await;
    // A list that is gone revokes as before.
    std::fs::remove_file(fixture.path("revoked")).unwrap();
    fixture.clock.advance(Duration::from_secs(60));
    rejection(&identities, token("a", NOW)).await;
}

#[test]
fn a_wrong_list_of_revoked_tokens_is_refused() {
    let mut fixture = Fixture::with_all_keys();
    for (content, says) in [
        ("[7]", "line 1"),
        (r#"{ "token": ["a"] }"#, "unknown field `token`"),
        (r#"{ "subjects": { "alice": "yesterday" } }"#, "2026-12-01T00:00:00Z"),
        (r#"{ "subjects": { "alice": 1 } }"#, "line 1, column"),
    ] {
        fixture.options.revoked = Some(fixture.write("revoked.json", content));
        let said = refusal(&fixture.options);
        assert!(said.contains(says) && said.contains("revoked.json"), "{says}: {said}");
    }
}
