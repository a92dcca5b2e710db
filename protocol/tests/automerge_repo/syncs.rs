//! Sync messages against automerge's own decoder and encoder, and against malformed bytes.

use automerge::sync::{self, BloomFilter, ChunkList, MessageVersion, State, SyncDoc};
use automerge::transaction::{CommitOptions, Transactable};
use automerge::{ActorId, Automerge, ROOT};
use landfall_protocol::automerge_repo::sync::{Have, Reply, SyncError, SyncMessage};
use landfall_protocol::{ChangeHash, Code, limits};
use proptest::collection::vec;
use proptest::prelude::*;

use landfall_test_rng::Rng;

fn hashes(most: usize) -> impl Strategy<Value = Vec<ChangeHash>> {
    let sorted = |mut hashes: Vec<ChangeHash>| {
        hashes.sort_unstable();
        hashes
    };
    vec(any::<[u8; 32]>().prop_map(ChangeHash), 0..most).prop_map(sorted)
}

fn have() -> impl Strategy<Value = Have> {
    (hashes(4), hashes(40)).prop_map(|(last_sync, held)| {
        let filter = BloomFilter::from_hashes(held.iter());
        let bytes = filter.to_bytes().len();
        Have { last_sync, filter, entries: held.len() as u32, bytes }
    })
}

fn chunks() -> impl Strategy<Value = Vec<Vec<u8>>> {
    vec(vec(any::<u8>(), 0..300), 0..5)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    #[test]
    fn sync_messages_are_encoded_as_automerge_encodes_them(
        heads in hashes(6),
        need in hashes(6),
        have in vec(have(), 0..3),
        chunks in chunks(),
        takes_whole: bool,
    ) {
        let slices: Vec<&[u8]> = chunks.iter().map(Vec::as_slice).collect();
        let reply = Reply { heads: &heads, need: &need, have: &have, chunks: &slices, takes_whole };
        let bytes = reply.encode().unwrap();
        let theirs = sync::Message {
            heads: heads.clone(),
            need: need.clone(),
            have: have.iter().map(|have| sync::Have {
                last_sync: have.last_sync.clone(),
                bloom: have.filter.clone(),
            }).collect(),
            changes: ChunkList::from(chunks.clone()),
            flags: None,
            version: MessageVersion::V1,
        };
        let mut expected = theirs.clone().encode();
        if takes_whole {
            expected.extend([1, 2]);
        }
        prop_assert_eq!(&bytes, &expected);
        let read = sync::Message::decode(&bytes).unwrap();
        prop_assert_eq!(read.flags.is_some(), takes_whole);
        prop_assert_eq!(sync::Message { flags: None, ..read }, theirs);
        let ours = SyncMessage::decode(&bytes).unwrap();
        prop_assert_eq!(&ours.heads, &heads);
        prop_assert_eq!(&ours.need, &need);
        prop_assert_eq!(&ours.have, &have);
        prop_assert_eq!(&ours.chunks, &slices);
        prop_assert_eq!(ours.flags.is_some(), takes_whole);
    }

    #[test]
    fn arbitrary_bytes_give_at_most_an_error(bytes in vec(any::<u8>(), 0..400)) {
        let mut versioned = vec![0x42];
        versioned.extend(&bytes);
        read(&bytes);
        read(&versioned);
    }
}

/// Decodes, and compares the sizes with the input: nothing larger is allocated.
fn read(bytes: &[u8]) -> bool {
    let Ok(message) = SyncMessage::decode(bytes) else { return false };
    let hashes = message.heads.len() + message.need.len();
    let synced: usize = message.have.iter().map(|have| have.last_sync.len()).sum();
    let filters: usize = message.have.iter().map(|have| have.filter.to_bytes().len()).sum();
    let chunks: usize = message.chunks.iter().map(|chunk| chunk.len()).sum();
    assert!(32 * (hashes + synced) + filters + chunks < bytes.len());
    for have in &message.have {
        // Whatever the filter states, the look-up is safe and short.
        have.filter.contains_hash(&ChangeHash([0x5a; 32]));
    }
    true
}

