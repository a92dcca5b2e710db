//! Events: a bounded stream of what happened to documents.
//!
//! A slow listener never blocks anybody and never makes anything grow: when it is further behind
//! than [`Options::events`](crate::Options::events), it is told how many it missed
//! ([`Lagged`]) and goes on with the oldest that is left. What it missed, it reads from the
//! documents themselves.

use std::collections::VecDeque;
use std::sync::Arc;

use automerge::Patch;
use landfall_protocol::{ChangeHash, Code, DocumentId, SpaceName};
use parking_lot::Mutex;

use crate::notify::{Notifier, Topic};
use crate::store::Excess;

/// Something that happened to a document.
#[derive(Debug, Clone)]
pub struct Event {
    /// The document's space.
    pub space: SpaceName,
    /// The document.
    pub document: DocumentId,
    /// What happened.
    pub kind: EventKind,
}

/// Who made a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
    /// Changes were added; they are in the store.
    Changed {
        /// Whose.
        origin: Origin,
        /// The document's heads now.
        heads: Vec<ChangeHash>,
        /// How the visible state changed since the document's previous event, if the document is
        /// open and its listeners were there. Text positions count Unicode code points.
        patches: Option<Arc<[Patch]>>,
    },
    /// A local change could not be written; the document is back at what the store holds.
    RolledBack,
    /// The relay refuses this document's local changes. They are kept; see the status.
    Parked {
        /// Why.
        code: Code,
        /// In words.
        what: String,
    },
    /// The document was deleted, here or elsewhere, for good.
    Deleted {
        /// Changes made here that no other replica has. They are kept until they are exported
        /// ([`Space::export_lost`](crate::Space::export_lost)) and discarded.
        unsent: u64,
    },
    /// A document of the same id, with a history that shares nothing with ours, arrived. It is
    /// kept aside, until the application asks to merge the two
    /// ([`Space::merge_unrelated`](crate::Space::merge_unrelated)).
    Unrelated,
    /// Another change has taken the place of changes made here: theirs counts, ours are refused by
    /// the relay, kept, and can be made anew ([`Space::reauthor`](crate::Space::reauthor)).
    Conflicted,
    /// The relay held something else of this document than was thought, although nothing was under
    /// way. It has been set right.
    Drifted,
    /// Something arrived that cannot be applied. It is kept in the store.
    SetAside {
        /// Why.
        reason: String,
    },
    /// By what arrived the document exceeds what a document may have
    /// ([`Options::document_bytes`](crate::Options::document_bytes)). It is kept, and syncs on as
    /// single changes; only local changes are refused. Told once while the store is open.
    Oversized {
        /// Its bytes.
        bytes: u64,
        /// How many it may have.
        limit: u64,
    },
    /// By what arrived the document has more changes, operations or concurrent heads than one of its
    /// bytes may have. It is kept and syncs on; the relay refuses what would add to it, and so does
    /// this store ([`ChangeError::DocumentFull`](crate::ChangeError::DocumentFull)), except for heads:
    /// the next local change merges them. Told once for each limit while the store is open; see
    /// [`DocumentStatus::exceeded`](crate::DocumentStatus::exceeded).
    OverBudget {
        /// Which limit is exceeded, and by how much.
        excess: Excess,
    },
    /// The document has more actors than [`MANY_ACTORS`](crate::MANY_ACTORS), which costs memory and
    /// time in every replica. Told when it is loaded, once for as long as it is open.
    ManyActors {
        /// How many it has.
        actors: u64,
    },
    /// Somebody said something about a document that is open here, with
    /// [`Document::broadcast`](crate::Document::broadcast) or as an automerge-repo client. Nobody
    /// stores it; what comes while no handle to the document is held is not told. One that was
    /// repeated on its way is told once.
    Ephemeral {
        /// Who: a name that stays the same over the sender's restarts. A Landfall store's is
        /// `landfall-` and its [replica id](crate::Store::replica) in hexadecimal, an automerge-repo
        /// client's its peer id.
        sender: String,
        /// One run of the sender.
        session: String,
        /// Grows with each message of the session.
        count: u64,
        /// What was said. An automerge-repo client puts the CBOR of one value here.
        data: Arc<[u8]>,
    },
    /// automerge failed on this document's bytes. It keeps its last good state, and its bytes
    /// are kept; it takes no changes until a version that can read it opens it.
    Quarantined {
        /// What automerge said.
        reason: String,
    },
}

/// The listener was too slow, and this many events are lost to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{missed} events were missed; read the documents for their present state")]
pub struct Lagged {
    /// How many.
    pub missed: u64,
}

/// A listener.
pub struct Events {
    shared: Arc<Shared>,
    /// The number of the event that it gives next.
    position: u64,
}

impl Events {
    /// The next event; `None` once the store is closed. Needs no particular executor. The task is
    /// woken by a thread that does nothing else (`landfall-notify`): a waker that blocks delays the
    /// other tasks that wait for events or the status of this store, and nothing of the store.
    pub async fn next(&mut self) -> Option<Result<Event, Lagged>> {
        let Self { shared, position } = self;
        shared.notifier.wait(Topic::Events, || shared.take(position)).await
    }

    /// Waits for the next event on this thread; `None` once the store is closed.
    pub fn next_blocking(&mut self) -> Option<Result<Event, Lagged>> {
        pollster::block_on(self.next())
    }

