//! What the peer has announced about a document, what it waits for, and what the relay requested
//! from it.

use crate::automerge_repo::plan::SyncRequest;
use crate::automerge_repo::sync::{Have, SyncMessage};
use crate::ids::{ChangeHash, Offset};
use crate::limits;

/// Whether the peer waits for a document that the relay does not have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Wait {
    /// It does not wait.
    #[default]
    No,
    /// It requested the document; the relay answers `unavailable` after
    /// [`limits::REPO_REQUEST_WAIT`].
    Requested,
    /// The relay answered `unavailable`.
    Unavailable,
}

/// The peer's last sync message.
#[derive(Debug)]
pub(super) struct Announced {
    /// Its heads, ascending.
    pub(super) heads: Vec<ChangeHash>,
    /// The rest of the message, until it is answered.
    pub(super) request: Option<Request>,
    /// The peer accepts no changes.
    read_only: bool,
    /// The number of changes that the peer has beyond those known to be common.
    changes: u32,
    /// The number of requests for the changes of these heads.
    asks: u8,
    /// The number of repeated announcements of heads that the peer has already.
    reminders: u8,
}

/// The part of a sync message that an answer settles.
#[derive(Debug, Default)]
pub(super) struct Request {
    /// The peer's last common heads, and filters over its later changes.
    pub(super) have: Vec<Have>,
    /// The changes that it requests.
    pub(super) need: Vec<ChangeHash>,
}

/// What a sync message changes for the relay's side.
#[derive(Debug, Clone, Copy)]
pub(super) struct MessageOutcome {
    /// The peer requests everything again.
    pub(super) restarts: bool,
    /// The peer lost its sync state: the heads that it was sent count as not sent.
    pub(super) lost_state: bool,
}

/// The peer's side of a document.
#[derive(Debug, Default)]
pub(super) struct Negotiation {
    /// `None` before its first message.
    pub(super) announced: Option<Announced>,
    wait: Wait,
    /// The peer's heads when it last requested everything.
    restarted_at: Option<Vec<ChangeHash>>,
    /// The relay has requested the peer's copy for repair, and has no answer yet.
    is_resend_requested: bool,
    /// The peer's heads that were reported to other sessions last.
    reported: Option<Vec<ChangeHash>>,
}

impl Negotiation {
    /// Applies a sync message. `sent_heads`: the heads that the peer was sent last.
    pub(super) fn apply(
        &mut self,
        message: SyncMessage<'_>,
        sent_heads: Option<&Vec<ChangeHash>>,
    ) -> MessageOutcome {
        let SyncMessage { mut heads, need, have, chunks, flags } = message;
        heads.sort_unstable();
        let forgets = flags.is_some_and(|flags| flags.reset) || heads.is_empty();
        let asks_all = matches!(&have[..], [have] if *have == Have::default())
            && chunks.is_empty()
            && self.restarted_at.as_ref() != Some(&heads);
        let restarts = forgets || asks_all;
        if restarts {
            // Once for the same heads: a peer that cannot apply what it is sent must not cause an
            // endless loop.
            self.restarted_at = Some(heads.clone());
        }
        let (asks, mut reminders) = match &self.announced {
            Some(before) if before.heads == heads => (before.asks, before.reminders),
            _ => (0, 0),
        };
        // The peer has the announced heads, but names nothing as common: it has lost its sync
        // state. automerge itself would never send these heads again.
        let lost_state = !forgets
            && matches!(&have[..], [have] if have.last_sync.is_empty())
            && sent_heads == Some(&heads)
            && reminders < limits::REPO_ASKS;
        reminders += u8::from(lost_state);
        self.announced = Some(Announced {
            heads,
            read_only: flags.is_some_and(|flags| flags.read_only),
            changes: have.iter().map(|have| have.entries).max().unwrap_or_default(),
            request: Some(Request { have, need }),
            asks,
            reminders,
        });
        MessageOutcome { restarts, lost_state }
    }

