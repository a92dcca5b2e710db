//! A session's bounded mailbox: entries, ephemeral messages and repair notices that wait for it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use landfall_protocol::frame::SubscriptionId;
use landfall_protocol::rate::TokenBucket;
use landfall_protocol::relay::Commit;
use landfall_protocol::{ChangeHash, DocumentId, Moment, SessionId, SpaceName};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::Broadcast;
use crate::limits;
use crate::memory::{Account, Class, Grant, ShareKey};

/// An item of the mailbox.
#[derive(Debug, Clone)]
pub(crate) enum Delivery {
    /// A document that the session has open has a new entry: this one of the commit.
    Entry(Arc<Commit>, usize),
    /// An ephemeral message about a document that the session has open.
    Ephemeral(Arc<Broadcast>),
    /// An ephemeral message about a document that a subscription's filter selects.
    FilteredEphemeral(SubscriptionId, Arc<Broadcast>),
    /// A repair request for a document that a subscription's filter selects, or that the session has open.
    ResendRequest(Option<SubscriptionId>, Arc<ResendRequest>),
    /// Such a document is repaired and can be read again.
    Repaired(Option<SubscriptionId>, DocumentId),
}

/// A request to a session to send a damaged document's data again.
#[derive(Debug)]
pub(crate) struct ResendRequest {
    pub(crate) space: SpaceName,
    pub(crate) document: DocumentId,
    /// The changes; empty requests everything.
    pub(crate) changes: Vec<ChangeHash>,
}

/// A session's bounded mailbox. When its limits are reached, it drops all entries and records that, since
/// the session then reads the store; of ephemeral messages it drops the oldest. It does the same when it
/// exceeds [`limits::MAILBOX_FREE_BYTES`] and no memory can be reserved.
pub(crate) struct Mailbox {
    session: SessionId,
    /// The account that pays for the mailbox's memory.
    account: Account,
    waiting: Mutex<MailboxQueue>,
    filled: Notify,
    /// The session's ephemeral budget in bytes, charged once for the sender and once for each recipient.
    ephemeral_limit: Mutex<TokenBucket>,
    /// The zero of the budget's clock.
    start: Instant,
}

#[derive(Default)]
struct MailboxQueue {
    entries: Vec<(Arc<Commit>, usize)>,
    /// Bytes of the commits that the entries keep in memory.
    entry_bytes: usize,
    /// Entries were dropped since the last `take`.
    behind: bool,
    messages: VecDeque<(Option<SubscriptionId>, Arc<Broadcast>)>,
    ephemeral_bytes: usize,
    /// The reserved memory of both, in the steps in which it grew.
    grants: Vec<Grant>,
    /// Repair requests and notices.
    repairing: VecDeque<Delivery>,
}

impl Mailbox {
    /// An empty one.
    pub(crate) fn new(session: SessionId, account: Account) -> Arc<Self> {
        let (rate, burst) = (limits::EPHEMERAL_RATE, limits::EPHEMERAL_BURST);
        let ephemeral_limit = Mutex::new(TokenBucket::new(rate, burst, Moment::default()));
        let (waiting, filled, start) = (Mutex::default(), Notify::new(), Instant::now());
        Arc::new(Self { session, account, waiting, filled, ephemeral_limit, start })
    }

    /// Whether the session may send an ephemeral message: its earlier ones are paid for.
    pub(super) fn may_publish(&self, now: Instant) -> bool {
        self.ephemeral_limit.lock().is_ready(self.moment(now))
    }

    /// Charges the session for an ephemeral message.
    pub(super) fn spend(&self, now: Instant, bytes: usize) {
        self.ephemeral_limit.lock().spend(self.moment(now), bytes as u64);
    }

    fn moment(&self, now: Instant) -> Moment {
        Moment(now.saturating_duration_since(self.start))
    }

    /// The session that reads it.
    pub(crate) fn session(&self) -> SessionId {
        self.session
    }

    /// The share of its memory account.
    pub(crate) fn share(&self) -> ShareKey {
        self.account.share()
    }

    /// Removes and returns all items: entries by ascending offset, ephemeral messages, repair notices. True
    /// if entries were dropped: the session must read the store.
    pub(crate) fn take(&self) -> (Vec<Delivery>, bool) {
        let (deliveries, behind, _) = self.take_with_memory();
        (deliveries, behind)
    }

    /// As [`Mailbox::take`], with the memory that the items hold.
    pub(crate) fn take_with_memory(&self) -> (Vec<Delivery>, bool, Option<Grant>) {
        let waiting = std::mem::take(&mut *self.waiting.lock());
        let MailboxQueue { entries, behind, messages, repairing, grants, .. } = waiting;
        let grant = grants.into_iter().reduce(Grant::and);
        let entries = entries.into_iter().map(|(commit, at)| Delivery::Entry(commit, at));
        let messages = messages.into_iter().map(|(through, message)| match through {
            None => Delivery::Ephemeral(message),
            Some(subscription) => Delivery::FilteredEphemeral(subscription, message),
        });
        (entries.chain(messages).chain(repairing).collect(), behind, grant)
    }

