//! Gives new values the kinds that other programs expect.
//!
//! - A value inserted into a list has the kinds of the other items: where their strings are text
//!   objects, as JavaScript makes them, a program that reads them expects the same of the new one.
//! - An integer is signed, if it fits: JavaScript reads an unsigned one as a `BigInt`, which cannot be
//!   added to its other numbers.

use automerge::hydrate::{Map, Value};
use automerge::transaction::Transaction;
use automerge::{ObjId, ObjType, Prop, ReadDoc, ScalarValue, TextEncoding, Value as Found};

/// How deep values are compared; deeper ones are inserted as they are.
const DEPTH: u32 = 16;

/// `value`, with text objects for those strings that are text objects in the neighbour of `index` in
/// the list.
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

/// A new plain value: an unsigned integer becomes a signed one, if it fits.
pub(super) fn signed(value: ScalarValue) -> ScalarValue {
    match value {
        ScalarValue::Uint(number) => {
            i64::try_from(number).map_or(ScalarValue::Uint(number), ScalarValue::Int)
        }
        other => other,
    }
}

/// The same for everything in a value.
pub(super) fn all_signed(value: &mut Value) {
    match value {
        Value::Scalar(scalar) => {
            *scalar = signed(std::mem::replace(scalar, ScalarValue::Null));
        }
        Value::Map(map) => map_signed(map),
        Value::List(list) => {
            for index in 0..list.len() {
                list.get_mut(index).into_iter().for_each(all_signed);
            }
        }
        Value::Text(_) => {}
    }
}

/// The same for everything in a map.
pub(super) fn map_signed(map: &mut Map) {
    let keys: Vec<String> = map.iter().map(|(key, _)| key.clone()).collect();
    for key in keys {
        map.get_mut(&key).into_iter().for_each(all_signed);
    }
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
