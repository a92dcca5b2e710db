//! automerge-repo clients: what the relay performs for them. Its decisions are tested with the machine, and
//! real clients in the interoperability tests.

use landfall_protocol::automerge_repo::message::{Ephemeral, Message as Repo, PeerMetadata, Sync};
use landfall_protocol::{ChangeHash, Code, DocumentId, limits};
use tokio_tungstenite::tungstenite::Message;

use crate::automerge_repo_client::{Heard, Replica, RepoClient, shown};
use crate::harness::{Author, Client, PATIENCE, Relay, soon};
use futures_util::SinkExt;

const CLOSE_BASE: u16 = 4_000;

pub(crate) fn closed(code: Code) -> Option<u16> {
    Some(CLOSE_BASE + code.0)
}

#[tokio::test]
async fn clients_and_engines_share_one_document() {
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start(&folder).await;
    let mut alice = RepoClient::join(&relay, "/spaces/notes", "alice").await;
    let mut bob = RepoClient::join(&relay, "/spaces/notes", "bob").await;
    let mut engine = Client::at_start(&relay).await;
    let mut hers = Replica::made(1, 1);
    alice.send(&mut hers).await;
    alice.settle(&mut hers).await;
    let entries = engine.entries(1).await;
    assert_eq!((entries[0].document, entries[0].id), (hers.id, hers.heads()[0].0));
    let mut his = Replica::empty(1);
    bob.send(&mut his).await;
    bob.until(&mut his, &hers.heads()).await;
    assert_eq!(his.get("made"), hers.get("made"));
    // His edit reaches her, without a request, and the engine.
    his.put("by", "bob");
    bob.send(&mut his).await;
    alice.until(&mut hers, &his.heads()).await;
    assert_eq!(hers.get("by").as_deref(), Some("bob"));
    assert_eq!(engine.entries(1).await[0].id, his.heads()[0].0);
    // An engine's document reaches them too.
    let mut author = Author::new(9);
    let push = engine.push(author.document, &[author.change_of("from an engine")]).await;
    engine.acked(push).await;
    let mut found = Replica::empty(9);
    bob.send(&mut found).await;
    while found.get("text").is_none() {
        bob.receive(&mut found).await;
    }
    assert_eq!(found.get("text").as_deref(), Some("from an engine"));
    relay.stop().await.unwrap();
}

#[tokio::test]
async fn nothing_is_forwarded_before_it_is_durable() {
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start(&folder).await;
    let mut alice = RepoClient::join(&relay, "/", "alice").await;
    let mut bob = RepoClient::join(&relay, "/", "bob").await;
    let mut hers = Replica::made(1, 1);
    alice.send(&mut hers).await;
    alice.settle(&mut hers).await;
    let mut his = Replica::empty(1);
    bob.send(&mut his).await;
    bob.until(&mut his, &hers.heads()).await;
    let hold = relay.store.faults().hold_commits();
    hers.put("held", "back");
    alice.send(&mut hers).await;
    let hold = soon(tokio::task::spawn_blocking(move || {
        assert!(hold.wait_reached(PATIENCE));
        hold
    }));
    let hold = hold.await.unwrap();
    assert!(alice.is_quiet().await && bob.is_quiet().await);
    // Nor does a client that asks now receive it.
    let mut carol = RepoClient::join(&relay, "/", "carol").await;
    let mut late = Replica::empty(1);
    carol.send(&mut late).await;
    assert_ne!(carol.receive(&mut late).await, hers.heads());
    drop(hold);
    alice.settle(&mut hers).await;
    bob.until(&mut his, &hers.heads()).await;
    carol.until(&mut late, &hers.heads()).await;
    relay.stop().await.unwrap();
}

