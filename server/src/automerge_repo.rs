//! Sessions of automerge-repo clients: one task for each WebSocket executes the effects of
//! `landfall_protocol::automerge_repo`. A second task writes.
//!
//! It must not know what a change is, nor touch the store's tables. It never loads a document: answers are
//! planned from the document's index.

mod inbound;
mod peers;
mod push_queue;
mod remote_heads;
mod sending;
mod sync_answers;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use futures_util::StreamExt;
use hyper::upgrade::OnUpgrade;
use landfall_protocol::automerge_repo::peer::{Effect, EphemeralMessage, Host, MemoryAnswer, Peer};
use landfall_protocol::{Code, DocumentId, Moment, SessionId, SpaceName, Upstream};
use sha2::{Digest, Sha256};
use tokio::sync::{Notify, mpsc};
use tokio::time::sleep_until;
use tracing::{Instrument, Span, debug, info, info_span, warn};

use crate::compaction::Compactor;
use crate::fan_out::{Broadcast, Delivery, Mailbox};
use crate::hub::{Event, HubChannel};
use crate::limits;
use crate::memory::{Account, Class, Grant};
use crate::session::meter::Meter;
use crate::session::socket::{SocketRead, Stream};
use crate::session::writer::{Outgoing, Watch, WriteEnd, Writing};
use crate::session::{CLOSE_BASE, CLOSE_NORMAL, CLOSE_TOO_BIG, RelayState, room, socket, writer};
use peers::Peers;
use push_queue::{ItemResult, PushQueue};
use remote_heads::RemoteHeadsTable;
use sync_answers::{SyncAnswer, SyncAnswers};

/// State shared by all automerge-repo sessions.
pub(crate) struct Common {
    compactor: Arc<Compactor>,
    peers: Arc<Peers>,
    remote_heads: RemoteHeadsTable,
}

impl Common {
    pub(crate) fn new(compactor: Arc<Compactor>) -> Self {
        Self { compactor, peers: Arc::default(), remote_heads: RemoteHeadsTable::default() }
    }
}

/// The relay's identity towards the clients of a space. Each space has its own storage id: a peer records
/// under it the heads that it shares with us, and another space may have other changes of the same
/// document.
fn host(upstream: Upstream, space: &SpaceName) -> Host {
    let mut hash = Sha256::new();
    hash.update(b"landfall automerge-repo storage");
    hash.update(upstream.as_bytes());
    hash.update(space.as_str());
    let hash = hash.finalize();
    let mut id = [0; 16];
    id.copy_from_slice(&hash[..16]);
    // Version 8 (RFC 9562): its content is free.
    let storage_id = uuid::Builder::from_custom_bytes(id).into_uuid().to_string();
    let peer_id = format!("landfall-relay-{}", &upstream.to_string()[..16]);
    Host { peer_id, storage_id }
}

/// Runs a session from the accepted upgrade until its connection is closed.
pub(crate) async fn run(
    shared: Arc<RelayState>,
    id: SessionId,
    peer: SocketAddr,
    space: SpaceName,
    upgrade: OnUpgrade,
) {
    let span = info_span!("repo", session = id.0, %peer, %space, peer_id = tracing::field::Empty);
    async move {
        let upgraded = match upgrade.await {
            Ok(upgraded) => upgraded,
            Err(error) => return debug!(%error, "the connection broke before its upgrade"),
        };
        let account = shared.account(id, peer);
        let meter = Meter::new(account.clone(), socket::REPO);
        let metrics = Arc::clone(&shared.metrics);
        let opened = socket::open_repo(upgraded, metrics, Arc::clone(&meter));
        let (socket, written) = opened.await;
        let (sink, stream) = socket.split();
        let (stall, metrics) = (shared.stall, Arc::clone(&shared.metrics));
        let watch = Watch { written, stall, metrics, account: account.clone() };
        let (feed, writing) = writer::start(sink, watch);
        debug!("automerge-repo session opened");
        let mut driver = Driver::new(Arc::clone(&shared), id, space, (account, meter), feed);
        let ending = driver.drive(stream, writing).await;
        shared.metrics.session_ended(ending);
        info!(code = %ending, "automerge-repo session closed");
    }
    .instrument(span)
    .await;
}

