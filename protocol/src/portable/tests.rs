//! A file reads back as written, in pieces of any length; a truncated or damaged one is rejected.

use proptest::collection::vec;
use proptest::prelude::*;
use sha2::{Digest, Sha256};

use super::*;

fn document(number: u8) -> Record {
    Record::Document(DocumentId::from_bytes([number; 16]))
}

fn change(number: u8, length: usize) -> Record {
    let (at_ms, flags) = (u64::from(number), 8);
    Record::Change { at_ms, flags, author: vec![number; 16], chunk: vec![number; length] }
}

fn sample() -> Vec<Record> {
    let snapshot = vec![9; limits::PART_BYTES + 1];
    let hash = Sha256::digest(&snapshot).into();
    let mut records = vec![
        document(1),
        change(1, 5),
        change(2, 1),
        document(2),
        Record::Tombstone { at_ms: 7, author: b"who".to_vec() },
        document(3),
        Record::Snapshot { hash, bytes: snapshot.len() as u64 },
    ];
    records.extend(snapshot.chunks(limits::PART_BYTES).map(|part| Record::Part(part.to_vec())));
    records.extend([change(3, 300), document(4)]);
    records
}

fn space() -> SpaceName {
    "notes".parse().unwrap()
}

fn file(records: &[Record]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut encoder = Encoder::new(&space(), 1_700_000_000_000, &mut out);
    records.iter().for_each(|record| encoder.add(record, &mut out).unwrap());
    assert_eq!(encoder.bytes(), out.len() as u64);
    encoder.finish(&mut out).unwrap();
    out
}

/// Reads a file in pieces of `piece` bytes.
fn read(file: &[u8], piece: usize) -> Result<(Vec<Record>, Counts), PortableError> {
    let mut decoder = Decoder::new();
    let mut records = Vec::new();
    for piece in file.chunks(piece) {
        decoder.feed(piece);
        while let Some(record) = decoder.next()? {
            records.push(record);
        }
    }
    Ok((records, decoder.finish()?))
}

#[test]
fn a_file_is_read_back_in_pieces_of_any_size() {
    let file = file(&sample());
    for piece in [1, 2, 7, 4096, file.len()] {
        let (records, counts) = read(&file, piece).unwrap();
        let expected = Counts { documents: 4, tombstones: 1, snapshots: 1, changes: 3 };
        assert_eq!(counts, expected);
        assert_eq!(records[0], Record::Space { name: space(), at_ms: 1_700_000_000_000 });
        assert_eq!(records[1..records.len() - 1], sample());
        assert_eq!(records.last(), Some(&Record::End(expected)));
    }
}

/// Written by the release that introduced the format: it must stay readable forever.
const GOLDEN: &str = "6c6673706163651a0100 \
    010d0000000068e5cf8b0100006e6f746573 \
    021000000001010101010101010101010101010101 \
    061d0000000100000000000000080010010101010101010101010101010101010101 \
    021000000002020202020202020202020202020202 \
    030b000000070000000000000077686f \
    07400000000200000000000000010000000000000000000000000000000100000000000000";

