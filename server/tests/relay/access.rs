//! A relay that identifies its clients: tokens, rights, and the difference between an unreadable and an
//! unknown document, which no client can tell.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{SystemTime, UNIX_EPOCH};

use landfall_protocol::digest::{Node, Prefix, tombstone_id};
use landfall_protocol::frame::{
    DigestQuery, Ephemeral, Features, Fetch, Filter, Frame, Holding, Push, PushEntry, PushSnapshot,
    Subscribe, Token, Want, encode, entry_kind, features,
};
use landfall_protocol::{Code, DocumentId};
use landfall_relay::{IdentityOptions, OperatorListener, ServeOptions};
use serde_bytes::ByteBuf;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::double::Double;
use crate::harness::{Author, Client, Relay, SPACE, get_of, soon, until};

const SECRET: &[u8] = b"a secret of more than thirty-two bytes";

/// The documents of [`Author`]s 1, 2 and 3.
const READABLE: DocumentId = DocumentId::from_bytes([1; 16]);
const WRITABLE: DocumentId = DocumentId::from_bytes([2; 16]);
const HIDDEN: DocumentId = DocumentId::from_bytes([3; 16]);
const UNKNOWN: DocumentId = DocumentId::from_bytes([9; 16]);

pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

pub(crate) fn signed(claims: &Value) -> String {
    let _ = jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER.install_default();
    let key = jsonwebtoken::EncodingKey::from_secret(SECRET).unwrap();
    jsonwebtoken::encode(&jsonwebtoken::Header::default(), claims, &key).unwrap()
}

pub(crate) fn claims(subject: &str, rules: &Value) -> Value {
    json!({
        "iss": "test", "aud": "relay", "sub": subject, "exp": now() + 600, "nbf": now() - 10,
        "iat": now() - 10, "landfall": rules,
    })
}

pub(crate) fn token(subject: &str, rules: &Value) -> String {
    signed(&claims(subject, rules))
}

pub(crate) fn admin() -> String {
    let all = ["read", "write", "create", "delete", "admin"];
    token("admin", &json!([{ "spaces": "*", "rights": all }]))
}

/// Reads one document, and writes another.
pub(crate) fn alice() -> String {
    token(
        "alice",
        &json!([
            { "spaces": SPACE, "document": READABLE.to_string(), "rights": ["read"] },
            { "spaces": SPACE, "document": WRITABLE.to_string(), "rights": ["write"] },
        ]),
    )
}

pub(crate) fn required(folder: &TempDir) -> impl FnOnce(&mut ServeOptions) + use<> {
    let secret = folder.path().join("secret");
    fs::write(&secret, SECRET).unwrap();
    move |options| {
        options.identity = IdentityOptions {
            secret: Some(secret),
            issuer: Some("test".into()),
            audience: Some("relay".into()),
            ..IdentityOptions::default()
        };
    }
}

pub(crate) async fn relay() -> (TempDir, TempDir, Relay, Arc<Double>) {
    let (folder, config) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (relay, double) = Double::serve(&folder, required(&config)).await;
    (folder, config, relay, double)
}

/// A relay with a file of rules and one of revoked tokens.
pub(crate) async fn relay_with_files() -> (TempDir, TempDir, Relay) {
    let (folder, config) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let identify = required(&config);
    let [access, revoked] = ["access", "revoked"].map(|name| config.path().join(name));
    fs::write(&access, "{}").unwrap();
    fs::write(&revoked, "{}").unwrap();
    let relay = Relay::start_with(&folder, |options| {
        identify(options);
        (options.identity.access, options.identity.revoked) = (Some(access), Some(revoked));
    })
    .await;
    (folder, config, relay)
}

/// Replaces one of these files as an operator should: under another name, then renamed.
pub(crate) fn replace(config: &TempDir, name: &str, content: &Value) {
    let next = config.path().join("next");
    fs::write(&next, content.to_string()).unwrap();
    fs::rename(next, config.path().join(name)).unwrap();
}

/// A client with subscription 1, which supports everything.
async fn signed_in(relay: &Relay, replica: u8, token: &str) -> Client {
    let mut client = Client::connect(relay).await;
    client.send_hello(replica, Some(token)).await;
    client.send(&Frame::Features(Features { bits: features::ALL })).await;
    assert!(matches!(client.frame().await, Frame::Welcome(_)));
    client.subscribe(1, SPACE, None, None).await;
    client
}

/// Documents 1, 2 and 3 with two changes each.
async fn write_documents(relay: &Relay) {
    let mut client = signed_in(relay, 100, &admin()).await;
    for number in 1..=3 {
        let mut author = Author::new(number);
        let push = client.push(author.document, &author.changes(2)).await;
        client.acked(push).await;
    }
}

