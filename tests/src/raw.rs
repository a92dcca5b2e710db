//! Speaks the protocol directly: a client that can send any frame, and servers that misbehave.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use landfall::automerge::transaction::Transactable;
use landfall::automerge::{ActorId, AutoCommit, Change, ChangeHash, ObjType, ROOT};
use landfall_protocol::frame::{
    Ephemeral, Features, Filter, Frame, Frames, Hello, Push, SUBPROTOCOL, Subscribe, SubscribeFrom,
    encode, features,
};
use landfall_protocol::{DocumentId, ReplicaId};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::{Message, WebSocket, client};

use crate::PATIENCE;

/// The header with the requested subprotocol.
const SUBPROTOCOL_HEADER: &str = "sec-websocket-protocol";

/// A client on a blocking socket.
#[derive(Debug)]
pub struct Client {
    socket: WebSocket<TcpStream>,
    frames: VecDeque<Frame>,
    /// How many ephemeral messages it received.
    pub said: usize,
}

impl Client {
    /// Connects to the relay on a port, sends hello and subscribes to a space as number 1, like a
    /// client from before snapshots were introduced.
    ///
    /// # Panics
    /// If the relay rejects it.
    pub fn start(port: u16, space: &str) -> Self {
        let (subscription, filter, cursor) = (1, Filter::Everything, None);
        let space = space.parse().expect("a space's name");
        let acknowledged = None;
        let subscribe = Subscribe { subscription, space, filter, cursor, acknowledged };
        Self::subscribed(port, None, &Frame::Subscribe(subscribe))
    }

    /// As [`Client::start`], as a client that supports everything.
    ///
    /// # Panics
    /// As [`Client::start`].
    pub fn start_from(port: u16, space: &str) -> Self {
        Self::subscribed(
            port,
            Some(features::ALL),
            &Frame::SubscribeFrom(SubscribeFrom {
                subscription: 1,
                space: space.parse().expect("a space's name"),
                filter: Filter::Everything,
                cursor: None,
                acknowledged: None,
                holds: false,
                partial: None,
            }),
        )
    }

    fn subscribed(port: u16, knows: Option<u64>, subscribe: &Frame) -> Self {
        let mut client = Self { socket: handshake(port), frames: VecDeque::new(), said: 0 };
        if let Some(bits) = knows {
            client.send(&Frame::Features(Features { bits }));
        }
        client.until(|frame| matches!(frame, Frame::Welcome(_)));
        client.send(subscribe);
        client.until(|frame| matches!(frame, Frame::Subscribed(_)));
        client
    }

    /// Pushes changes of a document and returns the relay's answer: an ack or a nack.
    ///
    /// # Panics
    /// If the session ends first.
    pub fn push(&mut self, id: u64, document: DocumentId, changes: &[Vec<u8>]) -> Frame {
        let changes = changes.iter().map(|change| change.clone().into()).collect();
        self.send(&Frame::Push(Push { id, subscription: 1, document, changes }));
        self.until(|frame| match frame {
            Frame::Ack(ack) => ack.id == id,
            Frame::Nack(nack) => nack.id == id,
            _ => false,
        })
    }

    /// Sends an ephemeral message about a document, as `bob`.
    ///
    /// # Panics
    /// If the session has ended.
    pub fn say(&mut self, document: DocumentId, session: &str, count: u64, data: &[u8]) {
        let (sender, session) = ("bob".to_owned(), session.to_owned());
        let (subscription, data) = (1, data.to_vec().into());
        let message = Ephemeral { subscription, document, sender, session, count, data };
        self.send(&Frame::Ephemeral(message));
    }

    /// Returns the next ephemeral message.
    ///
    /// # Panics
    /// If the session ends first.
    pub fn hear(&mut self) -> Ephemeral {
        match self.until(|frame| matches!(frame, Frame::Ephemeral(_))) {
            Frame::Ephemeral(message) => message,
            other => panic!("unexpected frame {other:?}"),
        }
    }

    fn send(&mut self, frame: &Frame) {
        self.socket.send(Message::Binary(encode(frame).into())).expect("the relay reads");
    }

    /// Returns the next frame that matches; drops all others.
    fn until(&mut self, wanted: impl Fn(&Frame) -> bool) -> Frame {
        loop {
            while let Some(frame) = self.frames.pop_front() {
                self.said += usize::from(matches!(frame, Frame::Ephemeral(_)));
                if wanted(&frame) {
                    return frame;
                }
            }
            if let Message::Binary(bytes) = self.socket.read().expect("a frame") {
                let frames = Frames::new(&bytes).expect("a message of frames");
                self.frames.extend(frames.map(|frame| frame.expect("a frame")));
            }
        }
    }
}

