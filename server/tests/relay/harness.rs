//! A relay in this process and clients for it, so that a new test needs few lines.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use automerge::transaction::Transactable;
use automerge::{ActorId, AutoCommit, ROOT};
use futures_util::{SinkExt, StreamExt};
use landfall_protocol::digest::tombstone_id;
use landfall_protocol::frame::{
    Entry, Features, Filter, Frame, Frames, Hello, Mark, Push, PushEntry, SUBPROTOCOL, Subscribe,
    Subscribed, Welcome, encode, entry_flags, entry_kind, features,
};
use landfall_protocol::{Cursor, DocumentId, Epoch, Offset, ReplicaId, Scope};
use landfall_relay::store::{CompactionWindow, LogStore, SqliteStore};
use landfall_relay::{CompactionOptions, ServeError, ServeOptions, serve_with_store};
use serde_bytes::ByteBuf;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, client_async, connect_async};

/// Nothing here takes that long: a test that waits this long has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A space's name.
pub(crate) const SPACE: &str = "notes";

/// Waits for something that must happen.
pub(crate) async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(PATIENCE, what).await.expect("it did not happen in time")
}

/// A relay in this process.
pub(crate) struct Relay {
    pub(crate) address: SocketAddr,
    pub(crate) store: Arc<SqliteStore>,
    stop: Option<oneshot::Sender<()>>,
    serving: JoinHandle<Result<(), ServeError>>,
}

impl Relay {
    pub(crate) async fn start(folder: &tempfile::TempDir) -> Self {
        Self::start_with(folder, |_| {}).await
    }

    pub(crate) async fn start_with(
        folder: &tempfile::TempDir,
        change: impl FnOnce(&mut ServeOptions),
    ) -> Self {
        let store = Arc::new(SqliteStore::open(folder.path()).unwrap());
        let over: Arc<dyn LogStore> = store.clone();
        Self::start_over(folder, store, over, change).await
    }

    /// Over a wrapper of the store.
    pub(crate) async fn start_over(
        folder: &tempfile::TempDir,
        store: Arc<SqliteStore>,
        over: Arc<dyn LogStore>,
        change: impl FnOnce(&mut ServeOptions),
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut options = ServeOptions::new(folder.path());
        // Clients here disconnect at the end of their test, after their relay.
        options.linger = Duration::from_millis(50);
        change(&mut options);
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = tokio::spawn(serve_with_store(listener, options, over, async {
            let _ = stopped.await;
        }));
        Self { address, store, stop: Some(stop), serving }
    }

    pub(crate) fn ask_to_stop(&mut self) {
        self.stop.take().unwrap().send(()).unwrap();
    }

    /// Waits for its end.
    pub(crate) async fn ended(self) -> Result<(), ServeError> {
        soon(self.serving).await.unwrap()
    }

    pub(crate) async fn stop(mut self) -> Result<(), ServeError> {
        self.ask_to_stop();
        self.ended().await
    }

    /// Sends an HTTP request verbatim; returns the status and body of its answer.
    pub(crate) async fn ask(&self, request: &str) -> (u16, String) {
        ask_of(self.address, request).await
    }

    /// Sends an HTTP request verbatim; returns the status of its answer, and the whole answer.
    pub(crate) async fn ask_bytes(&self, request: &str) -> (u16, Vec<u8>) {
        ask_bytes_of(self.address, request).await
    }

    pub(crate) async fn get(&self, path: &str) -> (u16, String) {
        get_of(self.address, path).await
    }

    /// One value of `/metrics`.
    pub(crate) async fn metric(&self, name: &str) -> f64 {
        let (_, text) = self.get("/metrics").await;
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
        line.and_then(|value| value.trim().parse().ok()).unwrap_or(0.0)
    }

