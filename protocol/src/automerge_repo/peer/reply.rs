//! The session's messages about a document, and their timing.
//!
//! It sends nothing while changes of the peer are being checked or pushed: once they are durable,
//! the log's heads answer them. It answers from memory if it can, and otherwise queries the store.

use super::document::{Document, LogState, PeerWait, Planned};
use super::{Effect, Peer, Ticket};
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
    Ask,
}

impl Document {
    fn step(&self) -> Step {
        // The next message must announce the peer's own changes, so it waits until they are
        // durable.
        if self.incoming.is_busy() || self.planning {
            return Step::Rest;
        }
        let Some(theirs) = &self.theirs else { return Step::Rest };
        let heads: &[ChangeHash] = match &self.standing {
            None if self.question.is_none() => return Step::Rest,
            None => return Step::Ask,
            Some(LogState::Deleted | LogState::Damaged) => return Step::Rest,
            Some(LogState::Absent) => &[],
            Some(LogState::Present { heads, .. }) => heads,
        };
        // Without an open question, only new entries are sent: from memory, or from the store if the
        // peer lacks older ones.
        let Some((_, need)) = &self.question else {
            return match (!self.has_live(), self.caught_up, self.paging) {
                (true, ..) | (_, false, true) => Step::Rest,
                (_, true, _) => Step::Live,
                (_, false, false) => Step::Ask,
            };
        };
        // Changes needed by hash come from the store. With deferred changes, the answer also requests
        // their dependencies.
        if !need.is_empty() || !self.incoming.deferred.is_empty() {
            return Step::Ask;
        }
        if *theirs == heads {
            return Step::Settled;
        }
        // Known heads say what the peer lacks only if it was sent everything else before.
        match self.caught_up && theirs.iter().all(|head| self.is_durable(head)) {
            true if !self.has_live() => Step::Settled,
            true => Step::Live,
            false => Step::Ask,
        }
    }
}

impl Document {
    /// Approximate bytes of the message that can be built without the store; `None` if there is
    /// none.
    pub(super) fn due_bytes(&self) -> Option<usize> {
        let Some(LogState::Present { heads, .. }) = &self.standing else { return None };
        let live = match self.step() {
            Step::Live => self.live_bytes(),
            Step::Settled => 0,
            Step::Rest | Step::Ask => return None,
        };
        // The heads are encoded twice: as heads, and as the common heads.
        Some(live + 2 * 32 * heads.len())
    }

    /// Whether the message is so small that it needs no memory reservation.
    fn says_little(&self) -> bool {
        match &self.standing {
            Some(LogState::Present { heads, .. }) => {
                heads.len() <= limits::REPO_FEW_HEADS || self.told.as_ref() == Some(heads)
            }
            _ => true,
        }
    }
}

impl Peer {
    pub(super) fn count_live(&mut self, id: DocumentId) {
        let Some(document) = self.documents.get_mut(&id) else { return };
        let (now, before) = document.count_live();
        self.live = self.live.saturating_sub(before) + now;
    }

    /// Takes the next step for a document. Called after every input that may affect it.
    pub(super) fn advance(&mut self, id: DocumentId) {
        if self.ended {
            return;
        }
        self.count_live(id);
        let Some(document) = self.documents.get_mut(&id) else { return };
        let (now, before) = document.count_standing();
        self.standing = self.standing.saturating_sub(before) + now;
        let (now, before) = document.count_kept();
        self.kept = self.kept.saturating_sub(before) + now;
        if self.kept > limits::REPO_KEPT_BYTES {
            return self.let_go(id);
        }
        match document.step() {
            Step::Rest => {}
            Step::Ask => {
                document.planning = true;
                let question = document.question();
                self.effects.push_back(Effect::Plan(self.ticket(id), question));
            }
            Step::Settled if document.says_little() => {
                document.question = None;
                self.settle(id);
            }
            Step::Settled => drop(self.ready.insert(id)),
            Step::Live => {
                document.question = None;
                let (due, now) = (document.due(), self.now);
                match due <= now {
                    true => drop(self.ready.insert(id)),
                    false => drop(self.paced.insert((due, id))),
                }
            }
        }
    }

    /// Sends the message that needs no store query. Memory for it is reserved.
    pub(super) fn tell(&mut self, id: DocumentId) {
        let Some(document) = self.documents.get_mut(&id) else { return };
        match document.step() {
            Step::Live => self.pass_on(id),
            Step::Settled => {
                document.question = None;
                self.settle(id);
            }
            Step::Rest | Step::Ask => {}
        }
    }

