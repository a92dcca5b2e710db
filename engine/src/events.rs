//! Events: a bounded stream of what happened to documents.
//!
//! A slow listener never blocks anybody and never makes anything grow: when it is further behind
//! than [`Options::events`](crate::Options::events), it is told how many it missed
//! ([`Lagged`]) and goes on with the oldest that is left. What it missed, it reads from the
//! documents themselves.

use std::sync::Arc;

use automerge::Patch;
use landfall_protocol::{ChangeHash, Code, DocumentId, SpaceName};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};

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
    receiver: broadcast::Receiver<Event>,
}

impl Events {
    /// The next event; `None` once the store is closed. Needs no particular executor.
    pub async fn next(&mut self) -> Option<Result<Event, Lagged>> {
        match self.receiver.recv().await {
            Ok(event) => Some(Ok(event)),
            Err(RecvError::Lagged(missed)) => Some(Err(Lagged { missed })),
            Err(RecvError::Closed) => None,
        }
    }

    /// Waits for the next event on this thread; `None` once the store is closed.
    pub fn next_blocking(&mut self) -> Option<Result<Event, Lagged>> {
        pollster::block_on(self.next())
    }

    /// The next event if there is one already.
    pub fn try_next(&mut self) -> Option<Result<Event, Lagged>> {
        match self.receiver.try_recv() {
            Ok(event) => Some(Ok(event)),
            Err(TryRecvError::Lagged(missed)) => Some(Err(Lagged { missed })),
            Err(TryRecvError::Empty | TryRecvError::Closed) => None,
        }
    }
}

/// Where events are sent from.
pub(crate) struct EventHub {
    /// `None` once closed, which ends every listener.
    sender: parking_lot::RwLock<Option<broadcast::Sender<Event>>>,
    capacity: usize,
}

impl EventHub {
    pub(crate) fn new(capacity: usize) -> Self {
        let capacity = capacity.clamp(1, 1 << 20);
        let sender = parking_lot::RwLock::new(Some(broadcast::Sender::new(capacity)));
        Self { sender, capacity }
    }

    pub(crate) fn listen(&self) -> Events {
        let receiver = match &*self.sender.read() {
            Some(sender) => sender.subscribe(),
            // Closed: a listener whose sender is gone already.
            None => broadcast::channel(self.capacity).1,
        };
        Events { receiver }
    }

    /// Whether anybody listens: if not, patches need not be computed.
    pub(crate) fn has_listeners(&self) -> bool {
        self.sender.read().as_ref().is_some_and(|sender| sender.receiver_count() > 0)
    }

    pub(crate) fn send(&self, space: &SpaceName, document: DocumentId, kind: EventKind) {
        // A clone, so that no lock is held while it wakes those who listen.
        let sender = self.sender.read().clone();
        if let Some(sender) = sender {
            // That there is no listener is no failure.
            let _ = sender.send(Event { space: space.clone(), document, kind });
        }
    }

    pub(crate) fn close(&self) {
        let last = self.sender.write().take();
        drop(last);
    }
}