/// A session's registrations, removed when the session is dropped, however it ends.
struct Registrations {
    shared: Arc<RelayState>,
    id: SessionId,
    space: SpaceName,
}

impl Drop for Registrations {
    fn drop(&mut self) {
        // Leaving the fan-out first: the hub keeps a space in memory while it has subscribers.
        self.shared.fan_out.remove(self.id);
        self.shared.repairs.gone(self.id);
        self.shared.hub.leave(self.id);
        self.shared.automerge_repo.peers.leave(&self.space, self.id);
        self.shared.automerge_repo.remote_heads.leave(&self.space, self.id);
        self.shared.metrics.sessions.dec();
    }
}

/// How a session ends.
enum Ending {
    /// The machine ended it: send the queued frames, then this close frame.
    Closing(Code, u16, String),
    /// The connection is gone: nothing can be sent.
    Lost(Code),
}

/// The task's own state.
struct Driver {
    shared: Arc<RelayState>,
    id: SessionId,
    space: SpaceName,
    machine: Peer,
    start: Instant,
    outbox: VecDeque<Outgoing>,
    outbox_bytes: usize,
    push_queue: PushQueue,
    sync_answers: SyncAnswers,
    mailbox: Arc<Mailbox>,
    account: Account,
    /// The memory of the machine's state, in the steps in which it grew.
    state_room: Vec<Grant>,
    meter: Arc<Meter>,
    /// When it was last checked whether messages that hold memory make progress.
    looked: Instant,
    /// Bytes received when the peer's silence was last checked.
    bytes_before: u64,
    channel: HubChannel,
    events: mpsc::Receiver<Event>,
    remote_heads: remote_heads::Hears,
    remote_heads_in: remote_heads::HeadsListener,
    /// Notified when another connection takes the peer id over.
    replaced: Arc<Notify>,
    delivered: Moment,
    writer: Option<mpsc::Sender<Outgoing>>,
    ending: Option<Ending>,
    stopping: Option<Instant>,
    has_joined_hub: bool,
    /// Number of rejections.
    refusals: u32,
    /// The memory of the answer or news that the machine currently turns into a message.
    answer_room: Option<Grant>,
    /// The last field, so that it is dropped after everything else.
    _places: Registrations,
}

/// An input of the session.
enum Happening {
    Evicted,
    /// A message has its memory: the deadline has changed.
    Holding,
    Event(Option<Event>),
    Overflow,
    ItemResult(ItemResult),
    Room,
    SyncAnswer(Option<SyncAnswer>),
    Written(WriteEnd),
    SocketRead(SocketRead),
    Delivery,
    RemoteHeadsTable(Option<remote_heads::HeadsDelivery>),
    Replaced,
    Time,
    Stopping,
}

impl Driver {
    fn new(
        shared: Arc<RelayState>,
        id: SessionId,
        space: SpaceName,
        (account, meter): (Account, Arc<Meter>),
        writer: mpsc::Sender<Outgoing>,
    ) -> Self {
        shared.metrics.sessions.inc();
        let connection_slots =
            Registrations { shared: Arc::clone(&shared), id, space: space.clone() };
        let (events_in, events) = mpsc::channel(2 * limits::REPO_PUSH_QUEUE);
        let (remote_heads_in, remote_heads) = remote_heads::listener();
        let (overflow, grown) = (Arc::new(Notify::new()), Arc::default());
        let host = host(shared.upstream, &space);
        Self {
            id,
            machine: Peer::new(host, shared.patience, Moment::default()),
            start: Instant::now(),
            outbox: VecDeque::new(),
            outbox_bytes: 0,
            push_queue: PushQueue::new(&shared, id, space.clone(), account.clone()),
            sync_answers: SyncAnswers::new(&shared, space.clone(), account.clone()),
            mailbox: Mailbox::new(id, account.clone()),
            account,
            state_room: Vec::new(),
            meter,
            looked: Instant::now(),
            bytes_before: 0,
            channel: HubChannel { events: events_in, overflow, grown },
            events,
            remote_heads,
            remote_heads_in,
            replaced: Arc::default(),
            delivered: Moment::default(),
            writer: Some(writer),
            ending: None,
            stopping: None,
            has_joined_hub: false,
            refusals: 0,
            answer_room: None,
            _places: connection_slots,
            space,
            shared,
        }
    }

