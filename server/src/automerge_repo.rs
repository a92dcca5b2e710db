//! Sessions of automerge-repo clients: one task for each WebSocket performs the decisions of
//! `landfall_protocol::automerge_repo`.
//!
//! It must not know what a change is, nor touch the store's tables. It never loads a document: answers are
//! planned from the document's index.

mod inbound;
mod peers;
mod push_queue;
mod remote_heads;
mod sync_answers;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;

use hyper::upgrade::OnUpgrade;
use landfall_protocol::automerge_repo::peer::{Effect, EphemeralMessage, Host, MemoryAnswer, Peer};
use landfall_protocol::{
    Code, DocumentId, Moment, SessionId, SpaceName, Upstream, limits as shared_limits,
};
use sha2::{Digest, Sha256};
use tokio::sync::Notify;
use tracing::{Instrument, Span, debug, info, info_span, warn};

use crate::compaction::Compactor;
use crate::connection::{
    self, Connection, Driver, Input, MessageSizes, Outgoing, Ready, RelayState, SocketRead, drive,
};
use crate::fan_out::{Broadcast, Delivery, Mailbox};
use crate::hub::Event;
use crate::limits;
use crate::memory::{Class, Grant};
use peers::Peers;
use push_queue::{ItemResult, PushQueue};
use remote_heads::RemoteHeadsTable;
use sync_answers::{SyncAnswer, SyncAnswers, SyncReader};

/// State shared by all automerge-repo sessions.
pub(crate) struct SharedState {
    /// The state that they share with all other sessions.
    relay: Arc<RelayState>,
    compactor: Arc<Compactor>,
    peers: Peers,
    remote_heads: RemoteHeadsTable,
}

impl SharedState {
    pub(crate) fn new(relay: Arc<RelayState>, compactor: Arc<Compactor>) -> Arc<Self> {
        let (peers, remote_heads) = Default::default();
        Arc::new(Self { relay, compactor, peers, remote_heads })
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
    // A UUID of version 8 (RFC 9562), whose content is free.
    id[6] = id[6] & 0x0f | 0x80;
    id[8] = id[8] & 0x3f | 0x80;
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let parts = [&id[..4], &id[4..6], &id[6..8], &id[8..10], &id[10..]].map(hex);
    let peer_id = format!("landfall-relay-{}", &upstream.to_string()[..16]);
    Host { peer_id, storage_id: parts.join("-") }
}

/// Message sizes of automerge-repo, which may be large: the message as received, its changes, and a copy of
/// the unanswered ones.
const SIZES: MessageSizes = MessageSizes {
    largest: shared_limits::REPO_MESSAGE_BYTES,
    times: 3,
    buffer: limits::REPO_BUFFER_BYTES,
    backlog: limits::REPO_BACKLOG_BYTES,
};

/// Runs a session from the accepted upgrade until its connection is closed.
pub(crate) async fn run(
    shared: Arc<SharedState>,
    id: SessionId,
    peer: SocketAddr,
    space: SpaceName,
    upgrade: OnUpgrade,
) {
    let span = info_span!("repo", session = id.0, %peer, %space, peer_id = tracing::field::Empty);
    async move {
        let (relay, events) = (Arc::clone(&shared.relay), 2 * limits::REPO_PUSH_QUEUE);
        let opened = Connection::open(relay, (id, peer), upgrade, SIZES, events).await;
        let Some(connection) = opened else { return };
        debug!("automerge-repo session opened");
        let ending = drive(RepoDriver::new(shared, connection, space)).await;
        info!(code = %ending, "automerge-repo session closed");
    }
    .instrument(span)
    .await;
}

/// A session's registrations beside the connection's, removed when the session is dropped, however it ends.
struct Registrations {
    shared: Arc<SharedState>,
    id: SessionId,
    space: SpaceName,
}

impl Drop for Registrations {
    fn drop(&mut self) {
        self.shared.relay.fan_out.remove(self.id);
        self.shared.peers.leave(&self.space, self.id);
        self.shared.remote_heads.leave(&self.space, self.id);
    }
}

/// The session's own state.
struct RepoDriver {
    shared: Arc<SharedState>,
    space: SpaceName,
    machine: Peer,
    outbox: VecDeque<Outgoing>,
    outbox_bytes: usize,
    push_queue: PushQueue,
    sync_answers: SyncAnswers,
    mailbox: Arc<Mailbox>,
    /// The memory of the machine's state, in the steps in which it grew.
    state_room: Vec<Grant>,
    /// Bytes received when the peer's silence was last checked.
    bytes_before: u64,
    remote_heads: remote_heads::Hears,
    remote_heads_in: remote_heads::HeadsListener,
    /// Notified when another connection takes the peer id over.
    replaced: Arc<Notify>,
    has_joined_hub: bool,
    /// Number of rejections.
    refusals: u32,
    /// The memory of the answer or delivery that the machine currently turns into a message.
    answer_room: Option<Grant>,
    /// The last fields, in this order: the hub keeps a space in memory while it has subscribers, so the
    /// session leaves the fan-out before the hub.
    _registrations: Registrations,
    connection: Connection,
}

/// An input of the session.
enum Happening {
    Connection(Input),
    ItemResult(ItemResult),
    SyncAnswer(Option<SyncAnswer>),
    Delivery,
    RemoteHeads(Option<remote_heads::HeadsDelivery>),
    Replaced,
}

impl Driver for RepoDriver {
    fn connection(&mut self) -> &mut Connection {
        &mut self.connection
    }

