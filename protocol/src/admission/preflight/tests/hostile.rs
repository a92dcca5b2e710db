//! Changes that automerge would accept wrongly, panic on, or lose are rejected with the right
//! error.

use super::*;

#[track_caller]
fn refused(draft: Draft, what: &str) {
    let error = draft.check().unwrap_err();
    let shown = format!("{error:?}");
    assert!(shown.contains(what), "expected {what}, found {shown}");
    assert!(!error.to_string().is_empty());
    assert_eq!(preflight(&seal_deflated(&draft.body())).unwrap_err(), error);
}

#[test]
fn the_chunk_is_checked_first() {
    let good = seal(&Draft::put().body());
    assert!(preflight(&good).is_ok());
    assert_eq!(
        preflight(&[&good[..], &[0, 0]].concat()).unwrap_err(),
        FormError::TrailingBytes { part: "chunk", count: 2 }
    );
    let mut flipped = good.clone();
    flipped[4] ^= 1;
    assert!(matches!(preflight(&flipped), Err(FormError::Checksum { .. })));
    assert_eq!(preflight(b"not automerge").unwrap_err(), FormError::Magic { found: *b"not " });
    for found in [0, 3, 4, 255] {
        let chunk = sealed(found, &Draft::put().body(), &Draft::put().body());
        assert_eq!(preflight(&chunk).unwrap_err(), FormError::ChunkType { found });
    }
    let limit = limits::CHANGE_BYTES;
    assert_eq!(
        preflight(&vec![0; limit + 1]).unwrap_err(),
        FormError::TooLarge { limit, actual: limit + 1 }
    );
    // A length that is not in its shortest form, and one that claims all memory.
    let overlong = [&good[..9], &[good[9] | 0x80, 0], &good[10..]].concat();
    assert_eq!(preflight(&overlong).unwrap_err(), FormError::Number { part: "length" });
    let claims_all = [&good[..9], &number(u64::MAX)[..], &good[10..]].concat();
    assert_eq!(preflight(&claims_all).unwrap_err(), FormError::Truncated { part: "body" });
}

#[test]
fn every_truncation_is_refused() {
    let body = [&Draft::insert().body()[..], b"author"].concat();
    for chunk in [seal(&body), seal_deflated(&body)] {
        for end in 0..chunk.len() {
            assert!(preflight(&chunk[..end]).is_err(), "cut at {end}");
        }
    }
    // The same inside a chunk whose length and checksum are correct. The bytes after the columns
    // are free, so a shortened body is valid from the columns' end on.
    let draft = Draft::insert();
    for end in 0..draft.body().len() {
        assert!(preflight(&seal(&draft.body()[..end])).is_err(), "body cut at {end}");
    }
    let author = Draft { extra: vec![0, 3, 1, 2, 3], ..Draft::put() };
    assert_eq!(author.check().unwrap().operations, 1);
}

#[test]
fn deflated_streams_are_bounded() {
    let body = Draft::put().body();
    let limit = limits::CHANGE_INFLATED_BYTES;
    let bomb = deflate(&vec![0; limit + 1]);
    assert!(bomb.len() < 40_000);
    assert_eq!(preflight(&sealed(2, &bomb, &body)).unwrap_err(), FormError::Inflated { limit });
    // Exactly the limit inflates, and then fails the checksum.
    let most = deflate(&vec![0; limit]);
    assert!(matches!(preflight(&sealed(2, &most, &body)), Err(FormError::Checksum { .. })));
    let stream = deflate(&body);
    let longer = sealed(2, &[&stream[..], b"more"].concat(), &body);
    let part = "deflated stream";
    assert_eq!(preflight(&longer).unwrap_err(), FormError::TrailingBytes { part, count: 4 });
    let shorter = sealed(2, &stream[..stream.len() - 1], &body);
    assert_eq!(preflight(&shorter).unwrap_err(), FormError::Truncated { part });
    assert_eq!(preflight(&sealed(2, &[], &body)).unwrap_err(), FormError::Truncated { part });
    assert_eq!(preflight(&sealed(2, &[0xff; 9], &body)).unwrap_err(), FormError::Deflate);
}