    fn now(&self) -> Moment {
        Moment(self.start.elapsed())
    }

    /// Runs the session to its end; returns its code.
    async fn drive(&mut self, mut stream: Stream, mut writing: Writing) -> Code {
        let ending = loop {
            self.perform();
            if let Some(ending) = self.ending.take() {
                break ending;
            }
            let happening = self.next(&mut stream, &mut writing).await;
            self.handle(happening);
        };
        match ending {
            Ending::Closing(code, close, what) => {
                self.close(code, close, &what, stream, writing).await;
                code
            }
            Ending::Lost(code) => {
                writing.abort();
                code
            }
        }
    }

    /// Waits for the next input. While the peer does not read, sources of new outbound data are not polled:
    /// the data waits in bounded queues.
    async fn next(&mut self, stream: &mut Stream, writing: &mut Writing) -> Happening {
        let (makes, reads) = (self.makes(), self.reads());
        let sends = !self.outbox.is_empty();
        // While the machine paces, items gather in the mailbox: a wake-up for each would cost more than its
        // sending.
        let hears = makes && !self.machine.is_pacing(self.now());
        let deadline = self.deadline();
        let mut stopping = self.shared.stopping.clone();
        let stopped = self.stopping.is_some();
        tokio::select! {
            // Answers wait too: each makes the machine send the answered changes, with all others that have
            // become durable.
            event = self.events.recv(), if makes => Happening::Event(event),
            () = self.channel.overflow.notified() => Happening::Overflow,
            () = self.account.evicted() => Happening::Evicted,
            () = self.meter.holding() => Happening::Holding,
            done = self.push_queue.done() => Happening::ItemResult(done),
            () = room(self.writer.as_ref()), if sends => Happening::Room,
            reply = self.sync_answers.reply(), if makes => Happening::SyncAnswer(reply),
            end = writing => Happening::Written(end.map_or(WriteEnd::Gone, |(end, _)| end)),
            heard = stream.next(), if reads => Happening::SocketRead(heard.into()),
            () = self.mailbox.wait(), if hears => Happening::Delivery,
            news = self.remote_heads.recv(), if makes => Happening::RemoteHeadsTable(news),
            () = self.replaced.notified() => Happening::Replaced,
            () = sleep_until(deadline.into()) => Happening::Time,
            // An error means that the server is gone, which is a stop as well.
            () = async { drop(stopping.wait_for(|stop| *stop).await) }, if !stopped => {
                Happening::Stopping
            }
        }
    }

    /// Whether the peer reads what it is sent.
    fn makes(&self) -> bool {
        let few = self.outbox.len() < limits::REPO_OUTBOX;
        few && self.outbox_bytes < limits::REPO_OUTBOX_BYTES
    }

    /// Whether the session can take more messages from the peer.
    fn reads(&self) -> bool {
        let has_room = self.push_queue.has_room() && self.sync_answers.has_room();
        self.makes() && self.stopping.is_none() && has_room
    }

