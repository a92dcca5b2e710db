//! A batch that could not be written is never skipped by the next one.

use landfall_protocol::client::{Batch, ResumePoint};
use landfall_protocol::{Cursor, Epoch, Offset, Scope, Upstream};
use landfall_storage::{FailureClass, WriteError};

use super::store;
use crate::store::{AttachedUpstream, ReceiveError};

#[test]
fn a_batch_behind_one_that_failed_is_refused() {
    let store = store();
    let log = store.open_store().context.log.clone();
    let name: crate::SpaceName = "default".parse().unwrap();
    let space = store.open_store().space(&name).unwrap();
    let meet = || {
        let (sender, receiver) = std::sync::mpsc::channel();
        let done = move |met| sender.send(met).unwrap();
        log.submit_attach(Upstream::from_bytes([1; 16]), space, Box::new(done));
        let AttachedUpstream { point, .. } = receiver.recv().unwrap().unwrap().value;
        point
    };
    assert_eq!(meet(), ResumePoint::default());
    let cursor = |offset| Cursor {
        epoch: Epoch::from_bytes([2; 16]),
        offset: Offset(offset),
        scope: Scope::WHOLE_SPACE,
    };
    let receive = |after, up_to| {
        let (sender, receiver) = std::sync::mpsc::channel();
        let batch = Batch {
            space: name.clone(),
            after: Offset(after),
            cursor: cursor(up_to),
            entries: vec![],
            bytes: 0,
        };
        log.submit_received(space, batch, move |result| sender.send(result.map(drop)).unwrap());
        receiver.recv().unwrap()
    };
    receive(0, 10).unwrap();
    log.database().faults().fail_next_commits(1, FailureClass::DiskFull);
    assert!(matches!(receive(10, 20), Err(WriteError::Commit(_))));
    let skipping = receive(20, 30);
    assert!(matches!(skipping, Err(WriteError::Job(ReceiveError::NotNext { .. }))), "{skipping:?}");
    assert_eq!(meet().cursor, Some(cursor(10)), "the cursor is before the missing entries");
    receive(10, 30).unwrap();
}