/// Messages of two real documents that sync: with and without changes, of either version.
fn real_messages(seed: u64) -> Vec<Vec<u8>> {
    let mut rng = Rng::new(seed);
    let mut ends = [1u8, 2].map(|actor| {
        let mut automerge = Automerge::new().with_actor(ActorId::from([actor; 16]));
        for number in 0..rng.below(30) {
            let mut transaction = automerge.transaction();
            transaction.put(ROOT, "key", number as i64).unwrap();
            transaction.commit_with(CommitOptions::default().with_time(0));
        }
        (automerge, State::new())
    });
    let mut messages = Vec::new();
    let mut silent = 0;
    for turn in 0.. {
        let [first, second] = &mut ends;
        let (from, to) = if turn % 2 == 0 { (first, second) } else { (second, first) };
        let Some(mut message) = from.0.generate_sync_message(&mut from.1) else {
            silent += 1;
            if silent == 2 {
                return messages;
            }
            continue;
        };
        silent = 0;
        messages.push(message.clone().encode());
        if seed.is_multiple_of(2) {
            // The relay sends no flags; the other end then sends single changes.
            message.flags = None;
        }
        to.0.receive_sync_message(&mut to.1, message).unwrap();
    }
    messages
}

#[test]
fn messages_of_real_documents_decode_as_in_automerge() {
    let (mut count, mut changes, mut versions) = (0, 0, [0, 0]);
    for bytes in (0..40).flat_map(real_messages) {
        let theirs = sync::Message::decode(&bytes).unwrap();
        let ours = SyncMessage::decode(&bytes).unwrap();
        assert_eq!((&ours.heads, &ours.need), (&theirs.heads, &theirs.need));
        let have: Vec<_> = ours.have.iter().map(|have| (&have.last_sync, &have.filter)).collect();
        let expected: Vec<_> = theirs.have.iter().map(|h| (&h.last_sync, &h.bloom)).collect();
        assert_eq!(have, expected);
        assert!(ours.chunks.iter().copied().eq(theirs.changes.iter()));
        let flags = theirs.flags.unwrap();
        let expected = [sync::MessageFlags::SYNC_RESET, sync::MessageFlags::READ_ONLY];
        let ours_flags = ours.flags.unwrap();
        assert_eq!([ours_flags.reset, ours_flags.read_only], expected.map(|f| flags.contains(f)));
        versions[usize::from(theirs.version == MessageVersion::V2)] += 1;
        (count, changes) = (count + 1, changes + ours.chunks.len());
    }
    assert!(count > 100 && changes > 100 && versions.iter().all(|count| *count > 20));
}

#[test]
fn flags_are_read() {
    let mut state = State::new_read_only();
    let message = Automerge::new().generate_sync_message(&mut state).unwrap();
    let bytes = message.encode();
    let flags = SyncMessage::decode(&bytes).unwrap().flags.unwrap();
    assert!(flags.read_only && !flags.reset);
    let with = |section: &[u8]| {
        let mut bytes = vec![0x42, 0, 0, 0, 0];
        bytes.extend(section);
        SyncMessage::decode(&bytes).unwrap().flags.map(|flags| (flags.reset, flags.read_only))
    };
    assert_eq!(with(&[]), None);
    assert_eq!(with(&[0]), Some((false, false)));
    assert_eq!(with(&[1, 2]), Some((false, false)), "an old byte is no bits");
    assert_eq!(with(&[2, 2, 0x81]), Some((true, false)));
    assert_eq!(with(&[3, 2, 0x81, 0x82]), Some((true, true)));
}

