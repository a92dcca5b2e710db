//! Online repair: the relay requests data that reads found damaged from the clients that follow the document.
//! It examines one document at a time, off the async workers, and requests the damaged parts from a few
//! sessions at a time, with growing pauses. A client's copy replaces the damaged bytes before it is admitted
//! like any other push.
//!
//! Repair never drops data. A document that no client has stays damaged, and is requested from every later
//! follower.

mod case;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use landfall_protocol::{ChangeHash, DocumentId, Offset, SessionId, SpaceName, limits as shared};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::fan_out::{FanOut, ResendRequest};
use crate::limits;
use crate::memory::Key;
use crate::metrics::Metrics;
use crate::store::{Condition, Examined, Known, LogStore, StoreError};
use crate::tasks;
use crate::turns::Turns;
use case::Case;

/// The damaged parts of a document.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct DamagedParts {
    /// Changes, ascending: at most as many as one request may name. Empty while a long list has no client to
    /// be sent to.
    pub(crate) changes: Vec<ChangeHash>,
    /// The hash of the snapshot, if its bytes are damaged.
    pub(crate) snapshot: Option<[u8; 32]>,
}

type DocumentKey = (SpaceName, DocumentId);

/// The documents under repair.
#[derive(Default)]
pub(crate) struct Repairs {
    /// Lets every push and subscription skip the mutex while no damage is known.
    is_active: AtomicBool,
    cases: Mutex<BTreeMap<DocumentKey, Case>>,
    wake: Notify,
}

/// The resources of the repair task.
pub(crate) struct RepairContext {
    store: Arc<dyn LogStore>,
    fan_out: Arc<FanOut>,
    metrics: Arc<Metrics>,
    page_reads: Turns,
}

/// The result of an examination.
enum Examination {
    /// The document was read whole.
    Whole,
    /// These parts are damaged.
    DamagedParts(DamagedParts),
    /// Damage that no client can repair, or a document that cannot be read.
    Beyond(StoreError),
    /// Reads met damage again meanwhile.
    Unsettled,
}

impl Repairs {
    /// Runs the repair for as long as the runtime lives: no acknowledgement depends on it.
    async fn run(&self, context: &RepairContext) {
        let mut is_kept = true;
        loop {
            let condition = context.store.condition();
            // Also once after the last repair, until that is persisted.
            let is_active = self.is_active.load(Ordering::Acquire);
            if is_active || !is_kept || !condition.damaged.is_empty() {
                is_kept = context.keep_condition().await;
            }
            self.gather(&condition);
            match self.next_due(Instant::now()) {
                Some(key) => self.advance(context, key).await,
                None => {
                    // Damage found by reads is collected periodically: nothing waits for it.
                    let look = tokio::time::sleep(limits::REPAIR_LOOK);
                    tokio::select! {
                        () = self.wake.notified() => {}
                        () = look => {}
                    }
                    // Bounds the rate of wake-ups, so that frequent ones do not keep a processor busy.
                    tokio::time::sleep(limits::REPAIR_PAGE_PAUSE).await;
                }
            }
        }
    }

    /// The damaged parts of a document, as far as they are known.
    pub(crate) fn damaged(
        &self,
        space: &SpaceName,
        document: &DocumentId,
    ) -> Option<Arc<DamagedParts>> {
        if !self.is_active.load(Ordering::Acquire) {
            return None;
        }
        self.cases.lock().get(&(space.clone(), *document))?.damaged()
    }

    /// Whether a damaged document's snapshot is known to be whole: the document was examined, and reads since
    /// then met only damaged changes.
    pub(crate) fn is_snapshot_whole(&self, key: (&SpaceName, &DocumentId), known: Known) -> bool {
        if !self.is_active.load(Ordering::Acquire) {
            return false;
        }
        let cases = self.cases.lock();
        let case = cases.get(&(key.0.clone(), *key.1));
        case.is_some_and(|case| {
            let is_whole = case.damaged().is_some_and(|damaged| damaged.snapshot.is_none());
            is_whole && case.has_seen(known)
        })
    }

    /// A damaged part of a document was pushed, and is whole in the store.
    pub(crate) fn data_arrived(&self, space: &SpaceName, document: &DocumentId) {
        self.change(space, document, |case| {
            case.data_arrived(Instant::now());
            true
        });
    }

