//! An automerge-repo client: a real automerge document over a raw WebSocket.

use std::net::SocketAddr;
use std::time::Duration;

use automerge::sync::{Message as SyncMessage, MessageVersion, State, SyncDoc};
use automerge::transaction::Transactable;
use automerge::{ActorId, AutoCommit, Automerge, ChangeHash, ROOT, ReadDoc};
use futures_util::{SinkExt, StreamExt};
use landfall_protocol::DocumentId;
use landfall_protocol::automerge_repo::message::{Message as Repo, PeerMetadata, Sync};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use crate::harness::{Relay, soon};

/// A message to a client, as far as the tests check it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Heard {
    Peer { server: String, storage: String },
    Sync(DocumentId, Vec<u8>),
    Unavailable(DocumentId),
    Ephemeral { sender: String, session: String, count: u64, data: Vec<u8> },
    Heads { storage: String, heads: Vec<String> },
    Error(String),
}

pub(crate) struct RepoClient {
    pub(crate) socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    pub(crate) name: String,
    pub(crate) server: String,
}

impl RepoClient {
    /// Connects to a path and joins.
    pub(crate) async fn join(relay: &Relay, path: &str, name: &str) -> Self {
        let mut client = Self::connect(relay.address, path, name).await;
        client.say_join(None).await;
        match client.hear().await {
            Heard::Peer { server, .. } => client.server = server,
            other => panic!("no peer: {other:?}"),
        }
        client
    }

    /// Connects to a path, joins, and pushes a document.
    pub(crate) async fn with(
        relay: &Relay,
        path: &str,
        name: &str,
        mut replica: Replica,
    ) -> (Self, Replica) {
        let mut client = Self::join(relay, path, name).await;
        client.send(&mut replica).await;
        client.settle(&mut replica).await;
        (client, replica)
    }

    /// Connects, and sends nothing.
    pub(crate) async fn connect(address: SocketAddr, path: &str, name: &str) -> Self {
        let (socket, _) = soon(connect_async(format!("ws://{address}{path}"))).await.unwrap();
        Self { socket, name: name.to_owned(), server: String::new() }
    }

    pub(crate) async fn say_join(&mut self, storage: Option<&str>) {
        let name = self.name.clone();
        let metadata = PeerMetadata { storage_id: storage, is_ephemeral: storage.is_none() };
        self.say(&Repo::Join { sender: &name, metadata, versions: Some(vec!["1"]) }).await;
    }

    pub(crate) async fn say(&mut self, message: &Repo<'_>) {
        self.say_bytes(message.encode()).await;
    }

    pub(crate) async fn say_bytes(&mut self, bytes: Vec<u8>) {
        soon(self.socket.send(Message::Binary(bytes.into()))).await.unwrap();
    }

    /// Sends a sync message.
    pub(crate) async fn say_sync(&mut self, document: DocumentId, data: &[u8]) {
        let (document, sender, target) = (shown(document), self.name.clone(), self.server.clone());
        let sync = Sync { document: &document, sender: &sender, target: &target, data };
        self.say(&Repo::Sync(sync)).await;
    }

    /// Sends a whole document, in one chunk.
    pub(crate) async fn say_whole(&mut self, document: DocumentId, whole: &mut AutoCommit) {
        let message = SyncMessage {
            heads: whole.get_heads(),
            need: Vec::new(),
            have: Vec::new(),
            changes: vec![whole.save()].into(),
            flags: None,
            version: MessageVersion::V1,
        };
        self.say_sync(document, &message.encode()).await;
    }

    /// The next message; the close code if the session ended.
    pub(crate) async fn next(&mut self) -> Result<Heard, Option<u16>> {
        loop {
            match soon(self.socket.next()).await {
                Some(Ok(Message::Binary(bytes))) => return Ok(self.read(&bytes)),
                Some(Ok(Message::Close(close))) => return Err(close.map(|c| c.code.into())),
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Err(None),
            }
        }
    }

    pub(crate) async fn hear(&mut self) -> Heard {
        self.next().await.expect("the session goes on")
    }

    /// Receives messages until one says that a document is unavailable.
    pub(crate) async fn unavailable(&mut self, document: DocumentId) {
        while self.hear().await != Heard::Unavailable(document) {}
    }

    /// The close code of the session, after its remaining messages.
    pub(crate) async fn end(&mut self) -> Option<u16> {
        loop {
            if let Err(code) = self.next().await {
                return code;
            }
        }
    }

    pub(crate) async fn is_quiet(&mut self) -> bool {
        timeout(Duration::from_millis(150), self.socket.next()).await.is_err()
    }

