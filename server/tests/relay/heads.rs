//! A document with thousands of heads, on both protocols: it syncs, the next edit merges the heads, and
//! neither its space nor its session fails.

use automerge::transaction::Transactable;
use automerge::{ActorId, Automerge, ROOT};
use landfall_protocol::automerge_repo::message::{Message as Repo, RemoteHeads};
use landfall_protocol::frame::{Features, Fetch, Frame, Holding, Want, features};
use landfall_protocol::{ChangeHash, DocumentId, limits};

use crate::automerge_repo_client::{Replica, RepoClient, shown};
use crate::harness::{Client, Relay};

const HEADS: usize = 5_000;

/// A change, and `count` changes that depend on it, each by an actor of its own.
fn branches(count: usize) -> Vec<Vec<u8>> {
    let mut base = Automerge::new().with_actor(ActorId::from([1; 16]));
    let raw = |doc: &mut Automerge, key: &str| {
        let mut tx = doc.transaction();
        tx.put(ROOT, key, 1).unwrap();
        tx.commit();
        doc.get_last_local_change().unwrap().raw_bytes().to_vec()
    };
    let root = raw(&mut base, "root");
    let branch = |number: usize| {
        let actor = ActorId::from((number as u64).to_be_bytes());
        raw(&mut base.fork().with_actor(actor), "branch")
    };
    std::iter::once(root).chain((0..count).map(branch)).collect()
}

/// Pushes all of them, like authors who reconnect one after the other.
async fn push_all(client: &mut Client, document: DocumentId, changes: &[Vec<u8>]) {
    for some in changes.chunks(500) {
        let push = client.push(document, some).await;
        assert_eq!(client.acked(push).await.count as usize, some.len());
    }
}

/// The relay's entries and heads of a document for a client that has none of it.
async fn fetch(client: &mut Client, document: DocumentId) -> (usize, Vec<[u8; 32]>) {
    let wants = vec![Want { document, have: vec![] }];
    client.send(&Frame::Fetch(Fetch { subscription: 1, wants })).await;
    let (mut entries, mut heads) = (0, Vec::new());
    loop {
        if let Frame::Document(found) = client.frame().await {
            entries += found.entries.len();
            let Holding::Present(some) = found.holding else { panic!("it is there") };
            heads.extend(some);
            if !found.more {
                return (entries, heads);
            }
        }
    }
}

#[tokio::test]
async fn five_thousand_heads_are_synced_and_merged_on_both_protocols() {
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start(&folder).await;
    let (document, changes) = (DocumentId::from_bytes([9; 16]), branches(HEADS));
    let mut engine = Client::at_start(&relay).await;
    engine.send(&Frame::Features(Features { bits: features::ALL })).await;
    push_all(&mut engine, document, &changes).await;
    let (entries, heads) = fetch(&mut engine, document).await;
    assert_eq!((entries, heads.len()), (HEADS + 1, HEADS));
    assert!(heads.is_sorted_by(|a, b| a < b));
    // An automerge-repo client receives them, and merges all of them with its next edit.
    let mut alice = RepoClient::join(&relay, "/spaces/notes", "alice").await;
    let mut hers = Replica::empty(9);
    alice.send(&mut hers).await;
    let heads: Vec<ChangeHash> = heads.into_iter().map(ChangeHash).collect();
    alice.until(&mut hers, &heads).await;
    hers.put("edited", "by alice");
    assert_eq!(hers.doc.get_last_local_change().map_or(0, |change| change.deps().len()), HEADS);
    alice.send(&mut hers).await;
    alice.settle(&mut hers).await;
    let mut late = Client::at_start(&relay).await;
    let last = late.entries(HEADS + 2).await.pop().unwrap();
    assert_eq!(last.dependencies.len(), HEADS);
    assert_eq!(vec![ChangeHash(last.id)], hers.heads());
    relay.stop().await.unwrap();
}

#[tokio::test]
async fn a_report_of_many_heads_does_not_end_the_session() {
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start(&folder).await;
    let (mut alice, mut hers) = RepoClient::with(&relay, "/", "alice", Replica::made(1, 1)).await;
    let (sender, target) = (alice.name.clone(), alice.server.clone());
    let head = "x".repeat(50);
    let heads = vec![RemoteHeads {
        storage_id: "elsewhere",
        heads: vec![&head; limits::REPO_LIST + 1],
        timestamp_ms: 1.0,
    }];
    let document = shown(hers.id);
    let message =
        Repo::RemoteHeads { sender: &sender, target: &target, document: &document, heads };
    alice.say(&message).await;
    hers.put("goes", "on");
    alice.send(&mut hers).await;
    alice.settle(&mut hers).await;
    relay.stop().await.unwrap();
}
