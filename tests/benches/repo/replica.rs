//! A client with a real automerge document, for rows where the client's cost does not matter.

use std::time::Instant;

use automerge::sync::{Message, State, SyncDoc};
use automerge::{AutoCommit, ChangeHash};

use super::link::Link;
use super::wire::{self, Said};

/// A document at a client, and the client's sync state with its server.
pub struct Replica {
    pub document: String,
    pub doc: AutoCommit,
    state: State,
    /// When the last message arrived.
    pub heard: Option<Instant>,
}

impl Replica {
    /// A client that connects to its server for the first time.
    pub fn new(document: &str, doc: AutoCommit) -> Self {
        Self { document: document.to_owned(), doc, state: State::new(), heard: None }
    }

    /// A client without the document.
    pub fn empty(document: &str) -> Self {
        Self::new(document, AutoCommit::new())
    }

    /// A client that kept its sync state from its last connection.
    pub fn returning(document: &str, doc: AutoCommit, shared: Vec<ChangeHash>) -> Self {
        let mut replica = Self::new(document, doc);
        replica.state.shared_heads = shared;
        replica.reconnect();
        replica
    }

    /// Starts a new connection; keeps the part of the sync state that automerge-repo stores.
    pub fn reconnect(&mut self) {
        self.state = State::decode(&self.state.encode()).unwrap();
    }

    /// The next message to send, and its type.
    pub fn generate(&mut self) -> Option<(&'static str, Vec<u8>)> {
        let kind = if self.doc.get_heads().is_empty() { "request" } else { "sync" };
        let message = self.doc.sync().generate_sync_message(&mut self.state)?;
        Some((kind, message.encode()))
    }

    /// Processes a sync message.
    pub fn receive(&mut self, data: &[u8]) -> Result<(), String> {
        self.heard = Some(Instant::now());
        let message = Message::decode(data).map_err(|error| error.to_string())?;
        let received = self.doc.sync().receive_sync_message(&mut self.state, message);
        received.map_err(|error| error.to_string())
    }

    /// Whether the server reported exactly this client's heads.
    pub fn is_acknowledged(&mut self) -> bool {
        let heads = self.doc.get_heads();
        !heads.is_empty() && self.state.their_heads.as_ref() == Some(&heads)
    }

    /// Exchanges messages with the server until a condition holds.
    pub async fn sync(
        &mut self,
        link: &mut Link,
        mut reached: impl FnMut(&mut Self) -> bool,
    ) -> Result<(), String> {
        loop {
            if let Some((kind, data)) = self.generate() {
                let message = link.sync(kind, &self.document, &data);
                link.send(message).await?;
            }
            if reached(self) {
                return Ok(());
            }
            let bytes = link.next().await?;
            match wire::decode(&bytes) {
                Said::Sync { document, data } if document == self.document => self.receive(data)?,
                Said::Unavailable(document) if document == self.document => {
                    return Err("the document is unavailable".to_owned());
                }
                Said::Error(text) => return Err(text.to_owned()),
                _ => {}
            }
        }
    }
}

/// Uploads a document to a server in a separate session.
pub async fn upload(port: u16, document: &str, doc: &AutoCommit) -> Result<(), String> {
    let mut link = Link::join(port, "uploader", None).await?;
    let mut replica = Replica::new(document, doc.clone());
    replica.sync(&mut link, Replica::is_acknowledged).await?;
    link.close().await;
    Ok(())
}

/// Fetches a document as a new client, and checks its heads.
pub async fn check(port: u16, document: &str, heads: &[ChangeHash]) -> Result<(), String> {
    let mut link = Link::join(port, "checker", None).await?;
    let mut replica = Replica::empty(document);
    replica.sync(&mut link, |replica| replica.doc.get_heads() == heads).await?;
    link.close().await;
    Ok(())
}
