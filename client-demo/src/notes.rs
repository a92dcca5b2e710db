//! The commands `notes …`.

use std::io::Read;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use landfall::Document;
use landfall::automerge::ReadDoc;
use landfall::automerge::transaction::Transactable;

use crate::cli::{NotesCommand, Place};
use crate::deleted;
use crate::editor;
use crate::export;
use crate::failure::{Exit, Failure};
use crate::find::{self, FindError, Listed, find, listed};
use crate::note::{self, BODY, Note, ShapeError, TITLE};
use crate::notebook::Notebook;
use crate::refused;
use crate::term::{self, faint, first_line, fit, say, strong};
use crate::text::{Base, EditError, TooLong, fits};

/// A note's text, and what it is titled with without a title: longer is a paragraph.
const TITLE_CHARS: usize = 80;

/// Bytes of a text from standard input. A document can hardly be longer.
const GIVEN_BYTES: u64 = 64 * 1024 * 1024;

/// Runs one of the commands.
pub(crate) fn run(place: &Place, command: NotesCommand) -> Result<(), Failure> {
    match command {
        NotesCommand::List => list(place),
        NotesCommand::Show { id } => show(place, &id),
        NotesCommand::Check { id } => check(place, &id),
        NotesCommand::New { title, text } => new(place, title, text),
        NotesCommand::Append { id, text } => append(place, &id, &text),
        NotesCommand::Edit { id, title, text } => edit(place, &id, title, text),
        NotesCommand::Rm { id, yes } => deleted::rm(place, &id, yes),
        NotesCommand::Deleted(args) => match (args.export.as_deref(), args.discard) {
            (Some([id, file]), _) => deleted::export(place, id, Path::new(file)),
            (_, Some(id)) => deleted::discard(place, &id, args.yes),
            _ => deleted::list(place),
        },
        NotesCommand::Refused => refused::list(place),
        NotesCommand::Retry { id } => refused::retry(place, &id),
        NotesCommand::Reauthor { id } => refused::reauthor(place, &id),
        NotesCommand::Merge { id } => refused::merge(place, &id),
        NotesCommand::Export { id, file } => export::run(place, &id, &file),
    }
}

fn list(place: &Place) -> Result<(), Failure> {
    let Some(notebook) = Notebook::open_to_read(place)? else {
        if !place.quiet {
            term::note("no notes yet; make one with `landfall-demo notes new`, or `sync`");
        }
        return Ok(());
    };
    let all = listed(notebook.documents()?)?;
    if all.is_empty() {
        notebook.remark("no notes yet; make one with `landfall-demo notes new`, or `sync`");
    }
    let width = term::width();
    for (listed, number) in all.iter().zip(1..) {
        say(row(listed, number, width)?);
    }
    Ok(())
}

/// `12 *Title of the note   first line of its text             4xyzabcd`
fn row(listed: &Listed, number: usize, width: usize) -> Result<String, Failure> {
    const ID: usize = 8;
    let id = find::short(&listed.document.id());
    let status = listed.document.status()?;
    let mark = match (&status.parked, status.pending.changes) {
        (Some(_), _) => "!",
        (None, 0) => " ",
        (None, _) => "*",
    };
    let rest = width.saturating_sub(4 + 1 + 2 + 2 + ID);
    let (title_width, line_width) = (rest * 2 / 5, rest - rest * 2 / 5);
    let (title, line) = match &listed.note {
        Ok(note) => (title_of(note), first_line(&note.body, line_width)),
        Err(problem) => ("(no note)".to_owned(), first_line(&problem.to_string(), line_width)),
    };
    let title = strong(fit(&title, title_width));
    let (line, id) = (fit(&line, line_width), faint(&id[..id.len().min(ID)]));
    Ok(format!("{number:>3} {mark}{title}  {line}  {id}"))
}

pub(crate) fn title_of(note: &Note) -> String {
    let title = first_line(&note.title, TITLE_CHARS);
    if title.is_empty() { "(untitled)".to_owned() } else { title }
}

/// A note's title in quotes, or the id of what has none.
pub(crate) fn name_of(listed: &Listed) -> String {
    match &listed.note {
        Ok(note) => format!("“{}”", title_of(note)),
        Err(_) => listed.document.id().to_string(),
    }
}

