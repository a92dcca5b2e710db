//! On a full disk, either end refuses writes, reports it and recovers by itself; a rejected document
//! does not delay other documents.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use landfall::automerge::{ROOT, ReadDoc, ScalarValue, transaction::Transactable};
use landfall::{ChangeError, Code, Document, FlushError, LinkStatus, StoreFailure};
use landfall_protocol::frame::Frame;
use landfall_test_rng::Rng;
use landfall_tests::process::Relay;
use landfall_tests::replica::{
    Snapshot, check_counts, fresh_copy, hashes, link, open, wait_for, wait_synced, wait_until,
};
use landfall_tests::{PATIENCE, http, log, raw};

const SPACE: &str = "default";
const KIB: usize = 1024;

/// A small disk of its own; unmounted when dropped, even while in use.
struct SmallDisk {
    folder: tempfile::TempDir,
}

impl SmallDisk {
    /// Prints a reason and returns `None` if only root could mount it.
    fn mount(mebibytes: usize) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let size = format!("size={mebibytes}m,mode=0700");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
            .arg(folder.path())
            .output();
        match mounted {
            Ok(output) if output.status.success() => Some(Self { folder }),
            Ok(output) => {
                let why = String::from_utf8_lossy(&output.stderr).trim().to_owned();
                println!("SKIPPED (needs root): cannot mount a small disk: {why}");
                None
            }
            Err(error) => {
                println!("SKIPPED (needs root): cannot mount a small disk: {error}");
                None
            }
        }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Fills this much of the disk until the file is removed.
    fn ballast(&self, mebibytes: usize) -> PathBuf {
        let path = self.path().join("ballast");
        std::fs::write(&path, vec![1; mebibytes * KIB * KIB]).unwrap();
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.folder.path()).output();
    }
}

/// Writes incompressible data.
fn write(document: &Document, rng: &mut Rng, bytes: usize) -> Result<(), ChangeError> {
    let noise: Vec<u8> = (0..bytes / 8).flat_map(|_| rng.next_u64().to_le_bytes()).collect();
    document.change(|tx| Ok(tx.put(ROOT, "noise", ScalarValue::Bytes(noise))?))
}

#[test]
fn a_full_disk_under_an_engine_refuses_changes_and_recovers() {
    // Without the ballast, the WAL and a copy of it in the database both fit: a WAL that grew on a full
    // disk keeps growing until SQLite has checkpointed it.
    let Some(disk) = SmallDisk::mount(16) else { return };
    let mut rng = Rng::new(1);
    let ballast = disk.ballast(12);
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("relay");
    let relay = Relay::start(&data, 0);
    let store = open(&disk.path().join("store"));
    let space = store.space(SPACE).unwrap();
    let document = space.create(|tx| Ok(tx.put(ROOT, "text", "small")?)).unwrap().0;
    store.connect(link(&relay.url)).unwrap();
    let (mut made, mut before) = (1, hashes(&document));
    let error = loop {
        match write(&document, &mut rng, 100 * KIB) {
            Ok(()) => made += 1,
            Err(error) => break error,
        }
        before = hashes(&document);
        assert!(made < 200, "a disk of 4 MiB never fills");
    };
    let ChangeError::Store(failure) = &error else { panic!("not a store's failure: {error}") };
    assert_eq!(failure.class, StoreFailure::DiskFull, "{error}");
    assert_eq!(hashes(&document), before, "a refused change left data behind");
    assert_eq!(before.len(), made);
    // Another replica's changes cannot be stored either; the link reports that and keeps trying.
    let peer = open(&folder.path().join("peer"));
    let peer_space = peer.space(SPACE).unwrap();
    let theirs = peer_space.create(|_| Ok(())).unwrap().0;
    (0..5).for_each(|_| write(&theirs, &mut rng, 300 * KIB).unwrap());
    peer.connect(link(&relay.url)).unwrap();
    wait_for(&store, "to report that its disk is full", |status| {
        status.last_error.as_ref().is_some_and(|error| error.contains("store failed"))
    });
    assert!(write(&document, &mut rng, 100 * KIB).is_err());
    assert_eq!(hashes(&document), before);
    std::fs::remove_file(ballast).unwrap();
    wait_until(&store, "for the peer's document", || space.contains(&theirs.id()).unwrap());
    write(&document, &mut rng, 100 * KIB).unwrap();
    store.flush_blocking(PATIENCE).unwrap();
    for replica in [&store, &peer] {
        wait_for(replica, "for every change", |status| {
            status.spaces.values().all(|space| space.changes == made as u64 + 1 + 6)
        });
        wait_synced(replica);
    }
    let snapshot = Snapshot::of(&space);
    check_counts(&space, &snapshot);
    assert_eq!(snapshot, Snapshot::of(&peer_space));
    assert_eq!(snapshot, fresh_copy(&relay.url, SPACE));
    store.close().unwrap();
    relay.kill();
    // `hashes` checks that no (actor, sequence) occurs twice.
    assert_eq!(log::hashes(&log::read(&data, SPACE)), snapshot.hashes());
}