#[test]
fn the_bytes_are_as_documented() {
    let tombstone = Record::Tombstone { at_ms: 7, author: b"who".to_vec() };
    let file = file(&[document(1), change(1, 2), document(2), tombstone]);
    let hex: String = file.iter().map(|byte| format!("{byte:02x}")).collect();
    let golden: String = GOLDEN.split_whitespace().collect();
    let (content, hash) = hex.split_at(hex.len() - 64);
    assert_eq!(content, golden);
    let expected: [u8; 32] = Sha256::digest(&file[..file.len() - 32]).into();
    assert_eq!(hash, expected.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
}

#[test]
fn a_file_that_is_truncated_anywhere_is_refused() {
    let file = file(&[document(1), change(1, 5), document(2), change(2, 9)]);
    for length in 0..file.len() {
        let error = read(&file[..length], 11).unwrap_err();
        let expected = match length {
            0 => PortableError::NotPortable,
            length => PortableError::Cut { bytes: length as u64 },
        };
        assert_eq!(error, expected);
    }
    let longer = [file.as_slice(), b"x"].concat();
    assert_eq!(read(&longer, 11), Err(PortableError::Trailing { at: file.len() as u64 }));
}

#[test]
fn a_flipped_bit_anywhere_is_detected() {
    let file = file(&[document(1), change(1, 5), document(2)]);
    for bit in 0..file.len() * 8 {
        let mut damaged = file.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert!(read(&damaged, 4096).is_err(), "bit {bit}");
    }
}

#[test]
fn an_unknown_record_is_skipped_only_if_optional() {
    let whole = file(&[document(1), change(1, 5)]);
    let end = whole.len() - RECORD_HEADER - 64;
    let with = |kind: u8| {
        let mut file = whole[..end].to_vec();
        file.extend([kind, 3, 0, 0, 0, 1, 2, 3]);
        file.extend(&whole[end..whole.len() - 32]);
        let hash = Sha256::digest(&file);
        file.extend(hash);
        file
    };
    assert_eq!(read(&with(200), 3), read(&whole, 3));
    assert!(matches!(read(&with(99), 3), Err(PortableError::Record { .. })));
    let mut newer = whole.clone();
    newer[8] = 2;
    assert_eq!(read(&newer, 3), Err(PortableError::Version { found: 2 }));
    assert_eq!(read(b"SQLite format 3\0", 5), Err(PortableError::NotPortable));
}

#[test]
fn records_in_an_impossible_order_are_refused_by_both_sides() {
    let tombstone = || Record::Tombstone { at_ms: 7, author: Vec::new() };
    let snapshot = |bytes| Record::Snapshot { hash: [0; 32], bytes };
    let part = |bytes| Record::Part(vec![0; bytes]);
    let impossible: [&[Record]; 10] = [
        &[change(1, 1)],
        &[document(1), change(1, 1), tombstone()],
        &[document(1), tombstone(), change(1, 1)],
        &[document(1), change(1, 1), snapshot(4)],
        &[document(1), snapshot(0)],
        &[document(1), snapshot(limits::SNAPSHOT_BYTES as u64 + 1)],
        &[document(1), snapshot(4), part(5)],
        &[document(1), snapshot(4), part(2), document(2)],
        &[document(1), change(1, limits::CHANGE_BYTES + 1)],
        &[Record::Space { name: space(), at_ms: 0 }],
    ];
    for records in impossible {
        let mut out = Vec::new();
        let mut encoder = Encoder::new(&space(), 0, &mut out);
        let (last, before) = records.split_last().unwrap();
        before.iter().for_each(|record| encoder.add(record, &mut out).unwrap());
        let length = out.len();
        let error = encoder.add(last, &mut out).unwrap_err();
        assert!(matches!(error, PortableError::Record { .. }), "{last:?}");
        assert_eq!(out.len(), length, "nothing was appended");
    }
    let mut out = Vec::new();
    let mut encoder = Encoder::new(&space(), 0, &mut out);
    for record in [document(1), snapshot(4), part(2)] {
        encoder.add(&record, &mut out).unwrap();
    }
    assert!(encoder.finish(&mut out).is_err(), "in the midst of a snapshot");
}

#[test]
fn a_snapshot_that_does_not_have_its_hash_is_refused() {
    let records =
        [document(1), Record::Snapshot { hash: [1; 32], bytes: 3 }, Record::Part(vec![1, 2, 3])];
    let error = read(&file(&records), 64).unwrap_err();
    assert!(matches!(error, PortableError::Record { .. }), "{error}");
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic_and_use_bounded_memory(
        bytes in vec(any::<u8>(), 0..600), at in 0usize..400, piece in 1usize..50,
    ) {
        let _ = read(&bytes, piece);
        let _ = read(&[&MAGIC[..], &[1, 0], &bytes].concat(), piece);
        let mut file = file(&sample()[..5]);
        let at = at.min(file.len());
        let is_whole = bytes.is_empty();
        file.splice(at..at, bytes);
        prop_assert_eq!(read(&file, piece).is_ok(), is_whole);
    }
}
