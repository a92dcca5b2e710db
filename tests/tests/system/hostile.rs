//! A relay rejects a writer whose few bytes claim many operations, for that document only.

use landfall::automerge::ActorId;
use landfall_protocol::admission::preflight;
use landfall_protocol::frame::{Frame, Nack};
use landfall_protocol::{Code, DocumentId, NackClass, limits};
use landfall_tests::process::Relay;
use landfall_tests::raw::{Client, change_of, dense_change};
use landfall_tests::replica::{link, open, wait_for};

#[track_caller]
fn nacked(answer: Frame) -> Nack {
    match answer {
        Frame::Nack(nack) => nack,
        other => panic!("{other:?} is not a refusal"),
    }
}

#[test]
fn compressed_operations_fill_only_their_own_document() {
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start(&folder.path().join("relay"), 0);
    let mut writer = Client::start_from(relay.port, "default");
    let (actor, dense) = (ActorId::from([3; 16]), DocumentId::from_bytes([3; 16]));
    let million = limits::CHANGE_OPERATIONS;
    let (mut last, mut acknowledged, mut bytes) = (Vec::new(), 0, 0);
    let refused = loop {
        let (seq, start_op) = (acknowledged + 1, acknowledged * million + 1);
        let change = dense_change(&actor, (seq, start_op), &last, million as u32);
        last = vec![preflight(&change).unwrap().hash];
        match writer.push(seq, dense, std::slice::from_ref(&change)) {
            Frame::Ack(_) => (acknowledged, bytes) = (seq, bytes + change.len()),
            answer => break nacked(answer),
        }
        assert!(
            acknowledged < 8,
            "the relay accepted {bytes} bytes with {acknowledged} million operations"
        );
    };
    assert_eq!((refused.code, refused.class), (Code::DOCUMENT_FULL, NackClass::REFUSED));
    assert_eq!(acknowledged, limits::DOCUMENT_OPERATIONS_FREE / million);
    // The session continues, with other documents and with counters that leave no room.
    let other = DocumentId::from_bytes([4; 16]);
    let change = change_of(ActorId::from([4; 16]), 1, "honest");
    assert!(matches!(writer.push(20, other, &[change]), Frame::Ack(_)));
    let far = |start_op| dense_change(&ActorId::from([5; 16]), (1, start_op), &[], 2);
    let third = DocumentId::from_bytes([5; 16]);
    let hole = nacked(writer.push(21, third, &[far(limits::COUNTER_HOLE + 1)]));
    assert_eq!((hole.code, hole.class), (Code::COUNTER, NackClass::REFUSED));
    let last_counter = nacked(writer.push(22, third, &[far(limits::OPERATION_COUNTER - 1)]));
    assert_eq!(last_counter.code, Code::COUNTER);
    let beyond = nacked(writer.push(23, third, &[far(limits::OPERATION_COUNTER)]));
    assert_eq!(beyond.code, Code::FORM);
    let change = change_of(ActorId::from([6; 16]), 1, "honest");
    assert!(matches!(writer.push(24, third, &[change]), Frame::Ack(_)));
    // An engine receives exactly what was acknowledged.
    let store = open(&folder.path().join("store"));
    let space = store.space("default").unwrap();
    store.connect(link(&relay.url)).unwrap();
    wait_for(&store, "for the acknowledged changes", |status| {
        status.spaces.values().all(|space| space.changes == acknowledged + 2)
    });
    assert_eq!(space.documents().unwrap().len(), 3);
}
