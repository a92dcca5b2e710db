//! Events: a bounded stream of what happened to documents.
//!
//! A slow listener blocks no thread and makes nothing grow. When it is further behind than
//! [`Options::events`](crate::Options::events), it receives the number of events that it missed
//! ([`Lagged`]) and continues with the oldest one left. The missed state is in the documents
//! themselves.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use automerge::Patch;
use landfall_protocol::{ChangeHash, Code, DocumentId, SpaceName};
use parking_lot::Mutex;

use crate::notify::{Notifier, Topic};
use crate::store::ExceededLimit;

/// An event of a document.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Event {
    /// The document's space.
    pub space: SpaceName,
    /// The document.
    pub document: DocumentId,
    /// What happened.
    pub kind: EventKind,
}

/// The origin of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Origin {
    /// This store, through `change()`.
    Local,
    /// Another replica.
    Remote,
}

/// What happened to a document.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum EventKind {
    /// Changes were added, and are in the store.
    Changed {
        /// Their origin.
        origin: Origin,
        /// The document's heads now.
        heads: Vec<ChangeHash>,
        /// The difference in the visible state since the document's previous event, if the document is
        /// open and had listeners. Text positions count Unicode code points.
        patches: Option<Arc<[Patch]>>,
    },
    /// A local change could not be written; the document is back at the state in the store.
    RolledBack,
    /// The relay rejects this document's local changes. They are kept; see the status.
    Rejected {
        /// The reason.
        code: Code,
        /// A description.
        what: String,
    },
    /// The document was permanently deleted, here or elsewhere.
    Deleted {
        /// How many changes made here no other replica has. These orphaned edits are kept until they
        /// are exported ([`Space::export_orphaned`](crate::Space::export_orphaned)) and discarded.
        unsent: u64,
    },
    /// A document of the same id, with an unrelated history, arrived. It is deferred until the
    /// application asks to merge the two ([`Space::merge_unrelated`](crate::Space::merge_unrelated)).
    Unrelated,
    /// Other changes supersede changes made here, because they have the same actor and sequence number.
    /// The relay rejects the local ones; they are kept, and can be made again
    /// ([`Space::reauthor`](crate::Space::reauthor)).
    Conflicted,
    /// A check found that the relay's copy of this document differed, although no transfer was in
    /// progress. It has been repaired.
    Drifted,
    /// An entry arrived that cannot be applied. The store keeps it as deferred.
    Deferred {
        /// The reason.
        reason: String,
    },
    /// With the changes that arrived the document exceeds the limit in bytes
    /// ([`Options::document_bytes`](crate::Options::document_bytes)). It is kept, and continues to sync
    /// as single changes; only local changes are refused. Emitted once while the store is open.
    Oversized {
        /// Its bytes.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
    /// With the changes that arrived the document has more changes, operations or concurrent heads than
    /// a document of its size in bytes may have. It is kept and continues to sync. The relay rejects
    /// changes that would add to the excess, and so does this store
    /// ([`ChangeError::DocumentFull`](crate::ChangeError::DocumentFull)), except for heads: the next
    /// local change merges them. Emitted once for each limit while the store is open; see
    /// [`DocumentStatus::exceeded`](crate::DocumentStatus::exceeded).
    OverBudget {
        /// The limit that is exceeded, and by how much.
        excess: ExceededLimit,
    },
    /// The document has more actors than [`MANY_ACTORS`](crate::MANY_ACTORS), which costs memory and
    /// time in every replica. Emitted when it is loaded, once while it is open.
    ManyActors {
        /// How many it has.
        actors: u64,
    },
    /// An ephemeral message about a document that is open here, sent with
    /// [`Document::broadcast`](crate::Document::broadcast) or by an automerge-repo client. It is not
    /// stored anywhere. It is emitted only while a handle to the document is held, and only once if it
    /// was duplicated on its way.
    Ephemeral {
        /// The sender's name, which stays the same over its restarts. For a Landfall store it is
        /// `landfall-` and its [replica id](crate::Store::replica) in hexadecimal, for an
        /// automerge-repo client its peer id.
        sender: String,
        /// One run of the sender.
        session: String,
        /// Increases with each message of the session.
        count: u64,
        /// The payload. An automerge-repo client sends the CBOR of one value.
        data: Arc<[u8]>,
    },
    /// automerge failed on this document's bytes. The document keeps its last good state, and its bytes
    /// are kept. It accepts no changes until a version that can read it opens it.
    Quarantined {
        /// automerge's error.
        reason: String,
    },
}

