//! The link: one thread for each store that has ever connected, which keeps a connection to the relay
//! that the application wants.
//!
//! It lives from the first `connect` to the end of the store, so that one session always ends before
//! the next begins, and all its state has one owner. Application threads never wait for it. They leave
//! their commands in [`commands`], as states (which relay, online or not, which spaces have changes to
//! push) and as `requests`, each of which is answered exactly once.
//!
//! `landfall_protocol::client` makes the decisions; the link owns the socket, the clock and the effects. It
//! never touches a loaded document.

mod arrivals;
mod calls;
mod commands;
mod ephemeral_queue;
mod identity;
mod oversized;
mod perform;
mod received;
mod requests;
mod run;
mod session;
mod socket;
#[cfg(test)]
mod tests;
mod timings;

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use landfall_protocol::{DocumentId, SpaceName};
use parking_lot::Mutex;

use crate::error::ConnectError;
use crate::open_store::OpenStore;
use crate::options::LinkOptions;
use crate::signals::LinkSignals;
use crate::status::LinkStatus;
use crate::store::SpaceRow;
use crate::threads::StoreThread;

use arrivals::Arrivals;
pub(crate) use calls::{Check, Flush};
use commands::{Accepted, LinkCommands, RelayTarget};
pub(crate) use ephemeral_queue::EphemeralRejection;
pub(crate) use received::Publisher;

/// The handle of the link.
pub(crate) struct Link {
    /// The name of this opening's session of ephemeral messages.
    session: String,
    commands: Arc<LinkCommands>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Link {
    /// A link without a relay, and without a thread.
    pub(crate) fn new(session: String) -> Self {
        Self { session, commands: Arc::default(), thread: Mutex::default() }
    }

    /// The receiver of the store's signals to this link.
    pub(crate) fn signals(&self) -> Arc<dyn LinkSignals> {
        Arc::clone(&self.commands) as Arc<dyn LinkSignals>
    }

    /// Publishes what this store receives.
    pub(crate) fn publisher(&self, store: &Arc<OpenStore>) -> Publisher {
        Publisher { store: Arc::clone(store), commands: Arc::clone(&self.commands) }
    }

    /// Sets the relay, and goes online. Starts the thread if there is none.
    pub(crate) fn connect(
        &self,
        store: &Arc<OpenStore>,
        options: LinkOptions,
    ) -> Result<(), ConnectError> {
        let target = Arc::new(RelayTarget::new(options)?);
        if let Some(space) = &target.address.space
            && !store.spaces().iter().any(|(name, _)| name == space)
        {
            // Otherwise the documents of another space would appear in the space that the URL names.
            let what = format!(
                "it names the space `{space}`, which this store does not have; open it first"
            );
            return Err(ConnectError::BadUrl { url: target.address.url.clone(), what });
        }
        let mut thread = self.thread.lock();
        loop {
            if self.commands.is_closing() {
                return Err(ConnectError::Closed);
            }
            if self.commands.begin_again()
                && let Some(ended) = thread.take()
            {
                // It takes no lock of this link any more, and its panic was reported.
                let _ = ended.join();
            }
            if thread.is_none() {
                *thread = Some(self.start(store).map_err(ConnectError::Thread)?);
            }
            // Before the link's thread can act on it: the status of another relay ends here.
            store.context.status.set_link(LinkStatus::Connecting { attempt: 1 }, None);
            store.context.status.forget_url();
            match self.commands.connect(&target) {
                Accepted::Yes => return Ok(()),
                Accepted::Closing => return Err(ConnectError::Closed),
                Accepted::Ended => {}
            }
        }
    }

    fn start(&self, store: &Arc<OpenStore>) -> std::io::Result<JoinHandle<()>> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let arrivals = Arrivals::start(Arc::clone(&store.threads))?;
        let (store, commands) = (Arc::clone(store), Arc::clone(&self.commands));
        let session = self.session.clone();
        std::thread::Builder::new().name("landfall-link".to_owned()).spawn(move || {
            let (for_runner, for_commands) = (Arc::clone(&store), Arc::clone(&commands));
            // The runtime and the socket end with the thread.
            let run = move || {
                runtime
                    .block_on(run::Runner::new(for_runner, for_commands, arrivals, session).run());
            };
            // However the thread ends, every request is answered, and the status shows the end.
            match store.threads.contain(StoreThread::Link, run) {
                Ok(()) => commands.requests.close(),
                Err(what) => commands.end(|| {
                    store.context.status.set_link_ended(&what);
                    commands.requests.end(&store);
                }),
            }
        })
    }

    /// Queues an ephemeral message; `number` assigns its number among those of the store.
    pub(crate) fn send_ephemeral(
        &self,
        space: &SpaceName,
        document: DocumentId,
        data: Vec<u8>,
        number: impl FnOnce() -> u64,
    ) -> Result<(), EphemeralRejection> {
        self.commands.ephemeral_queue.add(space, document, data, number)?;
        self.commands.wake.notify_one();
        Ok(())
    }

    pub(crate) fn set_online(&self, online: bool) {
        self.commands.set_online(online);
    }

    pub(crate) fn reconnect_now(&self) {
        self.commands.reconnect_now();
    }

    /// The filter of a space has changed in the store.
    pub(crate) fn filter(&self, row: SpaceRow) {
        self.commands.filter(row);
    }

    /// The application wants the changes of a rejected document pushed again.
    pub(crate) fn retried(&self, row: SpaceRow, document: DocumentId) {
        self.commands.retried(row, document);
    }

    /// Begins a flush: its targets are fixed now.
    pub(crate) fn flush(&self, store: &Arc<OpenStore>, timeout: Duration) -> Flush {
        Flush::begin(store, &self.commands, timeout)
    }

    /// Begins a check of every present space.
    pub(crate) fn check(&self, store: &Arc<OpenStore>) -> Check {
        Check::begin(store, &self.commands)
    }

    /// How many requests are not answered yet.
    #[cfg(test)]
    pub(crate) fn open_requests(&self) -> usize {
        self.commands.requests.open()
    }

    /// Says goodbye to the relay, ends the threads and waits for them. Every request is answered.
    pub(crate) fn close(&self) {
        self.commands.close();
        let thread = self.thread.lock().take();
        if let Some(thread) = thread
            // No application code runs on it; but a thread that joins itself would never end.
            && thread.thread().id() != std::thread::current().id()
        {
            // The panic hook has reported the thread's panic; closing continues.
            let _ = thread.join();
        }
        self.commands.requests.close();
    }
}
