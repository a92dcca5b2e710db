//! Finds a note by its id, a unique prefix of the id, its number in the list, or its title.

use landfall::{Document, DocumentId, OpenDocumentError, Space};
use thiserror::Error;

use crate::failure::{Exit, Failure};
use crate::name;
use crate::note::{self, Note, ShapeError};

/// A document of the space, with its content.
#[derive(Clone)]
pub(crate) struct Listed {
    pub(crate) document: Document,
    /// The note, or how the document departs from a note's shape.
    pub(crate) note: Result<Note, ShapeError>,
}

/// A document that can be found.
pub(crate) trait Named {
    fn id(&self) -> DocumentId;
    /// The title, if it is a note and has one.
    fn title(&self) -> Option<&str>;
}

impl Listed {
    fn read(document: Document) -> Result<Self, Failure> {
        let note = document.read(note::read)?;
        Ok(Self { document, note })
    }
}

impl Named for Listed {
    fn id(&self) -> DocumentId {
        self.document.id()
    }

    fn title(&self) -> Option<&str> {
        self.note.as_ref().ok().map(|note| note.title.trim()).filter(|title| !title.is_empty())
    }
}

/// Reads documents and sorts them like `notes list`: oldest first, so that a new note gets a new number;
/// notes without a date come first, by title.
pub(crate) fn listed(documents: Vec<Document>) -> Result<Vec<Listed>, Failure> {
    let mut all = Vec::with_capacity(documents.len());
    for document in documents {
        all.push(Listed::read(document)?);
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
    /// No note matches.
    #[error("no note `{asked}`: {why}")]
    Unknown { asked: String, why: String },
    /// Several notes match.
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

/// The names of one document.
struct Candidate<'a> {
    /// The id without its scheme.
    id: String,
    title: Option<&'a str>,
}

/// The note with this name. An id wins over a number, a number over a long id prefix, that over a title, and
/// a whole title over a short id prefix.
pub(crate) fn find<'a, T: Named>(all: &'a [T], asked: &str) -> Result<&'a T, FindError> {
    let candidate = |one: &'a T| Candidate { id: short(&one.id()), title: one.title() };
    let candidates: Vec<Candidate<'_>> = all.iter().map(candidate).collect();
    pick(&candidates, asked).map(|index| &all[index])
}

/// The least length of an id prefix that is looked up among ids alone. A shorter word is more likely a title:
/// for six letters, a coincidence has a chance of one in billions for each note.
const BEGINNING: usize = 6;

/// The most digits of a number in the list: more are an id prefix.
const NUMBER_DIGITS: usize = 6;

/// Finds notes of a space, and reads no other notes if an id or a prefix identifies one.
pub(crate) struct Finder<'a> {
    space: &'a Space,
    /// All notes, once a number or a title was looked up.
    all: Option<Vec<Listed>>,
}

impl<'a> Finder<'a> {
    pub(crate) fn new(space: &'a Space) -> Self {
        Self { space, all: None }
    }

    /// The note with this name.
    pub(crate) fn find(&mut self, asked: &str) -> Result<Result<Listed, FindError>, Failure> {
        let wanted = bare(asked);
        if let Some(id) = id(asked) {
            let found = self.open(id)?.map(Listed::read).transpose()?;
            return Ok(found.ok_or_else(|| unknown(asked, "the store has no note with this id")));
        }
        if is_beginning(wanted) {
            let begun = self.begun(wanted)?;
            match begun.as_slice() {
                [] => {}
                [one] => return Ok(Ok(one.clone())),
                several => return Ok(Err(several_begin(several, asked, wanted.len()))),
            }
        }
        if asked.trim() != wanted {
            return Ok(Err(unknown(asked, "no id begins with it")));
        }
        if self.all.is_none() {
            self.all = Some(listed(self.documents(self.space.documents()?)?)?);
        }
        Ok(find(self.all.as_deref().unwrap_or_default(), asked).cloned())
    }

    /// The documents whose ids have this prefix.
    fn begun(&self, beginning: &str) -> Result<Vec<Listed>, Failure> {
        let mut ids = self.space.documents()?;
        ids.retain(|id| short(id).starts_with(beginning));
        listed(self.documents(ids)?)
    }

    fn documents(&self, ids: Vec<DocumentId>) -> Result<Vec<Document>, Failure> {
        ids.into_iter().filter_map(|id| self.open(id).transpose()).collect()
    }

