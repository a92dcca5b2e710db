//! The command `watch`: stays in sync and prints events until it is stopped. On a terminal the last line
//! shows the current state; elsewhere each new state is a line.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use landfall::automerge::{Patch, PatchAction};
use landfall::{Document, DocumentId, Event, EventKind, LinkStatus, Origin, Status, SyncStatus};

use crate::failure::Failure;
use crate::handover;
use crate::note;
use crate::notebook::Notebook;
use crate::place::NotebookPlace;
use crate::term::{self, count, faint, first_line, strong};
use crate::wait::Waiter;

/// How often the last line changes, to show that the command runs.
const TICK: Duration = Duration::from_millis(120);

/// Runs the command.
pub(crate) fn run(place: &NotebookPlace) -> Result<(), Failure> {
    let notebook = Notebook::open(place)?;
    let known = KnownNotes::of(&notebook)?;
    let control = handover::serve(&notebook, place);
    let mut view = View::new(&place.relay_url());
    let waiter = Waiter::new()?;
    let ended = waiter.until_signal(follow(&notebook, known, &mut view));
    view.end();
    // Commands passed on by other processes finish first.
    drop(control);
    notebook.close()?;
    ended.map(|_| ())
}

/// Ends when the store is closed, or when the reader closes the output.
async fn follow(notebook: &Notebook, mut known: KnownNotes, view: &mut View) {
    let mut events = notebook.store.events();
    let mut status = notebook.store.watch();
    let mut open = view.state(&status.now());
    while open {
        open = tokio::select! {
            event = events.next() => match event {
                Some(Ok(event)) if is_no_news(&event) => true,
                Some(Ok(event)) => view.line(&told(notebook, &mut known, &event)),
                Some(Err(lagged)) => view.line(&lagged.to_string()),
                None => false,
            },
            status = status.changed() => status.is_some_and(|status| view.state(&status)),
        };
    }
}

/// The notes seen, kept open so that events report what changed in them; and their titles, to name them after
/// a deletion.
struct KnownNotes(BTreeMap<DocumentId, (Document, Option<String>)>);

impl KnownNotes {
    fn of(notebook: &Notebook) -> Result<Self, Failure> {
        let titled = |document: Document| (document.id(), (document.clone(), title(&document)));
        Ok(Self(notebook.documents()?.into_iter().map(titled).collect()))
    }

    /// The name of a note.
    fn name(&mut self, notebook: &Notebook, event: &Event) -> String {
        let id = event.document;
        if event.space != *notebook.space.name() {
            return format!("{id} in {}", event.space);
        }
        if let EventKind::Deleted { .. } = event.kind {
            let gone = self.0.remove(&id).and_then(|(_, title)| title);
            return gone.unwrap_or_else(|| id.to_string());
        }
        if !self.0.contains_key(&id)
            && let Ok(document) = notebook.space.open(id)
        {
            self.0.insert(id, (document, None));
        }
        let Some((document, last)) = self.0.get_mut(&id) else { return id.to_string() };
        *last = title(document).or(last.take());
        last.clone().unwrap_or_else(|| id.to_string())
    }
}

fn title(document: &Document) -> Option<String> {
    let note = document.read(note::read).ok()?.ok()?;
    let title = first_line(&note.title, 40);
    (!title.is_empty()).then(|| format!("“{title}”"))
}

/// Whether an event is not worth a line: a deleted note's content was released, or a cursor moved.
fn is_no_news(event: &Event) -> bool {
    match &event.kind {
        EventKind::Changed { heads, .. } => heads.is_empty(),
        EventKind::Ephemeral { .. } => true,
        _ => false,
    }
}

/// An event as text.
fn told(notebook: &Notebook, known: &mut KnownNotes, event: &Event) -> String {
    let name = known.name(notebook, event);
    match &event.kind {
        EventKind::Changed { origin, patches, .. } => {
            let who = match origin {
                Origin::Local => "edited here",
                _ => "received",
            };
            let what = patches.as_deref().map_or_else(String::new, changed);
            format!("{} {who}{what}", strong(name))
        }
        EventKind::RolledBack => format!("{name}: an edit could not be saved and was rolled back"),
        EventKind::Rejected { code, what } => {
            format!("{name}: refused by the relay: {what} ({code}); see `notes refused`")
        }
        EventKind::Deleted { unsent: 0 } => format!("{} deleted", strong(name)),
        EventKind::Deleted { unsent } => {
            let edits = count(*unsent, "change");
            let name = strong(name);
            format!("{name} deleted; {edits} made here reached no relay; see `notes deleted`")
        }
        EventKind::Unrelated => {
            format!("{name}: the relay has another note with this id; see `notes refused`")
        }
        EventKind::Conflicted => {
            format!("{name}: changes made here were superseded; see `notes refused`")
        }
        EventKind::Drifted => {
            format!("{name}: a comparison with the relay found drift and repaired it")
        }
        EventKind::Deferred { reason } => format!("{name}: an entry was deferred: {reason}"),
        EventKind::Oversized { bytes, limit } => {
            format!(
                "{name}: has {bytes} bytes, the limit is {limit}; it still syncs, edits are refused"
            )
        }
        EventKind::OverBudget { excess } => {
            let (actual, of, limit) = (excess.actual, excess.of, excess.limit);
            format!("{name}: has {actual} {of}, the limit is {limit}; it still syncs")
        }
        EventKind::ManyActors { actors } => {
            format!("{name}: {} changed it; many actors cost memory", count(*actors, "actor"))
        }
        EventKind::Quarantined { reason } => format!("{name}: cannot be read: {reason}"),
        _ => format!("{name}: an event that this version does not know"),
    }
}

