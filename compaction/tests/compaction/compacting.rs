//! Compaction in this process.

use automerge::transaction::Transactable;
use automerge::{Automerge, Change, LoadOptions, ROOT, TextEncoding};
use landfall_compaction::{
    CompactionError, CompactionLimits, changes_since, compact, compact_loaded, compact_within, open,
};
use landfall_protocol::ChangeHash;
use landfall_protocol::compacted::PackedIndex;
use sha2::{Digest, Sha256};

use super::histories::{added, begun, changes, empty, poison, session, type_into};

pub fn load(snapshot: &[u8]) -> Automerge {
    let options = LoadOptions::new().text_encoding(TextEncoding::UnicodeCodePoint);
    Automerge::load_with_options(snapshot, options).unwrap()
}

#[test]
fn a_compacted_session_loads_as_the_same_document() {
    let document = session();
    let compacted = compact(&[], changes(&document)).unwrap();
    assert_eq!(compacted.heads, document.get_heads());
    assert_eq!(compacted.changes, changes(&document).len() as u64);
    assert_eq!(compacted.hash, <[u8; 32]>::from(Sha256::digest(&compacted.snapshot)));
    let loaded = load(&compacted.snapshot);
    assert_eq!(loaded.get_heads(), document.get_heads());
    assert_eq!(loaded.hydrate(None), document.hydrate(None));
    let index = PackedIndex::parse(compacted.index.clone()).unwrap();
    assert!(index.covers(&compacted.heads));
    for change in document.get_changes(&[]) {
        let found = index.find(&change.hash()).unwrap();
        assert_eq!(found.actor, *change.actor_id());
        assert_eq!((found.seq, found.max_op), (change.seq(), change.max_op()));
        assert_eq!(index.dependencies(&change.hash()).unwrap(), change.deps());
    }
    let last: Vec<_> = compacted.actors.iter().map(|last| (&last.actor, last.seq)).collect();
    let seq = |actor: u8| {
        let changes = document.get_changes(&[]);
        changes.iter().filter(|c| c.actor_id().to_bytes() == [actor; 16]).count() as u64
    };
    assert_eq!(last, [(&[1; 16].into(), seq(1)), (&[2; 16].into(), seq(2))]);
}

#[test]
fn snapshots_and_changes_merge_in_any_order() {
    let (mut one, text) = begun(1);
    type_into(&mut one, &text, 50);
    let mut two = one.fork().with_actor([2; 16].into());
    type_into(&mut one, &text, 30);
    type_into(&mut two, &text, 20);
    let bases = [compact(&[], changes(&one)).unwrap(), compact(&[], changes(&two)).unwrap()];
    one.merge(&mut two).unwrap();
    let merged = one.fork();
    type_into(&mut one, &text, 25);
    // Some changes that are in the snapshots already, each of the others twice, the later ones first.
    let mut tail = added(&empty(3), &merged);
    tail.truncate(10);
    tail.extend(added(&merged, &one).into_iter().rev());
    tail.extend(added(&merged, &one));
    let snapshots = [&bases[0].snapshot[..], &bases[1].snapshot];
    let compacted = compact(&snapshots, tail).unwrap();
    assert_eq!(compacted.heads, one.get_heads());
    assert_eq!(compacted.changes, changes(&one).len() as u64);
    assert_eq!(load(&compacted.snapshot).hydrate(None), one.hydrate(None));
    // Without new changes, the bytes stay the same.
    assert_eq!(compact(&[&compacted.snapshot], []).unwrap(), compacted);
}

#[test]
fn an_empty_history_compacts_to_an_empty_document() {
    let compacted = compact(&[], []).unwrap();
    assert_eq!(
        (compacted.changes, &compacted.heads[..], &compacted.actors[..]),
        (0, &[][..], &[][..])
    );
    assert_eq!(compact(&[&compacted.snapshot], []).unwrap(), compacted);
}

#[test]
fn a_missing_dependency_is_an_error() {
    let document = session();
    let mut some = changes(&document);
    let lost = document.get_changes(&[])[40].hash();
    some.remove(40);
    assert_eq!(compact(&[], some).unwrap_err(), CompactionError::Orphans { missing: lost });
    // automerge saves such changes after the document chunk.
    let (mut one, text) = begun(1);
    let before = one.save();
    type_into(&mut one, &text, 2);
    let orphan = changes(&one).pop().unwrap();
    let error = compact(&[&[before.clone(), orphan].concat()], []).unwrap_err();
    assert!(matches!(error, CompactionError::NotADocument { position: 0, .. }), "{error}");
    assert!(compact(&[&before], []).is_ok());
}