/// The listener was too slow, and has missed this many events of its scope.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{missed} events were missed; read the documents for their present state")]
#[non_exhaustive]
pub struct Lagged {
    /// How many.
    pub missed: u64,
}

/// A listener.
pub struct Events {
    shared: Arc<EventQueues>,
    /// Its number among the ring's listeners.
    number: u64,
}

impl Events {
    /// The next event; `None` once the store is closed. Needs no particular executor. A dedicated
    /// thread (`landfall-notify`) wakes the task: a waker that blocks delays only the other tasks that
    /// wait for events or the status of this store.
    pub async fn next(&mut self) -> Option<Result<Event, Lagged>> {
        let Self { shared, number } = self;
        shared.notifier.wait(Topic::Events, || shared.take(*number)).await
    }

    /// Waits for the next event on this thread; `None` once the store is closed.
    pub fn next_blocking(&mut self) -> Option<Result<Event, Lagged>> {
        pollster::block_on(self.next())
    }

    /// The next event, if there is one already.
    pub fn try_next(&mut self) -> Option<Result<Event, Lagged>> {
        self.shared.take(self.number).flatten()
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        let unread = self.shared.ring.lock().leave(self.number);
        drop(unread);
    }
}

/// The scope of a listener's events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Scope {
    Store,
    Space(SpaceName),
    Document(SpaceName, DocumentId),
}

impl Scope {
    fn has(&self, event: &Event) -> bool {
        match self {
            Self::Store => true,
            Self::Space(space) => *space == event.space,
            Self::Document(space, document) => *document == event.document && *space == event.space,
        }
    }
}

struct Listener {
    scope: Scope,
    /// The number of the next event to read.
    position: u64,
    /// Events of its scope that were dropped from the ring before it read them.
    missed: u64,
}

/// How many listeners there are, for each scope.
#[derive(Default)]
struct ListenerCounts {
    store: usize,
    spaces: BTreeMap<SpaceName, usize>,
    documents: BTreeMap<DocumentId, BTreeMap<SpaceName, usize>>,
}

impl ListenerCounts {
    /// How many listeners receive a document's events.
    fn of(&self, space: &SpaceName, document: &DocumentId) -> usize {
        let of_space = self.spaces.get(space).copied().unwrap_or_default();
        let of_document = self.documents.get(document).and_then(|spaces| spaces.get(space));
        self.store + of_space + of_document.copied().unwrap_or_default()
    }

    fn add(&mut self, scope: &Scope) {
        match scope {
            Scope::Store => self.store += 1,
            Scope::Space(space) => *self.spaces.entry(space.clone()).or_default() += 1,
            Scope::Document(space, document) => {
                let spaces = self.documents.entry(*document).or_default();
                *spaces.entry(space.clone()).or_default() += 1;
            }
        }
    }

    fn remove(&mut self, scope: &Scope) {
        let take = |spaces: &mut BTreeMap<SpaceName, usize>, space: &SpaceName| {
            if let Some(count) = spaces.get_mut(space) {
                *count -= 1;
            }
            spaces.retain(|_, count| *count > 0);
        };
        match scope {
            Scope::Store => self.store -= 1,
            Scope::Space(space) => take(&mut self.spaces, space),
            Scope::Document(space, document) => {
                if let Some(spaces) = self.documents.get_mut(document) {
                    take(spaces, space);
                    if spaces.is_empty() {
                        self.documents.remove(document);
                    }
                }
            }
        }
    }
}

/// An event that at least one listener has not read.
struct UnreadEvent {
    event: Arc<Event>,
    /// How many listeners have not read it.
    unread: usize,
}

/// The events that listeners have not read, the oldest first.
#[derive(Default)]
struct Ring {
    kept: VecDeque<UnreadEvent>,
    /// The number of the oldest event.
    first: u64,
    listeners: BTreeMap<u64, Listener>,
    wanted: ListenerCounts,
    /// The number of the next listener.
    next: u64,
    closed: bool,
}

impl Ring {
    /// The number of the next event.
    fn end(&self) -> u64 {
        self.first + self.kept.len() as u64
    }

    fn pop(&mut self) -> Option<Arc<Event>> {
        let kept = self.kept.pop_front()?;
        self.first += 1;
        Some(kept.event)
    }

