//! The wishes of application threads for the link's thread: states, which any number of calls make no
//! larger, and requests. No call waits for the link.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use landfall_protocol::DocumentId;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::address::{self, Address};
use super::ephemeral_queue::EphemeralQueue;
use super::requests::Requests;
use super::timings::Timings;
use crate::error::ConnectError;
use crate::options::LinkOptions;
use crate::store::SpaceRow;

/// The wanted relay.
#[derive(Debug)]
pub(super) struct RelayTarget {
    pub(super) address: Address,
    pub(super) token: Option<Vec<u8>>,
    pub(super) timings: Timings,
}

impl RelayTarget {
    pub(super) fn new(options: LinkOptions) -> Result<Self, ConnectError> {
        let address = address::parse(&options.url)?;
        Ok(Self { address, timings: Timings::of(&options), token: options.token })
    }
}

/// The wishes, with those that are new since the link's thread looked last.
#[derive(Default)]
pub(super) struct Wishes {
    pub(super) target: Option<Arc<RelayTarget>>,
    /// Increases with each `connect`: the same address is a new wish.
    pub(super) connects: u64,
    pub(super) online: bool,
    pub(super) closing: bool,
    /// The thread ended with a panic: no thread reads the wishes.
    ended: bool,
    /// The application wants a connection attempt at once.
    pub(super) hurry: bool,
    pub(super) spaces_changed: bool,
    /// Spaces with changes to push.
    pub(super) local: BTreeSet<SpaceRow>,
    pub(super) filters: BTreeSet<SpaceRow>,
    pub(super) checks: BTreeSet<SpaceRow>,
    pub(super) retried: BTreeSet<(SpaceRow, DocumentId)>,
}

#[derive(Default)]
pub(super) struct Desk {
    wishes: Mutex<Wishes>,
    pub(super) requests: Requests,
    /// Ephemeral messages.
    pub(super) ephemeral_queue: EphemeralQueue,
    /// A task waits for room in the socket's queue.
    pub(super) wants_room: AtomicBool,
    pub(super) wake: Notify,
}

impl Desk {
    /// Returns the wishes, and takes the new ones.
    pub(super) fn take(&self) -> Wishes {
        let mut wishes = self.wishes.lock();
        let standing = Wishes {
            target: wishes.target.clone(),
            connects: wishes.connects,
            online: wishes.online,
            closing: wishes.closing,
            ended: wishes.ended,
            ..Wishes::default()
        };
        std::mem::replace(&mut *wishes, standing)
    }

    fn wish(&self, change: impl FnOnce(&mut Wishes)) {
        change(&mut self.wishes.lock());
        self.wake.notify_one();
    }

    /// Sets the wanted relay, if there is a thread to connect to it.
    pub(super) fn connect(&self, target: &Arc<RelayTarget>) -> Accepted {
        let mut wishes = self.wishes.lock();
        if wishes.closing {
            return Accepted::Closing;
        }
        if wishes.ended {
            return Accepted::Ended;
        }
        wishes.target = Some(Arc::clone(target));
        (wishes.connects, wishes.online) = (wishes.connects + 1, true);
        drop(wishes);
        self.wake.notify_one();
        Accepted::Yes
    }

    /// The thread ends with a panic: all wishes end. `tell` updates the status and answers the
    /// requests; it runs under the lock, so that a `connect` or a request comes either before all this
    /// or after it.
    pub(super) fn end(&self, tell: impl FnOnce()) {
        let mut wishes = self.wishes.lock();
        tell();
        let (connects, closing) = (wishes.connects, wishes.closing);
        *wishes = Wishes { connects, closing, ended: true, ..Wishes::default() };
        drop(wishes);
        self.ephemeral_queue.clear();
    }

    /// Whether the thread has ended with a panic.
    pub(super) fn has_ended(&self) -> bool {
        self.wishes.lock().ended
    }

    /// Whether the thread has ended with a panic; from now on there is another one.
    pub(super) fn begin_again(&self) -> bool {
        std::mem::take(&mut self.wishes.lock().ended)
    }

    /// How often `connect` was called.
    pub(super) fn connects(&self) -> u64 {
        self.wishes.lock().connects
    }

    /// Whether a relay is wanted, and the link is to be online.
    pub(super) fn is_online(&self) -> bool {
        let wishes = self.wishes.lock();
        wishes.target.is_some() && wishes.online && !wishes.closing
    }

    /// Whether a relay was ever wanted.
    pub(super) fn has_target(&self) -> bool {
        self.wishes.lock().target.is_some()
    }

    pub(super) fn is_closing(&self) -> bool {
        self.wishes.lock().closing
    }

    pub(super) fn close(&self) {
        self.wish(|wishes| wishes.closing = true);
    }

    pub(super) fn set_online(&self, online: bool) {
        self.wish(|wishes| wishes.online = online);
    }

    pub(super) fn reconnect_now(&self) {
        self.wish(|wishes| wishes.hurry = true);
    }

    pub(super) fn spaces_changed(&self) {
        self.wish(|wishes| wishes.spaces_changed = true);
    }

    pub(super) fn local(&self, rows: impl Iterator<Item = SpaceRow>) {
        self.wish(|wishes| wishes.local.extend(rows));
    }

    pub(super) fn filter(&self, row: SpaceRow) {
        self.wish(|wishes| wishes.filters.extend([row]));
    }

    pub(super) fn check(&self, row: SpaceRow) {
        self.wish(|wishes| wishes.checks.extend([row]));
    }

    pub(super) fn retried(&self, row: SpaceRow, document: DocumentId) {
        self.wish(|wishes| {
            // Without a thread there is no connection on which the relay rejected it.
            if wishes.target.is_some() {
                wishes.retried.insert((row, document));
            }
        });
    }

    /// The socket has sent something: tasks that wait for room may go on.
    pub(super) fn handle_room(&self) {
        if self.wants_room.load(Ordering::Acquire) || !self.ephemeral_queue.is_empty() {
            self.wake.notify_one();
        }
    }
}

/// Whether a wish for a relay was accepted.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Accepted {
    Yes,
    /// The thread has ended with a panic.
    Ended,
    /// The link is closing.
    Closing,
}
