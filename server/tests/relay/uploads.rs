//! Snapshot uploads, over whole sessions.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use automerge::transaction::Transactable;
use automerge::{AutoCommit, ROOT};
use landfall_protocol::frame::{
    Features, Filter, Frame, Nack, Part, PushSnapshot, SubscribeFrom, features,
};
use landfall_protocol::{Code, DocumentId, limits};
use landfall_relay::store::CompactionWindow;

use crate::harness::{Client, Relay, SPACE, compacted, compactions, until, until_nothing_is_held};

const ELSEWHERE: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));

/// A snapshot to upload.
struct History {
    document: DocumentId,
    hash: [u8; 32],
    bytes: Vec<u8>,
    heads: Vec<[u8; 32]>,
}

impl History {
    fn short() -> Self {
        let (document, bytes, heads) = compacted(1, 300);
        Self { document, hash: landfall_compaction::hash_of(&bytes), bytes, heads }
    }

    fn upload(&self, id: u64) -> Frame {
        let (subscription, document, total) = (1, self.document, self.bytes.len() as u64);
        let (hash, heads) = (self.hash, self.heads.clone());
        Frame::PushSnapshot(PushSnapshot { id, subscription, document, hash, total, heads })
    }

    fn part(&self, from: usize, bytes: Vec<u8>) -> Frame {
        let (document, total, from) = (self.document, self.bytes.len() as u64, from as u64);
        let (hash, bytes) = (self.hash, bytes.into());
        Frame::Part(Part { subscription: 1, document, hash, total, from, bytes })
    }

    /// The following part, of the maximum size.
    fn next(&self, from: usize) -> Frame {
        let end = self.bytes.len().min(from + limits::PART_BYTES);
        self.part(from, self.bytes[from..end].to_vec())
    }
}

async fn wanted(client: &mut Client) -> usize {
    until(client, |frame| match frame {
        Frame::UploadFrom(wanted) => Some(wanted.from as usize),
        _ => None,
    })
    .await
}

async fn answered(client: &mut Client) -> Result<(), Nack> {
    until(client, |frame| match frame {
        Frame::Ack(_) => Some(Ok(())),
        Frame::Nack(nack) => Some(Err(nack)),
        _ => None,
    })
    .await
}

