//! A client with the document: automerge itself, where it need not be cheap.

use std::time::Instant;

use automerge::sync::{Message, State, SyncDoc};
use automerge::{AutoCommit, ChangeHash};

use super::link::Link;
use super::wire::{self, Said};

/// A document at a client, and what the client knows of its server.
pub struct Replica {
    pub document: String,
    pub doc: AutoCommit,
    state: State,
    /// When the last message came.
    pub heard: Option<Instant>,
}

impl Replica {
    /// A client that meets its server for the first time.
    pub fn new(document: &str, doc: AutoCommit) -> Self {
        Self { document: document.to_owned(), doc, state: State::new(), heard: None }
    }

    /// A client without the document.
    pub fn empty(document: &str) -> Self {
        Self::new(document, AutoCommit::new())
    }

    /// A client that kept what it knew of its server when it was last connected.
    pub fn returning(document: &str, doc: AutoCommit, shared: Vec<ChangeHash>) -> Self {
        let mut replica = Self::new(document, doc);
        replica.state.shared_heads = shared;
        replica.reconnect();
        replica
    }

    /// The connection is a new one; what automerge-repo keeps in its storage stays.
    pub fn reconnect(&mut self) {
        self.state = State::decode(&self.state.encode()).unwrap();
    }

    /// What is to be said now, and as which kind of message.
    pub fn generate(&mut self) -> Option<(&'static str, Vec<u8>)> {
        let kind = if self.doc.get_heads().is_empty() { "request" } else { "sync" };
        let message = self.doc.sync().generate_sync_message(&mut self.state)?;
        Some((kind, message.encode()))
    }

    /// Takes a sync message in.
    pub fn receive(&mut self, data: &[u8]) -> Result<(), String> {
        self.heard = Some(Instant::now());
        let message = Message::decode(data).map_err(|error| error.to_string())?;
        let received = self.doc.sync().receive_sync_message(&mut self.state, message);
        received.map_err(|error| error.to_string())
    }

    /// Whether the server said that it has exactly what is here.
    pub fn is_acknowledged(&mut self) -> bool {
        let heads = self.doc.get_heads();
        !heads.is_empty() && self.state.their_heads.as_ref() == Some(&heads)
    }

    /// Speaks with the server until something is reached.
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

/// Brings a document to a server in a session of its own.
pub async fn upload(port: u16, document: &str, doc: &AutoCommit) -> Result<(), String> {
    let mut link = Link::join(port, "uploader", None).await?;
    let mut replica = Replica::new(document, doc.clone());
    replica.sync(&mut link, Replica::is_acknowledged).await?;
    link.close().await;
    Ok(())
}

/// Fetches a document as a client that has nothing of it, and says whether it is as expected.
pub async fn check(port: u16, document: &str, heads: &[ChangeHash]) -> Result<(), String> {
    let mut link = Link::join(port, "checker", None).await?;
    let mut replica = Replica::empty(document);
    replica.sync(&mut link, |replica| replica.doc.get_heads() == heads).await?;
    link.close().await;
    Ok(())
}
