//! The main path: push, ack, fan-out.

use landfall_protocol::frame::{Frame, Frames, Push, encode_into, entry_flags};
use landfall_protocol::{Offset, limits};
use serde_bytes::ByteBuf;

use crate::harness::{Author, Client, Relay, SPACE};

#[tokio::test]
async fn a_push_is_acknowledged_and_reaches_the_others() {
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start(&folder).await;
    let mut author = Client::at_start(&relay).await;
    let mut reader = Client::at_start(&relay).await;
    let mut document = Author::new(1);
    let changes = document.changes(3);
    let push = author.push(document.document, &changes).await;
    let ack = author.acked(push).await;
    assert_eq!((ack.count, ack.through.offset), (3, Offset(3)));
    let entries = reader.entries(3).await;
    for (at, entry) in entries.iter().enumerate() {
        assert_eq!(entry.offset, Offset(at as u64 + 1));
        assert_eq!((entry.document, entry.flags), (document.document, 0));
        assert_eq!(entry.body.as_slice(), changes[at]);
        assert_eq!(entry.author.as_slice(), [7; 16]);
        assert_eq!(entry.dependencies.len(), usize::from(at > 0));
    }
    assert_eq!(entries[1].dependencies, [entries[0].id]);
    relay.stop().await.unwrap();
}

#[tokio::test]
async fn the_authors_own_entries_come_back_as_hashes() {
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start(&folder).await;
    let mut author = Client::at_start(&relay).await;
    let mut document = Author::new(1);
    let changes = document.changes(2);
    author.push(document.document, &changes).await;
    let own = author.entries(2).await;
    assert!(own.iter().all(|entry| entry.flags == entry_flags::ECHO && entry.body.is_empty()));
    // The same replica in another session receives them in full: it may have lost the answer.
    let again = Client::at_start(&relay).await.entries(2).await;
    assert!(again.iter().zip(&changes).all(|(entry, change)| entry.body.as_slice() == change));
    relay.stop().await.unwrap();
}

#[tokio::test]
async fn a_duplicate_is_acknowledged_and_not_stored_again() {
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start(&folder).await;
    let mut author = Client::at_start(&relay).await;
    let mut document = Author::new(1);
    let changes = document.changes(2);
    let first = author.push(document.document, &changes).await;
    author.acked(first).await;
    let mut other = Client::at_start(&relay).await;
    other.entries(2).await;
    let second = other.push(document.document, &changes).await;
    let ack = other.acked(second).await;
    assert_eq!((ack.count, ack.through.offset), (2, Offset(2)));
    assert_eq!(relay.metric("landfall_relay_entries_in_total").await, 2.0);
    relay.stop().await.unwrap();
}

#[tokio::test]
async fn an_invalid_change_is_rejected_and_those_before_it_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start(&folder).await;
    let mut author = Client::at_start(&relay).await;
    let mut document = Author::new(1);
    let changes = document.changes(3);
    let gap = author.push(document.document, &[changes[0].clone(), changes[2].clone()]).await;
    assert_eq!(author.acked(gap).await.count, 1);
    let nack = author.nacked(gap).await;
    assert_eq!(nack.code, landfall_protocol::Code::SEQUENCE_GAP);
    // Another document is not affected.
    let mut other = Author::new(2);
    let push = author.push(other.document, &other.changes(1)).await;
    assert_eq!(author.acked(push).await.count, 1);
    let rejects = relay.metric("landfall_relay_rejects_total{code=\"sequence-gap\"}").await;
    assert_eq!(rejects, 1.0);
    relay.stop().await.unwrap();
}

#[tokio::test]
async fn two_spaces_share_only_a_connection() {
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start(&folder).await;
    let mut client = Client::hello(&relay).await;
    client.subscribe(1, SPACE, None, None).await;
    client.subscribe(2, "other", None, None).await;
    let mut document = Author::new(1);
    let change = document.change();
    client.push(document.document, std::slice::from_ref(&change)).await;
    client.entries(1).await;
    let push = Push {
        id: 2,
        subscription: 2,
        document: document.document,
        changes: vec![ByteBuf::from(change)],
    };
    client.send(&Frame::Push(push)).await;
    let ack = client.acked(2).await;
    assert_eq!(ack.through.offset, Offset(1), "each space has its own offsets");
    let Frame::Entries(page) = client.frame().await else { panic!("no entries") };
    assert_eq!((page.subscription, page.up_to), (2, Offset(1)));
    relay.stop().await.unwrap();
}

#[tokio::test]
async fn many_pushes_in_one_message_are_answered_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start(&folder).await;
    let mut author = Client::at_start(&relay).await;
    let mut document = Author::new(1);
    // More than the permitted number in flight: the relay takes them as it can.
    let count = 4 * limits::PUSHES_IN_FLIGHT as u64;
    let mut message = Vec::new();
    for id in 1..=count {
        let changes = vec![ByteBuf::from(document.change())];
        let push = Push { id, subscription: 1, document: document.document, changes };
        encode_into(&Frame::Push(push), &mut message);
    }
    assert_eq!(Frames::new(&message).unwrap().count() as u64, count);
    author.send_bytes(message).await;
    for id in 1..=count {
        assert_eq!(author.acked(id).await.id, id);
    }
    relay.stop().await.unwrap();
}

#[tokio::test]
async fn an_unknown_space_is_an_empty_log_and_leaves_no_trace() {
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start(&folder).await;
    let mut client = Client::hello(&relay).await;
    let subscribed = client.subscribe(1, "never-written", None, None).await;
    assert_eq!((subscribed.epoch, subscribed.head, subscribed.resumed), (None, Offset(0), true));
    relay.until_metric("landfall_relay_spaces", |spaces| spaces == 1.0).await;
    drop(client);
    relay.until_metric("landfall_relay_spaces", |spaces| spaces == 0.0).await;
    relay.stop().await.unwrap();
}

#[tokio::test]
async fn unsubscribing_ends_the_feed_and_frees_its_number() {
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start(&folder).await;
    let mut reader = Client::at_start(&relay).await;
    reader.send(&Frame::Unsubscribe(1)).await;
    reader.subscribe(1, "other", None, None).await;
    let mut author = Client::at_start(&relay).await;
    let mut document = Author::new(1);
    let push = author.push(document.document, &document.changes(1)).await;
    author.acked(push).await;
    // A later request is answered, and nothing arrived in between.
    reader.send(&Frame::Ping(9)).await;
    assert_eq!(reader.frame().await, Frame::Pong(9));
    relay.stop().await.unwrap();
}
