//! Changes that automerge makes pass, and the preflight reports the same fields as automerge.

use automerge::marks::{ExpandMark, Mark};
use automerge::transaction::{CommitOptions, Transactable};
use automerge::{ActorId, AutoCommit, ObjType, ROOT, ReadDoc, ScalarValue};

use super::*;

/// Asserts that all changes of a document pass, in every form; returns the number of their
/// operations.
fn all_pass(document: &mut AutoCommit) -> u64 {
    let mut operations = 0;
    for change in document.get_changes(&[]) {
        let checked = preflight(change.raw_bytes()).unwrap_or_else(|e| panic!("{e}"));
        reports_the_same(&checked, &change);
        assert_eq!(checked.bytes, change.raw_bytes());
        assert_eq!(checked.inflated_bytes, change.raw_bytes().len());
        assert_eq!(rebuilt(&change), change.raw_bytes());

        let deflated = change.clone().bytes().into_owned();
        let from_deflated = preflight(&deflated).unwrap_or_else(|e| panic!("{e}"));
        reports_the_same(&from_deflated, &change);
        assert_eq!(from_deflated.inflated_bytes, change.raw_bytes().len());
        assert_eq!(from_deflated.into_bytes(), deflated);

        let local = CheckedChange::from_local(&change).unwrap_or_else(|e| panic!("{e}"));
        reports_the_same(&local, &change);
        assert_eq!(local.bytes, change.raw_bytes());
        operations += checked.operations;
    }
    operations
}

fn reports_the_same(checked: &CheckedChange, change: &Change) {
    assert_eq!(checked.hash, change.hash());
    assert_eq!(checked.actor, *change.actor_id());
    assert_eq!(checked.seq, change.seq());
    assert_eq!(checked.start_op, change.start_op().get());
    assert_eq!(checked.max_op, change.max_op());
    assert_eq!(checked.operations, change.len() as u64);
    assert_eq!(checked.dependencies, change.deps());
    assert_eq!(checked.other_actors, change.other_actor_ids());
}

#[test]
fn a_handmade_draft_equals_automerges_change() {
    let mut document = AutoCommit::new().with_actor(ActorId::from(&[0xaa, 0xbb][..]));
    document.put(ROOT, "k", 1).unwrap();
    let change = document.get_last_local_change().unwrap();
    assert_eq!(seal(&Draft::put().body()), change.raw_bytes());
    assert!(Draft::overwrite().check().is_ok());
    assert!(Draft::insert().check().is_ok());
}

#[test]
fn every_kind_of_value_and_object() {
    let mut document = AutoCommit::new();
    let values: Vec<ScalarValue> = vec![
        "text".into(),
        "ü".repeat(5_000).into(),
        ScalarValue::Bytes(vec![0; 300]),
        i64::MIN.into(),
        u64::MAX.into(),
        f64::NAN.into(),
        true.into(),
        false.into(),
        ScalarValue::Null,
        ScalarValue::Timestamp(-1),
        ScalarValue::counter(i64::MAX),
    ];
    for (index, value) in values.iter().enumerate() {
        document.put(ROOT, format!("key {index}"), value.clone()).unwrap();
    }
    document.put(ROOT, "", 0).unwrap();
    document.commit();
    let list = document.put_object(ROOT, "list", ObjType::List).unwrap();
    for value in &values {
        document.insert(&list, 0, value.clone()).unwrap();
    }
    let map = document.insert_object(&list, 3, ObjType::Map).unwrap();
    document.put(&map, "deep", 1).unwrap();
    document.commit();
    document.increment(ROOT, "key 10", -5).unwrap();
    document.put(&list, 2, "over").unwrap();
    document.delete(&list, 3).unwrap();
    document.delete(ROOT, "key 0").unwrap();
    document.delete(&map, "deep").unwrap();
    assert!(all_pass(&mut document) > 25);
}

