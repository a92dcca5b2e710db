//! Queries about the relay's documents: digests, and documents outside the log's order. Reads no
//! store: the caller answers.

use super::{Session, SessionEffect};
use crate::code::Code;
use crate::digest::Branch;
use crate::frame::{
    Difference, DigestQuery, EncodedEntry, Fetch, Frame, Holding, SubscriptionId, encode_document,
};
use crate::ids::{DocumentId, Offset};

impl Session {
    pub(super) fn handle_digest(&mut self, query: DigestQuery) {
        let DigestQuery { subscription, prefixes } = query;
        let Some(entry) = self.subscriptions.get(&subscription) else {
            return self.fail_unknown(subscription);
        };
        if prefixes.is_empty() || !prefixes.iter().all(|prefix| prefix.is_valid()) {
            let what = "a digest query without a prefix, or with an invalid one".to_owned();
            return self.fail(Code::MALFORMED, what, "see docs/protocol.md");
        }
        let (space, ticket, view) = (entry.space.clone(), entry.ticket, entry.view.clone());
        self.queries += 1;
        let query = SessionEffect::Digest { subscription, ticket, space, view, prefixes };
        self.effects.push_back(query);
    }

    pub(super) fn handle_fetch(&mut self, fetch: Fetch) {
        let Fetch { subscription, wants } = fetch;
        let Some(entry) = self.subscriptions.get_mut(&subscription) else {
            return self.fail_unknown(subscription);
        };
        if wants.is_empty() || !wants.iter().all(|want| entry.filter.wants(&want.document)) {
            let what = "a fetch of no document, or of one outside the filter".to_owned();
            return self.fail(Code::MALFORMED, what, "change the filter first");
        }
        let (space, ticket, view) = (entry.space.clone(), entry.ticket, entry.view.clone());
        (entry.fetching, entry.partial) = (true, None);
        self.queries += 1;
        let query = SessionEffect::Fetch { subscription, ticket, space, view, wants };
        self.effects.push_back(query);
    }

    /// The branches below the requested prefixes.
    pub fn handle_branches(
        &mut self,
        subscription: SubscriptionId,
        ticket: u64,
        head: Offset,
        branches: Vec<Branch>,
    ) {
        self.queries = self.queries.saturating_sub(1);
        if !self.is_current(subscription, ticket) {
            return;
        }
        self.send(Frame::Difference(Difference { subscription, head, branches }));
    }

    /// A fetch was completely answered.
    pub fn handle_fetched(&mut self, subscription: SubscriptionId, ticket: u64) {
        self.queries = self.queries.saturating_sub(1);
        let entry = self.subscriptions.get_mut(&subscription);
        if let Some(entry) = entry.filter(|entry| entry.ticket == ticket) {
            entry.fetching = false;
        }
    }

    /// Whether the subscription has this ticket, and is not a later one with its number.
    pub fn is_current(&self, subscription: SubscriptionId, ticket: u64) -> bool {
        self.subscriptions.get(&subscription).is_some_and(|entry| entry.ticket == ticket)
    }

    /// The store could not answer a query. The caller ends its subscription with the reason.
    pub fn handle_query_failed(&mut self) {
        self.queries = self.queries.saturating_sub(1);
    }

    /// Entries of a fetched document, as an encoded message.
    pub fn document_frame(
        subscription: SubscriptionId,
        document: DocumentId,
        holding: Holding,
        entries: &[EncodedEntry],
        more: bool,
    ) -> Vec<u8> {
        encode_document(subscription, document, holding, entries, more)
    }
}
