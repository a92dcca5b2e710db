//! Performs the machine's effects on the store, and returns the outcomes to it as inputs.

mod compare;
mod parts;
mod resend;
mod store;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use landfall_protocol::client::{
    EndReason, Replica, ReplicaEffect, Resendable, ResumePoint, SpacePhase,
};
use landfall_protocol::error_chain;
use landfall_protocol::frame::{Filter, Frame, Resent, encode};
use landfall_protocol::{Code, DocumentId, Local, Moment, SpaceName, Upstream};
use landfall_storage::{Committed, FailureClass, WriteError};
use parts::PartQueue;
use resend::ResendAnswer;
use tokio::sync::mpsc;

use super::arrivals::Arrivals;
use super::commands::LinkCommands;
use super::received::Publisher;
use super::requests::Reached;
use crate::error::RefusedSpace;
use crate::events::EventKind;
use crate::open_store::OpenStore;
use crate::status::LinkStatus;
use crate::store::{
    AttachedUpstream, Done, LocalLog, Refused, SnapshotPart, SpaceCount, SpaceRow, UpstreamRow,
    WriteFailure,
};

/// Bytes that wait for the socket, above which pings and requests with an empty answer are not
/// answered: the waiting bytes show that this client is alive, once the relay reads them.
const ANSWERS_BELOW_BYTES: usize = 64 * 1024;

/// The result of a store job for one connection.
pub(super) struct Completion {
    /// The connection: results of an earlier one are dropped.
    connection: u64,
    /// The space's row at the request. A space of the same name may have another row by now.
    row: SpaceRow,
    /// The bytes that the machine counts for it until now, if it was received.
    bytes: usize,
    outcome: Outcome,
}

enum Outcome {
    Resume(SpaceName, ResumePoint, UpstreamRow),
    Stored(SpaceName),
    Reset(SpaceName, Local),
    Compared(SpaceName),
    Requeued(SpaceName),
    /// The answer to a relay's resend request.
    Resendable(SpaceName, DocumentId, ResendAnswer),
    /// Changes were acknowledged or rejected, which may answer flushes.
    Settled,
    Failed(String),
}

/// The one outcome that the machine expects for a job of the store. Dropping it without an outcome, as
/// a panic does, sends a failure: otherwise the machine would wait for ever.
pub(super) struct PendingReply {
    tell: mpsc::UnboundedSender<Completion>,
    connection: u64,
    row: SpaceRow,
    bytes: usize,
    given: bool,
}

impl PendingReply {
    fn give(mut self, outcome: Outcome) {
        self.send(outcome);
    }

    fn send(&mut self, outcome: Outcome) {
        self.given = true;
        let (connection, row, bytes) = (self.connection, self.row, self.bytes);
        // If the link is gone, no outcome is needed.
        let _ = self.tell.send(Completion { connection, row, bytes, outcome });
    }
}

impl Drop for PendingReply {
    fn drop(&mut self) {
        if !self.given {
            let what = "it was dropped before it was done, as by a panic";
            self.send(Outcome::Failed(what.to_owned()));
        }
    }
}

/// The queue to the task that writes the socket.
pub(super) struct Out {
    queue: mpsc::UnboundedSender<Vec<u8>>,
    /// Bytes that the task has not written yet.
    unsent: Arc<AtomicUsize>,
}

impl Out {
    pub(super) fn new(queue: mpsc::UnboundedSender<Vec<u8>>, unsent: Arc<AtomicUsize>) -> Self {
        Self { queue, unsent }
    }

    fn send(&self, message: Vec<u8>) {
        self.unsent.fetch_add(message.len(), Ordering::AcqRel);
        // The reader detects that the writer is gone.
        let _ = self.queue.send(message);
    }

    pub(super) fn unsent(&self) -> usize {
        self.unsent.load(Ordering::Acquire)
    }
}