    /// Waits until a value of `/metrics` is as wanted.
    pub(crate) async fn until_metric(&self, name: &str, wanted: impl Fn(f64) -> bool) {
        soon(async {
            while !wanted(self.metric(name).await) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }
}

/// Compacts at once, with the worker of the relay's own program.
pub(crate) fn compactions(window: CompactionWindow) -> CompactionOptions {
    let worker = [env!("CARGO_BIN_EXE_landfall-relay"), landfall_relay::cli::COMPACT_WORKER];
    let (worker, every) = (Some(worker.map(Into::into).to_vec()), Duration::from_millis(10));
    CompactionOptions { worker, window, every, ..CompactionOptions::default() }
}

/// A snapshot, with its document.
pub(crate) fn compacted(number: u8, changes: usize) -> (DocumentId, Vec<u8>, Vec<[u8; 32]>) {
    let mut author = Author::new(number);
    let mut whole = AutoCommit::new();
    for change in author.changes(changes) {
        whole.apply_changes([automerge::Change::from_bytes(change).unwrap()]).unwrap();
    }
    let heads = whole.get_heads().iter().map(|head| head.0).collect();
    (author.document, whole.save(), heads)
}

/// Waits for the first wanted frame.
pub(crate) async fn until<T>(client: &mut Client, wanted: impl Fn(Frame) -> Option<T>) -> T {
    soon(async {
        loop {
            if let Some(found) = wanted(client.frame().await) {
                return found;
            }
        }
    })
    .await
}

/// A session that begins a message of `bytes` bytes and sends a little of it.
pub(crate) async fn stall(relay: &Relay, bytes: usize) -> Client {
    let mut client = Client::hello(relay).await;
    let mut begun = vec![0x82, 0xff];
    begun.extend((bytes as u64).to_be_bytes());
    begun.resize(begun.len() + 4 + 1_000, 0);
    soon(client.socket.get_mut().write_all(&begun)).await.unwrap();
    client
}

/// Waits until no session is left, and no memory of these classes is held.
pub(crate) async fn until_nothing_is_held(relay: &Relay, classes: &[&str]) {
    relay.until_metric("landfall_relay_sessions", |sessions| sessions == 0.0).await;
    for class in classes {
        let metric = format!("landfall_relay_memory_bytes{{class=\"{class}\"}}");
        relay.until_metric(&metric, |bytes| bytes == 0.0).await;
    }
    relay.until_metric("landfall_relay_memory_waiting", |waiting| waiting == 0.0).await;
}

/// A page of a relay in any process.
pub(crate) async fn get_of(address: SocketAddr, path: &str) -> (u16, String) {
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    ask_of(address, &request).await
}

async fn ask_of(address: SocketAddr, request: &str) -> (u16, String) {
    let (status, answer) = ask_bytes_of(address, request).await;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    (status, answer.split_once("\r\n\r\n").map_or(String::new(), |(_, body)| body.to_owned()))
}

async fn ask_bytes_of(address: SocketAddr, request: &str) -> (u16, Vec<u8>) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // Data before a reset counts.
    let _ = soon(stream.read_to_end(&mut answer)).await;
    let head = String::from_utf8_lossy(&answer);
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
    (status, answer)
}

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// A raw client.
pub(crate) struct Client {
    pub(crate) socket: Socket,
    frames: VecDeque<Frame>,
    last_push: u64,
}

impl Client {
    /// Connects, and sends nothing.
    pub(crate) async fn connect(relay: &Relay) -> Self {
        Self::connect_to(relay.address).await
    }

    pub(crate) async fn connect_to(address: SocketAddr) -> Self {
        let request = request_to(address, Some(SUBPROTOCOL));
        let (socket, _) = soon(connect_async(request)).await.unwrap();
        Self { socket, frames: VecDeque::new(), last_push: 0 }
    }

    /// Like [`Client::at_start`], from another address of this machine.
    pub(crate) async fn at_start_from(relay: &Relay, from: IpAddr) -> Self {
        let from_socket = TcpSocket::new_v4().unwrap();
        from_socket.bind((from, 0).into()).unwrap();
        let stream = MaybeTlsStream::Plain(from_socket.connect(relay.address).await.unwrap());
        let request = request_to(relay.address, Some(SUBPROTOCOL));
        let (socket, _) = soon(client_async(request, stream)).await.unwrap();
        let mut client = Self { socket, frames: VecDeque::new(), last_push: 0 };
        client.say_hello().await;
        client.subscribe(1, SPACE, None, None).await;
        client
    }

    /// Connects and sends `Hello`.
    pub(crate) async fn hello(relay: &Relay) -> Self {
        let mut client = Self::connect(relay).await;
        client.say_hello().await;
        client
    }

    pub(crate) async fn say_hello(&mut self) -> Welcome {
        self.send_hello(7, None).await;
        match self.frame().await {
            Frame::Welcome(welcome) => welcome,
            other => panic!("no welcome: {other:?}"),
        }
    }

