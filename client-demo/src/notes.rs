//! The commands `notes …`. They must not know SQLite or the relay.

use std::io::Read;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use landfall::automerge::ReadDoc;
use landfall::automerge::transaction::Transactable;
use landfall::{CHANGE_OPERATIONS, ChangeError, Document, ReadError};

use crate::args::NotesCommand;
use crate::deleted;
use crate::editor;
use crate::export;
use crate::failure::{Exit, Failure, deleted_meanwhile};
use crate::find::{self, FindError, Finder, Listed, listed};
use crate::handover;
use crate::lines;
use crate::lookup::{found, not_found, open, open_to_read};
use crate::note::{self, BODY, ShapeError, TITLE};
use crate::notebook::{self, Notebook};
use crate::place::NotebookPlace;
use crate::prompt;
use crate::refused;
use crate::render::{TITLE_CHARS, print, title_of};
use crate::request::{Draft, Hosted};
use crate::term::{self, faint, first_line, fit, say, strong};
use crate::text::{BaseText, EditError, TooLong, fits};

/// The most bytes of a text from standard input that replaces a note's text. A document can hardly be longer.
const COMPARED_BYTES: u64 = 64 * 1024 * 1024;

/// The most bytes of a text from standard input that is inserted. A UTF-8 character has at most four bytes,
/// and each character is one operation of the change, so a longer text can never fit.
const INSERTED_BYTES: u64 = 4 * CHANGE_OPERATIONS;