async fn ended(client: &mut Client) -> Code {
    until(client, |frame| match frame {
        Frame::Error(error) => Some(error.code),
        _ => None,
    })
    .await
}

#[tokio::test]
async fn a_client_without_a_valid_token_is_told_unauthorized() {
    let (_folder, _config, relay, _) = relay().await;
    let expired = signed(&json!({
        "iss": "test", "aud": "relay", "sub": "alice", "exp": now() - 600, "nbf": now() - 900,
    }));
    for token in [None, Some("nonsense"), Some(expired.as_str())] {
        let mut client = Client::connect(&relay).await;
        client.send_hello(7, token).await;
        assert_eq!(ended(&mut client).await, Code::UNAUTHORIZED);
    }
    relay.stop().await.unwrap();
}

#[tokio::test]
async fn a_client_receives_only_the_documents_that_it_may_read() {
    let (_folder, _config, relay, _) = relay().await;
    write_documents(&relay).await;
    let mut client = signed_in(&relay, 1, &alice()).await;
    let mut received = Vec::new();
    while received.len() < 4 {
        if let Frame::Entries(page) = client.frame().await {
            received.extend(page.entries.into_iter().map(|entry| entry.document));
        }
    }
    assert_eq!(received, [READABLE, READABLE, WRITABLE, WRITABLE]);
    // The digests are those of a space that has only these documents.
    client
        .send(&Frame::Digest(DigestQuery { subscription: 1, prefixes: vec![Prefix::ROOT] }))
        .await;
    let found = until(&mut client, |frame| match frame {
        Frame::Difference(found) => Some(found),
        _ => None,
    })
    .await;
    let [branch] = &found.branches[..] else { panic!("{found:?}") };
    let Node::DigestEntries(entries) = &branch.node else { panic!("{found:?}") };
    let named: Vec<DocumentId> = entries.iter().map(|(document, _)| *document).collect();
    assert_eq!(named, [READABLE, WRITABLE]);
    relay.stop().await.unwrap();
}

/// One request for a document, and the answer with the document's id replaced.
async fn answer(client: &mut Client, request: &Frame, document: DocumentId) -> Vec<Vec<u8>> {
    client.send(request).await;
    client.send(&Frame::Ping(77)).await;
    let mut frames = Vec::new();
    loop {
        match client.frame().await {
            // A query is answered in the background, after the pong.
            Frame::Pong(77) if !matches!(request, Frame::Fetch(_)) => break,
            Frame::Pong(77) => {}
            Frame::Entries(_) => {}
            frame => {
                let is_last = matches!(&frame, Frame::Document(found) if !found.more);
                frames.push(encode(&frame));
                if is_last {
                    break;
                }
            }
        }
    }
    let replaced = |bytes: &[u8]| {
        let mut bytes = bytes.to_vec();
        let id = document.as_bytes();
        while let Some(at) = bytes.windows(16).position(|window| window == id) {
            bytes[at..at + 16].fill(0xee);
        }
        bytes
    };
    frames.iter().map(|frame| replaced(frame)).collect()
}

fn requests(document: DocumentId) -> Vec<Frame> {
    let (subscription, have) = (1, vec![]);
    let entry = |id, kind, entry| PushEntry {
        id,
        subscription,
        document,
        kind,
        flags: 0,
        entry,
        body: ByteBuf::new(),
    };
    let (hash, total, heads) = ([5; 32], 100, vec![]);
    vec![
        Frame::Fetch(Fetch { subscription, wants: vec![Want { document, have }] }),
        Frame::Push(Push { id: 1, subscription, document, changes: vec![vec![1; 10].into()] }),
        Frame::PushEntry(entry(2, entry_kind::CHANGE, [4; 32])),
        Frame::PushEntry(entry(3, entry_kind::TOMBSTONE, tombstone_id(&document))),
        Frame::PushSnapshot(PushSnapshot { id: 4, subscription, document, hash, total, heads }),
        Frame::Ephemeral(Ephemeral {
            subscription,
            document,
            sender: String::new(),
            session: "s".into(),
            count: 1,
            data: vec![1].into(),
        }),
    ]
}

