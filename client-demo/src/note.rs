//! The shape of a note, as specified in `docs/notebook.md`: creating one, reading it, and reporting
//! departures from the shape.
//!
//! Prose is in automerge text objects, so that concurrent edits merge by character and a browser can edit it
//! too. Keys that are not listed here are left unchanged.

use landfall::automerge::transaction::{Transactable, Transaction};
use landfall::automerge::{AutomergeError, ObjId, ObjType, ROOT, ReadDoc, ScalarValue, Value};

/// The key that marks a document as a note, with the version of the format.
pub(crate) const FORMAT: &str = "landfallNotebook";
/// The version that this program writes, and the latest that it reads.
pub(crate) const VERSION: i64 = 1;
/// The title: a text object.
pub(crate) const TITLE: &str = "title";
/// The note's prose: a text object.
pub(crate) const BODY: &str = "body";
/// The creation time: a timestamp. Absent in notes imported from files.
pub(crate) const CREATED: &str = "created";
/// Optional: a counter.
pub(crate) const VOTES: &str = "votes";
/// Optional: a list of short texts.
pub(crate) const ITEMS: &str = "items";

/// The content of a note.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Note {
    pub(crate) title: String,
    pub(crate) body: String,
    /// Milliseconds since 1970.
    pub(crate) created: Option<i64>,
    pub(crate) votes: Option<i64>,
    pub(crate) items: Option<Vec<String>>,
}

/// How a document departs from a note's shape.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ShapeError {
    /// The document declares another format, or none.
    #[error("not a note: `{FORMAT}` is {found}")]
    NotANote { found: String },
    /// A later version of this program created it.
    #[error("it is a note of version {found}, this program reads up to version {VERSION}")]
    TooNew { found: i64 },
    /// A key is missing.
    #[error("`{key}` is missing")]
    Missing { key: &'static str },
    /// A key has a value of another type.
    #[error("`{key}` is {found}, and must be {expected}")]
    Wrong { key: &'static str, expected: &'static str, found: String },
    /// automerge could not read it.
    #[error("`{key}` cannot be read: {what}")]
    Unreadable { key: &'static str, what: String },
}

/// Writes a new note, and returns its body.
pub(crate) fn write(
    tx: &mut Transaction<'_>,
    title: &str,
    body: &str,
    created: Option<i64>,
) -> Result<ObjId, AutomergeError> {
    tx.put(ROOT, FORMAT, VERSION)?;
    if let Some(created) = created {
        tx.put(ROOT, CREATED, ScalarValue::Timestamp(created))?;
    }
    let title_text = tx.put_object(ROOT, TITLE, ObjType::Text)?;
    tx.splice_text(&title_text, 0, 0, title)?;
    let text = tx.put_object(ROOT, BODY, ObjType::Text)?;
    tx.splice_text(&text, 0, 0, body)?;
    Ok(text)
}

/// Reads a note; the error is the first departure from the shape.
pub(crate) fn read(doc: &impl ReadDoc) -> Result<Note, ShapeError> {
    check_format(doc)?;
    let title = text(doc, TITLE)?.ok_or(ShapeError::Missing { key: TITLE })?;
    let body = text(doc, BODY)?.ok_or(ShapeError::Missing { key: BODY })?;
    Ok(Note {
        title,
        body,
        created: created(doc)?,
        votes: votes(doc)?,
        items: items(doc)?.map(|(_, items)| items),
    })
}

/// All departures from a note's shape; empty for a valid note.
pub(crate) fn problems(doc: &impl ReadDoc) -> Vec<ShapeError> {
    if let Err(problem) = check_format(doc) {
        return vec![problem];
    }
    let required = |key: &'static str| match text(doc, key) {
        Ok(Some(_)) => None,
        Ok(None) => Some(ShapeError::Missing { key }),
        Err(problem) => Some(problem),
    };
    let found =
        [required(TITLE), required(BODY), created(doc).err(), votes(doc).err(), items(doc).err()];
    found.into_iter().flatten().collect()
}

