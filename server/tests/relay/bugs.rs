//! What happens when the relay's own code fails: it stops loudly, and the store stays sound.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use landfall_protocol::admission::History;
use landfall_protocol::frame::{Filter, Frame, Partial};
use landfall_protocol::lineage::Lineage;
use landfall_protocol::ring::Chunk;
use landfall_protocol::space::{Commit, StoreFailure};
use landfall_protocol::{Code, Offset, SpaceName, Upstream};
use landfall_relay::store::{Done, LogStore, SqliteStore, StoreError};
use landfall_relay::{Essential, ServeError};

use crate::harness::{Author, Client, Relay};

/// A store that fails on demand in ways in which SQLite does not.
struct Faulty {
    store: Arc<SqliteStore>,
    panics: AtomicBool,
    cannot_read: AtomicBool,
}

impl Faulty {
    fn check(&self) -> Result<(), StoreError> {
        assert!(!self.panics.load(Ordering::Relaxed), "a bug, for a test");
        if !self.cannot_read.load(Ordering::Relaxed) {
            return Ok(());
        }
        let source = Box::new(std::io::Error::other("a bad sector, for a test"));
        Err(StoreError { what: "read", failure: StoreFailure::Failed, needs_index: None, source })
    }
}

impl LogStore for Faulty {
    fn upstream(&self) -> Upstream {
        self.store.upstream()
    }

    fn open_space(&self, space: &SpaceName) -> Result<Lineage, StoreError> {
        self.check()?;
        self.store.open_space(space)
    }

    fn with_history(
        &self,
        space: &SpaceName,
        ask: &mut dyn FnMut(&dyn History<Error = StoreError>),
    ) -> Result<(), StoreError> {
        self.check()?;
        self.store.with_history(space, ask)
    }

    fn next(
        &self,
        space: &SpaceName,
        after: Offset,
        filter: &Filter,
        partial: Option<Partial>,
    ) -> Result<Option<Chunk>, StoreError> {
        self.check()?;
        self.store.next(space, after, filter, partial)
    }

    fn beneath(&self) -> Option<&dyn LogStore> {
        Some(&*self.store)
    }

    fn append(&self, commit: Arc<Commit>, done: Done) {
        self.store.append(commit, done);
    }

    fn probe(&self, done: Done) {
        self.store.probe(done);
    }

    fn close(&self) -> Result<(), StoreError> {
        self.store.close()
    }
}

async fn faulty(folder: &tempfile::TempDir) -> (Relay, Arc<Faulty>) {
    let store = Arc::new(SqliteStore::open(folder.path()).unwrap());
    let (panics, cannot_read) = (AtomicBool::new(false), AtomicBool::new(false));
    let faulty = Arc::new(Faulty { store: Arc::clone(&store), panics, cannot_read });
    let over: Arc<dyn LogStore> = faulty.clone();
    (Relay::start_over(folder, store, over, |_| {}).await, faulty)
}

#[tokio::test]
async fn a_panic_in_the_hub_ends_the_relay_and_lets_the_store_go() {
    let folder = tempfile::tempdir().unwrap();
    let (relay, store) = faulty(&folder).await;
    let mut client = Client::at_start(&relay).await;
    let mut document = Author::new(1);
    let changes = document.changes(2);
    let push = client.push(document.document, &changes[..1]).await;
    client.acked(push).await;
    store.panics.store(true, Ordering::Relaxed);
    client.push(document.document, &changes[1..]).await;
    assert!(matches!(relay.ended().await, Err(ServeError::Ended(Essential::Hub))));
    let again = Relay::start(&folder).await;
    assert_eq!(Client::at_start(&again).await.entries(1).await.len(), 1);
    again.stop().await.unwrap();
}

#[tokio::test]
async fn a_store_that_cannot_be_read_is_told_and_tried_again() {
    let folder = tempfile::tempdir().unwrap();
    let (relay, store) = faulty(&folder).await;
    let mut client = Client::at_start(&relay).await;
    let mut document = Author::new(1);
    let changes = document.changes(2);
    let push = client.push(document.document, &changes).await;
    client.acked(push).await;
    store.cannot_read.store(true, Ordering::Relaxed);
    let push = client.push(document.document, &changes).await;
    assert_eq!(client.nacked(push).await.code, Code::STORAGE_FAILED);
    // One that is behind the ring is not left waiting: its subscription ends with a reason.
    let mut behind = Client::hello(&relay).await;
    drop(client);
    relay.until_metric("landfall_relay_spaces", |spaces| spaces == 0.0).await;
    let (space, filter) = ("notes".parse().unwrap(), landfall_protocol::frame::Filter::Everything);
    let (subscription, cursor, acknowledged) = (1, None, None);
    let subscribe =
        landfall_protocol::frame::Subscribe { subscription, space, filter, cursor, acknowledged };
    behind.send(&Frame::Subscribe(subscribe.clone())).await;
    let Frame::Unsubscribed(ended) = behind.frame().await else { panic!("no reason") };
    assert_eq!((ended.subscription, ended.code), (1, Code::STORAGE_FAILED));
    store.cannot_read.store(false, Ordering::Relaxed);
    behind.send(&Frame::Subscribe(subscribe)).await;
    assert!(matches!(behind.frame().await, Frame::Subscribed(_)));
    assert_eq!(behind.entries(2).await.len(), 2);
    relay.stop().await.unwrap();
}
