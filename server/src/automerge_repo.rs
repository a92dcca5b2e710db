//! Sessions of automerge-repo clients: one task for each WebSocket performs the decisions of
//! `landfall_protocol::automerge_repo`.
//!
//! It must not know what a change is, nor touch the store's tables. It never loads a document: answers are
//! planned from the document's index.

mod access;
mod inbound;
mod peers;
mod performing;
mod push_queue;
mod remote_heads;
mod sync_answers;

use std::net::SocketAddr;
use std::sync::Arc;

use hyper::upgrade::OnUpgrade;
use landfall_protocol::automerge_repo::peer::{EphemeralMessage, Host, Peer};
use landfall_protocol::frame::Token;
use landfall_protocol::{Code, Moment, SessionId, SpaceName, Upstream, limits as shared_limits};
use sha2::{Digest, Sha256};
use tokio::sync::Notify;
use tracing::{Instrument, debug, info, info_span};

use crate::compaction::Compactor;
use crate::connection::bindings::{Binding, Bindings};
use crate::connection::identification::{Identification, Identified};
use crate::connection::{
    self, Connection, Driver, Input, MessageSizes, Outbox, Outgoing, Ready, RelayState, SocketRead,
    drive,
};
use crate::fan_out::{Broadcast, Delivery, Mailbox};
use crate::hub::Event;
use crate::limits;
use crate::memory::{Class, Grant};
use access::Access;
use peers::Peers;
use push_queue::{ItemResult, PushQueue};
use remote_heads::{HeadsDelivery, HeadsReceiver, HeadsSender, RemoteHeadsTable};
use sync_answers::{SyncAnswer, SyncAnswers, SyncReader};

/// State shared by all automerge-repo sessions.
pub(crate) struct SharedState {
    /// The state that they share with all other sessions.
    relay: Arc<RelayState>,
    compactor: Arc<Compactor>,
    peers: Peers,
    /// The peer ids in use, each by one principal.
    peer_ids: Bindings<(SpaceName, String)>,
    /// The storage ids in use, each by one principal.
    storage_ids: Bindings<(SpaceName, String)>,
    remote_heads: RemoteHeadsTable,
}

