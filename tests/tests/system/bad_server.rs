//! Servers that are not correct relays: the status names the problem, the engine keeps working, and
//! everything arrives once a relay answers.

use std::net::{TcpListener, TcpStream};

use landfall::automerge::{ActorId, ROOT, transaction::Transactable};
use landfall::{BroadcastError, DocumentId, LinkStatus, Options, Store, SyncStatus};
use landfall_protocol::frame::{Entries, Entry, Frame, Subscribed, Welcome, encode, entry_kind};
use landfall_protocol::{Epoch, Offset, Scope, SessionId, Upstream};
use landfall_tests::process::Relay;
use landfall_tests::raw::{self, BadServer, answer, change_of, speak};
use landfall_tests::replica::{Snapshot, fresh_copy, link, open, wait_for, wait_synced};
use tokio_tungstenite::tungstenite::Message;

const SPACE: &str = "default";
/// The number of connections on which the server misbehaves: the engine must reconnect after each.
const BAD: usize = 2;

fn binary(frame: &Frame) -> Message {
    Message::Binary(encode(frame).into())
}

fn welcome() -> Frame {
    Frame::Welcome(Welcome {
        version: 1,
        upstream: Upstream::from_bytes([9; 16]),
        session: SessionId(1),
        message_bytes: 4 << 20,
        push_changes: 1024,
        pushes_in_flight: 64,
        agent: "test server".to_owned(),
    })
}

fn subscribed(head: u64) -> Frame {
    let (epoch, head) = (Some(Epoch::from_bytes([8; 16])), Offset(head));
    let (subscription, scope, resumed) = (0, Scope::WHOLE_SPACE, true);
    Frame::Subscribed(Subscribed { subscription, epoch, head, scope, resumed })
}

fn entries(after: u64, bodies: &[Vec<u8>]) -> Frame {
    let entry = |(offset, body): (u64, &Vec<u8>)| Entry {
        offset: Offset(offset),
        document: DocumentId::from_bytes([4; 16]),
        kind: entry_kind::CHANGE,
        flags: 0,
        id: [0; 32],
        dependencies: Vec::new(),
        author: Vec::new().into(),
        at_ms: 1,
        body: body.clone().into(),
    };
    let entries: Vec<Entry> = (after + 1..).zip(bodies).map(entry).collect();
    let up_to = Offset(after + bodies.len() as u64);
    let (subscription, epoch, head) = (0, Epoch::from_bytes([8; 16]), up_to);
    Frame::Entries(Entries { subscription, after: Offset(after), up_to, epoch, head, entries })
}

/// The engine connects to a server that misbehaves twice, then to a relay: the status names the
/// problem, edits continue, and all of them arrive.
fn survives(treat: fn(TcpStream), why: &str) {
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start(&folder.path().join("relay"), 0);
    let server = BadServer::start(relay.port, BAD, treat);
    let store = open(&folder.path().join("a"));
    let space = store.space(SPACE).unwrap();
    let document = space.create(|tx| Ok(tx.put(ROOT, "text", "before")?)).unwrap().0;
    store.connect(link(&server.url)).unwrap();
    wait_for(&store, why, |status| {
        status.last_error.as_ref().is_some_and(|error| error.contains(why))
    });
    document.change(|tx| Ok(tx.put(ROOT, "text", "meanwhile")?)).unwrap();
    wait_for(&store, "to come back", |status| {
        server.connections() > BAD && status.link == LinkStatus::Online
    });
    store.flush_blocking(landfall_tests::PATIENCE).unwrap();
    wait_synced(&store);
    let snapshot = Snapshot::of(&space);
    assert_eq!(snapshot.changes(), 2);
    assert_eq!(snapshot, fresh_copy(&relay.url, SPACE));
    store.close().unwrap();
}