    /// Sends `Hello` of a replica, with a token.
    pub(crate) async fn send_hello(&mut self, replica: u8, token: Option<&str>) {
        let replica = ReplicaId::from_bytes([replica; 16]);
        let token = token.map(|token| ByteBuf::from(token.as_bytes()));
        let (versions, agent) = (vec![1], "test".to_owned());
        self.send(&Frame::Hello(Hello { versions, replica, token, agent })).await;
    }

    /// Sends `Hello` and subscribes to the space from its start, as subscription 1.
    pub(crate) async fn at_start(relay: &Relay) -> Self {
        let mut client = Self::hello(relay).await;
        client.subscribe(1, SPACE, None, None).await;
        client
    }

    pub(crate) async fn send(&mut self, frame: &Frame) {
        self.send_bytes(encode(frame)).await;
    }

    pub(crate) async fn send_bytes(&mut self, bytes: Vec<u8>) {
        soon(self.socket.send(Message::Binary(bytes.into()))).await.unwrap();
    }

    pub(crate) async fn subscribe(
        &mut self,
        subscription: u32,
        space: &str,
        cursor: Option<Cursor>,
        acknowledged: Option<Mark>,
    ) -> Subscribed {
        let (space, filter) = (space.parse().unwrap(), Filter::Everything);
        let subscribe = Subscribe { subscription, space, filter, cursor, acknowledged };
        self.send(&Frame::Subscribe(subscribe)).await;
        match self.frame().await {
            Frame::Subscribed(subscribed) => subscribed,
            other => panic!("not subscribed: {other:?}"),
        }
    }

    /// Sends a push to subscription 1; returns its number.
    pub(crate) async fn push(&mut self, document: DocumentId, changes: &[Vec<u8>]) -> u64 {
        self.last_push += 1;
        let changes = changes.iter().map(|change| ByteBuf::from(change.clone())).collect();
        let (id, subscription) = (self.last_push, 1);
        self.send(&Frame::Push(Push { id, subscription, document, changes })).await;
        id
    }

    /// Deletes a document, over subscription 1.
    pub(crate) async fn delete(&mut self, document: DocumentId) {
        self.send(&Frame::Features(Features { bits: features::ALL })).await;
        self.last_push += 1;
        let (id, subscription, flags) = (self.last_push, 1, entry_flags::MUST_UNDERSTAND);
        let (kind, entry) = (entry_kind::TOMBSTONE, tombstone_id(&document));
        let body = ByteBuf::new();
        let push = PushEntry { id, subscription, document, kind, flags, entry, body };
        self.send(&Frame::PushEntry(push)).await;
        self.acked(id).await;
    }

    /// The next frame other than pings; pings are answered.
    pub(crate) async fn frame(&mut self) -> Frame {
        loop {
            match self.next().await {
                Ok(Frame::Ping(nonce)) => self.send(&Frame::Pong(nonce)).await,
                Ok(frame) => return frame,
                Err(end) => panic!("the session ended: {end:?}"),
            }
        }
    }

    /// The next frame, or the WebSocket's close code, or `None` if it ended without one.
    pub(crate) async fn next(&mut self) -> Result<Frame, Option<u16>> {
        loop {
            // Like a peer that knows only version 1.
            self.frames.retain(|frame| !matches!(frame, Frame::Features(_)));
            if let Some(frame) = self.frames.pop_front() {
                return Ok(frame);
            }
            match soon(self.socket.next()).await {
                Some(Ok(Message::Binary(bytes))) => {
                    self.frames.extend(Frames::new(&bytes).unwrap().map(Result::unwrap));
                }
                Some(Ok(Message::Close(close))) => return Err(close.map(|c| c.code.into())),
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Err(None),
            }
        }
    }

    /// All frames until the end, and the close code.
    pub(crate) async fn until_end(&mut self) -> (Vec<Frame>, Option<u16>) {
        let mut frames = Vec::new();
        loop {
            match self.next().await {
                Ok(frame) => frames.push(frame),
                Err(code) => return (frames, code),
            }
        }
    }

    /// Receives `count` entries; checks that they cover the log without a gap.
    pub(crate) async fn entries(&mut self, count: usize) -> Vec<Entry> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut cursor: Option<Offset> = None;
        while entries.len() < count {
            if let Frame::Entries(page) = self.frame().await {
                assert!(cursor.is_none_or(|cursor| cursor == page.after), "a gap");
                cursor = Some(page.up_to);
                entries.extend(page.entries);
            }
        }
        assert_eq!(entries.len(), count);
        entries
    }