fn show(place: &Place, id: &str) -> Result<(), Failure> {
    let (notebook, all) = open_to_read(place, id)?;
    let listed = match find(&all, id) {
        Err(FindError::Unknown { .. }) if deleted::show_if_lost(&notebook, id)? => return Ok(()),
        found => found.or_else(|error| Err(not_found(&notebook, error)?))?,
    };
    let note = listed.note.as_ref().map_err(|problem| malformed(id, problem))?;
    let status = listed.document.status()?;
    say(strong(title_of(note)));
    let mut facts = vec![listed.document.id().to_string()];
    facts.push(match status.pending.changes {
        0 => "on the relay".to_owned(),
        pending => {
            format!("{pending} of {} not on the relay yet", term::count(status.changes, "change"))
        }
    });
    if let Some(parked) = &status.parked {
        facts.push(format!("refused by the relay ({}: {})", parked.code, parked.what));
    }
    if let Some(votes) = note.votes {
        facts.push(term::count(u64::try_from(votes).unwrap_or_default(), "vote"));
    }
    notebook.remark(faint(facts.join(" · ")));
    print(note);
    Ok(())
}

/// Prints what is below a note's title.
pub(crate) fn print(note: &Note) {
    // Also where no terminal is: what reads a pipe may hand it on to one.
    let body = term::tame_text(&note.body);
    match body.ends_with('\n') {
        true => term::say_lines(&body),
        false => say(body),
    }
    for item in note.items.iter().flatten() {
        say(format!("- {}", first_line(item, term::width())));
    }
}

fn check(place: &Place, id: &str) -> Result<(), Failure> {
    let (notebook, all) = open_to_read(place, id)?;
    let listed = found(&notebook, &all, id)?;
    let (problems, conflicts) =
        listed.document.read(|doc| (note::problems(doc), note::conflicts(doc)))?;
    for (key, values) in conflicts {
        let line = format!("`{key}` was set to {values} values at once; one of them is shown");
        if !place.quiet {
            term::note(line);
        }
    }
    if problems.is_empty() {
        say(format!("{}: as docs/notebook.md has it", listed.document.id()));
        return Ok(());
    }
    let why = problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
    let what = format!("`{id}` is malformed");
    Err(Failure::new(Exit::Differs, what, why, "docs/notebook.md has the shape"))
}

fn new(place: &Place, title: Option<String>, text: Option<String>) -> Result<(), Failure> {
    let text = text.map(given).transpose()?;
    let title = match (title, &text) {
        (Some(title), _) => title,
        (None, Some(text)) => {
            first_line(text, TITLE_CHARS).trim_start_matches('#').trim().to_owned()
        }
        (None, None) => {
            let remedy = "give a title, or a text with --text";
            return Err(Failure::new(Exit::Usage, "no note was made", "it would be empty", remedy));
        }
    };
    fits(title.chars().count() + text.as_ref().map_or(0, |text| text.chars().count()))?;
    let notebook = Notebook::open(place)?;
    let (body, created) = (text.unwrap_or_default(), now_ms());
    let made = notebook.space.create(|tx| {
        note::write(tx, &title, &body, Some(created))?;
        Ok(())
    })?;
    say(made.id());
    notebook.saved()
}

fn append(place: &Place, id: &str, text: &str) -> Result<(), Failure> {
    let text = given(text.to_owned())?;
    fits(text.chars().count())?;
    let (notebook, all) = open(place, id)?;
    let listed = found(&notebook, &all, id)?;
    listed.note.as_ref().map_err(|problem| malformed(id, problem))?;
    listed.document.change(|tx| {
        let body = note::text_object(tx, BODY)?.ok_or(ShapeError::Missing { key: BODY })?;
        let length = tx.length(&body);
        let end = tx.text(&body)?;
        let newline = if end.is_empty() || end.ends_with('\n') { "" } else { "\n" };
        tx.splice_text(&body, length, 0, &format!("{newline}{text}"))?;
        Ok(())
    })?;
    notebook.saved()
}

fn edit(
    place: &Place,
    id: &str,
    title: Option<String>,
    text: Option<String>,
) -> Result<(), Failure> {
    let text = text.map(given).transpose()?;
    let (notebook, all) = open(place, id)?;
    let listed = found(&notebook, &all, id)?;
    listed.note.as_ref().map_err(|problem| malformed(id, problem))?;
    let document = &listed.document;
    let mut operations = 0;
    if let Some(title) = &title {
        operations += replace(document, TITLE, title)?;
    }
    operations += match (&title, &text) {
        (_, Some(text)) => replace(document, BODY, text)?,
        (None, None) => in_editor(document)?,
        (Some(_), None) => 0,
    };
    if operations == 0 {
        notebook.remark("nothing was changed");
    }
    notebook.saved()
}

