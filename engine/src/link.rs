//! The link: a thread of the engine's own that keeps a connection to a relay.
//!
//! The decisions are `protocol::replica`'s; here are the socket, the clock and the effects. It
//! never touches a loaded document.

mod address;
mod arrivals;
mod flush;
mod perform;
mod run;
mod socket;
mod voice;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::thread::JoinHandle;

use landfall_protocol::{DocumentId, SpaceName};
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc};

use crate::core::Core;
use crate::error::ConnectError;
use crate::options::LinkOptions;
use crate::store::SpaceRow;

pub(crate) use flush::Flush;
pub(crate) use voice::Unspoken;
use voice::Voice;

/// What the link's thread is told.
enum Command {
    Space(SpaceName, SpaceRow),
    Online(bool),
    Reconnect,
    Flush(flush::Waiter),
    /// Other documents of a space are wanted; the store has noted which.
    Filter(SpaceName),
    /// Compare with the relay, as soon as nothing is under way.
    Check(SpaceName),
    /// The application wants a document that the relay refused to be offered again.
    Unparked(SpaceName, DocumentId),
    Close,
}

/// What the application wants sent.
#[derive(Default)]
struct Outbound {
    /// Spaces with something to push. A set, so that a fast writer makes it no larger.
    spaces: Mutex<BTreeSet<SpaceRow>>,
    /// Ephemeral messages.
    voice: Voice,
    wake: Notify,
}

/// The handle on the link's thread.
pub(crate) struct LinkHandle {
    commands: mpsc::UnboundedSender<Command>,
    outbound: Arc<Outbound>,
    thread: JoinHandle<()>,
}

impl LinkHandle {
    /// Whether a link can be made of these options.
    pub(crate) fn validate(options: &LinkOptions) -> Result<(), ConnectError> {
        address::parse(&options.url).map(drop)
    }

    pub(crate) fn start(core: &Arc<Core>, options: LinkOptions) -> Result<Self, ConnectError> {
        let address = address::parse(&options.url)?;
        let (commands, inbox) = mpsc::unbounded_channel();
        let outbound = Arc::new(Outbound::default());
        let runner =
            run::Runner::new(Arc::clone(core), options, address, Arc::clone(&outbound), inbox)
                .map_err(ConnectError::Thread)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(ConnectError::Thread)?;
        let thread = std::thread::Builder::new()
            .name("landfall-link".to_owned())
            .spawn(move || runtime.block_on(runner.run()))
            .map_err(ConnectError::Thread)?;
        Ok(Self { commands, outbound, thread })
    }

    /// These spaces have something to push.
    pub(crate) fn local(&self, rows: impl Iterator<Item = SpaceRow>) {
        self.outbound.spaces.lock().extend(rows);
        self.outbound.wake.notify_one();
    }

    /// Takes an ephemeral message; `number` gives its place among those of the store.
    pub(crate) fn speak(
        &self,
        space: &SpaceName,
        document: DocumentId,
        data: Vec<u8>,
        number: impl FnOnce() -> u64,
    ) -> Result<(), Unspoken> {
        self.outbound.voice.add(space, document, data, number)?;
        self.outbound.wake.notify_one();
        Ok(())
    }

    pub(crate) fn space(&self, name: SpaceName, row: SpaceRow) {
        self.tell(Command::Space(name, row));
    }

    pub(crate) fn set_online(&self, online: bool) {
        self.tell(Command::Online(online));
    }

    pub(crate) fn reconnect_now(&self) {
        self.tell(Command::Reconnect);
    }

    pub(crate) fn filter(&self, space: SpaceName) {
        self.tell(Command::Filter(space));
    }

    pub(crate) fn check(&self, space: SpaceName) {
        self.tell(Command::Check(space));
    }

    pub(crate) fn unparked(&self, space: SpaceName, document: DocumentId) {
        self.tell(Command::Unparked(space, document));
    }

    /// Hands a flush over; dropped with its answer if the link is gone.
    fn flush(&self, waiter: flush::Waiter) {
        self.tell(Command::Flush(waiter));
    }

    /// Says goodbye to the relay and ends the thread.
    pub(crate) fn close(self) {
        self.tell(Command::Close);
        if self.thread.thread().id() != std::thread::current().id() {
            // A panic there was told by the panic hook; closing goes on.
            let _ = self.thread.join();
        }
    }

    fn tell(&self, command: Command) {
        // A thread that is gone needs to be told nothing.
        let _ = self.commands.send(command);
    }
}
