//! The parts of attackers: sessions that send anything, and sockets that send half a message. It
//! holds no attack.

use std::io::{ErrorKind, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

use landfall::automerge::ChangeHash;
use landfall_protocol::DocumentId;
use landfall_protocol::automerge_repo::message::{Message as Repo, PeerMetadata, Sync};
use landfall_protocol::frame::{Features, Filter, Frame, Frames, SubscribeFrom, encode, features};
use landfall_tests::raw::{handshake, handshake_over};
use landfall_tests::repo::{question_of, sync_of};
use tokio_tungstenite::tungstenite::{Bytes, Error, Message, WebSocket, client};

/// How long an attacker waits for a socket that accepts no bytes.
const PATIENCE: Duration = Duration::from_millis(200);

/// A native session after `Welcome`. It never reads.
pub(crate) fn native(port: u16) -> WebSocket<TcpStream> {
    let socket = handshake_over(connect(port), port);
    socket.get_ref().set_write_timeout(Some(PATIENCE)).expect("a timeout");
    socket
}

/// As [`native`], subscribed to a space as subscription 1.
pub(crate) fn subscribed(port: u16, space: &str) -> WebSocket<TcpStream> {
    let mut socket = native(port);
    say(&mut socket, &[subscribe(1, space, Filter::Everything)]);
    socket
}

/// A `Subscribe` frame.
pub(crate) fn subscribe(subscription: u32, space: &str, filter: Filter) -> Frame {
    let (cursor, acknowledged, holds, partial) = (None, None, false, None);
    let space = space.parse().expect("a space's name");
    let frame = SubscribeFrom { subscription, space, filter, cursor, acknowledged, holds, partial };
    Frame::SubscribeFrom(frame)
}

/// As [`subscribed`], for a client that reads and knows all features.
pub(crate) fn reader(port: u16, space: &str) -> WebSocket<TcpStream> {
    reader_over(native(port), space)
}

/// The same from the honest clients' address.
pub(crate) fn honest_reader(port: u16, space: &str) -> WebSocket<TcpStream> {
    reader_over(handshake(port), space)
}

fn reader_over(mut socket: WebSocket<TcpStream>, space: &str) -> WebSocket<TcpStream> {
    let knows = Frame::Features(Features { bits: features::ALL });
    say(&mut socket, &[knows, subscribe(1, space, Filter::Everything)]);
    until(&mut socket, |frame| matches!(frame, Frame::Subscribed(_)));
    socket
}

/// Sets a session's write timeout to that of an honest client.
pub(crate) fn patient(socket: &WebSocket<TcpStream>) {
    socket.get_ref().set_write_timeout(Some(Duration::from_secs(20))).expect("a timeout");
}

/// The document with this number, of a kind.
pub(crate) fn numbered(kind: u8, number: u64) -> DocumentId {
    let mut id = [kind; 16];
    id[..8].copy_from_slice(&number.to_be_bytes());
    DocumentId::from_bytes(id)
}

/// Reads until the relay sends a matching frame, and returns it.
pub(crate) fn until(socket: &mut WebSocket<TcpStream>, wanted: impl Fn(&Frame) -> bool) -> Frame {
    loop {
        let bytes = message(socket);
        let mut frames = Frames::new(&bytes).expect("frames").map(|frame| frame.expect("a frame"));
        if let Some(found) = frames.find(&wanted) {
            return found;
        }
    }
}

/// As [`until`], for an honest client, which answers the relay's pings.
pub(crate) fn until_alive(
    socket: &mut WebSocket<TcpStream>,
    wanted: impl Fn(&Frame) -> bool,
) -> Frame {
    loop {
        match until(socket, |frame| matches!(frame, Frame::Ping(_)) || wanted(frame)) {
            Frame::Ping(nonce) => drop(say(socket, &[Frame::Pong(nonce)])),
            found => return found,
        }
    }
}

/// Reads until the relay has acknowledged `count` pushes.
pub(crate) fn acknowledged(socket: &mut WebSocket<TcpStream>, count: usize) {
    let mut left = count;
    while left > 0 {
        let bytes = message(socket);
        for frame in Frames::new(&bytes).expect("frames") {
            match frame.expect("a frame") {
                Frame::Ack(_) => left -= 1,
                Frame::Nack(nack) => {
                    panic!("the relay refused a change that the attack needs: {nack:?}")
                }
                _ => {}
            }
        }
    }
}

/// Reads the next message with frames.
fn message(socket: &mut WebSocket<TcpStream>) -> Bytes {
    loop {
        match socket.read().expect("the relay keeps running") {
            Message::Binary(bytes) => return bytes,
            Message::Close(reason) => panic!("the relay closed the session: {reason:?}"),
            _ => {}
        }
    }
}

/// Reads without waiting; false if the relay has closed the connection.
pub(crate) fn drain(socket: &mut WebSocket<TcpStream>) -> bool {
    socket.get_ref().set_nonblocking(true).expect("a socket");
    let end = loop {
        if let Err(error) = socket.read() {
            break error;
        }
    };
    socket.get_ref().set_nonblocking(false).expect("a socket");
    matches!(end, Error::Io(error) if error.kind() == ErrorKind::WouldBlock)
}

/// The attackers' address. Honest clients have another.
const ATTACKER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

fn connect(port: u16) -> TcpStream {
    connect_from(ATTACKER, port).expect("the relay listens")
}

/// A connection from this local address.
pub(crate) fn connect_from(source: Ipv4Addr, port: u16) -> std::io::Result<TcpStream> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let stream = runtime.block_on(async {
        let socket = tokio::net::TcpSocket::new_v4()?;
        socket.bind((source, 0).into())?;
        socket.connect((Ipv4Addr::LOCALHOST, port).into()).await
    })?;
    let stream = stream.into_std()?;
    stream.set_nonblocking(false)?;
    Ok(stream)
}

