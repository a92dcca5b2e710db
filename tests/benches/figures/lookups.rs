//! The cost at the relay of reporting the state of documents that it and its client have: an
//! automerge-repo client requests this for each of its documents when it connects.

use std::collections::BTreeSet;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use landfall::automerge::sync::{Message as SyncMessage, MessageVersion};
use landfall::automerge::{ActorId, Change, ChangeHash};
use landfall_protocol::DocumentId;
use landfall_protocol::automerge_repo::message::{Message as Repo, PeerMetadata, Sync};
use landfall_tests::raw::change_of;
use tokio_tungstenite::tungstenite::{Message, WebSocket, client};

use super::measure::Samples;
use super::setup::Relay;

const DOCUMENTS: usize = 10_000;

/// Requests in flight at a time: one, and many.
const WINDOWS: [usize; 2] = [1, 256];

const NAME: &str = "figures";

struct Asking {
    socket: WebSocket<TcpStream>,
    server: String,
}

impl Asking {
    fn join(port: u16) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_nodelay(true).unwrap();
        let (mut socket, _) = client(format!("ws://127.0.0.1:{port}/"), stream).unwrap();
        let metadata = PeerMetadata { storage_id: None, is_ephemeral: true };
        let join = Repo::Join { sender: NAME, metadata, versions: Some(vec!["1"]) };
        socket.send(Message::Binary(join.encode().into())).unwrap();
        let Message::Binary(answer) = socket.read().unwrap() else { panic!("no answer") };
        let Repo::Peer { sender, .. } = Repo::decode(&answer).unwrap() else { panic!("no peer") };
        let server = sender.to_owned();
        Self { socket, server }
    }

    /// Waits for a document's heads.
    fn hear(&mut self) -> Vec<ChangeHash> {
        loop {
            let Message::Binary(bytes) = self.socket.read().unwrap() else { continue };
            if let Repo::Sync(sync) = Repo::decode(&bytes).unwrap() {
                return SyncMessage::decode(sync.data).unwrap().heads;
            }
        }
    }

    /// States which head it has of a document, and sends these changes.
    fn say(&mut self, document: DocumentId, head: ChangeHash, changes: Vec<Vec<u8>>) {
        let message = SyncMessage {
            heads: vec![head],
            need: Vec::new(),
            have: Vec::new(),
            changes: changes.into(),
            flags: None,
            version: MessageVersion::V1,
        };
        let document = document.to_string().trim_start_matches("automerge:").to_owned();
        let (data, target) = (message.encode(), self.server.clone());
        let sync = Sync { document: &document, sender: NAME, target: &target, data: &data };
        self.socket.send(Message::Binary(Repo::Sync(sync).encode().into())).unwrap();
    }
}

fn document(number: usize) -> DocumentId {
    let mut id = [7; 16];
    id[..8].copy_from_slice(&(number as u64).to_be_bytes());
    DocumentId::from_bytes(id)
}

pub fn look_ups() {
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start(&folder.path().join("relay"));
    let mut author = Asking::join(relay.port);
    let mut heads = Vec::with_capacity(DOCUMENTS);
    for from in (0..DOCUMENTS).step_by(100) {
        let mut untold = BTreeSet::new();
        for number in from..(from + 100).min(DOCUMENTS) {
            let change = change_of(ActorId::from((number as u64).to_be_bytes()), 1, "made");
            let head = Change::from_bytes(change.clone()).unwrap().hash();
            author.say(document(number), head, vec![change]);
            heads.push(head);
            untold.insert(head);
        }
        while !untold.is_empty() {
            author.hear().iter().for_each(|head| _ = untold.remove(head));
        }
    }
    drop(author);
    for window in WINDOWS {
        let mut client = Asking::join(relay.port);
        let name = format!("{window} requests for present documents at a time, each");
        let mut samples = Samples::new(name);
        let (used, began) = (relay.processor(), Instant::now());
        for from in (0..DOCUMENTS).step_by(window) {
            let range = from..(from + window).min(DOCUMENTS);
            let (count, began) = (range.len() as u32, Instant::now());
            range
                .clone()
                .for_each(|number| client.say(document(number), heads[number], Vec::new()));
            range.for_each(|_| assert_eq!(client.hear().len(), 1));
            samples.add(began.elapsed() / count);
        }
        let took = began.elapsed();
        samples.print();
        let each = |time: Duration| time.as_secs_f64() * 1e6 / DOCUMENTS as f64;
        println!("  relay's CPU {:.0} µs a request", each(relay.processor() - used));
        println!("  all of {DOCUMENTS}: {:.0} µs a request", each(took));
    }
}