#[test]
fn headers_are_within_limits() {
    let put = Draft::put;
    refused(Draft { actor: vec![], ..put() }, "ActorLength { limit: 64, actual: 0 }");
    refused(Draft { actor: vec![1; 65], ..put() }, "ActorLength { limit: 64, actual: 65 }");
    assert!(Draft { actor: vec![1; 64], ..put() }.check().is_ok());
    refused(Draft { seq: 0, ..put() }, "Sequence");
    refused(Draft { seq: 1 << 31, ..put() }, "Sequence");
    refused(Draft { start_op: 0, ..put() }, "Counter");
    refused(Draft { start_op: (1 << 32) - 2, ..put() }, "Counter");
    refused(Draft { start_op: u64::MAX, ..put() }, "Counter");
    for time in [1 << 53, i64::MAX, i64::MIN] {
        refused(Draft { time, ..put() }, "Timestamp");
    }
    refused(Draft { message: vec![0xff], ..put() }, "Message");
    let hash = |n: u32| [&[7; 28][..], &n.to_be_bytes()].concat().try_into().unwrap();
    let many = |count| (0..count).map(hash).collect::<Vec<[u8; 32]>>();
    assert!(Draft { dependencies: many(32_768), ..put() }.check().is_ok());
    refused(Draft { dependencies: many(32_769), ..put() }, "Dependencies { limit: 32768");
    assert!(Draft { dependencies: vec![hash(2), hash(1)], ..put() }.check().is_ok());
    refused(Draft { dependencies: vec![hash(2), hash(1), hash(2)], ..put() }, "Duplicate");
}

#[test]
fn counters_are_bounded_to_leave_room_for_others() {
    let last = limits::OPERATION_COUNTER;
    let at_the_edge = Draft { start_op: last, ..Draft::put() };
    assert_eq!(at_the_edge.check().unwrap().max_op, last);
    refused(
        Draft { start_op: last, ..two_puts() },
        "Counter { limit: 2147483647, actual: 2147483648",
    );
}

/// Puts the same key twice in one change, the second over the first.
fn two_puts() -> Draft {
    Draft::put()
        .with(KEY_TEXT, &run(2, b"\x01k"))
        .with(INSERT, &[2])
        .with(ACTION, &run(2, &[1]))
        .with(VALUE, &run(2, &[0x14]))
        .with(RAW_VALUE, &[1, 2])
        .with(PREDECESSORS, &run(2, &[0]))
}

#[test]
fn other_actors_are_those_referred_to() {
    let refer = |actors: &[&[u8]], index: u8| Draft {
        other_actors: actors.iter().map(|actor| actor.to_vec()).collect(),
        ..Draft::overwrite().with(PREDECESSOR_ACTOR, &literal(&[index]))
    };
    assert!(refer(&[b"x"], 1).check().is_ok());
    refused(refer(&[b"x"], 0), "UnusedActor { index: 0 }");
    refused(refer(&[], 1), "ActorIndex { column: \"predecessor actor\", index: 1, actors: 1 }");
    refused(refer(&[b"y", b"x"], 1), "OtherActorOrder { index: 1 }");
    refused(refer(&[b"x", b"x"], 1), "OtherActorOrder { index: 1 }");
    refused(refer(&[&[0xaa, 0xbb]], 1), "OtherActorOrder { index: 0 }");
    refused(refer(&[b""], 1), "ActorLength");
    refused(Draft::insert().with(OBJECT_ACTOR, &literal(&[9])), "ActorIndex");
    let huge = literal(&number(u64::MAX));
    refused(Draft::insert().with(OBJECT_ACTOR, &huge), "ActorIndex");
}

#[test]
fn run_length_bombs_are_counted_not_expanded() {
    let claim = |count: i64| {
        Draft::put()
            .with(KEY_TEXT, &run(count, b"\x01k"))
            .with(INSERT, &number(count as u64))
            .with(ACTION, &run(count, &[1]))
            .with(VALUE, &run(count, &[0]))
            .without(RAW_VALUE)
            .with(PREDECESSORS, &run(count, &[0]))
    };
    let limit = limits::CHANGE_OPERATIONS;
    assert!(claim(1_000).check().is_ok());
    assert_eq!(claim(limit as i64).check().unwrap().operations, limit);
    for count in [limit as i64 + 1, i64::MAX] {
        refused(claim(count), &format!("Operations {{ limit: {limit}, actual: {count} }}"));
    }
    // A mebibyte of key, a thousand times: nothing to read, a gibibyte to apply.
    let mut long = number(1 << 20);
    long.resize(long.len() + (1 << 20), b'k');
    refused(claim(1_000).with(KEY_TEXT, &run(1_000, &long)), "Text");
    let groups = run(2, &number(limit));
    refused(two_puts().with(PREDECESSORS, &groups), "Predecessors");
    let overflow = run(2, &number(u64::MAX));
    refused(two_puts().with(PREDECESSORS, &overflow), "Predecessors");
}

