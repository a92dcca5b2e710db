//! autosurgeon's view of a [`Writer`]. Only its traits are in scope here: automerge's have methods of
//! the same names.

use std::ops::RangeBounds;

use automerge::hydrate::{self, Value as New};
use automerge::{AutomergeError, ChangeHash, ObjId, ObjType, Prop, ScalarValue, Value, iter};
use autosurgeon::{Doc, ReadDoc};

use super::super::compatibility;
use super::{Becoming, Writer, not_made};

impl ReadDoc for Writer<'_, '_> {
    type Parents<'b>
        = automerge::Parents<'b>
    where
        Self: 'b;

    fn get_heads(&self) -> Vec<ChangeHash> {
        // Not the inherent method, which returns the heads of the whole document.
        ReadDoc::get_heads(&*self.tx)
    }

    fn get<P: Into<Prop>>(
        &self,
        obj: &ObjId,
        prop: P,
    ) -> Result<Option<(Value<'_>, ObjId)>, AutomergeError> {
        let prop = prop.into();
        let found = self.tx.get(obj, prop.clone())?;
        self.seen.show(obj, prop, found, |text| self.tx.text(text))
    }

    fn object_type<O: AsRef<ObjId>>(&self, obj: O) -> Option<ObjType> {
        self.tx.object_type(obj)
    }

    fn map_range<'b, O, R>(&'b self, obj: O, range: R) -> iter::MapRange<'b>
    where
        R: RangeBounds<String> + 'b,
        O: AsRef<ObjId>,
    {
        self.tx.map_range(obj, range)
    }

    fn list_range<O: AsRef<ObjId>, R: RangeBounds<usize>>(
        &self,
        obj: O,
        range: R,
    ) -> iter::ListRange<'_> {
        self.tx.list_range(obj, range)
    }

    fn length<O: AsRef<ObjId>>(&self, obj: O) -> usize {
        self.tx.length(obj)
    }

    fn text<O: AsRef<ObjId>>(&self, obj: O) -> Result<String, AutomergeError> {
        self.text_of(obj.as_ref())
    }

    fn parents<O: AsRef<ObjId>>(&self, obj: O) -> Result<Self::Parents<'_>, AutomergeError> {
        self.tx.parents(obj)
    }

    fn is_empty(&self) -> bool {
        ReadDoc::is_empty(&*self.tx)
    }
}

impl Doc for Writer<'_, '_> {
    fn put<O: AsRef<ObjId>, P: Into<Prop>, V: Into<ScalarValue>>(
        &mut self,
        obj: O,
        prop: P,
        value: V,
    ) -> Result<(), AutomergeError> {
        self.write(obj.as_ref(), prop.into(), value.into())
    }

    fn put_object<O: AsRef<ObjId>, P: Into<Prop>>(
        &mut self,
        obj: O,
        prop: P,
        kind: ObjType,
    ) -> Result<ObjId, AutomergeError> {
        let (obj, prop) = (obj.as_ref(), prop.into());
        if kind == ObjType::Text {
            if let Some(text) = self.text_at(obj, &prop)? {
                return Ok(text);
            }
            if let Some(value) = self.string_at(obj, &prop)? {
                self.seen.at(obj, &prop, None);
                self.becoming = Some(Becoming { obj: obj.clone(), prop, value });
                return Ok(not_made());
            }
        }
        let made = self.tx.put_object(obj, prop.clone(), kind)?;
        self.seen.at(obj, &prop, Some(&made));
        Ok(made)
    }

    fn insert<O: AsRef<ObjId>, V: Into<ScalarValue>>(
        &mut self,
        obj: O,
        index: usize,
        value: V,
    ) -> Result<(), AutomergeError> {
        self.seen.at(obj.as_ref(), &Prop::Seq(index), None);
        self.tx.insert(obj.as_ref(), index, value)
    }

    fn insert_object<O: AsRef<ObjId>>(
        &mut self,
        obj: O,
        index: usize,
        kind: ObjType,
    ) -> Result<ObjId, AutomergeError> {
        self.seen.at(obj.as_ref(), &Prop::Seq(index), None);
        self.tx.insert_object(obj.as_ref(), index, kind)
    }

    fn increment<O: AsRef<ObjId>, P: Into<Prop>>(
        &mut self,
        obj: O,
        prop: P,
        by: i64,
    ) -> Result<(), AutomergeError> {
        let prop = prop.into();
        self.seen.at(obj.as_ref(), &prop, None);
        match by {
            0 => Ok(()),
            by => self.tx.increment(obj.as_ref(), prop, by),
        }
    }

    fn delete<O: AsRef<ObjId>, P: Into<Prop>>(
        &mut self,
        obj: O,
        prop: P,
    ) -> Result<(), AutomergeError> {
        let prop = prop.into();
        self.seen.at(obj.as_ref(), &prop, None);
        self.tx.delete(obj.as_ref(), prop)
    }

    /// Positions are in bytes, as autosurgeon's `Text` counts them; automerge counts code points.
    fn splice_text<O: AsRef<ObjId>>(
        &mut self,
        obj: O,
        pos: usize,
        del: isize,
        text: &str,
    ) -> Result<(), AutomergeError> {
        let obj = obj.as_ref();
        let old = self.text_of(obj)?;
        let (from, to) = match usize::try_from(del) {
            Ok(after) => (pos, pos.saturating_add(after)),
            Err(_) => (pos.saturating_sub(del.unsigned_abs()), pos),
        };
        let parts = (old.get(..from), old.get(from..to), old.get(to..));
        let (Some(before), Some(gone), Some(after)) = parts else {
            return Err(AutomergeError::InvalidIndex(pos));
        };
        if *obj == not_made() {
            return self.become_text(&[before, text, after].concat());
        }
        let deleted = isize::try_from(gone.chars().count()).unwrap_or(isize::MAX);
        self.tx.splice_text(obj, before.chars().count(), deleted, text)
    }

    fn update_text<O: AsRef<ObjId>>(&mut self, obj: O, text: &str) -> Result<(), AutomergeError> {
        match obj.as_ref() {
            obj if *obj == not_made() => self.become_text(text),
            obj => self.edit_text(obj, text),
        }
    }

    fn batch_create<O: AsRef<ObjId>, P: Into<Prop>>(
        &mut self,
        obj: O,
        prop: P,
        value: New,
        insert: bool,
    ) -> Result<(), AutomergeError> {
        let (obj, prop) = (obj.as_ref(), prop.into());
        match (value, &prop) {
            (mut value, Prop::Seq(index)) if insert => {
                self.seen.at(obj, &prop, None);
                compatibility::all_signed(&mut value);
                let value = compatibility::like_its_neighbour(self.tx, obj, *index, value);
                Doc::batch_create(self.tx, obj, prop, value, true)
            }
            (New::Scalar(value), _) => self.write(obj, prop, value),
            (New::Text(text), _) => self.write_text(obj, prop, &String::from(&text)),
            (mut value, _) => {
                self.seen.at(obj, &prop, None);
                compatibility::all_signed(&mut value);
                Doc::batch_create(self.tx, obj, prop, value, insert)
            }
        }
    }

    fn init_root_from_hydrate(&mut self, value: &hydrate::Map) -> Result<(), AutomergeError> {
        let mut value = value.clone();
        compatibility::map_signed(&mut value);
        self.tx.init_root_from_hydrate(&value)
    }
}