    fn perform(&mut self) {
        while let Some(effect) = self.next_effect() {
            self.perform_effect(effect);
        }
    }

    async fn step(&mut self) {
        let happening = self.next().await;
        self.machine.handle_clock(self.connection.now());
        self.handle(happening);
        self.account_for_state();
    }

    /// The protocol has no place for a hint.
    fn fail(&mut self, code: Code, what: String, _hint: &str) {
        self.machine.fail(code, what);
    }

    fn handle_event(&mut self, event: Event) {
        if let Event::Answered(answer) = event {
            // The pushed entries were published before the answer, so take them from the mailbox first.
            if self.makes() {
                self.take_news();
            }
            self.push_queue.handle_answered();
            self.machine.handle_answer(&answer);
        }
    }

    fn handle_read(&mut self, read: SocketRead) {
        self.handle_socket(read);
    }

    fn handle_evicted(&mut self) {
        self.forgo();
    }

    fn handle_time(&mut self) {
        self.check_progress();
    }

    fn next_message(&mut self) -> Option<Outgoing> {
        let next = self.outbox.pop_front()?;
        self.outbox_bytes -= next.bytes().min(self.outbox_bytes);
        Some(next)
    }

    fn drop_waiting(&mut self) {
        self.push_queue.drop_waiting();
    }

    fn is_settled(&self) -> bool {
        self.push_queue.is_settled()
    }

    fn into_farewell(self) -> (Connection, Vec<Outgoing>) {
        (self.connection, self.outbox.into())
    }
}

impl RepoDriver {
    fn new(shared: Arc<SharedState>, connection: Connection, space: SpaceName) -> Self {
        let Connection { relay, id, account, .. } = &connection;
        let (remote_heads_in, remote_heads) = remote_heads::listener();
        let host = host(relay.upstream, &space);
        let reader = SyncReader::new(&shared, space.clone(), account.clone());
        Self {
            machine: Peer::new(host, relay.patience, Moment::default()),
            outbox: VecDeque::new(),
            outbox_bytes: 0,
            push_queue: PushQueue::new(relay, *id, reader.clone()),
            sync_answers: SyncAnswers::new(reader),
            mailbox: Mailbox::new(*id, account.clone()),
            state_room: Vec::new(),
            bytes_before: 0,
            remote_heads,
            remote_heads_in,
            replaced: Arc::default(),
            has_joined_hub: false,
            refusals: 0,
            answer_room: None,
            _registrations: Registrations {
                shared: Arc::clone(&shared),
                id: *id,
                space: space.clone(),
            },
            space,
            shared,
            connection,
        }
    }