/// Performs effects.
pub(super) struct Performer {
    store: Arc<OpenStore>,
    /// The store, for jobs about the relay of this connection, even if another one is connected later.
    log: LocalLog,
    commands: Arc<LinkCommands>,
    tell: mpsc::UnboundedSender<Completion>,
    spaces: BTreeMap<SpaceName, SpaceRow>,
    names: BTreeMap<SpaceRow, SpaceName>,
    connection: u64,
    /// The number of the `connect` call for the present relay.
    connects: u64,
    arrivals: Arrivals,
    reached: Reached,
    /// Whether the known state of the relay has changed.
    changed: bool,
    /// Documents that were expected to differ when the present comparison read them.
    expected: BTreeMap<SpaceName, BTreeSet<DocumentId>>,
    /// The parts of snapshots that the relay has requested.
    parts: PartQueue,
    /// Why the relay does not accept the changes of spaces at present.
    delayed: BTreeMap<SpaceName, String>,
}

impl Performer {
    pub(super) fn new(
        store: Arc<OpenStore>,
        commands: Arc<LinkCommands>,
        arrivals: Arrivals,
        tell: mpsc::UnboundedSender<Completion>,
    ) -> Self {
        Self {
            log: store.context.log.clone(),
            store,
            commands,
            tell,
            spaces: BTreeMap::new(),
            names: BTreeMap::new(),
            connection: 0,
            connects: 0,
            arrivals,
            reached: Reached::default(),
            changed: false,
            expected: BTreeMap::new(),
            parts: PartQueue::default(),
            delayed: BTreeMap::new(),
        }
    }

    /// Adds a space; `false` if it is already there.
    pub(super) fn add_space(&mut self, name: SpaceName, row: SpaceRow) -> bool {
        self.names.insert(row, name.clone());
        self.spaces.insert(name, row).is_none()
    }

    pub(super) fn remove_space(&mut self, name: &SpaceName, row: SpaceRow) {
        self.spaces.remove(name);
        self.names.remove(&row);
        self.reached.confirmed.remove(&row);
        self.reached.refused.remove(&row);
    }

    /// A new connection begins.
    pub(super) fn begin(&mut self) {
        self.connection += 1;
        self.arrivals.begin(self.connection);
        self.expected.clear();
        self.parts = PartQueue::default();
        self.delayed.clear();
    }

    /// The connection has ended: received entries that the store does not have yet are dropped.
    pub(super) fn end(&mut self) {
        self.begin();
    }

    /// Waits for the snapshot that is being opened.
    pub(super) fn close(&mut self) {
        self.begin();
        self.arrivals.close();
    }

    /// A relay is set, possibly the same one: nothing is known of it.
    pub(super) fn forget_relay(&mut self, connects: u64) {
        self.reached = Reached::default();
        self.connects = connects;
    }

    /// Whether there was a further `connect` that the link's thread has not seen yet: from then on the
    /// status shows nothing of this session's relay.
    fn is_superseded(&self) -> bool {
        self.commands.connects() != self.connects
    }

    pub(super) fn reached(&self) -> &Reached {
        &self.reached
    }

    /// Whether the known state of the relay has changed since the last call.
    pub(super) fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// The row of a space.
    pub(super) fn row(&self, space: &SpaceName) -> Option<SpaceRow> {
        self.spaces.get(space).copied()
    }

    /// All spaces.
    pub(super) fn spaces(&self) -> Vec<(SpaceName, SpaceRow)> {
        self.spaces.iter().map(|(name, row)| (name.clone(), *row)).collect()
    }

    /// The filter of a space.
    pub(super) fn filter(&self, space: &SpaceName) -> Option<Filter> {
        self.store.context.log.filter(self.row(space)?).ok()
    }

    /// The name of a space.
    pub(super) fn name(&self, row: SpaceRow) -> Option<SpaceName> {
        self.names.get(&row).cloned()
    }

    /// The names of spaces.
    pub(super) fn names(&self, rows: &BTreeSet<SpaceRow>) -> Vec<SpaceName> {
        rows.iter().filter_map(|row| self.name(*row)).collect()
    }

