//! The end of an essential thread, and a hub that does not advance: each is detected, and clients are
//! notified. The hub's panic is in `bugs`.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use landfall_protocol::Code;
use landfall_protocol::frame::{Filter, Frame};
use landfall_relay::store::{CompactionWindow, SqliteStore};
use landfall_relay::{CompactionOptions, Essential, ServeError, ServeOptions, serve_with_store};

use crate::double::Double;
use crate::harness::{Author, Client, Relay, SPACE, get_of, soon};

/// A relay whose compaction threads look continuously.
async fn hooked(folder: &tempfile::TempDir) -> (Relay, Arc<Double>) {
    Double::serve(folder, |options| options.compactions.every = Duration::from_millis(10)).await
}

/// Checks that the client was notified of the relay's end, and of the reason if that is the store.
async fn is_told(client: &mut Client) {
    let (frames, _) = client.until_end().await;
    let last_frame = frames.last();
    assert!(
        matches!(last_frame, Some(Frame::Error(error)) if error.code == Code::SHUTTING_DOWN
            || error.code == Code::STORAGE_FAILED && error.what.ends_with("the relay ends")),
        "{last_frame:?}"
    );
}

async fn ends_with(relay: Relay, what: Essential) {
    let ended = relay.ended().await;
    assert!(matches!(ended, Err(ServeError::Ended(ended)) if ended == what), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_the_store_s_writer_ends_the_relay_and_pushes_are_answered() {
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start(&folder).await;
    let mut client = Client::at_start(&relay).await;
    let mut author = Author::new(1);
    let changes = author.changes(2);
    let first = client.push(author.document, &changes[..1]).await;
    client.acked(first).await;
    relay.store.faults().panic_at_next_commit();
    for _ in 0..2 {
        // The push whose commit panicked, and a later one.
        let push = client.push(author.document, &changes[1..]).await;
        assert_eq!(client.nacked(push).await.code, Code::STORAGE_FAILED);
    }
    let (status, body) = relay.get("/readyz").await;
    assert!(status == 503 && body.contains("thread ended"), "{status} {body}");
    is_told(&mut client).await;
    ends_with(relay, Essential::Writer).await;
    let again = Relay::start(&folder).await;
    assert_eq!(Client::at_start(&again).await.entries(1).await.len(), 1);
    again.stop().await.unwrap();
}

#[tokio::test]
async fn the_end_of_the_compaction_thread_ends_the_relay() {
    let folder = tempfile::tempdir().unwrap();
    let (relay, store) = hooked(&folder).await;
    let mut client = Client::at_start(&relay).await;
    store.prune_panics.store(true, Ordering::Relaxed);
    is_told(&mut client).await;
    ends_with(relay, Essential::Compaction).await;
}

#[tokio::test]
async fn the_end_of_the_accept_loop_ends_the_relay() {
    let folder = tempfile::tempdir().unwrap();
    let store = Arc::new(SqliteStore::open(folder.path()).unwrap());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (panic, panics) = tokio::sync::oneshot::channel::<()>();
    // Polled by the accept loop itself.
    let shutdown = async { panics.await.expect("a bug, for a test") };
    let options = ServeOptions::new(folder.path());
    let serving = tokio::spawn(serve_with_store(listener, options, store, shutdown));
    let mut client = Client::connect_to(address).await;
    client.say_hello().await;
    drop(panic);
    is_told(&mut client).await;
    let ended = soon(serving).await.unwrap();
    assert!(matches!(ended, Err(ServeError::Ended(Essential::Accept))), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_that_does_not_advance_is_not_ready() {
    let folder = tempfile::tempdir().unwrap();
    let (relay, store) = hooked(&folder).await;
    let mut client = Client::hello(&relay).await;
    let (hold, release) = std::sync::mpsc::channel::<()>();
    let (tell, held) = tokio::sync::oneshot::channel();
    let holding = std::thread::spawn(move || {
        let _opening = store.opening.lock().unwrap();
        tell.send(()).unwrap();
        release.recv().unwrap();
    });
    held.await.unwrap();
    let (space, filter) = (SPACE.parse().unwrap(), Filter::Everything);
    let (subscription, cursor, acknowledged) = (1, None, None);
    let subscribe =
        landfall_protocol::frame::Subscribe { subscription, space, filter, cursor, acknowledged };
    client.send(&Frame::Subscribe(subscribe)).await;
    until_ready(&relay, 503, "the hub is stuck").await;
    hold.send(()).unwrap();
    holding.join().unwrap();
    assert!(matches!(client.frame().await, Frame::Subscribed(_)));
    until_ready(&relay, 200, "ready").await;
    relay.stop().await.unwrap();
}

async fn until_ready(relay: &Relay, status: u16, words: &str) {
    soon(async {
        loop {
            let (found, body) = get_of(relay.address, "/readyz").await;
            if found == status && body.contains(words) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

/// No file handles, no processes, no program: the error is not about the document.
#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn a_child_that_cannot_be_started_is_retried_and_blames_no_document() {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("worker");
    let worker = vec![program.clone().into(), landfall_relay::cli::COMPACT_WORKER.into()];
    let (window, every) = (CompactionWindow::NONE, Duration::from_millis(10));
    let relay = Relay::start_with(&folder, |options| {
        let default = CompactionOptions::default();
        options.compactions = CompactionOptions { worker: Some(worker), window, every, ..default };
    })
    .await;
    let mut client = Client::at_start(&relay).await;
    let mut author = Author::new(1);
    for _ in 0..3 {
        let push = client.push(author.document, &author.changes(100)).await;
        client.acked(push).await;
    }
    let compactions =
        |outcome: &str| format!("landfall_relay_compactions_total{{outcome=\"{outcome}\"}}");
    relay.until_metric(&compactions("postponed"), |count| count >= 1.0).await;
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_landfall-relay"), &program).unwrap();
    relay.until_metric(&compactions("compacted"), |count| count >= 1.0).await;
    assert_eq!(relay.metric(&compactions("failed")).await, 0.0);
    relay.stop().await.unwrap();
}