/// A connection with a small receive buffer.
fn narrow(port: u16) -> TcpStream {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
    let stream = runtime.expect("a runtime").block_on(async {
        let socket = tokio::net::TcpSocket::new_v4()?;
        socket.set_recv_buffer_size(4_096)?;
        socket.bind((ATTACKER, 0).into())?;
        socket.connect((Ipv4Addr::LOCALHOST, port).into()).await
    });
    let stream = stream.and_then(tokio::net::TcpStream::into_std).expect("the relay listens");
    stream.set_nonblocking(false).expect("a socket");
    stream
}

/// An automerge-repo session.
pub(crate) struct Peer {
    pub(crate) socket: WebSocket<TcpStream>,
    name: String,
    relay: String,
}

/// As a peer of this name that has joined. It reads nothing more.
pub(crate) fn repo(port: u16, name: &str) -> Peer {
    repo_over(connect(port), port, name)
}

/// As [`repo`], over a narrow connection. It has a document open, and so many answers in flight
/// that the relay sends no more.
pub(crate) fn deaf_repo(port: u16, name: &str, document: DocumentId) -> Peer {
    let mut peer = repo_over(narrow(port), port, name);
    assert!(peer.ask(document, vec![], vec![]));
    let (document, sender, target) = (&*"x".repeat(500), &*peer.name, &*peer.relay);
    let ask = Repo::Sync(Sync { document, sender, target, data: &[] }).encode();
    // Until the relay stops reading.
    while peer.socket.write(Message::Binary(ask.clone().into())).is_ok() {}
    peer
}

fn repo_over(stream: TcpStream, port: u16, name: &str) -> Peer {
    let (mut socket, _) = client(format!("ws://127.0.0.1:{port}/"), stream).expect("a session");
    let metadata = PeerMetadata { storage_id: None, is_ephemeral: true };
    let join = Repo::Join { sender: name, metadata, versions: Some(vec!["1"]) };
    socket.send(Message::Binary(join.encode().into())).expect("the relay reads");
    let answer = message(&mut socket);
    let Ok(Repo::Peer { sender, .. }) = Repo::decode(&answer) else { panic!("no peer answers") };
    socket.get_ref().set_write_timeout(Some(PATIENCE)).expect("a timeout");
    Peer { name: name.to_owned(), relay: sender.to_owned(), socket }
}

impl Peer {
    /// The peer ids of this session and of the relay.
    pub(crate) fn ends(&self) -> (String, String) {
        (self.name.clone(), self.relay.clone())
    }

    /// Sends a message; false if the relay does not read it, or has closed the connection.
    pub(crate) fn tell(&mut self, message: &Repo<'_>) -> bool {
        self.socket.send(Message::Binary(message.encode().into())).is_ok()
    }

    /// Sends changes of a document; false if the relay does not read them, or has closed the
    /// connection.
    pub(crate) fn push(&mut self, document: DocumentId, changes: &[Vec<u8>]) -> bool {
        let message = sync_of((&self.name, &self.relay), document, changes);
        self.socket.send(Message::Binary(message.into())).is_ok()
    }

    /// Announces heads of a document and requests changes; false as in [`Peer::push`].
    pub(crate) fn ask(
        &mut self,
        document: DocumentId,
        heads: Vec<ChangeHash>,
        need: Vec<ChangeHash>,
    ) -> bool {
        let message = question_of((&self.name, &self.relay), document, heads, need);
        self.socket.send(Message::Binary(message.into())).is_ok()
    }
}

/// Sends frames in one message; false if the relay does not read it, or has closed the connection.
pub(crate) fn say(socket: &mut WebSocket<TcpStream>, frames: &[Frame]) -> bool {
    let message: Vec<u8> = frames.iter().flat_map(encode).collect();
    socket.send(Message::Binary(message.into())).is_ok()
}

/// Writes the header of a binary message of `bytes` bytes, and `come` of these bytes.
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

/// Writes at most `count` pings, as many as the socket accepts.
pub(crate) fn pings(socket: &mut WebSocket<TcpStream>, count: usize) -> bool {
    let mut ping = vec![0x89, 0x80 | 125, 0, 0, 0, 0];
    ping.extend([0; 125]);
    let many = ping.repeat(64);
    (0..count.div_ceil(64)).all(|_| socket.get_mut().write_all(&many).is_ok())
}
