//! automerge-repo clients of a relay that identifies its clients.

use std::sync::atomic::Ordering;

use automerge::ReadDoc;
use landfall_protocol::automerge_repo::message::{Message as Repo, RemoteHeads};
use landfall_protocol::{Code, DocumentId, limits};
use serde_json::json;
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, handshake::client::Request};

use crate::access::{
    admin, alice, claims, now, relay, relay_with_files, replace, required, signed, token,
};
use crate::automerge_repo::closed;
use crate::automerge_repo_client::{Heard, Replica, RepoClient, shown};
use crate::harness::{Relay, SPACE, damage, soon};

/// Of alice: she reads document 1 and writes document 2.
const HIDDEN: u8 = 3;
const UNKNOWN: u8 = 9;

fn path(token: &str) -> String {
    format!("/spaces/{SPACE}?token={token}")
}

async fn write_documents(relay: &Relay) {
    let mut client = RepoClient::join(relay, &path(&admin()), "admin").await;
    for number in 1..=3 {
        let mut replica = Replica::made(number, 2);
        client.send(&mut replica).await;
        client.settle(&mut replica).await;
    }
}

/// The messages until the relay is quiet, with the document's id replaced.
async fn until_quiet(client: &mut RepoClient, document: DocumentId) -> Vec<String> {
    let mut messages = Vec::new();
    while let Ok(next) =
        tokio::time::timeout(std::time::Duration::from_millis(400), client.next()).await
    {
        let message = next.map(|heard| format!("{heard:?}"));
        messages.push(format!("{message:?}").replace(&format!("{document:?}"), "-"));
        if message.is_err() {
            break;
        }
    }
    messages
}

#[tokio::test]
async fn a_client_without_a_token_is_refused_by_the_websocket_and_a_page_by_http() {
    let (_folder, _config, relay, _) = relay().await;
    let expired = {
        let mut claims = claims("alice", &json!([{ "spaces": SPACE, "rights": ["read"] }]));
        claims["exp"] = json!(now() - 600);
        signed(&claims)
    };
    for path in [format!("/spaces/{SPACE}"), path("nonsense"), path(&expired)] {
        let mut client = RepoClient::connect(relay.address, &path, "node").await;
        assert_eq!(client.end().await, closed(Code::UNAUTHORIZED), "{path}");
    }
    let mut request = page(&relay);
    request.headers_mut().insert("origin", "http://localhost:8080".parse().unwrap());
    let Err(Error::Http(response)) = soon(connect_async(request)).await else { panic!("upgraded") };
    assert_eq!(response.status(), 401);
    relay.stop().await.unwrap();
}

fn page(relay: &Relay) -> Request {
    format!("ws://{}/spaces/{SPACE}", relay.address).into_client_request().unwrap()
}

#[tokio::test]
async fn a_token_may_come_in_the_authorization_header() {
    let (_folder, _config, relay, _) = relay().await;
    let mut request = page(&relay);
    let value = format!("Bearer {}", admin()).parse().unwrap();
    request.headers_mut().insert("authorization", value);
    let (socket, _) = soon(connect_async(request)).await.unwrap();
    let mut client = RepoClient { socket, name: "samod".to_owned(), server: String::new() };
    client.say_join(None).await;
    assert!(matches!(client.hear().await, Heard::Peer { .. }));
    relay.stop().await.unwrap();
}

#[tokio::test]
async fn a_space_without_a_right_is_refused_alike_whether_it_exists_or_not() {
    let (_folder, _config, relay, _) = relay().await;
    write_documents(&relay).await;
    let elsewhere = token("carol", &json!([{ "spaces": "team-*", "rights": ["read"] }]));
    for space in [SPACE, "nothing"] {
        let path = format!("/spaces/{space}?token={elsewhere}");
        let mut client = RepoClient::connect(relay.address, &path, "carol").await;
        assert_eq!(client.end().await, closed(Code::FORBIDDEN));
    }
    relay.stop().await.unwrap();
}

#[tokio::test]
async fn an_unreadable_document_is_answered_like_an_unknown_one() {
    let (_folder, _config, relay, double) = relay().await;
    write_documents(&relay).await;
    let mut transcripts = Vec::new();
    for number in [HIDDEN, UNKNOWN] {
        let mut client = RepoClient::join(&relay, &path(&alice()), "alice").await;
        let before = double.reads.load(Ordering::Relaxed);
        // A request; then changes, of a replica that has a document of its own under this id.
        let mut asked = Replica::empty(number);
        client.send(&mut asked).await;
        let mut transcript = until_quiet(&mut client, asked.id).await;
        let mut made = Replica::made(number, 1);
        client.send(&mut made).await;
        transcript.extend(until_quiet(&mut client, made.id).await);
        transcripts.push((transcript, double.reads.load(Ordering::Relaxed) - before));
    }
    assert!(!transcripts[0].0.is_empty());
    assert_eq!(transcripts[0], transcripts[1]);
    let mut client = RepoClient::join(&relay, &path(&admin()), "admin").await;
    for number in [HIDDEN, UNKNOWN] {
        let mut found = Replica::empty(number);
        client.send(&mut found).await;
        match number {
            HIDDEN => drop(client.receive(&mut found).await),
            _ => client.unavailable(found.id).await,
        }
    }
    relay.stop().await.unwrap();
}