#[tokio::test]
async fn an_unreadable_document_is_answered_like_an_unknown_one() {
    let (_folder, _config, relay, double) = relay().await;
    write_documents(&relay).await;
    let mut transcripts = Vec::new();
    for document in [HIDDEN, UNKNOWN] {
        let mut client = signed_in(&relay, 1, &alice()).await;
        client.entries(4).await;
        let before = double.reads.load(Ordering::Relaxed);
        let mut transcript = Vec::new();
        for request in requests(document) {
            transcript.push(answer(&mut client, &request, document).await);
        }
        transcripts.push((transcript, double.reads.load(Ordering::Relaxed) - before));
    }
    assert!(transcripts[0].0.iter().flatten().count() >= 5, "{transcripts:?}");
    assert_eq!(transcripts[0], transcripts[1]);
    // The test would notice a difference: the same requests by one who may read the document.
    let mut client = signed_in(&relay, 100, &admin()).await;
    client.entries(6).await;
    client.send(&requests(HIDDEN)[0]).await;
    let found = until(&mut client, |frame| match frame {
        Frame::Document(found) => Some(found),
        _ => None,
    })
    .await;
    assert!(matches!(found.holding, Holding::Present(_)));
    relay.stop().await.unwrap();
}

#[tokio::test]
async fn a_space_without_a_right_is_refused_alike_whether_it_exists_or_not() {
    let (_folder, _config, relay, double) = relay().await;
    let elsewhere = token("carol", &json!([{ "spaces": "team-*", "rights": ["read"] }]));
    write_documents(&relay).await;
    let mut answers = Vec::new();
    for (name, subscription) in [(SPACE, 1), ("nothing", 1)] {
        let mut client = Client::connect(&relay).await;
        client.send_hello(3, Some(&elsewhere)).await;
        assert!(matches!(client.frame().await, Frame::Welcome(_)));
        let before = double.reads.load(Ordering::Relaxed);
        let (space, filter) = (name.parse().unwrap(), Filter::Everything);
        let (cursor, acknowledged) = (None, None);
        let subscribe = Subscribe { subscription, space, filter, cursor, acknowledged };
        client.send(&Frame::Subscribe(subscribe)).await;
        let Frame::Unsubscribed(refused) = client.frame().await else { panic!("subscribed") };
        assert_eq!(double.reads.load(Ordering::Relaxed), before, "decided without the store");
        answers.push((refused.code, refused.what.replace(name, "-"), refused.hint));
    }
    assert_eq!(answers[0].0, Code::FORBIDDEN);
    assert_eq!(answers[0], answers[1]);
    relay.stop().await.unwrap();
}

#[tokio::test]
async fn the_author_of_an_entry_is_the_subject_of_the_token() {
    let (_folder, _config, relay, _) = relay().await;
    write_documents(&relay).await;
    let mut client = signed_in(&relay, 1, &alice()).await;
    client.entries(4).await;
    let mut author = Author::new(2);
    let changes = author.changes(3);
    let push = client.push(WRITABLE, &changes[2..]).await;
    client.acked(push).await;
    let mut reader = signed_in(&relay, 100, &admin()).await;
    let authors: Vec<_> = reader.entries(7).await.into_iter().map(|entry| entry.author).collect();
    assert!(authors[..6].iter().all(|author| author.as_slice() == b"admin"));
    assert_eq!(authors[6].as_slice(), b"alice");
    relay.stop().await.unwrap();
}

#[tokio::test]
async fn a_document_is_created_only_with_the_right_to_create() {
    let (_folder, _config, relay, _) = relay().await;
    write_documents(&relay).await;
    for (rights, creates) in [(json!(["write"]), false), (json!(["write", "create"]), true)] {
        let token = token("bob", &json!([{ "spaces": SPACE, "rights": rights }]));
        let mut client = signed_in(&relay, 5, &token).await;
        let mut author = Author::new(8);
        let push = client.push(author.document, &author.changes(1)).await;
        match creates {
            true => assert_eq!(client.acked(push).await.count, 1),
            false => assert_eq!(client.nacked(push).await.code, Code::FORBIDDEN),
        }
    }
    relay.stop().await.unwrap();
}

#[tokio::test]
async fn a_replica_in_use_by_one_principal_is_refused_to_another() {
    let (_folder, _config, relay, _) = relay().await;
    let first = signed_in(&relay, 1, &admin()).await;
    let mut second = Client::connect(&relay).await;
    second.send_hello(1, Some(&alice())).await;
    assert_eq!(ended(&mut second).await, Code::UNAUTHORIZED);
    let _same = signed_in(&relay, 1, &admin()).await;
    drop(first);
    relay.stop().await.unwrap();
}

#[tokio::test]
async fn a_session_ends_when_its_token_expires_unless_it_is_renewed() {
    let (_folder, _config, relay, _) = relay().await;
    let rules = json!([{ "spaces": SPACE, "rights": ["read"] }]);
    // The relay accepts a token for 60 s after its end, for clocks that differ.
    let expiring = |left: u64| {
        let mut claims = claims("dora", &rules);
        claims["exp"] = json!(now() - 60 + left);
        signed(&claims)
    };
    let mut renewed = signed_in(&relay, 1, &expiring(3)).await;
    let mut expired = signed_in(&relay, 2, &expiring(3)).await;
    let token = Token { token: token("dora", &rules).into_bytes().into() };
    renewed.send(&Frame::Token(token)).await;
    assert_eq!(soon(ended(&mut expired)).await, Code::UNAUTHORIZED);
    renewed.send(&Frame::Ping(5)).await;
    until(&mut renewed, |frame| matches!(frame, Frame::Pong(5)).then_some(())).await;
    relay.stop().await.unwrap();
}

