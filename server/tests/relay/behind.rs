//! Clients that read slowly, do not read, or vanish; and those alongside them.

use std::time::Duration;

use landfall_protocol::Patience;
use landfall_protocol::frame::Frame;
use landfall_protocol::limits;

use crate::harness::{Author, Client, Relay, SPACE};

/// More than the ring and the sockets' buffers hold together.
const COUNT: usize = 240;
const BYTES: usize = 100_000;

/// Fills the space with more than fits in buffers.
async fn fill(author: &mut Client) -> Vec<Vec<u8>> {
    let mut document = Author::new(1);
    let changes = document.large_changes(COUNT, BYTES);
    for part in changes.chunks(10) {
        let push = author.push(document.document, part).await;
        author.acked(push).await;
    }
    changes
}

#[tokio::test]
async fn a_client_far_behind_catches_up_and_continues_live() {
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start(&folder).await;
    let mut author = Client::at_start(&relay).await;
    let mut reader = Client::at_start(&relay).await;
    let changes = fill(&mut author).await;
    const { assert!(COUNT * BYTES > 4 * limits::RING_BYTES) };
    let entries = reader.entries(COUNT).await;
    assert!(entries.iter().zip(&changes).all(|(entry, change)| entry.body.as_slice() == change));
    let mut other = Author::new(2);
    let push = author.push(other.document, &other.changes(1)).await;
    author.acked(push).await;
    assert_eq!(reader.entries(1).await[0].document, other.document);
    relay.stop().await.unwrap();
}

#[tokio::test]
async fn a_small_ring_causes_no_gap() {
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start_with(&folder, |options| options.ring_bytes = 1_000).await;
    let mut author = Client::at_start(&relay).await;
    let mut reader = Client::at_start(&relay).await;
    let mut document = Author::new(1);
    let changes = document.changes(400);
    let reading = tokio::spawn(async move { reader.entries(400).await });
    for part in changes.chunks(7) {
        let push = author.push(document.document, part).await;
        author.acked(push).await;
    }
    let entries = reading.await.unwrap();
    assert!(entries.iter().zip(&changes).all(|(entry, change)| entry.body.as_slice() == change));
    relay.stop().await.unwrap();
}

#[tokio::test]
async fn a_slow_reader_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let stall = Duration::from_millis(600);
    let relay = Relay::start_with(&folder, |options| options.stall = stall).await;
    let mut author = Client::at_start(&relay).await;
    let mut reader = Client::at_start(&relay).await;
    let reading = tokio::spawn(async move {
        let mut seen = 0;
        while seen < COUNT {
            // Slower than the relay, but never as slow as the limit.
            tokio::time::sleep(Duration::from_millis(10)).await;
            if let Frame::Entries(page) = reader.frame().await {
                seen += page.entries.len();
            }
        }
        seen
    });
    fill(&mut author).await;
    assert_eq!(reading.await.unwrap(), COUNT);
    relay.stop().await.unwrap();
}

#[tokio::test]
async fn a_client_that_does_not_read_is_dropped_and_delays_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let stall = Duration::from_millis(300);
    let relay = Relay::start_with(&folder, |options| options.stall = stall).await;
    let mut author = Client::at_start(&relay).await;
    let stuck = Client::at_start(&relay).await;
    fill(&mut author).await;
    let dropped = "landfall_relay_sessions_ended_total{code=\"not-reading\"}";
    relay.until_metric(dropped, |count| count == 1.0).await;
    relay.until_metric("landfall_relay_sessions", |sessions| sessions == 1.0).await;
    author.send(&Frame::Ping(1)).await;
    while author.frame().await != Frame::Pong(1) {}
    drop(stuck);
    relay.stop().await.unwrap();
}

#[tokio::test]
async fn a_vanished_client_is_dropped() {
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start_with(&folder, |options| {
        let (ping_after, drop_after) = (Duration::from_millis(50), Duration::from_millis(150));
        options.patience = Patience { ping_after, drop_after, ..Patience::default() };
    })
    .await;
    // It answers no ping: to the relay, that is a pulled cable.
    let vanished = Client::at_start(&relay).await;
    relay.until_metric("landfall_relay_spaces", |spaces| spaces == 1.0).await;
    let silent = "landfall_relay_sessions_ended_total{code=\"silent\"}";
    relay.until_metric(silent, |count| count == 1.0).await;
    relay.until_metric("landfall_relay_sessions", |sessions| sessions == 0.0).await;
    relay.until_metric("landfall_relay_spaces", |spaces| spaces == 0.0).await;
    drop(vanished);
    relay.stop().await.unwrap();
}