    /// Receives acks until the one of this push.
    pub(crate) async fn acked(&mut self, push: u64) -> landfall_protocol::frame::Ack {
        loop {
            match self.frame().await {
                Frame::Ack(ack) if ack.id == push => return ack,
                Frame::Ack(_) | Frame::Entries(_) => {}
                other => panic!("no ack: {other:?}"),
            }
        }
    }

    /// Receives frames until the nack of this push.
    pub(crate) async fn nacked(&mut self, push: u64) -> landfall_protocol::frame::Nack {
        loop {
            match self.frame().await {
                Frame::Nack(nack) if nack.id == push => return nack,
                Frame::Ack(ack) if ack.id == push && ack.count > 0 => {}
                Frame::Entries(_) => {}
                other => panic!("no nack: {other:?}"),
            }
        }
    }

    /// Whether nothing arrives for a short while. For frames that must not arrive: the tests that use it hold
    /// the relay in a state where they could never arrive.
    pub(crate) async fn is_quiet(&mut self) -> bool {
        self.frames.is_empty()
            && timeout(Duration::from_millis(150), self.socket.next()).await.is_err()
    }
}

pub(crate) type Request = tungstenite::handshake::client::Request;

pub(crate) fn request(relay: &Relay, subprotocol: Option<&str>) -> Request {
    request_to(relay.address, subprotocol)
}

fn request_to(address: SocketAddr, subprotocol: Option<&str>) -> Request {
    let mut request = format!("ws://{address}/").into_client_request().unwrap();
    if let Some(subprotocol) = subprotocol {
        let value = subprotocol.parse().unwrap();
        request.headers_mut().insert("sec-websocket-protocol", value);
    }
    request
}

/// A document whose author makes a sequence of changes.
pub(crate) struct Author {
    pub(crate) document: DocumentId,
    doc: AutoCommit,
    edits: usize,
}

impl Author {
    pub(crate) fn new(number: u8) -> Self {
        let doc = AutoCommit::new().with_actor(ActorId::from([number; 16]));
        Self { document: DocumentId::from_bytes([number; 16]), doc, edits: 0 }
    }

    pub(crate) fn change(&mut self) -> Vec<u8> {
        let edits = self.edits;
        self.change_of(&format!("edit {edits}"))
    }

    /// A change with this text.
    pub(crate) fn change_of(&mut self, text: &str) -> Vec<u8> {
        self.edits += 1;
        self.doc.put(ROOT, "text", text).unwrap();
        self.doc.get_last_local_change().unwrap().raw_bytes().to_vec()
    }

    pub(crate) fn changes(&mut self, count: usize) -> Vec<Vec<u8>> {
        (0..count).map(|_| self.change()).collect()
    }

    /// Changes that do not compress, so that they fill buffers.
    pub(crate) fn large_changes(&mut self, count: usize, bytes: usize) -> Vec<Vec<u8>> {
        let mut rng = landfall_test_rng::Rng::new(1);
        let mut noise = |_| char::from(33 + rng.below(90) as u8);
        (0..count)
            .map(|_| self.change_of(&(0..bytes).map(&mut noise).collect::<String>()))
            .collect()
    }
}

pub(crate) fn cursor(epoch: Epoch, offset: u64) -> Option<Cursor> {
    Some(Cursor { epoch, offset: Offset(offset), scope: Scope::WHOLE_SPACE })
}

/// Changes one byte of a column, in the rows selected by `which`, of a stopped relay's store; returns the
/// number of rows.
pub(crate) fn damage(
    folder: &Path,
    (table, column): (&str, &str),
    at: usize,
    which: &str,
) -> usize {
    let (before, after) = (at - 1, at + 1);
    let conn = rusqlite::Connection::open(folder.join("relay.db")).unwrap();
    let sql = format!(
        "UPDATE {table} SET {column} = CAST(substr({column}, 1, {before}) || \
        CASE substr({column}, {at}, 1) WHEN x'07' THEN x'06' ELSE x'07' END || \
        substr({column}, {after}) AS BLOB) WHERE {which}"
    );
    conn.execute(&sql, []).unwrap()
}
