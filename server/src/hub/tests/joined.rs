//! A session that has joined without a subscription.

use landfall_protocol::relay::{Author, PushedEntry};
use tokio::sync::mpsc;

use super::super::*;
use crate::CompactionOptions;
use crate::fan_out::{Delivery, FanOut, Mailbox};
use crate::store::SqliteStore;

const SESSION: SessionId = SessionId(1);
const DOCUMENT: DocumentId = DocumentId::from_bytes([1; 16]);

fn parts(store: Arc<dyn LogStore>, fan_out: &Arc<FanOut>) -> HubParts {
    let metrics = Arc::new(Metrics::new());
    let memory = crate::memory::Memory::new(0);
    let options = CompactionOptions::default();
    let compactor = Compactor::start(Arc::clone(&store), Arc::clone(&metrics), options, memory);
    HubParts {
        repairs: Arc::default(),
        compactor: compactor.unwrap().0,
        fan_out: Arc::clone(fan_out),
        runtime: tokio::runtime::Handle::current(),
        store,
        health: Arc::default(),
        metrics,
        ring_bytes: 1_000,
        rings: crate::hub::Rings::new(crate::memory::Memory::new(0)),
        epoch: Epoch::from_bytes([7; 16]),
    }
}

/// A document's deletion, which needs no changes.
fn deletion(id: u64) -> Pushed {
    Pushed::Deletion(PushedEntry {
        session: SESSION,
        id,
        document: DOCUMENT,
        author: Author::of_all(vec![1]),
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_pushs_entries_are_published_before_its_answer() {
    let compactor = tempfile::tempdir().unwrap();
    let store: Arc<dyn LogStore> = Arc::new(SqliteStore::open(compactor.path()).unwrap());
    let fan_out = Arc::new(FanOut::new(Arc::new(Metrics::new())));
    let parts = parts(Arc::clone(&store), &fan_out);
    let compactions = Arc::clone(&parts.compactor);
    let (hub, end) = Hub::start(parts).unwrap();
    let space: SpaceName = "notes".parse().unwrap();
    let memory = crate::memory::Memory::new(0);
    let mailbox = Mailbox::new(SESSION, memory.account(crate::memory::ShareKey::Session(1)));
    fan_out.subscribe(&space, DOCUMENT, &mailbox);
    let (events, mut answers) = mpsc::channel(4);
    let channel = HubChannel { events, overflow: Arc::default(), grown: Arc::default() };
    assert!(hub.join(super::grant(1).key(), SESSION, space.clone(), channel).await);
    let bytes = super::grant(1);
    assert!(hub.push(space.clone(), deletion(1), bytes).await);
    let Some(Event::Answered(answer)) = answers.recv().await else { panic!("no answer") };
    assert_eq!((answer.push, answer.count), (1, 1));
    let (deliveries, behind) = mailbox.take();
    let [Delivery::Entry(commit, 0)] = &deliveries[..] else { panic!("{deliveries:?}") };
    assert!(!behind);
    assert_eq!((commit.entries[0].entry.document, &commit.space), (DOCUMENT, &space));
    // After it has left it gets no answer; the mailbox is dropped.
    hub.leave(SESSION);
    let bytes = super::grant(1);
    assert!(hub.push(space, deletion(2), bytes).await);
    assert!(answers.recv().await.is_none());
    hub.shutdown();
    assert_eq!(end.await.unwrap(), HubEnd::Drained);
    compactions.close();
}

/// A compaction commits just when the relay stops: the hub has ended by then.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn compaction_fails_at_once_when_the_hub_has_ended() {
    let compactor = tempfile::tempdir().unwrap();
    let store: Arc<dyn LogStore> = Arc::new(SqliteStore::open(compactor.path()).unwrap());
    let fan_out = Arc::new(FanOut::new(Arc::new(Metrics::new())));
    let parts = parts(store, &fan_out);
    let compactions = Arc::clone(&parts.compactor);
    let (hub, end) = Hub::start(parts).unwrap();
    hub.shutdown();
    assert_eq!(end.await.unwrap(), HubEnd::Drained);
    let (began, space) = (std::time::Instant::now(), "notes".parse().unwrap());
    let command =
        tokio::task::spawn_blocking(move || hub.compaction(space, Offset(1))).await.unwrap();
    let took = began.elapsed();
    compactions.close();
    assert!(!command);
    assert!(took < limits::HUB_ANSWER / 2, "the compaction thread was blocked for {took:?}");
}