fn replace(document: &Document, key: &'static str, text: &str) -> Result<usize, Failure> {
    Ok(Base::take(document, key)?.edit(document, text)?)
}

/// Lets a person edit the text. The link stays up meanwhile, so what others write arrives.
fn in_editor(document: &Document) -> Result<usize, Failure> {
    let base = Base::take(document, BODY)?;
    let edited = editor::edit(base.text())?;
    base.edit(document, &edited.text).map_err(|error| {
        let failure = Failure::from(error);
        match edited.keep() {
            Some(path) => failure.and(format!("your text is kept in {}", path.display())),
            None => failure,
        }
    })
}

impl From<EditError> for Failure {
    fn from(error: EditError) -> Self {
        let what = "the note was not changed";
        match error {
            EditError::Shape(problem) => malformed("it", &problem),
            EditError::TooLong(error) => error.into(),
            EditError::Read(error) => error.into(),
            EditError::Change(error) => error.into(),
            other => Self::new(Exit::Other, what, other, "try again"),
        }
    }
}

impl From<TooLong> for Failure {
    fn from(error: TooLong) -> Self {
        Self::new(Exit::Input, "the text was not taken", error, "make it in smaller steps")
    }
}

fn malformed(id: &str, problem: &ShapeError) -> Failure {
    let what = format!("`{id}` cannot be used as a note");
    Failure::new(Exit::Differs, what, problem, "docs/notebook.md has the shape")
}

/// The note that is meant.
pub(crate) fn found<'a>(
    notebook: &Notebook,
    all: &'a [Listed],
    id: &str,
) -> Result<&'a Listed, Failure> {
    find(all, id).or_else(|error| Err(not_found(notebook, error)?))
}

/// Why no note was found: it may be known to be deleted.
pub(crate) fn not_found(notebook: &Notebook, error: FindError) -> Result<Failure, Failure> {
    if let FindError::Unknown { asked, .. } = &error
        && let Some(document) = find::id(asked)
        && notebook.space.is_deleted(&document)?
    {
        let why = "it was deleted, for good";
        let remedy = "see `landfall-demo notes deleted` for edits of yours that are left";
        return Ok(Failure::new(Exit::Note, format!("no note `{asked}`"), why, remedy));
    }
    Ok(error.into())
}

pub(crate) fn open(place: &Place, id: &str) -> Result<(Notebook, Vec<Listed>), Failure> {
    if !place.store.exists() {
        return Err(nothing_there(place, id));
    }
    let notebook = Notebook::open(place)?;
    let all = listed(notebook.documents()?)?;
    Ok((notebook, all))
}

pub(crate) fn open_to_read(place: &Place, id: &str) -> Result<(Notebook, Vec<Listed>), Failure> {
    let notebook = Notebook::open_to_read(place)?.ok_or_else(|| nothing_there(place, id))?;
    let all = listed(notebook.documents()?)?;
    Ok((notebook, all))
}

pub(crate) fn nothing_there(place: &Place, id: &str) -> Failure {
    let why = match place.store.exists() {
        true => format!("the store has no space `{}` yet", place.space),
        false => format!("there is no store {} yet", place.store.display()),
    };
    Failure::new(Exit::Note, format!("no note `{id}`"), why, "make a note, or sync first")
}

/// A text from the command line; `-` is standard input.
fn given(text: String) -> Result<String, Failure> {
    if text != "-" {
        return Ok(text);
    }
    let failed = |why: &dyn std::fmt::Display| {
        Failure::new(Exit::Input, "cannot read standard input", why, "give shorter UTF-8 text")
    };
    let mut text = String::new();
    let read = std::io::stdin().take(GIVEN_BYTES + 1).read_to_string(&mut text);
    read.map_err(|error| failed(&error))?;
    if text.len() as u64 > GIVEN_BYTES {
        return Err(failed(&format!("it has more than {GIVEN_BYTES} bytes")));
    }
    Ok(text.strip_suffix('\n').map(str::to_owned).unwrap_or(text))
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
