//! The commands of application threads for the link's thread: states, which any number of calls make no
//! larger, and requests. No call waits for the link.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use landfall_protocol::DocumentId;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::ephemeral_queue::EphemeralQueue;
use super::oversized::ToldOversized;
use super::requests::Requests;
use super::timings::Timings;
use crate::address::{self, Address};
use crate::error::ConnectError;
use crate::options::LinkOptions;
use crate::signals::LinkSignals;
use crate::store::SpaceRow;
use crate::token::TokenProvider;

/// The wanted relay.
#[derive(Debug)]
pub(super) struct RelayTarget {
    pub(super) address: Address,
    pub(super) token: Option<TokenProvider>,
    pub(super) timings: Timings,
}

impl RelayTarget {
    pub(super) fn new(options: LinkOptions) -> Result<Self, ConnectError> {
        let address = address::parse(&options.url)?;
        Ok(Self { address, timings: Timings::of(&options), token: options.token })
    }
}

/// The commands in force, with those that are new since the link's thread looked last.
#[derive(Default)]
pub(super) struct PendingCommands {
    pub(super) target: Option<Arc<RelayTarget>>,
    /// Increases with each `connect`: the same address is a new command.
    pub(super) connects: u64,
    pub(super) online: bool,
    pub(super) closing: bool,
    /// The thread ended with a panic: no thread reads the commands.
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
pub(super) struct LinkCommands {
    pending: Mutex<PendingCommands>,
    pub(super) requests: Requests,
    /// The limits that documents are known to exceed.
    pub(super) oversized: ToldOversized,
    /// Ephemeral messages.
    pub(super) ephemeral_queue: EphemeralQueue,
    /// A task waits for room in the socket's queue.
    pub(super) wants_room: AtomicBool,
    pub(super) wake: Notify,
}

impl LinkCommands {
    /// Returns the commands in force, and takes the new ones.
    pub(super) fn take(&self) -> PendingCommands {
        let mut pending = self.pending.lock();
        let remaining = PendingCommands {
            target: pending.target.clone(),
            connects: pending.connects,
            online: pending.online,
            closing: pending.closing,
            ended: pending.ended,
            ..PendingCommands::default()
        };
        std::mem::replace(&mut *pending, remaining)
    }

    fn command(&self, change: impl FnOnce(&mut PendingCommands)) {
        change(&mut self.pending.lock());
        self.wake.notify_one();
    }

    /// Sets the wanted relay, if there is a thread to connect to it.
    pub(super) fn connect(&self, target: &Arc<RelayTarget>) -> Accepted {
        let mut pending = self.pending.lock();
        if pending.closing {
            return Accepted::Closing;
        }
        if pending.ended {
            return Accepted::Ended;
        }
        pending.target = Some(Arc::clone(target));
        (pending.connects, pending.online) = (pending.connects + 1, true);
        drop(pending);
        self.wake.notify_one();
        Accepted::Yes
    }

    /// The thread ends with a panic: all commands end. `tell` updates the status and answers the
    /// requests; it runs under the lock, so that a `connect` or a request comes either before all this
    /// or after it.
    pub(super) fn end(&self, tell: impl FnOnce()) {
        let mut pending = self.pending.lock();
        tell();
        let (connects, closing) = (pending.connects, pending.closing);
        *pending = PendingCommands { connects, closing, ended: true, ..PendingCommands::default() };
        drop(pending);
        self.ephemeral_queue.clear();
    }

    /// Whether the thread has ended with a panic.
    pub(super) fn has_ended(&self) -> bool {
        self.pending.lock().ended
    }

    /// Whether the thread has ended with a panic; from now on there is another one.
    pub(super) fn begin_again(&self) -> bool {
        std::mem::take(&mut self.pending.lock().ended)
    }

    /// How often `connect` was called.
    pub(super) fn connects(&self) -> u64 {
        self.pending.lock().connects
    }

    /// Whether a relay is wanted, and the link is to be online.
    pub(super) fn is_online(&self) -> bool {
        let pending = self.pending.lock();
        pending.target.is_some() && pending.online && !pending.closing
    }

    /// Whether a relay was ever wanted.
    pub(super) fn has_target(&self) -> bool {
        self.pending.lock().target.is_some()
    }

    pub(super) fn is_closing(&self) -> bool {
        self.pending.lock().closing
    }

    pub(super) fn close(&self) {
        self.command(|pending| pending.closing = true);
    }

    pub(super) fn set_online(&self, online: bool) {
        self.command(|pending| pending.online = online);
    }

    pub(super) fn reconnect_now(&self) {
        self.command(|pending| pending.hurry = true);
    }

    pub(super) fn filter(&self, row: SpaceRow) {
        self.command(|pending| pending.filters.extend([row]));
    }

    pub(super) fn check(&self, row: SpaceRow) {
        self.command(|pending| pending.checks.extend([row]));
    }

    pub(super) fn retried(&self, row: SpaceRow, document: DocumentId) {
        self.command(|pending| {
            // Without a thread there is no connection on which the relay rejected it.
            if pending.target.is_some() {
                pending.retried.insert((row, document));
            }
        });
    }

    /// The socket has sent something: tasks that wait for room may go on.
    pub(super) fn handle_writable(&self) {
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

impl LinkSignals for LinkCommands {
    fn has_changes(&self, rows: &mut dyn Iterator<Item = SpaceRow>) {
        self.command(|pending| pending.local.extend(rows));
    }

    fn spaces_changed(&self) {
        self.command(|pending| pending.spaces_changed = true);
    }
}