/// Mallory knows which snapshot an honest client is going to upload (it has the same document), announces its
/// hash and sends 100 bytes of something else.
async fn begun_wrongly(client: &mut Client, history: &History) {
    client.send(&history.upload(1)).await;
    assert_eq!(wanted(client).await, 0);
    client.send(&history.part(0, vec![0; 100])).await;
    assert_eq!(wanted(client).await, 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_of_one_sessions_upload_never_enter_anothers() {
    let folder = tempfile::tempdir().unwrap();
    let relay =
        Relay::start_with(&folder, |o| o.compactions = compactions(CompactionWindow::default()))
            .await;
    let history = History::short();
    // One is still connected, from the same address; another one has disconnected, from another address.
    let (mut near, mut far) =
        (Client::at_start(&relay).await, Client::at_start_from(&relay, ELSEWHERE).await);
    begun_wrongly(&mut near, &history).await;
    begun_wrongly(&mut far, &history).await;
    drop(far);
    relay.until_metric("landfall_relay_sessions", |sessions| sessions == 1.0).await;
    let mut alice = Client::at_start(&relay).await;
    alice.send(&history.upload(1)).await;
    assert_eq!(wanted(&mut alice).await, 0);
    alice.send(&history.next(0)).await;
    assert_eq!(answered(&mut alice).await, Ok(()));
    drop(near);
    relay.stop().await.unwrap();
}

/// An upload left by a session of the same address is continued. If it was something else, the session that
/// sent the rest is not at fault, and succeeds at the second attempt, whatever others leave meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_resumed_wrong_parts_is_asked_for_all_of_them() {
    let folder = tempfile::tempdir().unwrap();
    let relay =
        Relay::start_with(&folder, |o| o.compactions = compactions(CompactionWindow::default()))
            .await;
    let history = History::short();
    let mut others = Vec::new();
    for _ in 0..2 {
        let mut other = Client::at_start(&relay).await;
        begun_wrongly(&mut other, &history).await;
        others.push(other);
    }
    drop(others);
    relay.until_metric("landfall_relay_sessions", |sessions| sessions == 0.0).await;
    let mut alice = Client::at_start(&relay).await;
    alice.send(&history.upload(1)).await;
    assert_eq!(wanted(&mut alice).await, 100);
    alice.send(&history.next(100)).await;
    let nack = answered(&mut alice).await.unwrap_err();
    assert_eq!(nack.code, Code::OVERLOADED);
    assert!(nack.retry_after_ms > 0, "a sound snapshot is rejected without a retry");
    alice.send(&history.upload(2)).await;
    assert_eq!(wanted(&mut alice).await, 0, "it resumes parts of another session again");
    alice.send(&history.next(0)).await;
    assert_eq!(answered(&mut alice).await, Ok(()));
    relay.stop().await.unwrap();
}

/// A client sends a part of its upload, and never returns.
#[tokio::test(flavor = "multi_thread")]
async fn abandoned_uploads_expire() {
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start_with(&folder, |options| {
        options.memory = 192 << 20;
        options.uploads_kept = Duration::from_secs(1);
    })
    .await;
    let mut client = Client::at_start(&relay).await;
    let (document, hash, total) = (DocumentId::from_bytes([1; 16]), [1; 32], 64 << 20);
    let upload = PushSnapshot { id: 1, subscription: 1, document, hash, total, heads: vec![] };
    client.send(&Frame::PushSnapshot(upload)).await;
    assert!(matches!(client.frame().await, Frame::UploadFrom(_)));
    drop(client);
    until_nothing_is_held(&relay, &["intake", "push", "answer", "state", "upload"]).await;
    relay.stop().await.unwrap();
}

/// The largest snapshot, in the least memory that a relay can have: twice, so that the second is merged with
/// the first.
#[tokio::test(flavor = "multi_thread")]
async fn the_largest_snapshot_fits_the_least_memory_budget() {
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start_with(&folder, |options| {
        options.memory = landfall_relay::limits::LEAST_MEMORY;
        options.compactions = compactions(CompactionWindow::default());
    })
    .await;
    let mut whole = AutoCommit::new();
    let mut rng = landfall_test_rng::Rng::new(1);
    for number in 0..63 {
        let some: Vec<u8> = (0..1 << 20).map(|_| rng.next_u64() as u8).collect();
        whole.put(ROOT, format!("noise {number}"), some).unwrap();
        whole.commit();
    }
    let document = DocumentId::from_bytes([0x64; 16]);
    let mut client = Client::hello(&relay).await;
    client.send(&Frame::Features(Features { bits: features::ALL })).await;
    let (space, filter) = (SPACE.parse().unwrap(), Filter::Everything);
    let (subscription, cursor, acknowledged, holds, partial) = (1, None, None, false, None);
    let from = SubscribeFrom { subscription, space, filter, cursor, acknowledged, holds, partial };
    client.send(&Frame::SubscribeFrom(from)).await;
    assert!(matches!(client.frame().await, Frame::Subscribed(_)));
    for turn in 1..=2 {
        if turn > 1 {
            whole.put(ROOT, "last", vec![7; 100_000]).unwrap();
            whole.commit();
        }
        let heads = whole.get_heads().iter().map(|head| head.0).collect();
        let bytes = whole.save();
        let history =
            History { document, hash: landfall_compaction::hash_of(&bytes), bytes, heads };
        assert!(history.bytes.len() > limits::SNAPSHOT_BYTES / 64 * 63);
        client.send(&history.upload(turn)).await;
        let mut sent = wanted(&mut client).await;
        while sent < history.bytes.len() {
            client.send(&history.next(sent)).await;
            sent += limits::PART_BYTES;
            if sent < history.bytes.len() {
                assert_eq!(wanted(&mut client).await, sent);
            }
        }
        assert_eq!(answered(&mut client).await, Ok(()), "turn {turn}");
    }
    drop(client);
    until_nothing_is_held(&relay, &["intake", "push", "answer", "state", "upload"]).await;
    relay.stop().await.unwrap();
}
