//! Bad input: each gets a typed error that names the mistake, and affects no other session.

use std::time::Duration;

use futures_util::SinkExt;
use landfall_protocol::Patience;
use landfall_protocol::frame::{Close, ErrorFrame, Frame, Hello, Push, encode, raw_frame};
use landfall_protocol::{Code, NackClass, ReplicaId, limits};
use serde_bytes::ByteBuf;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;

use crate::harness::{Author, Client, PATIENCE, Relay, soon};

/// The error that ends the session, and the close code.
async fn end(client: &mut Client) -> (ErrorFrame, Option<u16>) {
    let (frames, close) = client.until_end().await;
    let error = frames.into_iter().find_map(|frame| match frame {
        Frame::Error(error) => Some(error),
        _ => None,
    });
    (error.expect("an error frame"), close)
}

/// Sends `message` after `Hello`, in a session of its own beside one that continues.
async fn answer_to(message: Message) -> (ErrorFrame, Option<u16>) {
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start_with(&folder, |options| options.linger = PATIENCE).await;
    let mut bystander = Client::at_start(&relay).await;
    let mut client = Client::hello(&relay).await;
    // The relay may disconnect before all of it is sent.
    let _ = soon(client.socket.send(message)).await;
    let answer = end(&mut client).await;
    drop(client);
    relay.until_metric("landfall_relay_sessions", |sessions| sessions == 1.0).await;
    let mut document = Author::new(1);
    let push = bystander.push(document.document, &document.changes(1)).await;
    bystander.acked(push).await;
    drop(bystander);
    relay.stop().await.unwrap();
    answer
}

#[tokio::test]
async fn garbage_is_malformed() {
    let (error, close) = answer_to(Message::binary(vec![0xff; 100])).await;
    assert_eq!((error.code, close), (Code::MALFORMED, Some(4_000 + Code::MALFORMED.0)));
}

#[tokio::test]
async fn a_truncated_frame_says_where_it_ends() {
    let mut message = encode(&Frame::Ping(1));
    message.truncate(12);
    let (error, _) = answer_to(Message::binary(message)).await;
    assert_eq!(error.code, Code::MALFORMED);
    assert!(error.what.contains("byte 12"), "{}", error.what);
}

#[tokio::test]
async fn text_messages_are_rejected() {
    let (error, close) = answer_to(Message::text("hello")).await;
    assert_eq!((error.code, close), (Code::MALFORMED, Some(4_001)));
    assert!(error.what.contains("text"), "{}", error.what);
}

#[tokio::test]
async fn an_unknown_frame_is_named() {
    let mut message = Vec::new();
    raw_frame(999, 0, b"?", &mut message);
    let (error, close) = answer_to(Message::binary(message)).await;
    assert_eq!((error.code, close), (Code::UNKNOWN_FRAME, Some(4_003)));
    assert!(error.what.contains("999"), "{}", error.what);
}

#[tokio::test]
async fn an_oversized_message_is_rejected_before_it_is_read() {
    let (error, close) = answer_to(Message::binary(vec![0; limits::MESSAGE_BYTES + 1])).await;
    assert_eq!((error.code, close), (Code::TOO_LARGE, Some(1_009)));
    assert!(error.what.contains(&limits::MESSAGE_BYTES.to_string()), "{}", error.what);
}

#[tokio::test]
async fn a_push_without_a_subscription_ends_the_session() {
    let document = Author::new(1).document;
    let push = Push { id: 1, subscription: 9, document, changes: vec![] };
    let (error, _) = answer_to(Message::binary(encode(&Frame::Push(push)))).await;
    assert_eq!(error.code, Code::UNKNOWN_SUBSCRIPTION);
}

#[tokio::test]
async fn an_invalid_space_name_is_rejected_with_the_rule() {
    // Subscription, the name's length, the name; the rest does not matter.
    let mut body = 1u32.to_le_bytes().to_vec();
    body.extend_from_slice(&6u64.to_le_bytes());
    body.extend_from_slice(b"../etc");
    body.extend_from_slice(&[0; 6]);
    let mut message = Vec::new();
    raw_frame(landfall_protocol::frame::kind::SUBSCRIBE, 0, &body, &mut message);
    let (error, _) = answer_to(Message::binary(message)).await;
    assert_eq!(error.code, Code::MALFORMED);
    assert!(error.what.contains("letter or digit"), "{}", error.what);
}

