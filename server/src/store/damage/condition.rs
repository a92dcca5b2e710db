//! The damage and failures found since a store was opened, for the health check, the log and operators.
//!
//! The store's own reads record them, so that no caller can forget to.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use landfall_protocol::relay::{Refusal, StoreFailure};
use landfall_protocol::{Code, DocumentId, SpaceName};
use landfall_storage::FailureClass;
use parking_lot::Mutex;

use crate::limits;
use crate::store::StoreError;
use crate::store::damage::ContentDamage;

/// The known damage and failures of a store.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Condition {
    /// A file of the store was removed, renamed, replaced or overwritten: which, and how. Final.
    pub gone: Option<String>,
    /// An fsync failed, in SQLite's words. Final until the store is opened again.
    pub fsync_failed: Option<String>,
    /// The writer thread panicked: a bug of ours. Final until the store is opened again.
    pub writer_panicked: Option<String>,
    /// How the write-ahead log was damaged when the store was opened: commits are lost.
    pub wal: Option<String>,
    /// The damaged places that reads found, at most [`DAMAGED_PLACES`](crate::limits::DAMAGED_PLACES). A
    /// document is listed until it can be read again, any other place until the store is opened again.
    pub damaged: Vec<DamagedPlace>,
    /// Whether there are more. True until all listed places are repaired.
    pub more_damaged: bool,
    /// Whether SQLite itself cannot read one of them: no repair restores that.
    pub is_unreadable: bool,
    /// The last read failure other than damage, as text; shown for a limited time.
    pub failing: Option<String>,
}

impl Condition {
    /// The code and text that clients receive when the relay stops because of its store; `None` if the store
    /// works.
    pub(crate) fn end(&self) -> Option<(Code, String)> {
        let failure =
            match (&self.gone, self.fsync_failed.as_ref().or(self.writer_panicked.as_ref())) {
                (Some(_), _) => StoreFailure::Gone,
                (None, Some(_)) => StoreFailure::Failed,
                (None, None) => return None,
            };
        let Refusal { code, what, .. } = failure.refusal();
        Some((code, format!("{what}; the relay ends")))
    }
}

/// A damaged part of a store.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct DamagedPlace {
    /// The space; `None` for data that all spaces share.
    pub space: Option<SpaceName>,
    /// The document; `None` for data that all documents of the space share.
    pub document: Option<DocumentId>,
}

impl fmt::Display for DamagedPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.space, &self.document) {
            (Some(space), Some(document)) => write!(f, "document {document} of space {space}"),
            (Some(space), None) => write!(f, "the log of space {space}"),
            (None, _) => f.write_str("the store's file"),
        }
    }
}

/// The operation, and the space and document that it was about.
#[derive(Clone, Copy)]
pub(in crate::store) struct Operation<'a> {
    pub(in crate::store) what: &'static str,
    space: Option<&'a SpaceName>,
    document: Option<&'a DocumentId>,
}

impl<'a> Operation<'a> {
    pub(in crate::store) fn of_space(what: &'static str, space: &'a SpaceName) -> Self {
        Self { what, space: Some(space), document: None }
    }

    pub(in crate::store) fn of_document(
        what: &'static str,
        space: &'a SpaceName,
        document: &'a DocumentId,
    ) -> Self {
        Self { what, space: Some(space), document: Some(document) }
    }
}

impl<'a> Operation<'a> {
    /// The same for one document of the space.
    pub(in crate::store) fn about<'b>(self, document: &'b DocumentId) -> Operation<'b>
    where
        'a: 'b,
    {
        Operation { document: Some(document), ..self }
    }
}

/// An operation on the whole store.
impl From<&'static str> for Operation<'_> {
    fn from(what: &'static str) -> Self {
        Self { what, space: None, document: None }
    }
}

/// Records damage and failures.
#[derive(Default)]
pub(in crate::store) struct Recorder {
    found: Mutex<ConditionState>,
    /// Lets every push skip the mutex while no damage is known.
    has_damage: AtomicBool,
}

/// The known damage of one place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// SQLite itself cannot read it, so it accepts no writes.
    pub takes_no_writes: bool,
    /// How often reads have met it. If the number has grown, it was met again meanwhile.
    pub times: u64,
    /// How many of those met something other than a change of the tail, such as the snapshot.
    pub beyond_changes: u64,
}

#[derive(Default)]
struct ConditionState {
    damaged: BTreeMap<DamagedPlace, Known>,
    more: bool,
    /// The in-memory state differs from the one in the store.
    is_new: bool,
    failed: Option<(Instant, String)>,
}