#[test]
fn sums_of_lengths_do_not_overflow() {
    refused(Draft::put().with(VALUE, &literal(&number(u64::MAX))), "ValueBytes");
    refused(Draft::put().with(VALUE, &literal(&[0x24])), "ValueBytes { stated: 2, actual: 1 }");
    refused(Draft::put().with(VALUE, &literal(&[0])), "ValueBytes { stated: 0, actual: 1 }");
    let shares = run(2, &number((1 << 63) | 4));
    refused(two_puts().with(VALUE, &shares), "ValueBytes");
    refused(Draft::put().with(VALUE, &literal(&[0x11])), "its value has bytes but needs none");
    // automerge would reserve a gigabyte for this key before it checks.
    let key = literal(&number(1_000_000_000));
    refused(Draft::put().with(KEY_TEXT, &key), "Truncated { part: \"key text\" }");
    let mut columns = Draft { columns: vec![], ..Draft::put() }.body();
    columns.pop();
    columns.extend([&[2][..], &number(KEY_TEXT), &number(u64::MAX), &[0x34, 9, 0, 0]].concat());
    let part = "column data";
    assert_eq!(preflight(&seal(&columns)).unwrap_err(), FormError::Truncated { part });
}

#[test]
fn only_the_columns_that_automerge_keeps() {
    refused(Draft::put().with(0xb2, &literal(&[1])), "UnknownColumn { spec: 178 }");
    refused(Draft::put().with(0x41, &literal(&[1])), "UnknownColumn");
    refused(Draft::put().with(KEY_TEXT | 8, &literal(&[1])), "UnknownColumn");
    refused(Draft::put().with(u64::MAX, &[1]), "UnknownColumn");
    let mut twice = Draft::put();
    twice.columns.insert(0, (KEY_TEXT, literal(b"\x01k")));
    refused(twice.clone(), "ColumnOrder");
    twice.columns.swap(0, 2);
    refused(twice, "ColumnOrder");
    refused(Draft::put().with(MARK_NAME, &[]), "a column without data");
    refused(Draft { columns: vec![(1, vec![1]); 15], ..Draft::put() }, "Columns");
}

#[test]
fn only_the_encoding_that_automerge_writes() {
    let key = |bytes: &[u8]| Draft::put().with(KEY_TEXT, bytes);
    refused(key(b"\x01\x01k"), "a run of one");
    refused(key(b"\x7f\x81\x00k"), "Number");
    refused(two_puts().with(KEY_TEXT, b"\x7e\x01k\x01k"), "a repeated value in a literal run");
    refused(two_puts().with(KEY_TEXT, b"\x7f\x01k\x7f\x01l"), "two literal runs in a row");
    refused(two_puts().with(ACTION, &[2, 1, 2, 1]), "two runs of one value");
    refused(key(&[0, 1]), "only nulls");
    refused(key(&[0, 0]), "an empty run of nulls");
    refused(key(b"\x00\x01\x00\x01\x7f\x01k"), "");
    refused(Draft::put().with(INSERT, &[1, 0]), "an empty run");
    refused(Draft::put().with(INSERT, &[0]), "an empty run");
    refused(Draft::put().with(EXPAND, &[1]), "only false");
    refused(Draft::put().with(INSERT, &[2]), "ColumnLength { column: \"insert\", expected: 1 }");
    refused(two_puts().with(INSERT, &[1]), "ColumnLength { column: \"insert\", expected: 2 }");
    refused(Draft::put().without(INSERT), "ColumnLength { column: \"insert\"");
    refused(Draft::put().without(VALUE), "a null, or no value");
    refused(Draft::put().without(PREDECESSORS), "a null, or no value");
    refused(two_puts().with(ACTION, b"\x7f\x01\x00\x01"), "a null, or no value");
    refused(Draft::put().without(ACTION), "ColumnLength");
    // Counts that automerge negates or counts down past zero.
    let least = [&difference(i64::MIN)[..], &[1]].concat();
    refused(Draft::put().with(ACTION, &least), "Truncated");
    let nulls = [&[0][..], &number(1 << 63), b"\x7f\x01k"].concat();
    refused(key(&nulls), "no text key");
}