/// The keys with concurrent values. One value is shown, the others are kept: no error, but the user may want
/// to know.
pub(crate) fn conflicts(doc: &impl ReadDoc) -> Vec<(&'static str, usize)> {
    let values = |key| doc.get_all(ROOT, key).map_or(0, |values| values.len());
    let keys = [TITLE, BODY, CREATED, VOTES, ITEMS].into_iter();
    keys.map(|key| (key, values(key))).filter(|(_, values)| *values > 1).collect()
}

/// The text object at a key of the root.
pub(crate) fn text_object(
    doc: &impl ReadDoc,
    key: &'static str,
) -> Result<Option<ObjId>, ShapeError> {
    match get(doc, key)? {
        None => Ok(None),
        Some((Value::Object(ObjType::Text), object)) => Ok(Some(object)),
        Some((other, _)) => Err(wrong(key, "a text object", &other)),
    }
}

/// The list of items: its object and its content.
pub(crate) fn items(doc: &impl ReadDoc) -> Result<Option<(ObjId, Vec<String>)>, ShapeError> {
    let list = match get(doc, ITEMS)? {
        None => return Ok(None),
        Some((Value::Object(ObjType::List), list)) => list,
        Some((other, _)) => return Err(wrong(ITEMS, "a list of texts", &other)),
    };
    let mut items = Vec::new();
    for index in 0..doc.length(&list) {
        let found = doc.get(&list, index).map_err(|error| unreadable(ITEMS, &error))?;
        match found {
            Some((Value::Object(ObjType::Text), text)) => {
                items.push(doc.text(&text).map_err(|error| unreadable(ITEMS, &error))?);
            }
            Some((Value::Scalar(scalar), _)) if scalar.is_str() => {
                items.push(scalar.as_str().unwrap_or_default().to_owned());
            }
            Some((other, _)) => return Err(wrong(ITEMS, "a list of texts", &other)),
            None => return Err(ShapeError::Missing { key: ITEMS }),
        }
    }
    Ok(Some((list, items)))
}

fn check_format(doc: &impl ReadDoc) -> Result<(), ShapeError> {
    let version = match get(doc, FORMAT)? {
        Some((Value::Scalar(scalar), _)) => {
            scalar.as_i64().ok_or_else(|| scalar.to_string()).map(Some)
        }
        Some((other, _)) => Err(kind(&other)),
        None => Ok(None),
    };
    match version {
        Ok(Some(version)) if version == VERSION => Ok(()),
        Ok(Some(found)) if found > VERSION => Err(ShapeError::TooNew { found }),
        Ok(Some(found)) => Err(ShapeError::NotANote { found: found.to_string() }),
        Ok(None) => Err(ShapeError::NotANote { found: "missing".to_owned() }),
        Err(found) => Err(ShapeError::NotANote { found }),
    }
}

fn text(doc: &impl ReadDoc, key: &'static str) -> Result<Option<String>, ShapeError> {
    let Some(object) = text_object(doc, key)? else { return Ok(None) };
    doc.text(&object).map(Some).map_err(|error| unreadable(key, &error))
}

fn created(doc: &impl ReadDoc) -> Result<Option<i64>, ShapeError> {
    match get(doc, CREATED)? {
        None => Ok(None),
        Some((Value::Scalar(scalar), _)) => match &*scalar {
            ScalarValue::Timestamp(ms) => Ok(Some(*ms)),
            _ => Err(wrong(CREATED, "a timestamp", &Value::Scalar(scalar.clone()))),
        },
        Some((other, _)) => Err(wrong(CREATED, "a timestamp", &other)),
    }
}

fn votes(doc: &impl ReadDoc) -> Result<Option<i64>, ShapeError> {
    match get(doc, VOTES)? {
        None => Ok(None),
        Some((Value::Scalar(scalar), _)) => match &*scalar {
            ScalarValue::Counter(counter) => Ok(Some(i64::from(counter))),
            _ => Err(wrong(VOTES, "a counter", &Value::Scalar(scalar.clone()))),
        },
        Some((other, _)) => Err(wrong(VOTES, "a counter", &other)),
    }
}