impl Recorder {
    /// Records why a read failed; returns the error.
    pub(in crate::store) fn note(&self, asked: Operation<'_>, error: StoreError) -> StoreError {
        let class = FailureClass::of_chain(&error);
        match class {
            _ if error.needs_index.is_some() || error.damaged_index().is_some() => {}
            _ if error.is_damage() => self.note_damage(asked, &error),
            // Caused by the caller, or reported elsewhere.
            FailureClass::Closed
            | FailureClass::Gone
            | FailureClass::FsyncFailed
            | FailureClass::Panicked => {}
            _ => {
                let failed = Some((Instant::now(), error.chain()));
                self.found.lock().failed = failed;
            }
        }
        error
    }

    fn note_damage(&self, asked: Operation<'_>, error: &StoreError) {
        let content = error.content_damage();
        let document = content.and_then(|content| content.document);
        let beyond = content.is_none_or(|content| !content.of_change);
        let (space, document) = (asked.space.cloned(), document.or(asked.document.copied()));
        let place = DamagedPlace { space, document };
        let mut found = self.found.lock();
        self.has_damage.store(true, Ordering::Release);
        if let Some(known) = found.damaged.get_mut(&place) {
            let is_new = content.is_none() && !known.takes_no_writes;
            known.takes_no_writes |= is_new;
            known.times += 1;
            known.beyond_changes += u64::from(beyond);
            found.is_new |= is_new;
            return;
        }
        if found.damaged.len() >= limits::DAMAGED_PLACES {
            found.more = true;
            return;
        }
        // Logged once for each place, since readers retry.
        let remedy = if content.is_none() { RESTORE } else { REMEDY };
        tracing::error!(%place, error = error.chain(), remedy, "the store is damaged");
        let (takes_no_writes, beyond_changes) = (content.is_none(), u64::from(beyond));
        found.damaged.insert(place, Known { takes_no_writes, times: 1, beyond_changes });
        found.is_new = true;
    }

    /// Replaces all known places: by the stored ones at opening, or by the result of a full check.
    pub(in crate::store) fn set(&self, places: Vec<(DamagedPlace, bool)>, is_new: bool) {
        let mut found = self.found.lock();
        self.has_damage.store(!places.is_empty(), Ordering::Release);
        let known = |takes_no_writes| Known { takes_no_writes, times: 1, beyond_changes: 1 };
        found.damaged =
            places.into_iter().map(|(place, no_writes)| (place, known(no_writes))).collect();
        found.is_new = is_new;
    }

    /// The known places, if they differ from those in the store.
    pub(in crate::store) fn take_new(&self) -> Option<Vec<(DamagedPlace, bool)>> {
        if !self.has_damage.load(Ordering::Acquire) {
            return None;
        }
        let is_new = std::mem::take(&mut self.found.lock().is_new);
        is_new.then(|| self.all())
    }

    /// The places from `take_new` could not be written.
    pub(in crate::store) fn put_back(&self) {
        self.found.lock().is_new = true;
    }

    /// All known places.
    pub(in crate::store) fn all(&self) -> Vec<(DamagedPlace, bool)> {
        let found = self.found.lock();
        let places = found.damaged.iter();
        places.map(|(place, known)| (place.clone(), known.takes_no_writes)).collect()
    }

    /// The known damage of a document; `None` if no read met any.
    pub(in crate::store) fn known(
        &self,
        space: &SpaceName,
        document: &DocumentId,
    ) -> Option<Known> {
        if !self.has_damage.load(Ordering::Acquire) {
            return None;
        }
        let place = DamagedPlace { space: Some(space.clone()), document: Some(*document) };
        self.found.lock().damaged.get(&place).copied()
    }

    /// All documents with known damage.
    pub(in crate::store) fn documents(&self) -> Vec<(SpaceName, DocumentId)> {
        if !self.has_damage.load(Ordering::Acquire) {
            return Vec::new();
        }
        let found = self.found.lock();
        let named =
            found.damaged.keys().filter_map(|place| Some((place.space.clone()?, place.document?)));
        named.collect()
    }

    /// The documents of a space with known damage.
    pub(in crate::store) fn damaged_of(&self, space: &SpaceName) -> Vec<DocumentId> {
        if !self.has_damage.load(Ordering::Acquire) {
            return Vec::new();
        }
        let first = DamagedPlace { space: Some(space.clone()), document: None };
        let found = self.found.lock();
        let of_space = found.damaged.range(first..);
        of_space
            .take_while(|(place, _)| place.space.as_ref() == Some(space))
            .filter_map(|(place, _)| place.document)
            .collect()
    }

