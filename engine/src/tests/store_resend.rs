//! A store's answers to a relay's resend requests.

use landfall_protocol::{ChangeHash, limits};
use landfall_test_rng::Rng;

use super::store_support::{Author, Bench, id};
use crate::store::{Resendable, whole};

fn changes(bench: &Bench, document: u8, named: &[ChangeHash]) -> Vec<Vec<u8>> {
    match bench.log.resendable(bench.space, &id(document), named).unwrap() {
        Resendable::Changes(changes) => changes,
        Resendable::Whole(..) => panic!("all of it"),
    }
}

#[test]
fn requested_changes_are_returned_in_order_within_the_window() {
    let bench = Bench::new();
    let mut author = Author::new(1, 1);
    let mut made = author.puts(5);
    made.extend((0..4).map(|at| author.put(&format!("k{at}"), &noise(3_000_000 + at))));
    bench.append_all(id(1), &made);
    let bytes = |at: usize| made[at].bytes.clone();
    let named = [made[3].hash, ChangeHash([9; 32]), made[0].hash];
    assert_eq!(changes(&bench, 1, &named), [bytes(0), bytes(3)]);
    assert_eq!(changes(&bench, 1, &[ChangeHash([9; 32])]), Vec::<Vec<u8>>::new());
    assert_eq!(changes(&bench, 2, &named), Vec::<Vec<u8>>::new(), "no such document");
    let large: Vec<ChangeHash> = made[5..].iter().map(|change| change.hash).collect();
    let given = changes(&bench, 1, &large);
    assert_eq!(given, [bytes(5)], "the relay asks for the rest again");
    assert!(2 * given[0].len() > limits::PUSH_WINDOW_BYTES);
}

/// Text that does not compress.
fn noise(length: usize) -> String {
    let mut rng = Rng::new(length as u64);
    let letter = |_| char::from(33 + rng.below(90) as u8);
    (0..length).map(letter).collect()
}

#[test]
fn compacted_changes_are_resent_in_one_snapshot_of_everything() {
    let bench = Bench::new();
    let mut author = Author::new(1, 1);
    let made = author.puts(30);
    bench.append_all(id(1), &made);
    bench.compact();
    let tail = author.puts(3);
    bench.append_all(id(1), &tail);
    assert_eq!(changes(&bench, 1, &[tail[1].hash]), [tail[1].bytes.clone()]);
    // One of the two is compacted; and the whole document.
    for named in [&[tail[1].hash, made[4].hash][..], &[]] {
        let found = bench.log.resendable(bench.space, &id(1), named).unwrap();
        let Resendable::Whole(input, weight) = found else { panic!("single changes") };
        let compacted = whole(input).unwrap();
        assert_eq!((compacted.changes, weight.changes), (33, 33));
        assert!(weight.bytes > 0, "{weight:?}");
        assert_eq!(compacted.heads, author.heads());
    }
}

/// The cost of a compaction depends on its changes and operations: many of them may have few bytes.
#[test]
fn a_resent_snapshot_reports_the_weight_of_its_input() {
    let bench = Bench::new();
    let mut author = Author::new(1, 1);
    let made: Vec<_> = (0..2_000).map(|n| author.put("key", &n.to_string())).collect();
    made.chunks(1_000).for_each(|some| bench.append_all(id(1), some));
    let found = bench.log.resendable(bench.space, &id(1), &[]).unwrap();
    let Resendable::Whole(input, weight) = found else { panic!("single changes") };
    assert_eq!(weight.changes, 2_000);
    assert!(weight.operations >= 2_000, "{weight:?}");
    let made = whole(input).unwrap();
    let by_changes = weight.changes * limits::RESEND_CHANGE_BYTES;
    assert!(by_changes > 10 * made.snapshot.len() as u64, "{} bytes", made.snapshot.len());
}
