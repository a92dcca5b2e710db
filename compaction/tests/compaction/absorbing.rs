//! Untrusted chunks of any type, and which changes in them are new.

use std::time::Duration;

use automerge::transaction::Transactable;
use automerge::{Automerge, Change, ROOT};
use landfall_compaction::{
    Absorbed, CompactionError, NewContent, Supervisor, WorkerError, absorb, compact,
};
use landfall_protocol::ChangeHash;
use landfall_protocol::admission::HistoryError;
use landfall_protocol::limits;
use sha2::{Digest, Sha256};

use super::compacting::load;
use super::histories::{begun, changes, empty, poison, session, type_into};
use super::workers::supervisor;

fn hash(change: &[u8]) -> ChangeHash {
    Change::from_bytes(change.to_vec()).unwrap().hash()
}

fn hashes(all: &[Vec<u8>]) -> Vec<ChangeHash> {
    let mut hashes: Vec<_> = all.iter().map(|change| hash(change)).collect();
    hashes.sort_unstable();
    hashes
}

/// A bundle of changes.
fn bundle(document: &Automerge, of: &[Vec<u8>]) -> Vec<u8> {
    document.bundle(of.iter().map(|change| hash(change))).unwrap().bytes().to_vec()
}

/// Returns the new changes, which are in an order in which each of them can be admitted.
fn new(absorbed: Absorbed) -> Vec<Vec<u8>> {
    assert_eq!((absorbed.left_out, absorbed.left_out_count), (vec![], 0));
    match absorbed.news {
        NewContent::Changes(changes) => changes,
        other => panic!("{other:?}"),
    }
}

/// Returns the chunk with a correct checksum.
fn resealed(mut chunk: Vec<u8>) -> Vec<u8> {
    let sum = Sha256::digest(&chunk[8..]);
    chunk[4..8].copy_from_slice(&sum[..4]);
    chunk
}

/// A document with more changes than one push can carry.
fn long() -> Automerge {
    let (mut document, text) = begun(1);
    type_into(&mut document, &text, limits::PUSH_CHANGES + 100);
    document
}

#[test]
fn chunks_of_all_types_in_any_order_load_as_one_history() {
    let document = session();
    let all = changes(&document);
    let quarter = all.len() / 4;
    let first = compact(&[], all[..quarter].iter().cloned()).unwrap().snapshot;
    let raw = all[quarter - 5..2 * quarter].concat();
    let deflated: Vec<u8> = all[2 * quarter..3 * quarter]
        .iter()
        .flat_map(|bytes| Change::from_bytes(bytes.clone()).unwrap().bytes().into_owned())
        .collect();
    let bundled = bundle(&document, &all[3 * quarter - 5..]);
    let parts: [&[u8]; 4] = [&first, &raw, &deflated, &bundled];
    let expected = hashes(&all);
    let backwards = [parts[3], parts[2], parts[1], parts[0]];
    for parts in [&parts[..], &backwards, &[&backwards.concat()], &[&backwards.concat(), &first]] {
        let found = new(absorb(parts, vec![], [], false).unwrap());
        assert_eq!(hashes(&found), expected);
        assert_eq!(new(supervisor(&[]).absorb(parts, &[], [], false).unwrap()), found);
        // Each change fits the ones before it, as a push requires.
        let compacted = compact(&[], found).unwrap();
        assert_eq!(load(&compacted.snapshot).hydrate(None), document.hydrate(None));
    }
}

#[test]
fn only_changes_missing_from_the_store_are_new() {
    let document = session();
    let all = changes(&document);
    let whole = document.save();
    let base = compact(&[], all[..200].iter().cloned()).unwrap();
    let held = || (vec![base.snapshot.clone()], all[200..300].to_vec());
    let (snapshots, tail) = held();
    let found = new(absorb(&[&whole], snapshots, tail, false).unwrap());
    assert_eq!(hashes(&found), hashes(&all[300..]));
    let in_a_worker = supervisor(&[])
        .absorb(&[&whole], &[&base.snapshot], all[200..300].to_vec(), false)
        .unwrap();
    assert_eq!(new(in_a_worker), found);
    let (snapshots, _) = held();
    let nothing = absorb(&[&whole], snapshots, all[200..].to_vec(), false).unwrap();
    assert_eq!(nothing.news, NewContent::Nothing);
    let nothing = supervisor(&[]).absorb(&[&whole], &[&whole], [], false).unwrap();
    assert_eq!(nothing.news, NewContent::Nothing);
    assert_eq!(absorb(&[], vec![], [], false).unwrap().news, NewContent::Nothing);
}

