//! The document that autosurgeon reads.

use std::ops::RangeBounds;

use automerge::{AutomergeError, ChangeHash, ObjId, ObjType, Prop, Value, iter};
use autosurgeon::ReadDoc;

use super::seen::Seen;

/// A document with values shown as the kinds that `seen` has learnt.
pub(super) struct TypedReader<'a, D> {
    doc: &'a D,
    seen: &'a Seen,
}

impl<'a, D: ReadDoc> TypedReader<'a, D> {
    pub(super) fn new(doc: &'a D, seen: &'a Seen) -> Self {
        Self { doc, seen }
    }
}

impl<D: ReadDoc> ReadDoc for TypedReader<'_, D> {
    type Parents<'b>
        = D::Parents<'b>
    where
        Self: 'b;

    fn get_heads(&self) -> Vec<ChangeHash> {
        self.doc.get_heads()
    }

    fn get<P: Into<Prop>>(
        &self,
        obj: &ObjId,
        prop: P,
    ) -> Result<Option<(Value<'_>, ObjId)>, AutomergeError> {
        let prop = prop.into();
        let found = self.doc.get(obj, prop.clone())?;
        self.seen.show(obj, prop, found, |text| self.doc.text(text))
    }

    fn object_type<O: AsRef<ObjId>>(&self, obj: O) -> Option<ObjType> {
        self.doc.object_type(obj)
    }

    fn map_range<'b, O, R>(&'b self, obj: O, range: R) -> iter::MapRange<'b>
    where
        R: RangeBounds<String> + 'b,
        O: AsRef<ObjId>,
    {
        self.doc.map_range(obj, range)
    }

    fn list_range<O: AsRef<ObjId>, R: RangeBounds<usize>>(
        &self,
        obj: O,
        range: R,
    ) -> iter::ListRange<'_> {
        self.doc.list_range(obj, range)
    }

    fn length<O: AsRef<ObjId>>(&self, obj: O) -> usize {
        self.doc.length(obj)
    }

    fn text<O: AsRef<ObjId>>(&self, obj: O) -> Result<String, AutomergeError> {
        self.doc.text(obj)
    }

    fn parents<O: AsRef<ObjId>>(&self, obj: O) -> Result<Self::Parents<'_>, AutomergeError> {
        self.doc.parents(obj)
    }

    fn is_empty(&self) -> bool {
        self.doc.is_empty()
    }
}
