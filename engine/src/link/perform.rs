//! Performing the machine's effects on the store, and bringing the outcomes back as inputs.

mod compare;
mod store;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use landfall_protocol::frame::{Filter, encode};
use landfall_protocol::replica::{EndReason, Replica, ReplicaEffect, ResumePoint};
use landfall_protocol::{Code, DocumentId, Local, Moment, SpaceName, Upstream};
use landfall_storage::{Committed, WriteError};
use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::Outbound;
use super::arrivals::Arrivals;
use crate::core::Core;
use crate::events::EventKind;
use crate::status::LinkStatus;
use crate::store::{Done, Met, SnapshotPart, SpaceCount, SpaceRow, WriteFailure};

/// What the store finished, on behalf of one connection.
pub(super) struct Completion {
    /// Which connection: what an earlier one asked for says nothing to the present one.
    connection: u64,
    outcome: Outcome,
}

enum Outcome {
    Resume(SpaceName, ResumePoint),
    Stored(SpaceName, usize),
    Reset(SpaceName, Local),
    Reconciled(SpaceName),
    Requeued(SpaceName),
    /// Something is acknowledged or refused: those who flush want to know.
    Settled,
    Failed(String),
}

/// The way to the task that writes the socket.
pub(super) struct Out {
    queue: mpsc::UnboundedSender<Vec<u8>>,
    /// Bytes that it has not written.
    unsent: Arc<AtomicUsize>,
}

impl Out {
    pub(super) fn new(queue: mpsc::UnboundedSender<Vec<u8>>, unsent: Arc<AtomicUsize>) -> Self {
        Self { queue, unsent }
    }

    fn send(&self, message: Vec<u8>) {
        self.unsent.fetch_add(message.len(), Ordering::AcqRel);
        // A writer that is gone shows at the reader.
        let _ = self.queue.send(message);
    }

    pub(super) fn unsent(&self) -> usize {
        self.unsent.load(Ordering::Acquire)
    }
}

/// Performs effects.
pub(super) struct Performer {
    core: Arc<Core>,
    outbound: Arc<Outbound>,
    tell: mpsc::UnboundedSender<Completion>,
    spaces: BTreeMap<SpaceName, SpaceRow>,
    connection: u64,
    arrivals: Arrivals,
    /// Spaces that have been compared with the relay.
    checked: Mutex<BTreeSet<SpaceName>>,
}

impl Performer {
    pub(super) fn new(
        core: Arc<Core>,
        outbound: Arc<Outbound>,
        tell: mpsc::UnboundedSender<Completion>,
    ) -> std::io::Result<Self> {
        let arrivals = Arrivals::start()?;
        let (spaces, checked) = (BTreeMap::new(), Mutex::default());
        Ok(Self { core, outbound, tell, spaces, connection: 0, arrivals, checked })
    }

    /// Spaces that have been compared with the relay since this was asked last.
    pub(super) fn take_checked(&self) -> BTreeSet<SpaceName> {
        std::mem::take(&mut *self.checked.lock())
    }

    pub(super) fn add_space(&mut self, name: SpaceName, row: SpaceRow) {
        self.spaces.insert(name, row);
    }

    /// A new connection begins.
    pub(super) fn begin(&mut self) {
        self.connection += 1;
        self.arrivals.begin(self.connection);
    }

    /// The row of a space.
    pub(super) fn row(&self, space: &SpaceName) -> Option<SpaceRow> {
        self.spaces.get(space).copied()
    }

    /// The names of all spaces.
    pub(super) fn spaces(&self) -> Vec<SpaceName> {
        self.spaces.keys().cloned().collect()
    }

    /// Which documents of a space the application wants.
    pub(super) fn filter(&self, space: &SpaceName) -> Option<Filter> {
        self.core.log.filter(self.row(space)?).ok()
    }

    /// The names of spaces.
    pub(super) fn names(&self, rows: BTreeSet<SpaceRow>) -> Vec<SpaceName> {
        let wanted = self.spaces.iter().filter(|(_, row)| rows.contains(row));
        wanted.map(|(name, _)| name.clone()).collect()
    }

    /// Brings an outcome to the machine.
    pub(super) fn complete(&self, replica: &mut Replica, now: Moment, completion: Completion) {
        if completion.connection != self.connection {
            return;
        }
        match completion.outcome {
            Outcome::Resume(space, point) => replica.handle_resume(&space, point),
            Outcome::Stored(space, bytes) => replica.handle_stored(now, &space, bytes),
            Outcome::Reset(space, through) => replica.handle_reset(now, &space, through),
            Outcome::Reconciled(space) => replica.handle_reconciled(now, &space),
            Outcome::Requeued(space) => replica.handle_requeued(now, &space),
            Outcome::Settled => {}
            Outcome::Failed(what) => replica.handle_store_failed(what),
        }
    }

