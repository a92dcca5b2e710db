//! Hands commands over to the process that has the store open for long (`watch`, or `notes edit` while the
//! editor is open). That process performs them and returns their output. The calling process does everything
//! that needs the user: prompts, the editor and standard input. This module must not know the socket.

use std::path::PathBuf;
use std::sync::Arc;

use landfall::Store;
use serde::{Deserialize, Serialize};
use url::Url;

use crate::cli::Cli;
use crate::control::{self, AskError, Control};
use crate::editor;
use crate::failure::{self, Exit, Failure};
use crate::find;
use crate::lookup;
use crate::note::BODY;
use crate::notebook::Notebook;
use crate::place::NotebookPlace;
use crate::prompt;
use crate::request::{Draft, Hosted, Request};
use crate::term;
use crate::text::BaseText;

/// The outcome of a command.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Answer {
    /// It ended: its standard output and error, and its failure if it failed.
    Ended { out: String, err: String, failure: Option<Failure> },
    /// The user must confirm; then the command is sent again.
    Confirm { question: String },
}

/// Performs the commands of other processes until it is dropped. If the socket cannot be served, prints the
/// reason, and the other processes get a store-in-use error.
pub(crate) fn serve(notebook: &Notebook, place: &NotebookPlace) -> Option<Control> {
    let store = notebook.store.clone();
    let relay = (!place.offline).then(|| place.relay_url());
    let answer = move |request: Request| perform(&store, relay.as_deref(), request);
    let served = Control::serve(&place.store, answer);
    served
        .map_err(|error| {
            notebook.remark(format!("commands of other processes cannot edit this store: {error}"));
        })
        .ok()
}

fn perform(store: &Store, relay: Option<&str>, request: Request) -> Answer {
    let (result, said) = term::captured(|| run(store, relay, request));
    match result {
        Err(failure) if failure.question().is_some() => {
            Answer::Confirm { question: failure.question().unwrap_or_default().to_owned() }
        }
        result => Answer::Ended { out: said.out, err: said.err, failure: result.err() },
    }
}

fn run(store: &Store, relay: Option<&str>, request: Request) -> Result<(), Failure> {
    if let (true, Some(relay)) = (request.offline, relay) {
        let why = format!("the process that has the store open is connected to {relay}");
        let remedy = "omit --offline, or end that process first";
        return Err(Failure::new(Exit::Usage, "nothing was done", why, remedy));
    }
    let given = request.relay.as_deref().filter(|_| !request.offline);
    if given.is_some_and(|given| relay.map(without_space) != Some(without_space(given))) {
        let which = relay.unwrap_or("no relay");
        let why = format!("the process that has the store open syncs with {which}");
        let remedy = "omit --relay, or end that process first";
        return Err(Failure::new(Exit::Usage, "nothing was done", why, remedy));
    }
    let cli = Cli::of(request.args.iter().map(Into::into));
    let cli = cli.map_err(|_| {
        failure::rejected("the process that has the store open has another version")
    })?;
    if !cli.command.may_be_handed_over() {
        return Err(failure::rejected("it needs exclusive access to the store"));
    }
    let (space, quiet) = (request.space.clone(), request.quiet);
    let hosted = Some(Hosted { store: store.clone(), request: Arc::new(request) });
    // An offline process has not connected its store.
    let offline = relay.is_none() || cli.place.offline;
    let place = NotebookPlace { space, quiet, offline, hosted, ..cli.place };
    if let (None, Some(name)) = (relay, cli.command.that_needs_the_relay(&place)) {
        let why =
            format!("`{name}` needs the relay, and the process that has the store open is offline");
        let remedy = "end that process first";
        return Err(Failure::new(Exit::Usage, "nothing was done", why, remedy));
    }
    crate::dispatch(&place, cli.command)
}

/// A relay's URL normalised as by browsers, without the space in its path: the space does not make it another
/// relay.
fn without_space(url: &str) -> String {
    let url = url.trim();
    let read = Url::parse(url).map_or_else(|_| url.to_owned(), String::from);
    let relay = read.split("/spaces/").next().unwrap_or_default();
    relay.trim_end_matches('/').to_owned()
}

/// Sends this process's command to the process that has the store open. `edits`: the note for which the
/// command opens an editor. `in_use`: the error if that process serves no commands.
pub(crate) fn hand_over(
    place: &NotebookPlace,
    edits: Option<&str>,
    in_use: Failure,
) -> Result<(), Failure> {
    if !control::is_served(&place.store) {
        return Err(in_use);
    }
    let mut request = request(place)?;
    let Some(note) = edits else { return ask(place, &mut request, in_use) };
    let Some((draft, path)) = draft(place, note)? else {
        if !place.quiet {
            term::note("nothing was changed");
        }
        return Ok(());
    };
    request.draft = Some(draft.clone());
    let done = match ask(place, &mut request, in_use) {
        // The other process ended while the editor was open: the store is free.
        Err(failure) if failure.is_store_in_use() => {
            let cli = Cli::of(std::env::args_os())
                .map_err(|error| failure::rejected(&error.to_string()))?;
            crate::dispatch(&NotebookPlace { draft: Some(draft), ..place.clone() }, cli.command)
        }
        done => done,
    };
    if done.is_ok() {
        editor::remove(&path);
    }
    done.map_err(|failure| {
        let again = match failure.exit() {
            Exit::Note => "notes new".to_owned(),
            _ => format!("notes edit {note}"),
        };
        failure.and(editor::kept_in(&path, &again))
    })
}

fn request(place: &NotebookPlace) -> Result<Request, Failure> {
    let args = std::env::args_os().map(|arg| arg.into_string());
    let args = args.collect::<Result<Vec<String>, _>>();
    let args = args.map_err(|_| failure::rejected("its arguments are not UTF-8"))?;
    let folder = std::env::current_dir().map_err(|error| failure::rejected(&error.to_string()))?;
    Ok(Request {
        args,
        folder,
        space: place.space.clone(),
        quiet: place.quiet,
        offline: place.offline,
        relay: place.given_relay(),
        input: prompt::input_read(),
        ..Request::default()
    })
}

/// Runs the editor, and returns the edited text with its file; `None` if nothing changed.
fn draft(place: &NotebookPlace, note: &str) -> Result<Option<(Draft, PathBuf)>, Failure> {
    let notebook = lookup::open_to_read(place, note)?;
    let document = lookup::found(&notebook, note)?.document;
    let base = BaseText::take(&document, BODY)?;
    let id = find::short(&document.id());
    let edited = editor::edit(base.text()).map_err(|error| error.failure(&id))?;
    let Some(path) = edited.draft else { return Ok(None) };
    let heads = base.heads().iter().map(ToString::to_string).collect();
    let draft = Draft { heads, before: base.text().to_owned(), after: edited.text };
    Ok(Some((draft, path)))
}

fn ask(place: &NotebookPlace, request: &mut Request, in_use: Failure) -> Result<(), Failure> {
    loop {
        let answer = match control::ask::<&Request, Answer>(&place.store, request) {
            Ok(answer) => answer,
            Err(AskError::NotServed) => return Err(in_use),
            Err(error) => return Err(in_use.because(&error)),
        };
        match answer {
            Answer::Confirm { question } => {
                prompt::confirm(place, &question, false, "nothing was done")?;
                request.is_confirmed = true;
            }
            Answer::Ended { out, err, failure } => {
                term::say_lines(&out);
                term::note_lines(&err);
                return failure.map_or(Ok(()), Err);
            }
        }
    }
}
