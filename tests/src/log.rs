//! Reads a relay's log from a copy of its data folder: the content on disk, not what the relay reports.

use std::collections::BTreeSet;
use std::path::Path;

use landfall::ChangeHash;
use landfall::automerge::Change;
use landfall_protocol::Offset;
use landfall_protocol::access::View;
use landfall_protocol::frame::{EntriesBuilder, Entry, Frame, Partial, decode, entry_kind};
use landfall_protocol::relay::Chunk;
use landfall_relay::store::{Log, SqliteStore};

/// Copies the files of a folder into a new folder.
///
/// # Panics
/// If a file operation fails.
pub fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder to copy to");
    for file in std::fs::read_dir(from).expect("a folder to copy") {
        let file = file.expect("a file to copy");
        std::fs::copy(file.path(), to.join(file.file_name())).expect("a copy");
    }
}

/// Reads a space's log from the data folder of a stopped relay; snapshots with all their bytes. The
/// folder stays unchanged, so that the next start finds what a kill left.
///
/// # Panics
/// If the log cannot be read.
pub fn read(data: &Path, space: &str) -> Vec<Entry> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let copy = folder.path().join("copy");
    copy_folder(data, &copy);
    let store = SqliteStore::open(&copy).expect("the relay's store opens");
    let space = space.parse().expect("a space's name");
    let mut entries = Vec::new();
    let (mut at, mut partial, mut parts) = (Offset(0), None, Vec::new());
    while let Some(chunk) =
        store.next(&space, at, &View::everything(), partial).expect("a piece of the log")
    {
        match chunk {
            Chunk::Part(part) => {
                parts.truncate(usize::try_from(part.from).expect("a part that fits"));
                parts.extend_from_slice(&part.bytes);
                partial = Some(Partial { hash: part.hash, bytes: parts.len() as u64 });
            }
            Chunk::Entries(page) => {
                let (after, up_to, head) = (page.after, page.up_to, page.head);
                let mut frame = EntriesBuilder::new(0, after, up_to, page.epoch, head);
                page.entries.iter().for_each(|entry| frame.add(entry, false));
                let Ok(Frame::Entries(page)) = decode(&frame.finish()) else { panic!("no page") };
                at = page.up_to;
                for mut entry in page.entries {
                    if entry.kind == entry_kind::SNAPSHOT && entry.body.is_empty() {
                        entry.body = std::mem::take(&mut parts).into();
                    }
                    entries.push(entry);
                }
                partial = None;
            }
        }
    }
    store.close().expect("the store closes");
    entries
}

/// The hashes of a log's changes, including those in snapshots.
///
/// # Panics
/// If the log has a change twice, or two changes of one document with the same (actor, sequence).
pub fn hashes(log: &[Entry]) -> BTreeSet<ChangeHash> {
    let mut all = BTreeSet::new();
    let mut places = BTreeSet::new();
    for entry in log {
        let chunks = match entry.kind {
            entry_kind::CHANGE => vec![entry.body.to_vec()],
            entry_kind::SNAPSHOT => {
                landfall_compaction::changes_since(&entry.body, &[]).expect("a snapshot that opens")
            }
            _ => Vec::new(),
        };
        for chunk in chunks {
            let change = Change::from_bytes(chunk).expect("a change");
            let place = (entry.document, change.actor_id().clone(), change.seq());
            assert!(all.insert(change.hash()), "{} is in the log twice", change.hash());
            assert!(places.insert(place.clone()), "two changes for {place:?}");
        }
    }
    all
}
