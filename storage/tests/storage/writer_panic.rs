//! A panic of the writer thread's own code: every write gets a result, and the file is released.

use std::sync::mpsc;

use landfall_storage::{Durability, FailureClass, StorageError};

use super::support::{PATIENCE, Place, ids, insert};

#[test]
fn a_writer_panic_answers_every_write_and_releases_the_file() {
    let place = Place::new();
    let db = place.open();
    db.write(Durability::Full, insert(1)).unwrap();
    assert!(db.writer_panic().is_none());
    let hold = db.faults().hold_commits();
    db.faults().panic_at_next_commit();
    // Some jobs are in the group that panics, some are queued after it.
    let (sender, receiver) = mpsc::channel();
    for number in 2..200 {
        let sender = sender.clone();
        db.submit(Durability::Full, insert(number), move |result| sender.send(result).unwrap());
    }
    drop((hold, sender));
    for _ in 2..200 {
        let failed = receiver.recv_timeout(PATIENCE).unwrap().unwrap_err();
        assert_eq!(failed.class(), FailureClass::Panicked, "{failed:?}");
    }
    assert!(receiver.recv_timeout(PATIENCE).is_err(), "each write is answered once");
    let panic = db.writer_panic().unwrap();
    assert!(panic.to_string().contains("ordered by a test"), "{panic}");
    let later = db.write(Durability::Full, insert(300)).unwrap_err();
    assert_eq!(later.class(), FailureClass::Panicked);
    // Reads continue, and closing reports the panic.
    assert_eq!(ids(&db), [1]);
    let closed = db.close().unwrap_err();
    assert!(matches!(closed, StorageError::WriterPanicked { .. }), "{closed:?}");
    let again = place.open();
    assert_eq!(ids(&again), [1]);
    again.write(Durability::Full, insert(2)).unwrap();
    again.close().unwrap();
}
