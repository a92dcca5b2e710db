//! Text for concurrent editing.

use std::ops::{Deref, DerefMut};

use automerge::{ObjId, ObjType, ScalarValue, Value};
use autosurgeon::reconcile::{LoadKey, TextReconciler};
use autosurgeon::{Hydrate, HydrateError, Prop, ReadDoc, Reconcile, ReconcileError, Reconciler};

/// A string that is an automerge text object in the document, so that concurrent edits of it merge
/// character by character. JavaScript's automerge reads and writes its strings as such.
///
/// To the program it is a [`String`]. Reconciling compares it with the document, and writes only the
/// difference. A new field of type `String` becomes a plain value instead, of which one of two
/// concurrent writes wins; but a text object that is already there is edited in place through either
/// type.
///
/// ```
/// let mut text = landfall::Text::from("Hello");
/// text.push_str(", world");
/// assert_eq!(text, "Hello, world");
/// ```
#[derive(Clone, Default)]
pub struct Text {
    value: String,
    /// The text object that it was read from.
    object: Option<ObjId>,
}

impl Text {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.value
    }

    /// The text as a string of its own.
    pub fn into_string(self) -> String {
        self.value
    }
}

impl Deref for Text {
    type Target = String;

    fn deref(&self) -> &String {
        &self.value
    }
}

impl DerefMut for Text {
    fn deref_mut(&mut self) -> &mut String {
        &mut self.value
    }
}

impl<S: Into<String>> From<S> for Text {
    fn from(value: S) -> Self {
        Self { value: value.into(), object: None }
    }
}

impl std::fmt::Debug for Text {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Debug::fmt(&self.value, f)
    }
}

impl std::fmt::Display for Text {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.value)
    }
}

impl PartialEq for Text {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

impl Eq for Text {}

impl PartialEq<str> for Text {
    fn eq(&self, other: &str) -> bool {
        self.value == other
    }
}

impl PartialEq<&str> for Text {
    fn eq(&self, other: &&str) -> bool {
        self.value == *other
    }
}

/// Identifies a [`Text`] in a list: by its object, or else by its content.
#[doc(hidden)]
#[derive(Clone, PartialEq, Eq)]
pub enum TextKey {
    /// A text object.
    Object(ObjId),
    /// A plain string, or a text that is not in the document yet.
    Content(String),
}

impl Hydrate for Text {
    fn hydrate_text<D: ReadDoc>(doc: &D, obj: &ObjId) -> Result<Self, HydrateError> {
        Ok(Self { value: doc.text(obj)?, object: Some(obj.clone()) })
    }

    fn hydrate_string(string: &str) -> Result<Self, HydrateError> {
        Ok(Self::from(string))
    }
}

impl Reconcile for Text {
    type Key<'a> = TextKey;

    fn reconcile<R: Reconciler>(&self, mut reconciler: R) -> Result<(), R::Error> {
        reconciler.text()?.update(&self.value)
    }

    fn hydrate_key<'a, D: ReadDoc>(
        doc: &D,
        obj: &ObjId,
        prop: Prop<'_>,
    ) -> Result<LoadKey<Self::Key<'a>>, ReconcileError> {
        Ok(match doc.get(obj, &prop)? {
            Some((Value::Object(ObjType::Text), id)) => LoadKey::Found(TextKey::Object(id)),
            Some((Value::Scalar(scalar), _)) => match scalar.as_ref() {
                ScalarValue::Str(value) => LoadKey::Found(TextKey::Content(value.to_string())),
                _ => LoadKey::KeyNotFound,
            },
            Some((Value::Object(_), _)) | None => LoadKey::KeyNotFound,
        })
    }

    fn key(&self) -> LoadKey<Self::Key<'_>> {
        LoadKey::Found(match &self.object {
            Some(object) => TextKey::Object(object.clone()),
            None => TextKey::Content(self.value.clone()),
        })
    }
}