#[test]
fn messages_times_and_empty_changes() {
    let mut document = AutoCommit::new();
    document.put(ROOT, "k", 1).unwrap();
    let options = CommitOptions::default().with_message("why: ä").with_time(-1_700_000_000);
    document.commit_with(options);
    document.empty_change(CommitOptions::default().with_time((1 << 53) - 1));
    document.put(ROOT, "k", 2).unwrap();
    assert_eq!(all_pass(&mut document), 2);
}

#[test]
fn text_with_marks_and_blocks() {
    let mut document = AutoCommit::new();
    let text = document.put_object(ROOT, "text", ObjType::Text).unwrap();
    document.splice_text(&text, 0, 0, "The quick brown fox").unwrap();
    document.commit();
    let marks = [("bold", true.into()), ("link", "https://x".into()), ("size", 12.into())];
    for (start, (name, value)) in marks.into_iter().enumerate() {
        let value: ScalarValue = value;
        let mark = Mark::new(name.to_owned(), value, start, start + 7);
        document.mark(&text, mark, ExpandMark::Both).unwrap();
        document.splice_text(&text, start, 1, "é").unwrap();
    }
    document.commit();
    document.unmark(&text, "bold", 0, 3, ExpandMark::After).unwrap();
    let block = document.split_block(&text, 4).unwrap();
    document.put(&block, "type", "paragraph").unwrap();
    document.commit();
    document.splice_text(&text, 2, 9, "").unwrap();
    all_pass(&mut document);
}

#[test]
fn a_large_paste_and_its_deletion() {
    let mut document = AutoCommit::new();
    let text = document.put_object(ROOT, "text", ObjType::Text).unwrap();
    let pasted: String =
        (0..100_000u32).map(|n| char::from(b'a' + (n / 7 * 3 % 25) as u8)).collect();
    document.splice_text(&text, 0, 0, &pasted).unwrap();
    document.commit();
    document.splice_text(&text, 500, 80_000, "").unwrap();
    document.commit();
    document.splice_text(&text, 100, 300, "some words over others").unwrap();
    let operations = all_pass(&mut document);
    assert_eq!(operations, 1 + 100_000 + 80_000 + 300 + 22);
}

#[test]
fn a_thousand_actors_meet() {
    let mut document = AutoCommit::new().with_actor(ActorId::from([0x77; 16]));
    let list = document.put_object(ROOT, "list", ObjType::List).unwrap();
    document.put(ROOT, "contested", "start").unwrap();
    document.commit();
    let mut base = document.clone();
    for n in 0..999u16 {
        let mut id = [0x33; 16];
        // Some sort before the merging actor, some after.
        id[0] = (n % 251) as u8;
        id[1..3].copy_from_slice(&n.to_be_bytes());
        let mut peer = base.fork().with_actor(ActorId::from(id));
        peer.insert(&list, 0, u64::from(n)).unwrap();
        peer.put(ROOT, "contested", u64::from(n)).unwrap();
        document.merge(&mut peer).unwrap();
    }
    document.put(ROOT, "contested", "end").unwrap();
    for index in (0..document.length(&list)).rev().step_by(2) {
        document.delete(&list, index).unwrap();
    }
    document.commit();
    all_pass(&mut document);
    let merging = document.get_last_local_change().unwrap();
    let checked = preflight(merging.raw_bytes()).unwrap();
    assert_eq!((checked.dependencies.len(), checked.other_actors.len()), (1_000, 999));
}