    /// `None` if it does not exist, or was deleted.
    fn open(&self, id: DocumentId) -> Result<Option<Document>, Failure> {
        match self.space.open(id) {
            Ok(document) => Ok(Some(document)),
            Err(OpenDocumentError::Unknown { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// The text without an id's scheme.
fn bare(asked: &str) -> &str {
    asked.trim().trim_start_matches("automerge:")
}

fn number(wanted: &str) -> Option<usize> {
    wanted.parse::<usize>().ok().filter(|_| wanted.len() <= NUMBER_DIGITS)
}

/// Whether the text is looked up among ids before titles.
fn is_beginning(wanted: &str) -> bool {
    // The letters of base58.
    let is_of_an_id = |c: char| c.is_ascii_alphanumeric() && !"0OIl".contains(c);
    wanted.len() >= BEGINNING && wanted.chars().all(is_of_an_id) && number(wanted).is_none()
}

fn unknown(asked: &str, why: &str) -> FindError {
    FindError::Unknown { asked: asked.to_owned(), why: why.to_owned() }
}

/// Several ids have this prefix: lists each with a few more letters.
fn several_begin(several: &[Listed], asked: &str, letters: usize) -> FindError {
    let name = |listed: &Listed| {
        let id = short(&listed.document.id());
        format!("{} ({})", &id[..id.len().min(letters + 3)], listed.title().unwrap_or("untitled"))
    };
    FindError::Ambiguous { asked: asked.to_owned(), candidates: few(several.iter().map(name)) }
}

/// The first names, and the number of the others.
fn few(names: impl ExactSizeIterator<Item = String>) -> Vec<String> {
    const NAMED: usize = 4;
    let more = names.len().saturating_sub(NAMED);
    let mut few: Vec<String> = names.take(NAMED).collect();
    if more > 0 {
        few.push(format!("{more} more"));
    }
    few
}

/// Whether a candidate matches.
type Fits<'a> = &'a dyn Fn(&Candidate<'_>) -> bool;

fn pick(all: &[Candidate<'_>], asked: &str) -> Result<usize, FindError> {
    let wanted = bare(asked);
    let unknown = |why: &str| unknown(asked, why);
    if wanted.is_empty() {
        return Err(unknown("the name is empty"));
    }
    if let Some(index) = all.iter().position(|candidate| candidate.id == wanted) {
        return Ok(index);
    }
    if let Some(number) = number(wanted) {
        let there = (1..=all.len()).contains(&number);
        let why = || unknown(&format!("the list ends at {}", all.len()));
        return if there { Ok(number - 1) } else { Err(why()) };
    }
    let key = name::key(wanted);
    let titled = |c: &Candidate<'_>| c.title.is_some_and(|title| name::key(title) == key);
    let begun = |c: &Candidate<'_>| c.id.starts_with(wanted);
    let (by_title, by_id): (Fits<'_>, Fits<'_>) = (&titled, &begun);
    let in_order = if is_beginning(wanted) { [by_id, by_title] } else { [by_title, by_id] };
    for fits in in_order {
        let found: Vec<usize> = (0..all.len()).filter(|index| fits(&all[*index])).collect();
        match found.as_slice() {
            [] => {}
            [one] => return Ok(*one),
            several => return Err(ambiguous(all, asked, several)),
        }
    }
    Err(unknown("no id begins with it, and no title equals it"))
}

/// Lists a few of the matches: by number, and by as much of the id as distinguishes them.
fn ambiguous(all: &[Candidate<'_>], asked: &str, several: &[usize]) -> FindError {
    let name = |index: &usize| {
        let title = all[*index].title.unwrap_or("untitled");
        format!("{} {} ({title})", index + 1, &all[*index].id[..all[*index].id.len().min(8)])
    };
    FindError::Ambiguous { asked: asked.to_owned(), candidates: few(several.iter().map(name)) }
}

/// Parses an id, whether or not a document has it.
pub(crate) fn id(asked: &str) -> Option<DocumentId> {
    asked.trim().parse().ok()
}

/// An id without its scheme, as a user types it.
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
            candidate("5cafecccc", Some("Café")),
            candidate("5xyzcccc", Some("5cafe")),
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
            ("4xyzBB", 1),
            ("GROCERIES", 0),
            ("cafe\u{301}", 4),
            ("CAFÉ", 4),
            ("5cafe", 5),
            ("5cafec", 4),
        ] {
            assert_eq!(pick(&all, asked), Ok(index), "{asked}");
        }
    }

    #[test]
    fn an_id_or_its_prefix_loads_no_other_note() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store");
        let open = || landfall::Store::open(&path, landfall::Options::default()).unwrap();
        let store = open();
        let make = |number: u8| {
            let space = store.space("default").unwrap();
            let title = format!("Note {number}");
            space.create(|tx| Ok(note::write(tx, &title, "", None).map(drop)?)).unwrap().0.id()
        };
        let ids: Vec<DocumentId> = (0..5).map(make).collect();
        store.close().unwrap();
        let id = short(&ids[3]);
        for (asked, loaded) in
            [(format!("automerge:{id}"), 1), (id.clone(), 1), (id[..8].to_owned(), 1)]
                .into_iter()
                .chain([("note 3".to_owned(), 5), ("zzzzzzzz".to_owned(), 5)])
                .chain([("automerge:zzzzzzzz".to_owned(), 0)])
        {
            let store = open();
            let space = store.space("default").unwrap();
            let found = Finder::new(&space).find(&asked).unwrap();
            assert_eq!(store.status().loaded.documents, loaded, "{asked}");
            if !asked.ends_with('z') {
                assert_eq!(found.unwrap().document.id(), ids[3], "{asked}");
            }
            store.close().unwrap();
        }
    }

    #[test]
    fn unknown_and_ambiguous_names_are_errors() {
        let all = all();
        let unknown = |asked: &str| matches!(pick(&all, asked), Err(FindError::Unknown { .. }));
        assert!(["", "7", "0", "nothing", "4xyzAAAAA"].into_iter().all(unknown));
        let Err(FindError::Ambiguous { candidates, .. }) = pick(&all, "4xyz") else { panic!() };
        assert_eq!(candidates, ["1 4xyzAAAA (Groceries)", "2 4xyzBBBB (Train)"]);
        assert!(matches!(pick(&all, "TRAIN"), Err(FindError::Ambiguous { .. })));
    }
}
