//! What the relay asks for again, and what it can read again.

use std::sync::Arc;

use landfall_protocol::replica::Resendable as Found;
use landfall_protocol::{ChangeHash, DocumentId, SpaceName};

use super::{Completion, Outcome, Performer};
use crate::store::{self, LocalLog, Resendable, SpaceRow, ViewError};

impl Performer {
    /// Reads what the relay asks for, on the thread of the arrivals: to make a snapshot costs as much as
    /// to open one.
    pub(super) fn load_resend(
        &self,
        space: SpaceName,
        document: DocumentId,
        changes: Vec<ChangeHash>,
    ) {
        let Some(row) = self.row(&space) else { return };
        let (log, tell, connection) = (self.log.clone(), self.tell.clone(), self.connection);
        self.arrivals.run(connection, false, move || {
            let outcome = match resendable(&log, row, document, &changes) {
                Ok((found, made)) => Outcome::Resendable(space, document, found, made),
                Err(error) => Outcome::Failed(error.to_string()),
            };
            // A link that is gone needs no outcome.
            let _ = tell.send(Completion { connection, row, bytes: 0, outcome });
        });
    }

    /// A document can be read again at the relay: who was told that it is damaged compares, and what
    /// was refused for it is offered again.
    pub(super) fn mended(&self, space: &SpaceName, document: &DocumentId) {
        let Some(row) = self.row(space) else { return };
        match self.log.is_refused_as_damaged(row, document) {
            Ok(true) => {
                let (core, document) = (Arc::clone(&self.core), *document);
                let done = self.counted(row, move |()| {
                    core.link.unparked(row, document);
                    Outcome::Settled
                });
                self.log.submit_retry(row, document, done);
            }
            Ok(false) => {}
            Err(error) => tracing::warn!(%error, "what the relay refuses is not known"),
        }
        match self.log.damaged_at_relay(row) {
            Ok(damaged) if damaged.iter().any(|of| of.is_none_or(|of| of == *document)) => {
                self.core.link.check_space(row);
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "what the relay could not read is not known"),
        }
    }
}

/// What there is of it, with the bytes of a snapshot that was made for it.
fn resendable(
    log: &LocalLog,
    row: SpaceRow,
    document: DocumentId,
    changes: &[ChangeHash],
) -> Result<(Found, Option<Vec<u8>>), ViewError> {
    let input = match log.resendable(row, &document, changes)? {
        Resendable::Changes(changes) => return Ok((Found::Changes(changes), None)),
        Resendable::Whole(input) => input,
    };
    Ok(match store::whole(input) {
        Ok(folded) => {
            let (hash, total) = (folded.hash, folded.snapshot.len() as u64);
            let found = Found::Snapshot { hash, total, heads: folded.heads };
            (found, Some(folded.snapshot))
        }
        Err(error) => {
            tracing::warn!(%document, %error, "what the relay asks for cannot be put together");
            (Found::Changes(Vec::new()), None)
        }
    })
}