    /// Waits for the next input. While the peer does not read, sources of new outbound data are not polled:
    /// the data waits in bounded queues.
    async fn next(&mut self) -> Happening {
        let makes = self.makes();
        // While the machine paces, items gather in the mailbox: a wake-up for each would cost more than its
        // sending.
        let takes_deliveries = makes && !self.machine.is_pacing(self.connection.now());
        let ready = Ready {
            // Answers wait too: each makes the machine send the answered changes, with all others that have
            // become durable.
            events: makes,
            reads: self.reads(),
            sends: !self.outbox.is_empty(),
            holds: false,
            timeout: self.machine.deadline(),
        };
        tokio::select! {
            input = self.connection.input(ready) => Happening::Connection(input),
            done = self.push_queue.done() => Happening::ItemResult(done),
            reply = self.sync_answers.reply(), if makes => Happening::SyncAnswer(reply),
            () = self.mailbox.wait(), if takes_deliveries => Happening::Delivery,
            news = self.remote_heads.recv(), if makes => Happening::RemoteHeads(news),
            () = self.replaced.notified() => Happening::Replaced,
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
        self.makes() && !self.connection.is_stopping() && has_room
    }

    fn handle(&mut self, happening: Happening) {
        match happening {
            Happening::Connection(input) => connection::handle(self, input),
            Happening::ItemResult(done) => self.handle_done(done),
            Happening::SyncAnswer(reply) => {
                reply.into_iter().for_each(|reply| self.handle_reply(reply))
            }
            Happening::Delivery => self.take_news(),
            Happening::RemoteHeads(news) => {
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
            self.answer_room = self.connection.account.try_reserve(Class::Answer, 2 * bytes);
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
        let (makes, account, room) =
            (self.makes(), &self.connection.account, &mut self.answer_room);
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
            room = self.connection.account.try_reserve(Class::Answer, 2 * message.len());
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

    /// Performs an effect of the machine.
    fn perform_effect(&mut self, effect: Effect) {
        match effect {
            Effect::Send(message) => self.send(message),
            Effect::Ping => self.outbox.push_back(Outgoing::Ping),
            Effect::Joined(remote) => self.join(&remote),
            Effect::Follow(document) => {
                self.shared.relay.fan_out.subscribe(&self.space, document, &self.mailbox);
                self.shared.relay.repairs.opens(&self.space, &document);
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
                self.shared.remote_heads.subscribe(space, self.connection.id, storages, news);
            }
            Effect::Unsubscribe(storages) => {
                self.shared.remote_heads.unsubscribe(&self.space, self.connection.id, storages);
            }
            Effect::RemoteHeadsTable(news) => {
                let from = (self.connection.id, self.connection.account.share());
                self.shared.remote_heads.tell(&self.space, from, news);
            }
            Effect::Resent { document, brought } => self.resent(document, brought),
            Effect::Refused { document, code, changes, what } => {
                self.shared.relay.metrics.rejected(code);
                self.refusals = self.refusals.saturating_add(1);
                match self.refusals <= limits::REPO_REFUSALS_TOLD {
                    true => warn!(%document, %code, changes, what, "changes were rejected"),
                    false => debug!(%document, %code, changes, what, "changes were rejected"),
                }
            }
            Effect::Ignored(what) => debug!(what, "ignored"),
            Effect::End(code, what) => self.end(code, &what),
        }
    }

    fn join(&mut self, remote: &landfall_protocol::automerge_repo::peer::Remote) {
        if self.has_joined_hub {
            debug!(peer_id = remote.peer_id, "the client joined again");
            // Answers for the client's previous join do not apply to the new one.
            let (space, account) = (self.space.clone(), self.connection.account.clone());
            self.sync_answers = SyncAnswers::new(SyncReader::new(&self.shared, space, account));
        } else {
            // Recorded once only: a second value would appear beside the first in every log line.
            Span::current().record("peer_id", remote.peer_id.as_str());
            info!("automerge-repo client joined");
        }
        self.shared.relay.fan_out.remove(self.connection.id);
        self.shared.remote_heads.leave(&self.space, self.connection.id);
        let storage = remote.storage_id.as_deref();
        self.push_queue.name_author(storage, &remote.peer_id);
        let replaced = Arc::clone(&self.replaced);
        self.shared.peers.join(&self.space, &remote.peer_id, self.connection.id, replaced);
        if !self.has_joined_hub {
            self.has_joined_hub = true;
            self.push_queue.join(self.connection.channel.clone());
        }
    }

    /// The client has answered a repair request.
    fn resent(&self, document: DocumentId, brought: bool) {
        self.shared.relay.repairs.answered(
            self.connection.id,
            &self.space,
            &document,
            u32::from(brought),
        );
    }

    fn say(&self, message: EphemeralMessage) {
        let EphemeralMessage { document, sender, session, count, data } = message;
        let message = Broadcast { document, sender, session, count, data };
        if !self.shared.relay.fan_out.publish_ephemeral(&self.mailbox, &self.space, message) {
            debug!(%document, "an ephemeral message was repeated or too large");
        }
    }

    fn end(&mut self, code: Code, what: &str) {
        match code {
            Code::GOODBYE | Code::SHUTTING_DOWN => debug!(what, "the session ends"),
            code => warn!(%code, what, "the relay ends the session"),
        }
        self.connection.end(code, format!("{code}: {what}"));
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
