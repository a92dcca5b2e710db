//! Lineage: the effect of a restart, a wiped folder and an old copy on cursors.

use landfall_protocol::Offset;
use landfall_protocol::frame::Mark;

use crate::harness::{Author, Client, Relay, SPACE, cursor};

#[tokio::test]
async fn a_restart_begins_a_new_epoch_at_its_first_append() {
    let folder = tempfile::tempdir().unwrap();
    let mut document = Author::new(1);
    let relay = Relay::start(&folder).await;
    let mut client = Client::connect(&relay).await;
    let upstream = client.say_hello().await.upstream;
    client.subscribe(1, SPACE, None, None).await;
    let push = client.push(document.document, &document.changes(3)).await;
    let first = client.acked(push).await.through.epoch;
    relay.stop().await.unwrap();

    let relay = Relay::start(&folder).await;
    let mut client = Client::connect(&relay).await;
    assert_eq!(client.say_hello().await.upstream, upstream, "the relay's identity is the same");
    let subscribed = client.subscribe(1, SPACE, cursor(first, 2), None).await;
    assert_eq!((subscribed.epoch, subscribed.head), (Some(first), Offset(3)));
    assert!(subscribed.resumed);
    assert_eq!(client.entries(1).await[0].offset, Offset(3));
    let push = client.push(document.document, &document.changes(1)).await;
    let through = client.acked(push).await.through;
    assert_ne!(through.epoch, first);
    assert_eq!(through.offset, Offset(4));
    relay.stop().await.unwrap();

    // Both epochs are known, each up to its own end.
    let relay = Relay::start(&folder).await;
    let mut client = Client::hello(&relay).await;
    assert!(client.subscribe(1, SPACE, cursor(first, 3), None).await.resumed);
    let entries = client.entries(1).await;
    assert_eq!(entries[0].offset, Offset(4));
    assert!(
        !client.subscribe(2, SPACE, cursor(first, 4), None).await.resumed,
        "the offset is not one of this epoch"
    );
    relay.stop().await.unwrap();
}

#[tokio::test]
async fn an_idle_space_continues_in_its_epoch() {
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start(&folder).await;
    let mut document = Author::new(1);
    let mut client = Client::at_start(&relay).await;
    let push = client.push(document.document, &document.changes(1)).await;
    let first = client.acked(push).await.through;
    drop(client);
    relay.until_metric("landfall_relay_spaces", |spaces| spaces == 0.0).await;
    let mut client = Client::at_start(&relay).await;
    client.entries(1).await;
    let push = client.push(document.document, &document.changes(1)).await;
    let second = client.acked(push).await.through;
    assert_eq!(second, Mark { epoch: first.epoch, offset: Offset(2) });
    relay.stop().await.unwrap();
}

#[tokio::test]
async fn cursors_of_another_log_start_over() {
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start(&folder).await;
    let mut document = Author::new(1);
    let mut client = Client::at_start(&relay).await;
    let push = client.push(document.document, &document.changes(2)).await;
    let through = client.acked(push).await.through;
    let (epoch, mut client) = (through.epoch, Client::hello(&relay).await);
    assert!(client.subscribe(1, SPACE, cursor(epoch, 2), Some(through)).await.resumed);
    let past_the_end = client.subscribe(2, SPACE, cursor(epoch, 3), None).await;
    assert!(!past_the_end.resumed);
    assert_eq!(client.entries(2).await.len(), 2, "from the start");
    let lost = Mark { epoch, offset: Offset(5) };
    assert!(!client.subscribe(3, SPACE, cursor(epoch, 1), Some(lost)).await.resumed);
    client.entries(2).await;
    let foreign = landfall_protocol::Epoch::from_bytes([9; 16]);
    assert!(!client.subscribe(4, SPACE, cursor(foreign, 1), None).await.resumed);
    relay.stop().await.unwrap();
}

#[tokio::test]
async fn a_wiped_folder_is_another_upstream_with_an_empty_log() {
    let (folder, wiped) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let relay = Relay::start(&folder).await;
    let mut document = Author::new(1);
    let mut client = Client::connect(&relay).await;
    let upstream = client.say_hello().await.upstream;
    client.subscribe(1, SPACE, None, None).await;
    let push = client.push(document.document, &document.changes(2)).await;
    let through = client.acked(push).await.through;
    relay.stop().await.unwrap();

    let relay = Relay::start(&wiped).await;
    let mut client = Client::connect(&relay).await;
    assert_ne!(client.say_hello().await.upstream, upstream);
    let subscribed = client.subscribe(1, SPACE, cursor(through.epoch, 2), Some(through)).await;
    assert_eq!((subscribed.resumed, subscribed.epoch, subscribed.head), (false, None, Offset(0)));
    relay.stop().await.unwrap();
}