    /// Passes an outcome to the machine.
    pub(super) fn complete(&mut self, replica: &mut Replica, now: Moment, completion: Completion) {
        let Completion { connection, row, bytes, outcome } = completion;
        if connection != self.connection {
            return;
        }
        if !self.names.contains_key(&row) {
            // Its space was removed: the outcome, often an error, is dropped.
            return replica.handle_discarded(now, bytes);
        }
        match outcome {
            Outcome::Resume(space, point, upstream) => {
                self.reached.upstream = Some(upstream);
                replica.handle_resume(&space, point);
            }
            Outcome::Stored(space) => replica.handle_stored(now, &space, bytes),
            Outcome::Reset(space, through) => replica.handle_reset(now, &space, through),
            Outcome::Compared(space) => replica.handle_compared(now, &space),
            Outcome::Requeued(space) => replica.handle_requeued(now, &space),
            Outcome::Resendable(space, document, ResendAnswer { found, made, compacted }) => {
                if let (Resendable::Snapshot { hash, .. }, Some(body)) = (&found, made) {
                    self.parts.made(*hash, body);
                }
                replica.handle_resendable(now, &space, document, found, compacted);
            }
            Outcome::Settled => {}
            Outcome::Failed(what) => replica.handle_store_failed(what),
        }
    }

    /// Performs one effect; returns the reason if the connection must be closed.
    pub(super) fn perform(
        &mut self,
        replica: &mut Replica,
        now: Moment,
        effect: ReplicaEffect,
        out: Option<&Out>,
    ) -> Option<EndReason> {
        match effect {
            ReplicaEffect::Send(frame) => {
                if let Some(out) = out
                    && !(only_answers(&frame) && out.unsent() > ANSWERS_BELOW_BYTES)
                {
                    out.send(encode(&frame));
                }
            }
            ReplicaEffect::Welcomed(upstream) => self.welcomed(upstream),
            ReplicaEffect::LoadResume { upstream, space } => self.load_resume(upstream, space),
            ReplicaEffect::Store(batch) => self.store(batch),
            ReplicaEffect::Reset { space } => self.reset(space),
            ReplicaEffect::LoadOutbox { space, after, changes, bytes } => {
                let row = self.spaces.get(&space)?;
                match self.log.outbox(*row, after, changes, bytes) {
                    Ok((page, more)) => replica.handle_outbox(now, &space, page, more),
                    Err(error) => replica.handle_store_failed(error.to_string()),
                }
            }
            ReplicaEffect::Acknowledged { space, locals, mark } => {
                if let Some(row) = self.spaces.get(&space) {
                    self.store.context.status.add_acknowledged(*row, locals.len() as u64);
                    let done = self.counted(*row, |()| Outcome::Settled);
                    self.log.submit_acknowledged(*row, locals, mark, done);
                }
            }
            ReplicaEffect::Reject { space, document, code, what, deletion } => {
                self.reject(&space, document, Refused { code, what, deletion });
            }
            ReplicaEffect::Requeue { space, document } => {
                if let Some(row) = self.spaces.get(&space) {
                    let done = self.counted(*row, move |()| Outcome::Requeued(space));
                    self.log.submit_requeue(*row, document, done);
                }
            }
            ReplicaEffect::Phase { space, phase } => self.phase(space, phase),
            ReplicaEffect::SendsEphemeral { space, filter } => {
                self.commands.ephemeral_queue.set(space, filter)
            }
            ReplicaEffect::End(reason) => return Some(reason),
            later => self.perform_later(replica, now, later),
        }
        None
    }