#[tokio::test]
async fn a_change_that_failed_to_store_is_resent_and_acknowledged() {
    use landfall_relay::store::FailureClass;
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start(&folder).await;
    let mut alice = RepoClient::join(&relay, "/", "alice").await;
    // After this, the relay's own writes at its start are over.
    let mut first = Replica::made(2, 1);
    alice.send(&mut first).await;
    alice.settle(&mut first).await;
    let mut hers = Replica::made(1, 1);
    relay.store.faults().fail_next_commits(1, FailureClass::Io);
    alice.send(&mut hers).await;
    // Asked for her changes, she sends them.
    while let Ok(heard) = alice.next().await {
        let Heard::Sync(_, data) = heard else { panic!("{heard:?}") };
        let message = automerge::sync::Message::decode(&data).unwrap();
        assert_eq!(message.heads, [], "heads were sent before they were durable");
        automerge::sync::SyncDoc::receive_sync_message(&mut hers.doc, &mut hers.state, message)
            .unwrap();
        alice.send(&mut hers).await;
    }
    let mut again = RepoClient::join(&relay, "/", "alice").await;
    hers.forget();
    again.send(&mut hers).await;
    again.settle(&mut hers).await;
    relay.stop().await.unwrap();
}

#[tokio::test]
async fn an_unknown_document_is_unavailable_until_a_client_sends_it() {
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start(&folder).await;
    let mut bob = RepoClient::join(&relay, "/", "bob").await;
    let mut his = Replica::empty(1);
    bob.send(&mut his).await;
    assert_eq!(bob.hear().await, Heard::Unavailable(his.id));
    let (_alice, hers) = RepoClient::with(&relay, "/", "alice", Replica::made(1, 1)).await;
    bob.until(&mut his, &hers.heads()).await;
    // A document whose id no engine can have.
    let document = bs58::encode([5; 15]).with_check().into_string();
    let server = bob.server.clone();
    let data = &[0x42, 0, 0, 0, 0];
    let sync = Sync { document: &document, sender: "bob", target: &server, data };
    bob.say(&Repo::Request(sync)).await;
    match soon(futures_util::StreamExt::next(&mut bob.socket)).await {
        Some(Ok(Message::Binary(bytes))) => assert!(matches!(
            Repo::decode(&bytes).unwrap(),
            Repo::Unavailable { document: found, .. } if found == document
        )),
        other => panic!("{other:?}"),
    }
    relay.stop().await.unwrap();
}

#[tokio::test]
async fn spaces_are_isolated() {
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start(&folder).await;
    let (mut alice, mut hers) =
        RepoClient::with(&relay, "/spaces/one", "alice", Replica::made(1, 1)).await;
    let mut bob = RepoClient::join(&relay, "/", "alice").await;
    let mut his = Replica::empty(1);
    bob.send(&mut his).await;
    assert_eq!(bob.hear().await, Heard::Unavailable(his.id));
    // The same name in another space is another peer.
    hers.put("still", "here");
    alice.send(&mut hers).await;
    alice.settle(&mut hers).await;
    let (status, body) = relay.get("/spaces/no%20name").await;
    assert_eq!(status, 404, "{body}");
    relay.stop().await.unwrap();
}

#[tokio::test]
async fn a_reconnecting_peer_replaces_its_old_session() {
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start(&folder).await;
    let (mut first, mut hers) = RepoClient::with(&relay, "/", "alice", Replica::made(1, 1)).await;
    let mut second = RepoClient::join(&relay, "/", "alice").await;
    assert_eq!(first.end().await, Some(1_000));
    hers.forget();
    second.send(&mut hers).await;
    second.settle(&mut hers).await;
    // On the same connection: she is answered like a new peer.
    second.say_join(None).await;
    assert!(matches!(second.hear().await, Heard::Peer { .. }));
    hers.forget();
    second.send(&mut hers).await;
    second.settle(&mut hers).await;
    hers.put("after", "both");
    second.send(&mut hers).await;
    second.settle(&mut hers).await;
    relay.stop().await.unwrap();
}