    fn handle(&mut self, happening: Happening) {
        self.machine.handle_clock(self.now());
        match happening {
            Happening::Holding => {}
            Happening::Event(Some(Event::Answered(answer))) => {
                // The pushed entries were published before the answer, so take them from the mailbox first.
                self.take_news();
                self.push_queue.handle_answered();
                self.machine.handle_answer(&answer);
            }
            Happening::Event(_) => {}
            Happening::Evicted => self.forgo(),
            Happening::Overflow => {
                let what = "the session did not read its answers".to_owned();
                self.machine.fail(Code::OVERLOADED, what);
            }
            Happening::ItemResult(done) => self.handle_done(done),
            Happening::Room => self.send_next(),
            Happening::SyncAnswer(reply) => {
                reply.into_iter().for_each(|reply| self.handle_reply(reply))
            }
            Happening::Written(end) => self.handle_written(&end),
            Happening::SocketRead(heard) => self.handle_heard(heard),
            Happening::Delivery => self.take_news(),
            Happening::RemoteHeadsTable(news) => {
                let bytes =
                    |news: &remote_heads::HeadsDelivery| news.heads.iter().map(String::len).sum();
                if let Some(news) = news {
                    self.pass_on(bytes(&news), |machine| machine.handle_remote_heads(&news));
                }
            }
            Happening::Replaced => {
                let what = "another connection joined with the same peer id".to_owned();
                self.machine.fail(Code::GOODBYE, what);
            }
            Happening::Time => self.handle_time(),
            Happening::Stopping => {
                self.stopping = Some(Instant::now() + limits::ANSWER_GRACE);
                self.push_queue.drop_waiting();
            }
        }
        self.account_for_state();
        if self.stopping.is_some() && self.push_queue.is_settled() {
            self.stop();
        }
    }

    fn handle_reply(&mut self, reply: SyncAnswer) {
        let SyncAnswer { ticket, planned, room } = reply;
        self.answer_room = room;
        self.machine.handle_planned(ticket, planned);
        self.perform();
        self.answer_room = None;
    }

    fn take_news(&mut self) {
        let (news, behind) = self.mailbox.take();
        for news in news {
            match news {
                Delivery::Entry(commit, at) => match commit.entries.get(at).map(|new| &new.entry) {
                    // A large entry is read from the store instead, once its memory is reserved.
                    Some(entry) if entry.body.len() > limits::ANSWER_BYTES => {
                        self.machine.handle_behind_with(entry.document);
                    }
                    _ => self.machine.handle_entry(&commit, at),
                },
                Delivery::ResendRequest(_, request) => {
                    if !self.machine.handle_lost(request.document) {
                        self.resent(request.document, false);
                    }
                }
                Delivery::Repaired(_, document) => self.machine.handle_repaired(document),
                Delivery::Ephemeral(message) | Delivery::FilteredEphemeral(_, message) => {
                    let Broadcast { document, sender, session, count, data } = &*message;
                    let (sender, session) = (sender.clone(), session.clone());
                    let (document, count, data) = (*document, *count, data.clone());
                    let saying = EphemeralMessage { document, sender, session, count, data };
                    self.pass_on(saying.data.len(), |machine| machine.send_ephemeral(&saying));
                }
            }
        }
        if behind {
            debug!("entries arrived faster than they were forwarded; reading the store again");
            self.machine.handle_behind();
        }
    }

    /// Forwards droppable data of `bytes` bytes, if there is memory for it.
    fn pass_on(&mut self, bytes: usize, tell: impl FnOnce(&mut Peer)) {
        // Earlier effects come first.
        self.perform();
        if bytes > limits::SOCKET_BUFFER_BYTES {
            self.answer_room = self.account.try_reserve(Class::Answer, 2 * bytes);
            if self.answer_room.is_none() {
                return debug!(bytes, "no memory to forward data; it is dropped");
            }
        }
        tell(&mut self.machine);
        self.perform();
        self.answer_room = None;
    }