#[test]
fn more_changes_than_a_push_takes_become_one_snapshot() {
    let document = long();
    let all = changes(&document);
    let most = limits::PUSH_CHANGES;
    let held = all.len() - most;
    let found = new(absorb(&[&document.save()], vec![], all[..held].to_vec(), false).unwrap());
    assert_eq!(found.len(), most);
    let absorbed = absorb(&[&document.save()], vec![], all[..held - 1].to_vec(), false).unwrap();
    let NewContent::Snapshot(compacted) = &absorbed.news else { panic!("{absorbed:?}") };
    assert_eq!(compacted.changes as usize, all.len());
    assert_eq!(compacted.heads, document.get_heads());
    assert_eq!(hashes(&changes(&load(&compacted.snapshot))), hashes(&all));
    let in_a_worker =
        supervisor(&[]).absorb(&[&document.save()], &[], all[..held - 1].to_vec(), false);
    assert_eq!(in_a_worker.unwrap(), absorbed);
    // The snapshot includes the changes that only the relay has.
    let mut other = document.fork().with_actor([2; 16].into());
    other.empty_commit(Default::default());
    let mine = changes(&other);
    let absorbed = absorb(&[&document.save()], vec![], vec![], false).unwrap();
    assert!(matches!(absorbed.news, NewContent::Snapshot(_)));
    let both = absorb(&[&other.save()], vec![], all[..10].to_vec(), false).unwrap();
    let NewContent::Snapshot(compacted) = both.news else { panic!() };
    assert_eq!(compacted.changes as usize, mine.len());
    // A few large changes do not fit into one push either.
    let mut heavy = empty(3);
    for number in 0..3u32 {
        let bytes = (0..3 << 20).map(|at: u32| (at.wrapping_mul(0x9e37_79b9) >> 24) as u8 ^ 7);
        let mut tx = heavy.transaction();
        tx.put(ROOT, number.to_string(), bytes.collect::<Vec<u8>>()).unwrap();
        tx.commit();
    }
    let heavy = changes(&heavy);
    assert!(heavy.len() == 3 && heavy.concat().len() > limits::COMMIT_BYTES);
    let absorbed = supervisor(&[]).absorb(&[&heavy.concat()], &[], [], false).unwrap();
    assert!(matches!(absorbed.news, NewContent::Snapshot(_)), "{absorbed:?}");
}

#[test]
fn histories_without_a_common_root_load_as_one_document() {
    let (mut one, mut two) = (empty(1), empty(2));
    one.empty_commit(Default::default());
    two.empty_commit(Default::default());
    let found = new(absorb(&[&one.save(), &two.save()], vec![], [], false).unwrap());
    assert_eq!(found.len(), 2);
    let found = new(absorb(&[&two.save()], vec![one.save()], [], false).unwrap());
    assert_eq!(found, changes(&two));
}

#[test]
fn a_missing_dependency_is_reported_and_nothing_is_absorbed() {
    let all = changes(&session());
    let missing = hash(&all[50]);
    let parts = [all[..50].concat(), all[51..].concat()];
    let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
    let error = absorb(&parts, vec![], [], false).unwrap_err();
    let CompactionError::History { source, .. } = &error else { panic!("{error}") };
    assert_eq!(*source, HistoryError::MissingDependency { missing });
    let error = supervisor(&[]).absorb(&parts, &[], [], false).unwrap_err();
    assert!(
        matches!(error, WorkerError::Missing { missing: named } if named == missing),
        "{error}"
    );
    // A bundle depends on changes outside it; together with those it is accepted.
    let document = session();
    let bundled = bundle(&document, &all[300..]);
    let error = supervisor(&[]).absorb(&[&bundled], &[], [], false).unwrap_err();
    assert!(matches!(error, WorkerError::Missing { .. }), "{error}");
    let found = supervisor(&[]).absorb(&[&bundled], &[], all[..300].to_vec(), false).unwrap();
    assert_eq!(hashes(&new(found)), hashes(&all[300..]));
}

#[test]
fn changes_that_a_push_would_reject_are_rejected() {
    let (mut one, text) = begun(1);
    type_into(&mut one, &text, 5);
    let all = changes(&one);
    // Another change in the place of an existing one.
    let mut twin =
        load(&compact(&[], all[..3].to_vec()).unwrap().snapshot).with_actor([1; 16].into());
    twin.empty_commit(Default::default());
    let error = absorb(&[&twin.save()], vec![], all.clone(), false).unwrap_err();
    let CompactionError::History { source: HistoryError::ConflictingSequence { held, .. }, .. } =
        error
    else {
        panic!("{error}")
    };
    assert_eq!(held, hash(&all[3]));
    // An actor id of 65 bytes, in a whole document and in a bundle.
    let mut document = Automerge::new().with_actor(vec![1; 65].into());
    document.empty_commit(Default::default());
    let bundled = bundle(&document, &changes(&document));
    for chunk in [document.save(), bundled] {
        let error = absorb(&[&chunk], vec![], [], false).unwrap_err();
        assert!(matches!(error, CompactionError::Form { .. }), "{error}");
    }
    // A single change that passes the preflight is returned for a push, without applying it. In a
    // snapshot it must be applicable.
    let poisoned = [long().save(), poison(&long())].concat();
    supervisor(&[]).absorb(&[&poisoned], &[], [], false).unwrap_err();
}