    /// Removes the oldest event, and counts it as missed for the listeners that have not read it.
    fn supersede(&mut self) -> Option<Arc<Event>> {
        let number = self.first;
        let event = self.pop()?;
        for listener in self.listeners.values_mut() {
            if listener.position <= number && listener.scope.has(&event) {
                listener.missed += 1;
            }
        }
        Some(event)
    }

    fn join(&mut self, scope: Scope) -> u64 {
        let (number, position) = (self.next, self.end());
        self.next += 1;
        self.wanted.add(&scope);
        self.listeners.insert(number, Listener { scope, position, missed: 0 });
        number
    }

    /// Reads a listener's next event; `None` if it has read everything.
    fn read(&mut self, number: u64) -> Option<Result<Arc<Event>, Lagged>> {
        let listener = self.listeners.get_mut(&number)?;
        listener.position = listener.position.max(self.first);
        match std::mem::take(&mut listener.missed) {
            0 => {}
            missed => return Some(Err(Lagged { missed })),
        }
        let event = loop {
            let index = usize::try_from(listener.position - self.first).ok()?;
            let kept = self.kept.get_mut(index)?;
            listener.position += 1;
            if listener.scope.has(&kept.event) {
                kept.unread -= 1;
                break Arc::clone(&kept.event);
            }
        };
        while self.kept.front().is_some_and(|kept| kept.unread == 0) {
            self.pop();
        }
        Some(Ok(event))
    }

    /// Removes a listener; returns the events that only it had not read.
    fn leave(&mut self, number: u64) -> Vec<Arc<Event>> {
        let Some(Listener { scope, position, .. }) = self.listeners.remove(&number) else {
            return Vec::new();
        };
        self.wanted.remove(&scope);
        let read = usize::try_from(position.saturating_sub(self.first)).unwrap_or(usize::MAX);
        let unread = self.kept.iter_mut().skip(read).filter(|kept| scope.has(&kept.event));
        unread.for_each(|kept| kept.unread -= 1);
        let mut gone = Vec::new();
        while self.kept.front().is_some_and(|kept| kept.unread == 0) {
            gone.extend(self.pop());
        }
        gone
    }
}

struct EventQueues {
    /// Held for short look-ups only.
    ring: Mutex<Ring>,
    notifier: Notifier,
}

impl EventQueues {
    /// The result of a listener's `next`; `None` if it has to wait.
    fn take(&self, number: u64) -> Option<Option<Result<Event, Lagged>>> {
        let read = {
            let mut ring = self.ring.lock();
            match ring.read(number) {
                None if ring.closed => return Some(None),
                read => read?,
            }
        };
        // Cloned without the lock, and only if another listener has not read it.
        Some(Some(read.map(Arc::unwrap_or_clone)))
    }
}

/// Where events are emitted.
pub(crate) struct EventHub {
    shared: Arc<EventQueues>,
    capacity: usize,
}

impl EventHub {
    /// `capacity`: how many events a listener may be behind.
    pub(crate) fn new(capacity: usize, notifier: Notifier) -> Self {
        let shared = Arc::new(EventQueues { ring: Mutex::default(), notifier });
        Self { shared, capacity: capacity.clamp(1, 1 << 20) }
    }

    pub(crate) fn listen(&self, scope: Scope) -> Events {
        let number = self.shared.ring.lock().join(scope);
        Events { shared: Arc::clone(&self.shared), number }
    }

    /// Whether a document has listeners: if not, patches need not be computed.
    pub(crate) fn has_listeners(&self, space: &SpaceName, document: &DocumentId) -> bool {
        let ring = self.shared.ring.lock();
        !ring.closed && ring.wanted.of(space, document) > 0
    }

    /// Appends an event. Never waits and calls no waker, so any thread may call it, whatever lock it
    /// holds.
    pub(crate) fn send(&self, space: &SpaceName, document: DocumentId, kind: EventKind) {
        let event = Arc::new(Event { space: space.clone(), document, kind });
        let superseded = {
            let mut ring = self.shared.ring.lock();
            let unread = ring.wanted.of(space, &document);
            if ring.closed || unread == 0 {
                return;
            }
            let superseded = if ring.kept.len() >= self.capacity { ring.supersede() } else { None };
            ring.kept.push_back(UnreadEvent { event, unread });
            superseded
        };
        drop(superseded);
        self.shared.notifier.notify(Topic::Events);
    }

    /// Ends every listener after the events sent so far; the notifier must be closed afterwards.
    pub(crate) fn close(&self) {
        self.shared.ring.lock().closed = true;
    }
}