/// The numbers of characters added and removed.
fn changed(patches: &[Patch]) -> String {
    let (mut came, mut went) = (0, 0);
    for patch in patches {
        match &patch.action {
            PatchAction::SpliceText { value, .. } => came += value.make_string().chars().count(),
            PatchAction::DeleteSeq { length, .. } => went += length,
            _ => {}
        }
    }
    match (came, went) {
        (0, 0) => String::new(),
        (came, 0) => format!(" +{came}"),
        (0, went) => format!(" −{went}"),
        (came, went) => format!(" +{came} −{went}"),
    }
}

/// The output.
struct View {
    started: Instant,
    relay: String,
    bar: Option<ProgressBar>,
    last: String,
}

impl View {
    fn new(relay: &str) -> Self {
        let bar = term::is_live().then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stdout());
            if let Ok(style) = ProgressStyle::with_template("{spinner:.cyan} {wide_msg}") {
                bar.set_style(style);
            }
            bar.enable_steady_tick(TICK);
            bar
        });
        Self { started: Instant::now(), relay: relay.to_owned(), bar, last: String::new() }
    }

    /// Prints an event; false if the reader has closed the output.
    fn line(&self, text: &str) -> bool {
        let seconds = self.started.elapsed().as_secs_f64();
        let line = format!("{} {text}", faint(format!("{seconds:>8.1} s")));
        match &self.bar {
            Some(bar) => {
                bar.println(term::harmless(&line));
                true
            }
            None => term::try_say(line).is_ok(),
        }
    }

    /// Prints the state; false if the reader has closed the output.
    fn state(&mut self, status: &Status) -> bool {
        let state = state(&self.relay, status);
        if state == self.last {
            return true;
        }
        let open = match &self.bar {
            Some(bar) => {
                let message = format!("{state}  {}", faint("Ctrl-C stops"));
                bar.set_message(term::harmless(&message));
                true
            }
            None => self.line(&state),
        };
        self.last = state;
        open
    }

    fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
            term::say(&self.last);
        }
    }
}

/// The state in one line.
fn state(relay: &str, status: &Status) -> String {
    let pending = match status.pending().changes {
        0 => "nothing pending".to_owned(),
        n => format!("{} pending", count(n, "change")),
    };
    let link = match status.link {
        LinkStatus::Offline => "offline".to_owned(),
        LinkStatus::Connecting { .. } => match &status.last_error {
            Some(error) => format!("not connected: {error}"),
            None => format!("connecting to {relay}"),
        },
        LinkStatus::SignedOut => {
            let why = status.last_error.as_deref().unwrap_or("the relay refuses the token");
            format!("signed out: {why}")
        }
        LinkStatus::Online => format!("{} at {relay}", online(status)),
        _ => "not connected".to_owned(),
    };
    let drifted: u64 = status.spaces.values().map(|space| space.drifted).sum();
    match drifted {
        0 => format!("{link}; {pending}"),
        n => format!("{link}; {pending}; {} had drifted and were repaired", count(n, "note")),
    }
}

fn online(status: &Status) -> String {
    for space in status.spaces.values() {
        match &space.sync {
            SyncStatus::CatchingUp { snapshot: Some(part), .. }
            | SyncStatus::Comparing { snapshot: Some(part), .. } => {
                let (bytes, of) = (term::thousands(part.bytes), term::thousands(part.of));
                return format!("receiving a note's history ({bytes} of {of} bytes)");
            }
            SyncStatus::CatchingUp { to_go, .. } => {
                return format!("catching up ({} to go)", term::thousands(*to_go));
            }
            SyncStatus::Comparing { documents, .. } => {
                return match documents {
                    0 => "comparing with the relay".to_owned(),
                    n => format!("comparing with the relay ({} to fetch)", count(*n, "note")),
                };
            }
            SyncStatus::Refused { code, what } => return format!("refused ({code}: {what})"),
            SyncStatus::Live => {}
            _ => return "subscribing".to_owned(),
        }
    }
    "live".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use landfall::{Options, Progress, Store};

    fn said(sync: SyncStatus, drifted: u64) -> String {
        let store = Store::in_memory(Options::default()).unwrap();
        let space = store.space("default").unwrap();
        let mut status = store.status();
        status.link = LinkStatus::Online;
        let mut of_space = space.status().unwrap();
        (of_space.sync, of_space.drifted) = (sync, drifted);
        status.spaces.insert(space.name().clone(), of_space);
        state("ws://relay", &status)
    }

    #[test]
    fn the_last_line_shows_the_progress() {
        let part = Some(Progress { bytes: 1_024, of: 330_000 });
        for (sync, says) in [
            (SyncStatus::Live, "live at ws://relay; nothing pending"),
            (SyncStatus::Comparing { documents: 0, snapshot: None }, "comparing with the relay at"),
            (SyncStatus::Comparing { documents: 2, snapshot: None }, "(2 notes to fetch) at"),
            (SyncStatus::Comparing { documents: 2, snapshot: part }, "(1,024 of 330,000 bytes) at"),
            (
                SyncStatus::CatchingUp { done: 1, to_go: 9, snapshot: part },
                "receiving a note's history (1,024 of 330,000 bytes) at",
            ),
            (SyncStatus::CatchingUp { done: 1, to_go: 9, snapshot: None }, "catching up (9 to go)"),
        ] {
            let line = said(sync, 0);
            assert!(line.contains(says), "{line}");
        }
        let line = said(SyncStatus::Live, 2);
        assert!(line.ends_with("nothing pending; 2 notes had drifted and were repaired"), "{line}");
    }
}
