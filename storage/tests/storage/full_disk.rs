//! A full disk, as SQLite's own code reports it.

use landfall_storage::{Durability, FailureClass, StorageError, WriteError, rusqlite};

use crate::support::{PATIENCE, Place, ids, insert, insert_bytes, outcome, submit};

const MIB: i64 = 1024 * 1024;

#[test]
fn a_full_disk_is_reported_and_writes_resume_when_space_returns() {
    let place = Place::new();
    let db = place.open();
    db.write(Durability::Full, insert(1)).unwrap();
    assert_eq!(db.faults().limit_pages(Some(1)).unwrap(), None);
    let error = db.write(Durability::Full, insert_bytes(2, MIB)).unwrap_err();
    assert!(matches!(error, WriteError::Job(_)), "{error:?}");
    assert_eq!(error.class(), FailureClass::DiskFull);
    assert_eq!(ids(&db), [1]);

    assert!(db.faults().limit_pages(None).unwrap().is_some(), "no limit was set before");
    db.write(Durability::Full, insert_bytes(2, MIB)).unwrap();
    assert_eq!(ids(&db), [1, 2]);
}

/// On a full disk SQLite rolls back the whole transaction, including the jobs that had already
/// succeeded.
#[test]
fn no_job_of_a_failed_group_is_reported_as_committed() {
    let place = Place::new();
    let db = place.open();
    // More than one round is needed only if the time limit splits the group.
    for round in 0..20 {
        let hold = db.faults().hold_commits();
        let faults = db.faults();
        // Set on the writer thread, between the held group and the group that gathers after it.
        db.submit(
            Durability::Full,
            |_| Ok::<_, rusqlite::Error>(()),
            move |_| {
                faults.limit_pages(Some(1)).unwrap();
            },
        );
        assert!(hold.wait_reached(PATIENCE));
        let before = submit(&db, Durability::Full, insert(round * 10 + 1));
        let greedy = submit(&db, Durability::Full, insert_bytes(round * 10 + 2, MIB));
        let after = submit(&db, Durability::Full, insert(round * 10 + 3));
        drop(hold);
        let (before, greedy, after) = (outcome(&before), outcome(&greedy), outcome(&after));
        db.faults().limit_pages(None).unwrap();

        let there = ids(&db);
        for (result, id) in [(&before, 1), (&greedy, 2), (&after, 3)] {
            assert_eq!(result.is_ok(), there.contains(&(round * 10 + id)), "{result:?}");
        }
        assert_eq!(greedy.unwrap_err().class(), FailureClass::DiskFull);
        if let Err(WriteError::Commit(error)) = &before {
            assert!(matches!(**error, StorageError::RolledBack { .. }), "{error:?}");
            assert_eq!(error.class(), FailureClass::DiskFull);
            return;
        }
    }
    panic!("no round had the disk-filling job in one group with another");
}
