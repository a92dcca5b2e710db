//! automerge-repo clients that cost the relay as much as they can: other clients are served.

use automerge::sync::{Message as SyncMessage, MessageVersion};
use landfall_protocol::automerge_repo::sync::Reply;
use landfall_protocol::{Code, limits};

use crate::automerge_repo::closed;
use crate::automerge_repo_client::{Replica, RepoClient};
use crate::harness::Relay;

/// A sync message with all changes of a replica.
fn everything(replica: &Replica) -> Vec<u8> {
    let changes = replica.doc.get_changes(&[]);
    let changes: Vec<Vec<u8>> = changes.iter().map(|change| change.raw_bytes().to_vec()).collect();
    let (heads, version) = (replica.heads(), MessageVersion::V1);
    let (need, have, flags) = (Vec::new(), Vec::new(), None);
    SyncMessage { heads, need, have, changes: changes.into(), flags, version }.encode()
}

#[tokio::test]
async fn a_message_of_many_changes_is_admitted_in_parts() {
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start(&folder).await;
    let mut alice = RepoClient::join(&relay, "/", "alice").await;
    let mut hers = Replica::made(1, 1);
    for number in 0..2 * limits::PUSH_CHANGES + 9 {
        hers.put("number", &number.to_string());
    }
    alice.say_sync(hers.id, &everything(&hers)).await;
    // A later message stays behind it.
    hers.put("last", "of all");
    alice.say_sync(hers.id, &everything(&hers)).await;
    let mut bob = RepoClient::join(&relay, "/", "bob").await;
    let mut his = Replica::empty(1);
    bob.send(&mut his).await;
    bob.until(&mut his, &hers.heads()).await;
    assert_eq!(his.get("last"), hers.get("last"));
    relay.stop().await.unwrap();
}

#[tokio::test]
async fn a_million_invalid_changes_end_only_their_own_session() {
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start(&folder).await;
    // A million empty chunks in one part. (More parts than the limit only cost the document:
    // `automerge_repo::a_list_over_its_limit_rejects_only_its_document`.)
    let joined = [0x85, 0x6f, 0x4a, 0x83, 0, 0, 0, 0, 1, 0].repeat(limits::SYNC_CHUNKS);
    let data = Reply { chunks: &[&joined], ..Reply::default() }.encode().unwrap();
    let mut mallory = RepoClient::join(&relay, "/", "mallory").await;
    mallory.say_sync(Replica::empty(1).id, &data).await;
    assert_eq!(mallory.end().await, closed(Code::FORM));
    let _alice = RepoClient::with(&relay, "/", "alice", Replica::made(1, 1)).await;
    relay.stop().await.unwrap();
}