    /// Drops a document with more heads and filters than there is room for. The session's others go
    /// on.
    fn let_go(&mut self, id: DocumentId) {
        let Some(document) = self.documents.get_mut(&id) else { return };
        document.let_go();
        let (now, before) = document.count_kept();
        self.kept = self.kept.saturating_sub(before) + now;
        let name = document.name().to_owned();
        self.ignore(format!("document {id}: too many heads and filters at once"));
        self.send_unavailable(&name);
    }

    /// The peer has everything, or is being sent it.
    fn settle(&mut self, id: DocumentId) {
        let Some(document) = self.documents.get_mut(&id) else { return };
        let Some(LogState::Present { heads, last }) = document.standing.clone() else { return };
        if document.theirs.as_ref() == Some(&heads) {
            (document.caught_up, document.sent_through) = (true, last);
            drop(document.take_live());
        }
        document.wanted = PeerWait::No;
        self.count_live(id);
        self.remote_heads(id);
        self.say_once(id, heads);
    }

    /// Sends the heads, unless they are those that were sent last.
    fn say_once(&mut self, id: DocumentId, heads: Vec<ChangeHash>) {
        let told = self.documents.get(&id).and_then(|document| document.told.as_ref());
        if told != Some(&heads) {
            let have = [Have::of(heads.clone())];
            self.send_sync(id, heads, &[], &have, &[], false);
        }
    }

    /// Forwards the recent entries to a peer that has everything before them.
    fn pass_on(&mut self, id: DocumentId) {
        let Some(document) = self.documents.get_mut(&id) else { return };
        let Some(LogState::Present { heads, last }) = document.standing.clone() else { return };
        let live: Vec<NewEntry> = document.take_live();
        document.sent_through = last;
        document.wanted = PeerWait::No;
        document.note_sent(self.now);
        let chunks: Vec<&[u8]> = live.iter().map(|new| new.entry.body.as_slice()).collect();
        let have = [Have::of(heads.clone())];
        self.send_sync(id, heads, &[], &have, &chunks, false);
        self.count_live(id);
    }

    /// Handles the store's answer to a question.
    pub fn handle_planned(&mut self, ticket: Ticket, planned: Planned) {
        let Some(id) = self.of(ticket) else { return };
        let Some(document) = self.documents.get_mut(&id) else { return };
        document.planning = false;
        if std::mem::take(&mut document.stale) {
            document.forget_standing();
            return self.advance(id);
        }
        match planned {
            Planned::Failed => {
                let what = "the relay could not read its store".to_owned();
                self.fail(crate::Code::STORAGE_FAILED, what);
            }
            Planned::LogState(standing) => self.handle_standing(id, standing),
            Planned::Answer { heads, last, unknown, lost, chunks, closing } => {
                document.stand(heads.clone(), last);
                self.answer(id, (heads, last), unknown, lost, &chunks, closing);
            }
        }
        self.advance(id);
    }

    fn handle_standing(&mut self, id: DocumentId, standing: LogState) {
        let Some(document) = self.documents.get_mut(&id) else { return };
        match standing {
            LogState::Deleted => {
                document.delete();
                let name = document.name().to_owned();
                self.send_unavailable(&name);
            }
            LogState::Damaged => {
                // The client receives `unavailable` and keeps its copy. All other documents go on.
                document.close(LogState::Damaged);
                let name = document.name().to_owned();
                self.send_unavailable(&name);
                let what = "it is damaged in the relay's store".to_owned();
                let (document, code) = (id, crate::Code::DAMAGED);
                self.effects.push_back(Effect::Refused { document, code, changes: 0, what });
            }
            LogState::Present { heads, last } => {
                document.stand(heads, last);
                (document.caught_up, document.sent_through) = (true, last);
                if !document.has_live() {
                    self.settle(id);
                }
            }
            LogState::Absent => {
                document.stand_absent();
                self.ask_for_all(id);
            }
        }
    }

    /// The relay has nothing of the document: requests everything that the peer has.
    fn ask_for_all(&mut self, id: DocumentId) {
        let Some(document) = self.documents.get(&id) else { return };
        let theirs = document.theirs.clone().unwrap_or_default();
        if theirs.is_empty() || document.standing != Some(LogState::Absent) {
            // Empty heads are no answer to a request: the client would wait for ever.
            return;
        }
        let have = vec![Have::default()];
        let closing = Closing { have, sent_through: Offset(0), complete: true };
        self.answer(id, (Vec::new(), Offset(0)), theirs, false, &[], closing);
    }