/// Opens a WebSocket with our subprotocol and sends hello.
///
/// # Panics
/// If the relay rejects it.
#[must_use]
pub fn handshake(port: u16) -> WebSocket<TcpStream> {
    handshake_over(TcpStream::connect(("127.0.0.1", port)).expect("a relay"), port)
}

/// The same over an existing connection to the relay on a port.
///
/// # Panics
/// As [`handshake`].
#[must_use]
pub fn handshake_over(stream: TcpStream, port: u16) -> WebSocket<TcpStream> {
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let mut request = format!("ws://127.0.0.1:{port}/").into_client_request().expect("a URL");
    let subprotocol = HeaderValue::from_static(SUBPROTOCOL);
    request.headers_mut().insert(SUBPROTOCOL_HEADER, subprotocol);
    let (mut socket, _) = client(request, stream).expect("a session");
    let replica = ReplicaId::from_bytes([7; 16]);
    let (versions, token, agent) = (vec![1], None, "raw".to_owned());
    let hello = Frame::Hello(Hello { versions, replica, token, agent });
    socket.send(Message::Binary(encode(&hello).into())).expect("the relay reads");
    socket
}

/// Makes changes of a document of its own.
#[derive(Debug)]
pub struct Typist(AutoCommit, u64);

impl Typist {
    /// Uses this actor.
    #[must_use]
    pub fn new(actor: ActorId) -> Self {
        Self(AutoCommit::new().with_actor(actor), 0)
    }

    /// Makes the next change.
    ///
    /// # Panics
    /// If automerge fails to make it.
    pub fn type_one(&mut self) -> Vec<u8> {
        self.1 += 1;
        self.0.put(ROOT, "typed", self.1).expect("a value");
        self.0.commit();
        self.0.get_last_local_change().expect("the change was just made").raw_bytes().to_vec()
    }
}

/// Makes the change with the given sequence number of an actor in a document of its own.
///
/// # Panics
/// If automerge fails to make it.
pub fn change_of(actor: ActorId, seq: u64, value: &str) -> Vec<u8> {
    let mut doc = AutoCommit::new().with_actor(actor);
    for number in 1..=seq {
        doc.put(ROOT, "raw", format!("{value} {number}")).expect("a value");
        doc.commit();
    }
    doc.get_last_local_change().expect("the change was just made").raw_bytes().to_vec()
}

/// Makes a change that follows `heads` and edits a text that does not exist: it passes admission, but
/// automerge 0.12 cannot apply it.
///
/// # Panics
/// If automerge fails to make it.
pub fn change_on_nothing(actor: ActorId, heads: &[ChangeHash], start_op: u64) -> Vec<u8> {
    let mut doc = AutoCommit::new().with_actor(actor);
    let text = doc.put_object(ROOT, "text", ObjType::Text).expect("a text");
    doc.commit();
    doc.splice_text(&text, 0, 0, "x").expect("a character");
    doc.commit();
    let mut change = doc.get_last_local_change().expect("the change was just made").decode();
    change.deps = heads.to_vec();
    change.seq = 1;
    change.start_op = start_op.try_into().expect("a counter");
    change.hash = None;
    Change::from(change).raw_bytes().to_vec()
}

/// Makes a change of two or more operations, each of which puts the same key. Run lengths encode it in
/// the same few bytes, whatever the number of operations.
///
/// # Panics
/// If `operations` is less than two.
#[must_use]
pub fn dense_change(
    actor: &ActorId,
    (seq, start_op): (u64, u64),
    dependencies: &[ChangeHash],
    operations: u32,
) -> Vec<u8> {
    let columns = puts(u64::from(operations));
    by_hand(actor, (seq, start_op), dependencies, &[], &columns)
}

/// Makes a change that follows another and puts a key of an object of each of these actors.
///
/// # Panics
/// If there are fewer than two.
#[must_use]
pub fn crowded_change(
    actor: &ActorId,
    (root, start_op): (ChangeHash, u64),
    others: &[ActorId],
) -> Vec<u8> {
    let count = others.len() as u64;
    // All of them, one by one. The length of a literal run is negative.
    let mut actors = signed(-(count as i64));
    (1..=count).for_each(|other| actors.extend(number(other)));
    let mut columns = vec![(&[0x01_u8][..], actors), (&[0x02], run(count, &[1]))];
    columns.extend(puts(count));
    by_hand(actor, (1, start_op), &[root], others, &columns)
}