/// Ends the notifier's thread with its store, even if opening the store failed.
impl Drop for EventHub {
    fn drop(&mut self) {
        self.close();
        self.shared.notifier.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hub(capacity: usize) -> EventHub {
        EventHub::new(capacity, Notifier::start(std::sync::Arc::default()).unwrap())
    }

    fn send(hub: &EventHub, n: u8) {
        let kind = EventKind::Deferred { reason: n.to_string() };
        hub.send(&"s".parse().unwrap(), DocumentId::from_bytes([n; 16]), kind);
    }

    fn read(events: &mut Events) -> Option<Result<u8, u64>> {
        let read = events.try_next()?;
        Some(read.map(|event| event.document.as_bytes()[0]).map_err(|lagged| lagged.missed))
    }

    #[test]
    fn each_listener_gets_every_event_in_order_or_the_count_it_missed() {
        let hub = hub(3);
        send(&hub, 0);
        let mut first = hub.listen(Scope::Store);
        assert_eq!(read(&mut first), None, "it was sent before");
        (1..=2).for_each(|n| send(&hub, n));
        let mut second = hub.listen(Scope::Store);
        assert_eq!(read(&mut first), Some(Ok(1)));
        (3..=5).for_each(|n| send(&hub, n));
        assert_eq!((read(&mut first), read(&mut first)), (Some(Err(1)), Some(Ok(3))));
        let all: Vec<_> = std::iter::from_fn(|| read(&mut second)).collect();
        assert_eq!(all, [Ok(3), Ok(4), Ok(5)]);
        send(&hub, 6);
        hub.close();
        send(&hub, 7);
        let left: Vec<_> = std::iter::from_fn(|| first.next_blocking()).collect();
        assert_eq!(left.len(), 3, "{left:?}");
    }

    /// Events can have patches as large as documents.
    #[test]
    fn an_event_is_kept_only_until_every_listener_has_read_it() {
        let hub = hub(100);
        send(&hub, 1);
        let kept = || hub.shared.ring.lock().kept.len();
        assert_eq!(kept(), 0);
        let (mut first, second) = (hub.listen(Scope::Store), hub.listen(Scope::Store));
        (1..=4).for_each(|n| send(&hub, n));
        while read(&mut first).is_some() {}
        assert_eq!(kept(), 4);
        send(&hub, 5);
        drop(second);
        assert_eq!((kept(), read(&mut first)), (1, Some(Ok(5))));
        assert_eq!(kept(), 0);
    }

    /// Listeners of a space or a document receive only its events, and count no others as missed.
    #[test]
    fn a_listener_reads_and_misses_only_events_of_its_scope() {
        let hub = hub(4);
        let (s, t): (SpaceName, SpaceName) = ("s".parse().unwrap(), "t".parse().unwrap());
        let id = |n| DocumentId::from_bytes([n; 16]);
        let to = |space: &SpaceName, n: u8| {
            hub.send(space, id(n), EventKind::Deferred { reason: String::new() });
        };
        assert!(!hub.has_listeners(&s, &id(1)));
        let mut of_space = hub.listen(Scope::Space(s.clone()));
        let mut of_one = hub.listen(Scope::Document(s.clone(), id(1)));
        assert!(hub.has_listeners(&s, &id(1)) && hub.has_listeners(&s, &id(9)));
        assert!(!hub.has_listeners(&t, &id(1)));
        to(&t, 1);
        assert_eq!(hub.shared.ring.lock().kept.len(), 0, "no listener wants it");
        to(&s, 1);
        to(&s, 2);
        assert_eq!((read(&mut of_one), read(&mut of_one)), (Some(Ok(1)), None));
        assert_eq!(read(&mut of_space), Some(Ok(1)));
        // The listener of the space falls behind; the listener of the document wanted one of the lost
        // events.
        (3..=6).for_each(|n| to(&s, n));
        to(&s, 1);
        (7..=10).for_each(|n| to(&s, n));
        assert_eq!((read(&mut of_one), read(&mut of_one)), (Some(Err(1)), None));
        assert_eq!((read(&mut of_space), read(&mut of_space)), (Some(Err(6)), Some(Ok(7))));
        drop(of_space);
        assert_eq!(hub.shared.ring.lock().kept.len(), 0);
        assert!(hub.has_listeners(&s, &id(1)) && !hub.has_listeners(&s, &id(9)));
        drop(of_one);
        assert!(!hub.has_listeners(&s, &id(1)));
    }
}