    /// The machine's next effect. Delivery becomes messages only while the peer reads, and only with memory for
    /// it.
    fn next_effect(&mut self) -> Option<Effect> {
        let (makes, account, room) = (self.makes(), &self.account, &mut self.answer_room);
        self.machine.poll_effect_within(|bytes| {
            if !makes {
                return MemoryAnswer::Later;
            }
            // Twice: as it is encoded, and in the socket's buffer; with its envelope.
            let needs = 2 * (bytes + limits::SOCKET_BUFFER_BYTES / 2);
            *room = (bytes > limits::SOCKET_BUFFER_BYTES / 2)
                .then(|| account.try_reserve(Class::Answer, needs))
                .flatten();
            match room.is_some() || bytes <= limits::SOCKET_BUFFER_BYTES / 2 {
                true => MemoryAnswer::There,
                false => MemoryAnswer::NotNow,
            }
        })
    }

    fn send(&mut self, message: Vec<u8>) {
        let mut room = self.answer_room.take();
        if room.is_none() && message.len() > limits::SOCKET_BUFFER_BYTES {
            room = self.account.try_reserve(Class::Answer, 2 * message.len());
            if room.is_none() {
                let what = "the relay has no memory for its answer".to_owned();
                return self.machine.fail(Code::OVERLOADED, what);
            }
        }
        self.outbox_bytes += message.len();
        self.outbox.push_back(match room {
            Some(room) => Outgoing::MessageGrant(message, room),
            None => Outgoing::Frames(message),
        });
    }

    /// Executes the machine's effects.
    fn perform(&mut self) {
        while let Some(effect) = self.next_effect() {
            match effect {
                Effect::Send(message) => self.send(message),
                Effect::Ping => self.outbox.push_back(Outgoing::Ping),
                Effect::Joined(remote) => self.join(&remote),
                Effect::Follow(document) => {
                    self.shared.fan_out.subscribe(&self.space, document, &self.mailbox);
                    self.shared.repairs.opens(&self.space, &document);
                }
                Effect::Check(ticket, chunks) => self.push_queue.check(ticket, chunks),
                Effect::Push(push) => self.push_queue.push(push),
                Effect::PushWhole { id, document, bytes } => {
                    self.push_queue.push_whole(id, document, bytes);
                }
                Effect::Plan(ticket, question) => self.sync_answers.ask(ticket, question),
                Effect::Say(message) => self.say(message),
                Effect::Subscribe(storages) => {
                    let (space, news) = (&self.space, &self.remote_heads_in);
                    self.shared
                        .automerge_repo
                        .remote_heads
                        .subscribe(space, self.id, storages, news);
                }
                Effect::Unsubscribe(storages) => {
                    self.shared.automerge_repo.remote_heads.unsubscribe(
                        &self.space,
                        self.id,
                        storages,
                    );
                }
                Effect::RemoteHeadsTable(news) => {
                    let from = (self.id, self.account.share());
                    self.shared.automerge_repo.remote_heads.tell(&self.space, from, news);
                }
                Effect::Resent { document, brought } => self.resent(document, brought),
                Effect::Refused { document, code, changes, what } => {
                    self.shared.metrics.rejected(code);
                    self.refusals = self.refusals.saturating_add(1);
                    match self.refusals <= limits::REPO_REFUSALS_TOLD {
                        true => warn!(%document, %code, changes, what, "changes were rejected"),
                        false => debug!(%document, %code, changes, what, "changes were rejected"),
                    }
                }
                Effect::Ignored(what) => debug!(what, "ignored"),
                Effect::End(code, what) => self.end(code, what),
            }
        }
    }