/// Runs a `notes` subcommand.
pub(crate) fn run(place: &NotebookPlace, command: NotesCommand) -> Result<(), Failure> {
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

fn list(place: &NotebookPlace) -> Result<(), Failure> {
    let Some(notebook) = Notebook::open_to_read(place)? else {
        if !place.quiet {
            let why = notebook::absent(place);
            term::note(format!(
                "no notes: {why}; create one with `landfall-demo notes new`, or `sync`"
            ));
        }
        return Ok(());
    };
    let all = listed(notebook.documents()?)?;
    if all.is_empty() {
        let (space, store) = (&place.space, place.store.display());
        notebook.remark(format!(
            "no notes yet in the space `{space}` of {store}; create one with `landfall-demo notes new`, or `sync`"
        ));
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
    let mark = match (&status.rejected, status.pending.changes) {
        (Some(_), _) => "!",
        (None, 0) => " ",
        (None, _) => "*",
    };
    let rest = width.saturating_sub(4 + 1 + 2 + 2 + ID);
    let (title_width, line_width) = (rest * 2 / 5, rest - rest * 2 / 5);
    let (title, line) = match &listed.note {
        Ok(note) => (title_of(note), first_line(&note.body, line_width)),
        Err(problem) => ("(not a note)".to_owned(), first_line(&problem.to_string(), line_width)),
    };
    let title = strong(fit(&title, title_width));
    let (line, id) = (fit(&line, line_width), faint(&id[..id.len().min(ID)]));
    Ok(format!("{number:>3} {mark}{title}  {line}  {id}"))
}

fn show(place: &NotebookPlace, id: &str) -> Result<(), Failure> {
    let notebook = open_to_read(place, id)?;
    let listed = match Finder::new(&notebook.space).find(id)? {
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
    if let Some(rejected) = &status.rejected {
        facts.push(format!("refused by the relay ({}: {})", rejected.code, rejected.what));
    }
    if let Some(votes) = note.votes {
        facts.push(term::count(u64::try_from(votes).unwrap_or_default(), "vote"));
    }
    notebook.remark(faint(facts.join(" · ")));
    print(note);
    Ok(())
}

fn check(place: &NotebookPlace, id: &str) -> Result<(), Failure> {
    let notebook = open_to_read(place, id)?;
    let listed = found(&notebook, id)?;
    let (problems, conflicts) =
        listed.document.read(|doc| (note::problems(doc), note::conflicts(doc)))?;
    for (key, values) in conflicts {
        let line = format!("`{key}` was set to {values} values concurrently; one of them is shown");
        if !place.quiet {
            term::note(line);
        }
    }
    if problems.is_empty() {
        say(format!("{}: as docs/notebook.md specifies", listed.document.id()));
        return Ok(());
    }
    let why = problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
    let what = format!("`{id}` is malformed");
    Err(Failure::new(Exit::Differs, what, why, "docs/notebook.md specifies the format"))
}

fn new(place: &NotebookPlace, title: Option<String>, text: Option<String>) -> Result<(), Failure> {
    let text = text.map(|text| given(place, text, INSERTED_BYTES)).transpose()?;
    let given_title = title.filter(|title| !title.trim().is_empty());
    let body = text.as_deref().unwrap_or_default();
    if given_title.is_none() && body.trim().is_empty() {
        let remedy = "give a title, or a text with --text";
        return Err(Failure::new(Exit::Usage, "no note was created", "it would be empty", remedy));
    }
    let title = given_title
        .unwrap_or_else(|| first_line(body, TITLE_CHARS).trim_start_matches('#').trim().to_owned());
    fits(title.chars().count() + text.as_ref().map_or(0, |text| text.chars().count()))?;
    let notebook = Notebook::open(place)?;
    let (body, created) = (text.unwrap_or_default(), now_ms());
    let made = notebook
        .space
        .create(|tx| {
            note::write(tx, &title, &body, Some(created))?;
            Ok(())
        })?
        .0;
    say(made.id());
    notebook.saved()
}

fn append(place: &NotebookPlace, id: &str, text: &str) -> Result<(), Failure> {
    let text = given(place, text.to_owned(), INSERTED_BYTES)?;
    fits(text.chars().count())?;
    let notebook = open(place, id)?;
    let listed = found(&notebook, id)?;
    listed.note.as_ref().map_err(|problem| malformed(id, problem))?;
    listed.document.change(|tx| {
        let body = note::text_object(tx, BODY)?.ok_or(ShapeError::Missing { key: BODY })?;
        let length = tx.length(&body);
        let before = tx.text(&body)?;
        let is_ended = before.is_empty() || before.ends_with(['\n', '\r']);
        let end = if is_ended { "" } else { lines::end_of(&before) };
        tx.splice_text(&body, length, 0, &format!("{end}{text}"))?;
        Ok(())
    })?;
    saved(notebook, &listed.document)
}

fn edit(
    place: &NotebookPlace,
    id: &str,
    title: Option<String>,
    text: Option<String>,
) -> Result<(), Failure> {
    let text = text.map(|text| given(place, text, COMPARED_BYTES)).transpose()?;
    let notebook = open(place, id)?;
    let listed = found(&notebook, id)?;
    listed.note.as_ref().map_err(|problem| malformed(id, problem))?;
    let document = &listed.document;
    let mut operations = 0;
    if let Some(title) = &title {
        operations += replace(document, TITLE, title)?;
    }
    operations += match (&title, &text) {
        (_, Some(text)) => replace(document, BODY, text)?,
        (None, None) => in_editor(place, &notebook, document)?,
        (Some(_), None) => 0,
    };
    if operations == 0 {
        notebook.remark("nothing was changed");
    }
    saved(notebook, document)
}

/// Ends a command that edited a note; a deletion of the note may have arrived meanwhile.
fn saved(notebook: Notebook, document: &Document) -> Result<(), Failure> {
    let (space, id) = (notebook.space.clone(), document.id());
    notebook.saved_unless(|| match space.is_deleted(&id)? {
        true => Err(deleted_meanwhile("the edits are kept in this store only")),
        false => Ok(()),
    })
}

fn replace(document: &Document, key: &'static str, text: &str) -> Result<usize, Failure> {
    Ok(BaseText::take(document, key)?.edit(document, text)?)
}

/// Runs the editor. Meanwhile the link stays up, so edits of others arrive, and commands of other processes
/// are performed.
fn in_editor(
    place: &NotebookPlace,
    notebook: &Notebook,
    document: &Document,
) -> Result<usize, Failure> {
    let hosted = place.hosted.as_ref();
    if let Some(draft) = hosted.and_then(Hosted::draft).or(place.draft.as_ref()) {
        return edited_elsewhere(document, draft);
    }
    if hosted.is_some() {
        let why = "the request contains no edited text";
        return Err(Failure::new(Exit::Other, "the note was not edited", why, "try again"));
    }
    let base = BaseText::take(document, BODY)?;
    let id = find::short(&document.id());
    let note = &id[..id.len().min(8)];
    let control = handover::serve(notebook, place);
    let edited = editor::edit(base.text()).map_err(|error| error.failure(note))?;
    drop(control);
    match base.edit(document, &edited.text) {
        Ok(operations) => {
            edited.saved();
            Ok(operations)
        }
        Err(error) => {
            let is_deleted = matches!(
                error,
                EditError::Read(ReadError::Deleted) | EditError::Change(ChangeError::Deleted)
            );
            let again = match is_deleted {
                true => "notes new".to_owned(),
                false => format!("notes edit {note}"),
            };
            let failure = Failure::from(error);
            Err(match &edited.draft {
                Some(path) => failure.and(editor::kept_in(path, &again)),
                None => failure,
            })
        }
    }
}

/// Applies an edited text from an editor that another process, or this one, ran.
fn edited_elsewhere(document: &Document, draft: &Draft) -> Result<usize, Failure> {
    let heads = draft.heads.iter().map(|head| head.parse()).collect::<Result<Vec<_>, _>>();
    let heads = heads.map_err(|_| EditError::Replaced)?;
    let base = BaseText::resume(document, BODY, heads, draft.before.clone())?;
    Ok(base.edit(document, &draft.after)?)
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
        Self::new(
            Exit::Input,
            "the text was not accepted",
            error,
            "split the edit into smaller ones",
        )
    }
}

fn malformed(id: &str, problem: &ShapeError) -> Failure {
    let what = format!("`{id}` cannot be used as a note");
    Failure::new(Exit::Differs, what, problem, "docs/notebook.md specifies the format")
}

/// A text from the command line; `-` reads at most `most` bytes of standard input.
fn given(place: &NotebookPlace, text: String, most: u64) -> Result<String, Failure> {
    match text.as_str() {
        "-" => prompt::input(place, || standard_input(most)),
        _ => Ok(text),
    }
}

fn standard_input(most: u64) -> Result<String, Failure> {
    let failed = |why: &dyn std::fmt::Display| {
        Failure::new(Exit::Input, "cannot read standard input", why, "give shorter UTF-8 text")
    };
    let mut bytes = Vec::new();
    std::io::stdin().take(most + 1).read_to_end(&mut bytes).map_err(|error| failed(&error))?;
    // Before the UTF-8 check: the limit may have cut the last character.
    if bytes.len() as u64 > most {
        let why = match most {
            INSERTED_BYTES => {
                format!(
                    "it has more than {most} bytes, a change at most {CHANGE_OPERATIONS} characters"
                )
            }
            _ => format!("it has more than {most} bytes"),
        };
        return Err(failed(&why));
    }
    // Unchanged, including a final line ending.
    String::from_utf8(bytes).map_err(|error| failed(&error.utf8_error()))
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
