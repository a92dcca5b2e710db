//! The session's messages about a document, and their timing.
//!
//! It sends nothing while changes of the peer are being checked or pushed: once they are durable,
//! the log's heads answer them. It answers from memory if it can, and otherwise queries the store.

#[cfg(test)]
mod tests;

use super::document::Document;
use super::log_view::{Delivery, Live, LogState, LogView, Planned};
use super::{Peer, PeerEffect, Ticket};
use crate::automerge_repo::message::{Message, Sync};
use crate::automerge_repo::plan::Closing;
use crate::automerge_repo::sync::{Have, Reply};
use crate::ids::{ChangeHash, DocumentId, Offset};
use crate::limits;
use crate::relay::NewEntry;

/// The next step for a document, from the session's own state.
enum Step {
    /// Nothing to do.
    Rest,
    /// The peer has everything, or was sent it: at most the heads are sent.
    Settled,
    /// The peer lacks the recent entries.
    Live,
    /// The store must be queried.
    Query,
}

impl Document {
    fn step(&self) -> Step {
        // The next message must announce the peer's own changes, so it waits until they are
        // durable.
        if self.incoming.is_busy() || self.query.is_under_way() {
            return Step::Rest;
        }
        let Some(announced) = &self.negotiation.announced else { return Step::Rest };
        let known = match &self.log {
            LogView::Unknown if announced.request.is_none() => return Step::Rest,
            LogView::Unknown => return Step::Query,
            LogView::Deleted | LogView::Damaged => return Step::Rest,
            LogView::Known(known) => known,
        };
        // Without an open request, only new entries are sent: from memory, or from the store if the
        // peer lacks older ones.
        let Some(request) = &announced.request else {
            return match known.delivery {
                _ if known.live.is_empty() => Step::Rest,
                Delivery::CaughtUp => Step::Live,
                Delivery::Paging => Step::Rest,
                Delivery::Behind => Step::Query,
            };
        };
        // Changes needed by hash come from the store. With deferred changes, the answer also requests
        // their dependencies.
        if !request.need.is_empty() || !self.incoming.deferred.is_empty() {
            return Step::Query;
        }
        if announced.heads == known.heads {
            return Step::Settled;
        }
        // Known heads say what the peer lacks only if it was sent everything else before.
        let is_caught_up = known.delivery == Delivery::CaughtUp;
        match is_caught_up && announced.heads.iter().all(|head| self.is_durable(head)) {
            true if known.live.is_empty() => Step::Settled,
            true => Step::Live,
            false => Step::Query,
        }
    }

    /// Approximate bytes of the message that can be built without the store; `None` if there is
    /// none.
    pub(super) fn due_bytes(&self) -> Option<usize> {
        let known = self.log.present()?;
        let live = match self.step() {
            Step::Live => known.live.bytes(),
            Step::Settled => 0,
            Step::Rest | Step::Query => return None,
        };
        // The heads are encoded twice: as heads, and as the common heads.
        Some(live + 2 * 32 * known.heads.len())
    }

    /// Whether the message is so small that it needs no memory reservation.
    fn is_answer_small(&self) -> bool {
        self.log.present().is_none_or(|known| {
            known.heads.len() <= limits::REPO_FEW_HEADS
                || self.outgoing.sent_heads.as_ref() == Some(&known.heads)
        })
    }
}

impl Peer {
    pub(super) fn count_live(&mut self, id: DocumentId) {
        let Some(document) = self.documents.get_mut(&id) else { return };
        let (now, before) = document.count_live();
        self.live_bytes = self.live_bytes.saturating_sub(before) + now;
    }

    /// Takes the next step for a document. Called after every input that may affect it.
    pub(super) fn advance(&mut self, id: DocumentId) {
        if self.ended {
            return;
        }
        self.count_live(id);
        let Some(document) = self.documents.get_mut(&id) else { return };
        let (now, before) = document.count_heads();
        self.heads_bytes = self.heads_bytes.saturating_sub(before) + now;
        let (now, before) = document.count_kept();
        self.kept_bytes = self.kept_bytes.saturating_sub(before) + now;
        if self.kept_bytes > limits::REPO_KEPT_BYTES {
            return self.drop_state(id);
        }
        match document.step() {
            Step::Rest => {}
            Step::Query => {
                let request = document.begin_query();
                self.effects.push_back(PeerEffect::Plan(self.ticket(id), request));
            }
            Step::Settled if document.is_answer_small() => {
                document.negotiation.settle_request();
                self.settle(id);
            }
            Step::Settled => drop(self.ready.insert(id)),
            Step::Live => {
                document.negotiation.settle_request();
                let (due, now) = (document.outgoing.due(), self.now);
                match due <= now {
                    true => drop(self.ready.insert(id)),
                    false => drop(self.paced.insert((due, id))),
                }
            }
        }
    }