/// The columns of operations that put one key.
fn puts(count: u64) -> [(&'static [u8], Vec<u8>); 5] {
    // The columns: keys, no insertion, puts, nulls, no predecessors.
    [
        (&[0x15], run(count, b"\x01k")),
        (&[0x34], number(count)),
        (&[0x42], run(count, &[1])),
        (&[0x56], run(count, &[0])),
        (&[0x70], run(count, &[0])),
    ]
}

/// A run of `count` equal values.
fn run(count: u64, value: &[u8]) -> Vec<u8> {
    assert!(count >= 2, "a run has at least two values");
    [&signed(count as i64), value].concat()
}

/// A signed LEB128 number.
fn signed(mut value: i64) -> Vec<u8> {
    let mut out = Vec::new();
    while !(-0x40..0x40).contains(&value) {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8 & 0x7f);
    out
}

/// Encodes a change from these columns, each with its specification.
fn by_hand(
    actor: &ActorId,
    (seq, start_op): (u64, u64),
    dependencies: &[ChangeHash],
    others: &[ActorId],
    columns: &[(&[u8], Vec<u8>)],
) -> Vec<u8> {
    let mut body = number(dependencies.len() as u64);
    dependencies.iter().for_each(|hash| body.extend(hash.0));
    let add_actor = |body: &mut Vec<u8>, actor: &ActorId| {
        body.extend(number(actor.to_bytes().len() as u64));
        body.extend(actor.to_bytes());
    };
    add_actor(&mut body, actor);
    body.extend(number(seq));
    body.extend(number(start_op));
    // No time, no message.
    body.extend([0, 0]);
    body.extend(number(others.len() as u64));
    others.iter().for_each(|other| add_actor(&mut body, other));
    body.push(columns.len() as u8);
    columns.iter().for_each(|(spec, data)| {
        body.extend(*spec);
        body.extend(number(data.len() as u64));
    });
    columns.iter().for_each(|(_, data)| body.extend(data));
    let typed = [vec![1], number(body.len() as u64), body].concat();
    [&[0x85, 0x6f, 0x4a, 0x83], &landfall_compaction::hash_of(&typed)[..4], &typed].concat()
}

/// An unsigned LEB128 number.
fn number(mut value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while value > 0x7f {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
    out
}

/// A server that misbehaves on its first connections and forwards all later ones to a relay.
#[derive(Debug)]
pub struct BadServer {
    /// The URL for clients.
    pub url: String,
    /// The number of connections so far.
    connections: Arc<AtomicUsize>,
}

impl BadServer {
    /// Starts the server; it ends with the process, and holds only a socket until then.
    ///
    /// # Panics
    /// If it cannot listen.
    pub fn start(relay: u16, bad: usize, treat: fn(TcpStream)) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let url = format!("ws://{}", listener.local_addr().expect("the listener is bound"));
        let connections = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&connections);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let number = counter.fetch_add(1, Ordering::SeqCst);
                std::thread::spawn(move || match number < bad {
                    true => treat(stream),
                    false => pass_on(stream, relay),
                });
            }
        });
        Self { url, connections }
    }

    /// The number of connections so far.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

/// Forwards bytes in both directions until one side closes.
fn pass_on(mut client: TcpStream, relay: u16) {
    let Ok(mut server) = TcpStream::connect(("127.0.0.1", relay)) else { return };
    let (Ok(mut from), Ok(mut to)) = (server.try_clone(), client.try_clone()) else { return };
    let back = std::thread::spawn(move || {
        let _ = std::io::copy(&mut from, &mut to);
        let _ = to.shutdown(std::net::Shutdown::Both);
    });
    let _ = std::io::copy(&mut client, &mut server);
    let _ = server.shutdown(std::net::Shutdown::Both);
    let _ = back.join();
}

/// Reads an HTTP request, as far as it arrives in one read, and answers with these bytes.
pub fn answer(mut stream: TcpStream, bytes: &[u8]) {
    let mut request = [0; 4096];
    let _ = stream.read(&mut request);
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(std::net::Shutdown::Write);
    // Waits until the client has read the answer and closes.
    let _ = stream.read(&mut request);
}

/// Upgrades to our subprotocol, answers each message of the client with the next of these, and reads on
/// until the client closes.
#[allow(clippy::result_large_err, reason = "tungstenite's callback has this type")]
pub fn speak(stream: TcpStream, messages: Vec<Message>) {
    use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};
    let choose = |_: &Request, mut response: Response| {
        let subprotocol = HeaderValue::from_static(SUBPROTOCOL);
        response.headers_mut().insert(SUBPROTOCOL_HEADER, subprotocol);
        Ok(response)
    };
    let _ = stream.set_read_timeout(Some(PATIENCE));
    let Ok(mut socket) = tokio_tungstenite::tungstenite::accept_hdr(stream, choose) else { return };
    for message in messages {
        // Each answers one of the client's messages: hello, subscribe, and the ones after that.
        if socket.read().is_err() || socket.send(message).is_err() {
            return;
        }
    }
    while socket.read().is_ok() {}
}
