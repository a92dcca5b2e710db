//! The memory that the state of open documents takes, and what is counted of it.

use super::super::Host;
use super::*;
use crate::moment::Moment;
use crate::patience::Patience;

#[test]
fn document_states_count_against_the_memory_budget() {
    let host = Host { peer_id: "relay".to_owned(), storage_id: "storage".to_owned() };
    let mut peer = Peer::new(host, Patience::default(), Moment::default());
    let id = DocumentId::from_bytes([1; 16]);
    assert!(peer.open(id, "document"));
    peer.advance(id);
    let before = peer.state_bytes();
    let heads: Vec<_> = (0..=255).map(|number| ChangeHash([number; 32])).collect();
    let document = peer.documents.get_mut(&id).unwrap();
    document.set_present(heads.clone(), Offset(1), Live::default());
    peer.advance(id);
    assert_eq!(peer.state_bytes(), before + 32 * heads.len());
    peer.handle_behind();
    assert_eq!(peer.state_bytes(), before);
}

/// A client reads the first page of a long document and never asks for the rest. Other clients
/// write small changes to it, in commits with large entries of other documents.
#[test]
fn recent_commits_keep_no_more_memory_than_is_counted() {
    use crate::automerge_repo::sync::SyncMessage;
    use crate::frame::Entry;
    use crate::ids::ActorId;
    use std::sync::Arc;

    use crate::relay::{Commit, NewKind};

    const MIB: usize = 1 << 20;
    let host = Host { peer_id: "relay".to_owned(), storage_id: "storage".to_owned() };
    let mut peer = Peer::new(host, Patience::default(), Moment::default());
    let [id, other] = [1, 2].map(|number| DocumentId::from_bytes([number; 16]));
    assert!(peer.open(id, "document"));
    let document = peer.documents.get_mut(&id).unwrap();
    let heads = vec![ChangeHash([9; 32])];
    let (need, have, chunks, flags) = (Vec::new(), Vec::new(), Vec::new(), None);
    document.apply_message(SyncMessage { heads, need, have, chunks, flags }, false);
    document.negotiation.settle_request();
    document.set_present(vec![ChangeHash([0; 32])], Offset(1), Live::default());
    document.log.set_delivery(Delivery::Paging);
    let change = |document, offset: u64, bytes: usize| {
        let mut entry = Entry::of_tombstone(Offset(offset), document, b"me", 0);
        let mut hash = [7; 32];
        hash[..8].copy_from_slice(&offset.to_be_bytes());
        (entry.id, entry.body) = (hash, vec![0; bytes].into());
        let actor = ActorId::from([1; 16]);
        let kind = NewKind::Change { actor, seq: offset, max_op: offset, operations: 1 };
        NewEntry { entry, kind }
    };
    let mut commits = Vec::new();
    for offset in 1..=64 {
        let entries = vec![change(id, 2 * offset, 100), change(other, 2 * offset + 1, 4 * MIB)];
        let space = "space".parse().unwrap();
        let commit = Arc::new(Commit { space, opens: None, entries });
        peer.handle_entry(&commit, 0);
        while peer.poll_effect().is_some() {}
        commits.push(Arc::downgrade(&commit));
    }
    let kept = commits.iter().filter(|commit| commit.upgrade().is_some()).count();
    let (kept, counted) = (4 * MIB * kept, peer.state_bytes());
    let most = counted + limits::REPO_LIVE_BYTES;
    assert!(kept <= most, "{} MiB are kept, {counted} bytes counted", kept / MIB);
}