#[tokio::test]
async fn the_relays_identity_survives_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let mut seen = Vec::new();
    for _ in 0..2 {
        let relay = Relay::start(&folder).await;
        for path in ["/", "/spaces/other"] {
            let mut client = RepoClient::connect(relay.address, path, "alice").await;
            client.say_join(None).await;
            seen.push(client.hear().await);
        }
        relay.stop().await.unwrap();
    }
    assert_eq!((&seen[0], &seen[1]), (&seen[2], &seen[3]));
    assert_ne!(seen[0], seen[1]);
}

#[tokio::test]
async fn an_unknown_version_or_foreign_peer_id_is_rejected_with_a_reason() {
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start(&folder).await;
    let server = RepoClient::join(&relay, "/", "alice").await.server;
    let mut client = RepoClient::connect(relay.address, "/", "alice").await;
    let (metadata, versions) = (PeerMetadata::default(), Some(vec!["2", "3"]));
    client.say(&Repo::Join { sender: "alice", metadata, versions }).await;
    assert!(matches!(client.hear().await, Heard::Error(what) if what.contains("version 1")));
    assert_eq!(client.end().await, closed(Code::UNSUPPORTED_VERSION));
    // Names of other peers are rejected.
    for name in [&server, &format!("landfall-{}", "7".repeat(32))] {
        let mut client = RepoClient::connect(relay.address, "/", name).await;
        client.say_join(None).await;
        assert!(matches!(client.hear().await, Heard::Error(_)), "{name}");
        assert_eq!(client.end().await, closed(Code::FORBIDDEN));
    }
    // A client that states no version uses this one.
    let mut client = RepoClient::connect(relay.address, "/", "alice").await;
    client.say(&Repo::Join { sender: "alice", metadata, versions: None }).await;
    assert!(matches!(client.hear().await, Heard::Peer { .. }));
    relay.stop().await.unwrap();
}

/// Sync messages that crash or stall automerge 0.12 itself, and invalid ones.
fn hostile() -> Vec<(&'static str, Vec<u8>, Code)> {
    let message = |filter: &[u8]| {
        let mut bytes = vec![0x42, 0, 0, 1, 0, filter.len() as u8];
        bytes.extend_from_slice(filter);
        bytes.push(0);
        bytes
    };
    let chunk = |kind: u8, length: &[u8]| {
        let mut chunk = vec![0x85, 0x6f, 0x4a, 0x83, 1, 2, 3, 4, kind];
        chunk.extend_from_slice(length);
        let mut bytes = vec![0x42, 0, 0, 0, 1, chunk.len() as u8];
        bytes.extend(chunk);
        bytes
    };
    vec![
        ("a filter of one entry and no bits", message(&[1, 0, 7]), Code::MALFORMED),
        ("2³² probes", message(&[1, 8, 0xff, 0xff, 0xff, 0xff, 0x0f, 0]), Code::MALFORMED),
        ("a change of no bytes", chunk(1, &[0]), Code::FORM),
        ("a chunk that claims 4 GiB", chunk(1, &[0xff, 0xff, 0xff, 0xff, 0x0f]), Code::FORM),
        ("a chunk of an unknown type", chunk(9, &[0]), Code::FORM),
        ("no chunk at all", vec![0x42, 0, 0, 0, 1, 3, 1, 2, 3], Code::FORM),
        ("nothing", vec![], Code::MALFORMED),
        ("a message of an unknown version", vec![0x99, 0, 0, 0, 0], Code::MALFORMED),
        ("missing heads", vec![0x42, 0x90, 0x4e], Code::MALFORMED),
    ]
}

/// Sync messages with a list above its limit. An honest client sends one for a document that has grown too
/// far, so it loses that document and not the connection for all others.
fn too_long() -> Vec<(&'static str, Vec<u8>)> {
    let mut haves = vec![0x42, 0, 0, 0xe8, 0x07];
    haves.extend((0..1_000).flat_map(|_| [0, 0]));
    haves.push(0);
    let count = limits::SYNC_CHUNKS + 1;
    let mut chunks = vec![0x42, 0, 0, 0];
    chunks.extend([count as u8 | 0x80, (count >> 7) as u8 | 0x80, (count >> 14) as u8]);
    chunks.extend(vec![0; count]);
    vec![
        ("a thousand haves", haves),
        ("more chunks than clients send", chunks),
        ("2,097,151 missing heads", vec![0x42, 0xff, 0xff, 0x7f]),
        ("as many needs", vec![0x42, 0, 0xff, 0xff, 0x7f]),
    ]
}