#[tokio::test]
async fn a_client_with_much_to_read_may_answer_pings_late() {
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start_with(&folder, |options| {
        let (ping_after, drop_after) = (Duration::from_millis(200), Duration::from_millis(600));
        options.patience = Patience { ping_after, drop_after, ..Patience::default() };
    })
    .await;
    let mut document = Author::new(1);
    let changes = document.large_changes(5, BYTES);
    let mut author = Client::at_start(&relay).await;
    let push = author.push(document.document, &changes).await;
    author.acked(push).await;
    drop(author);
    let mut slow = Client::at_start(&relay).await;
    relay.until_metric("landfall_relay_entries_out_total", |count| count >= 5.0).await;
    // Longer than the permitted silence; on a slow link it would still be receiving.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert_eq!(slow.entries(5).await.len(), 5);
    slow.send(&Frame::Ping(1)).await;
    assert_eq!(slow.frame().await, Frame::Pong(1));
    relay.stop().await.unwrap();
}

#[tokio::test]
async fn a_client_that_answers_pings_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start_with(&folder, |options| {
        let (ping_after, drop_after) = (Duration::from_millis(40), Duration::from_secs(5));
        options.patience = Patience { ping_after, drop_after, ..Patience::default() };
    })
    .await;
    let mut client = Client::at_start(&relay).await;
    for _ in 0..20 {
        let Ok(Frame::Ping(nonce)) = client.next().await else { panic!("no ping") };
        client.send(&Frame::Pong(nonce)).await;
    }
    relay.stop().await.unwrap();
}

#[tokio::test]
async fn pushes_are_accepted_while_the_client_does_not_read() {
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start(&folder).await;
    let mut author = Client::at_start(&relay).await;
    fill(&mut author).await;
    // Its pages fill every buffer towards it, and it pushes nevertheless.
    let mut deaf = Client::at_start(&relay).await;
    let mut document = Author::new(2);
    let changes = document.large_changes(limits::PUSHES_IN_FLIGHT, BYTES);
    for change in &changes {
        deaf.push(document.document, std::slice::from_ref(change)).await;
    }
    let whole = (COUNT + limits::PUSHES_IN_FLIGHT) as f64;
    relay.until_metric("landfall_relay_entries_in_total", |count| count == whole).await;
    drop(author);
    // Once it reads, everything is there.
    assert_eq!(deaf.entries(whole as usize).await.len(), whole as usize);
    relay.stop().await.unwrap();
}

#[tokio::test]
async fn a_long_log_does_not_delay_another_space_of_the_session() {
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start(&folder).await;
    let mut author = Client::at_start(&relay).await;
    fill(&mut author).await;
    let mut reader = Client::hello(&relay).await;
    reader.subscribe(1, SPACE, None, None).await;
    let mut writer = Client::hello(&relay).await;
    writer.subscribe(1, "quick", None, None).await;
    let (space, filter) = ("quick".parse().unwrap(), landfall_protocol::frame::Filter::Everything);
    reader
        .send(&Frame::Subscribe(landfall_protocol::frame::Subscribe {
            subscription: 2,
            space,
            filter,
            cursor: None,
            acknowledged: None,
        }))
        .await;
    let mut document = Author::new(3);
    let push = writer.push(document.document, &document.changes(1)).await;
    writer.acked(push).await;
    let (mut slow, mut quick_came_after) = (0, None);
    while slow < COUNT || quick_came_after.is_none() {
        if let Frame::Entries(page) = reader.frame().await {
            match page.subscription {
                1 => slow += page.entries.len(),
                _ => quick_came_after = Some(slow),
            }
        }
    }
    assert!(quick_came_after.unwrap() < COUNT, "its entry came after the whole other log");
    relay.stop().await.unwrap();
}