#[test]
fn malformed_chunks_are_rejected() {
    let whole = session().save();
    let refused = |chunks: &[u8], at: usize| match absorb(&[chunks], vec![], [], false) {
        Err(CompactionError::Chunk { part: 0, at: named, what }) => {
            assert_eq!(named, at, "{what}");
        }
        other => panic!("{other:?}"),
    };
    refused(b"these are somebody's notes", 0);
    refused(&whole[..whole.len() - 1], 0);
    refused(&[&whole[..], &[0]].concat(), whole.len());
    refused(&[&whole[..], &whole[..7]].concat(), whole.len());
    let mut other = whole.clone();
    other[100] ^= 1;
    refused(&other, 0);
    let mut unknown = whole.clone();
    unknown[8] = 4;
    refused(&resealed(unknown), 0);
    // A change whose checksum is wrong, which automerge would accept.
    let mut change = changes(&session())[0].clone();
    change[4] ^= 1;
    refused(&change, 0);
    let document = session();
    let mut bundled = bundle(&document, &changes(&document));
    bundled[5] ^= 1;
    refused(&bundled, 0);
}

#[test]
fn salvage_keeps_the_sound_parts_of_a_damaged_file() {
    let all = changes(&session());
    let mut damaged = all[120..130].concat();
    damaged[50] ^= 1;
    let parts = [all[..100].concat(), b"no chunk".to_vec(), all[100..120].concat(), damaged];
    let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
    assert!(absorb(&parts, vec![], [], false).is_err());
    let absorbed = supervisor(&[]).absorb(&parts, &[], [], true).unwrap();
    assert_eq!(absorb(&parts, vec![], [], true).unwrap(), absorbed);
    let NewContent::Changes(found) = &absorbed.news else { panic!("{absorbed:?}") };
    assert_eq!(hashes(found), hashes(&all[..120]));
    // The damaged chunk, and all changes that depend on it.
    assert_eq!(absorbed.left_out_count, 1 + 10);
    let parts: Vec<usize> = absorbed.left_out.iter().map(|left_out| left_out.part).collect();
    assert_eq!(parts, [[1].as_slice(), &[3; 10]].concat());
    // Only a limited number is listed.
    let absorbed = absorb(&[&all[1..].concat()], vec![], [], true).unwrap();
    assert_eq!(absorbed.news, NewContent::Nothing);
    assert_eq!((absorbed.left_out.len(), absorbed.left_out_count), (100, all.len() as u64 - 1));
}

/// automerge asks for gigabytes to open some of these, and never finishes others. Only the worker dies.
#[test]
fn a_hostile_bundle_kills_at_most_its_worker() {
    let (mut document, text) = begun(1);
    type_into(&mut document, &text, 40);
    let bundled = bundle(&document, &changes(&document));
    let (memory_bytes, time) = (128 << 20, Duration::from_secs(2));
    let small = Supervisor { memory_bytes, time, ..supervisor(&[]) };
    let (mut refused, mut died) = (0, 0);
    let body = bundled.len() - 9;
    // The first one exceeds its memory limit, the second one its time limit.
    for number in [726, 293].into_iter().chain(0..100) {
        let mut mutated = bundled.clone();
        mutated[9 + number * 7919 % body] ^= [0x80, 0xff, 0x7f][number / body];
        match small.absorb(&[&resealed(mutated)], &[], [], false) {
            Ok(absorbed) => assert!(!matches!(absorbed.news, NewContent::Snapshot(_))),
            Err(WorkerError::Died { how, .. }) => {
                assert!(how.contains("SIGABRT"), "{how}");
                died += 1;
            }
            Err(WorkerError::Refused { .. }) => refused += 1,
            Err(WorkerError::Missing { .. } | WorkerError::TimedOut { .. }) => {}
            Err(other) => panic!("{other:?}"),
        }
    }
    assert!(died > 0 && refused > 50, "refused {refused}, died {died}");
    let patient = Supervisor { time: Duration::from_secs(60), ..small };
    assert!(patient.absorb(&[&bundled], &[], [], false).is_ok(), "the next worker works");
}