#[tokio::test]
async fn a_hostile_message_ends_only_its_own_session() {
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start(&folder).await;
    let (mut alice, mut hers) = RepoClient::with(&relay, "/", "alice", Replica::made(1, 1)).await;
    for (what, data, code) in hostile() {
        let mut mallory = RepoClient::join(&relay, "/", "mallory").await;
        mallory.say_sync(hers.id, &data).await;
        assert_eq!(mallory.end().await, closed(code), "{what}");
    }
    for (what, bytes) in [("not CBOR", vec![0xff]), ("null", vec![0xf6]), ("zero", vec![0])] {
        let mut mallory = RepoClient::connect(relay.address, "/", "mallory").await;
        mallory.say_bytes(bytes).await;
        assert_eq!(mallory.end().await, closed(Code::MALFORMED), "{what}");
    }
    let mut mallory = RepoClient::connect(relay.address, "/", "mallory").await;
    mallory.say_sync(hers.id, &[0x42, 0, 0, 0, 0]).await;
    assert_eq!(mallory.end().await, closed(Code::OUT_OF_ORDER), "a message before join");
    let mut mallory = RepoClient::join(&relay, "/", "mallory").await;
    mallory.socket.send(Message::text("hello")).await.unwrap();
    assert_eq!(mallory.end().await, closed(Code::MALFORMED), "a text message");
    hers.put("still", "here");
    alice.send(&mut hers).await;
    alice.settle(&mut hers).await;
    relay.stop().await.unwrap();
}

#[tokio::test]
async fn a_list_over_its_limit_rejects_only_its_document() {
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start(&folder).await;
    let (_alice, hers) = RepoClient::with(&relay, "/", "alice", Replica::made(1, 1)).await;
    let mut mallory = RepoClient::join(&relay, "/", "mallory").await;
    for (what, data) in too_long() {
        mallory.say_sync(hers.id, &data).await;
        assert_eq!(mallory.hear().await, Heard::Unavailable(hers.id), "{what}");
    }
    // In the same session another document is served, and so is this one once it is requested in a readable
    // message.
    let mut other = Replica::made(2, 2);
    mallory.send(&mut other).await;
    mallory.settle(&mut other).await;
    let mut copy = Replica::empty(1);
    mallory.send(&mut copy).await;
    mallory.until(&mut copy, &hers.heads()).await;
    assert_eq!(copy.get("made"), hers.get("made"));
    relay.stop().await.unwrap();
}

#[tokio::test]
async fn unknown_messages_and_fields_are_ignored() {
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start(&folder).await;
    let mut alice = RepoClient::join(&relay, "/", "alice").await;
    let mut hers = Replica::made(1, 1);
    let server = alice.server.clone();
    // {type: "from-the-future", senderId: "alice"}
    let mut unknown = vec![0xa2, 0x64];
    unknown.extend(b"type");
    unknown.push(0x6f);
    unknown.extend(b"from-the-future");
    unknown.push(0x68);
    unknown.extend(b"senderId");
    unknown.push(0x65);
    unknown.extend(b"alice");
    alice.say_bytes(unknown).await;
    let document = shown(hers.id);
    let data = &[0x42, 0, 0, 0, 0][..];
    for (sender, target) in [("alice", "somebody"), ("bob", server.as_str())] {
        alice.say(&Repo::Request(Sync { document: &document, sender, target, data })).await;
    }
    alice.say(&Repo::Unavailable { document: &document, sender: "alice", target: &server }).await;
    assert!(alice.is_quiet().await);
    alice.send(&mut hers).await;
    alice.settle(&mut hers).await;
    relay.stop().await.unwrap();
}