    /// Performs the effects of snapshots, comparison and deletion.
    fn perform_later(&mut self, replica: &mut Replica, now: Moment, effect: ReplicaEffect) {
        match effect {
            ReplicaEffect::StorePart { space, document, hash, total, from, bytes } => {
                self.store_part(space, SnapshotPart { document, hash, total, from, bytes });
            }
            ReplicaEffect::LoadBranches { space, prefixes } => {
                self.load_branches(replica, now, &space, &prefixes);
            }
            ReplicaEffect::LoadHeads { space, documents } => {
                self.load_heads(replica, &space, &documents);
            }
            ReplicaEffect::Refused { space, document, locals } => {
                if let Some(row) = self.spaces.get(&space) {
                    let done = self.counted(*row, |()| Outcome::Settled);
                    self.log.submit_refused(*row, document, locals, done);
                }
            }
            ReplicaEffect::StoreDocument(batch) => self.store_document(batch),
            ReplicaEffect::FinishComparison { space, cursor, through, except } => {
                self.finish_comparison(space, cursor, through, except);
            }
            ReplicaEffect::Checked { space, ticket, drifted, more } => {
                let count = self.checked(&space, drifted, more);
                self.commands.requests.checked(&space, ticket, &Ok(count));
            }
            ReplicaEffect::NotChecked { space, ticket, why } => {
                tracing::debug!(%space, %why, "cannot compare the space with the relay");
                self.commands.requests.checked(&space, ticket, &Err(why));
            }
            ReplicaEffect::LoadSnapshotPart { space, document, hash, from } => {
                self.parts.want(space, document, hash, from);
                self.commands.wants_room.store(true, Ordering::Release);
                self.commands.wake.notify_one();
            }
            ReplicaEffect::SnapshotAcknowledged { space, document, hash, mark } => {
                self.parts.forget(&hash);
                if let Some(row) = self.spaces.get(&space) {
                    // If the count cannot be read, it is left out.
                    let compacted = self.log.compacted_changes(*row, &document).unwrap_or(0);
                    self.store.context.status.add_acknowledged(*row, compacted);
                    let done = self.counted(*row, |()| Outcome::Settled);
                    self.log.submit_snapshot_acknowledged(*row, document, hash, mark, done);
                }
            }
            ReplicaEffect::Delayed { space, why } => self.delayed(space, why),
            ReplicaEffect::LoadResend { space, document, changes } => {
                self.load_resend(space, document, changes);
            }
            ReplicaEffect::DropMade { hash } => self.parts.drop_made(&hash),
            ReplicaEffect::Repaired { space, document } => self.repaired(&space, &document),
            ReplicaEffect::Ephemeral { space, document, sender, session, count, data } => {
                if let Some(row) = self.spaces.get(&space) {
                    let data = data.into();
                    let kind = EventKind::Ephemeral { sender, session, count, data };
                    self.publisher().heard(&space, *row, document, kind);
                }
            }
            other => debug_assert!(false, "an effect that `perform` does: {other:?}"),
        }
    }

    fn welcomed(&mut self, upstream: Upstream) {
        self.log = self.store.context.log.about(upstream);
        let Reached { upstream: row, answered, confirmed, refused } = &mut self.reached;
        (*row, *answered) = (None, true);
        confirmed.clear();
        refused.clear();
        self.changed = true;
        if !self.is_superseded() {
            self.store.context.status.set_link(LinkStatus::Online, Some(upstream));
        }
    }

    fn phase(&mut self, space: SpaceName, phase: SpacePhase) {
        if let Some(row) = self.row(&space) {
            self.reached.refused.remove(&row);
            match phase.clone() {
                SpacePhase::Waiting => {}
                SpacePhase::Refused { code, what } => {
                    let refusal = RefusedSpace { space: space.clone(), code, what };
                    self.reached.refused.insert(row, refusal);
                }
                _ => self.reached.confirmed.extend([row]),
            }
            self.changed = true;
        }
        if phase == SpacePhase::Waiting || !self.is_superseded() {
            self.store.context.status.set_phase(&space, phase);
        }
    }