#[tokio::test]
async fn an_invalid_change_is_nacked_and_the_session_continues() {
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start(&folder).await;
    let mut client = Client::at_start(&relay).await;
    let mut document = Author::new(1);
    let good = document.changes(1);
    let push = client.push(document.document, &[good[0].clone(), b"no change".to_vec()]).await;
    assert_eq!(client.acked(push).await.count, 1);
    let nack = client.nacked(push).await;
    assert_eq!((nack.code, nack.class), (Code::FORM, NackClass::REFUSED));
    let push = client.push(document.document, &document.changes(1)).await;
    assert_eq!(client.acked(push).await.count, 1);
    relay.stop().await.unwrap();
}

#[tokio::test]
async fn an_unknown_version_is_answered_with_the_supported_ones() {
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start(&folder).await;
    let mut client = Client::connect(&relay).await;
    let replica = ReplicaId::from_bytes([1; 16]);
    let hello = Hello { versions: vec![77], replica, token: None, agent: String::new() };
    client.send(&Frame::Hello(hello)).await;
    let (error, close) = end(&mut client).await;
    assert_eq!((error.code, close), (Code::UNSUPPORTED_VERSION, Some(4_004)));
    assert!(error.what.contains("77") && error.what.contains("[1]"), "{}", error.what);
    relay.stop().await.unwrap();
}

#[tokio::test]
async fn a_silent_client_is_closed_after_the_handshake_time() {
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start_with(&folder, |options| {
        let handshake = Duration::from_millis(50);
        options.patience = Patience { handshake, ..Patience::default() };
    })
    .await;
    let mut client = Client::connect(&relay).await;
    let (error, close) = end(&mut client).await;
    assert_eq!((error.code, close), (Code::SILENT, Some(4_010)));
    relay.stop().await.unwrap();
}

#[tokio::test]
async fn a_goodbye_is_closed_normally() {
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start(&folder).await;
    let mut client = Client::at_start(&relay).await;
    let close = Close { code: Code::GOODBYE, reason: "done".to_owned() };
    client.send(&Frame::Close(close)).await;
    assert_eq!(client.until_end().await, (vec![], Some(1_000)));
    let mut other = Client::at_start(&relay).await;
    soon(other.socket.close(None)).await.unwrap();
    assert!(other.until_end().await.0.is_empty());
    relay.until_metric("landfall_relay_sessions", |sessions| sessions == 0.0).await;
    relay.stop().await.unwrap();
}

#[tokio::test]
async fn bytes_that_are_not_http_are_rejected() {
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start(&folder).await;
    assert_eq!(relay.ask("\u{16}\u{3}\u{1} no http at all\r\n\r\n").await.0, 400);
    let (status, _) = relay
        .ask(&format!("GET / HTTP/1.1\r\nhost: localhost\r\nx: {}\r\n\r\n", "x".repeat(50_000)))
        .await;
    assert!(status == 431 || status == 0, "{status}");
    // A client that stops in the middle of its request head blocks no other client.
    let mut slow = TcpStream::connect(relay.address).await.unwrap();
    slow.write_all(b"GET / HT").await.unwrap();
    assert_eq!(relay.get("/healthz").await, (200, "ok\n".to_owned()));
    drop(slow);
    relay.stop().await.unwrap();
}

#[tokio::test]
async fn an_inflated_push_is_bounded_and_named() {
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start(&folder).await;
    let mut client = Client::at_start(&relay).await;
    let document = Author::new(1).document;
    // Enough changes for the check to leave the session's own task.
    let changes = vec![ByteBuf::from(vec![0x85; 8_000]); 10];
    let push = Push { id: 1, subscription: 1, document, changes };
    client.send(&Frame::Push(push)).await;
    assert_eq!(client.nacked(1).await.code, Code::FORM);
    relay.stop().await.unwrap();
}

#[tokio::test]
async fn a_framing_violation_is_named_in_plain_words() {
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start(&folder).await;
    let mut client = Client::at_start(&relay).await;
    // A continuation of nothing.
    let continued = [0x80, 0x81, 0, 0, 0, 0, 7];
    soon(client.socket.get_mut().write_all(&continued)).await.unwrap();
    let (error, close) = end(&mut client).await;
    assert_eq!((error.what.as_str(), close), ("a continuation without a message", Some(4_001)));
    relay.stop().await.unwrap();
}