#[tokio::test]
async fn a_reader_receives_a_document_and_its_changes_are_not_stored() {
    let (_folder, _config, relay, _) = relay().await;
    write_documents(&relay).await;
    let mut alice = RepoClient::join(&relay, &path(&alice()), "alice").await;
    let mut admin = RepoClient::join(&relay, &path(&admin()), "admin").await;
    for (number, is_stored) in [(1, false), (2, true)] {
        let mut hers = Replica::empty(number);
        alice.send(&mut hers).await;
        while hers.get("made").is_none() {
            alice.receive(&mut hers).await;
        }
        let before = hers.heads();
        hers.put("by", "alice");
        alice.send(&mut hers).await;
        let messages = until_quiet(&mut alice, hers.id).await;
        assert!(messages.len() < 10, "an endless exchange: {messages:?}");
        let mut theirs = Replica::empty(number);
        admin.send(&mut theirs).await;
        while theirs.get("made").is_none() {
            admin.receive(&mut theirs).await;
        }
        until_quiet(&mut admin, theirs.id).await;
        let by = theirs.get("by");
        assert_eq!(by.as_deref(), is_stored.then_some("alice"), "document {number}");
        assert_eq!(theirs.heads() == before, !is_stored);
    }
    relay.stop().await.unwrap();
}

#[tokio::test]
async fn another_principal_cannot_take_a_peer_id_over() {
    let (_folder, _config, relay, _) = relay().await;
    write_documents(&relay).await;
    let mut first = RepoClient::join(&relay, &path(&admin()), "tab").await;
    let mut second = RepoClient::connect(relay.address, &path(&alice()), "tab").await;
    second.say_join(None).await;
    assert_eq!(second.end().await, closed(Code::FORBIDDEN));
    let mut found = Replica::empty(HIDDEN);
    first.send(&mut found).await;
    first.receive(&mut found).await;
    // Its own principal can.
    let mut third = RepoClient::join(&relay, &path(&admin()), "tab").await;
    assert!(first.end().await.is_some());
    third.send(&mut Replica::empty(UNKNOWN)).await;
    third.unavailable(Replica::empty(UNKNOWN).id).await;
    relay.stop().await.unwrap();
}

#[tokio::test]
async fn a_session_ends_when_its_token_expires() {
    let (_folder, _config, relay, _) = relay().await;
    let mut claims = claims("dora", &json!([{ "spaces": SPACE, "rights": ["read"] }]));
    // The relay accepts a token for 60 s after its end, for clocks that differ.
    claims["exp"] = json!(now() - 60 + 3);
    let mut client = RepoClient::join(&relay, &path(&signed(&claims)), "dora").await;
    assert_eq!(client.end().await, closed(Code::UNAUTHORIZED));
    relay.stop().await.unwrap();
}

#[tokio::test]
async fn revoked_tokens_and_changed_rules_end_running_sessions() {
    let (_folder, config, relay) = relay_with_files().await;
    let mut revoked = claims("dora", &json!([{ "spaces": SPACE, "rights": ["read"] }]));
    revoked["jti"] = json!("one");
    let mut first = RepoClient::join(&relay, &path(&signed(&revoked)), "dora").await;
    let mut second = RepoClient::join(&relay, &path(&alice()), "alice").await;
    let mut other = RepoClient::join(&relay, &path(&admin()), "admin").await;
    replace(&config, "revoked", &json!({ "tokens": ["one"] }));
    assert_eq!(first.end().await, closed(Code::UNAUTHORIZED));
    let rule = json!({ "subject": "alice", "spaces": SPACE, "rights": ["read"] });
    replace(&config, "access", &json!({ "rules": [rule] }));
    assert_eq!(second.end().await, Some(1_000), "a normal end: the client connects again");
    let mut unknown = Replica::empty(UNKNOWN);
    other.send(&mut unknown).await;
    other.unavailable(unknown.id).await;
    relay.stop().await.unwrap();
}

