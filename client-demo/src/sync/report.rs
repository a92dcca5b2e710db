//! The result of a sync, over all spaces of a store: what was sent and received, what stays here and why.

use landfall::{SpaceName, Status, Store};

use crate::failure::Failure;
use crate::term::count;

/// The content of the store, and the transfers since it was opened.
pub(crate) struct Report {
    spaces: u64,
    notes: u64,
    sent: u64,
    received: u64,
    deleted: u64,
    /// Deferred entries: entries of the relay that cannot be applied here.
    deferred: u64,
    /// Spaces with orphaned edits: number of changes and of notes.
    lost: Vec<(SpaceName, u64, u64)>,
    /// Spaces of which only some notes are synced: their number, and that of the other local notes.
    partial: Vec<(SpaceName, u64, u64)>,
}

impl Report {
    pub(crate) fn of(store: &Store) -> Result<Self, Failure> {
        let status = store.status();
        let mut report = Self::counted(&status);
        for space in store.spaces() {
            let documents = space.documents()?;
            report.notes += documents.len() as u64;
            let lost = space.orphaned_edits()?;
            if !lost.is_empty() {
                let changes = lost.iter().map(|lost| lost.unsent).sum();
                report.lost.push((space.name().clone(), changes, lost.len() as u64));
            }
            if let Some(only) = space.synced_only()? {
                let others = documents.iter().filter(|document| !only.contains(document)).count();
                report.partial.push((space.name().clone(), only.len() as u64, others as u64));
            }
        }
        Ok(report)
    }

    /// Without the transfers before.
    pub(crate) fn since(mut self, before: Option<&Self>) -> Self {
        if let Some(before) = before {
            self.sent = self.sent.saturating_sub(before.sent);
            self.received = self.received.saturating_sub(before.received);
            self.deleted = self.deleted.saturating_sub(before.deleted);
        }
        self
    }

    fn counted(status: &Status) -> Self {
        let spaces = status.spaces.values();
        let sum = |of: fn(&landfall::SpaceStatus) -> u64| spaces.clone().map(of).sum();
        Self {
            spaces: status.spaces.len() as u64,
            notes: 0,
            sent: sum(|space| space.acknowledged),
            received: sum(|space| space.received),
            deleted: sum(|space| space.deleted),
            deferred: sum(|space| space.deferred),
            lost: Vec::new(),
            partial: Vec::new(),
        }
    }

    /// The transfers: `1 change sent, 2 changes received, 1 note deleted`.
    pub(crate) fn moved(&self) -> String {
        let (sent, received) = (count(self.sent, "change"), count(self.received, "change"));
        match self.deleted {
            0 => format!("{sent} sent, {received} received"),
            n => format!("{sent} sent, {received} received, {} deleted", count(n, "note")),
        }
    }

    /// Whether there were any transfers.
    pub(crate) fn is_any(&self) -> bool {
        self.sent + self.received + self.deleted > 0
    }

    /// The line of a finished sync.
    pub(crate) fn in_sync(&self) -> String {
        let notes = count(self.notes, "note");
        match self.spaces {
            0 | 1 => format!("in sync: {notes}; {}", self.moved()),
            n => format!("in sync: {notes} in {}; {}", count(n, "space"), self.moved()),
        }
    }

    /// What stays here only, and why.
    pub(crate) fn kept(&self) -> Vec<String> {
        let lost = |(space, changes, notes): &(SpaceName, u64, u64)| {
            let (changes, notes) = (count(*changes, "change"), count(*notes, "deleted note"));
            format!(
                "kept only here: {changes} of {notes}; see `landfall-demo notes deleted --space {space}`"
            )
        };
        self.lost.iter().map(lost).collect()
    }

    /// The entries of the relay that are in no note here.
    pub(crate) fn deferred(&self) -> Option<String> {
        (self.deferred > 0).then(|| {
            let entries = count(self.deferred, "entry");
            format!(
                "{entries} of the relay cannot be applied yet and are deferred; see `landfall-demo status`"
            )
        })
    }

    /// The notes that are not synced by choice.
    pub(crate) fn partial(&self) -> Vec<String> {
        let partial = |(space, only, others): &(SpaceName, u64, u64)| {
            let (only, others) = (count(*only, "note"), count(*others, "other"));
            format!(
                "only {only} of the space `{space}` fetched; {others} here not updated; \
                 `landfall-demo sync --all --space {space}` fetches all"
            )
        };
        self.partial.iter().map(partial).collect()
    }
}