fn get<'a>(
    doc: &'a impl ReadDoc,
    key: &'static str,
) -> Result<Option<(Value<'a>, ObjId)>, ShapeError> {
    doc.get(ROOT, key).map_err(|error| unreadable(key, &error))
}

fn unreadable(key: &'static str, error: &AutomergeError) -> ShapeError {
    ShapeError::Unreadable { key, what: error.to_string() }
}

fn wrong(key: &'static str, expected: &'static str, found: &Value<'_>) -> ShapeError {
    ShapeError::Wrong { key, expected, found: kind(found) }
}

/// A value's type, for people.
fn kind(value: &Value<'_>) -> String {
    match value {
        Value::Object(ObjType::Map | ObjType::Table) => "a map".to_owned(),
        Value::Object(ObjType::List) => "a list".to_owned(),
        Value::Object(ObjType::Text) => "a text object".to_owned(),
        Value::Scalar(scalar) => match &**scalar {
            ScalarValue::Str(_) => "a plain string".to_owned(),
            ScalarValue::Counter(_) => "a counter".to_owned(),
            ScalarValue::Timestamp(_) => "a timestamp".to_owned(),
            ScalarValue::Null => "null".to_owned(),
            ScalarValue::Bytes(_) => "bytes".to_owned(),
            other => format!("`{other}`"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use landfall::automerge::AutoCommit;
    use landfall::{Options, Store};

    fn document(fill: impl Fn(&mut Transaction<'_>)) -> landfall::Document {
        let store = Store::in_memory(Options::default()).unwrap();
        let space = store.space("default").unwrap();
        let made = space.create(|tx| {
            write(tx, "Title", "Body 漢字", Some(7))?;
            fill(tx);
            Ok(())
        });
        made.unwrap().0
    }

    fn problems_of(fill: impl Fn(&mut Transaction<'_>)) -> Vec<String> {
        let found = document(fill).read(problems).unwrap();
        found.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_written_note_is_read_back() {
        let note = document(|tx| {
            tx.put(ROOT, VOTES, ScalarValue::counter(3)).unwrap();
            let list = tx.put_object(ROOT, ITEMS, ObjType::List).unwrap();
            tx.insert(&list, 0, "plain").unwrap();
            let text = tx.insert_object(&list, 1, ObjType::Text).unwrap();
            tx.splice_text(&text, 0, 0, "text").unwrap();
            tx.put(ROOT, "unknown", true).unwrap();
        })
        .read(read)
        .unwrap();
        let items = Some(vec!["plain".to_owned(), "text".to_owned()]);
        let (title, body) = ("Title".to_owned(), "Body 漢字".to_owned());
        assert_eq!(note, Ok(Note { title, body, created: Some(7), votes: Some(3), items }));
    }

    #[test]
    fn format_problems_are_reported() {
        assert!(problems_of(|_| ()).is_empty());
        let found = problems_of(|tx| {
            tx.delete(ROOT, TITLE).unwrap();
            tx.put(ROOT, BODY, "string").unwrap();
            tx.put(ROOT, CREATED, 12).unwrap();
            tx.put(ROOT, VOTES, 3).unwrap();
            tx.put_object(ROOT, ITEMS, ObjType::Map).unwrap();
        });
        let expected = [
            "`title` is missing",
            "`body` is a plain string, and must be a text object",
            "`created` is `12`, and must be a timestamp",
            "`votes` is `3`, and must be a counter",
            "`items` is a map, and must be a list of texts",
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn other_documents_are_no_notes() {
        let empty = AutoCommit::new();
        let found = read(&empty).unwrap_err();
        assert_eq!(found.to_string(), "not a note: `landfallNotebook` is missing");
        let later = problems_of(|tx| tx.put(ROOT, FORMAT, 2).unwrap());
        assert_eq!(later, ["it is a note of version 2, this program reads up to version 1"]);
        let wrong = problems_of(|tx| tx.put(ROOT, FORMAT, "x").unwrap());
        assert_eq!(wrong, ["not a note: `landfallNotebook` is \"x\""]);
    }
}
