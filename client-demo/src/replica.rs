//! Replicas for the tour and the replay: stores in a temporary folder that sync through a relay, waits until
//! they are equal, and checks that they are.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use landfall::automerge::Automerge;
use landfall::{
    ChangeHash, Document, DocumentId, Durability, Events, LinkStatus, Options, Space, Store,
    SyncStatus,
};

use crate::failure::{Exit, Failure};
use crate::note;
use crate::term::time;
use crate::wait::{self, Moved, Waiter};

/// A wait without progress for this long has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A store of its own, like another device's.
pub(crate) struct Replica {
    pub(crate) name: &'static str,
    pub(crate) store: Store,
    pub(crate) space: Space,
    /// How long a wait may be without progress.
    pub(crate) patience: Duration,
}

impl Replica {
    /// Opens a store of this name in a folder.
    pub(crate) fn open(
        folder: &Path,
        name: &'static str,
        space: &str,
        durability: Durability,
    ) -> Result<Self, Failure> {
        let path = folder.join(format!("{}.landfall", name.to_lowercase()));
        let store = Store::open(path, Options::default().durability(durability))?;
        let space = store.space(space)?;
        Ok(Self { name, store, space, patience: PATIENCE })
    }

    /// Waits until all local changes are on the relay's disk.
    pub(crate) fn flush(&self) -> Result<(), Failure> {
        Ok(Waiter::new()?.block_on(wait::flush(&self.store, self.patience))?)
    }

    /// Changes that the relay does not have yet.
    pub(crate) fn pending(&self) -> u64 {
        self.store.status().pending().changes
    }

    /// Waits until the link has the wanted state.
    pub(crate) fn until_link(
        &self,
        waiter: &Waiter,
        wanted: impl Fn(LinkStatus) -> bool,
    ) -> Result<(), Failure> {
        let mut watch = self.store.watch();
        let found = self.wait(waiter, watch.until(|status| wanted(status.link)));
        found.map(|_| ()).ok_or_else(|| self.late("its link did not connect"))
    }

    /// Waits until everything that the relay has is here.
    pub(crate) fn until_live(&self, waiter: &Waiter) -> Result<(), Failure> {
        let mut watch = self.store.watch();
        let live = watch.until(|status| {
            status.spaces.values().all(|space| matches!(space.sync, SyncStatus::Live))
        });
        self.wait(waiter, live)
            .map(|_| ())
            .ok_or_else(|| self.late("it did not reach the live state"))
    }

    /// Waits until a document arrives, and opens it.
    pub(crate) fn arrived(&self, waiter: &Waiter, id: DocumentId) -> Result<Document, Failure> {
        let mut events = self.store.events();
        let there = self.wait(waiter, async {
            while !self.space.contains(&id)? {
                if events.next().await.is_none() {
                    break;
                }
            }
            Ok::<_, Failure>(())
        });
        there.unwrap_or_else(|| Err(self.late("the note did not arrive")))?;
        Ok(self.space.open(id)?)
    }

    /// Waits as long as this replica makes progress.
    fn wait<T>(&self, waiter: &Waiter, work: impl Future<Output = T>) -> Option<T> {
        waiter.while_moving(self.patience, || Moved::of(&self.store), work)
    }

    pub(crate) fn late(&self, what: &str) -> Failure {
        let error = self.store.status().last_error;
        let last = error.map_or_else(String::new, |error| format!(" ({error})"));
        let why = format!("{what}: no progress for {}{last}", time(self.patience));
        Failure::new(Exit::Relay, format!("{} is stuck", self.name), why, "try again")
    }
}

/// Waits until both documents have the same heads. Calls `tick` at each event.
pub(crate) fn until_same(
    waiter: &Waiter,
    (here, mine): (&Replica, &Document),
    (there, theirs): (&Replica, &Document),
    mut tick: impl FnMut(),
) -> Result<(), Failure> {
    let mut events: (Events, Events) = (here.store.events(), there.store.events());
    let moved = || (Moved::of(&here.store), Moved::of(&there.store));
    let same = waiter.while_moving(here.patience, moved, async {
        while mine.heads()? != theirs.heads()? {
            tick();
            // Missed events do not matter: the heads are compared.
            let more = tokio::select! {
                event = events.0.next() => event.is_some(),
                event = events.1.next() => event.is_some(),
            };
            if !more {
                break;
            }
        }
        Ok::<_, Failure>(())
    });
    same.unwrap_or_else(|| {
        let why = format!("they differ, and there was no progress for {}", time(here.patience));
        Err(Failure::new(Exit::Differs, "the replicas did not converge", why, "please report this"))
    })
}

/// A condition that must hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Check {
    pub(crate) what: String,
    pub(crate) holds: bool,
}

impl Check {
    pub(crate) fn new(what: impl Into<String>, holds: bool) -> Self {
        Self { what: what.into(), holds }
    }
}

/// Fails if any check does not hold.
pub(crate) fn all_hold(checks: &[Check]) -> Result<(), Failure> {
    let broken: Vec<&str> =
        checks.iter().filter(|check| !check.holds).map(|check| check.what.as_str()).collect();
    if broken.is_empty() {
        return Ok(());
    }
    let why = format!("failed checks: {}", broken.join("; "));
    Err(Failure::new(Exit::Differs, "the replicas differ", why, "please report this"))
}

/// Checks that two replicas of a document are equal: heads, changes (exactly as many as `change()` returned),
/// the visible content, and the document that a third party builds from the same changes.
pub(crate) fn same(
    mine: &Document,
    theirs: &Document,
    returned: u64,
) -> Result<Vec<Check>, Failure> {
    let facts = |document: &Document| document.read(Facts::of);
    let (a, b) = (facts(mine)?, facts(theirs)?);
    let number = crate::term::thousands(returned);
    Ok(vec![
        Check::new("both have the same heads", a.heads == b.heads),
        Check::new(
            format!("both have the same {number} changes: every committed one, none twice"),
            a.changes == b.changes && a.changes.len() as u64 == returned,
        ),
        Check::new("both show the same", a.seen == b.seen && a.conflicts == b.conflicts),
        Check::new("a document rebuilt from the changes alone shows the same", a.rebuilt == b.seen),
    ])
}

/// The compared facts.
struct Facts {
    heads: BTreeSet<ChangeHash>,
    changes: BTreeSet<ChangeHash>,
    seen: Option<note::Note>,
    conflicts: Vec<(&'static str, usize)>,
    rebuilt: Option<note::Note>,
}

impl Facts {
    fn of(doc: &Automerge) -> Self {
        let changes = doc.get_changes(&[]);
        let hashes = changes.iter().map(|change| change.hash()).collect();
        let mut rebuilt = Automerge::new();
        let applied = rebuilt.apply_changes(changes).is_ok();
        Self {
            heads: doc.get_heads().into_iter().collect(),
            changes: hashes,
            seen: note::read(doc).ok(),
            conflicts: note::conflicts(doc),
            rebuilt: applied.then(|| note::read(&rebuilt).ok()).flatten(),
        }
    }
}