#[test]
fn references_point_backwards() {
    let insert = Draft::insert;
    // automerge's parser panics on these two.
    let beyond = literal(&number(1 << 32));
    refused(insert().with(OBJECT_COUNTER, &beyond), "Reference { column: \"object counter\"");
    let beyond = literal(&difference(1 << 32));
    refused(
        Draft::overwrite().with(PREDECESSOR_COUNTER, &beyond),
        "Reference { column: \"predecessor counter\"",
    );
    for counter in [0, 2, 3, u64::MAX] {
        refused(insert().with(OBJECT_COUNTER, &literal(&number(counter))), "Reference");
    }
    let after = |counter| {
        insert().with(KEY_ACTOR, &literal(&[0])).with(KEY_COUNTER, &literal(&difference(counter)))
    };
    assert!(after(1).check().is_ok());
    for counter in [0, 2, -1, i64::MIN, i64::MAX] {
        refused(after(counter), "Reference { column: \"key counter\"");
    }
    for counter in [0, 2, -1] {
        let counter = literal(&difference(counter));
        refused(Draft::overwrite().with(PREDECESSOR_COUNTER, &counter), "Reference");
    }
}

#[test]
fn both_ends_of_a_run_of_references_are_checked() {
    // Insertions after element 1, then after each other; `step` is the step of a hostile run.
    let typed = |count: i64, step: i64| {
        Draft::insert()
            .with(OBJECT_ACTOR, &run(count, &[0]))
            .with(OBJECT_COUNTER, &run(count, &[1]))
            .with(KEY_ACTOR, &run(count, &[0]))
            .with(KEY_COUNTER, &run(count, &difference(step)))
            .with(INSERT, &[&[0][..], &number(count as u64)].concat())
            .with(ACTION, &run(count, &[1]))
            .with(VALUE, &run(count, &[0]))
            .without(RAW_VALUE)
            .with(PREDECESSORS, &run(count, &[0]))
    };
    assert_eq!(typed(1_000, 1).check().unwrap().operations, 1_000);
    refused(typed(1_000, 2), "Reference");
    refused(typed(1_000, -1), "Reference");
    refused(typed(1_000, i64::MAX), "Reference");
    let wraps = [&literal(&difference(1))[..], &run(999, &difference(i64::MAX))].concat();
    refused(typed(1_000, 1).with(KEY_COUNTER, &wraps), "Number");
    // Only the last of a run of heads.
    let head_and_more = [&[0x7f, 0][..], &run(999, &[1])].concat();
    refused(typed(1_000, 1).without(KEY_ACTOR).with(KEY_COUNTER, &head_and_more), "no actor");
}

/// A deletion of operations; `groups` is the column of predecessor counts.
fn deletion(rows: i64, groups: &[u8], actors: &[u8], counters: &[u8]) -> Draft {
    Draft { start_op: 100, other_actors: vec![b"a".to_vec(), vec![0xff]], ..Draft::put() }
        .with(KEY_TEXT, &if rows == 1 { literal(b"\x01k") } else { run(rows, b"\x01k") })
        .with(INSERT, &number(rows as u64))
        .with(ACTION, &if rows == 1 { literal(&[3]) } else { run(rows, &[3]) })
        .with(VALUE, &if rows == 1 { literal(&[0]) } else { run(rows, &[0]) })
        .without(RAW_VALUE)
        .with(PREDECESSORS, groups)
        .with(PREDECESSOR_ACTOR, actors)
        .with(PREDECESSOR_COUNTER, counters)
}

#[test]
fn predecessors_ascend_within_their_operation() {
    // Actors by index: the author [aa bb], `a` (before it), [ff] (after it).
    let three = |actors: &[u8], counters: &[u8]| {
        deletion(1, &literal(&[3]), &[&[0x7d], actors].concat(), counters)
    };
    assert!(three(&[1, 0, 2], &[0x7f, 5, 2, 0]).check().is_ok());
    for wrong in [[0, 1, 2], [1, 2, 0], [2, 0, 1]] {
        refused(three(&wrong, &[0x7f, 5, 2, 0]), "its predecessors are not in order");
    }
    assert!(three(&[2, 1, 0], &[0x7f, 5, 2, 1]).check().is_ok());
    refused(three(&[2, 1, 0], &[0x7f, 5, 2, 0x7f]), "its predecessors are not in order");
    // The same one twice.
    let twice = deletion(1, &literal(&[4]), &[0x7f, 1, 2, 2, 0x7f, 0], &[0x7d, 5, 1, 0, 0x7f, 1]);
    refused(twice, "");
    // Six operations of two predecessors each, on one descending line: every second pair descends.
    let pairs = |counters: &[u8]| {
        let actors = [&[0x7e, 1, 2][..], &run(10, &[0])].concat();
        deletion(6, &run(6, &[2]), &actors, counters)
    };
    assert!(pairs(&[12, 7]).check().is_ok());
    assert!(pairs(&[12, 9]).check().is_err());
    refused(pairs(&[&[0x7f, 50][..], &run(11, &[0x7f])].concat()), "not in order");
    // Each pair ascends, and the next begins lower.
    let saw = [0x74, 50, 1, 0x7e, 1, 0x7e, 1, 0x7e, 1, 0x7e, 1, 0x7e, 1];
    assert!(pairs(&saw).check().is_ok());
    // Fewer predecessors than counted, and more.
    refused(deletion(1, &literal(&[3]), &[0x7e, 1, 2], &[2, 7]), "ColumnLength");
    refused(deletion(1, &literal(&[2]), &[0x7d, 1, 2, 0], &[2, 7]), "ColumnLength");
    refused(deletion(1, &literal(&[2]), &[0x7e, 1, 2], &[3, 7]), "ColumnLength");
}