    fn join(&mut self, remote: &landfall_protocol::automerge_repo::peer::Remote) {
        if self.has_joined_hub {
            debug!(peer_id = remote.peer_id, "the client joined again");
            // Answers for the client's previous join do not apply to the new one.
            let (space, account) = (self.space.clone(), self.account.clone());
            self.sync_answers = SyncAnswers::new(&self.shared, space, account);
        } else {
            // Recorded once only: a second value would appear beside the first in every log line.
            Span::current().record("peer_id", remote.peer_id.as_str());
            info!("automerge-repo client joined");
        }
        self.shared.fan_out.remove(self.id);
        self.shared.automerge_repo.remote_heads.leave(&self.space, self.id);
        let storage = remote.storage_id.as_deref();
        self.push_queue.name_author(storage, &remote.peer_id);
        let replaced = Arc::clone(&self.replaced);
        self.shared.automerge_repo.peers.join(&self.space, &remote.peer_id, self.id, replaced);
        if !self.has_joined_hub {
            self.has_joined_hub = true;
            self.push_queue.join(self.channel.clone());
        }
    }

    /// The client has answered a repair request.
    fn resent(&self, document: DocumentId, brought: bool) {
        self.shared.repairs.answered(self.id, &self.space, &document, u32::from(brought));
    }

    fn say(&self, message: EphemeralMessage) {
        let EphemeralMessage { document, sender, session, count, data } = message;
        let message = Broadcast { document, sender, session, count, data };
        if !self.shared.fan_out.publish_ephemeral(&self.mailbox, &self.space, message) {
            debug!(%document, "an ephemeral message was repeated or too large");
        }
    }

    fn end(&mut self, code: Code, what: String) {
        let close = match code {
            Code::GOODBYE => CLOSE_NORMAL,
            code => CLOSE_BASE + code.0,
        };
        match code {
            Code::GOODBYE | Code::SHUTTING_DOWN => debug!(what, "the session ends"),
            code => warn!(%code, what, "the relay ends the session"),
        }
        self.ending.get_or_insert(Ending::Closing(code, close, what));
    }

    fn stop(&mut self) {
        while let Ok(event) = self.events.try_recv() {
            self.handle_late(event);
        }
        let ended = self.shared.store.condition().end();
        let stopped = || (Code::SHUTTING_DOWN, "the relay is being stopped".to_owned());
        let (code, what) = ended.unwrap_or_else(stopped);
        self.machine.fail(code, what);
    }

    fn handle_late(&mut self, event: Event) {
        if let Event::Answered(answer) = event {
            if self.makes() {
                self.take_news();
            }
            self.machine.handle_answer(&answer);
        }
    }

    fn deadline(&self) -> Instant {
        let timeout = self.start.checked_add(self.machine.deadline().0);
        let mut timeout =
            timeout.unwrap_or_else(|| Instant::now() + self.shared.patience.drop_after);
        // Counted from the last check: messages that arrive meanwhile do not defer it.
        if self.meter.is_holding() {
            timeout = timeout.min(self.looked + limits::PRESSED_LOOK);
        }
        self.stopping.map_or(timeout, |grace| grace.min(timeout))
    }

    fn lose(&mut self, code: Code, why: &str) {
        debug!(why, "the connection is gone");
        self.ending = Some(Ending::Lost(code));
    }

    fn handle_written(&mut self, end: &WriteEnd) {
        match end {
            WriteEnd::Stalled => {
                warn!(stall = ?self.shared.stall, "the peer does not read; dropping it");
                self.lose(Code::NOT_READING, "the peer read no byte");
            }
            WriteEnd::Gone | WriteEnd::Finished => self.lose(Code::GOODBYE, "a write failed"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_space_has_its_own_stable_storage_id() {
        let upstream = Upstream::from_bytes([7; 16]);
        let name = |text: &str| text.parse::<SpaceName>().unwrap();
        let (first, second) = (host(upstream, &name("a")), host(upstream, &name("b")));
        assert_eq!(first, host(upstream, &name("a")));
        assert_ne!(first.storage_id, second.storage_id);
        assert_eq!(first.peer_id, second.peer_id);
        assert_eq!(first.storage_id.len(), 36);
    }
}