    /// The relay stops or resumes accepting a space's changes: updates the status.
    fn delayed(&mut self, space: SpaceName, why: Option<(Code, String)>) {
        match why {
            Some((code, what)) => {
                tracing::warn!(%space, %code, what, "the relay accepts no changes at present");
                let error = format!(
                    "the relay accepts no changes of `{space}` at present ({code}): {what}"
                );
                self.delayed.insert(space, error);
            }
            None => drop(self.delayed.remove(&space)),
        }
        if !self.is_superseded() {
            let error = self.delayed.values().next().cloned();
            self.store.context.status.set_delay(error);
        }
    }

    fn load_resume(&self, upstream: Upstream, space: SpaceName) {
        let Some(row) = self.spaces.get(&space).copied() else { return };
        let (pending_reply, store) = (self.pending_reply(row, 0), Arc::clone(&self.store));
        let commands = Arc::clone(&self.commands);
        let done = move |result: Result<Committed<AttachedUpstream>, WriteFailure>| {
            let outcome = match result {
                Ok(Committed { value: AttachedUpstream { upstream, point, damaged }, .. }) => {
                    if damaged {
                        // The relay may have been repaired since.
                        commands.check(row);
                    }
                    Outcome::Resume(space, point, upstream)
                }
                Err(error) => failed(&store, &error),
            };
            pending_reply.give(outcome);
        };
        self.log.submit_attach(upstream, row, Box::new(done));
    }

    fn reset(&self, space: SpaceName) {
        let Some(row) = self.spaces.get(&space).copied() else { return };
        tracing::warn!(%space, "the relay's log was restored or replaced; comparing the space with it");
        let done = self.counted(row, move |through| Outcome::Reset(space, through));
        self.log.submit_reset(row, done);
    }

    fn reject(&self, space: &SpaceName, document: DocumentId, refused: Refused) {
        let Some(row) = self.spaces.get(space).copied() else { return };
        let (code, what) = (refused.code, refused.what.clone());
        tracing::warn!(%space, %document, %code, what, "the relay refuses a document's changes");
        let store = Arc::clone(&self.store);
        let name = space.clone();
        let done = self.counted(row, move |()| {
            store.context.events.send(&name, document, EventKind::Rejected { code, what });
            Outcome::Settled
        });
        self.log.submit_reject(row, document, refused, done);
    }

    /// The completion of most writes: passes the outcome to the machine.
    fn counted<T>(
        &self,
        row: SpaceRow,
        outcome: impl FnOnce(T) -> Outcome + Send + 'static,
    ) -> Done<(SpaceCount, T)> {
        let (pending_reply, store) = (self.pending_reply(row, 0), Arc::clone(&self.store));
        Box::new(move |result| {
            let outcome = match result {
                Ok(Committed { value: (_, value), .. }) => outcome(value),
                Err(error) => failed(&store, &error),
            };
            pending_reply.give(outcome);
        })
    }

    fn publisher(&self) -> Publisher {
        Publisher { store: Arc::clone(&self.store), commands: Arc::clone(&self.commands) }
    }

    /// The outcome that the machine expects for a job, for which it counts so many bytes.
    fn pending_reply(&self, row: SpaceRow, bytes: usize) -> PendingReply {
        let (tell, connection) = (self.tell.clone(), self.connection);
        PendingReply { tell, connection, row, bytes, given: false }
    }
}

/// Whether a frame is an answer that a relay can request any number of times.
fn only_answers(frame: &Frame) -> bool {
    matches!(frame, Frame::Pong(_) | Frame::Resent(Resent { count: 0, .. }))
}

/// A write failed: the machine closes the connection. The status shows the store's trouble, unless the
/// received data is the reason.
fn failed<E: std::error::Error + 'static>(store: &OpenStore, error: &WriteError<E>) -> Outcome {
    let what = error_chain(error);
    match error.class() {
        FailureClass::Other | FailureClass::Closed | FailureClass::Busy => {}
        class => store.context.status.set_store_trouble(class.into(), what.clone()),
    }
    Outcome::Failed(what)
}
