//! The cost of a preflight is known before it runs.

use super::*;

/// As many operations as one may have, in some hundred bytes.
fn bomb(operations: i64) -> Draft {
    Draft::put()
        .with(KEY_TEXT, &run(operations, b"\x01k"))
        .with(INSERT, &number(operations.unsigned_abs()))
        .with(ACTION, &run(operations, &[1]))
        .with(VALUE, &run(operations, &[0]))
        .without(RAW_VALUE)
        .with(PREDECESSORS, &run(operations, &[0]))
}

fn light() -> Work {
    Work { operations: 1_000, bytes: 10_000 }
}

fn within(chunk: &[u8], most: Work) -> (Result<Option<CheckedChange>, FormError>, Work) {
    let mut work = Work::default();
    let checked = preflight_within(chunk, Some(most), &mut work);
    (checked, work)
}

#[test]
fn operations_are_counted_before_any_is_expanded() {
    let count = 1 << 20;
    let body = bomb(count).body();
    let chunk = seal(&body);
    assert!(chunk.len() < 120, "{} bytes", chunk.len());
    for chunk in [chunk, seal_deflated(&body)] {
        let (checked, work) = within(&chunk, light());
        assert!(checked.unwrap().is_none());
        assert_eq!(work, Work::default(), "only work that was done is counted");
        let mut work = Work::default();
        let checked = preflight_within(&chunk, None, &mut work).unwrap().unwrap();
        assert_eq!(checked.operations, 1 << 20);
        assert_eq!(work.operations, 1 << 20);
        assert!(work.units() >= 1 << 20);
    }
}

#[test]
fn predecessors_count_like_operations() {
    let draft = Draft { start_op: 100_000, ..Draft::overwrite() }
        .with(PREDECESSORS, &literal(&number(50_000)))
        .with(PREDECESSOR_ACTOR, &run(50_000, &[0]))
        .with(PREDECESSOR_COUNTER, &run(50_000, &difference(1)));
    let (checked, _) = within(&seal(&draft.body()), light());
    assert!(checked.unwrap().is_none());
    let most = Work { operations: 50_001, ..light() };
    let (checked, work) = within(&seal(&draft.body()), most);
    assert_eq!(checked.unwrap().map(|change| change.operations), Some(1));
    assert_eq!(work.operations, 50_001);
}

#[test]
fn inflating_stops_at_the_bound() {
    let long = Draft { message: vec![b'm'; 1_000_000], ..Draft::put() }.body();
    let chunk = seal_deflated(&long);
    assert!(chunk.len() < 10_000);
    let (checked, work) = within(&chunk, light());
    assert!(checked.unwrap().is_none());
    assert_eq!(work, Work::default());
    let most = Work { bytes: 2_000_000, ..light() };
    let (checked, work) = within(&chunk, most);
    // Whatever the verdict, its bytes were inflated.
    assert!(!matches!(checked, Ok(None)));
    assert!(work.bytes >= 1_000_000);
}

#[test]
fn several_changes_share_one_bound() {
    let chunk = seal(&bomb(400).body());
    let mut work = Work::default();
    let mut next = || preflight_within(&chunk, Some(light()), &mut work).unwrap().is_some();
    assert_eq!([next(), next(), next(), next()], [true, true, false, false]);
    assert_eq!(work.operations, 800);
}

#[test]
fn refused_changes_count_as_work() {
    let draft = bomb(500).with(ACTION, &run(500, &[9]));
    let (checked, work) = within(&seal(&draft.body()), light());
    assert!(matches!(checked, Err(FormError::Operation { .. })));
    assert!(work.bytes > 0);
    let (checked, work) = within(&[7; 5_000], light());
    assert!(matches!(checked, Err(FormError::Magic { .. })));
    assert_eq!(work, Work { operations: 0, bytes: 5_000 });
}
