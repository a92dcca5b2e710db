//! The hub's thread: takes commands, one at a time; sends commits to the store, and answers and entries to
//! sessions.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Instant;

use landfall_protocol::frame::SubscriptionId;
use landfall_protocol::relay::{
    Outcome, PendingPush, PushAnswer, PushVerdict, PushedEntry, Refusal, Space, StoreFailure,
};
use landfall_protocol::{ChangeHash, SessionId, SpaceName};

use super::deferred_pushes::{DeferredPushes, WaitingUpload};
use super::durable::Durable;
use super::feed::Feed;
use super::inbox::Inbox;
use super::{Attach, Command, Event, HubChannel, HubParts, Pushed};
use crate::clock::now_ms;
use crate::limits;
use crate::memory::{Grant, Key};
use crate::store::StoreError;

/// A space in memory.
pub(super) struct Slot {
    pub(super) machine: Space,
    feed: Arc<Feed>,
    /// When the current commit went to the store.
    commit_began: Instant,
    /// Documents with deferred pushes.
    pub(super) deferred: DeferredPushes,
}

/// A session that has joined, or attached a subscription.
struct Member {
    channel: HubChannel,
    /// The space that it pushes to without a subscription.
    home: Option<SpaceName>,
    subscriptions: BTreeMap<SubscriptionId, Arc<Feed>>,
}

/// The thread's own state.
pub(super) struct Sequencer {
    pub(super) parts: HubParts,
    pub(super) inbox: Arc<Inbox<Command>>,
    pub(super) spaces: HashMap<SpaceName, Slot>,
    members: HashMap<SessionId, Member>,
    /// The memory of pushes until they are answered.
    pub(super) grants: HashMap<(SessionId, u64), Grant>,
    next_probe: Option<Instant>,
    stopping: bool,
}

impl Sequencer {
    pub(super) fn new(parts: HubParts, inbox: Arc<Inbox<Command>>) -> Self {
        Self {
            parts,
            inbox,
            spaces: HashMap::new(),
            members: HashMap::new(),
            grants: HashMap::new(),
            next_probe: None,
            stopping: false,
        }
    }

    /// Runs until it is stopped and every accepted push is answered.
    pub(super) fn run(mut self) {
        let mut commands = Vec::new();
        while !(self.stopping && self.spaces.values().all(Slot::is_idle)) {
            self.parts.health.hub.waits();
            self.inbox.take(self.next_probe, &mut commands);
            // Handle all waiting commands before any commit, so that the pushes of a batch share one commit
            // per space, and one fsync.
            let mut touched = Vec::new();
            for command in commands.drain(..) {
                self.parts.health.hub.works();
                touched.extend(self.handle(command));
            }
            for space in touched {
                self.parts.health.hub.works();
                self.settle(space);
            }
            self.probe_if_due();
        }
    }

    /// Returns the space that may now have a commit to write, or may be dropped.
    fn handle(&mut self, command: Command) -> Option<SpaceName> {
        match command {
            Command::Attach(attach) => self.handle_attach(*attach),
            Command::Detach(session, subscription) => {
                return self.handle_detach(session, subscription);
            }
            Command::Push(space, push, grant) => {
                self.grants.insert(push.key(), grant);
                self.handle_push(&space, *push);
                return Some(space);
            }
            Command::IndexLoaded(space, document, result) => {
                self.handle_index(&space, &document, result);
                return Some(space);
            }
            Command::Repaired(space, document, result) => {
                self.handle_repaired(&space, &document, result);
                return Some(space);
            }
            Command::Merged(space, push, result) => {
                self.handle_merged(&space, &push, result);
                return Some(space);
            }
            Command::Compacting(space, through, tell) => {
                if let Some(slot) = self.spaces.get(&space) {
                    slot.feed.forget_through(through);
                }
                // The compaction may have given up waiting.
                let _ = tell.try_send(());
            }
            Command::Join(session, space, channel) => {
                self.handle_join(session, channel).home = Some(space);
            }
            Command::Leave(session) => self.handle_leave(session),
            Command::Committed(space, result) => return Some(self.handle_commit(space, result)),
            Command::Probed(result) => self.handle_probed(result),
            Command::Shutdown => self.stopping = true,
        }
        None
    }