    /// Sends the message that needs no store query. Memory for it is reserved.
    pub(super) fn send_due(&mut self, id: DocumentId) {
        let Some(document) = self.documents.get_mut(&id) else { return };
        match document.step() {
            Step::Live => self.forward_live(id),
            Step::Settled => {
                document.negotiation.settle_request();
                self.settle(id);
            }
            Step::Rest | Step::Query => {}
        }
    }

    /// Drops a document with more heads and filters than there is room for. The session's others go
    /// on.
    fn drop_state(&mut self, id: DocumentId) {
        let Some(document) = self.documents.get_mut(&id) else { return };
        document.drop_state();
        let (now, before) = document.count_kept();
        self.kept_bytes = self.kept_bytes.saturating_sub(before) + now;
        let name = document.name().to_owned();
        self.ignore(format!("document {id}: too many heads and filters at once"));
        self.send_unavailable(&name);
    }

    /// The peer has everything, or is being sent it.
    fn settle(&mut self, id: DocumentId) {
        let Some(document) = self.documents.get_mut(&id) else { return };
        let LogView::Known(known) = &mut document.log else { return };
        if known.heads.is_empty() {
            return;
        }
        if document.negotiation.heads() == Some(&known.heads) {
            known.delivery = Delivery::CaughtUp;
            known.live = Live::default();
            document.outgoing.sent_through = known.last;
        }
        let heads = known.heads.clone();
        document.negotiation.end_wait();
        self.count_live(id);
        self.report_heads(id);
        self.send_heads_once(id, heads);
    }

    /// Sends the heads, unless they are those that were sent last.
    fn send_heads_once(&mut self, id: DocumentId, heads: Vec<ChangeHash>) {
        let document = self.documents.get(&id);
        let sent = document.and_then(|document| document.outgoing.sent_heads.as_ref());
        if sent != Some(&heads) {
            let have = [Have::of(heads.clone())];
            self.send_sync(id, heads, &[], &have, &[], false);
        }
    }

    /// Forwards the recent entries to a peer that has everything before them.
    fn forward_live(&mut self, id: DocumentId) {
        let Some(document) = self.documents.get_mut(&id) else { return };
        let LogView::Known(known) = &mut document.log else { return };
        let heads = known.heads.clone();
        let live: Vec<NewEntry> = known.live.take_others();
        document.outgoing.sent_through = known.last;
        document.outgoing.note_sent(self.now);
        document.negotiation.end_wait();
        let chunks: Vec<&[u8]> = live.iter().map(|new| new.entry.body.as_slice()).collect();
        let have = [Have::of(heads.clone())];
        self.send_sync(id, heads, &[], &have, &chunks, false);
        self.count_live(id);
    }

    /// Handles the store's answer to a query.
    pub fn handle_planned(&mut self, ticket: Ticket, planned: Planned) {
        let Some(id) = self.of(ticket) else { return };
        let Some(document) = self.documents.get_mut(&id) else { return };
        let Some(arrived) = document.end_query() else { return self.advance(id) };
        match planned {
            Planned::Failed => {
                let what = "the relay could not read its store".to_owned();
                self.fail(crate::Code::STORAGE_FAILED, what);
            }
            Planned::LogState(state) => self.handle_log_state(id, state, arrived),
            Planned::Answer { heads, last, unknown, lost, chunks, closing } => {
                document.set_present(heads.clone(), last, arrived);
                self.answer(id, heads, unknown, lost, &chunks, closing);
            }
        }
        self.advance(id);
    }

    fn handle_log_state(&mut self, id: DocumentId, state: LogState, arrived: Live) {
        let Some(document) = self.documents.get_mut(&id) else { return };
        match state {
            LogState::Deleted => {
                document.delete();
                let name = document.name().to_owned();
                self.send_unavailable(&name);
            }
            LogState::Damaged => {
                // The client receives `unavailable` and keeps its copy. All other documents go on.
                document.set_damaged();
                let name = document.name().to_owned();
                self.send_unavailable(&name);
                let what = "it is damaged in the relay's store".to_owned();
                let (document, code) = (id, crate::Code::DAMAGED);
                self.effects.push_back(PeerEffect::Refused { document, code, changes: 0, what });
            }
            LogState::Present { heads, last } => {
                document.set_present(heads, last, arrived);
                document.log.set_delivery(Delivery::CaughtUp);
                document.outgoing.sent_through = last;
                if document.log.present().is_some_and(|known| known.live.is_empty()) {
                    self.settle(id);
                }
            }
            LogState::Absent => {
                document.set_absent(arrived);
                self.ask_for_all(id);
            }
        }
    }

