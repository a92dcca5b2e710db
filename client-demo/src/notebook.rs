//! The notebook that a command works on: a store, one space of it, and the relay to sync with.

use std::path::Path;
use std::time::Duration;

use landfall::{Document, Options, Space, SpaceError, Store};

use crate::cli::Place;
use crate::failure::{Exit, Failure};
use crate::sync::is_settled;
use crate::term::{note, say};
use crate::wait::Waiter;

/// How long a command that edits tries to reach the relay before it leaves that to a later one.
const SYNC_AFTER_EDIT: Duration = Duration::from_secs(2);

/// An open notebook.
pub(crate) struct Notebook {
    pub(crate) store: Store,
    pub(crate) space: Space,
    /// The store had no space of this name.
    pub(crate) is_new: bool,
    offline: bool,
    quiet: bool,
    /// The store is open for longer than this command, which is performed for another process.
    is_hosted: bool,
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
        let (store, is_hosted) = match &place.hosted {
            Some(hosted) => (hosted.store.clone(), true),
            None => (Store::open(&place.store, Options::default())?, false),
        };
        let is_new = !store.spaces().iter().any(|space| space.name().to_string() == place.space);
        let space = store.space(&place.space)?;
        let (offline, quiet) = (place.offline, place.quiet);
        Ok(Self { store, space, is_new, offline, quiet, is_hosted })
    }

    /// Begins to connect, unless the command is to stay offline.
    pub(crate) fn connect(&self, place: &Place) -> Result<(), Failure> {
        // Whoever has the store open has connected it.
        if !self.offline && !self.is_hosted {
            self.store.connect(place.relay_url())?;
        }
        Ok(())
    }

    /// Opens a notebook to be read, beside whoever has it open; `None` if there is none yet.
    pub(crate) fn open_to_read(place: &Place) -> Result<Option<Self>, Failure> {
        if let Some(hosted) = &place.hosted {
            let is_there =
                hosted.store.spaces().iter().any(|space| space.name().to_string() == place.space);
            return is_there.then(|| Self::open_unconnected(place)).transpose();
        }
        if !place.store.exists() {
            return in_a_folder(&place.store).map(|()| None);
        }
        let store = Store::open_read_only(&place.store, Options::default())?;
        match store.space(&place.space) {
            Ok(space) => {
                let (is_new, offline, quiet, is_hosted) = (false, true, place.quiet, false);
                Ok(Some(Self { store, space, is_new, offline, quiet, is_hosted }))
            }
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
        self.saved_unless(|| Ok(()))
    }

    /// As [`Notebook::saved`], but asks first, once the relay has had its say.
    pub(crate) fn saved_unless(
        self,
        holds: impl FnOnce() -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let synced = self.try_to_sync(SYNC_AFTER_EDIT)?;
        holds()?;
        let pending = self.store.status().pending().changes;
        self.close()?;
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
        let (mut watch, mut settled) = (self.store.watch(), self.store.watch());
        let sent = waiter.within(limit, async {
            tokio::select! {
                flushed = self.store.flush(limit) => match flushed {
                    Ok(()) => true,
                    Err(_) => {
                        // Why something is refused, such as a deletion, may be on its way.
                        settled.until(is_settled).await;
                        false
                    }
                },
                _ = watch.until(|status| status.last_error.is_some()) => false,
            }
        });
        Ok(sent.unwrap_or(false))
    }

    /// Ends the work on it.
    pub(crate) fn close(&self) -> Result<(), Failure> {
        if !self.is_hosted {
            self.store.close()?;
        }
        Ok(())
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

/// What was looked for and is not there: the store, or the space in it.
pub(crate) fn absent(place: &Place) -> String {
    let store = place.store.display();
    if !place.store.exists() {
        return format!("there is no store {store} yet");
    }
    // That it cannot be read now is told by whoever reads it.
    let spaces =
        Store::open_read_only(&place.store, Options::default()).map(|store| store.spaces());
    let mut names =
        spaces.unwrap_or_default().into_iter().map(|space| format!("`{}`", space.name()));
    let few: Vec<String> = names.by_ref().take(SPACES_NAMED).collect();
    let more = if names.next().is_some() { " and others" } else { "" };
    match few.is_empty() {
        true => format!("the store {store} has no space yet"),
        false => {
            let few = few.join(", ");
            format!("the store {store} has no space `{}`, but {few}{more}", place.space)
        }
    }
}

/// Spaces that a message names.
const SPACES_NAMED: usize = 5;

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
