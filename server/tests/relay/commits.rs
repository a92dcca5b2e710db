//! Nothing is sent before it is on disk, and the effects of a failed commit.

use std::time::Duration;

use landfall_protocol::{Code, NackClass, Offset};
use landfall_relay::ServeError;
use landfall_relay::store::FailureClass;

use crate::harness::{Author, Client, PATIENCE, Relay, soon};

/// After a failed fsync no later write can be known to be on disk.
#[tokio::test]
async fn a_failed_fsync_is_reported_and_ends_the_relay() {
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start(&folder).await;
    let mut client = Client::at_start(&relay).await;
    let mut document = Author::new(1);
    let change = document.changes(1);
    relay.store.faults().fail_next_commits(1, FailureClass::FsyncFailed);
    for _ in 0..2 {
        let push = client.push(document.document, &change).await;
        assert_eq!(client.nacked(push).await.code, Code::STORAGE_FAILED);
    }
    let (status, body) = relay.get("/readyz").await;
    assert_eq!(status, 503);
    assert!(body.contains("an fsync failed"), "{body}");
    assert!(matches!(relay.ended().await, Err(ServeError::Fsync(_))));
}

#[tokio::test]
async fn neither_acks_nor_entries_are_sent_before_the_commit() {
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start(&folder).await;
    let mut author = Client::at_start(&relay).await;
    let mut reader = Client::at_start(&relay).await;
    let mut document = Author::new(1);
    let hold = relay.store.faults().hold_commits();
    let push = author.push(document.document, &document.changes(2)).await;
    let hold = soon(tokio::task::spawn_blocking(move || {
        assert!(hold.wait_reached(PATIENCE));
        hold
    }));
    let hold = hold.await.unwrap();
    // A push that arrives during the commit waits for the next one.
    let second = author.push(document.document, &document.changes(1)).await;
    assert!(author.is_quiet().await && reader.is_quiet().await);
    let mut late = Client::at_start(&relay).await;
    assert!(late.is_quiet().await, "a new client does not receive it either");
    drop(hold);
    assert_eq!(author.acked(push).await.through.offset, Offset(2));
    assert_eq!(author.acked(second).await.through.offset, Offset(3));
    assert_eq!(reader.entries(3).await.len(), 3);
    assert_eq!(late.entries(3).await.len(), 3);
    relay.stop().await.unwrap();
}

#[tokio::test]
async fn a_failed_commit_is_a_typed_nack_and_reaches_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start(&folder).await;
    let mut author = Client::at_start(&relay).await;
    let mut reader = Client::at_start(&relay).await;
    let mut document = Author::new(1);
    let changes = document.changes(2);
    // All commits, since the relay may have one of its own in flight.
    relay.store.faults().fail_next_commits(u32::MAX, FailureClass::Io);
    let push = author.push(document.document, &changes).await;
    let nack = author.nacked(push).await;
    relay.store.faults().fail_next_commits(0, FailureClass::Io);
    assert_eq!((nack.code, nack.class), (Code::STORAGE_FAILED, NackClass::RETRY_AFTER));
    assert!(nack.retry_after_ms > 0);
    let (status, body) = relay.get("/readyz").await;
    assert_eq!(status, 503);
    assert!(body.contains("store failed"), "{body}");
    assert!(reader.is_quiet().await);
    // Pushed again, it is accepted at fresh offsets, and the relay is healthy again.
    let again = author.push(document.document, &changes).await;
    let ack = author.acked(again).await;
    assert_eq!((ack.count, ack.through.offset), (2, Offset(4)));
    assert_eq!(relay.get("/readyz").await.0, 200);
    let entries = reader.entries(2).await;
    assert_eq!(entries[0].offset, Offset(3));
    relay.stop().await.unwrap();
}

#[tokio::test]
async fn a_full_disk_rejects_pushes_serves_reads_and_recovers() {
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start(&folder).await;
    let mut author = Client::at_start(&relay).await;
    let mut document = Author::new(1);
    let first = author.push(document.document, &document.changes(1)).await;
    author.acked(first).await;
    relay.store.faults().limit_pages(Some(1)).unwrap();
    let large = document.large_changes(1, 200_000);
    let push = author.push(document.document, &large).await;
    let nack = author.nacked(push).await;
    assert_eq!((nack.code, nack.class), (Code::STORAGE_FULL, NackClass::RETRY_AFTER));
    let (status, body) = relay.get("/readyz").await;
    assert_eq!(status, 503);
    assert!(body.contains("full"), "{body}");
    assert_eq!(Client::at_start(&relay).await.entries(1).await.len(), 1, "reads go on");
    relay.store.faults().limit_pages(None).unwrap();
    // Without a push, a probe detects the free space.
    soon(async {
        while relay.get("/readyz").await.0 != 200 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let again = author.push(document.document, &large).await;
    assert_eq!(author.acked(again).await.count, 1);
    relay.stop().await.unwrap();
}

#[tokio::test]
async fn a_session_that_left_loses_only_its_answer() {
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start(&folder).await;
    let mut author = Client::at_start(&relay).await;
    let mut reader = Client::at_start(&relay).await;
    let mut document = Author::new(1);
    let changes = document.changes(2);
    let hold = relay.store.faults().hold_commits();
    author.push(document.document, &changes).await;
    let hold = soon(tokio::task::spawn_blocking(move || {
        assert!(hold.wait_reached(PATIENCE));
        hold
    }));
    let hold = hold.await.unwrap();
    drop(author);
    relay.until_metric("landfall_relay_sessions", |sessions| sessions == 1.0).await;
    drop(hold);
    assert_eq!(reader.entries(2).await.len(), 2);
    let mut back = Client::at_start(&relay).await;
    let push = back.push(document.document, &changes).await;
    assert_eq!(back.acked(push).await.through.offset, Offset(2));
    relay.until_metric("landfall_relay_in_flight_bytes", |bytes| bytes == 0.0).await;
    relay.stop().await.unwrap();
}

#[tokio::test]
async fn a_graceful_stop_answers_accepted_pushes_and_states_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let mut relay = Relay::start(&folder).await;
    let mut author = Client::at_start(&relay).await;
    let mut document = Author::new(1);
    let hold = relay.store.faults().hold_commits();
    let push = author.push(document.document, &document.changes(2)).await;
    let hold = soon(tokio::task::spawn_blocking(move || {
        assert!(hold.wait_reached(PATIENCE));
        hold
    }));
    let hold = hold.await.unwrap();
    relay.ask_to_stop();
    assert!(author.is_quiet().await, "it waits for the commit");
    drop(hold);
    assert_eq!(author.acked(push).await.count, 2);
    let (frames, close) = author.until_end().await;
    let close_code = frames.iter().find_map(|frame| match frame {
        landfall_protocol::frame::Frame::Error(error) => Some(error.code),
        _ => None,
    });
    assert_eq!(close_code, Some(Code::SHUTTING_DOWN));
    assert_eq!(close, Some(4_000 + Code::SHUTTING_DOWN.0));
    relay.ended().await.unwrap();
    let again = Relay::start(&folder).await;
    assert_eq!(Client::at_start(&again).await.entries(2).await.len(), 2);
    again.stop().await.unwrap();
}