#[test]
fn a_full_disk_under_a_relay_makes_pushes_wait() {
    let Some(disk) = SmallDisk::mount(16) else { return };
    let mut rng = Rng::new(2);
    let data = disk.path().join("relay");
    let ballast = disk.ballast(13);
    let relay = Relay::start(&data, 0);
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder.path().join("a"));
    let space = store.space(SPACE).unwrap();
    let document = space.create(|_| Ok(())).unwrap().0;
    store.connect(link(&relay.url)).unwrap();
    store.flush_blocking(PATIENCE).unwrap();
    assert_eq!(http::get(relay.port, "/readyz").0, 200);
    (0..50).for_each(|_| write(&document, &mut rng, 80 * KIB).unwrap());
    http::wait("for the relay to be full", || http::get(relay.port, "/readyz").0 == 503);
    let status = store.status();
    assert!(status.pending().changes > 0, "{status:#?}");
    assert_eq!(status.link, LinkStatus::Online, "a full relay continues to serve");
    let is_full =
        |error: &Option<String>| error.as_ref().is_some_and(|error| error.contains("storage-full"));
    wait_for(&store, "to report that the relay is full", |status| is_full(&status.last_error));
    let Err(error) = store.flush_blocking(Duration::from_millis(1)) else {
        panic!("the relay accepted the push")
    };
    let FlushError::TimedOut { last_error, .. } = &error else { panic!("{error}") };
    assert!(is_full(last_error), "{error}");
    // It still serves what it has.
    assert!(fresh_copy(&relay.url, SPACE).changes() < 51);
    std::fs::remove_file(ballast).unwrap();
    wait_synced(&store);
    assert_eq!(store.status().last_error, None);
    assert_eq!(http::get(relay.port, "/readyz").0, 200);
    let snapshot = Snapshot::of(&space);
    assert_eq!(snapshot.changes(), 51);
    check_counts(&space, &snapshot);
    assert_eq!(snapshot, fresh_copy(&relay.url, SPACE));
    relay.kill();
    assert_eq!(log::hashes(&log::read(&data, SPACE)), snapshot.hashes());
}

#[test]
fn a_refused_push_rejects_one_document_and_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start(&folder.path().join("relay"), 0);
    let store = open(&folder.path().join("a"));
    let space = store.space(SPACE).unwrap();
    let refused = space.create(|tx| Ok(tx.put(ROOT, "text", "ours")?)).unwrap().0;
    let other = space.create(|tx| Ok(tx.put(ROOT, "text", "fine")?)).unwrap().0;
    let actor = refused.read(|doc| doc.get_changes(&[])[0].actor_id().clone()).unwrap();
    let theirs = raw::change_of(actor, 1, "theirs");
    let answer = raw::Client::start(relay.port, SPACE).push(1, refused.id(), &[theirs]);
    assert!(matches!(answer, Frame::Ack(_)), "{answer:?}");
    store.connect(link(&relay.url)).unwrap();
    let Err(error) = store.flush_blocking(PATIENCE) else { panic!("the relay accepted the push") };
    let FlushError::Refused { pending, rejected } = &error else { panic!("{error}") };
    assert_eq!((pending.changes, rejected.len()), (1, 1), "{error}");
    assert_eq!(rejected[0].document, refused.id());
    assert_eq!(rejected[0].code, Code::CONFLICTING_SEQUENCE);
    // The rejected changes are kept, and the document stays usable: it has the other history, and later
    // edits reach the relay.
    wait_until(&store, "for the other history", || {
        refused.read(|doc| doc.get(ROOT, "raw").unwrap().is_some()).unwrap()
    });
    refused.change(|tx| Ok(tx.put(ROOT, "text", "still ours")?)).unwrap();
    other.change(|tx| Ok(tx.put(ROOT, "text", "more")?)).unwrap();
    wait_for(&store, "for all but the refused one", |status| status.pending().changes == 1);
    assert_eq!(other.status().unwrap().pending.changes, 0);
    let status = refused.status().unwrap();
    assert_eq!(status.rejected.map(|rejected| rejected.code), Some(Code::CONFLICTING_SEQUENCE));
    assert_eq!((status.changes, status.pending.changes), (2, 1));
    let copy = fresh_copy(&relay.url, SPACE);
    assert_eq!(copy.hashes_of(&other.id()), hashes(&other));
    assert_eq!(
        copy.hashes_of(&refused.id()),
        hashes(&refused),
        "the other history and the later edit"
    );
    store.close().unwrap();
    let again = open(&folder.path().join("a"));
    assert_eq!(again.status().spaces.values().map(|space| space.rejected.len()).sum::<usize>(), 1);
    // Both histories have a first change of the document, so they are merged only on request.
    let space = again.space(SPACE).unwrap();
    assert!(space.reauthor(refused.id()).is_err());
    space.merge_unrelated(refused.id()).unwrap();
    // The rejected edit, made again, is an ordinary edit concurrent with the other history.
    assert_eq!(space.reauthor(refused.id()).unwrap(), 1);
    again.connect(link(&relay.url)).unwrap();
    wait_synced(&again);
    let document = space.open(refused.id()).unwrap();
    assert_eq!(fresh_copy(&relay.url, SPACE).hashes_of(&refused.id()), hashes(&document));
    assert_eq!(hashes(&document).len(), 3);
    let status = again.status();
    assert!(status.spaces.values().all(|space| space.rejected.is_empty()), "{status:#?}");
}
