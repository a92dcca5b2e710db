//! The session's state of one document that its peer has open: what the peer announced
//! ([`Negotiation`]), what is in the log and was sent ([`LogView`], [`Outgoing`]), and what the peer
//! sent ([`Incoming`]). It sends nothing and reads no store.

use std::collections::VecDeque;

use super::incoming::Incoming;
use super::log_view::{Delivery, Known, Live, LogView, Query};
use super::negotiation::Negotiation;
use crate::automerge_repo::plan::SyncRequest;
use crate::automerge_repo::sync::SyncMessage;
use crate::ids::{ChangeHash, Offset};
use crate::limits;
use crate::moment::Moment;
use crate::relay::NewEntry;

/// The state of one document in a session.
#[derive(Debug)]
pub(super) struct Document {
    /// Its id as the client writes it.
    name: Box<str>,
    pub(super) negotiation: Negotiation,
    pub(super) log: LogView,
    pub(super) query: Query,
    pub(super) outgoing: Outgoing,
    pub(super) incoming: Incoming,
    /// The latest changes that are known to be in the log.
    recent: VecDeque<ChangeHash>,
    counted: Counted,
}

/// What the peer was sent, whatever is known of the log.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    /// The peer was sent everything up to here, or made it.
    pub(super) sent_through: Offset,
    /// The heads that were sent to the peer last.
    pub(super) sent_heads: Option<Vec<ChangeHash>>,
    pace: Pace,
}

/// When entries were forwarded last.
#[derive(Debug, Clone, Copy, Default)]
enum Pace {
    #[default]
    Never,
    /// The peer has sent nothing since.
    Sent(Moment),
    /// The peer has sent a message since.
    Answered(Moment),
}

/// The bytes that the session counted last for a document.
#[derive(Debug, Default)]
struct Counted {
    live: usize,
    kept: usize,
    heads: usize,
}

impl Outgoing {
    /// The earliest time to forward entries.
    pub(super) fn due(&self) -> Moment {
        match self.pace {
            Pace::Never => Moment::default(),
            Pace::Sent(at) => at.after(limits::REPO_UNANSWERED),
            Pace::Answered(at) => at.after(limits::REPO_PACE),
        }
    }

    /// Records that entries were forwarded at `now`.
    pub(super) fn note_sent(&mut self, now: Moment) {
        self.pace = Pace::Sent(now);
    }

    fn note_answer(&mut self) {
        if let Pace::Sent(at) = self.pace {
            self.pace = Pace::Answered(at);
        }
    }
}

impl Document {
    pub(super) fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            negotiation: Negotiation::default(),
            log: LogView::Unknown,
            query: Query::Idle,
            outgoing: Outgoing::default(),
            incoming: Incoming::default(),
            recent: VecDeque::new(),
            counted: Counted::default(),
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Applies a sync message of the peer; true if the peer begins to wait for the document.
    pub(super) fn apply_message(&mut self, message: SyncMessage<'_>, is_request: bool) -> bool {
        let outcome = self.negotiation.apply(message, self.outgoing.sent_heads.as_ref());
        if outcome.restarts {
            self.outgoing.sent_through = Offset(0);
            self.log.set_delivery(Delivery::Behind);
            self.query.outdate();
        }
        if outcome.lost_state {
            self.outgoing.sent_heads = None;
        }
        if let LogView::Known(Known { delivery: delivery @ Delivery::Paging, .. }) = &mut self.log {
            *delivery = Delivery::Behind;
        }
        self.outgoing.note_answer();
        self.log.present().is_none() && self.negotiation.begin_wait(is_request)
    }

    /// The deadline of a request has passed; true if the relay must answer `unavailable`.
    pub(super) fn give_up_request(&mut self) -> bool {
        self.log.present().is_none() && self.negotiation.expire_wait()
    }

    /// Begins a query of the store.
    pub(super) fn begin_query(&mut self) -> SyncRequest {
        self.query = Query::Running(Live::default());
        self.negotiation.take_request(self.outgoing.sent_through)
    }

    /// The query has ended: the entries that arrived meanwhile, or `None` if its answer must be
    /// dropped.
    pub(super) fn end_query(&mut self) -> Option<Live> {
        match std::mem::take(&mut self.query) {
            Query::Running(arrived) => Some(arrived),
            Query::Outdated => {
                self.forget_log();
                None
            }
            Query::Idle => None,
        }
    }

    /// Applies the state that the store returned, and the entries that arrived during the query.
    pub(super) fn set_present(&mut self, heads: Vec<ChangeHash>, last: Offset, arrived: Live) {
        heads.iter().rev().take(limits::REPO_RECENT / 2).for_each(|head| self.note(*head));
        let (delivery, live) = match std::mem::replace(&mut self.log, LogView::Unknown) {
            LogView::Known(Known { delivery, live, .. }) if arrived.is_empty() => (delivery, live),
            _ => (Delivery::Behind, arrived),
        };
        self.log = LogView::Known(Known { heads, last, delivery, live: Live::default() });
        self.replay(live);
    }