    /// A session finished its answer: it pushed `count` changes.
    pub(crate) fn answered(
        &self,
        session: SessionId,
        space: &SpaceName,
        document: &DocumentId,
        count: u32,
    ) {
        self.change(space, document, |case| case.answered(session, count, Instant::now()));
    }

    /// A session subscribed to documents of a space.
    pub(crate) fn subscribed(&self, space: &SpaceName) {
        self.change_all(|of, case| {
            if of == space {
                case.hurry(Instant::now());
            }
        });
    }

    /// A session opened a document.
    pub(crate) fn document_opened(&self, space: &SpaceName, document: &DocumentId) {
        self.change(space, document, |case| {
            case.hurry(Instant::now());
            true
        });
    }

    /// A session ended.
    pub(crate) fn session_ended(&self, session: SessionId) {
        self.change_all(|_, case| case.session_ended(session, Instant::now()));
    }

    /// Changes a case; `change` returns whether it did.
    fn change(
        &self,
        space: &SpaceName,
        document: &DocumentId,
        change: impl FnOnce(&mut Case) -> bool,
    ) {
        if !self.is_active.load(Ordering::Acquire) {
            return;
        }
        let key = (space.clone(), *document);
        if self.cases.lock().get_mut(&key).is_some_and(change) {
            self.wake.notify_one();
        }
    }

    fn change_all(&self, mut change: impl FnMut(&SpaceName, &mut Case)) {
        if !self.is_active.load(Ordering::Acquire) {
            return;
        }
        self.cases.lock().iter_mut().for_each(|((space, _), case)| change(space, case));
        self.wake.notify_one();
    }

    /// Adds newly damaged documents, and removes those that are whole again.
    fn gather(&self, condition: &Condition) {
        if condition.damaged.is_empty() && !self.is_active.load(Ordering::Acquire) {
            return;
        }
        let key_of =
            |place: &crate::store::DamagedPlace| Some((place.space.clone()?, place.document?));
        let found: std::collections::BTreeSet<DocumentKey> =
            condition.damaged.iter().filter_map(key_of).collect();
        let mut cases = self.cases.lock();
        cases.retain(|key, _| found.contains(key));
        let now = Instant::now();
        for key in found {
            cases.entry(key).or_insert_with(|| Case::new(now));
        }
        self.is_active.store(!cases.is_empty(), Ordering::Release);
    }

    /// The document that has been due the longest.
    fn next_due(&self, now: Instant) -> Option<DocumentKey> {
        let cases = self.cases.lock();
        let due = cases.iter().filter(|(_, case)| case.due <= now);
        due.min_by_key(|(_, case)| case.due).map(|(key, _)| key.clone())
    }

    /// Advances the repair of a document: examines it if its damage is not known, and requests what is
    /// damaged.
    async fn advance(&self, context: &RepairContext, key: DocumentKey) {
        let (space, document) = &key;
        let known = context.store.known_damage(space, document);
        // The next look removes a document that is no longer known to be damaged.
        let Some(known) = known else { return self.postpone(&key) };
        let is_examined = self.with(&key, |case| case.begin(known)).unwrap_or(true);
        if !is_examined {
            match context.examine(&key, known).await {
                Examination::Whole => return self.repaired(context, &key),
                // A client's copy could not be written.
                Examination::DamagedParts(_) if known.takes_no_writes => {
                    return self.postpone(&key);
                }
                Examination::DamagedParts(damaged) => {
                    self.with(&key, |case| case.examined(damaged, known, Instant::now()));
                }
                Examination::Beyond(error) => {
                    tracing::warn!(%space, %document, error = error.chain(),
                        "clients cannot repair a damaged document");
                    return self.postpone(&key);
                }
                Examination::Unsettled => return,
            }
        }
        self.ask(context, &key);
    }

