//! A client: real automerge documents, synchronised as automerge-repo 2.5 does. It generates a
//! message after each received one and after each change.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use automerge::sync::{self, State, SyncDoc};
use automerge::transaction::{CommitOptions, Transactable};
use automerge::{ActorId, Automerge, ROOT};
use landfall_protocol::automerge_repo::message::{Message, PeerMetadata, Sync};
use landfall_protocol::{ChangeHash, DocumentId, SessionId};

pub struct Client {
    pub name: String,
    /// Its sync state with the relay survives its connections.
    pub keeps_states: bool,
    pub copies: BTreeMap<DocumentId, Copy>,
    pub session: Option<SessionId>,
    pub ready: bool,
    pub out: VecDeque<Vec<u8>>,
    pub traffic: Traffic,
    pub unavailable: BTreeSet<DocumentId>,
    /// Changes of others may fail to apply to its documents.
    pub may_fail: bool,
}

/// The traffic since the last look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    pub sent: usize,
    pub sent_chunks: usize,
    pub received: usize,
    pub received_chunks: usize,
    pub received_bytes: usize,
}

pub struct Copy {
    pub automerge: Automerge,
    pub state: State,
    kept: Option<Vec<u8>>,
    pub reads_only: bool,
}

impl Copy {
    fn new(actor: [u8; 16]) -> Self {
        let automerge = Automerge::new().with_actor(ActorId::from(actor));
        Self { automerge, state: State::new(), kept: None, reads_only: false }
    }

    pub fn heads(&self) -> Vec<ChangeHash> {
        let mut heads = self.automerge.get_heads();
        heads.sort_unstable();
        heads
    }
}

pub fn name_of(document: &DocumentId) -> String {
    document.to_string().trim_start_matches("automerge:").to_owned()
}

impl Client {
    pub fn new(name: &str, keeps_states: bool) -> Self {
        let (copies, out, unavailable) = Default::default();
        Self {
            name: name.into(),
            keeps_states,
            copies,
            session: None,
            ready: false,
            out,
            traffic: Traffic::default(),
            unavailable,
            may_fail: false,
        }
    }

    pub fn open(&mut self, document: DocumentId, actor: [u8; 16]) {
        if self.copies.contains_key(&document) {
            return;
        }
        self.copies.insert(document, Copy::new(actor));
        if self.ready {
            self.begin(document);
        }
    }

    /// Adds a document that the client got in another way.
    pub fn put(&mut self, document: DocumentId, automerge: &Automerge, actor: [u8; 16]) {
        let automerge = automerge.fork().with_actor(ActorId::from(actor));
        self.copies.insert(document, Copy { automerge, ..Copy::new(actor) });
        if self.ready {
            self.begin(document);
        }
    }

    pub fn copy(&self, document: &DocumentId) -> &Copy {
        &self.copies[document]
    }

    pub fn edit(&mut self, document: DocumentId, key: &str, value: &str) {
        let copy = self.copies.get_mut(&document).expect("it is open");
        let mut transaction = copy.automerge.transaction();
        transaction.put(ROOT, key, value).unwrap();
        transaction.commit_with(CommitOptions::default().with_time(0));
        self.say(document);
    }

    pub fn connect(&mut self, session: SessionId) {
        self.disconnect();
        self.session = Some(session);
        self.join();
    }

    pub fn join(&mut self) {
        self.ready = false;
        let storage_id = self.keeps_states.then_some("5f0c5b0e-0000-4000-8000-000000000000");
        let metadata = PeerMetadata { storage_id, is_ephemeral: !self.keeps_states };
        let versions = Some(vec!["1"]);
        self.out.push_back(Message::Join { sender: &self.name, metadata, versions }.encode());
    }

    pub fn disconnect(&mut self) {
        (self.session, self.ready) = (None, false);
        self.out.clear();
    }

    /// Begins to synchronise a document, with the stored sync state if there is one.
    pub fn begin(&mut self, document: DocumentId) {
        let copy = self.copies.get_mut(&document).expect("it is open");
        let kept = copy.kept.as_ref().filter(|_| self.keeps_states);
        copy.state = kept.map_or_else(State::new, |kept| State::decode(kept).unwrap());
        copy.state.read_only = copy.reads_only;
        self.say(document);
    }

    /// Drops the sync state with the relay.
    pub fn forget(&mut self, document: &DocumentId) {
        self.copies.get_mut(document).expect("it is open").kept = None;
    }

    pub fn say(&mut self, document: DocumentId) {
        if !self.ready {
            return;
        }
        let copy = self.copies.get_mut(&document).expect("it is open");
        let Some(message) = copy.automerge.generate_sync_message(&mut copy.state) else { return };
        let asks = message.heads.is_empty() && copy.state.their_heads.is_none();
        self.traffic.sent += 1;
        self.traffic.sent_chunks += message.changes.len();
        self.send(document, asks, &message.encode());
    }

    pub fn send(&mut self, document: DocumentId, asks: bool, data: &[u8]) {
        let name = name_of(&document);
        let sync = Sync { document: &name, sender: &self.name, target: "relay", data };
        let message = if asks { Message::Request(sync) } else { Message::Sync(sync) };
        self.out.push_back(message.encode());
    }

    pub fn receive(&mut self, bytes: &[u8]) {
        match Message::decode(bytes).unwrap() {
            Message::Peer { target, version, metadata, .. } => {
                assert_eq!((target, version), (self.name.as_str(), "1"));
                assert!(metadata.storage_id.is_some() && !metadata.is_ephemeral);
                self.ready = true;
                let open: Vec<DocumentId> = self.copies.keys().copied().collect();
                open.into_iter().for_each(|document| self.begin(document));
            }
            Message::Sync(sync) => {
                assert_eq!((sync.sender, sync.target), ("relay", self.name.as_str()));
                self.receive_sync(sync.document.parse().unwrap(), sync.data);
            }
            Message::Unavailable { document, .. } => match document.parse() {
                Ok(document) => drop(self.unavailable.insert(document)),
                Err(error) => assert!(self.may_fail, "{error}"),
            },
            Message::Ephemeral(_) | Message::RemoteHeads { .. } => {}
            other => panic!("a client does not expect {other:?}"),
        }
    }

    fn receive_sync(&mut self, document: DocumentId, data: &[u8]) {
        let message = sync::Message::decode(data).unwrap();
        if !self.copies.contains_key(&document) {
            assert!(self.may_fail, "{document} was never requested");
            return;
        }
        self.traffic.received += 1;
        self.traffic.received_chunks += message.changes.len();
        self.traffic.received_bytes += data.len();
        let copy = self.copies.get_mut(&document).expect("it is open");
        // automerge-repo would wait for ever for a document that it requested.
        assert!(!message.heads.is_empty() || !copy.heads().is_empty(), "empty heads to a request");
        self.unavailable.remove(&document);
        if let Err(error) = copy.automerge.receive_sync_message(&mut copy.state, message) {
            // automerge-repo only logs this as well.
            assert!(self.may_fail, "{error}");
            return;
        }
        copy.kept = Some(copy.state.encode());
        self.say(document);
    }
}
