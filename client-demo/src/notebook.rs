//! The notebook that a command works on: a store, one space of it, and the relay to sync with.

use std::path::Path;
use std::time::Duration;

use landfall::{Document, Options, Space, SpaceError, Store};

use crate::failure::{Exit, Failure};
use crate::place::NotebookPlace;
use crate::term::{note, say};
use crate::wait::{Waiter, is_settled};

/// How long an editing command tries to reach the relay before it leaves syncing to a later command.
const SYNC_AFTER_EDIT: Duration = Duration::from_secs(2);

/// An open notebook.
pub(crate) struct Notebook {
    pub(crate) store: Store,
    pub(crate) space: Space,
    /// Whether the store had no space of this name.
    pub(crate) is_new: bool,
    offline: bool,
    quiet: bool,
    /// Whether the command runs for another process, in a store that stays open afterwards.
    is_hosted: bool,
}

impl Notebook {
    /// Opens a notebook for editing, creates it if absent, and starts to connect.
    pub(crate) fn open(place: &NotebookPlace) -> Result<Self, Failure> {
        let notebook = Self::open_unconnected(place)?;
        // The relay need not be reachable; only an invalid URL is an error, and before an edit.
        notebook.connect(place)?;
        Ok(notebook)
    }

    /// Like [`Notebook::open`], for work to do before the relay sends anything.
    pub(crate) fn open_unconnected(place: &NotebookPlace) -> Result<Self, Failure> {
        let (store, is_hosted) = match &place.hosted {
            Some(hosted) => (hosted.store.clone(), true),
            None => (Store::open(&place.store, Options::default())?, false),
        };
        let is_new = !store.spaces().iter().any(|space| space.name().to_string() == place.space);
        let space = store.space(&place.space)?;
        let (offline, quiet) = (place.offline, place.quiet);
        Ok(Self { store, space, is_new, offline, quiet, is_hosted })
    }

    /// Starts to connect, unless the command is offline.
    pub(crate) fn connect(&self, place: &NotebookPlace) -> Result<(), Failure> {
        // A hosted store is connected by the process that has it open.
        if !self.offline && !self.is_hosted {
            self.store.connect(place.link_options(place.relay_url()))?;
        }
        Ok(())
    }

    /// Opens a notebook for reading, possibly alongside a process that has it open; `None` if it does not
    /// exist.
    pub(crate) fn open_to_read(place: &NotebookPlace) -> Result<Option<Self>, Failure> {
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

    /// Ends an editing command: its edits are saved; reports whether they are on the relay too.
    pub(crate) fn saved(self) -> Result<(), Failure> {
        self.saved_unless(|| Ok(()))
    }

    /// Like [`Notebook::saved`], but first calls `holds`, after the attempt to sync.
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

    /// Sends what is pending, unless the first connection attempt fails. Not sending is no failure here.
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
                        // The reason of a rejection, such as a deletion, may still be arriving.
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

    /// Whether only results are printed.
    pub(crate) fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// Prints a remark beside the result, unless quiet.
    pub(crate) fn remark(&self, line: impl std::fmt::Display) {
        if !self.quiet {
            note(line);
        }
    }
}

/// Describes what is missing: the store, or the space in it.
pub(crate) fn absent(place: &NotebookPlace) -> String {
    let store = place.store.display();
    if !place.store.exists() {
        return format!("there is no store {store} yet");
    }
    // A store that cannot be read is reported by the read itself.
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
            format!("the store {store} has no space `{}`; its spaces are {few}{more}", place.space)
        }
    }
}

/// Most spaces listed in a message.
const SPACES_NAMED: usize = 5;

/// A missing store is no error; a folder in which none can be created is.
fn in_a_folder(store: &Path) -> Result<(), Failure> {
    let Some(folder) = store.parent().filter(|folder| !folder.as_os_str().is_empty()) else {
        return Ok(());
    };
    if folder.is_dir() {
        return Ok(());
    }
    let what = format!("there is no store {}", store.display());
    let why = format!("the folder {} does not exist", folder.display());
    Err(Failure::new(Exit::Store, what, why, "create it, or choose another file with --store"))
}