#[test]
fn mutated_messages_decode_or_fail_without_panic() {
    let mut rng = Rng::new(7);
    let messages: Vec<Vec<u8>> = (0..20).flat_map(real_messages).collect();
    let (mut taken, mut refused) = (0, 0);
    for _ in 0..60_000 {
        let mut bytes = messages[rng.below(messages.len())].clone();
        for _ in 0..1 + rng.below(3) {
            let at = rng.below(bytes.len());
            match rng.below(6) {
                0 => bytes[at] ^= 1 << rng.below(8),
                1 => bytes[at] = [0, 0x7f, 0x80, 0xff][rng.below(4)],
                2 => bytes.truncate(at.max(1)),
                3 => bytes.insert(at, 0xff),
                4 => drop(bytes.remove(at.min(bytes.len() - 1))),
                _ => {
                    let end = (at + rng.below(40)).min(bytes.len());
                    let again = bytes[at..end].to_vec();
                    bytes.extend(again);
                }
            }
            if bytes.is_empty() {
                bytes.push(0x42);
            }
        }
        *if read(&bytes) { &mut taken } else { &mut refused } += 1;
    }
    assert!(taken > 1_000 && refused > 1_000, "{taken} {refused}");
}

/// A message whose one `have` is this filter.
fn with_filter(filter: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x42, 0, 0, 1, 0, filter.len() as u8];
    bytes.extend(filter);
    bytes.push(0);
    bytes
}

#[test]
fn the_ten_byte_message_that_divides_by_zero_is_refused() {
    // One entry of no bits.
    let bytes = with_filter(&[1, 0, 7]);
    assert_eq!(bytes.len(), 10);
    let error = SyncMessage::decode(&bytes).unwrap_err();
    assert_eq!(error, SyncError::Filter { entries: 1, bits: 0, probes: 7, bytes: 0 });
    assert_eq!(error.code(), Code::MALFORMED);
    // Entries with bits, but without their bytes.
    assert!(SyncMessage::decode(&with_filter(&[1, 10, 7])).is_err());
    assert!(SyncMessage::decode(&with_filter(&[1, 10, 7, 0])).is_err());
    assert!(SyncMessage::decode(&with_filter(&[1, 10, 7, 0, 0])).is_ok());
}

#[test]
fn the_filter_that_probes_four_thousand_million_times_is_refused() {
    let bytes = with_filter(&[1, 8, 0xff, 0xff, 0xff, 0xff, 0x0f, 0]);
    let error = SyncMessage::decode(&bytes).unwrap_err();
    let probes = u64::from(u32::MAX);
    assert_eq!(error, SyncError::Filter { entries: 1, bits: 8, probes, bytes: 1 });
    let most = limits::SYNC_PROBES as u8;
    assert!(SyncMessage::decode(&with_filter(&[1, 8, most, 0])).is_ok());
    assert!(SyncMessage::decode(&with_filter(&[1, 8, most + 1, 0])).is_err());
    assert!(SyncMessage::decode(&with_filter(&[1, 8, 0, 0])).is_err());
    // Entries and bits whose product overflows.
    let large = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f];
    let filter = [&large[..], &large[..], &[7, 0]].concat();
    assert!(SyncMessage::decode(&with_filter(&filter)).is_err());
}

#[test]
fn a_thousand_filters_are_refused() {
    let one = Have { entries: 1, ..have_of(&ChangeHash([1; 32])) };
    for (count, taken) in
        [(limits::SYNC_HAVES, true), (limits::SYNC_HAVES + 1, false), (1_000, false)]
    {
        let have = vec![one.clone(); count];
        let written = Reply { have: &have, ..Reply::default() }.encode();
        assert_eq!(written.is_ok(), taken, "{count}");
        // The encoder writes nothing that the decoder rejects.
        let bytes = with_haves(&have);
        assert_eq!(SyncMessage::decode(&bytes).is_ok(), taken, "{count}");
        if !taken {
            let error = SyncMessage::decode(&bytes).unwrap_err();
            assert_eq!(written.unwrap_err(), error);
            let (part, limit, actual) = ("have", limits::SYNC_HAVES, count as u64);
            assert_eq!(error, SyncError::TooMany { part, limit, actual });
            assert_eq!(error.code(), Code::TOO_LARGE);
        }
    }
}

