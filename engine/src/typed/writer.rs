//! The document that autosurgeon writes. The value at a place decides how a new one is written there,
//! and an equal value is not written.

mod adapter;

use automerge::transaction::{Transactable, Transaction};
use automerge::{AutomergeError, ObjId, ObjType, Prop, ReadDoc, ScalarValue, Value};

use super::compatibility;
use super::seen::{Seen, says_the_same};

/// Texts that differ in more bytes than this are not compared character by character, which takes time
/// in proportion to the square of it: the differing part is replaced as a whole.
const COMPARED_BYTES: usize = 4 * 1024;

/// A transaction with values shown as the kinds that `seen` has learnt.
pub(super) struct Writer<'a, 'tx> {
    tx: &'a mut Transaction<'tx>,
    seen: &'a Seen,
    /// A plain string that becomes a text object once something else is written to it.
    becoming: Option<Becoming>,
}

struct Becoming {
    obj: ObjId,
    prop: Prop,
    value: String,
}

/// Stands for an object that is not made yet; no object of a document has the number 0.
fn not_made() -> ObjId {
    ObjId::Id(0, automerge::ActorId::from([0u8].as_slice()), 0)
}

impl<'a, 'tx> Writer<'a, 'tx> {
    pub(super) fn new(tx: &'a mut Transaction<'tx>, seen: &'a Seen) -> Self {
        Self { tx, seen, becoming: None }
    }

    /// The text object at a place, if one is there.
    fn text_at(&self, obj: &ObjId, prop: &Prop) -> Result<Option<ObjId>, AutomergeError> {
        Ok(match self.tx.get(obj, prop.clone())? {
            Some((Value::Object(ObjType::Text), id)) => Some(id),
            _ => None,
        })
    }

    /// The plain string at a place, if one is there.
    fn string_at(&self, obj: &ObjId, prop: &Prop) -> Result<Option<String>, AutomergeError> {
        Ok(match self.tx.get(obj, prop.clone())? {
            Some((Value::Scalar(scalar), _)) => scalar.as_str().map(str::to_owned),
            _ => None,
        })
    }

    /// Writes a plain value.
    fn write(&mut self, obj: &ObjId, prop: Prop, value: ScalarValue) -> Result<(), AutomergeError> {
        self.seen.at(obj, &prop, None);
        let existing = match self.tx.get(obj, prop.clone())? {
            None if matches!(prop, Prop::Map(_)) && value == ScalarValue::Null => return Ok(()),
            Some((Value::Object(ObjType::Text), text)) => match value {
                ScalarValue::Str(value) => return self.edit_text(&text, &value),
                other => return self.tx.put(obj, prop, other),
            },
            None | Some((Value::Object(_), _)) => {
                return self.tx.put(obj, prop, compatibility::signed(value));
            }
            Some((Value::Scalar(existing), _)) => existing.into_owned(),
        };
        if says_the_same(&existing, &value) {
            return Ok(());
        }
        match (existing, value) {
            (ScalarValue::Counter(counter), ScalarValue::Int(value)) => {
                let by = value.wrapping_sub(i64::from(&counter));
                self.tx.increment(obj, prop, by)
            }
            (ScalarValue::Counter(counter), ScalarValue::Uint(value)) => {
                let by = i64::try_from(value).unwrap_or(i64::MAX).wrapping_sub(i64::from(&counter));
                self.tx.increment(obj, prop, by)
            }
            (ScalarValue::Timestamp(_), ScalarValue::Int(value)) => {
                self.tx.put(obj, prop, ScalarValue::Timestamp(value))
            }
            (ScalarValue::Uint(_), value) => self.tx.put(obj, prop, value),
            (_, value) => self.tx.put(obj, prop, compatibility::signed(value)),
        }
    }

    /// Writes a text: an existing object is edited, an equal string stays a string.
    fn write_text(&mut self, obj: &ObjId, prop: Prop, value: &str) -> Result<(), AutomergeError> {
        self.seen.at(obj, &prop, None);
        if let Some(text) = self.text_at(obj, &prop)? {
            return self.edit_text(&text, value);
        }
        if self.string_at(obj, &prop)?.is_some_and(|standing| standing == value) {
            return Ok(());
        }
        let text = self.tx.put_object(obj, prop, ObjType::Text)?;
        self.tx.splice_text(&text, 0, 0, value)
    }

    /// Makes a text object equal to a string, with the smallest change.
    fn edit_text(&mut self, text: &ObjId, new: &str) -> Result<(), AutomergeError> {
        let old = self.tx.text(text)?;
        if old == new {
            return Ok(());
        }
        let same = old.chars().zip(new.chars()).take_while(|(old, new)| old == new);
        let before: usize = same.map(|(char, _)| char.len_utf8()).sum();
        let same = old[before..].chars().rev().zip(new[before..].chars().rev());
        let after: usize =
            same.take_while(|(old, new)| old == new).map(|(char, _)| char.len_utf8()).sum();
        let (gone, come) = (&old[before..old.len() - after], &new[before..new.len() - after]);
        if !gone.is_empty() && !come.is_empty() && gone.len() + come.len() <= COMPARED_BYTES {
            return self.tx.update_text(text, new);
        }
        let deleted = isize::try_from(gone.chars().count()).unwrap_or(isize::MAX);
        self.tx.splice_text(text, old[..before].chars().count(), deleted, come)
    }

    /// Writes the text object of a place where a plain string becomes a text.
    fn become_text(&mut self, value: &str) -> Result<(), AutomergeError> {
        match self.becoming.take() {
            Some(becoming) => self.write_text(&becoming.obj, becoming.prop, value),
            None => Err(AutomergeError::NotAnObject),
        }
    }

    /// The text of an object, or of one that is not made yet.
    fn text_of(&self, obj: &ObjId) -> Result<String, AutomergeError> {
        match &self.becoming {
            Some(becoming) if *obj == not_made() => Ok(becoming.value.clone()),
            _ => self.tx.text(obj),
        }
    }
}
