//! Making what is inserted into a list of the kinds that the list has already: where the others'
//! strings are text objects, as JavaScript makes them, a program that reads them expects the same of
//! the next one.

use automerge::hydrate::Value;
use automerge::transaction::Transaction;
use automerge::{ObjId, ObjType, Prop, ReadDoc, ScalarValue, TextEncoding, Value as Found};

/// How deep values are compared; deeper ones are inserted as they are.
const DEPTH: u32 = 16;

/// `value` with text objects in place of those strings that are text objects in the neighbour of
/// `index` in the list.
pub(super) fn like_its_neighbour(
    tx: &Transaction<'_>,
    list: &ObjId,
    index: usize,
    mut value: Value,
) -> Value {
    let before = index.checked_sub(1).and_then(|before| found(tx, list, Prop::Seq(before)));
    if let Some((kind, id)) = before.or_else(|| found(tx, list, Prop::Seq(index))) {
        fit(tx, &mut value, kind, &id, DEPTH);
    }
    value
}

fn found(tx: &Transaction<'_>, obj: &ObjId, prop: Prop) -> Option<(ObjType, ObjId)> {
    match tx.get(obj, prop).ok().flatten()? {
        (Found::Object(kind), id) => Some((kind, id)),
        (Found::Scalar(_), _) => None,
    }
}

fn fit(tx: &Transaction<'_>, value: &mut Value, kind: ObjType, like: &ObjId, depth: u32) {
    if depth == 0 {
        return;
    }
    match (&mut *value, kind) {
        (Value::Scalar(ScalarValue::Str(string)), ObjType::Text) => {
            *value = Value::text(TextEncoding::UnicodeCodePoint, string);
        }
        (Value::Map(map), ObjType::Map | ObjType::Table) => {
            let keys: Vec<String> = map.iter().map(|(key, _)| key.clone()).collect();
            for key in keys {
                if let (Some(inner), Some((kind, id))) =
                    (map.get_mut(&key), found(tx, like, Prop::Map(key)))
                {
                    fit(tx, inner, kind, &id, depth - 1);
                }
            }
        }
        (Value::List(list), ObjType::List) => {
            let Some((kind, id)) = found(tx, like, Prop::Seq(0)) else { return };
            for index in 0..list.len() {
                if let Some(inner) = list.get_mut(index) {
                    fit(tx, inner, kind, &id, depth - 1);
                }
            }
        }
        _ => {}
    }
}
