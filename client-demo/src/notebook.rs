//! The notebook that a command works on: a store, one space of it, and the relay to sync with.

use std::time::Duration;

use landfall::{Document, FlushError, Options, Space, SpaceError, Status, Store};

use crate::cli::Place;
use crate::failure::Failure;
use crate::term::{count, note, say};
use crate::wait::Waiter;

/// How long a command that edits tries to reach the relay before it leaves that to a later one.
const SYNC_AFTER_EDIT: Duration = Duration::from_secs(2);

/// An open notebook.
pub(crate) struct Notebook {
    pub(crate) store: Store,
    pub(crate) space: Space,
    offline: bool,
    quiet: bool,
}

impl Notebook {
    /// Opens a notebook to be edited, makes it if there is none, and begins to connect.
    pub(crate) fn open(place: &Place) -> Result<Self, Failure> {
        let store = Store::open(&place.store, Options::default())?;
        let space = store.space(&place.space)?;
        if !place.offline {
            // Nobody needs to be there; only a URL that cannot be one is an error, and it is told
            // before anything is edited.
            store.connect(place.relay_url())?;
        }
        Ok(Self { store, space, offline: place.offline, quiet: place.quiet })
    }

    /// Opens a notebook to be read, beside whoever has it open; `None` if there is none yet.
    pub(crate) fn open_to_read(place: &Place) -> Result<Option<Self>, Failure> {
        if !place.store.exists() {
            return Ok(None);
        }
        let store = Store::open_read_only(&place.store, Options::default())?;
        match store.space(&place.space) {
            Ok(space) => Ok(Some(Self { store, space, offline: true, quiet: place.quiet })),
            Err(SpaceError::Unknown(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// All documents of the space, opened.
    pub(crate) fn documents(&self) -> Result<Vec<Document>, Failure> {
        let ids = self.space.documents()?;
        ids.into_iter().map(|id| Ok(self.space.open(id)?)).collect()
    }

    /// Ends a command that edited: what it did is saved; says if it is on the relay too.
    pub(crate) fn saved(self) -> Result<(), Failure> {
        let synced = if self.offline { false } else { try_to_sync(&self.store, SYNC_AFTER_EDIT)? };
        let pending = self.store.status().pending().changes;
        self.store.close()?;
        match synced && pending == 0 {
            _ if self.quiet => {}
            true => say("saved here and on the relay"),
            false => say(format!("saved here; not on the relay yet ({pending} pending)")),
        }
        Ok(())
    }

    /// Says something beside the result, unless asked not to.
    pub(crate) fn remark(&self, line: impl std::fmt::Display) {
        if !self.quiet {
            note(line);
        }
    }
}

/// Sends what is pending, unless the first try to connect shows that it cannot be. That it was
/// not sent is no failure here.
fn try_to_sync(store: &Store, limit: Duration) -> Result<bool, Failure> {
    let waiter = Waiter::new()?;
    let mut watch = store.watch();
    let sent = waiter.within(limit, async {
        tokio::select! {
            flushed = store.flush(limit) => flushed.is_ok(),
            _ = watch.until(|status| status.last_error.is_some()) => false,
        }
    });
    Ok(sent.unwrap_or(false))
}

/// Sends and fetches everything, through reconnects, until the limit.
pub(crate) fn sync(store: &Store, limit: Duration, quiet: bool) -> Result<(), Failure> {
    use crate::failure::unsynced;
    let waiter = Waiter::new()?;
    let started = std::time::Instant::now();
    let mut watch = store.watch();
    let mut told = quiet;
    let fetched = waiter.within(limit, async {
        loop {
            let status = watch.now();
            if is_settled(&status) {
                return;
            }
            if let (false, Some(error)) = (told, &status.last_error) {
                note(format!("waiting: {error}"));
                told = true;
            }
            if watch.changed().await.is_none() {
                return;
            }
        }
    });
    let status = store.status();
    let pending = status.pending().changes;
    if fetched.is_none() {
        let late = format!("the relay did not answer within {} s", limit.as_secs_f64());
        return Err(unsynced(&status.last_error.unwrap_or(late), pending));
    }
    if let Some(why) = refusal(&status) {
        return Err(unsynced(&format!("the relay refuses {why}"), pending));
    }
    store.flush_blocking(limit.saturating_sub(started.elapsed())).map_err(|error| match error {
        FlushError::TimedOut { pending, last_error: None } => {
            unsynced("the time ran out while sending", pending.changes)
        }
        other => other.into(),
    })
}

/// Whether everything that the relay had is here, or it has said that we cannot have it.
fn is_settled(status: &Status) -> bool {
    use landfall::SyncStatus::{Live, Refused};
    status.spaces.values().all(|space| matches!(space.sync, Live | Refused { .. }))
}

fn refusal(status: &Status) -> Option<String> {
    status.spaces.iter().find_map(|(name, space)| match &space.sync {
        landfall::SyncStatus::Refused { code, what } => {
            Some(format!("the space `{name}` ({code}: {what})"))
        }
        _ => None,
    })
}

/// The command `sync`.
pub(crate) fn run_sync(place: &Place, limit: Duration) -> Result<(), Failure> {
    let notebook = Notebook::open(&Place { offline: false, ..place.clone() })?;
    let before = changes(&notebook.store.status());
    let to_send = notebook.store.status().pending().changes;
    let result = sync(&notebook.store, limit, place.quiet);
    let got = changes(&notebook.store.status()).saturating_sub(before);
    let notes = notebook.space.documents()?.len() as u64;
    notebook.store.close()?;
    result?;
    if !place.quiet {
        let (sent, got) = (count(to_send, "change"), count(got, "change"));
        say(format!("in sync: {}; {sent} sent, {got} received", count(notes, "note")));
    }
    Ok(())
}

fn changes(status: &Status) -> u64 {
    status.spaces.values().map(|space| space.changes).sum()
}