    /// Removes a document that was read whole. False, without effect, if a read met damage after `known` was
    /// taken.
    pub(in crate::store) fn forget(
        &self,
        space: &SpaceName,
        document: &DocumentId,
        known: Known,
    ) -> bool {
        let place = DamagedPlace { space: Some(space.clone()), document: Some(*document) };
        let mut found = self.found.lock();
        let is_same = found.damaged.get(&place) == Some(&known);
        if is_same {
            found.damaged.remove(&place);
            found.is_new = true;
            // Places beyond the bound are recorded again when a read meets them.
            found.more &= !found.damaged.is_empty();
        }
        is_same
    }

    /// Whether a commit to this document may fail. A document of which only a value is damaged still accepts
    /// changes, so that they are stored in two places.
    pub(in crate::store) fn is_damaged(&self, space: &SpaceName, document: &DocumentId) -> bool {
        self.known(space, document).is_some_and(|known| known.takes_no_writes)
    }

    pub(in crate::store) fn condition(
        &self,
        gone: Option<String>,
        fsync_failed: Option<String>,
        writer_panicked: Option<String>,
        wal: Option<String>,
    ) -> Condition {
        let found = self.found.lock();
        let lately = |at: &Instant| at.elapsed() < FAILING_SHOWN;
        let failing = found.failed.as_ref().filter(|(at, _)| lately(at));
        Condition {
            gone,
            fsync_failed,
            writer_panicked,
            wal,
            damaged: found.damaged.keys().cloned().collect(),
            more_damaged: found.more,
            is_unreadable: found.damaged.values().any(|known| known.takes_no_writes),
            failing: failing.map(|(_, what)| what.clone()),
        }
    }
}

/// How long a read failure is shown. Reads that succeed do not clear it.
const FAILING_SHOWN: Duration = limits::READ_FAILURE_SHOWN;

/// The remedy for damage that SQLite itself meets: a repair restores only what can be read.
pub(crate) const RESTORE: &str = "SQLite cannot read a part of the file, and no repair restores \
    it: stop the relay and restore a backup, or start with an empty folder; clients send back what \
    they have";

/// The remedy for damaged values.
pub(crate) const REMEDY: &str = "the relay asks clients for the data; if none has it, stop the \
    relay and run `landfall-relay verify --repair`, or restore a backup";

impl StoreError {
    /// Whether the content of the file is damaged.
    pub fn is_damage(&self) -> bool {
        let mut next: Option<&(dyn Error + 'static)> = Some(self);
        while let Some(error) = next {
            if let Some(error) = error.downcast_ref::<rusqlite::Error>() {
                return crate::store::damage::is_damage(error);
            }
            next = error.source();
        }
        FailureClass::of_chain(self) == FailureClass::Corrupt
    }

    /// The mismatch, if the value read differs from the one written.
    pub(in crate::store) fn content_damage(&self) -> Option<&ContentDamage> {
        let mut next: Option<&(dyn Error + 'static)> = Some(self);
        while let Some(error) = next {
            if let Some(damage) = error.downcast_ref::<ContentDamage>() {
                return Some(damage);
            }
            next = error.source();
        }
        None
    }

    /// Whether a value differs from the one written, in a file that SQLite can read.
    pub(in crate::store) fn is_content_damage(&self) -> bool {
        self.content_damage().is_some()
    }

    /// Whether a file of the store was removed or replaced.
    pub fn is_gone(&self) -> bool {
        FailureClass::of_chain(self) == FailureClass::Gone
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Damages one document more than the bound, then repairs each.
    #[test]
    fn a_repaired_store_is_not_reported_damaged() {
        let recorder = Recorder::default();
        let space: SpaceName = "s".parse().unwrap();
        let id = |number: usize| DocumentId::from_bytes((number as u128).to_be_bytes());
        let note = |number| {
            let document = id(number);
            let operation = Operation::of_document("read", &space, &document);
            let source = Box::new(crate::store::damage::damaged(Some(document), None, "a change"));
            let failure = StoreFailure::Damaged;
            let error = StoreError { what: "read", failure, needs_index: None, source };
            recorder.note(operation, error);
        };
        let repair = |number| {
            let known = recorder.known(&space, &id(number));
            assert!(known.is_some_and(|known| recorder.forget(&space, &id(number), known)));
        };
        (0..=limits::DAMAGED_PLACES).for_each(note);
        assert!(recorder.condition(None, None, None, None).more_damaged);
        (0..limits::DAMAGED_PLACES).for_each(repair);
        // The last one is met again, and repaired.
        note(limits::DAMAGED_PLACES);
        repair(limits::DAMAGED_PLACES);
        let condition = recorder.condition(None, None, None, None);
        assert_eq!(condition, Condition::default(), "`/readyz` says 503 until a restart");
    }
}
