//! The command `watch`: stays in sync and says what happens, until it is told to end. On a
//! terminal the present state stands on the last line; elsewhere each new state is a line.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use landfall::automerge::{Patch, PatchAction};
use landfall::{Document, DocumentId, Event, EventKind, LinkStatus, Origin, Status, SyncStatus};

use crate::cli::Place;
use crate::failure::Failure;
use crate::note;
use crate::notebook::Notebook;
use crate::term::{self, count, faint, first_line, strong};
use crate::wait::Waiter;

/// How often the last line moves, so that one sees that it lives.
const TICK: Duration = Duration::from_millis(120);

/// Runs the command.
pub(crate) fn run(place: &Place) -> Result<(), Failure> {
    let notebook = Notebook::open(place)?;
    // Held, so that events tell what changed in them.
    let documents = notebook.documents()?;
    let url = if place.offline { "offline".to_owned() } else { place.relay_url() };
    let mut view = View::new(&url);
    let waiter = Waiter::new()?;
    let ended = waiter.until_signal(follow(&notebook, documents, &mut view));
    view.end();
    notebook.store.close()?;
    ended.map(|_| ())
}

/// Ends when the store is closed, or when nobody reads any more.
async fn follow(notebook: &Notebook, mut documents: Vec<Document>, view: &mut View) {
    let mut events = notebook.store.events();
    let mut status = notebook.store.watch();
    let mut open = view.state(&status.now());
    while open {
        open = tokio::select! {
            event = events.next() => match event {
                Some(Ok(event)) => view.line(&told(notebook, &mut documents, &event)),
                Some(Err(lagged)) => view.line(&lagged.to_string()),
                None => false,
            },
            status = status.changed() => status.is_some_and(|status| view.state(&status)),
        };
    }
}

/// An event in words.
fn told(notebook: &Notebook, documents: &mut Vec<Document>, event: &Event) -> String {
    let name = if event.space == *notebook.space.name() {
        title(notebook, documents, event.document)
    } else {
        format!("{} in {}", event.document, event.space)
    };
    match &event.kind {
        EventKind::Changed { origin, patches, .. } => {
            let who = match origin {
                Origin::Local => "edited here",
                Origin::Remote => "received",
            };
            let what = patches.as_deref().map_or_else(String::new, changed);
            format!("{} {who}{what}", strong(name))
        }
        EventKind::RolledBack => format!("{name}: an edit could not be saved and was taken back"),
        EventKind::Parked { code, what } => {
            format!("{name}: refused by the relay: {what} ({code})")
        }
        EventKind::SetAside { reason } => format!("{name}: something was set aside: {reason}"),
        EventKind::Quarantined { reason } => format!("{name}: cannot be read: {reason}"),
        _ => format!("{name}: something happened that this version does not know"),
    }
}

fn title(notebook: &Notebook, documents: &mut Vec<Document>, id: DocumentId) -> String {
    let known = documents.iter().find(|document| document.id() == id).cloned();
    let document = known.or_else(|| {
        let opened = notebook.space.open(id).ok()?;
        documents.push(opened.clone());
        Some(opened)
    });
    let note = document.and_then(|document| document.read(note::read).ok()?.ok());
    match note.map(|note| first_line(&note.title, 40)).filter(|title| !title.is_empty()) {
        Some(title) => format!("“{title}”"),
        None => id.to_string(),
    }
}

/// How much text came and went.
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

/// Where it is said.
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

    /// Says something that happened; false if nobody reads any more.
    fn line(&self, text: &str) -> bool {
        let seconds = self.started.elapsed().as_secs_f64();
        let line = format!("{} {text}", faint(format!("{seconds:>8.1} s")));
        match &self.bar {
            Some(bar) => {
                bar.println(line);
                true
            }
            None => term::try_say(line).is_ok(),
        }
    }

    /// Says how things stand; false if nobody reads any more.
    fn state(&mut self, status: &Status) -> bool {
        let state = state(&self.relay, status);
        if state == self.last {
            return true;
        }
        let open = match &self.bar {
            Some(bar) => {
                bar.set_message(format!("{state}  {}", faint("Ctrl-C ends")));
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
        LinkStatus::Online => format!("{} at {relay}", online(status)),
    };
    format!("{link}; {pending}")
}

fn online(status: &Status) -> String {
    for space in status.spaces.values() {
        match &space.sync {
            SyncStatus::CatchingUp { to_go, .. } => {
                return format!("catching up ({} to go)", term::thousands(*to_go));
            }
            SyncStatus::Refused { code, what } => return format!("refused ({code}: {what})"),
            SyncStatus::Live => {}
            SyncStatus::Connecting | SyncStatus::Offline => return "subscribing".to_owned(),
        }
    }
    "live".to_owned()
}