    fn read(&self, bytes: &[u8]) -> Heard {
        let is_ours = |target: &str| assert_eq!(target, self.name, "another's message");
        match Repo::decode(bytes).unwrap() {
            Repo::Peer { sender, target, metadata, version } => {
                is_ours(target);
                assert_eq!((version, metadata.is_ephemeral), ("1", false));
                let storage = metadata.storage_id.unwrap().to_owned();
                Heard::Peer { server: sender.to_owned(), storage }
            }
            Repo::Sync(sync) => {
                is_ours(sync.target);
                assert_eq!(sync.sender, self.server);
                Heard::Sync(sync.document.parse().unwrap(), sync.data.to_vec())
            }
            Repo::Unavailable { document, target, .. } => {
                is_ours(target);
                Heard::Unavailable(document.parse().unwrap())
            }
            Repo::Ephemeral(said) => {
                is_ours(said.target);
                let (sender, session) = (said.sender.to_owned(), said.session.to_owned());
                Heard::Ephemeral { sender, session, count: said.count, data: said.data.to_vec() }
            }
            Repo::RemoteHeads { heads, .. } => Heard::Heads {
                storage: heads[0].storage_id.to_owned(),
                heads: heads[0].heads.iter().map(ToString::to_string).collect(),
            },
            Repo::Error { message, .. } => Heard::Error(message.to_owned()),
            other => panic!("a relay never sends this: {other:?}"),
        }
    }

    /// Sends the replica's next sync message, if there is one.
    pub(crate) async fn send(&mut self, replica: &mut Replica) {
        let Some(message) = replica.doc.generate_sync_message(&mut replica.state) else { return };
        let data = message.encode();
        let (document, sender) = (shown(replica.id), self.name.clone());
        let target = self.server.clone();
        let sync = Sync { document: &document, sender: &sender, target: &target, data: &data };
        let asks = replica.doc.get_heads().is_empty() && !replica.has_asked;
        replica.has_asked = true;
        self.say(&if asks { Repo::Request(sync) } else { Repo::Sync(sync) }).await;
    }

    /// Receives one sync message about the replica, and answers it.
    pub(crate) async fn receive(&mut self, replica: &mut Replica) -> Vec<ChangeHash> {
        loop {
            if let Heard::Sync(document, data) = self.hear().await
                && document == replica.id
            {
                let message = SyncMessage::decode(&data).unwrap();
                let heads = message.heads.clone();
                replica.doc.receive_sync_message(&mut replica.state, message).unwrap();
                self.send(replica).await;
                return heads;
            }
        }
    }

    /// Syncs until the server states the replica's own heads.
    pub(crate) async fn settle(&mut self, replica: &mut Replica) {
        let heads = replica.heads();
        self.until(replica, &heads).await;
    }

    /// Syncs until the server states these heads, and the replica has them.
    pub(crate) async fn until(&mut self, replica: &mut Replica, heads: &[ChangeHash]) {
        while self.receive(replica).await != heads || replica.doc.get_heads() != heads {}
    }
}

pub(crate) fn shown(document: DocumentId) -> String {
    document.to_string().trim_start_matches("automerge:").to_owned()
}

/// A client's document, and its sync state for the server.
pub(crate) struct Replica {
    pub(crate) id: DocumentId,
    pub(crate) doc: Automerge,
    pub(crate) state: State,
    has_asked: bool,
}

impl Replica {
    /// Empty: the replica of a client that requests a document.
    pub(crate) fn empty(number: u8) -> Self {
        let doc = Automerge::new();
        let id = DocumentId::from_bytes([number; 16]);
        Self { id, doc, state: State::new(), has_asked: false }
    }

    /// With an actor of its own and one change.
    pub(crate) fn made(number: u8, actor: u8) -> Self {
        let mut replica = Self::empty(number);
        replica.doc.set_actor(ActorId::from([actor; 16]));
        replica.put("made", &actor.to_string());
        replica
    }

    pub(crate) fn put(&mut self, key: &str, value: &str) {
        let mut tx = self.doc.transaction();
        tx.put(ROOT, key, value).unwrap();
        tx.commit();
    }

    pub(crate) fn get(&self, key: &str) -> Option<String> {
        let (value, _) = self.doc.get(ROOT, key).unwrap()?;
        Some(value.into_string().unwrap())
    }

    pub(crate) fn heads(&self) -> Vec<ChangeHash> {
        self.doc.get_heads()
    }

    /// Like a restart of the client: its sync state is gone.
    pub(crate) fn forget(&mut self) {
        self.state = State::new();
        self.has_asked = false;
    }
}