#[test]
fn a_web_server_is_rejected_as_a_relay() {
    survives(
        |stream| answer(stream, b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello"),
        "is not a Landfall relay",
    );
}

#[test]
fn a_server_without_http_is_rejected_as_a_relay() {
    survives(|stream| answer(stream, b"SSH-2.0-OpenSSH_9.2\r\n"), "no");
}

#[test]
fn a_websocket_server_without_the_subprotocol_is_rejected() {
    let treat = |stream: TcpStream| {
        if let Ok(mut socket) = tokio_tungstenite::tungstenite::accept(stream) {
            let _ = socket.read();
        }
    };
    survives(treat, "does not speak landfall.v1");
}

#[test]
fn garbage_is_malformed() {
    let garbage = |stream| speak(stream, vec![Message::Binary(vec![0xff; 300].into())]);
    survives(garbage, "malformed");
}

#[test]
fn a_truncated_frame_is_malformed() {
    let truncated = |stream| {
        let mut bytes = encode(&welcome());
        bytes.truncate(bytes.len() - 3);
        speak(stream, vec![Message::Binary(bytes.into())]);
    };
    survives(truncated, "malformed");
}

#[test]
fn a_text_message_ends_the_connection() {
    survives(|stream| speak(stream, vec![Message::Text("hello".into())]), "text message");
}

#[test]
fn entries_before_a_welcome_break_the_protocol() {
    survives(|stream| speak(stream, vec![binary(&entries(0, &[vec![1]]))]), "broke the protocol");
}

#[test]
fn entries_that_leave_a_gap_break_the_protocol() {
    let gap = |stream| {
        let page = encode(&subscribed(9));
        let page = [page, encode(&entries(5, &[vec![1]]))].concat();
        speak(stream, vec![binary(&welcome()), Message::Binary(page.into())]);
    };
    survives(gap, "they follow offset 5");
}

#[test]
fn broadcast_fails_at_an_older_relay_without_ephemeral_messages() {
    let older = |stream| speak(stream, vec![binary(&welcome()), binary(&subscribed(0))]);
    let server = BadServer::start(0, usize::MAX, older);
    let store = Store::in_memory(Options::default()).unwrap();
    let space = store.space(SPACE).unwrap();
    let note = space.create(|tx| Ok(tx.put(ROOT, "text", "here")?)).unwrap().0;
    store.connect(link(&server.url)).unwrap();
    wait_for(&store, "to be live", |status| {
        status.spaces.values().all(|space| space.sync == SyncStatus::Live)
    });
    assert_eq!(note.broadcast("hello?"), Err(BroadcastError::Unsupported));
}

#[test]
fn an_unreachable_relay_is_reported_and_found_later() {
    let folder = tempfile::tempdir().unwrap();
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let store = open(&folder.path().join("a"));
    let space = store.space(SPACE).unwrap();
    store.connect(link(&format!("ws://127.0.0.1:{port}"))).unwrap();
    wait_for(&store, "to report that no relay answers", |status| {
        let why = status.last_error.as_deref().unwrap_or_default();
        why.contains("no relay answers") && why.contains(&port.to_string())
    });
    space.create(|tx| Ok(tx.put(ROOT, "text", "alone")?)).unwrap();
    let relay = Relay::start(&folder.path().join("relay"), port);
    wait_synced(&store);
    assert_eq!(Snapshot::of(&space), fresh_copy(&relay.url, SPACE));
}

/// Invalid changes: each is deferred and listed, and nothing else changes.
fn with_bad_changes(stream: TcpStream) {
    let actor = || ActorId::from([3; 16]);
    let mut bad_checksum = change_of(actor(), 1, "bad");
    bad_checksum[5] ^= 1;
    let dependent = change_of(actor(), 2, "its first is missing");
    let mut frame = entries(0, &[bad_checksum, dependent]);
    if let Frame::Entries(page) = &mut frame {
        let change = landfall::automerge::Change::from_bytes(page.entries[1].body.to_vec());
        page.entries[1].id = change.unwrap().hash().0;
    }
    let page = [encode(&subscribed(2)), encode(&frame)].concat();
    raw::speak(stream, vec![binary(&welcome()), Message::Binary(page.into())]);
}

#[test]
fn impossible_changes_are_deferred() {
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start(&folder.path().join("relay"), 0);
    let server = BadServer::start(relay.port, 1, with_bad_changes);
    let store = open(&folder.path().join("a"));
    let space = store.space(SPACE).unwrap();
    let document = space.create(|tx| Ok(tx.put(ROOT, "text", "good")?)).unwrap().0;
    store.connect(link(&server.url)).unwrap();
    wait_for(&store, "to defer both", |status| {
        status.spaces.values().all(|space| space.deferred == 2)
    });
    assert_eq!(space.documents().unwrap(), [document.id()]);
    document.change(|tx| Ok(tx.put(ROOT, "text", "better")?)).unwrap();
    // Another relay, which never received those changes.
    store.go_offline();
    store.go_online();
    wait_for(&store, "to meet the relay", |status| {
        server.connections() > 1 && status.link == LinkStatus::Online
    });
    store.flush_blocking(landfall_tests::PATIENCE).unwrap();
    let snapshot = Snapshot::of(&space);
    assert_eq!(snapshot.changes(), 2);
    assert_eq!(snapshot, fresh_copy(&relay.url, SPACE));
}
