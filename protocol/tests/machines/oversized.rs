//! A snapshot beyond the size limit, as a relay of an earlier version may have it: its entry is
//! deferred, and all others continue.

use std::time::Duration;

use landfall_protocol::Patience;
use landfall_protocol::client::{
    Batch, DeferredReason, Incoming, Replica, ReplicaEffect, ResumePoint,
};
use landfall_protocol::frame::{
    Entries, Entry, Frame, Part, Subscribed, Welcome, encode, entry_flags, entry_kind,
};
use landfall_protocol::{
    DocumentId, Epoch, Moment, Offset, ReplicaId, Scope, SessionId, SpaceName, Upstream, limits,
};

const NOW: Moment = Moment(Duration::ZERO);

/// A replica that is subscribed to a space with an empty cursor.
fn subscribed(space: &SpaceName, head: u64) -> Replica {
    let replica = ReplicaId::from_bytes([1; 16]);
    let mut replica = Replica::new(replica, "test".to_owned(), Patience::default());
    replica.handle_space(space.clone());
    replica.handle_connected(NOW, None);
    let welcome = Frame::Welcome(Welcome {
        version: 1,
        upstream: Upstream::from_bytes([9; 16]),
        session: SessionId(1),
        message_bytes: 4 << 20,
        push_changes: 1024,
        pushes_in_flight: 64,
        agent: "a relay of an earlier version".to_owned(),
    });
    replica.handle_message(NOW, &encode(&welcome));
    replica.handle_resume(space, ResumePoint::default());
    let (epoch, head) = (Some(Epoch::from_bytes([8; 16])), Offset(head));
    let (subscription, scope, resumed) = (0, Scope::WHOLE_SPACE, true);
    let answer = Subscribed { subscription, epoch, head, scope, resumed };
    replica.handle_message(NOW, &encode(&Frame::Subscribed(answer)));
    replica
}

fn part(document: DocumentId, hash: [u8; 32], total: u64, from: u64) -> Frame {
    let bytes = vec![0; limits::PART_BYTES].into();
    Frame::Part(Part { subscription: 0, document, hash, total, from, bytes })
}

fn snapshot(offset: u64, document: DocumentId, hash: [u8; 32]) -> Entry {
    Entry::of_snapshot(Offset(offset), document, hash, &[], 1, None)
}

fn batches(replica: &mut Replica) -> (Vec<Batch>, usize) {
    let (mut batches, mut parts) = (Vec::new(), 0);
    while let Some(effect) = replica.poll_effect() {
        match effect {
            ReplicaEffect::Store(batch) => batches.push(batch),
            ReplicaEffect::StorePart { .. } => parts += 1,
            ReplicaEffect::End(reason) => panic!("{reason}"),
            _ => {}
        }
    }
    (batches, parts)
}

#[test]
fn a_snapshot_beyond_the_limit_defers_its_document_only() {
    let space: SpaceName = "default".parse().unwrap();
    let mut replica = subscribed(&space, 3);
    batches(&mut replica);
    let (large, other) = (DocumentId::from_bytes([1; 16]), DocumentId::from_bytes([2; 16]));
    let piece = limits::PART_BYTES as u64;
    let total = limits::SNAPSHOT_BYTES as u64 + piece;
    for from in (0..total).step_by(limits::PART_BYTES) {
        replica.handle_message(NOW, &encode(&part(large, [7; 32], total, from)));
    }
    assert_eq!(batches(&mut replica).1, 0, "nothing of it is kept");
    // One within the limit follows in the same feed.
    let entries = vec![snapshot(1, large, [7; 32])];
    let frame = |after: u64, up_to: u64, entries| {
        let (subscription, epoch, head) = (0, Epoch::from_bytes([8; 16]), Offset(3));
        let (after, up_to) = (Offset(after), Offset(up_to));
        encode(&Frame::Entries(Entries { subscription, after, up_to, epoch, head, entries }))
    };
    replica.handle_message(NOW, &frame(0, 1, entries));
    let (stored, _) = batches(&mut replica);
    let [Batch { cursor, entries, .. }] = &stored[..] else { panic!("{stored:?}") };
    assert_eq!(cursor.offset, Offset(1), "the cursor passes it");
    let [Incoming::Deferred { entry, reason }] = &entries[..] else { panic!("{entries:?}") };
    assert!(entry.document == large && entry.flags & entry_flags::PARTS != 0);
    assert_eq!(entry.kind, entry_kind::SNAPSHOT);
    let limit = limits::SNAPSHOT_BYTES as u64;
    assert_eq!(*reason, DeferredReason::SnapshotTooLarge { actual: total, limit });
    replica.handle_message(NOW, &encode(&part(other, [6; 32], piece, 0)));
    replica.handle_message(NOW, &frame(1, 3, vec![snapshot(2, other, [6; 32])]));
    let (stored, parts) = batches(&mut replica);
    assert_eq!((stored.len(), parts), (1, 1));
    assert!(matches!(stored[0].entries[..], [Incoming::Snapshot { body: None, .. }]));
}
