//! Untrusted snapshots.

use automerge::SaveOptions;
use landfall_compaction::{Compacted, CompactionError, absorb, changes_since, compact, inspect};
use landfall_protocol::admission::DocumentError;
use sha2::{Digest, Sha256};

use super::compacting::load;
use super::histories::{begun, changes, poison, session, type_into};

fn inspected(snapshot: &[u8]) -> Result<Compacted, CompactionError> {
    inspect(snapshot, Sha256::digest(snapshot).into())
}

#[test]
fn a_sound_snapshot_is_returned_unchanged() {
    let document = session();
    let snapshot = document.save();
    let compacted = inspected(&snapshot).unwrap();
    assert!(compacted.snapshot == snapshot, "its own bytes");
    assert_eq!(compacted.heads, document.get_heads());
    assert_eq!(compacted.changes, changes(&document).len() as u64);
    assert_eq!(compacted.hash, <[u8; 32]>::from(Sha256::digest(&snapshot)));
    // The same document in another encoding.
    let plain = document.save_with_options(SaveOptions { deflate: false, ..Default::default() });
    assert!(plain != snapshot);
    assert!(inspected(&plain).unwrap().snapshot == plain);
}

#[test]
fn a_snapshot_with_another_change_order_is_sound() {
    // Changes in the order in which a peer received them: first all of one actor, then all of the
    // other.
    let (mut one, text) = begun(1);
    type_into(&mut one, &text, 40);
    let mut two = one.fork().with_actor([2; 16].into());
    type_into(&mut one, &text, 40);
    type_into(&mut two, &text, 40);
    one.merge(&mut two).unwrap();
    two.merge(&mut one).unwrap();
    for document in [one, two] {
        let snapshot = document.save();
        assert!(inspected(&snapshot).unwrap().snapshot == snapshot);
    }
}

/// Reads an unsigned LEB128 number at `at`.
fn number(bytes: &[u8], at: &mut usize) -> usize {
    let (mut value, mut shift) = (0, 0);
    loop {
        let byte = bytes[*at];
        *at += 1;
        value |= usize::from(byte & 0x7f) << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            return value;
        }
    }
}

