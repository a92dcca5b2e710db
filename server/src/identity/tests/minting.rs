//! Tokens that `landfall-relay token` makes are accepted by a relay with the same secret.

use std::time::Duration;

use landfall_protocol::access::Rights;

use super::support::*;
use crate::clock::now_ms;
use crate::identity::{MintError, MintOptions, mint};

fn options(fixture: &Fixture) -> MintOptions {
    MintOptions {
        secret: fixture.path("secret"),
        issuer: ISSUER.to_owned(),
        audience: AUDIENCE.to_owned(),
        subject: "alice".to_owned(),
        groups: vec!["dev".to_owned()],
        groups_claim: "groups".to_owned(),
        spaces: vec!["team-*".parse().unwrap()],
        rights: vec!["write".to_owned(), "create".to_owned()],
        expires: Duration::from_secs(60),
    }
}

#[tokio::test]
async fn a_minted_token_is_accepted_until_it_expires() {
    let fixture = Fixture::with_all_keys();
    let minted = mint(&options(&fixture)).unwrap();
    let identities = fixture.open();
    fixture.clock.set_unix(now_ms() / 1_000);
    let principal = accepted(&identities, &minted).await;
    assert_eq!(principal.groups, ["dev".to_owned()].into());
    let rights = principal.rights_on_space(&"team-a".parse().unwrap());
    assert_eq!(rights, Rights::WRITE.union(Rights::CREATE));
    fixture.clock.set_unix(now_ms() / 1_000 + 121);
    let what = rejection(&identities, &minted).await;
    assert!(what.contains("expired"), "{what}");
}

#[tokio::test]
async fn what_cannot_be_minted_is_refused() {
    let fixture = Fixture::with_all_keys();
    let wrong = MintOptions { rights: vec!["own".to_owned()], ..options(&fixture) };
    assert!(matches!(mint(&wrong), Err(MintError::Right(_))));
    fixture.write("secret", "short");
    assert!(matches!(mint(&options(&fixture)), Err(MintError::Secret(_))));
    std::fs::remove_file(fixture.path("secret")).unwrap();
    assert!(matches!(mint(&options(&fixture)), Err(MintError::Read { .. })));
}
