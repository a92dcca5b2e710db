//! The edits of Ann and Ben, and the expected result: text at different places of one line and at the same
//! place, a counter, a list.

use landfall::automerge::transaction::Transactable;
use landfall::automerge::{ObjType, ROOT, ReadDoc, ScalarValue};
use landfall::{BoxError, ChangeError, Document, Space};

use crate::failure::Failure;
use crate::note::{self, BODY, ITEMS, Note, ShapeError, TITLE, VOTES};
use crate::replica::Check;
use crate::text::BaseText;

const BODY_FIRST: &str = "We take the train at six. Bring a book.\n";
const ANNS_LINE: &str = "First stop: tea 🍵 in Uji.\n";
const BENS_LINE: &str = "雨具 (rain gear) for all!\n";

/// The note before they go offline.
pub(super) fn create(space: &Space) -> Result<Document, ChangeError> {
    let (document, ()) = space.create(|tx| {
        note::write(tx, "Weekend in Kyoto", BODY_FIRST, None)?;
        tx.put(ROOT, VOTES, ScalarValue::counter(1))?;
        let items = tx.put_object(ROOT, ITEMS, ObjType::List)?;
        for (index, item) in ["passport", "charger"].into_iter().enumerate() {
            let text = tx.insert_object(&items, index, ObjType::Text)?;
            tx.splice_text(&text, 0, 0, item)?;
        }
        Ok(())
    })?;
    Ok(document)
}

/// Ann's edits; returns the number of changes.
pub(super) fn anns(note: &Document) -> Result<u64, Failure> {
    rewrite(note, TITLE, |title| title.replace("Kyoto", "Kyōto"))?;
    rewrite(note, BODY, |body| body.replace("the train", "the early train") + ANNS_LINE)?;
    vote(note, 2)?;
    item(note, "camera", |length| length)?;
    Ok(4)
}

/// Ben's edits; returns the number of changes.
pub(super) fn bens(note: &Document) -> Result<u64, Failure> {
    rewrite(note, BODY, |body| body.replace("at six", "at seven"))?;
    rewrite(note, BODY, |body| body.replace("a book", "two books") + BENS_LINE)?;
    vote(note, 3)?;
    item(note, "umbrella ☂", |_| 0)?;
    remove(note, "charger")?;
    Ok(5)
}

/// Checks that both authors' edits are there as intended.
pub(super) fn merged(note: &Note) -> Vec<Check> {
    let body = &note.body;
    let line = "We take the early train at seven. Bring two books.\n";
    let both = body.contains(ANNS_LINE) && body.contains(BENS_LINE);
    let items = ["umbrella ☂", "passport", "camera"].map(str::to_owned).to_vec();
    vec![
        Check::new("the title has Ann's letter", note.title == "Weekend in Kyōto"),
        Check::new("the first line has the edits of both", body.starts_with(line)),
        Check::new("the lines that both added are there, not interleaved", both),
        Check::new(
            "no letter is duplicated",
            body.len() == (line.len() + ANNS_LINE.len() + BENS_LINE.len()),
        ),
        Check::new("the votes are added up", note.votes == Some(6)),
        Check::new("the list has the edits of both", note.items == Some(items)),
    ]
}

/// Edits a text like `notes edit`: by the difference.
fn rewrite(
    note: &Document,
    key: &'static str,
    edit: impl FnOnce(&str) -> String,
) -> Result<(), Failure> {
    let base = BaseText::take(note, key)?;
    base.edit(note, &edit(base.text()))?;
    Ok(())
}

fn vote(note: &Document, by: i64) -> Result<(), ChangeError> {
    note.change(|tx| Ok(tx.increment(ROOT, VOTES, by)?))
}

fn item(
    note: &Document,
    item: &str,
    place: impl FnOnce(usize) -> usize,
) -> Result<(), ChangeError> {
    note.change(|tx| {
        let (list, _) = items(tx)?;
        let place = place(tx.length(&list));
        let text = tx.insert_object(&list, place, ObjType::Text)?;
        Ok(tx.splice_text(&text, 0, 0, item)?)
    })
}

fn remove(note: &Document, item: &str) -> Result<(), ChangeError> {
    note.change(|tx| {
        let (list, items) = items(tx)?;
        match items.iter().position(|there| there == item) {
            Some(index) => Ok(tx.delete(&list, index)?),
            None => Ok(()),
        }
    })
}

fn items(doc: &impl ReadDoc) -> Result<(landfall::automerge::ObjId, Vec<String>), BoxError> {
    Ok(note::items(doc)?.ok_or(ShapeError::Missing { key: ITEMS })?)
}