    /// After a message: begins to wait if the peer has nothing of a document that the relay lacks
    /// too; true if it begins. `is_request`: the message is a `request`. Every repeated request
    /// gets its own `unavailable`: another handle in the same application may be waiting.
    pub(super) fn begin_wait(&mut self, is_request: bool) -> bool {
        let waits = match self.wait {
            Wait::No => false,
            Wait::Requested => true,
            Wait::Unavailable => !is_request,
        };
        let begins = self.has_nothing() && !waits;
        if begins {
            self.wait = Wait::Requested;
        }
        begins
    }

    /// The peer is sent the document, or has it.
    pub(super) fn end_wait(&mut self) {
        self.wait = Wait::No;
    }

    /// The deadline of a request has passed; true if the relay must answer `unavailable`.
    pub(super) fn expire_wait(&mut self) -> bool {
        let expires = self.wait == Wait::Requested;
        if expires {
            self.wait = Wait::Unavailable;
        }
        expires
    }

    /// The peer's heads; `None` before its first message.
    pub(super) fn heads(&self) -> Option<&Vec<ChangeHash>> {
        self.announced.as_ref().map(|announced| &announced.heads)
    }

    /// Whether the peer has nothing of the document, as far as it said.
    pub(super) fn has_nothing(&self) -> bool {
        self.heads().is_none_or(Vec::is_empty)
    }

    /// Whether the peer has so many changes that it should send the document whole.
    pub(super) fn announces_much(&self) -> bool {
        let changes = self.announced.as_ref().map_or(0, |announced| announced.changes);
        changes >= limits::REPO_WHOLE_CHANGES
    }

    pub(super) fn is_read_only(&self) -> bool {
        self.announced.as_ref().is_some_and(|announced| announced.read_only)
    }

    /// Counts a request for the announced changes; false if there were too many. A peer may
    /// announce heads that it never sends.
    pub(super) fn count_ask(&mut self) -> bool {
        let Some(announced) = &mut self.announced else { return false };
        let may_ask = announced.asks < limits::REPO_ASKS;
        announced.asks += u8::from(may_ask);
        may_ask
    }

    /// Takes the open request, for the store.
    pub(super) fn take_request(&mut self, sent_through: Offset) -> SyncRequest {
        let Some(announced) = &mut self.announced else {
            return SyncRequest { sent_through, ..SyncRequest::default() };
        };
        let Request { have, need } = announced.request.take().unwrap_or_default();
        SyncRequest { heads: announced.heads.clone(), have, need, sent_through }
    }

    /// The request was answered without the store.
    pub(super) fn settle_request(&mut self) {
        if let Some(announced) = &mut self.announced {
            announced.request = None;
        }
    }

    /// A peer that has sent anything must get another answer: opens a request, unless one is open.
    pub(super) fn reopen_request(&mut self) {
        if let Some(announced) = &mut self.announced {
            announced.request.get_or_insert_default();
        }
    }

    /// The relay requests the peer's copy.
    pub(super) fn request_resend(&mut self) {
        self.is_resend_requested = true;
    }

    /// A message arrived: true if it answers the relay's request for the peer's copy.
    pub(super) fn take_resend(&mut self) -> bool {
        std::mem::take(&mut self.is_resend_requested)
    }

    /// The peer's heads, if they were not reported to other sessions yet; now they are.
    pub(super) fn take_unreported(&mut self) -> Option<&Vec<ChangeHash>> {
        let heads = &self.announced.as_ref()?.heads;
        if self.reported.as_ref() == Some(heads) {
            return None;
        }
        self.reported = Some(heads.clone());
        self.reported.as_ref()
    }

    /// Drops what was kept from the peer's messages.
    pub(super) fn forget(&mut self) {
        (self.announced, self.reported, self.restarted_at) = (None, None, None);
    }

    /// Bytes that are kept from the peer's messages.
    pub(super) fn bytes(&self) -> usize {
        let heads = [self.heads(), self.reported.as_ref(), self.restarted_at.as_ref()];
        let heads = heads.into_iter().flatten().map(Vec::len).sum::<usize>();
        let request = self.announced.as_ref().and_then(|announced| announced.request.as_ref());
        32 * heads + request.map_or(0, Request::bytes)
    }
}

impl Request {
    fn bytes(&self) -> usize {
        let of = |have: &Have| 32 * have.last_sync.len() + have.bytes;
        32 * self.need.len() + self.have.iter().map(of).sum::<usize>()
    }
}
