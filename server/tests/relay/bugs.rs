//! Bugs in the relay's own code: it stops with an error, and the store stays whole.

use std::sync::atomic::Ordering;

use landfall_protocol::Code;
use landfall_protocol::frame::Frame;
use landfall_relay::{Essential, ServeError};

use crate::double::Double;
use crate::harness::{Author, Client, Relay};

#[tokio::test]
async fn a_panic_in_the_hub_ends_the_relay_and_releases_the_store() {
    let folder = tempfile::tempdir().unwrap();
    let (relay, store) = Double::serve(&folder, |_| {}).await;
    let mut client = Client::at_start(&relay).await;
    let mut document = Author::new(1);
    let changes = document.changes(2);
    let push = client.push(document.document, &changes[..1]).await;
    client.acked(push).await;
    store.reads_panic.store(true, Ordering::Relaxed);
    client.push(document.document, &changes[1..]).await;
    assert!(matches!(relay.ended().await, Err(ServeError::Ended(Essential::Hub))));
    let again = Relay::start(&folder).await;
    assert_eq!(Client::at_start(&again).await.entries(1).await.len(), 1);
    again.stop().await.unwrap();
}

#[tokio::test]
async fn an_unreadable_store_is_reported_and_retried() {
    let folder = tempfile::tempdir().unwrap();
    let (relay, store) = Double::serve(&folder, |_| {}).await;
    let mut client = Client::at_start(&relay).await;
    let mut document = Author::new(1);
    let changes = document.changes(2);
    let push = client.push(document.document, &changes).await;
    client.acked(push).await;
    store.cannot_read.store(true, Ordering::Relaxed);
    let push = client.push(document.document, &changes).await;
    assert_eq!(client.nacked(push).await.code, Code::STORAGE_FAILED);
    // A client that is behind the ring does not wait: its subscription ends with a reason.
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