#[tokio::test]
async fn a_change_that_conflicts_with_history_is_rejected_alone() {
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start(&folder).await;
    let (_alice, hers) = RepoClient::with(&relay, "/", "alice", Replica::made(1, 1)).await;
    // An attacker uses her actor: another first change with the same sequence number.
    let mut mallory = RepoClient::join(&relay, "/", "mallory").await;
    let mut forged = Replica::empty(1);
    forged.doc.set_actor(automerge::ActorId::from([1; 16]));
    forged.put("made", "otherwise");
    let change = forged.doc.get_changes(&[]).remove(0).raw_bytes().to_vec();
    let message = automerge::sync::Message {
        heads: forged.heads(),
        need: vec![],
        have: vec![],
        changes: vec![change].into(),
        flags: None,
        version: automerge::sync::MessageVersion::V1,
    };
    mallory.say_sync(forged.id, &message.encode()).await;
    relay
        .until_metric("landfall_relay_rejects_total{code=\"conflicting-sequence\"}", |n| n >= 1.0)
        .await;
    // The same session continues with other documents, and hers is unchanged.
    let mut other = Replica::made(2, 2);
    mallory.send(&mut other).await;
    mallory.settle(&mut other).await;
    let mut bob = RepoClient::join(&relay, "/", "bob").await;
    let mut his = Replica::empty(1);
    bob.send(&mut his).await;
    bob.until(&mut his, &hers.heads()).await;
    assert_eq!(his.get("made"), hers.get("made"));
    relay.stop().await.unwrap();
}

#[tokio::test]
async fn a_change_that_is_too_large_is_rejected_alone() {
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start(&folder).await;
    let (mut alice, mut large) = RepoClient::with(&relay, "/", "alice", Replica::made(1, 1)).await;
    let before = large.heads();
    large.put("image", &noise(6_000_000, 1));
    large.put("after", "the image");
    alice.send(&mut large).await;
    let name = "landfall_relay_rejects_total{code=\"too-large\"}";
    relay.until_metric(name, |count| count >= 1.0).await;
    let mut other = Replica::made(2, 2);
    alice.send(&mut other).await;
    alice.settle(&mut other).await;
    let mut bob = RepoClient::join(&relay, "/", "bob").await;
    let mut his = Replica::empty(1);
    bob.send(&mut his).await;
    bob.until(&mut his, &before).await;
    relay.stop().await.unwrap();
}

#[tokio::test]
async fn ephemeral_messages_reach_every_other_client_once() {
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start(&folder).await;
    let mut alice = RepoClient::join(&relay, "/", "alice").await;
    let mut bob = RepoClient::join(&relay, "/", "bob").await;
    let (mut hers, mut his) = (Replica::made(1, 1), Replica::empty(1));
    alice.send(&mut hers).await;
    alice.settle(&mut hers).await;
    bob.send(&mut his).await;
    bob.until(&mut his, &hers.heads()).await;
    let (document, server) = (shown(hers.id), alice.server.clone());
    let data = b"\xa1\x61a\x01";
    let ephemeral = |count| Ephemeral {
        document: &document,
        sender: "alice",
        target: &server,
        session: "s1",
        count,
        data,
    };
    alice.say(&Repo::Ephemeral(ephemeral(1))).await;
    // As returned by a peer that forwards everything it receives.
    bob.say(&Repo::Ephemeral(ephemeral(1))).await;
    alice.say(&Repo::Ephemeral(ephemeral(2))).await;
    for count in [1, 2] {
        let (sender, session) = ("alice".to_owned(), "s1".to_owned());
        let heard = Heard::Ephemeral { sender, session, count, data: data.to_vec() };
        assert_eq!(bob.hear().await, heard);
    }
    assert!(alice.is_quiet().await && bob.is_quiet().await);
    relay.stop().await.unwrap();
}