#[test]
fn operations_that_automerge_loses_or_rejects_are_refused() {
    let delete = |draft: Draft| {
        draft.with(ACTION, &literal(&[3])).with(VALUE, &literal(&[0])).without(RAW_VALUE)
    };
    assert!(delete(Draft::overwrite()).check().is_ok());
    refused(delete(Draft::put()), "it deletes nothing");
    let with = |spec, bytes: &[u8]| delete(Draft::overwrite()).with(spec, bytes);
    refused(with(VALUE, &literal(&[2])), "a value and its action takes none");
    refused(with(EXPAND, &[0, 1]), "fields of a mark");
    refused(with(MARK_NAME, &literal(b"\x01m")), "fields of a mark");
    refused(Draft::put().with(EXPAND, &[0, 1]), "fields of a mark");
    refused(Draft::put().with(ACTION, &literal(&[0])), "a value and its action takes none");
    refused(delete(Draft::insert()), "it deletes nothing");
    refused(Draft::put().with(INSERT, &[0, 1]), "it inserts at a text key");
    refused(Draft::insert().with(INSERT, &[1]), "only an insertion can name the head");
    refused(Draft::insert().with(KEY_TEXT, &literal(b"\x01k")), "neither a text nor an element");
    refused(Draft::insert().without(KEY_COUNTER), "neither a text nor an element");
    refused(Draft::insert().without(OBJECT_ACTOR), "not both");
    let in_root = Draft::insert().without(OBJECT_ACTOR).without(OBJECT_COUNTER);
    refused(in_root, "no text key in the root map");
    refused(Draft::put().with(ACTION, &literal(&[8])), "its action is unknown");
    refused(Draft::put().with(ACTION, &literal(&number(u64::MAX))), "its action is unknown");
    // Left to automerge: the bytes of values and texts.
    refused(Draft::put().with(KEY_TEXT, &literal(b"\x01\xff")), "Refused");
    refused(Draft::put().with(VALUE, &literal(&[0x15])), "Refused");
    refused(Draft::put().with(ACTION, &literal(&[5])).with(VALUE, &literal(&[0x16])), "Refused");
}

#[test]
fn a_mark_ends_right_after_it_begins() {
    let mark = |name: &[u8]| {
        Draft::insert()
            .with(ACTION, &literal(&[7]))
            .with(VALUE, &literal(&[2]))
            .without(RAW_VALUE)
            .with(MARK_NAME, name)
    };
    assert!(mark(b"\x7f\x01m").check().is_ok());
    refused(mark(b"").without(MARK_NAME).with(VALUE, &literal(&[0])), "it ends a mark");
    refused(mark(b"").without(MARK_NAME), "a value and its action takes none");
    let both = |names: &[u8]| {
        mark(names)
            .with(OBJECT_ACTOR, &run(2, &[0]))
            .with(OBJECT_COUNTER, &run(2, &[1]))
            .with(KEY_COUNTER, &run(2, &[0]))
            .with(INSERT, &[0, 2])
            .with(ACTION, &run(2, &[7]))
            .with(VALUE, &[0x7e, 2, 0])
            .with(PREDECESSORS, &run(2, &[0]))
    };
    assert!(both(b"\x7f\x01m\x00\x01").check().is_ok());
    refused(both(b"\x00\x01\x7f\x01m").with(VALUE, &[0x7e, 0, 2]), "it ends a mark");
    let in_map = Draft::put().with(ACTION, &literal(&[7])).with(MARK_NAME, b"\x7f\x01m");
    refused(in_map, "it is a mark and not an insertion");
}
