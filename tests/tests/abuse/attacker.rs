//! What attackers are made of: sessions that say what they like, and sockets that say half of it.

use std::io::Write;
use std::net::TcpStream;
use std::time::Duration;

use landfall_protocol::frame::{Filter, Frame, SubscribeFrom, encode};
use landfall_protocol::repo::message::{Message as Repo, PeerMetadata};
use landfall_tests::raw::handshake;
use tokio_tungstenite::tungstenite::{Message, WebSocket, client};

/// How long an attacker waits for a socket that takes nothing.
const PATIENCE: Duration = Duration::from_millis(200);

/// A session of the native protocol, after its welcome. It never reads.
pub(crate) fn native(port: u16) -> WebSocket<TcpStream> {
    let socket = handshake(port);
    socket.get_ref().set_write_timeout(Some(PATIENCE)).expect("a timeout");
    socket
}

/// As [`native`], subscribed to a space as number 1.
pub(crate) fn subscribed(port: u16, space: &str) -> WebSocket<TcpStream> {
    let mut socket = native(port);
    say(&mut socket, &[subscribe(1, space, Filter::Everything)]);
    socket
}

/// A subscription.
pub(crate) fn subscribe(subscription: u32, space: &str, filter: Filter) -> Frame {
    let (cursor, acknowledged, holds, partial) = (None, None, false, None);
    let space = space.parse().expect("a space's name");
    let frame = SubscribeFrom { subscription, space, filter, cursor, acknowledged, holds, partial };
    Frame::SubscribeFrom(frame)
}

/// A session of automerge-repo's protocol that has joined.
pub(crate) fn repo(port: u16, name: &str) -> WebSocket<TcpStream> {
    let stream = TcpStream::connect(("127.0.0.1", port)).expect("the relay listens");
    let (mut socket, _) = client(format!("ws://127.0.0.1:{port}/"), stream).expect("a session");
    let metadata = PeerMetadata { storage_id: None, is_ephemeral: true };
    let join = Repo::Join { sender: name, metadata, versions: Some(vec!["1"]) };
    socket.send(Message::Binary(join.encode().into())).expect("the relay reads");
    socket.get_ref().set_write_timeout(Some(PATIENCE)).expect("a timeout");
    socket
}

/// Sends frames in one message; false if the relay does not take them, or has closed.
pub(crate) fn say(socket: &mut WebSocket<TcpStream>, frames: &[Frame]) -> bool {
    let message: Vec<u8> = frames.iter().flat_map(encode).collect();
    socket.send(Message::Binary(message.into())).is_ok()
}

/// Writes the header of a binary message of so many bytes, and so many of them.
pub(crate) fn begin_message(socket: &mut WebSocket<TcpStream>, bytes: u64, come: usize) -> bool {
    let mut head = vec![0x82, 0xff];
    head.extend(bytes.to_be_bytes());
    head.extend([0; 4]);
    let stream = socket.get_mut();
    stream.write_all(&head).is_ok() && stream.write_all(&vec![0; come]).is_ok()
}

/// Writes an empty masked control frame.
pub(crate) fn pong(socket: &mut WebSocket<TcpStream>) -> bool {
    socket.get_mut().write_all(&[0x8a, 0x80, 0, 0, 0, 0]).is_ok()
}

/// Writes as many pings as the socket takes, up to a count.
pub(crate) fn pings(socket: &mut WebSocket<TcpStream>, count: usize) -> bool {
    let mut ping = vec![0x89, 0x80 | 125, 0, 0, 0, 0];
    ping.extend([0; 125]);
    let many = ping.repeat(64);
    (0..count.div_ceil(64)).all(|_| socket.get_mut().write_all(&many).is_ok())
}
