//! What a batch needs before its transaction: snapshots assembled, opened and checked, indexes of
//! folded histories at hand. It costs as much as loading the documents, so it runs on the thread
//! of whoever asks, never on the writer's.

use std::collections::BTreeSet;

use landfall_fold::{FoldError, FoldLimits};
use landfall_protocol::admission::{CheckedChange, preflight};
use landfall_protocol::frame::Entry;
use landfall_protocol::replica::{AsideReason, Incoming};
use landfall_protocol::{ChangeHash, DocumentId, Offset};
use landfall_storage::{Durability, ReadError};
use rusqlite::{Connection, OptionalExtension, params};
use sha2::{Digest, Sha256};

use super::indexes::is_unreadable;
use super::rows::{DocumentRow, SpaceRow, document_row};
use super::snapshots::{Opened, body, folded_heads};
use super::{LocalLog, UpstreamRow, WriteFailure};

/// Why a batch cannot be written: the store failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PrepareError {
    #[error("the store could not be read")]
    Read(#[from] ReadError<rusqlite::Error>),
    #[error("the store could not be written")]
    Write(#[from] WriteFailure),
}

/// What is wrong with a snapshot: its document alone is rejected for it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BadSnapshot {
    #[error("its parts are not all there")]
    Incomplete,
    #[error("its SHA-256 is not the one that was told")]
    Hash,
    #[error("its heads are not those that were told")]
    Heads,
    #[error(transparent)]
    Fold(#[from] FoldError),
}

/// Entries that are ready for their transaction.
#[derive(Debug, Default)]
pub(crate) struct Ready {
    pub(super) entries: Vec<Prepared>,
}

#[derive(Debug)]
pub(super) enum Prepared {
    Plain(Incoming),
    Snapshot(ReadySnapshot),
    /// A snapshot that is not what it says, or that is not opened: only its document is without it.
    Rejected {
        entry: Entry,
        reason: String,
    },
}

/// A snapshot that was opened, with what was folded here.
#[derive(Debug)]
pub(super) struct ReadySnapshot {
    pub(super) offset: Offset,
    pub(super) document: DocumentId,
    /// What the upstream sent, and with it what only we had folded.
    pub(super) opened: Opened,
    /// Whether all of it is the upstream's.
    pub(super) pure: bool,
    /// Our own snapshot that it was joined with, or that is in it.
    pub(super) over: Option<[u8; 32]>,
    /// As the upstream told it, while `opened` is joined with our own.
    received: Option<Opened>,
    /// What is new in it, in order, if it cannot be joined with our own because both together
    /// exceed what a snapshot may have: it comes in as single changes.
    pub(super) apart: Option<Vec<CheckedChange>>,
}

impl ReadySnapshot {
    pub(super) fn new(offset: Offset, document: DocumentId, received: Opened) -> Self {
        let (opened, pure) = (received, true);
        Self { offset, document, opened, pure, over: None, received: None, apart: None }
    }

    /// What the upstream sent.
    pub(super) fn theirs(&self) -> &Opened {
        self.received.as_ref().unwrap_or(&self.opened)
    }

    /// Joins it with what is folded here now, unless that was done.
    pub(super) fn join(
        &mut self,
        conn: &Connection,
        row: Option<DocumentRow>,
        limits: &FoldLimits,
    ) -> Result<(), JoinError> {
        let now = match row {
            None => None,
            Some(row) => conn
                .prepare_cached(
                    "SELECT s.hash FROM snapshot s JOIN document d ON d.id = s.document
                     WHERE s.document = ?1 AND d.folded_changes > 0",
                )?
                .query_row([row.0], |row| row.get(0))
                .optional()?,
        };
        if self.over == now {
            return Ok(());
        }
        self.apart = None;
        if let Some(received) = self.received.take() {
            (self.opened, self.pure) = (received, true);
        }
        let ours = match row.filter(|_| now.is_some()) {
            Some(row) if self.misses_a_head(conn, row)? => body(conn, row)?,
            _ => None,
        };
        let Some(ours) = ours else {
            self.over = now;
            return Ok(());
        };
        let joined = match landfall_fold::fold_within(&[&self.opened.body, &ours], [], limits) {
            Err(
                error @ (FoldError::TooLarge { .. }
                | FoldError::TooManyHeads { .. }
                | FoldError::Unfaithful { .. }),
            ) => {
                tracing::info!(document = %self.document, %error,
                    "a folded history and our own do not fit one snapshot; it comes in as changes");
                self.apart = Some(self.apart(conn, row)?);
                self.over = now;
                return Ok(());
            }
            joined => Opened::of(joined?).map_err(FoldError::from)?,
        };
        self.received = Some(std::mem::replace(&mut self.opened, joined));
        (self.pure, self.over) = (false, now);
        Ok(())
    }

    /// The changes in it that are not folded here, dependencies first.
    fn apart(
        &self,
        conn: &Connection,
        row: Option<DocumentRow>,
    ) -> Result<Vec<CheckedChange>, JoinError> {
        let have: Vec<ChangeHash> = match row {
            Some(row) => folded_heads(conn, row)?.into_iter().map(|(head, _)| head).collect(),
            None => Vec::new(),
        };
        let changes = landfall_fold::changes_since(&self.opened.body, &have)?;
        let checked = changes.iter().enumerate().map(|(position, change)| {
            preflight(change)
                .map_err(|error| FoldError::Change { position, reason: error.to_string() }.into())
        });
        checked.collect()
    }

    /// Whether something that is folded here is not in it.
    fn misses_a_head(&self, conn: &Connection, row: DocumentRow) -> rusqlite::Result<bool> {
        let heads = folded_heads(conn, row)?;
        Ok(heads.iter().any(|(head, _)| !self.opened.index.contains(head)))
    }
}

/// Why a snapshot could not be joined with our own.
#[derive(Debug, thiserror::Error)]
pub(super) enum JoinError {
    #[error(transparent)]
    Sql(#[from] rusqlite::Error),
    #[error(transparent)]
    Fold(#[from] FoldError),
}

impl LocalLog {
    /// Makes entries ready for their transaction. Blocks; never call it on the writer thread.
    pub(crate) fn prepare(
        &self,
        space: SpaceRow,
        entries: Vec<Incoming>,
    ) -> Result<Ready, PrepareError> {
        let in_parts = |entry: &Incoming| matches!(entry, Incoming::Snapshot { body: None, .. });
        if entries.iter().any(in_parts) {
            // The parts were submitted before this; so they are written after it.
            self.db.write(Durability::Relaxed, |_| Ok::<_, rusqlite::Error>(()))?;
        }
        // Documents whose own folded history cannot be read: what comes of them waits for a repair.
        let mut damaged = BTreeSet::new();
        self.db.read(|conn| {
            for entry in &entries {
                if let Incoming::Change { document, change, .. } = entry
                    && !damaged.contains(document)
                    && !self.warm(conn, space, document, change)?
                {
                    damaged.insert(*document);
                }
            }
            Ok(())
        })?;
        let mut ready = Ready::default();
        for entry in entries {
            ready.entries.push(match entry {
                Incoming::Change { offset, document, change, author, at_ms, .. }
                    if damaged.contains(&document) =>
                {
                    let entry = Entry::of_change(offset, document, change, &author, at_ms);
                    let what = "the document's own folded history cannot be read; repair the store";
                    let reason = AsideReason::Snapshot(what.to_owned());
                    Prepared::Plain(Incoming::Aside { entry, reason })
                }
                Incoming::Snapshot { offset, document, hash, heads, body } => {
                    let opened = match self.whole_body(space, &hash, body)? {
                        Some(body) => open_snapshot(body, hash, &heads)
                            .map_err(|(body, bad)| (Some(body), bad)),
                        None => Err((None, Box::new(BadSnapshot::Incomplete))),
                    };
                    match opened {
                        Ok(opened) => {
                            let mut snapshot = ReadySnapshot::new(offset, document, opened);
                            self.join(space, &mut snapshot)?;
                            Prepared::Snapshot(snapshot)
                        }
                        Err((body, bad)) => {
                            let entry = Entry::of_snapshot(offset, document, hash, &heads, 0, body);
                            Prepared::Rejected { entry, reason: bad.to_string() }
                        }
                    }
                }
                entry => Prepared::Plain(entry),
            });
        }
        Ok(ready)
    }

    /// A snapshot's bytes: those of its entry, or the parts that came before it, if all did.
    fn whole_body(
        &self,
        space: SpaceRow,
        hash: &[u8; 32],
        body: Option<Vec<u8>>,
    ) -> Result<Option<Vec<u8>>, PrepareError> {
        match body {
            Some(body) => Ok(Some(body)),
            None => Ok(self.db.read(|conn| match self.whose.row(conn)? {
                Some(upstream) => assemble(conn, upstream, space, hash),
                None => Ok(None),
            })?),
        }
    }

    /// Joins a snapshot with what is folded here. If the two do not go together, the transaction
    /// finds that again, and says what is to be done.
    fn join(&self, space: SpaceRow, snapshot: &mut ReadySnapshot) -> Result<(), PrepareError> {
        let (document, limits) = (snapshot.document, self.fold_limits());
        let joined = self.db.read(|conn| {
            let row = document_row(conn, space, &document)?;
            match snapshot.join(conn, row, &limits) {
                Err(JoinError::Sql(error)) => Err(error),
                joined => Ok(joined),
            }
        })?;
        if let Err(error) = joined {
            tracing::warn!(%document, %error, "a relay's folded history does not go with our own");
        }
        Ok(())
    }

    /// Brings the index of a document's folded history into memory if a change will ask for it.
    /// False if that history cannot be read.
    fn warm(
        &self,
        conn: &Connection,
        space: SpaceRow,
        document: &DocumentId,
        change: &CheckedChange,
    ) -> rusqlite::Result<bool> {
        let Some(row) = document_row(conn, space, document)? else { return Ok(true) };
        let heads = folded_heads(conn, row)?;
        if heads.is_empty() {
            return Ok(true);
        }
        for hash in change.dependencies.iter().chain([&change.hash]) {
            let in_tail = conn
                .prepare_cached("SELECT 1 FROM change WHERE document = ?1 AND hash = ?2")?
                .exists(params![row.0, hash.0])?;
            let is_head = heads.iter().any(|(head, _)| head == hash);
            let is_new =
                *hash == change.hash && change.seq > self.last_folded(conn, row, change)?;
            if !in_tail && !is_head && !is_new {
                return match self.indexes.of(conn, row) {
                    Ok(_) => Ok(true),
                    Err(error) if is_unreadable(&error) => Ok(false),
                    Err(error) => Err(error),
                };
            }
        }
        Ok(true)
    }

    fn last_folded(
        &self,
        conn: &Connection,
        row: DocumentRow,
        change: &CheckedChange,
    ) -> rusqlite::Result<u64> {
        let last: Option<u64> = conn
            .prepare_cached(
                "SELECT max(f.seq) FROM folded_actor f JOIN actor a ON a.id = f.actor
                 WHERE f.document = ?1 AND a.actor = ?2",
            )?
            .query_row(params![row.0, change.actor.to_bytes()], |row| row.get(0))?;
        Ok(last.unwrap_or(0))
    }
}

/// Opens a snapshot, if its bytes are those that were told and automerge may be given them. What is
/// rejected comes back.
fn open_snapshot(
    body: Vec<u8>,
    hash: [u8; 32],
    heads: &[ChangeHash],
) -> Result<Opened, (Vec<u8>, Box<BadSnapshot>)> {
    if <[u8; 32]>::from(Sha256::digest(&body)) != hash {
        return Err((body, Box::new(BadSnapshot::Hash)));
    }
    let index = match super::indexes::build(&body) {
        Ok(index) => index,
        Err(error) => return Err((body, Box::new(error.into()))),
    };
    let mut told = heads.to_vec();
    told.sort_unstable();
    match index.heads() == told {
        true => Ok(Opened::new(hash, body, index)),
        false => Err((body, Box::new(BadSnapshot::Heads))),
    }
}

/// A snapshot's bytes, if all its parts are there.
fn assemble(
    conn: &Connection,
    upstream: UpstreamRow,
    space: SpaceRow,
    hash: &[u8; 32],
) -> rusqlite::Result<Option<Vec<u8>>> {
    let total: Option<usize> = conn
        .prepare_cached(
            "SELECT total FROM partial
             WHERE upstream = ?1 AND space = ?2 AND hash = ?3 AND bytes = total",
        )?
        .query_row(params![upstream.0, space.0, hash], |row| row.get(0))
        .optional()?;
    let Some(total) = total else { return Ok(None) };
    let mut assembled = Vec::with_capacity(total);
    let mut statement = conn.prepare_cached(
        "SELECT body FROM partial_part WHERE upstream = ?1 AND space = ?2 ORDER BY start",
    )?;
    let mut rows = statement.query(params![upstream.0, space.0])?;
    while let Some(row) = rows.next()? {
        assembled.extend(row.get::<_, Vec<u8>>(0)?);
    }
    Ok((assembled.len() == total).then_some(assembled))
}