    /// Requests the data from sessions that follow the document and have not answered that they have none of
    /// it.
    fn ask(&self, context: &RepairContext, key: &DocumentKey) {
        let (space, document) = key;
        let subscribers = context.fan_out.subscribers(space, document);
        let sessions = subscribers.iter().map(|(_, mailbox)| (mailbox.share(), mailbox.session()));
        let busy = self.cases.lock().values().flat_map(Case::asked).collect();
        let choose = |case: &mut Case| case.choose(sessions, &busy, Instant::now());
        let Some((chosen, damaged)) = self.with(key, choose).flatten() else { return };
        let changes = if damaged.snapshot.is_some() { Vec::new() } else { damaged.changes.clone() };
        tracing::info!(%space, %document, changes = changes.len(), sessions = chosen.len(),
            "asking clients for damaged data");
        let request =
            Arc::new(ResendRequest { space: space.clone(), document: *document, changes });
        for (subscription, mailbox) in subscribers {
            if chosen.contains(&mailbox.session()) {
                mailbox.put_request(subscription, Arc::clone(&request));
            }
        }
    }

    fn repaired(&self, context: &RepairContext, key: &DocumentKey) {
        let (space, document) = key;
        tracing::info!(%space, %document, "a damaged document is repaired");
        context.metrics.repaired.inc();
        self.cases.lock().remove(key);
        for (subscription, mailbox) in context.fan_out.subscribers(space, document) {
            mailbox.put_repaired(subscription, *document);
        }
    }

    fn postpone(&self, key: &DocumentKey) {
        self.with(key, |case| case.postpone(Instant::now()));
    }

    fn with<T>(&self, key: &DocumentKey, with: impl FnOnce(&mut Case) -> T) -> Option<T> {
        self.cases.lock().get_mut(key).map(with)
    }
}

impl RepairContext {
    pub(crate) fn new(
        store: &Arc<dyn LogStore>,
        fan_out: &Arc<FanOut>,
        metrics: &Arc<Metrics>,
        page_reads: &Turns,
    ) -> Self {
        let (store, fan_out) = (Arc::clone(store), Arc::clone(fan_out));
        Self { store, fan_out, metrics: Arc::clone(metrics), page_reads: page_reads.clone() }
    }

    /// Starts the repair, in a task of its own.
    pub(crate) fn start(self) -> Arc<Repairs> {
        let repairs = Arc::new(Repairs::default());
        let (context, running) = (Arc::new(self), Arc::clone(&repairs));
        tasks::keep("repairs", move || {
            let (repairs, context) = (Arc::clone(&running), Arc::clone(&context));
            async move { repairs.run(&context).await }
        });
        repairs
    }

    /// Runs off the async workers: it waits for the disk if there is something to write.
    async fn keep_condition(&self) -> bool {
        let store = Arc::clone(&self.store);
        // The panic hook has logged a panic there.
        tokio::task::spawn_blocking(move || store.keep_condition()).await.unwrap_or(false)
    }

    /// Examines a document in short reads, with pauses in which others read.
    async fn examine(&self, key: &DocumentKey, known: Known) -> Examination {
        let (mut damaged, mut after) = (DamagedParts::default(), None);
        loop {
            let examined = match self.page(key, after).await {
                Ok(examined) => examined,
                Err(error) => return Examination::Beyond(error),
            };
            damaged.changes.extend(examined.changes);
            damaged.snapshot = damaged.snapshot.or(examined.snapshot);
            after = examined.next;
            let is_full = damaged.changes.len() >= shared::RESEND_CHANGES;
            if after.is_none() || is_full {
                break;
            }
            tokio::time::sleep(limits::REPAIR_PAGE_PAUSE).await;
        }
        if damaged != DamagedParts::default() {
            damaged.changes.truncate(shared::RESEND_CHANGES);
            damaged.changes.sort_unstable();
            return Examination::DamagedParts(damaged);
        }
        match self.store.forget_damage(&key.0, &key.1, known) {
            true => Examination::Whole,
            false => Examination::Unsettled,
        }
    }

    async fn page(&self, key: &DocumentKey, after: Option<Offset>) -> Result<Examined, StoreError> {
        let turn = self.page_reads.take(Key::RELAY).await;
        let (store, (space, document)) = (Arc::clone(&self.store), key.clone());
        let read = tokio::task::spawn_blocking(move || {
            let examined = store.examine(&space, &document, after);
            drop(turn);
            examined
        });
        read.await.unwrap_or_else(|error| Err(StoreError::of_panic(error)))
    }
}