    /// Sends the store's answer.
    fn answer(
        &mut self,
        id: DocumentId,
        (heads, _): (Vec<ChangeHash>, Offset),
        unknown: Vec<ChangeHash>,
        lost: bool,
        chunks: &[Vec<u8>],
        closing: Closing,
    ) {
        let Some(document) = self.documents.get_mut(&id) else { return };
        let Closing { have, sent_through, complete } = closing;
        document.sent_through = document.sent_through.max(sent_through);
        (document.caught_up, document.paging) = (complete, !complete);
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
            self.remote_heads(id);
            return self.say_once(id, heads);
        }
        if chunks.is_empty() && !exact {
            // A peer may announce heads that it never sends, so the requests for them are bounded.
            if document.asks == limits::REPO_ASKS || unknown.iter().all(is_refused) {
                return self.say_once(id, heads);
            }
            document.asks += 1;
        }
        // automerge itself sends an empty `have` while it needs changes that the peer did not
        // announce. The peer then sends only those, and a chain takes one round trip per change. So
        // this message has a `have` beside its `need`.
        document.wanted = PeerWait::No;
        let takes_whole = heads.is_empty() && document.announces_much();
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
        let own = document.read_only.then(|| [Have::of(document.durable_heads())]);
        let says_all = |have: &[Have]| matches!(have, [all] if all.last_sync == heads);
        let have = own.as_ref().filter(|_| says_all(have)).map_or(have, |own| own.as_slice());
        let chunks = if document.read_only { &[] } else { chunks };
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
        document.told = Some(heads);
        self.effects.push_back(Effect::Send(message));
    }
}

#[cfg(test)]
mod tests {
    use super::super::Host;
    use super::*;
    use crate::moment::Moment;
    use crate::patience::Patience;

    #[test]
    fn document_states_count_against_the_memory_budget() {
        let host = Host { peer_id: "relay".to_owned(), storage_id: "storage".to_owned() };
        let mut peer = Peer::new(host, Patience::default(), Moment::default());
        let id = DocumentId::from_bytes([1; 16]);
        assert!(peer.open(id, "document"));
        peer.advance(id);
        let before = peer.state_bytes();
        let heads: Vec<_> = (0..=255).map(|number| ChangeHash([number; 32])).collect();
        peer.documents.get_mut(&id).unwrap().stand(heads.clone(), Offset(1));
        peer.advance(id);
        assert_eq!(peer.state_bytes(), before + 32 * heads.len());
        peer.handle_behind();
        assert_eq!(peer.state_bytes(), before);
    }

    /// A client reads the first page of a long document and never asks for the rest. Other clients
    /// write small changes to it, in commits with large entries of other documents.
    #[test]
    fn recent_commits_keep_no_more_memory_than_is_counted() {
        use crate::frame::Entry;
        use crate::ids::ActorId;
        use std::sync::Arc;

        use crate::relay::{Commit, NewKind};

        const MIB: usize = 1 << 20;
        let host = Host { peer_id: "relay".to_owned(), storage_id: "storage".to_owned() };
        let mut peer = Peer::new(host, Patience::default(), Moment::default());
        let [id, other] = [1, 2].map(|number| DocumentId::from_bytes([number; 16]));
        assert!(peer.open(id, "document"));
        let document = peer.documents.get_mut(&id).unwrap();
        document.theirs = Some(vec![ChangeHash([9; 32])]);
        document.stand(vec![ChangeHash([0; 32])], Offset(1));
        (document.caught_up, document.paging) = (false, true);
        let change = |document, offset: u64, bytes: usize| {
            let mut entry = Entry::of_tombstone(Offset(offset), document, b"me", 0);
            let mut hash = [7; 32];
            hash[..8].copy_from_slice(&offset.to_be_bytes());
            (entry.id, entry.body) = (hash, vec![0; bytes].into());
            let actor = ActorId::from([1; 16]);
            let kind = NewKind::Change { actor, seq: offset, max_op: offset, operations: 1 };
            NewEntry { entry, kind }
        };
        let mut commits = Vec::new();
        for offset in 1..=64 {
            let entries = vec![change(id, 2 * offset, 100), change(other, 2 * offset + 1, 4 * MIB)];
            let space = "space".parse().unwrap();
            let commit = Arc::new(Commit { space, opens: None, entries });
            peer.handle_entry(&commit, 0);
            while peer.poll_effect().is_some() {}
            commits.push(Arc::downgrade(&commit));
        }
        let kept = commits.iter().filter(|commit| commit.upgrade().is_some()).count();
        let (kept, counted) = (4 * MIB * kept, peer.state_bytes());
        let most = counted + limits::REPO_LIVE_BYTES;
        assert!(kept <= most, "{} MiB are kept, {counted} bytes counted", kept / MIB);
    }
}