#[tokio::test]
async fn a_storages_heads_are_sent_to_its_subscribers() {
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start(&folder).await;
    let mut bob = RepoClient::join(&relay, "/", "bob").await;
    let server = bob.server.clone();
    let add = vec!["alices-disk"];
    let (sender, target) = ("bob", server.as_str());
    bob.say(&Repo::RemoteSubscription { sender, target, add, remove: vec![] }).await;
    let mut his = Replica::made(1, 2);
    bob.send(&mut his).await;
    bob.settle(&mut his).await;
    let mut alice = RepoClient::connect(relay.address, "/", "alice").await;
    alice.server.clone_from(&server);
    alice.say_join(Some("alices-disk")).await;
    assert!(matches!(alice.hear().await, Heard::Peer { .. }));
    let mut hers = Replica::empty(1);
    alice.send(&mut hers).await;
    alice.until(&mut hers, &his.heads()).await;
    let shown = |heads: Vec<ChangeHash>| -> Vec<String> {
        heads.iter().map(|head| bs58::encode(head.0).with_check().into_string()).collect()
    };
    let wanted = Heard::Heads { storage: "alices-disk".into(), heads: shown(his.heads()) };
    while bob.hear().await != wanted {}
    relay.stop().await.unwrap();
}

#[tokio::test]
async fn large_messages_wait_for_memory_and_small_ones_do_not() {
    use tokio::io::AsyncWriteExt;
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start(&folder).await;
    // Masked binary frames of which only a part arrives. With their decoded form they use all memory for
    // messages.
    let mut slow = Vec::new();
    for (number, mebibytes) in [20u64, 42].into_iter().enumerate() {
        let mut head = vec![0x82, 0xff];
        head.extend((mebibytes << 20).to_be_bytes());
        head.extend([0; 4]);
        let mut client = RepoClient::join(&relay, "/", &format!("slow {number}")).await;
        let stream = client.socket.get_mut();
        soon(stream.write_all(&head)).await.unwrap();
        soon(stream.write_all(&vec![0; 4 << 20])).await.unwrap();
        slow.push(client);
    }
    let mut hers = Replica::made(1, 1);
    for number in 0..4 {
        hers.put(&format!("noise {number}"), &noise(700_000, number));
    }
    let mut alice = RepoClient::join(&relay, "/", "alice").await;
    alice.send(&mut hers).await;
    // She is asked for her changes; her message is large.
    let received = alice.receive(&mut hers).await;
    assert_eq!(received, []);
    let mut small = Replica::made(2, 2);
    let mut bob = RepoClient::join(&relay, "/", "bob").await;
    bob.send(&mut small).await;
    bob.settle(&mut small).await;
    assert!(alice.is_quiet().await, "the message was read without free memory");
    drop(slow.pop());
    alice.settle(&mut hers).await;
    relay.stop().await.unwrap();
}

fn noise(bytes: usize, seed: u64) -> String {
    let mut rng = landfall_test_rng::Rng::new(seed);
    (0..bytes).map(|_| char::from(33 + rng.below(90) as u8)).collect()
}

#[tokio::test]
async fn a_deleted_document_is_unavailable() {
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start(&folder).await;
    let (mut alice, mut hers) =
        RepoClient::with(&relay, "/spaces/notes", "alice", Replica::made(1, 1)).await;
    let mut engine = Client::at_start(&relay).await;
    engine.delete(hers.id).await;
    assert_eq!(alice.hear().await, Heard::Unavailable(hers.id));
    hers.put("after", "all");
    alice.send(&mut hers).await;
    assert_eq!(alice.hear().await, Heard::Unavailable(hers.id));
    let asked: DocumentId = hers.id;
    let mut bob = RepoClient::join(&relay, "/spaces/notes", "bob").await;
    bob.send(&mut Replica::empty(1)).await;
    assert_eq!(bob.hear().await, Heard::Unavailable(asked));
    relay.stop().await.unwrap();
}
