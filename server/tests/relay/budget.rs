//! The memory budget, over whole sessions.

use std::net::{IpAddr, Ipv4Addr};

use landfall_protocol::frame::{
    Features, Filter, Frame, PushSnapshot, Refilter, Subscribe, SubscribeFrom, features,
};
use landfall_protocol::{Code, DocumentId, limits};

use crate::automerge_repo_client::RepoClient;
use crate::harness::{Author, Client, Relay, SPACE, stall};

/// A large message's decoded content uses the memory reserved for the message: it never waits for a second
/// reservation while holding the first.
#[tokio::test]
async fn a_large_messages_content_uses_the_messages_memory() {
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start(&folder).await;
    // Two unfinished uploads hold all memory for uploads.
    let mut uploads = Vec::new();
    for number in 1..=2 {
        let mut client = Client::at_start(&relay).await;
        let (id, subscription, hash) = (1, 1, [number; 32]);
        let document = DocumentId::from_bytes([number; 16]);
        let (total, heads) = (limits::SNAPSHOT_BYTES as u64, Vec::new());
        let upload = PushSnapshot { id, subscription, document, hash, total, heads };
        client.send(&Frame::PushSnapshot(upload)).await;
        assert!(matches!(client.frame().await, Frame::UploadFrom(_)));
        uploads.push(client);
    }
    let mut alice = RepoClient::join(&relay, "/", "alice").await;
    let mut whole = automerge::AutoCommit::new();
    let mut author = Author::new(9);
    for change in author.large_changes(2, 300_000) {
        let change = automerge::Change::from_bytes(change).unwrap();
        whole.apply_changes([change]).unwrap();
    }
    alice.say_whole(author.document, &mut whole).await;
    // This relay has no worker to open documents: the error shows that the document reached it.
    assert_eq!(alice.end().await, Some(4_000 + Code::SNAPSHOT.0));
    relay.stop().await.unwrap();
}

/// Sixteen bytes for each document, plus a subscription's own state; another filter takes its own memory.
#[tokio::test]
async fn a_filter_is_charged_for_the_ids_that_it_names() {
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start(&folder).await;
    let mut client = Client::hello(&relay).await;
    client.send(&Frame::Features(Features { bits: features::ALL })).await;
    let filter = |count: u64| {
        Filter::of_documents((0..count).map(|number| {
            let mut id = [9; 16];
            id[..8].copy_from_slice(&number.to_be_bytes());
            DocumentId::from_bytes(id)
        }))
    };
    let state = "landfall_relay_memory_bytes{class=\"state\"}";
    let takes =
        |count: u64| (landfall_relay::limits::SUBSCRIPTION_BYTES as u64 + 16 * count) as f64;
    let many = limits::FILTER_DOCUMENTS as u64;
    let (subscription, space, filter_of_many) = (1, SPACE.parse().unwrap(), filter(many));
    let (cursor, acknowledged, holds, partial) = (None, None, false, None);
    client
        .send(&Frame::SubscribeFrom(SubscribeFrom {
            subscription,
            space,
            filter: filter_of_many,
            cursor,
            acknowledged,
            holds,
            partial,
        }))
        .await;
    assert!(matches!(client.frame().await, Frame::Subscribed(_)));
    relay.until_metric(state, |bytes| bytes == takes(many)).await;
    for count in [10, many, 0] {
        let filter = filter(count);
        client.send(&Frame::Refilter(Refilter { subscription, filter })).await;
        assert!(matches!(client.frame().await, Frame::Subscribed(_)));
        relay.until_metric(state, |bytes| bytes == takes(count)).await;
    }
    relay.stop().await.unwrap();
}

const ELSEWHERE: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));

/// Messages of one address wait for memory. An engine with eight spaces connects from another one.
#[tokio::test(flavor = "multi_thread")]
async fn an_engine_with_eight_spaces_connects_while_others_wait_for_memory() {
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start_with(&folder, |options| options.memory = 192 << 20).await;
    let mut stalled = Vec::new();
    for _ in 0..30 {
        stalled.push(stall(&relay, limits::MESSAGE_BYTES).await);
    }
    relay.until_metric("landfall_relay_memory_waiting", |waiting| waiting > 10.0).await;
    let mut engine = Client::at_start_from(&relay, ELSEWHERE).await;
    for number in 2..=8 {
        let space = format!("space-{number}").parse().unwrap();
        let (filter, cursor, acknowledged) = (Filter::Everything, None, None);
        let subscribe = Subscribe { subscription: number, space, filter, cursor, acknowledged };
        engine.send(&Frame::Subscribe(subscribe)).await;
        let answer = engine.frame().await;
        assert!(matches!(answer, Frame::Subscribed(_)), "space {number}: {answer:?}");
    }
    drop(stalled);
    relay.stop().await.unwrap();
}
