//! Tests of the packed index: against a plain model, on golden bytes, and on damaged ones.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

fn hash(number: usize) -> ChangeHash {
    use sha2::{Digest, Sha256};
    ChangeHash(Sha256::digest(number.to_le_bytes()).into())
}

fn actor(number: usize) -> ActorId {
    ActorId::from(&[vec![7; 15], vec![number as u8]].concat()[..])
}

/// A change by an actor's number, its operations, and the positions of its dependencies.
type Sketch = (usize, u64, Vec<usize>);

fn drawn(sketches: &[Sketch]) -> Vec<CompactedChange> {
    let mut changes: Vec<CompactedChange> = Vec::new();
    for (position, (by, operations, dependencies)) in sketches.iter().enumerate() {
        let actor = actor(*by);
        let seq = changes.iter().filter(|change| change.actor == actor).count() as u64 + 1;
        let past = dependencies.iter().map(|&at| changes[at].max_op).max().unwrap_or(0);
        let dependencies = dependencies.iter().map(|&at| changes[at].hash).collect();
        let (hash, max_op) = (hash(position), past + operations);
        changes.push(CompactedChange { hash, actor, seq, max_op, dependencies });
    }
    changes
}

/// One typing actor: each change depends on the one before.
fn typing(count: usize) -> Vec<CompactedChange> {
    let sketches: Vec<Sketch> =
        (0..count).map(|at| (0, 1, if at == 0 { vec![] } else { vec![at - 1] })).collect();
    drawn(&sketches)
}

fn sketches() -> impl Strategy<Value = Vec<Sketch>> {
    let one = (0usize..5, 0u64..300, prop::collection::vec(any::<prop::sample::Index>(), 0..4));
    prop::collection::vec(one, 0..60).prop_map(|drawn| {
        let made = drawn.into_iter().enumerate().map(|(position, (by, operations, at))| {
            let at = at.into_iter().filter(|_| position > 0).map(|index| index.index(position));
            let mut seen = BTreeSet::new();
            (by, operations, at.filter(|&at| seen.insert(at)).collect())
        });
        made.collect()
    })
}

/// `have` and all of its ancestors.
fn reached(changes: &[CompactedChange], have: &[ChangeHash]) -> BTreeSet<ChangeHash> {
    let mut reached = BTreeSet::new();
    let mut next = have.to_vec();
    while let Some(hash) = next.pop() {
        if let Some(change) = changes.iter().find(|change| change.hash == hash)
            && reached.insert(hash)
        {
            next.extend(&change.dependencies);
        }
    }
    reached
}