    /// The relay has nothing of the document: requests everything that the peer has.
    fn ask_for_all(&mut self, id: DocumentId) {
        let Some(document) = self.documents.get(&id) else { return };
        if document.negotiation.has_nothing() || !document.log.is_absent() {
            // Empty heads are no answer to a request: the client would wait for ever.
            return;
        }
        let theirs = document.negotiation.heads().cloned().unwrap_or_default();
        let have = vec![Have::default()];
        let closing = Closing { have, sent_through: Offset(0), complete: true };
        self.answer(id, Vec::new(), theirs, false, &[], closing);
    }

    /// Sends the store's answer.
    fn answer(
        &mut self,
        id: DocumentId,
        heads: Vec<ChangeHash>,
        unknown: Vec<ChangeHash>,
        lost: bool,
        chunks: &[Vec<u8>],
        closing: Closing,
    ) {
        let Some(document) = self.documents.get_mut(&id) else { return };
        let Closing { have, sent_through, complete } = closing;
        document.outgoing.sent_through = document.outgoing.sent_through.max(sent_through);
        document.log.set_delivery(if complete { Delivery::CaughtUp } else { Delivery::Paging });
        let missing = document.incoming.deferred.missing();
        let is_refused = |hash: &ChangeHash| document.incoming.is_rejected(hash);
        // If common changes are lost here, the empty `have` of the plan requests everything
        // instead.
        let mut need = if lost { Vec::new() } else { missing };
        if need.is_empty() && !lost {
            need.clone_from(&unknown);
        }
        // A rejected change would be rejected again.
        need.retain(|hash| !is_refused(hash));
        let exact = unknown.is_empty();
        if chunks.is_empty() && exact && need.is_empty() {
            self.report_heads(id);
            return self.send_heads_once(id, heads);
        }
        if chunks.is_empty() && !exact {
            // A peer may announce heads that it never sends, so the requests for them are bounded.
            if unknown.iter().all(is_refused) || !document.negotiation.count_ask() {
                return self.send_heads_once(id, heads);
            }
        }
        // automerge itself sends an empty `have` while it needs changes that the peer did not
        // announce. The peer then sends only those, and a chain takes one round trip per change. So
        // this message has a `have` beside its `need`.
        document.negotiation.end_wait();
        let takes_whole = heads.is_empty() && document.negotiation.announces_much();
        let chunks: Vec<&[u8]> = chunks.iter().map(Vec::as_slice).collect();
        self.send_sync(id, heads, &need, &have, &chunks, takes_whole);
    }

    pub(super) fn send_sync(
        &mut self,
        id: DocumentId,
        heads: Vec<ChangeHash>,
        need: &[ChangeHash],
        have: &[Have],
        chunks: &[&[u8]],
        takes_whole: bool,
    ) {
        let (Some(remote), Some(document)) = (&self.remote, self.documents.get_mut(&id)) else {
            return;
        };
        // A read-only peer does not get the relay's changes. If `have` named heads that it lacks,
        // it would answer with nothing but a request for everything.
        let is_read_only = document.negotiation.is_read_only();
        let own = is_read_only.then(|| [Have::of(document.durable_heads())]);
        let says_all = |have: &[Have]| matches!(have, [all] if all.last_sync == heads);
        let have = own.as_ref().filter(|_| says_all(have)).map_or(have, |own| own.as_slice());
        let chunks = if is_read_only { &[] } else { chunks };
        let data = match (Reply { heads: &heads, need, have, chunks, takes_whole }).encode() {
            Ok(data) => data,
            Err(error) => {
                // Only this document cannot be sent. The session's others can.
                let name = document.name().to_owned();
                self.ignore(format!("document {id} cannot be sent: {error}"));
                return self.send_unavailable(&name);
            }
        };
        let message = Message::Sync(Sync {
            document: document.name(),
            sender: &self.host.peer_id,
            target: &remote.peer_id,
            data: &data,
        });
        let message = message.encode();
        document.outgoing.sent_heads = Some(heads);
        self.effects.push_back(PeerEffect::Send(message));
    }
}
