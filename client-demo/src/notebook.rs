//! The notebook that a command works on: a store, one space of it, and the relay to sync with.

use std::path::Path;
use std::time::Duration;

use landfall::{Document, Options, Space, SpaceError, Store};

use crate::cli::Place;
use crate::failure::{Exit, Failure};
use crate::term::{note, say};
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
        let notebook = Self::open_unconnected(place)?;
        // No relay needs to be there; only a URL that cannot be one is an error, before an edit.
        notebook.connect(place)?;
        Ok(notebook)
    }

    /// As [`Notebook::open`], for work that must be done before the relay says anything new.
    pub(crate) fn open_unconnected(place: &Place) -> Result<Self, Failure> {
        let store = Store::open(&place.store, Options::default())?;
        let space = store.space(&place.space)?;
        Ok(Self { store, space, offline: place.offline, quiet: place.quiet })
    }

    /// Begins to connect, unless the command is to stay offline.
    pub(crate) fn connect(&self, place: &Place) -> Result<(), Failure> {
        if !self.offline {
            self.store.connect(place.relay_url())?;
        }
        Ok(())
    }

    /// Opens a notebook to be read, beside whoever has it open; `None` if there is none yet.
    pub(crate) fn open_to_read(place: &Place) -> Result<Option<Self>, Failure> {
        if !place.store.exists() {
            return in_a_folder(&place.store).map(|()| None);
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
        let synced = self.try_to_sync(SYNC_AFTER_EDIT)?;
        let pending = self.store.status().pending().changes;
        self.store.close()?;
        match synced && pending == 0 {
            _ if self.quiet => {}
            true => say("saved here and on the relay"),
            false => say(format!("saved here; not on the relay yet ({pending} pending)")),
        }
        Ok(())
    }

    /// Sends what is pending, unless the first try to connect shows that it cannot be. That it was
    /// not sent is no failure here.
    pub(crate) fn try_to_sync(&self, limit: Duration) -> Result<bool, Failure> {
        if self.offline {
            return Ok(false);
        }
        let waiter = Waiter::new()?;
        let mut watch = self.store.watch();
        let sent = waiter.within(limit, async {
            tokio::select! {
                flushed = self.store.flush(limit) => flushed.is_ok(),
                _ = watch.until(|status| status.last_error.is_some()) => false,
            }
        });
        Ok(sent.unwrap_or(false))
    }

    /// Whether only results are wanted.
    pub(crate) fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// Says something beside the result, unless asked not to.
    pub(crate) fn remark(&self, line: impl std::fmt::Display) {
        if !self.quiet {
            note(line);
        }
    }
}

/// A store that is not there yet is no error; that none can be made there is.
fn in_a_folder(store: &Path) -> Result<(), Failure> {
    let Some(folder) = store.parent().filter(|folder| !folder.as_os_str().is_empty()) else {
        return Ok(());
    };
    if folder.is_dir() {
        return Ok(());
    }
    let what = format!("there is no store {}", store.display());
    let why = format!("the folder {} does not exist", folder.display());
    Err(Failure::new(Exit::Store, what, why, "make it, or choose another file with --store"))
}