#[tokio::test]
async fn pages_about_all_documents_are_not_served_where_clients_are_identified() {
    let (_folder, _config, relay, _) = relay().await;
    for path in ["/metrics", "/playground/documents?space=notes", "/playground/live?space=notes"] {
        assert_eq!(relay.get(path).await.0, 404, "{path}");
    }
    for path in ["/healthz", "/readyz"] {
        assert_eq!(relay.get(path).await.0, 200, "{path}");
    }
    relay.stop().await.unwrap();
}

#[tokio::test]
async fn operators_read_the_metrics_on_a_listener_of_their_own() {
    let (folder, config) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let listener = OperatorListener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    let identify = required(&config);
    let relay = Relay::start_with(&folder, |options| {
        identify(options);
        options.operators = Some(listener);
    })
    .await;
    let _client = signed_in(&relay, 1, &admin()).await;
    let (status, metrics) = get_of(address, "/metrics").await;
    assert!(status == 200 && metrics.contains("landfall_relay_sessions 1"), "{metrics}");
    assert_eq!(get_of(address, "/readyz").await.0, 200);
    assert_eq!(get_of(address, "/playground/documents?space=notes").await.0, 404);
    relay.stop().await.unwrap();
    assert!(std::net::TcpStream::connect(address).is_err(), "it ends with the relay");
}

#[tokio::test]
async fn ephemeral_messages_reach_only_clients_that_may_read_the_document() {
    let (_folder, _config, relay, _) = relay().await;
    write_documents(&relay).await;
    let mut admin = signed_in(&relay, 100, &admin()).await;
    let mut alice = signed_in(&relay, 1, &alice()).await;
    admin.entries(6).await;
    alice.entries(4).await;
    let message = |document, count| {
        Frame::Ephemeral(Ephemeral {
            subscription: 1,
            document,
            sender: String::new(),
            session: "s".into(),
            count,
            data: vec![1].into(),
        })
    };
    admin.send(&message(HIDDEN, 1)).await;
    admin.send(&message(READABLE, 2)).await;
    let count = |frame| match frame {
        Frame::Ephemeral(message) => Some(message.count),
        _ => None,
    };
    assert_eq!(until(&mut alice, count).await, 2, "the first is about a hidden document");
    // The other way, only for the document that she may write to.
    alice.send(&message(READABLE, 3)).await;
    alice.send(&message(WRITABLE, 4)).await;
    assert_eq!(until(&mut admin, count).await, 4);
    relay.stop().await.unwrap();
}

#[tokio::test]
async fn a_revoked_token_ends_its_running_sessions_and_no_other() {
    let (_folder, config, relay) = relay_with_files().await;
    let mut revoked = claims("dora", &json!([{ "spaces": SPACE, "rights": ["read"] }]));
    revoked["jti"] = json!("one");
    let mut first = signed_in(&relay, 1, &signed(&revoked)).await;
    let mut other = signed_in(&relay, 2, &admin()).await;
    replace(&config, "revoked", &json!({ "tokens": ["one"] }));
    assert_eq!(ended(&mut first).await, Code::UNAUTHORIZED);
    other.send(&Frame::Ping(5)).await;
    until(&mut other, |frame| matches!(frame, Frame::Pong(5)).then_some(())).await;
    relay.stop().await.unwrap();
}

/// The client connects again, and subscribes under its new rights.
#[tokio::test]
async fn changed_rules_end_the_sessions_that_they_concern() {
    let (_folder, config, relay) = relay_with_files().await;
    write_documents(&relay).await;
    let mut first = signed_in(&relay, 1, &alice()).await;
    let mut other = signed_in(&relay, 2, &admin()).await;
    let rule = json!({ "subject": "alice", "spaces": SPACE, "rights": ["read"] });
    replace(&config, "access", &json!({ "rules": [rule] }));
    assert_eq!(ended(&mut first).await, Code::GOODBYE);
    other.send(&Frame::Ping(5)).await;
    until(&mut other, |frame| matches!(frame, Frame::Pong(5)).then_some(())).await;
    let mut again = signed_in(&relay, 1, &alice()).await;
    again.entries(6).await;
    relay.stop().await.unwrap();
}
