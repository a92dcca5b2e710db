//! Answers a relay's resend requests, and handles its notice that a document is repaired.

use std::sync::Arc;

use landfall_protocol::client::Resendable as Found;
use landfall_protocol::weight::Weight;
use landfall_protocol::{ChangeHash, DocumentId, SpaceName};

use super::{Outcome, Performer};
use crate::store::{self, LocalLog, Resendable, SpaceRow};

impl Performer {
    /// Reads the requested changes, on the arrivals thread: building a snapshot costs as much as
    /// opening one.
    pub(super) fn load_resend(
        &self,
        space: SpaceName,
        document: DocumentId,
        changes: Vec<ChangeHash>,
    ) {
        let Some(row) = self.row(&space) else { return };
        let (log, pending_reply) = (self.log.clone(), self.pending_reply(row, 0));
        self.arrivals.run(self.connection, false, move || {
            let answer = answer(&log, row, document, &changes);
            pending_reply.give(Outcome::Resendable(space, document, answer));
        });
    }

    /// The relay can read a document again: if it was reported as damaged, the space is compared, and
    /// changes that were rejected for the damage are sent again.
    pub(super) fn repaired(&self, space: &SpaceName, document: &DocumentId) {
        let Some(row) = self.row(space) else { return };
        match self.log.is_refused_as_damaged(row, document) {
            Ok(true) => {
                let (commands, document) = (Arc::clone(&self.commands), *document);
                let done = self.counted(row, move |()| {
                    commands.retried(row, document);
                    Outcome::Settled
                });
                self.log.submit_retry(row, document, done);
            }
            Ok(false) => {}
            Err(error) => tracing::warn!(%error, "cannot read which changes the relay rejected"),
        }
        match self.log.damaged_at_relay(row) {
            Ok(damaged) if damaged.iter().any(|of| of.is_none_or(|of| of == *document)) => {
                self.commands.check(row);
            }
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(%error, "cannot read which entries are damaged at the relay")
            }
        }
    }
}

/// The answer to a resend request.
pub(super) struct ResendAnswer {
    pub(super) found: Found,
    /// The bytes of a snapshot that was built for it.
    pub(super) made: Option<Vec<u8>>,
    /// The weight of that snapshot, also if building it failed.
    pub(super) compacted: Weight,
}

impl ResendAnswer {
    fn of(changes: Vec<Vec<u8>>, compacted: Weight) -> Self {
        Self { found: Found::Changes(changes), made: None, compacted }
    }
}

/// A document that is damaged here as well has an empty answer: that is no reason to end the session.
fn answer(
    log: &LocalLog,
    row: SpaceRow,
    document: DocumentId,
    changes: &[ChangeHash],
) -> ResendAnswer {
    let (input, compacted) = match log.resendable(row, &document, changes) {
        Ok(Resendable::Changes(changes)) => return ResendAnswer::of(changes, Weight::default()),
        Ok(Resendable::Whole(input, weight)) => (input, weight),
        Err(error) => {
            tracing::warn!(%document, %error, "cannot read the changes that the relay requests");
            return ResendAnswer::of(Vec::new(), Weight::default());
        }
    };
    match store::whole(input) {
        Ok(made) => {
            let (hash, total) = (made.hash, made.snapshot.len() as u64);
            let found = Found::Snapshot { hash, total, heads: made.heads };
            ResendAnswer { found, made: Some(made.snapshot), compacted }
        }
        Err(error) => {
            tracing::warn!(%document, %error, "cannot build the snapshot that the relay requests");
            ResendAnswer::of(Vec::new(), compacted)
        }
    }
}
