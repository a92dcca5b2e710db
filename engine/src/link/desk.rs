//! What application threads leave for the link's thread: what is wanted, as states that any number
//! of calls make no larger, and requests. No call waits for the link.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use landfall_protocol::DocumentId;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::address::{self, Address};
use super::requests::Requests;
use super::timings::Timings;
use super::voice::Voice;
use crate::error::ConnectError;
use crate::options::LinkOptions;
use crate::store::SpaceRow;

/// The relay that is wanted.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) address: Address,
    pub(super) token: Option<Vec<u8>>,
    pub(super) timings: Timings,
}

impl Target {
    pub(super) fn new(options: LinkOptions) -> Result<Self, ConnectError> {
        let address = address::parse(&options.url)?;
        Ok(Self { address, timings: Timings::of(&options), token: options.token })
    }
}

/// What is wanted, and what is new since the link's thread looked last.
#[derive(Default)]
pub(super) struct Wishes {
    pub(super) target: Option<Arc<Target>>,
    /// Grows with each `connect`: the same address is another wish.
    pub(super) connects: u64,
    pub(super) online: bool,
    pub(super) closing: bool,
    /// The thread ended by a panic: there is none to take anything up.
    ended: bool,
    /// The application does not want to wait any longer.
    pub(super) hurry: bool,
    pub(super) spaces_changed: bool,
    /// Spaces with something to push.
    pub(super) local: BTreeSet<SpaceRow>,
    pub(super) filters: BTreeSet<SpaceRow>,
    pub(super) checks: BTreeSet<SpaceRow>,
    pub(super) unparked: BTreeSet<(SpaceRow, DocumentId)>,
}

#[derive(Default)]
pub(super) struct Desk {
    wishes: Mutex<Wishes>,
    pub(super) requests: Requests,
    /// Ephemeral messages.
    pub(super) voice: Voice,
    /// Something waits for the socket to have room.
    pub(super) wants_room: AtomicBool,
    pub(super) wake: Notify,
}

impl Desk {
    /// What is wanted; what is new is taken.
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

    /// Wants a relay, if there is a thread to take that up.
    pub(super) fn connect(&self, target: &Arc<Target>) -> Taken {
        let mut wishes = self.wishes.lock();
        if wishes.closing {
            return Taken::Closing;
        }
        if wishes.ended {
            return Taken::Ended;
        }
        wishes.target = Some(Arc::clone(target));
        (wishes.connects, wishes.online) = (wishes.connects + 1, true);
        drop(wishes);
        self.wake.notify_one();
        Taken::Yes
    }

    /// The thread ends by a panic: nothing is wanted any more. `tell` has the status say so and answers
    /// the requests; under the lock, so that a `connect` or a request comes before all this or after it.
    pub(super) fn end(&self, tell: impl FnOnce()) {
        let mut wishes = self.wishes.lock();
        tell();
        let (connects, closing) = (wishes.connects, wishes.closing);
        *wishes = Wishes { connects, closing, ended: true, ..Wishes::default() };
        drop(wishes);
        self.voice.clear();
    }

    /// Whether the thread has ended by a panic.
    pub(super) fn has_ended(&self) -> bool {
        self.wishes.lock().ended
    }

    /// Whether the thread has ended by a panic; from now on there is another one.
    pub(super) fn begin_again(&self) -> bool {
        std::mem::take(&mut self.wishes.lock().ended)
    }

    /// How often `connect` was called.
    pub(super) fn connects(&self) -> u64 {
        self.wishes.lock().connects
    }

    /// Whether a relay is wanted, and to be connected with.
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

    pub(super) fn unparked(&self, row: SpaceRow, document: DocumentId) {
        self.wish(|wishes| {
            // Without a thread there is no connection on which it was refused.
            if wishes.target.is_some() {
                wishes.unparked.insert((row, document));
            }
        });
    }

    /// The socket took something: whatever waits for room may go on.
    pub(super) fn handle_room(&self) {
        if self.wants_room.load(Ordering::Acquire) || !self.voice.is_empty() {
            self.wake.notify_one();
        }
    }
}

/// Whether a wish for a relay was taken.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Taken {
    Yes,
    /// The thread has ended by a panic.
    Ended,
    /// The link is closing.
    Closing,
}