impl SharedState {
    pub(crate) fn new(relay: Arc<RelayState>, compactor: Arc<Compactor>) -> Arc<Self> {
        let (peers, peer_ids, storage_ids, remote_heads) = Default::default();
        Arc::new(Self { relay, compactor, peers, peer_ids, storage_ids, remote_heads })
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
    token: Option<Token>,
    upgrade: OnUpgrade,
) {
    let span = info_span!("repo", session = id.0, %peer, %space, peer_id = tracing::field::Empty);
    async move {
        let (relay, events) = (Arc::clone(&shared.relay), 2 * limits::REPO_PUSH_QUEUE);
        let opened = Connection::open(relay, (id, peer), upgrade, SIZES, events).await;
        let Some(connection) = opened else { return };
        debug!("automerge-repo session opened");
        let (identification, access) = identify(&connection, &space, token).await;
        let (access, refused) = match access {
            Ok(access) => (access, None),
            Err(refused) => (Access::none(&space), Some(refused)),
        };
        let mut driver = RepoDriver::new(shared, connection, (identification, access), space);
        if let Some((code, what)) = refused {
            driver.machine.fail(code, what);
        }
        let ending = drive(driver).await;
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

/// A peer id or storage id that the session uses.
type Name = Binding<(SpaceName, String)>;

/// Finds out who the client is; the error is for the client.
async fn identify(
    connection: &Connection,
    space: &SpaceName,
    token: Option<Token>,
) -> (Identification, Result<Access, (Code, String)>) {
    let Connection { relay, account, .. } = connection;
    let mut identification = match Identification::new(relay, account) {
        Ok(identification) => identification,
        Err(none) => {
            let what = format!("{} connections wait for their clients to be identified", none.0);
            return (Identification::idle(relay, account), Err((Code::OVERLOADED, what)));
        }
    };
    identification.start(token);
    let mut stopping = relay.stopping.clone();
    let identified = tokio::select! {
        identified = identification.done() => identified,
        _ = stopping.wait_for(|stopping| *stopping) => {
            let what = "the relay is stopping".to_owned();
            return (identification, Err((Code::SHUTTING_DOWN, what)));
        }
    };
    (identification, Access::of(connection, space, identified))
}

/// The session's own state.
struct RepoDriver {
    shared: Arc<SharedState>,
    space: SpaceName,
    identification: Identification,
    /// The client's rights.
    access: Access,
    /// The client's peer id and storage id.
    bindings: Option<(Name, Option<Name>)>,
    machine: Peer,
    outbox: Outbox,
    push_queue: PushQueue,
    sync_answers: SyncAnswers,
    mailbox: Arc<Mailbox>,
    /// The memory of the machine's state, in the steps in which it grew.
    state_grants: Vec<Grant>,
    /// Bytes received when the peer's silence was last checked.
    bytes_before: u64,
    remote_heads: HeadsReceiver,
    remote_heads_in: HeadsSender,
    /// Notified when another connection takes the peer id over.
    replaced: Arc<Notify>,
    has_joined_hub: bool,
    /// Number of rejections.
    refusals: u32,
    /// The memory of the answer or delivery that the machine currently turns into a message.
    answer_grant: Option<Grant>,
    /// The last fields, in this order: the hub keeps a space in memory while it has subscribers, so the
    /// session leaves the fan-out before the hub.
    _registrations: Registrations,
    connection: Connection,
}

/// An input of the session.
enum SessionInput {
    Connection(Input),
    ItemResult(ItemResult),
    SyncAnswer(Option<SyncAnswer>),
    Delivery,
    RemoteHeads(Option<HeadsDelivery>),
    Replaced,
    /// The client's token was verified again.
    Identified(Identified),
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
        let input = self.next().await;
        self.machine.handle_clock(self.connection.now());
        self.handle(input);
        self.account_for_state();
    }

    /// The protocol has no place for a hint.
    fn fail(&mut self, code: Code, what: String, _hint: &str) {
        self.machine.fail(code, what);
    }

    fn handle_event(&mut self, event: Event) {
        if let Event::Answered(answer) = event {
            // The pushed entries were published before the answer, so take them from the mailbox first.
            if self.peer_reads() {
                self.take_deliveries();
            }
            self.push_queue.handle_answered();
            self.machine.handle_answer(&answer);
        }
    }

    fn handle_read(&mut self, read: SocketRead) {
        self.handle_socket(read);
    }

    fn handle_evicted(&mut self) {
        self.fail_over_budget();
    }

    fn handle_time(&mut self) {
        self.check_progress();
    }

    fn next_message(&mut self) -> Option<Outgoing> {
        self.outbox.pop()
    }

    fn drop_waiting(&mut self) {
        self.push_queue.drop_waiting();
    }

    fn is_settled(&self) -> bool {
        self.push_queue.is_settled()
    }

    fn into_farewell(self) -> (Connection, Vec<Outgoing>) {
        (self.connection, self.outbox.into_messages())
    }
}

impl RepoDriver {
    fn new(
        shared: Arc<SharedState>,
        connection: Connection,
        (identification, access): (Identification, Access),
        space: SpaceName,
    ) -> Self {
        let Connection { relay, id, account, .. } = &connection;
        let (remote_heads_in, remote_heads) = remote_heads::listener();
        let host = host(relay.upstream, &space);
        let reader = SyncReader::new(&shared, access.clone(), space.clone(), account.clone());
        Self {
            identification,
            access,
            bindings: None,
            machine: Peer::new(host, relay.patience, Moment::default()),
            outbox: Outbox::default(),
            push_queue: PushQueue::new(relay, *id, reader.clone()),
            sync_answers: SyncAnswers::new(reader),
            mailbox: Mailbox::new(*id, account.clone()),
            state_grants: Vec::new(),
            bytes_before: 0,
            remote_heads,
            remote_heads_in,
            replaced: Arc::default(),
            has_joined_hub: false,
            refusals: 0,
            answer_grant: None,
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
    async fn next(&mut self) -> SessionInput {
        let peer_reads = self.peer_reads();
        // While the machine paces, items gather in the mailbox: a wake-up for each would cost more than its
        // sending.
        let takes_deliveries = peer_reads && !self.machine.is_pacing(self.connection.now());
        let ready = Ready {
            // Answers wait too: each makes the machine send the answered changes, with all others that have
            // become durable.
            events: peer_reads,
            reads: self.takes_messages(),
            sends: !self.outbox.is_empty(),
            holds: false,
            timeout: self.machine.poll_timeout().min(self.access.until()),
        };
        tokio::select! {
            input = self.connection.input(ready) => SessionInput::Connection(input),
            done = self.push_queue.done() => SessionInput::ItemResult(done),
            reply = self.sync_answers.reply(), if peer_reads => SessionInput::SyncAnswer(reply),
            () = self.mailbox.wait(), if takes_deliveries => SessionInput::Delivery,
            update = self.remote_heads.recv(), if peer_reads => SessionInput::RemoteHeads(update),
            () = self.replaced.notified() => SessionInput::Replaced,
            identified = self.identification.done() => SessionInput::Identified(identified),
        }
    }

    /// Whether the peer reads what it is sent.
    fn peer_reads(&self) -> bool {
        self.outbox.is_below(limits::REPO_OUTBOX, limits::REPO_OUTBOX_BYTES)
    }

    /// Whether the session can take more messages from the peer.
    fn takes_messages(&self) -> bool {
        let has_room = self.push_queue.has_room() && self.sync_answers.has_room();
        self.peer_reads() && !self.connection.is_stopping() && has_room
    }

    fn handle(&mut self, input: SessionInput) {
        match input {
            SessionInput::Connection(input) => connection::handle(self, input),
            SessionInput::ItemResult(done) => self.handle_item_result(done),
            SessionInput::SyncAnswer(reply) => {
                reply.into_iter().for_each(|reply| self.handle_reply(reply))
            }
            SessionInput::Delivery => self.take_deliveries(),
            SessionInput::RemoteHeads(update) => {
                let is_readable = |update: &HeadsDelivery| self.access.reads(&update.document);
                if let Some(update) = update.filter(is_readable) {
                    let bytes = update.heads.iter().map(String::len).sum();
                    self.pass_on(bytes, |machine| machine.handle_remote_heads(&update));
                }
            }
            SessionInput::Identified(identified) => self.handle_identified(identified),
            SessionInput::Replaced => {
                let what = "another connection joined with the same peer id".to_owned();
                self.machine.fail(Code::GOODBYE, what);
            }
        }
    }

    /// The configuration changed. A client whose rights are others now connects again under them.
    fn handle_identified(&mut self, identified: Identified) {
        match Access::of(&self.connection, &self.space, identified) {
            Ok(access) if access.is_same(&self.access) => {}
            Ok(_) => {
                self.machine.fail(Code::GOODBYE, "the rights of this client changed".to_owned())
            }
            // The token was accepted before, and may be valid for long.
            Err((Code::OVERLOADED, _)) => {}
            Err((code, what)) => self.machine.fail(code, what),
        }
    }

    fn handle_reply(&mut self, reply: SyncAnswer) {
        let SyncAnswer { ticket, planned, grant } = reply;
        self.answer_grant = grant;
        self.machine.handle_planned(ticket, planned);
        self.perform();
        self.answer_grant = None;
    }

    fn take_deliveries(&mut self) {
        let (deliveries, behind) = self.mailbox.take();
        for delivery in deliveries {
            match delivery {
                Delivery::Entry(commit, at) => match commit.entries.get(at).map(|new| &new.entry) {
                    // A large entry is read from the store instead, once its memory is reserved.
                    Some(entry) if entry.body.len() > limits::ANSWER_BYTES => {
                        self.machine.handle_document_behind(entry.document);
                    }
                    _ => self.machine.handle_entry(&commit, at),
                },
                Delivery::ResendRequest(_, request) => {
                    if !self.machine.handle_damaged(request.document) {
                        self.resent(request.document, false);
                    }
                }
                Delivery::Repaired(_, document) => self.machine.handle_repaired(document),
                Delivery::Ephemeral(message) | Delivery::FilteredEphemeral(_, message) => {
                    let Broadcast { document, sender, session, count, data } = &*message;
                    let (sender, session) = (sender.clone(), session.clone());
                    let (document, count, data) = (*document, *count, data.clone());
                    let message = EphemeralMessage { document, sender, session, count, data };
                    self.pass_on(message.data.len(), |machine| machine.send_ephemeral(&message));
                }
            }
        }
        if behind {
            debug!("entries arrived faster than they were forwarded; reading the store again");
            self.machine.handle_behind();
        }
    }

    /// Forwards droppable data of `bytes` bytes, if there is memory for it.
    fn pass_on(&mut self, bytes: usize, pass: impl FnOnce(&mut Peer)) {
        // Earlier effects come first.
        self.perform();
        if bytes > limits::SOCKET_BUFFER_BYTES {
            self.answer_grant = self.connection.account.try_reserve(Class::Answer, 2 * bytes);
            if self.answer_grant.is_none() {
                return debug!(bytes, "no memory to forward data; it is dropped");
            }
        }
        pass(&mut self.machine);
        self.perform();
        self.answer_grant = None;
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
        // Clients store their sync state under it, so no version of the relay may change it.
        assert_eq!(first.storage_id, "43466807-905f-8b1c-8fc2-cd64c865d4b8");
    }
}