    /// Performs one effect; gives the reason if the connection is to be closed.
    pub(super) fn perform(
        &self,
        replica: &mut Replica,
        now: Moment,
        effect: ReplicaEffect,
        out: Option<&Out>,
    ) -> Option<EndReason> {
        match effect {
            ReplicaEffect::Send(frame) => {
                if let Some(out) = out {
                    out.send(encode(&frame));
                }
            }
            ReplicaEffect::Welcomed(upstream) => {
                self.core.status.set_link(LinkStatus::Online, Some(upstream));
            }
            ReplicaEffect::LoadResume { upstream, space } => self.load_resume(upstream, space),
            ReplicaEffect::Store(batch) => self.store(batch),
            ReplicaEffect::Reset { space } => self.reset(space),
            ReplicaEffect::LoadOutbox { space, after, changes, bytes } => {
                let row = self.spaces.get(&space)?;
                match self.core.log.outbox(*row, after, changes, bytes) {
                    Ok((page, more)) => replica.handle_outbox(now, &space, page, more),
                    Err(error) => replica.handle_store_failed(error.to_string()),
                }
            }
            ReplicaEffect::Acknowledged { space, locals, mark } => {
                if let Some(row) = self.spaces.get(&space) {
                    let done = self.counted(|()| Outcome::Settled);
                    self.core.log.submit_acknowledged(*row, locals, mark, done);
                }
            }
            ReplicaEffect::Park { space, document, code, what } => {
                self.park(&space, document, code, what);
            }
            ReplicaEffect::Requeue { space, document } => {
                if let Some(row) = self.spaces.get(&space) {
                    let done = self.counted(move |()| Outcome::Requeued(space));
                    self.core.log.submit_requeue(*row, document, done);
                }
            }
            ReplicaEffect::Phase { space, phase } => self.core.status.set_phase(&space, phase),
            ReplicaEffect::Speaking { space, filter } => self.outbound.voice.set(space, filter),
            ReplicaEffect::End(reason) => return Some(reason),
            later => self.perform_later(replica, now, later),
        }
        None
    }

    /// What belongs to folded history, comparison and deletion.
    fn perform_later(&self, replica: &mut Replica, now: Moment, effect: ReplicaEffect) {
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
                    let done = self.counted(|()| Outcome::Settled);
                    self.core.log.submit_refused(*row, document, locals, done);
                }
            }
            ReplicaEffect::StoreDocument(batch) => self.store_document(batch),
            ReplicaEffect::FinishReconcile { space, cursor, through, except } => {
                self.finish_reconcile(space, cursor, through, except);
            }
            ReplicaEffect::Checked { space, drifted } => self.checked(&space, &drifted),
            ReplicaEffect::LoadSnapshotPart { space, document, hash, from } => {
                self.load_snapshot_part(replica, now, &space, document, hash, from);
            }
            ReplicaEffect::SnapshotAcknowledged { space, document, hash, mark } => {
                if let Some(row) = self.spaces.get(&space) {
                    let done = self.counted(|()| Outcome::Settled);
                    self.core.log.submit_snapshot_acknowledged(*row, document, hash, mark, done);
                }
            }
            ReplicaEffect::Heard { space, document, sender, session, count, data } => {
                if let Some(row) = self.spaces.get(&space) {
                    let data = data.into();
                    let kind = EventKind::Ephemeral { sender, session, count, data };
                    self.core.heard(&space, *row, document, kind);
                }
            }
            other => debug_assert!(false, "an effect that `perform` does: {other:?}"),
        }
    }

    fn load_resume(&self, upstream: Upstream, space: SpaceName) {
        let Some(row) = self.spaces.get(&space).copied() else { return };
        let (tell, connection) = (self.tell.clone(), self.connection);
        let done = move |result: Result<Committed<Met>, WriteFailure>| {
            let outcome = match result {
                Ok(Committed { value: Met { point }, .. }) => Outcome::Resume(space, point),
                Err(error) => Outcome::Failed(chain(&error)),
            };
            let _ = tell.send(Completion { connection, outcome });
        };
        self.core.log.submit_meet(upstream, row, Box::new(done));
    }

    fn reset(&self, space: SpaceName) {
        let Some(row) = self.spaces.get(&space).copied() else { return };
        tracing::warn!(%space, "the relay's log is not the one we knew: what differs is exchanged");
        let done = self.counted(move |through| Outcome::Reset(space, through));
        self.core.log.submit_reset(row, done);
    }

    fn park(&self, space: &SpaceName, document: DocumentId, code: Code, what: String) {
        let Some(row) = self.spaces.get(space).copied() else { return };
        tracing::warn!(%space, %document, %code, what, "the relay refuses a document's changes");
        let core = Arc::clone(&self.core);
        let (name, told) = (space.clone(), what.clone());
        let done = self.counted(move |()| {
            core.events.send(&name, document, EventKind::Parked { code, what: told });
            Outcome::Settled
        });
        self.core.log.submit_park(row, document, code, what, done);
    }

    /// What most finished writes do, once the store has reported them: tell the machine.
    fn counted<T>(
        &self,
        outcome: impl FnOnce(T) -> Outcome + Send + 'static,
    ) -> Done<(SpaceCount, T)> {
        let (tell, connection) = (self.tell.clone(), self.connection);
        Box::new(move |result| {
            let outcome = match result {
                Ok(Committed { value: (_, value), .. }) => outcome(value),
                Err(error) => Outcome::Failed(chain(&error)),
            };
            let _ = tell.send(Completion { connection, outcome });
        })
    }
}

/// An error with its causes, in one line.
fn chain<E: std::error::Error + 'static>(error: &WriteError<E>) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