    /// Records that the store has no entry of the document; entries that arrived during the query
    /// are applied.
    pub(super) fn set_absent(&mut self, arrived: Live) {
        let live = match std::mem::replace(&mut self.log, LogView::Unknown) {
            LogView::Known(known) if arrived.is_empty() => known.live,
            _ => arrived,
        };
        let (heads, last, delivery) = (Vec::new(), Offset(0), Delivery::CaughtUp);
        self.log = LogView::Known(Known { heads, last, delivery, live: Live::default() });
        self.replay(live);
    }

    fn replay(&mut self, live: Live) {
        for (new, is_own) in live.into_entries() {
            if is_own {
                self.incoming.restore(ChangeHash(new.entry.id));
            }
            self.add_entry(&new);
        }
    }

    /// A change became durable.
    pub(super) fn add_entry(&mut self, new: &NewEntry) {
        let hash = ChangeHash(new.entry.id);
        let is_own = self.incoming.take_durable(&hash);
        self.note(hash);
        let live = match (&mut self.log, &mut self.query) {
            (LogView::Unknown, Query::Running(arrived)) => arrived,
            (LogView::Known(known), query) => {
                if !known.apply(new) {
                    return;
                }
                let is_quiet = !query.is_under_way() && known.live.is_empty();
                if is_own && is_quiet && known.delivery == Delivery::CaughtUp {
                    self.outgoing.sent_through = new.entry.offset;
                    return;
                }
                &mut known.live
            }
            (LogView::Unknown | LogView::Deleted | LogView::Damaged, _) => return,
        };
        if !live.push(new, is_own) {
            self.forget_log();
        }
    }

    /// Drops the known state: the store is queried before the next message.
    pub(super) fn forget_log(&mut self) {
        if self.log.is_closed() {
            return;
        }
        self.query.outdate();
        self.log = LogView::Unknown;
        self.negotiation.reopen_request();
    }

    /// It was deleted: sends nothing more about it.
    pub(super) fn delete(&mut self) {
        self.close(LogView::Deleted);
    }

    /// The store's copy is damaged. Only [`Document::reopen`] ends this.
    pub(super) fn set_damaged(&mut self) {
        self.close(LogView::Damaged);
    }

    fn close(&mut self, log: LogView) {
        self.log = log;
        self.query.outdate();
        self.negotiation.settle_request();
    }

    /// A document closed as damaged can be read again: query the store, if the peer has sent
    /// anything.
    pub(super) fn reopen(&mut self) {
        self.log = LogView::Unknown;
        self.negotiation.reopen_request();
    }

    /// Sends nothing more about the document, and drops the state kept from the peer's messages.
    pub(super) fn drop_state(&mut self) {
        self.set_damaged();
        self.negotiation.forget();
        self.outgoing.sent_heads = None;
        self.incoming.forget_rejected();
    }

    pub(super) fn note(&mut self, hash: ChangeHash) {
        if self.recent.contains(&hash) {
            return;
        }
        if self.recent.len() == limits::REPO_RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(hash);
    }

    /// Whether a change is known to be in the log, or in a push ahead of the next one. False also
    /// when nothing is known.
    pub(super) fn is_familiar(&self, hash: &ChangeHash) -> bool {
        self.incoming.is_pushed(hash) || self.is_durable(hash)
    }

    /// Whether a change is known to be durable. False also when nothing is known.
    pub(super) fn is_durable(&self, hash: &ChangeHash) -> bool {
        let known = self.log.present();
        known.is_some_and(|known| known.heads.binary_search(hash).is_ok())
            || self.recent.contains(hash)
    }

    /// The peer's heads that are known to be durable.
    pub(super) fn durable_heads(&self) -> Vec<ChangeHash> {
        let heads = self.negotiation.heads().into_iter().flatten();
        heads.filter(|head| self.is_durable(head)).copied().collect()
    }

    /// The current bytes of the entries to forward, and those counted last.
    pub(super) fn count_live(&mut self) -> (usize, usize) {
        let now = match (&self.log, &self.query) {
            (LogView::Known(known), _) => known.live.bytes(),
            (LogView::Unknown, Query::Running(arrived)) => arrived.bytes(),
            _ => 0,
        };
        (now, std::mem::replace(&mut self.counted.live, now))
    }

    /// The current bytes of the state kept from the peer's messages, and those counted last.
    pub(super) fn count_kept(&mut self) -> (usize, usize) {
        let sent_heads = self.outgoing.sent_heads.as_ref().map_or(0, Vec::len);
        let now = 32 * (sent_heads + self.incoming.rejected()) + self.negotiation.bytes();
        (now, std::mem::replace(&mut self.counted.kept, now))
    }

    /// The current bytes of the durable heads, and those counted last.
    pub(super) fn count_heads(&mut self) -> (usize, usize) {
        let now = self.log.present().map_or(0, |known| 32 * known.heads.len());
        (now, std::mem::replace(&mut self.counted.heads, now))
    }
}