    /// Waits until the mailbox is not empty. One task waits at a time; cancelling it loses nothing.
    pub(crate) async fn wait(&self) {
        while self.waiting.lock().is_empty() {
            self.filled.notified().await;
        }
    }

    /// Adds an entry of a commit of `bytes` bytes.
    pub(super) fn put_entry(&self, commit: &Arc<Commit>, at: usize, bytes: usize) {
        {
            let mut waiting = self.waiting.lock();
            if waiting.behind {
                return;
            }
            let last = waiting.entries.last();
            // The entries of one commit arrive consecutively, so its bytes are counted once.
            let is_counted = last.is_some_and(|(last, _)| Arc::ptr_eq(last, commit));
            let bytes = waiting.entry_bytes + if is_counted { 0 } else { bytes };
            let too_many = waiting.entries.len() >= limits::MAILBOX_ENTRIES;
            let is_much = too_many || bytes > limits::MAILBOX_ENTRY_BYTES;
            let all = bytes + waiting.ephemeral_bytes;
            if is_much || !waiting.has_memory(&self.account, all) {
                waiting.entries = Vec::new();
                waiting.entry_bytes = 0;
                waiting.behind = true;
                waiting.return_memory();
            } else {
                waiting.entries.push((Arc::clone(commit), at));
                waiting.entry_bytes = bytes;
            }
        }
        self.filled.notify_one();
    }

    /// Adds an ephemeral message; returns how many older ones it dropped for it.
    pub(super) fn put_ephemeral(
        &self,
        message: Arc<Broadcast>,
        through: Option<SubscriptionId>,
    ) -> usize {
        let mut dropped = 0;
        {
            let mut waiting = self.waiting.lock();
            waiting.ephemeral_bytes += message.weight();
            waiting.messages.push_back((through, message));
            while !waiting.may_keep_ephemeral(&self.account) {
                let Some((_, oldest)) = waiting.messages.pop_front() else { break };
                waiting.ephemeral_bytes -= oldest.weight();
                dropped += 1;
            }
        }
        self.filled.notify_one();
        dropped
    }

    /// Adds a repair request.
    pub(crate) fn put_request(&self, through: Option<SubscriptionId>, request: Arc<ResendRequest>) {
        self.put_repair(Delivery::ResendRequest(through, request));
    }

    /// Adds the notice that a document was repaired.
    pub(crate) fn put_repaired(&self, through: Option<SubscriptionId>, document: DocumentId) {
        self.put_repair(Delivery::Repaired(through, document));
    }

    fn put_repair(&self, deliveries: Delivery) {
        {
            let mut waiting = self.waiting.lock();
            if waiting.repairing.len() >= limits::MAILBOX_REPAIRS {
                waiting.repairing.pop_front();
            }
            waiting.repairing.push_back(deliveries);
        }
        self.filled.notify_one();
    }

    #[cfg(test)]
    pub(super) fn waiting_entries(&self) -> usize {
        self.waiting.lock().entries.len()
    }
}

impl MailboxQueue {
    fn is_empty(&self) -> bool {
        let nothing =
            self.entries.is_empty() && self.messages.is_empty() && self.repairing.is_empty();
        nothing && !self.behind
    }

    /// Whether the ephemeral messages are within their limit and have memory.
    fn may_keep_ephemeral(&mut self, account: &Account) -> bool {
        self.ephemeral_bytes <= limits::MAILBOX_EPHEMERAL_BYTES
            && self.has_memory(account, self.ephemeral_bytes + self.entry_bytes)
    }

    /// Whether the mailbox has memory for `bytes` bytes in all; reserves more if it lacks some.
    fn has_memory(&mut self, account: &Account, bytes: usize) -> bool {
        let lacks = bytes.saturating_sub(self.memory());
        if lacks > 0 {
            // Doubles the memory, so that there are few grants.
            let more = lacks.max(self.memory());
            self.grants.extend(account.try_reserve(Class::Answer, more));
        }
        bytes <= self.memory()
    }

    fn memory(&self) -> usize {
        limits::MAILBOX_FREE_BYTES + self.grants.iter().map(Grant::bytes).sum::<usize>()
    }

    /// Returns the reserved memory if the rest fits into the free bytes.
    fn return_memory(&mut self) {
        if self.ephemeral_bytes + self.entry_bytes <= limits::MAILBOX_FREE_BYTES {
            self.grants = Vec::new();
        }
    }
}

impl Broadcast {
    pub(super) fn weight(&self) -> usize {
        let content = self.data.len() + self.sender.len() + self.session.len();
        content + limits::EPHEMERAL_OVERHEAD_BYTES
    }
}
