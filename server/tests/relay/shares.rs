//! The memory budget, by address: one that stalls on all its connections does not block others.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use landfall_protocol::Patience;
use landfall_protocol::{Code, limits};
use tokio::io::AsyncWriteExt;

use crate::harness::{Author, Client, Relay, soon};

const STALLED: usize = 300;

/// Another address of this machine.
const ELSEWHERE: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));

/// A session that begins a message of `bytes` bytes and sends a little of it.
async fn stall(relay: &Relay, bytes: usize) -> Client {
    let mut client = Client::hello(relay).await;
    let mut begun = vec![0x82, 0xff];
    begun.extend((bytes as u64).to_be_bytes());
    begun.resize(begun.len() + 4 + 1_000, 0);
    soon(client.socket.get_mut().write_all(&begun)).await.unwrap();
    client
}

/// Stalls on very many connections of one address, and waits until most of them wait for memory.
async fn stall_all(relay: &Relay) -> Vec<Client> {
    let mut stalled = Vec::new();
    for _ in 0..STALLED {
        stalled.push(stall(relay, limits::MESSAGE_BYTES).await);
    }
    relay.until_metric("landfall_relay_memory_waiting", |waiting| waiting > 250.0).await;
    stalled
}

/// Pushes a message of more than a mebibyte.
async fn push_large(relay: &Relay, client: &mut Client) {
    let mut author = Author::new(1);
    let push = client.push(author.document, &author.large_changes(4, 300_000)).await;
    assert_eq!(client.acked(push).await.count, 4);
    let waiting = relay.metric("landfall_relay_memory_waiting").await;
    assert!(waiting > 200.0, "only {waiting} wait: the message waited behind earlier ones");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_message_passes_stalled_ones_of_another_address() {
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start(&folder).await;
    let mut canary = Client::at_start_from(&relay, ELSEWHERE).await;
    let stalled = stall_all(&relay).await;
    push_large(&relay, &mut canary).await;
    drop(stalled);
    relay.stop().await.unwrap();
}

/// Alone, the address had all memory for messages: its stalled messages release what exceeds its share, and
/// no more.
#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_connects_later_gets_its_share() {
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start(&folder).await;
    let mut stalled = stall_all(&relay).await;
    let mut canary = Client::at_start_from(&relay, ELSEWHERE).await;
    push_large(&relay, &mut canary).await;
    // The session whose memory was released receives the reason.
    let (frames, close) = stalled[0].until_end().await;
    assert_eq!(close, Some(4_000 + Code::OVERLOADED.0), "{frames:?}");
    drop(stalled);
    relay.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_address_limit_each_session_is_its_own_share() {
    let intake = "landfall_relay_memory_bytes{class=\"intake\"}";
    let each = 3 * limits::MESSAGE_BYTES as u64;
    for (of_address, sessions) in [(1_024, 8), (4_096, 10)] {
        let folder = tempfile::tempdir().unwrap();
        let relay =
            Relay::start_with(&folder, |options| options.connections_of_address = of_address);
        let relay = relay.await;
        let _canary = Client::at_start_from(&relay, ELSEWHERE).await;
        let mut stalled = Vec::new();
        for _ in 0..10 {
            stalled.push(stall(&relay, limits::MESSAGE_BYTES).await);
        }
        let held = (sessions * each) as f64;
        relay.until_metric(intake, |bytes| bytes == held).await;
        let waiting = (10 - sessions) as f64;
        relay.until_metric("landfall_relay_memory_waiting", |found| found == waiting).await;
        drop(stalled);
        relay.stop().await.unwrap();
    }
}

/// The least memory that the relay accepts (`--memory 192MiB`), one idle native session, and the first frame
/// of a fragmented message, of seven bytes, from an automerge-repo client that then waits.
#[tokio::test(flavor = "multi_thread")]
async fn a_fragmented_message_does_not_block_other_large_ones() {
    use crate::automerge_repo_client::RepoClient;
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start_with(&folder, |options| options.memory = 192 << 20).await;
    let mut canary = Client::at_start_from(&relay, ELSEWHERE).await;
    let mut mallory = RepoClient::join(&relay, "/", "mallory").await;
    let begun = [0x02, 0x81, 0, 0, 0, 0, 7];
    soon(mallory.socket.get_mut().write_all(&begun)).await.unwrap();
    let intake = "landfall_relay_memory_bytes{class=\"intake\"}";
    relay.until_metric(intake, |bytes| bytes >= (128 << 20) as f64).await;
    for _ in 0..3 {
        let mut author = Author::new(1);
        let push = canary.push(author.document, &author.large_changes(4, 300_000)).await;
        assert_eq!(canary.acked(push).await.count, 4);
    }
    relay.stop().await.unwrap();
}

/// No other event occurs in the sessions: no ping is due, no other message arrives. Their data arrived at
/// once, together with the header.
#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_message_is_dropped_without_any_other_event() {
    let folder = tempfile::tempdir().unwrap();
    let (ping_after, drop_after) = (Duration::from_secs(3_600), Duration::from_secs(7_200));
    let relay = Relay::start_with(&folder, |options| {
        options.patience = Patience { ping_after, drop_after, ..Patience::default() };
    });
    let relay = relay.await;
    let stalled = stall_all(&relay).await;
    let mut canary = Client::at_start_from(&relay, ELSEWHERE).await;
    push_large(&relay, &mut canary).await;
    drop(stalled);
    relay.stop().await.unwrap();
}

/// Its sender cannot show that it is alive: the answer to a ping would come after the message.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_waits_for_memory_does_not_count_as_silence() {
    let folder = tempfile::tempdir().unwrap();
    let (ping_after, drop_after) = (Duration::from_secs(1), Duration::from_secs(3));
    let relay = Relay::start_with(&folder, |options| {
        options.patience = Patience { ping_after, drop_after, ..Patience::default() };
        options.memory = 192 << 20;
    })
    .await;
    // These are silent, and dropped one after the other; each leaves its memory to the next.
    let mut stalled = Vec::new();
    for _ in 0..24 {
        stalled.push(stall(&relay, limits::MESSAGE_BYTES).await);
    }
    relay.until_metric("landfall_relay_memory_waiting", |waiting| waiting >= 9.0).await;
    let mut client = Client::at_start(&relay).await;
    let mut author = Author::new(1);
    let push = client.push(author.document, &author.large_changes(4, 300_000)).await;
    assert_eq!(client.acked(push).await.count, 4);
    let silent = "landfall_relay_sessions_ended_total{code=\"silent\"}";
    assert!(relay.metric(silent).await >= 8.0, "it waited for longer than the limit for silence");
    drop(stalled);
    relay.stop().await.unwrap();
}