proptest! {
    #[test]
    fn the_packed_index_answers_like_a_list_of_changes(
        sketches in sketches(),
        asked in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        let changes = drawn(&sketches);
        let packed = PackedIndex::pack(&changes).unwrap();
        let index = PackedIndex::parse(packed.clone()).unwrap();
        prop_assert_eq!(index.as_bytes(), &packed[..]);
        prop_assert_eq!(index.len(), changes.len());
        prop_assert_eq!(index.is_empty(), changes.is_empty());
        prop_assert_eq!(&index.changes().collect::<Vec<_>>(), &changes);
        prop_assert_eq!(PackedIndex::pack(&index.changes().collect::<Vec<_>>()).unwrap(), packed);
        for change in &changes {
            let CompactedChange { hash, actor, seq, max_op, dependencies } = change.clone();
            prop_assert_eq!(index.find(&hash), Some(FoundChange { actor: actor.clone(), seq, max_op }));
            prop_assert_eq!(index.at(&actor, seq), Some(hash));
            prop_assert_eq!(index.dependencies(&hash), Some(dependencies));
        }
        let mut last = Vec::new();
        for number in 0..6 {
            let of: Vec<_> = changes.iter().filter(|c| c.actor == actor(number)).collect();
            let seq = of.len() as u64;
            let expected = of.last().map(|change| LastOfActor {
                actor: actor(number), seq, hash: change.hash, max_op: change.max_op,
            });
            prop_assert_eq!(index.last(&actor(number)), expected.clone());
            prop_assert_eq!(index.at(&actor(number), 0), None);
            prop_assert_eq!(index.at(&actor(number), seq + 1), None);
            last.extend(expected);
        }
        prop_assert_eq!(index.actors().collect::<Vec<_>>(), last);
        let followed: BTreeSet<_> = changes.iter().flat_map(|c| c.dependencies.clone()).collect();
        let heads: BTreeSet<_> = changes.iter().map(|c| c.hash).collect();
        let heads: Vec<_> = heads.difference(&followed).copied().collect();
        prop_assert_eq!(index.heads(), heads.clone());
        prop_assert!(index.covers(&heads));
        // Some known hashes and some unknown ones.
        let have: Vec<_> = asked.iter().map(|index| hash(index.index(changes.len() + 3))).collect();
        let reached = reached(&changes, &have);
        let missing: Vec<_> =
            changes.iter().map(|c| c.hash).filter(|hash| !reached.contains(hash)).collect();
        prop_assert_eq!(index.covers(&have), missing.is_empty());
        prop_assert_eq!(index.missing(&have), missing);
    }

    #[test]
    fn damaged_bytes_are_refused_and_never_panic(
        sketches in sketches(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in prop::option::of(any::<prop::sample::Index>()),
        repair in any::<bool>(),
    ) {
        let packed = PackedIndex::pack(&drawn(&sketches)).unwrap();
        let mut bytes = packed.clone();
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        for (at, with) in edits.iter().filter(|_| !packed.is_empty()) {
            if let Some(byte) = bytes.get_mut(at.index(packed.len())) {
                *byte ^= with;
            }
        }
        let mut harmed = bytes != packed;
        if repair && bytes.len() > CHECKSUM_BYTES {
            // A forged checksum lets the bytes reach the later checks.
            let end = bytes.len() - CHECKSUM_BYTES;
            let sum = checksum(&bytes[..end]);
            bytes[end..].copy_from_slice(&sum);
            harmed = false;
        }
        if let Ok(index) = PackedIndex::parse(bytes.clone()) {
            prop_assert!(!harmed);
            let changes: Vec<_> = index.changes().collect();
            prop_assert_eq!(PackedIndex::pack(&changes).unwrap(), bytes, "one written form");
            index.missing(&index.heads());
            index.missing(&[]);
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = PackedIndex::parse(bytes.clone());
        bytes.splice(..0, MAGIC.into_iter().chain([VERSION]));
        bytes.extend(checksum(&bytes));
        let _ = PackedIndex::parse(bytes);
    }
}

#[test]
fn the_encoding_is_stable() {
    // Two actors; a fork and its merge; an empty change; distances of one and two bytes.
    let fork: [Sketch; 4] =
        [(1, 1, vec![]), (0, 300, vec![0]), (1, 2, vec![0]), (1, 0, vec![1, 2])];
    let packed = PackedIndex::pack(&drawn(&fork)).unwrap();
    let mut expected = b"LFPI\x01\x02".to_vec();
    for last in [0, 1] {
        expected.push(16);
        expected.extend([7; 15]);
        expected.push(last);
    }
    expected.push(4);
    (0..4).for_each(|position| expected.extend(hash(position).0));
    expected.extend([1, 1, 0]);
    expected.extend([0, 0xac, 0x02, 1, 1]);
    expected.extend([1, 2, 1, 2]);
    expected.extend([1, 0, 2, 2, 1]);
    let sum: String = packed[expected.len()..].iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(packed[..expected.len()], expected);
    assert_eq!(sum, "913e10ce5511227ea5c0b91254c2a8a4");
    let empty = PackedIndex::pack(&[]).unwrap();
    assert_eq!(empty[..7], *b"LFPI\x01\0\0");
    assert_eq!(PackedIndex::parse(empty).unwrap().heads(), []);
}

#[test]
fn a_typed_character_takes_36_bytes_on_disk_and_52_in_memory() {
    let index = PackedIndex::parse(PackedIndex::pack(&typing(20_000)).unwrap()).unwrap();
    assert!(index.as_bytes().len() <= 36 * 20_000 + 64, "{}", index.as_bytes().len());
    assert!(index.memory_bytes() <= 52 * 20_000 + 512, "{}", index.memory_bytes());
}

#[test]
fn two_concurrent_typists_take_less_than_40_bytes_a_change() {
    // Each change depends on its actor's last one, with an occasional merge.
    let sketch = |at: usize| match at {
        0 => (0, 1, vec![]),
        1 => (1, 1, vec![0]),
        at if at % 500 == 0 => (0, 0, vec![at - 2, at - 1]),
        at => (at % 2, 1, vec![at - 2]),
    };
    let changes = drawn(&(0..4_000).map(sketch).collect::<Vec<_>>());
    let packed = PackedIndex::pack(&changes).unwrap();
    assert!(packed.len() < 40 * changes.len(), "{}", packed.len());
}

#[test]
fn an_invalid_history_is_not_packed() {
    let good = typing(3);
    let refused = |spoil: &dyn Fn(&mut Vec<CompactedChange>)| {
        let mut changes = good.clone();
        spoil(&mut changes);
        PackedIndex::pack(&changes).unwrap_err()
    };
    let at = |error: BadIndex| match error {
        BadIndex::Change { position, .. } => position,
        other => panic!("{other}"),
    };
    assert_eq!(at(refused(&|changes| changes.swap(1, 2))), 1, "a dependency on a later change");
    assert_eq!(at(refused(&|changes| changes[2].seq = 4)), 2, "a hole in the sequence");
    assert_eq!(at(refused(&|changes| changes[2].hash = changes[0].hash)), 2, "a hash twice");
    assert_eq!(at(refused(&|changes| changes[2].max_op = 1)), 2, "counters that go back");
    assert_eq!(at(refused(&|changes| changes[1].max_op = limits::OPERATION_COUNTER + 1)), 1);
    assert_eq!(at(refused(&|changes| changes[1].dependencies.push(hash(0)))), 1, "twice");
    assert_eq!(at(refused(&|changes| changes[1].dependencies[0] = hash(9))), 1, "unknown");
    let empty = refused(&|changes| changes[0].actor = ActorId::from(&[][..]));
    assert!(matches!(empty, BadIndex::Actor { number: 0, .. }), "{empty}");
}

#[test]
fn oversized_claims_allocate_nothing() {
    let mut bytes = MAGIC.to_vec();
    // A hundred million actors.
    bytes.extend([VERSION, 0x80, 0xc2, 0xd7, 0x2f]);
    bytes.extend(checksum(&bytes));
    assert_eq!(PackedIndex::parse(bytes).unwrap_err(), BadIndex::Truncated { part: "actors" });
    let mut bytes = MAGIC.to_vec();
    bytes.extend([VERSION, 0, 0x80, 0xc2, 0xd7, 0x2f]);
    bytes.extend(checksum(&bytes));
    assert_eq!(PackedIndex::parse(bytes).unwrap_err(), BadIndex::Truncated { part: "changes" });
}

#[test]
fn each_kind_of_damage_has_its_error() {
    let good = PackedIndex::pack(&typing(2)).unwrap();
    let with = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        PackedIndex::parse(bytes).unwrap_err()
    };
    assert_eq!(with(0, b'X'), BadIndex::Magic);
    assert_eq!(with(4, 2), BadIndex::Version { found: 2 });
    assert_eq!(with(40, !good[40]), BadIndex::Checksum);
    assert_eq!(PackedIndex::parse(vec![]).unwrap_err(), BadIndex::Truncated { part: "checksum" });
}