/// Many small edits by a few actors that delete, overwrite and merge, from a fixed seed.
#[test]
fn a_busy_document() {
    let mut random = landfall_test_rng::Rng::new(0x5eed_1234);
    let mut peers: Vec<AutoCommit> = vec![AutoCommit::new().with_actor(ActorId::from([9; 16]))];
    let text = peers[0].put_object(ROOT, "text", ObjType::Text).unwrap();
    let list = peers[0].put_object(ROOT, "list", ObjType::List).unwrap();
    peers[0].put(ROOT, "count", ScalarValue::counter(0)).unwrap();
    for n in 0..3u8 {
        let peer = peers[0].fork().with_actor(ActorId::from([n * 6; 16]));
        peers.push(peer);
    }
    for _ in 0..400 {
        let who = random.below(4) as usize;
        let peer = &mut peers[who];
        let (texts, items) = (peer.length(&text) as u64, peer.length(&list) as u64);
        match random.below(8) {
            0 => peer.splice_text(&text, random.below(texts + 1) as usize, 0, "abcä").unwrap(),
            1 if texts > 4 => {
                peer.splice_text(&text, random.below(texts - 4) as usize, 3, "x").unwrap()
            }
            2 => peer.insert(&list, random.below(items + 1) as usize, items).unwrap(),
            3 if items > 1 => peer.delete(&list, random.below(items) as usize).unwrap(),
            4 if items > 1 => peer.put(&list, random.below(items) as usize, "over").unwrap(),
            5 => peer.increment(ROOT, "count", 3).unwrap(),
            6 => peer.put(ROOT, format!("key {}", random.below(5)), items).unwrap(),
            _ => {
                let whom = random.below(4) as usize;
                peers[whom].commit();
                let mut other = peers[whom].clone();
                peers[who].merge(&mut other).unwrap();
            }
        }
        if random.below(3) > 0 {
            peers[who].commit();
        }
    }
    for n in 1..4 {
        peers[n].commit();
        let mut other = peers[n].clone();
        peers[0].merge(&mut other).unwrap();
    }
    peers[0].delete(ROOT, "key 1").unwrap();
    all_pass(&mut peers[0]);
}

/// automerge stores and sends long values deflated; inflated they may exceed the limit.
#[test]
fn a_local_change_that_is_short_enough_only_when_deflated() {
    let mut document = AutoCommit::new();
    document.put(ROOT, "big", "landfall ".repeat(500_000)).unwrap();
    let change = document.get_last_local_change().unwrap();
    let actual = change.raw_bytes().len();
    let limit = limits::CHANGE_BYTES;
    assert_eq!(preflight(change.raw_bytes()).unwrap_err(), FormError::TooLarge { limit, actual });
    let checked = CheckedChange::from_local(&change).unwrap();
    reports_the_same(&checked, &change);
    assert!(checked.bytes.len() < 100_000);
    assert_eq!(checked.inflated_bytes, actual);
}

/// A change's entry repeats its dependencies, so more dependencies leave fewer bytes.
#[test]
fn a_change_of_many_dependencies_has_fewer_bytes() {
    let mut document = AutoCommit::new().with_actor(ActorId::from([7; 16]));
    document.put(ROOT, "first", 1).unwrap();
    document.commit();
    let with = |dependencies: u64, bytes: usize| {
        let mut document = document.clone();
        document.put(ROOT, "big", vec![0xab; bytes]).unwrap();
        let mut expanded = document.get_last_local_change().unwrap().decode();
        let hash = |n: u64| {
            let mut hash = [0; 32];
            hash[..8].copy_from_slice(&n.to_be_bytes());
            automerge::ChangeHash(hash)
        };
        expanded.deps = (0..dependencies).map(hash).collect();
        expanded.hash = None;
        automerge::Change::from(expanded).raw_bytes().to_vec()
    };
    for dependencies in [1, 1_000, 1_001, 4_000] {
        // Below 1,000 dependencies the limit of all changes is the lower one.
        let limit = limits::CHANGE_ENTRY_BYTES - 32 * dependencies as usize;
        let limit = limit.min(limits::CHANGE_BYTES);
        let about = limit - 32 * dependencies as usize - 1_000;
        let longest = about + limit - with(dependencies, about).len();
        let change = with(dependencies, longest);
        assert_eq!(change.len(), limit);
        let checked = preflight(&change).unwrap();
        assert_eq!(checked.dependencies.len(), dependencies as usize);
        let actual = limit + 1;
        let refused = preflight(&with(dependencies, longest + 1)).unwrap_err();
        assert_eq!(refused, FormError::TooLarge { limit, actual }, "{dependencies} dependencies");
    }
}
