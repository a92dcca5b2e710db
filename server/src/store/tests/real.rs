//! Stores with real changes, compacted by the real code, in this process.

use std::collections::HashMap;
use std::ops::ControlFlow;

use landfall_compaction::Compacted;
use landfall_protocol::access::View;
use landfall_protocol::admission::preflight;
use landfall_protocol::compacted::{LastOfActor, PackedIndex};
use landfall_protocol::frame::{EntriesBuilder, Entry, Frame, decode};
use landfall_protocol::relay::{Chunk, EpochRecord, NewEntry, NewKind, Snapshot};
use landfall_protocol::{DocumentId, Epoch, Offset, SpaceName};

use super::made::{commit, tombstone};
use crate::store::{CompactionInput, CompactionWindow, Log, Snapshots, SqliteStore};

#[path = "../../../tests/fixtures/world.rs"]
pub(super) mod world;

/// Appends the whole world.
pub(super) fn put_world(store: &SqliteStore) {
    let mut last: HashMap<&str, Epoch> = HashMap::new();
    for step in world::world() {
        let entries: Vec<NewEntry> =
            step.entries.into_iter().map(|(offset, id, bytes)| entry(offset, id, &bytes)).collect();
        let opens = step.opens.map(|number| {
            let epoch = Epoch::from_bytes([number; 16]);
            let predecessor = last.insert(step.space, epoch);
            EpochRecord { epoch, first: entries[0].entry.offset, predecessor }
        });
        commit(store, &step.space.parse().unwrap(), opens, entries).unwrap();
    }
}

/// A change as an entry.
pub(super) fn entry(offset: u64, document: DocumentId, bytes: &[u8]) -> NewEntry {
    let checked = preflight(bytes).unwrap();
    let (actor, seq, max_op) = (checked.actor.clone(), checked.seq, checked.max_op);
    let (author, at_ms) = ([offset as u8; 16], 1_700_000_000_000 + offset);
    let entry = Entry::of_change(Offset(offset), document, checked, &author, at_ms);
    NewEntry { entry, kind: NewKind::Change { actor, seq, max_op, operations: 1 } }
}

/// The snapshot of a finished compaction.
pub(super) fn snapshot_of(compacted: Compacted) -> Snapshot {
    let index = PackedIndex::parse(compacted.index.clone()).unwrap();
    let head = |head: &landfall_protocol::ChangeHash| (*head, index.find(head).unwrap().max_op);
    let last = |last: landfall_protocol::compacted::LastOfActor| LastOfActor {
        actor: last.actor,
        seq: last.seq,
        hash: last.hash,
        max_op: last.max_op,
    };
    Snapshot {
        hash: compacted.hash,
        heads: compacted.heads.iter().map(head).collect(),
        actors: compacted.actors.into_iter().map(last).collect(),
        changes: compacted.changes,
        operations: 0,
        body: compacted.snapshot,
        packed: compacted.index,
    }
}

/// Compacts `changes` changes of a document's tail, like a relay: all outside a window.
pub(super) fn compact(store: &SqliteStore, space: &SpaceName, document: &DocumentId, changes: u64) {
    let head = store.open_space(space).unwrap().head();
    let tasks = (0..=head.0).filter_map(|recent_entries| {
        let window = CompactionWindow { recent_entries, ..CompactionWindow::NONE };
        store.compaction_task(space, document, u64::MAX / 2, window).unwrap()
    });
    let task = tasks.into_iter().find(|task| task.changes == changes).unwrap();
    let (mut bases, mut tail) = (Vec::new(), Vec::new());
    let mut take = |input| {
        match input {
            CompactionInput::Base(base) => bases.push(base),
            CompactionInput::Change(change) => tail.push(change),
        }
        ControlFlow::Continue(())
    };
    assert!(store.compaction_read(&task, &mut take).unwrap());
    let bases: Vec<&[u8]> = bases.iter().map(Vec::as_slice).collect();
    let compacted = landfall_compaction::compact(&bases, tail).unwrap();
    assert!(store.compaction_commit(&task, snapshot_of(compacted), 1).unwrap());
}

/// Deletes a document.
pub(super) fn delete(store: &SqliteStore, space: &SpaceName, offset: u64, document: DocumentId) {
    commit(store, space, None, vec![tombstone(offset, document)]).unwrap();
}

/// All entries of a log.
pub(super) fn entries_of(store: &SqliteStore, space: &SpaceName) -> Vec<Entry> {
    let (mut after, mut entries) = (Offset(0), Vec::new());
    while let Some(chunk) = store.next(space, after, &View::everything(), None).unwrap() {
        let Chunk::Entries(page) = chunk else { panic!("{chunk:?}") };
        let mut frame = EntriesBuilder::new(0, page.after, page.up_to, page.epoch, page.head);
        page.entries.iter().for_each(|entry| frame.add(entry, false));
        let Ok(Frame::Entries(frame)) = decode(&frame.finish()) else { panic!("not a page") };
        entries.extend(frame.entries);
        after = page.up_to;
    }
    entries
}
