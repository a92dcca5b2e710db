//! Random edits of every kind, and a description of everything visible in a document.

use std::fmt::Write;

use automerge::marks::{ExpandMark, Mark};
use automerge::transaction::Transactable;
use automerge::{ObjId, ObjType, ROOT, ReadDoc, ScalarValue, Value};
use landfall_test_rng::Rng;

const KEYS: [&str; 4] = ["a", "b", "c", "d"];

/// A few edits of any kind, anywhere in the visible state.
pub(super) fn edit<T: Transactable + ReadDoc>(tx: &mut T, rng: &mut Rng) {
    for _ in 0..=rng.below(4) {
        let mut objects = vec![(ROOT, ObjType::Map)];
        collect(tx, &ROOT, &mut objects);
        let (object, kind) = objects.swap_remove(rng.below(objects.len()));
        match kind {
            ObjType::Text => text(tx, &object, rng),
            ObjType::List => list(tx, &object, rng),
            ObjType::Map | ObjType::Table => map(tx, &object, rng),
        }
    }
}

fn collect<T: ReadDoc>(doc: &T, object: &ObjId, found: &mut Vec<(ObjId, ObjType)>) {
    let kind = doc.object_type(object).unwrap();
    let mut add = |value: Value<'_>, id: ObjId| {
        if let Value::Object(kind) = value {
            found.push((id.clone(), kind));
            collect(doc, &id, found);
        }
    };
    match kind {
        ObjType::Text => {}
        ObjType::List => (0..doc.length(object)).for_each(|index| {
            let (value, id) = doc.get(object, index).unwrap().unwrap();
            add(value, id);
        }),
        ObjType::Map | ObjType::Table => doc.keys(object).for_each(|key| {
            let (value, id) = doc.get(object, key).unwrap().unwrap();
            add(value, id);
        }),
    }
}

fn scalar(rng: &mut Rng) -> ScalarValue {
    match rng.below(9) {
        0 => ScalarValue::Null,
        1 => ScalarValue::Boolean(true),
        2 => ScalarValue::Int(-3),
        3 => ScalarValue::Uint(7),
        4 => ScalarValue::F64(0.5),
        5 => ScalarValue::Timestamp(1_234),
        6 => ScalarValue::Bytes(vec![rng.below(256) as u8; 3]),
        7 => ScalarValue::counter(5),
        _ => ScalarValue::Str(format!("s{}", rng.below(100)).into()),
    }
}

fn kind(rng: &mut Rng) -> ObjType {
    [ObjType::Map, ObjType::List, ObjType::Text][rng.below(3)]
}

fn map<T: Transactable + ReadDoc>(tx: &mut T, object: &ObjId, rng: &mut Rng) {
    let key = KEYS[rng.below(KEYS.len())];
    // Only where nothing is concurrent to it: automerge 0.12 panics when, in a past state, a
    // counter is incremented together with concurrent values (`OpSet::add_succ_with_undo`).
    let values = tx.get_all(object, key).unwrap();
    let counter = values.len() == 1
        && matches!(&values[0].0, Value::Scalar(value) if matches!(&**value, ScalarValue::Counter(_)));
    match rng.below(6) {
        0 => drop(tx.put_object(object, key, kind(rng)).unwrap()),
        1 => tx.delete(object, key).unwrap(),
        2 | 3 if counter => tx.increment(object, key, 2).unwrap(),
        _ => tx.put(object, key, scalar(rng)).unwrap(),
    }
}

fn list<T: Transactable + ReadDoc>(tx: &mut T, object: &ObjId, rng: &mut Rng) {
    let length = tx.length(object);
    let at = rng.below(length.max(1));
    match rng.below(6) {
        0 => drop(tx.insert_object(object, rng.below(length + 1), kind(rng)).unwrap()),
        1 if length > 0 => tx.delete(object, at).unwrap(),
        2 if length > 0 => tx.put(object, at, scalar(rng)).unwrap(),
        3 if length > 0 => drop(tx.put_object(object, at, kind(rng)).unwrap()),
        _ => tx.insert(object, rng.below(length + 1), scalar(rng)).unwrap(),
    }
}

fn text<T: Transactable + ReadDoc>(tx: &mut T, object: &ObjId, rng: &mut Rng) {
    let length = tx.length(object);
    let start = rng.below(length + 1);
    let end = start + rng.below(length - start + 1);
    let expand =
        [ExpandMark::Both, ExpandMark::None, ExpandMark::After, ExpandMark::Before][rng.below(4)];
    match rng.below(6) {
        0 if end > start => {
            let mark = Mark::new("bold".to_owned(), scalar(rng), start, end);
            tx.mark(object, mark, expand).unwrap();
        }
        1 if end > start => tx.unmark(object, "bold", start, end, expand).unwrap(),
        2 => tx.splice_text(object, start, (end - start) as isize, "").unwrap(),
        _ => tx.splice_text(object, start, 0, ["x", "yy", "zürich漢"][rng.below(3)]).unwrap(),
    }
}

/// A description of everything that a reader sees, including concurrent values in their order, without
/// ids.
pub(super) fn visible<T: ReadDoc>(doc: &T) -> String {
    let mut out = String::new();
    show(doc, &ROOT, &mut out);
    out
}

fn show<T: ReadDoc>(doc: &T, object: &ObjId, out: &mut String) {
    let show_all = |values: Vec<(Value<'_>, ObjId)>, out: &mut String| {
        for (value, id) in values {
            match value {
                Value::Object(kind) => {
                    write!(out, "{kind}(").unwrap();
                    show(doc, &id, out);
                    out.push(')');
                }
                Value::Scalar(value) => write!(out, "{value:?}").unwrap(),
            }
            out.push('|');
        }
    };
    match doc.object_type(object).unwrap() {
        ObjType::Text => {
            write!(out, "{:?} {:?}", doc.text(object).unwrap(), doc.marks(object).unwrap())
                .unwrap();
        }
        ObjType::List => {
            for index in 0..doc.length(object) {
                show_all(doc.get_all(object, index).unwrap(), out);
                out.push(',');
            }
        }
        ObjType::Map | ObjType::Table => {
            for key in doc.keys(object).collect::<Vec<_>>() {
                write!(out, "{key}=").unwrap();
                show_all(doc.get_all(object, key).unwrap(), out);
                out.push(';');
            }
        }
    }
}