fn put_number(mut value: usize, out: &mut Vec<u8>) {
    while value > 0x7f {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Returns the snapshot with an additional, unknown column of operations.
fn with_a_column_more(plain: &[u8], data: &[u8]) -> Vec<u8> {
    let mut at = 9;
    number(plain, &mut at);
    let body = at;
    for _ in 0..number(plain, &mut at) {
        at += number(plain, &mut at);
    }
    at += 32 * number(plain, &mut at);
    let columns = |count: usize, at: &mut usize| -> usize {
        (0..count).map(|_| (number(plain, at), number(plain, at)).1).sum()
    };
    let changes = number(plain, &mut at);
    let changes = columns(changes, &mut at);
    let metadata = at;
    let count = number(plain, &mut at);
    let after_count = at;
    let operations = columns(count, &mut at);
    let end = at + changes + operations;
    let mut more = plain[body..metadata].to_vec();
    put_number(count + 1, &mut more);
    more.extend(&plain[after_count..at]);
    // A text column, numbered after automerge's last one.
    put_number((11 << 4) | 5, &mut more);
    put_number(data.len(), &mut more);
    more.extend(&plain[at..end]);
    more.extend(data);
    more.extend(&plain[end..]);
    let mut typed = vec![0];
    put_number(more.len(), &mut typed);
    typed.extend(more);
    let sum = Sha256::digest(&typed);
    [&plain[..4], &sum[..4], &typed].concat()
}

#[test]
fn unknown_columns_are_dropped_from_a_snapshot() {
    let document = session();
    let plain = document.save_with_options(SaveOptions { deflate: false, ..Default::default() });
    let more = with_a_column_more(&plain, b"something hidden");
    assert_eq!(load(&more).get_heads(), document.get_heads(), "automerge loads it");
    let compacted = inspected(&more).unwrap();
    assert_eq!(compacted.heads, document.get_heads());
    assert!(compacted.snapshot != more && compacted.snapshot.len() < plain.len());
    assert!(!compacted.snapshot.windows(9).any(|bytes| bytes == b"something"));
}

#[test]
fn a_snapshot_with_another_hash_is_rejected() {
    let snapshot = session().save();
    assert_eq!(inspect(&snapshot, [0; 32]).unwrap_err(), CompactionError::Hash);
    let orphan = {
        let (mut one, text) = begun(1);
        type_into(&mut one, &text, 2);
        changes(&one).pop().unwrap()
    };
    let error = inspected(&[snapshot, orphan].concat()).unwrap_err();
    assert!(matches!(error, CompactionError::NotADocument { .. }), "{error}");
    let error = inspected(&poison(&session())).unwrap_err();
    assert!(matches!(error, CompactionError::NotADocument { .. }), "{error}");
}

/// 94 bytes that claim so many changes: automerge would take a gigabyte for a million.
fn claiming(changes: i64) -> Vec<u8> {
    let run = |value: u8| {
        let (mut out, mut left) = (Vec::new(), changes);
        while left > 0x3f {
            out.push(left as u8 | 0x80);
            left >>= 7;
        }
        out.extend([left as u8, value]);
        out
    };
    let columns = [(0x01, run(0)), (0x03, run(1)), (0x13, run(0))];
    let mut body = [&[1, 16][..], &[1; 16], &[1], &[7; 32], &[3]].concat();
    columns.iter().for_each(|(spec, data)| body.extend([*spec, data.len() as u8]));
    body.push(0);
    columns.iter().for_each(|(_, data)| body.extend(data));
    body.push(0);
    let mut typed = vec![0];
    put_number(body.len(), &mut typed);
    typed.extend(body);
    [&[0x85, 0x6f, 0x4a, 0x83], &Sha256::digest(&typed)[..4], &typed].concat()
}

#[test]
fn a_snapshot_that_claims_more_than_its_budget_is_never_opened() {
    for changes in [300_000, 1 << 20, i64::MAX] {
        let claims = claiming(changes);
        let over = |error: CompactionError| match error {
            CompactionError::Measured { source: DocumentError::OverBudget(over), .. } => {
                over.actual
            }
            other => panic!("{other}"),
        };
        assert_eq!(over(inspected(&claims).unwrap_err()), changes as u64);
        assert_eq!(over(compact(&[&claims], []).unwrap_err()), changes as u64);
        assert_eq!(over(landfall_compaction::index_of(&claims).unwrap_err()), changes as u64);
        assert_eq!(over(changes_since(&claims, &[]).unwrap_err()), changes as u64);
        let absorbed = absorb(&[&claims], Vec::new(), [], false).unwrap_err();
        assert!(absorbed.to_string().contains(&format!("{changes} changes")), "{absorbed}");
    }
}

#[test]
fn a_snapshot_with_a_change_that_a_push_would_reject_is_rejected() {
    // automerge accepts it, but a relay rejects it: its counters skip as many numbers as the limit.
    let (mut one, text) = begun(1);
    type_into(&mut one, &text, 3);
    let mut last = one.get_last_local_change().unwrap().decode();
    last.start_op = (u64::from(u32::MAX) - 5).try_into().unwrap();
    last.hash = None;
    let mut all = changes(&one);
    all.pop();
    let mut document = load(&compact(&[], all).unwrap().snapshot);
    document.apply_changes([automerge::Change::from(last)]).unwrap();
    let error = inspected(&document.save()).unwrap_err();
    assert!(matches!(error, CompactionError::Form { .. }), "{error}");
    // An actor id of 65 bytes.
    let mut document = automerge::Automerge::new().with_actor(vec![1; 65].into());
    document.empty_commit(Default::default());
    let error = inspected(&document.save()).unwrap_err();
    assert!(matches!(error, CompactionError::Form { .. }), "{error}");
}

#[test]
fn a_damaged_snapshot_is_rejected_or_matches_its_changes() {
    let (mut one, text) = begun(1);
    type_into(&mut one, &text, 60);
    let plain = one.save_with_options(SaveOptions { deflate: false, ..Default::default() });
    let hook = std::panic::take_hook();
    // automerge panics on some of them, which is intended: the hook would print each panic.
    std::panic::set_hook(Box::new(|_| ()));
    let (mut refused, mut taken) = (0, 0);
    let magic_and_checksum = 8;
    for at in (magic_and_checksum..plain.len()).step_by(3) {
        for flip in [1, 0x40, 0xff] {
            let mut damaged = plain.clone();
            damaged[at] ^= flip;
            // With a correct checksum, so that automerge's checksum test is not the one that fails.
            let sum = Sha256::digest(&damaged[magic_and_checksum..]);
            damaged[4..8].copy_from_slice(&sum[..4]);
            match inspected(&damaged) {
                Err(_) => refused += 1,
                Ok(compacted) => {
                    taken += 1;
                    let again = compact(&[], changes(&load(&compacted.snapshot))).unwrap();
                    assert_eq!(again.heads, compacted.heads);
                    let (again, compacted) = (load(&again.snapshot), load(&compacted.snapshot));
                    assert_eq!(again.hydrate(None), compacted.hydrate(None), "byte {at} by {flip}");
                }
            }
        }
    }
    std::panic::set_hook(hook);
    assert!(refused > taken, "{refused} refused, {taken} taken");
}