/// Also while the document is damaged, which a push by one who may write would find out.
#[tokio::test]
async fn a_damaged_unreadable_document_is_answered_like_an_unknown_one() {
    let (folder, config) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let relay = Relay::start_with(&folder, required(&config)).await;
    write_documents(&relay).await;
    relay.stop().await.unwrap();
    assert_eq!(damage(folder.path(), ("entry", "body"), 50, "\"offset\" = 3"), 1);
    let relay = Relay::start_with(&folder, required(&config)).await;
    // A read finds the damage.
    let mut admin = RepoClient::join(&relay, &path(&admin()), "admin").await;
    let mut broken = Replica::empty(HIDDEN);
    admin.send(&mut broken).await;
    until_quiet(&mut admin, broken.id).await;
    let mut transcripts = Vec::new();
    for number in [HIDDEN, UNKNOWN] {
        let mut client = RepoClient::join(&relay, &path(&alice()), "alice").await;
        let mut made = Replica::made(number, 1);
        client.send(&mut made).await;
        let mut transcript = until_quiet(&mut client, made.id).await;
        let mut whole = automerge::AutoCommit::load(&made.doc.save()).unwrap();
        client.say_whole(made.id, &mut whole).await;
        transcript.extend(until_quiet(&mut client, made.id).await);
        transcripts.push(transcript);
    }
    assert_eq!(transcripts[0], transcripts[1]);
    relay.stop().await.unwrap();
}

/// One refusal covers a document: its many changes neither end the session nor cost a push each.
#[tokio::test]
async fn a_reader_with_many_own_changes_stays_connected() {
    let (_folder, _config, relay, _) = relay().await;
    write_documents(&relay).await;
    let mut alice = RepoClient::join(&relay, &path(&alice()), "alice").await;
    let mut hers = Replica::empty(1);
    alice.send(&mut hers).await;
    while hers.get("made").is_none() {
        alice.receive(&mut hers).await;
    }
    (0..limits::REPO_REFUSED + 100).for_each(|n| hers.put("by", &n.to_string()));
    alice.send(&mut hers).await;
    let messages = until_quiet(&mut alice, hers.id).await;
    assert!(messages.len() < 10 && messages.iter().all(|message| message.starts_with("Ok")));
    // Changes of others still arrive.
    let mut admin = RepoClient::join(&relay, &path(&admin()), "admin").await;
    let mut theirs = Replica::empty(1);
    admin.send(&mut theirs).await;
    while theirs.get("made").is_none() {
        admin.receive(&mut theirs).await;
    }
    theirs.put("from", "admin");
    admin.send(&mut theirs).await;
    while hers.get("from").is_none() {
        alice.receive(&mut hers).await;
    }
    assert_eq!(theirs.get("by"), None);
    relay.stop().await.unwrap();
}

/// A client that may write, and not create, is refused until the document exists.
#[tokio::test]
async fn changes_without_the_right_to_create_are_stored_once_the_document_exists() {
    let (_folder, _config, relay, _) = relay().await;
    let writer = token("bob", &json!([{ "spaces": SPACE, "rights": ["write"] }]));
    let mut bob = RepoClient::join(&relay, &path(&writer), "bob").await;
    let mut his = Replica::made(8, 5);
    bob.send(&mut his).await;
    until_quiet(&mut bob, his.id).await;
    let mut admin = RepoClient::join(&relay, &path(&admin()), "admin").await;
    let mut theirs = Replica::made(8, 6);
    admin.send(&mut theirs).await;
    let first = theirs.heads();
    admin.until(&mut theirs, &first).await;
    while theirs.doc.get_change_by_hash(&his.heads()[0]).is_none() {
        tokio::select! {
            _ = bob.receive(&mut his) => {}
            _ = admin.receive(&mut theirs) => {}
        }
    }
    relay.stop().await.unwrap();
}

#[tokio::test]
async fn heads_of_a_storage_are_reported_by_its_own_principal_only() {
    let (_folder, _config, relay, _) = relay().await;
    write_documents(&relay).await;
    let mut listener = RepoClient::join(&relay, &path(&admin()), "listener").await;
    let mut followed = Replica::empty(1);
    listener.send(&mut followed).await;
    while followed.get("made").is_none() {
        listener.receive(&mut followed).await;
    }
    let mut owner = RepoClient::connect(relay.address, &path(&admin()), "owner").await;
    owner.say_join(Some("admins-disk")).await;
    assert!(matches!(owner.hear().await, Heard::Peer { .. }));
    let mut alice = RepoClient::join(&relay, &path(&alice()), "alice").await;
    let add = vec!["admins-disk", "alices-disk"];
    let server = listener.server.clone();
    let (sender, target, remove) = ("listener", server.as_str(), vec![]);
    listener.say(&Repo::RemoteSubscription { sender, target, add, remove }).await;
    until_quiet(&mut listener, followed.id).await;
    for storage_id in ["admins-disk", "alices-disk"] {
        let heads = vec![RemoteHeads { storage_id, heads: vec!["forged"], timestamp_ms: 1.0 }];
        let document = shown(followed.id);
        let (sender, target, document) = ("alice", server.as_str(), document.as_str());
        alice.say(&Repo::RemoteHeads { sender, target, document, heads }).await;
    }
    let heard = until_quiet(&mut listener, followed.id).await.join("\n");
    assert!(heard.contains("alices-disk") && !heard.contains("admins-disk"), "{heard}");
    relay.stop().await.unwrap();
}