#[test]
fn an_invalid_snapshot_or_change_is_named_by_position() {
    let document = session();
    let good = document.save();
    for bad in [&b""[..], b"x", &good[..7], &good[..good.len() - 1], &changes(&document)[0]] {
        let error = compact(&[&good, bad], []).unwrap_err();
        assert!(matches!(error, CompactionError::NotADocument { position: 1, .. }), "{error}");
    }
    let mut damaged = good.clone();
    damaged[good.len() / 2] ^= 1;
    let error = compact(&[&damaged], []).unwrap_err();
    assert!(matches!(error, CompactionError::Snapshot { position: 0, .. }), "{error}");
    let error = compact(&[&good], [changes(&document)[0].clone(), vec![1, 2, 3]]).unwrap_err();
    assert!(matches!(error, CompactionError::Change { position: 1, .. }), "{error}");
    // Another change with the same actor and sequence number.
    let (mut other, text) = begun(1);
    type_into(&mut other, &text, 1);
    other.empty_commit(Default::default());
    let error = compact(&[&good], changes(&other)).unwrap_err();
    assert!(matches!(error, CompactionError::Apply { .. }), "{error}");
}

#[test]
fn a_change_on_which_automerge_panics_is_an_error() {
    let document = session();
    let mut all = changes(&document);
    all.push(poison(&document));
    let error = compact(&[], all).unwrap_err();
    assert!(
        matches!(error, CompactionError::Panicked(_) | CompactionError::Apply { .. }),
        "{error}"
    );
}

#[test]
fn changes_since_returns_missing_changes_in_dependency_order() {
    let document = session();
    let snapshot = document.save();
    let all = changes(&document);
    assert_eq!(changes_since(&snapshot, &[]).unwrap(), all);
    assert_eq!(changes_since(&snapshot, &[ChangeHash([7; 32])]).unwrap(), all);
    assert_eq!(changes_since(&snapshot, &document.get_heads()).unwrap(), Vec::<Vec<u8>>::new());
    let in_the_middle = document.get_changes(&[])[150].hash();
    let have = [in_the_middle, ChangeHash([7; 32])];
    let since = changes_since(&snapshot, &have).unwrap();
    assert!(since.len() < all.len() && !since.is_empty());
    let mut peer = empty(7);
    let has = document.fork_at(&[in_the_middle]).unwrap();
    peer.merge(&mut has.clone()).unwrap();
    let parsed = since.iter().map(|bytes| Change::from_bytes(bytes.clone()).unwrap());
    peer.apply_changes(parsed.collect::<Vec<_>>()).unwrap();
    assert_eq!(peer.get_heads(), document.get_heads());
}

#[test]
fn changes_since_follows_dependencies_not_sequence_numbers() {
    // automerge treats a sequence number as a clock; a change need not depend on its actor's last one.
    let (mut one, mut two) = (empty(1), empty(2));
    let first = put(&mut one, "first");
    let other = put(&mut two, "other");
    let mut second = put(&mut one, "second").decode();
    second.deps = vec![other.hash()];
    second.hash = None;
    let second = Change::from(second);
    let bytes = [&first, &other, &second].map(|change| change.raw_bytes().to_vec());
    let compacted = compact(&[], bytes.clone()).unwrap();
    let since = changes_since(&compacted.snapshot, &[second.hash()]).unwrap();
    assert_eq!(since, bytes[..1]);
}

#[test]
fn a_snapshot_that_automerge_cannot_load_is_never_returned() {
    // Two changes of one actor whose operation counters are ambiguous: automerge applies and saves
    // them, but fails to load what it saved.
    let mut one = empty(1);
    let first = put(&mut one, "first");
    let mut second = put(&mut one, "second").decode();
    second.deps.clear();
    second.hash = None;
    let bytes = [first, Change::from(second)].map(|change| change.raw_bytes().to_vec());
    let error = compact(&[], bytes).unwrap_err();
    assert!(matches!(error, CompactionError::Unfaithful { .. }), "{error}");
}

fn put(document: &mut Automerge, key: &str) -> Change {
    let mut tx = document.transaction();
    tx.put(ROOT, key, 1).unwrap();
    tx.commit();
    document.get_last_local_change().unwrap()
}

#[test]
fn a_snapshot_over_the_size_limit_is_an_error() {
    let (mut one, text) = begun(1);
    type_into(&mut one, &text, 50);
    let all = changes(&one);
    let compacted = compact(&[], all.clone()).unwrap();
    let actual = compacted.snapshot.len();
    let within = |snapshot_bytes| CompactionLimits { snapshot_bytes };
    assert_eq!(compact_within(&[], all.clone(), &within(actual)).unwrap(), compacted);
    let (less, more) = (within(actual - 1), within(actual));
    let too_large = CompactionError::TooLarge { actual, limit: actual - 1 };
    assert_eq!(compact_within(&[], all, &less).unwrap_err(), too_large);
    // A loaded document, and a snapshot that is opened, give the same results.
    assert_eq!(compact_loaded(&one, &more).unwrap(), compacted);
    assert_eq!(compact_loaded(&one, &less).unwrap_err(), too_large);
    assert_eq!(open(compacted.snapshot.clone(), &more).unwrap(), compacted);
    assert_eq!(open(compacted.snapshot.clone(), &less).unwrap_err(), too_large);
    let mut cut = compacted.snapshot;
    cut.truncate(actual - 1);
    assert!(matches!(open(cut, &more).unwrap_err(), CompactionError::NotADocument { .. }));
}