    /// Sends a space's admitted entries to the store, or drops a space that is not needed.
    fn settle(&mut self, space: SpaceName) {
        let Some(slot) = self.spaces.get_mut(&space) else { return };
        // `poll_commit` returns nothing while a commit is in flight: offsets become durable in order, and
        // pushes that arrive meanwhile share the next commit.
        if let Some(commit) = slot.machine.poll_commit() {
            slot.commit_began = Instant::now();
            let inbox = Arc::clone(&self.inbox);
            let done = move |result| inbox.put(Command::Committed(space, result));
            self.parts.store.append(commit, Box::new(done));
        } else if slot.is_idle()
            && !slot.feed.is_read()
            && !self.parts.fan_out.has_subscribers(&space)
        {
            // Only an idle space may go: its machine has entries that the store does not show yet otherwise.
            self.spaces.remove(&space);
            self.parts.metrics.spaces.dec();
        }
    }

    pub(super) fn open<'a>(
        spaces: &'a mut HashMap<SpaceName, Slot>,
        parts: &HubParts,
        space: &SpaceName,
    ) -> Result<&'a mut Slot, StoreError> {
        if !spaces.contains_key(space) {
            let lineage = parts.store.open_space(space)?;
            let rings = Arc::clone(&parts.rings);
            let feed = Feed::new(space.clone(), lineage.head(), parts.ring_bytes, rings);
            let machine = Space::new(space.clone(), lineage, parts.epoch);
            let deferred = DeferredPushes::default();
            let slot = Slot { machine, feed, commit_began: Instant::now(), deferred };
            spaces.insert(space.clone(), slot);
            parts.metrics.spaces.inc();
        }
        // The borrow checker accepts no `return` in the middle.
        #[expect(clippy::expect_used, reason = "inserted above if it was not there")]
        Ok(spaces.get_mut(space).expect("the space is there"))
    }

    fn handle_attach(&mut self, attach: Attach) {
        let Attach { session, subscription, ticket, space, channel, .. } = attach;
        let slot = match Self::open(&mut self.spaces, &self.parts, &space) {
            Ok(slot) => slot,
            Err(error) => {
                tracing::error!(%space, error = error.chain(), "cannot open a space");
                let (code, what) = error.for_client();
                let event = Event::AttachFailed { subscription, ticket, code, what };
                return tell(&channel, event);
            }
        };
        let lineage = slot.machine.lineage();
        let event = Event::Attached {
            subscription,
            ticket,
            epoch: lineage.epoch(),
            head: lineage.head(),
            resume: match attach.cursor {
                None if attach.holds => None,
                cursor => lineage.resume(cursor, attach.acknowledged, attach.scope),
            },
            feed: Arc::clone(&slot.feed),
        };
        // Registered in the same step that read the head: no commit can be published in between, so the
        // subscription misses none.
        slot.feed.attach(session, subscription, Arc::clone(&channel.grown));
        let feed = Arc::clone(&slot.feed);
        tell(&channel, event);
        self.handle_join(session, channel).subscriptions.insert(subscription, feed);
    }

    /// Registers a session, so that it can be answered.
    fn handle_join(&mut self, session: SessionId, channel: HubChannel) -> &mut Member {
        let member = self.members.entry(session);
        member.or_insert_with(|| Member { channel, home: None, subscriptions: BTreeMap::new() })
    }

    fn handle_detach(
        &mut self,
        session: SessionId,
        subscription: SubscriptionId,
    ) -> Option<SpaceName> {
        let feed = self.members.get_mut(&session)?.subscriptions.remove(&subscription)?;
        feed.detach(session, subscription);
        Some(feed.space.clone())
    }

    fn handle_leave(&mut self, session: SessionId) {
        let Some(member) = self.members.remove(&session) else { return };
        for (subscription, feed) in member.subscriptions {
            feed.detach(session, subscription);
            self.settle(feed.space.clone());
        }
        if let Some(space) = member.home {
            self.settle(space);
        }
    }

    /// Admits a push, or defers it while its document's pushes wait.
    pub(super) fn handle_push(&mut self, space: &SpaceName, push: Pushed) {
        let (key, document) = (push.key(), push.document());
        if let Some(refusal) = push.refusal() {
            return self.reject(key, refusal);
        }
        let slot = match Self::open(&mut self.spaces, &self.parts, space) {
            Ok(slot) => slot,
            Err(error) => {
                tracing::error!(%space, error = error.chain(), "cannot admit a push");
                // The error is about the whole space, not about the document.
                return self.reject_for_now(key, StoreFailure::Failed);
            }
        };
        if self.parts.store.is_damaged(space, &document) {
            return self.reject_for_now(key, StoreFailure::Damaged);
        }
        // A session's pushes to a document are admitted in order, so this one must not overtake.
        if slot.deferred.is_deferred(&document) {
            let grant = self.grants.get(&key);
            // Chunks and snapshots have memory of their own.
            let bytes = grant.filter(|_| !push.is_upload()).map_or(0, Grant::bytes);
            let session = grant.map_or(Key::RELAY, Grant::key);
            if !slot.deferred.wait(&document, session, push, bytes) {
                self.reject_for_now(key, StoreFailure::Busy);
            }
            return;
        }
        match push {
            Pushed::Changes(pending_push, loads) => {
                // Repetitions are acknowledged from the store: its copy is checked, and repaired, first.
                if self.parts.store.known_damage(space, &document).is_some() {
                    return self.begin_repair(space, pending_push, loads);
                }
                self.admit_changes(space, pending_push, loads, &BTreeSet::new());
            }
            Pushed::Deletion(entry) => {
                let delete = |machine: &mut Space, view: &Durable<'_>| {
                    machine.handle_deletion(&entry, view, now_ms())
                };
                let push_verdict = self.ask(space, &BTreeSet::new(), delete);
                self.handle_verdict(space, key, 0, push_verdict);
            }
            Pushed::Snapshot(entry, upload, bytes) => {
                self.begin_merge(space, entry, WaitingUpload::Snapshot(upload, bytes));
            }
            Pushed::Chunks(entry, bytes) => {
                self.begin_merge(space, entry, WaitingUpload::Chunks(bytes));
            }
        }
    }

    /// Runs the admission of a push; its `doubted` changes are not acknowledged as repetitions.
    pub(super) fn admit_changes(
        &mut self,
        space: &SpaceName,
        pending_push: PendingPush,
        loads: u8,
        doubted: &BTreeSet<ChangeHash>,
    ) {
        let key = pending_push.key();
        let admit = |machine: &mut Space, view: &Durable<'_>| {
            Ok(machine.handle_push(pending_push, view, now_ms()))
        };
        let push_verdict = self.ask(space, doubted, admit);
        self.handle_verdict(space, key, loads, push_verdict);
    }

    /// Runs an admission in a space's machine, with the store's durable view.
    fn ask(
        &mut self,
        space: &SpaceName,
        doubted: &BTreeSet<ChangeHash>,
        ask: impl FnOnce(&mut Space, &Durable<'_>) -> Result<PushVerdict<StoreError>, StoreError>,
    ) -> Result<PushVerdict<StoreError>, Option<StoreError>> {
        let Some(slot) = self.spaces.get_mut(space) else { return Err(None) };
        let (mut ask, mut push_verdict) = (Some(ask), None);
        let viewed = self.parts.store.with_history(space, &mut |view| {
            if let Some(ask) = ask.take() {
                push_verdict = Some(ask(&mut slot.machine, &Durable { view, doubted }));
            }
        });
        // A verdict counts, even if closing the view failed.
        match push_verdict {
            Some(push_verdict) => push_verdict.map_err(Some),
            None => Err(viewed.err()),
        }
    }

    /// Why an upload is not admitted, if it is not: its author has no right, or the document is deleted.
    pub(super) fn upload_refusal(
        &mut self,
        space: &SpaceName,
        entry: &PushedEntry,
    ) -> Result<Option<Refusal>, StoreFailure> {
        let Some(slot) = self.spaces.get_mut(space) else { return Err(StoreFailure::Failed) };
        let (mut refusal, doubted) = (None, &BTreeSet::new());
        let viewed = self.parts.store.with_history(space, &mut |view| {
            refusal = Some(slot.machine.upload_refusal(&Durable { view, doubted }, entry));
        });
        match (viewed, refusal) {
            (_, Some(Ok(refusal))) => Ok(refusal),
            (_, Some(Err(error))) | (Err(error), None) => {
                tracing::error!(%space, error = error.chain(), "cannot admit a snapshot upload");
                Err(error.failure)
            }
            (Ok(()), None) => Err(StoreFailure::Failed),
        }
    }

    pub(super) fn handle_verdict(
        &mut self,
        space: &SpaceName,
        key: (SessionId, u64),
        loads: u8,
        push_verdict: Result<PushVerdict<StoreError>, Option<StoreError>>,
    ) {
        match push_verdict {
            Ok(PushVerdict::Answered(answer)) => self.answer(answer),
            Ok(PushVerdict::Waits) => {}
            Ok(PushVerdict::Stopped(pending_push, error)) => {
                self.handle_pending_push(space, *pending_push, loads, &error);
            }
            Err(error) => {
                let failure = error.as_ref().map_or(StoreFailure::Failed, |error| error.failure);
                let error = error.map_or_else(String::new, |error| error.chain());
                tracing::error!(%space, error, "cannot admit a push");
                self.reject_for_now(key, failure);
            }
        }
    }

    /// Rejects a push for now; the client retries it.
    pub(super) fn reject_for_now(&mut self, key: (SessionId, u64), failure: StoreFailure) {
        self.reject(key, failure.refusal());
    }

    fn reject(&mut self, (session, push): (SessionId, u64), refusal: Refusal) {
        let (count, through, added, refusal) = (0, None, None, Some(refusal));
        self.answer(PushAnswer { session, push, count, through, added, refusal });
    }

    fn handle_commit(&mut self, space: SpaceName, result: Result<(), StoreError>) -> SpaceName {
        let Some(slot) = self.spaces.get(&space) else { return space };
        let took = slot.commit_began.elapsed();
        // Health before answers: a client with an answer must not then read a different state from `/readyz`.
        match result {
            Ok(()) => {
                self.parts.metrics.committed("durable", took);
                self.store_works();
                self.handle_durable(&space);
            }
            Err(error) => {
                self.parts.metrics.committed("failed", took);
                self.store_failed(&error);
                let failure = match error.failure {
                    // The commit also had other pushes, which are not at fault. Sent again, the damaged one
                    // is rejected before it joins a commit.
                    StoreFailure::Damaged => StoreFailure::Failed,
                    failure => failure,
                };
                self.handle_commit_failed(&space, failure);
            }
        }
        space
    }

    fn handle_durable(&mut self, space: &SpaceName) {
        let Some(slot) = self.spaces.get_mut(space) else { return };
        let Outcome { publish, answers, commit } = slot.machine.handle_committed();
        let feed = Arc::clone(&slot.feed);
        if let Some((_, entries)) = &publish {
            self.parts.metrics.entries_in.inc_by(entries.len() as u64);
        }
        // Subscribers of documents first: an automerge-repo session that is answered then knows everything up
        // to its answer.
        if let Some(commit) = &commit {
            self.parts.fan_out.publish(commit);
        }
        // The author before the feed: its session then knows which entries to leave out.
        answers.into_iter().for_each(|answer| self.answer(answer));
        if let Some((epoch, entries)) = publish {
            feed.publish(epoch, entries);
        }
        // Last: deferred documents may now have all their entries durable.
        self.advance_deferred(space);
    }

    fn handle_commit_failed(&mut self, space: &SpaceName, failure: StoreFailure) {
        let Some(slot) = self.spaces.get_mut(space) else { return };
        let answers = slot.machine.handle_commit_failed(failure);
        // Later entries may depend on the lost ones, so the machine has rejected everything admitted since.
        answers.into_iter().for_each(|answer| self.answer(answer));
        self.advance_deferred(space);
    }

    pub(super) fn answer(&mut self, answer: PushAnswer) {
        self.grants.remove(&(answer.session, answer.push));
        if let Some(refusal) = &answer.refusal {
            self.parts.metrics.rejected(refusal.code);
        }
        // A session that has left needs no answer; its changes are stored all the same.
        if let Some(member) = self.members.get(&answer.session) {
            tell(&member.channel, Event::Answered(answer));
        }
    }

    fn store_works(&mut self) {
        if self.parts.health.store_is_ill() {
            tracing::info!("the store accepts writes again");
        }
        self.parts.health.store_works();
        self.next_probe = None;
    }

    fn store_failed(&mut self, error: &StoreError) {
        tracing::error!(error = error.chain(), "the store rejected a write");
        self.parts.health.store_failed(error.failure);
        self.next_probe = Some(Instant::now() + limits::PROBE_EVERY);
    }

    fn handle_probed(&mut self, result: Result<(), StoreError>) {
        match result {
            Ok(()) => self.store_works(),
            Err(error) => self.store_failed(&error),
        }
    }

    /// Probes a failed store: otherwise an idle relay would stay "not ready" after the operator freed space.
    fn probe_if_due(&mut self) {
        if self.next_probe.is_none_or(|at| at > Instant::now()) {
            return;
        }
        // The next probe is due only after this one's result.
        self.next_probe = None;
        let inbox = Arc::clone(&self.inbox);
        self.parts.store.probe(Box::new(move |result| inbox.put(Command::Probed(result))));
    }
}

impl Slot {
    fn is_idle(&self) -> bool {
        self.machine.is_idle() && self.deferred.is_empty()
    }
}

fn tell(channel: &HubChannel, event: Event) {
    if channel.events.try_send(event).is_err() {
        channel.overflow.notify_one();
    }
}
