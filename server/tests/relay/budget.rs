//! The memory budget, over whole sessions.

use automerge::sync::{Message as SyncMessage, MessageVersion};
use landfall_protocol::frame::{Frame, PushSnapshot};
use landfall_protocol::{Code, DocumentId, limits};

use crate::harness::{Author, Client, Relay};
use crate::repo_client::RepoClient;

/// What is made of a large message takes its memory from the message's: it never waits for a second
/// reservation with the message in hand.
#[tokio::test]
async fn a_whole_document_in_a_large_message_has_its_memory_from_the_message() {
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start(&folder).await;
    // Two uploads that are on their way hold all that uploads may hold.
    let mut uploads = Vec::new();
    for number in 1..=2 {
        let mut client = Client::at_start(&relay).await;
        let (id, subscription, hash) = (1, 1, [number; 32]);
        let document = DocumentId::from_bytes([number; 16]);
        let (total, heads) = (limits::SNAPSHOT_BYTES as u64, Vec::new());
        let offer = PushSnapshot { id, subscription, document, hash, total, heads };
        client.send(&Frame::PushSnapshot(offer)).await;
        assert!(matches!(client.frame().await, Frame::Wanted(_)));
        uploads.push(client);
    }
    let mut alice = RepoClient::join(&relay, "/", "alice").await;
    let mut whole = automerge::AutoCommit::new();
    let mut author = Author::new(9);
    for change in author.large_changes(2, 300_000) {
        let change = automerge::Change::from_bytes(change).unwrap();
        whole.apply_changes([change]).unwrap();
    }
    let message = SyncMessage {
        heads: whole.get_heads(),
        need: Vec::new(),
        have: Vec::new(),
        changes: vec![whole.save()].into(),
        flags: None,
        version: MessageVersion::V1,
    };
    alice.say_sync(author.document, &message.encode()).await;
    // This relay has no worker that opens documents: that it says so shows that the document reached it.
    assert_eq!(alice.end().await, Some(4_000 + Code::SNAPSHOT.0));
    relay.stop().await.unwrap();
}
