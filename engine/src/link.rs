//! The link: one thread for each store that has ever connected, which keeps a connection to the relay
//! that the application wants.
//!
//! It lives from the first `connect` to the end of the store, so that one session always ends before
//! the next begins, and all its state has one owner. Application threads never wait for it. They leave
//! their wishes on the `commands`, as states (which relay, online or not, which spaces have changes to
//! push) and as `requests`, each of which is answered exactly once.
//!
//! `protocol::replica` makes the decisions; the link owns the socket, the clock and the effects. It
//! never touches a loaded document.

mod arrivals;
mod commands;
mod ephemeral_queue;
mod perform;
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

use crate::core::Core;
use crate::error::ConnectError;
use crate::options::LinkOptions;
use crate::status::LinkStatus;
use crate::store::SpaceRow;
use crate::threads::StoreThread;

use arrivals::Arrivals;
use commands::{Accepted, LinkCommands, RelayTarget};
pub(crate) use ephemeral_queue::EphemeralRejection;
pub(crate) use requests::{Check, Flush};

/// The handle of the link.
pub(crate) struct Link {
    commands: Arc<LinkCommands>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Link {
    /// A link without a relay, and without a thread.
    pub(crate) fn new() -> Self {
        Self { commands: Arc::default(), thread: Mutex::default() }
    }

    /// Sets the relay, and goes online. Starts the thread if there is none.
    pub(crate) fn connect(
        &self,
        core: &Arc<Core>,
        options: LinkOptions,
    ) -> Result<(), ConnectError> {
        let target = Arc::new(RelayTarget::new(options)?);
        if let Some(space) = &target.address.space
            && !core.spaces().iter().any(|(name, _)| name == space)
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
                *thread = Some(self.start(core).map_err(ConnectError::Thread)?);
            }
            // Before the link's thread can act on it: the status of another relay ends here.
            core.status.set_link(LinkStatus::Connecting { attempt: 1 }, None);
            core.status.forget_url();
            match self.commands.connect(&target) {
                Accepted::Yes => return Ok(()),
                Accepted::Closing => return Err(ConnectError::Closed),
                Accepted::Ended => {}
            }
        }
    }

    fn start(&self, core: &Arc<Core>) -> std::io::Result<JoinHandle<()>> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let arrivals = Arrivals::start(Arc::clone(&core.threads))?;
        let (core, commands) = (Arc::clone(core), Arc::clone(&self.commands));
        std::thread::Builder::new().name("landfall-link".to_owned()).spawn(move || {
            let (for_runner, for_commands) = (Arc::clone(&core), Arc::clone(&commands));
            // The runtime and the socket end with the thread.
            let run = move || {
                runtime.block_on(run::Runner::new(for_runner, for_commands, arrivals).run());
            };
            // However the thread ends, every request is answered, and the status shows the end.
            match core.threads.contain(StoreThread::Link, run) {
                Ok(()) => commands.requests.close(),
                Err(what) => commands.end(|| {
                    core.status.set_link_ended(&what);
                    commands.requests.end(&core);
                }),
            }
        })
    }

    /// These spaces have changes to push.
    pub(crate) fn local(&self, rows: impl Iterator<Item = SpaceRow>) {
        self.commands.local(rows);
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

    /// Spaces of the store were added or removed.
    pub(crate) fn spaces_changed(&self) {
        self.commands.spaces_changed();
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

    /// Asks for a comparison of a space with the relay, without a request to wait for.
    pub(crate) fn check_space(&self, row: SpaceRow) {
        self.commands.check(row);
    }

    /// The application wants the changes of a rejected document pushed again.
    pub(crate) fn retried(&self, row: SpaceRow, document: DocumentId) {
        self.commands.retried(row, document);
    }

    /// Begins a flush: its targets are fixed now.
    pub(crate) fn flush(&self, core: &Arc<Core>, timeout: Duration) -> Flush {
        Flush::begin(core, &self.commands, timeout)
    }

    /// Begins a check of every present space.
    pub(crate) fn check(&self, core: &Arc<Core>) -> Check {
        Check::begin(core, &self.commands)
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