/// A message with nothing but `have`s.
fn with_haves(have: &[Have]) -> Vec<u8> {
    let one = Reply { have: &have[..1], ..Reply::default() }.encode().unwrap();
    // After the version, two empty lists and the number of `have`s; before the number of chunks.
    let body = &one[4..one.len() - 1];
    let mut bytes = vec![0x42, 0, 0];
    let mut count = have.len();
    while count > 0x7f {
        bytes.push(count as u8 | 0x80);
        count >>= 7;
    }
    bytes.push(count as u8);
    have.iter().for_each(|_| bytes.extend(body));
    bytes.push(0);
    bytes
}

fn have_of(hash: &ChangeHash) -> Have {
    Have { filter: BloomFilter::from_hashes([hash].into_iter()), ..Have::default() }
}

#[test]
fn lists_of_hashes_are_bounded_by_limit_and_bytes() {
    let many = vec![ChangeHash([7; 32]); limits::SYNC_HASHES + 1];
    let (most, more) = (&many[1..], &many[..]);
    let have = [Have::of(most.to_vec())];
    let longest = Reply { heads: most, need: most, have: &have, ..Reply::default() };
    assert_eq!(SyncMessage::decode(&longest.encode().unwrap()).unwrap().heads, most);
    let have = [Have::of(more.to_vec())];
    for reply in [
        Reply { heads: more, ..Reply::default() },
        Reply { need: more, ..Reply::default() },
        Reply { have: &have, ..Reply::default() },
    ] {
        let error = reply.encode().unwrap_err();
        assert!(matches!(error, SyncError::TooMany { actual: 131_073, .. }), "{error}");
    }
    // 131,073 heads, written by hand.
    let mut bytes = vec![0x42, 0x81, 0x80, 0x08];
    more.iter().for_each(|hash| bytes.extend(hash.0));
    bytes.extend([0, 0, 0]);
    let error = SyncMessage::decode(&bytes).unwrap_err();
    assert!(matches!(error, SyncError::TooMany { part: "heads", actual: 131_073, .. }), "{error}");
    // So many hashes are claimed but absent: nothing is allocated for them.
    let mut bytes = vec![0x42, 0x80, 0x80, 0x08];
    bytes.extend([7; 64]);
    assert_eq!(SyncMessage::decode(&bytes), Err(SyncError::Truncated { part: "heads" }));
}

#[test]
fn chunks_that_are_longer_than_the_message_are_refused() {
    for claimed in [&[4u8][..], &[0xff, 0x7f], &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]] {
        let mut bytes = vec![0x42, 0, 0, 0, 1];
        bytes.extend(claimed);
        bytes.extend(b"abc");
        assert_eq!(SyncMessage::decode(&bytes), Err(SyncError::Truncated { part: "chunks" }));
    }
    // More chunks than bytes.
    let bytes = [0x42, 0, 0, 0, 0xff, 0x7f, 0, 0, 0];
    let error = SyncMessage::decode(&bytes).unwrap_err();
    assert!(matches!(error, SyncError::TooMany { part: "chunks", .. }));
    // Many empty chunks: each would cost an allocation.
    for (count, is_taken) in [(limits::SYNC_CHUNKS, true), (limits::SYNC_CHUNKS + 1, false)] {
        let mut bytes = vec![0x42, 0, 0, 0];
        bytes.extend([count as u8 | 0x80, (count >> 7) as u8 | 0x80, (count >> 14) as u8]);
        bytes.extend(vec![0; count]);
        assert_eq!(SyncMessage::decode(&bytes).is_ok(), is_taken, "{count}");
    }
    // An unknown version, and an empty message.
    assert_eq!(SyncMessage::decode(&[0x44]), Err(SyncError::Version { found: 0x44 }));
    assert_eq!(SyncMessage::decode(&[]), Err(SyncError::Truncated { part: "version" }));
}
