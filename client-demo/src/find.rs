//! Finding the note that a person means: by its id, a unique beginning of it, its number in the
//! list, or its title.

use landfall::{Document, DocumentId};
use thiserror::Error;

use crate::failure::{Exit, Failure};
use crate::note::{self, Note, ShapeError};

/// A document of the space, and what it holds.
pub(crate) struct Listed {
    pub(crate) document: Document,
    /// What is wrong instead, if it is no note.
    pub(crate) note: Result<Note, ShapeError>,
}

/// What can be looked for.
pub(crate) trait Named {
    fn id(&self) -> DocumentId;
    /// The title, if it is a note and has one.
    fn title(&self) -> Option<&str>;
}

impl Named for Listed {
    fn id(&self) -> DocumentId {
        self.document.id()
    }

    fn title(&self) -> Option<&str> {
        self.note.as_ref().ok().map(|note| note.title.trim()).filter(|title| !title.is_empty())
    }
}

/// Reads documents and puts them in the order of `notes list`: the oldest first, so that a new
/// note gets a new number; notes without a date before them, by title.
pub(crate) fn listed(documents: Vec<Document>) -> Result<Vec<Listed>, Failure> {
    let mut all = Vec::with_capacity(documents.len());
    for document in documents {
        let note = document.read(note::read)?;
        all.push(Listed { document, note });
    }
    all.sort_by_cached_key(|listed| {
        let created = listed.note.as_ref().ok().and_then(|note| note.created);
        (created, listed.title().map(str::to_lowercase), listed.document.id())
    });
    Ok(all)
}

/// Why no note was found.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum FindError {
    /// Nothing fits.
    #[error("no note `{asked}`: {why}")]
    Unknown { asked: String, why: String },
    /// Several fit.
    #[error("`{asked}` may be one of several: {}", candidates.join(", "))]
    Ambiguous { asked: String, candidates: Vec<String> },
}

impl From<FindError> for Failure {
    fn from(error: FindError) -> Self {
        match error {
            FindError::Unknown { asked, why } => {
                let remedy = "see `landfall-demo notes list`, or sync first";
                Self::new(Exit::Note, format!("no note `{asked}`"), why, remedy)
            }
            FindError::Ambiguous { asked, candidates } => {
                let why = format!("it may be {}", candidates.join(" or "));
                Self::new(Exit::Note, format!("`{asked}` is ambiguous"), why, "give more of the id")
            }
        }
    }
}

/// What can be looked for, of one document.
struct Candidate<'a> {
    /// The id without its scheme.
    id: String,
    title: Option<&'a str>,
}

/// The note that is meant. An id wins over a number, a number over a title, a whole title over a
/// beginning of an id.
pub(crate) fn find<'a, T: Named>(all: &'a [T], asked: &str) -> Result<&'a T, FindError> {
    let candidate = |one: &'a T| Candidate { id: short(&one.id()), title: one.title() };
    let candidates: Vec<Candidate<'_>> = all.iter().map(candidate).collect();
    pick(&candidates, asked).map(|index| &all[index])
}

fn pick(all: &[Candidate<'_>], asked: &str) -> Result<usize, FindError> {
    let wanted = asked.trim().trim_start_matches("automerge:");
    let unknown = |why: &str| FindError::Unknown { asked: asked.to_owned(), why: why.to_owned() };
    if wanted.is_empty() {
        return Err(unknown("the name is empty"));
    }
    if let Some(index) = all.iter().position(|candidate| candidate.id == wanted) {
        return Ok(index);
    }
    if let Some(number) = wanted.parse::<usize>().ok().filter(|_| wanted.len() <= 6) {
        let there = (1..=all.len()).contains(&number);
        let why = || unknown(&format!("the list ends at {}", all.len()));
        return if there { Ok(number - 1) } else { Err(why()) };
    }
    let titled = |c: &Candidate<'_>| c.title.is_some_and(|t| t.eq_ignore_ascii_case(wanted));
    let begun = |c: &Candidate<'_>| c.id.starts_with(wanted);
    for fits in [&titled as &dyn Fn(&Candidate<'_>) -> bool, &begun] {
        let found: Vec<usize> = (0..all.len()).filter(|index| fits(&all[*index])).collect();
        match found.as_slice() {
            [] => {}
            [one] => return Ok(*one),
            several => return Err(ambiguous(all, asked, several)),
        }
    }
    Err(unknown("no id begins so, and no title reads so"))
}

/// Names a few of those that fit: by number, and by as much of the id as tells them apart.
fn ambiguous(all: &[Candidate<'_>], asked: &str, several: &[usize]) -> FindError {
    const NAMED: usize = 4;
    let name = |index: &usize| {
        let title = all[*index].title.unwrap_or("untitled");
        format!("{} {} ({title})", index + 1, &all[*index].id[..all[*index].id.len().min(8)])
    };
    let mut candidates: Vec<String> = several.iter().take(NAMED).map(name).collect();
    if several.len() > NAMED {
        candidates.push(format!("{} more", several.len() - NAMED));
    }
    FindError::Ambiguous { asked: asked.to_owned(), candidates }
}

/// The id that a text is, whether a document has it or not.
pub(crate) fn id(asked: &str) -> Option<DocumentId> {
    asked.trim().parse().ok()
}

/// An id without its scheme, as it is typed.
pub(crate) fn short(id: &DocumentId) -> String {
    id.to_string().trim_start_matches("automerge:").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<Candidate<'static>> {
        let candidate = |id: &str, title| Candidate { id: id.to_owned(), title };
        vec![
            candidate("4xyzAAAA", Some("Groceries")),
            candidate("4xyzBBBB", Some("Train")),
            candidate("9aaaCCCC", Some("train")),
            candidate("7777DDDD", None),
        ]
    }

    #[test]
    fn notes_are_found_by_every_name() {
        let all = all();
        for (asked, index) in [
            ("4xyzBBBB", 1),
            ("automerge:4xyzBBBB", 1),
            ("4xyzA", 0),
            ("9a", 2),
            ("groceries", 0),
            ("2", 1),
            ("7777D", 3),
        ] {
            assert_eq!(pick(&all, asked), Ok(index), "{asked}");
        }
    }

    #[test]
    fn what_is_not_there_or_not_clear_is_told() {
        let all = all();
        let unknown = |asked: &str| matches!(pick(&all, asked), Err(FindError::Unknown { .. }));
        assert!(["", "5", "0", "nothing", "4xyzAAAAA"].into_iter().all(unknown));
        let Err(FindError::Ambiguous { candidates, .. }) = pick(&all, "4xyz") else { panic!() };
        assert_eq!(candidates, ["1 4xyzAAAA (Groceries)", "2 4xyzBBBB (Train)"]);
        assert!(matches!(pick(&all, "TRAIN"), Err(FindError::Ambiguous { .. })));
    }
}
