//! An automerge-repo client for tests: a real automerge document on a blocking socket. It reconnects
//! until the test ends it.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::TcpStream;
use std::sync::Mutex;
use std::time::Duration;

use automerge::sync::{Message as SyncMessage, State, SyncDoc};
use automerge::transaction::Transactable;
use automerge::{Automerge, ChangeHash, ROOT};
use landfall_protocol::DocumentId;
use landfall_protocol::automerge_repo::message::{Message as Repo, PeerMetadata, Sync};
use tokio_tungstenite::tungstenite::{Error, Message, WebSocket, client};

/// How long a client waits for messages before it types again.
const PAUSE: Duration = Duration::from_millis(5);

/// Makes a sync message with these changes of a document. The changes are also its heads.
///
/// # Panics
/// If they are not valid changes.
#[must_use]
pub fn sync_of(ends: (&str, &str), document: DocumentId, changes: &[Vec<u8>]) -> Vec<u8> {
    let loaded =
        changes.iter().map(|bytes| automerge::Change::from_bytes(bytes.clone()).expect("a change"));
    let heads = loaded.map(|change| change.hash()).collect();
    message_of(ends, document, heads, Vec::new(), changes.to_vec())
}

/// Makes a sync message that states heads of a document and requests changes.
#[must_use]
pub fn question_of(
    ends: (&str, &str),
    document: DocumentId,
    heads: Vec<ChangeHash>,
    need: Vec<ChangeHash>,
) -> Vec<u8> {
    message_of(ends, document, heads, need, Vec::new())
}

fn message_of(
    (sender, target): (&str, &str),
    document: DocumentId,
    heads: Vec<ChangeHash>,
    need: Vec<ChangeHash>,
    changes: Vec<Vec<u8>>,
) -> Vec<u8> {
    let message = SyncMessage {
        heads,
        need,
        have: Vec::new(),
        changes: changes.into(),
        flags: None,
        version: automerge::sync::MessageVersion::V1,
    };
    let data = message.encode();
    let document = document.to_string().trim_start_matches("automerge:").to_owned();
    Repo::Sync(Sync { document: &document, sender, target, data: &data }).encode()
}

/// A client with one document.
#[derive(Debug)]
pub struct Peer {
    name: String,
    document: String,
    /// Its copy of the document.
    pub doc: Automerge,
    has_asked: bool,
    typed: u64,
}

/// Its connection.
struct Session {
    socket: WebSocket<TcpStream>,
    server: String,
    state: State,
}

impl Peer {
    /// Makes a peer that has nothing of the document.
    pub fn new(name: &str, document: DocumentId) -> Self {
        let document = document.to_string().trim_start_matches("automerge:").to_owned();
        Self { name: name.to_owned(), document, doc: Automerge::new(), has_asked: false, typed: 0 }
    }

    /// Makes a change.
    ///
    /// # Panics
    /// If automerge rejects it.
    pub fn type_one(&mut self) {
        self.typed += 1;
        let mut tx = self.doc.transaction();
        let value = format!("{} {}", self.name, self.typed);
        tx.put(ROOT, format!("key {}", self.typed % 5), value).expect("a put");
        tx.commit();
    }

    /// Syncs with the relay on a port until `goes_on` returns false. `goes_on` is called after each
    /// round and may type. The heads that the relay reports go into `told`.
    ///
    /// # Panics
    /// If the relay sends a message that automerge rejects.
    pub fn sync(
        &mut self,
        port: u16,
        told: &Mutex<BTreeSet<ChangeHash>>,
        mut goes_on: impl FnMut(&mut Self) -> bool,
    ) {
        let mut session = None;
        while goes_on(self) {
            let round = match &mut session {
                None => self.connect(port).map(|new| session = Some(new)),
                Some(session) => self.round(session, told),
            };
            if round.is_none() {
                session = None;
                // sleep: the relay is being killed and started; no event shows when it listens
                std::thread::sleep(PAUSE);
            }
        }
    }

    /// Connects and joins; `None` if no relay answers.
    fn connect(&mut self, port: u16) -> Option<Session> {
        let stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        stream.set_nodelay(true).ok()?;
        let (mut socket, _) = client(format!("ws://127.0.0.1:{port}/"), stream).ok()?;
        let metadata = PeerMetadata { storage_id: None, is_ephemeral: true };
        let join = Repo::Join { sender: &self.name, metadata, versions: Some(vec!["1"]) };
        socket.send(Message::Binary(join.encode().into())).ok()?;
        let Message::Binary(answer) = socket.read().ok()? else { return None };
        let Ok(Repo::Peer { sender, .. }) = Repo::decode(&answer) else { return None };
        let server = sender.to_owned();
        socket.get_ref().set_read_timeout(Some(PAUSE)).ok()?;
        self.has_asked = false;
        Some(Session { socket, server, state: State::new() })
    }

    /// Sends the pending messages and reads the received ones; `None` if the connection is gone.
    fn round(&mut self, session: &mut Session, told: &Mutex<BTreeSet<ChangeHash>>) -> Option<()> {
        self.say(session)?;
        loop {
            match session.socket.read() {
                Ok(Message::Binary(bytes)) => self.hear(session, &bytes, told),
                Ok(Message::Close(_)) => return None,
                Ok(_) => {}
                Err(Error::Io(error))
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) =>
                {
                    return Some(());
                }
                Err(_) => return None,
            }
            self.say(session)?;
        }
    }

    fn say(&mut self, session: &mut Session) -> Option<()> {
        let message = self.doc.generate_sync_message(&mut session.state);
        let Some(message) = message else { return Some(()) };
        let data = message.encode();
        let (document, sender, target) = (&self.document, &self.name, &session.server);
        let sync = Sync { document, sender, target, data: &data };
        let asks = self.doc.get_heads().is_empty() && !self.has_asked;
        self.has_asked = true;
        let message = if asks { Repo::Request(sync) } else { Repo::Sync(sync) };
        session.socket.send(Message::Binary(message.encode().into())).ok()
    }

    fn hear(&mut self, session: &mut Session, bytes: &[u8], told: &Mutex<BTreeSet<ChangeHash>>) {
        let Ok(Repo::Sync(sync)) = Repo::decode(bytes) else { return };
        let message = SyncMessage::decode(sync.data).expect("the relay's message");
        told.lock().expect("no thread panicked").extend(&message.heads);
        let received = self.doc.receive_sync_message(&mut session.state, message);
        received.expect("the relay's changes");
    }
}