    /// The next event if there is one already.
    pub fn try_next(&mut self) -> Option<Result<Event, Lagged>> {
        self.shared.take(&mut self.position).flatten()
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        let unread = self.shared.ring.lock().leave(self.position);
        drop(unread);
    }
}

/// An event that at least one listener has not read.
struct Kept {
    event: Arc<Event>,
    /// How many listeners have not read it.
    unread: usize,
}

/// The events that listeners have not read, the oldest first.
#[derive(Default)]
struct Ring {
    kept: VecDeque<Kept>,
    /// The number of the first one that is kept.
    first: u64,
    listeners: usize,
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

    /// A listener reads at a position, which it advances; `None` if it has read everything.
    fn read(&mut self, position: &mut u64) -> Option<Result<Arc<Event>, Lagged>> {
        if *position < self.first {
            let missed = self.first - *position;
            *position = self.first;
            return Some(Err(Lagged { missed }));
        }
        let index = usize::try_from(*position - self.first).ok()?;
        let kept = self.kept.get_mut(index)?;
        *position += 1;
        kept.unread -= 1;
        let event = Arc::clone(&kept.event);
        while self.kept.front().is_some_and(|kept| kept.unread == 0) {
            self.pop();
        }
        Some(Ok(event))
    }

    /// A listener at this position goes; gives the events that only it had not read.
    fn leave(&mut self, position: u64) -> Vec<Arc<Event>> {
        self.listeners -= 1;
        let read = usize::try_from(position.saturating_sub(self.first)).unwrap_or(usize::MAX);
        self.kept.iter_mut().skip(read).for_each(|kept| kept.unread -= 1);
        let mut unread = Vec::new();
        while self.kept.front().is_some_and(|kept| kept.unread == 0) {
            unread.extend(self.pop());
        }
        unread
    }
}

struct Shared {
    /// Held for look-ups only.
    ring: Mutex<Ring>,
    notifier: Notifier,
}

impl Shared {
    /// What a listener's `next` gives; `None` if it has to wait.
    fn take(&self, position: &mut u64) -> Option<Option<Result<Event, Lagged>>> {
        let read = {
            let mut ring = self.ring.lock();
            match ring.read(position) {
                None if ring.closed => return Some(None),
                read => read?,
            }
        };
        // Cloned without the lock, and only if another listener has not read it.
        Some(Some(read.map(Arc::unwrap_or_clone)))
    }
}

/// Where events are sent from.
pub(crate) struct EventHub {
    shared: Arc<Shared>,
    capacity: usize,
}

impl EventHub {
    /// `capacity`: how many events a listener may be behind.
    pub(crate) fn new(capacity: usize, notifier: Notifier) -> Self {
        let shared = Arc::new(Shared { ring: Mutex::default(), notifier });
        Self { shared, capacity: capacity.clamp(1, 1 << 20) }
    }

    pub(crate) fn listen(&self) -> Events {
        let position = {
            let mut ring = self.shared.ring.lock();
            ring.listeners += 1;
            ring.end()
        };
        Events { shared: Arc::clone(&self.shared), position }
    }

    /// Whether anybody listens: if not, patches need not be computed.
    pub(crate) fn has_listeners(&self) -> bool {
        let ring = self.shared.ring.lock();
        ring.listeners > 0 && !ring.closed
    }

    /// Puts an event behind those that were sent before it. Never waits and calls no waker, so any
    /// thread may send, whatever lock it holds.
    pub(crate) fn send(&self, space: &SpaceName, document: DocumentId, kind: EventKind) {
        let event = Arc::new(Event { space: space.clone(), document, kind });
        let displaced = {
            let mut ring = self.shared.ring.lock();
            if ring.closed || ring.listeners == 0 {
                return;
            }
            let displaced = if ring.kept.len() >= self.capacity { ring.pop() } else { None };
            let unread = ring.listeners;
            ring.kept.push_back(Kept { event, unread });
            displaced
        };
        drop(displaced);
        self.shared.notifier.notify(Topic::Events);
    }

    /// Ends every listener, after what was sent before; the notifier is to be closed afterwards.
    pub(crate) fn close(&self) {
        self.shared.ring.lock().closed = true;
    }
}

/// The notifier's thread ends with its store, even with one that could not be opened.
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
        let kind = EventKind::SetAside { reason: n.to_string() };
        hub.send(&"s".parse().unwrap(), DocumentId::from_bytes([n; 16]), kind);
    }

    fn read(events: &mut Events) -> Option<Result<u8, u64>> {
        let read = events.try_next()?;
        Some(read.map(|event| event.document.as_bytes()[0]).map_err(|lagged| lagged.missed))
    }

    #[test]
    fn each_listener_gets_every_event_in_order_or_is_told_how_many_it_missed() {
        let hub = hub(3);
        send(&hub, 0);
        let mut first = hub.listen();
        assert_eq!(read(&mut first), None, "it was sent before");
        (1..=2).for_each(|n| send(&hub, n));
        let mut second = hub.listen();
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
    fn an_event_is_kept_only_for_listeners_that_have_not_read_it() {
        let hub = hub(100);
        send(&hub, 1);
        let kept = || hub.shared.ring.lock().kept.len();
        assert_eq!(kept(), 0);
        let (mut first, second) = (hub.listen(), hub.listen());
        (1..=4).for_each(|n| send(&hub, n));
        while read(&mut first).is_some() {}
        assert_eq!(kept(), 4);
        send(&hub, 5);
        drop(second);
        assert_eq!((kept(), read(&mut first)), (1, Some(Ok(5))));
        assert_eq!(kept(), 0);
    }
}
