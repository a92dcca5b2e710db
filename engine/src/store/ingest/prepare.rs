//! Prepares a batch before its transaction: assembles, opens and checks snapshots, and loads the
//! indexes of compacted histories. This costs as much as loading the documents, so it runs on the
//! calling thread, never on the writer's. It changes no rows.

use std::collections::BTreeSet;

use landfall_compaction::{CompactionError, CompactionLimits};
use landfall_protocol::admission::{CheckedChange, preflight};
use landfall_protocol::client::{DeferredReason, Incoming};
use landfall_protocol::frame::Entry;
use landfall_protocol::{ChangeHash, DocumentId, Offset};
use landfall_storage::{Durability, ReadError};
use rusqlite::{Connection, OptionalExtension, params};
use sha2::{Digest, Sha256};

use crate::store::log::indexes::is_unreadable;
use crate::store::log::rows::{DocumentRow, SpaceRow, document_row};
use crate::store::log::snapshots::{Opened, body, compacted_heads};
use crate::store::{LocalLog, UpstreamRow, WriteFailure};

/// Why a batch cannot be written: the store failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PrepareError {
    #[error("the store could not be read")]
    Read(#[from] ReadError<rusqlite::Error>),
    #[error("the store could not be written")]
    Write(#[from] WriteFailure),
}

/// Why a snapshot is rejected. Only its document is affected.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BadSnapshot {
    #[error("some of its parts are missing")]
    Incomplete,
    #[error("its SHA-256 differs from the announced one")]
    Hash,
    #[error("its heads differ from the announced ones")]
    Heads,
    #[error(transparent)]
    Compaction(#[from] CompactionError),
}

/// Entries that are ready for their transaction.
#[derive(Debug, Default)]
pub(crate) struct Ready {
    pub(in crate::store) entries: Vec<Prepared>,
}

#[derive(Debug)]
pub(in crate::store) enum Prepared {
    Plain(Incoming),
    Snapshot(ReadySnapshot),
    /// A snapshot that fails its checks, or cannot be opened. Only its document goes without it.
    Rejected {
        entry: Entry,
        reason: String,
    },
}

/// An opened snapshot, joined with the store's own snapshot of the document.
#[derive(Debug)]
pub(in crate::store) struct ReadySnapshot {
    pub(in crate::store) offset: Offset,
    pub(in crate::store) document: DocumentId,
    /// The received snapshot, joined with what only the store's own snapshot has.
    pub(in crate::store) opened: Opened,
    /// Whether all of `opened` was received from the upstream.
    pub(in crate::store) pure: bool,
    /// The hash of the store's own snapshot that `opened` was joined with, or contains.
    pub(in crate::store) over: Option<[u8; 32]>,
    /// The snapshot as it was received, if `opened` is joined with the store's own.
    received: Option<Opened>,
    /// The new changes in it, dependencies first, if a joined snapshot would exceed the limits: they
    /// are admitted as single changes.
    pub(in crate::store) apart: Option<Vec<CheckedChange>>,
}

impl ReadySnapshot {
    pub(in crate::store) fn new(offset: Offset, document: DocumentId, received: Opened) -> Self {
        let (opened, pure) = (received, true);
        Self { offset, document, opened, pure, over: None, received: None, apart: None }
    }

    /// The snapshot as it was received.
    pub(in crate::store) fn theirs(&self) -> &Opened {
        self.received.as_ref().unwrap_or(&self.opened)
    }

    /// Joins it with the document's present snapshot in this store, unless that is already done.
    pub(in crate::store) fn join(
        &mut self,
        conn: &Connection,
        row: Option<DocumentRow>,
        limits: &CompactionLimits,
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
        // `prepare` joins outside the transaction, and the transaction calls this again: it repeats the
        // work only if the store's snapshot was replaced in between.
        if self.over == now {
            return Ok(());
        }
        self.apart = None;
        if let Some(received) = self.received.take() {
            (self.opened, self.pure) = (received, true);
        }
        // Joining loads both histories, so it is skipped if the received snapshot contains the store's
        // own.
        let ours = match row.filter(|_| now.is_some()) {
            Some(row) if self.misses_a_head(conn, row)? => body(conn, row)?,
            _ => None,
        };
        let Some(ours) = ours else {
            self.over = now;
            return Ok(());
        };
        let joined = match landfall_compaction::compact_within(
            &[&self.opened.body, &ours],
            [],
            limits,
        ) {
            // One snapshot cannot represent both. Dropping either would lose changes, so the new ones
            // become single changes.
            Err(
                error @ (CompactionError::TooLarge { .. }
                | CompactionError::TooManyHeads { .. }
                | CompactionError::Unfaithful { .. }),
            ) => {
                tracing::info!(document = %self.document, %error,
                    "a received snapshot cannot be merged into ours; it is stored as single changes");
                self.apart = Some(self.apart(conn, row)?);
                self.over = now;
                return Ok(());
            }
            joined => Opened::of(joined?).map_err(CompactionError::from)?,
        };
        self.received = Some(std::mem::replace(&mut self.opened, joined));
        (self.pure, self.over) = (false, now);
        Ok(())
    }

    /// The changes in it that the store's own snapshot lacks, dependencies first.
    fn apart(
        &self,
        conn: &Connection,
        row: Option<DocumentRow>,
    ) -> Result<Vec<CheckedChange>, JoinError> {
        let have: Vec<ChangeHash> = match row {
            Some(row) => compacted_heads(conn, row)?.into_iter().map(|(head, _)| head).collect(),
            None => Vec::new(),
        };
        let changes = landfall_compaction::changes_since(&self.opened.body, &have)?;
        let checked = changes.iter().enumerate().map(|(position, change)| {
            preflight(change).map_err(|error| {
                CompactionError::Change { position, reason: error.to_string() }.into()
            })
        });
        checked.collect()
    }

    /// Whether the store's own snapshot has a change that this one lacks.
    fn misses_a_head(&self, conn: &Connection, row: DocumentRow) -> rusqlite::Result<bool> {
        let heads = compacted_heads(conn, row)?;
        Ok(heads.iter().any(|(head, _)| !self.opened.index.contains(head)))
    }
}

/// Why a received snapshot could not be joined with the store's own.
#[derive(Debug, thiserror::Error)]
pub(in crate::store) enum JoinError {
    #[error(transparent)]
    Sql(#[from] rusqlite::Error),
    #[error(transparent)]
    Compaction(#[from] CompactionError),
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
            // The writer runs jobs in order: after this empty job, the parts that were submitted
            // earlier are written.
            self.db.write(Durability::Relaxed, |_| Ok::<_, rusqlite::Error>(()))?;
        }
        // Documents whose own snapshot cannot be read. Their changes are deferred until a repair:
        // admission could not check them, and must not guess.
        let mut damaged = BTreeSet::new();
        // Admission looks hashes up in the index of a compacted history. Loading it here keeps that
        // cost off the writer thread.
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
                    let what = "the document's own snapshot cannot be read; repair the store";
                    let reason = DeferredReason::Snapshot(what.to_owned());
                    Prepared::Plain(Incoming::Deferred { entry, reason })
                }
                Incoming::Snapshot { offset, document, hash, heads, body } => {
                    let opened = match self.whole_body(space, &hash, body)? {
                        Some(body) => open_snapshot(body, hash, &heads)
                            .map_err(|(body, bad)| (Some(body), bad)),
                        None => Err((None, Box::new(BadSnapshot::Incomplete))),
                    };
                    // The transaction must not fail for one bad snapshot, or the space could never
                    // advance: it is kept as a rejected entry instead.
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

    /// A snapshot's bytes: those of its entry, or of its parts if all have arrived.
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

    /// Joins a snapshot with the store's own. If joining fails, the transaction tries it again and
    /// decides what to do.
    fn join(&self, space: SpaceRow, snapshot: &mut ReadySnapshot) -> Result<(), PrepareError> {
        let (document, limits) = (snapshot.document, self.compaction_limits());
        let joined = self.db.read(|conn| {
            let row = document_row(conn, space, &document)?;
            match snapshot.join(conn, row, &limits) {
                Err(JoinError::Sql(error)) => Err(error),
                joined => Ok(joined),
            }
        })?;
        if let Err(error) = joined {
            tracing::warn!(%document, %error, "a relay's snapshot cannot be merged into ours");
        }
        Ok(())
    }

    /// Loads the index of a document's compacted history if admitting the change will need it. Returns
    /// `false` if that history cannot be read.
    fn warm(
        &self,
        conn: &Connection,
        space: SpaceRow,
        document: &DocumentId,
        change: &CheckedChange,
    ) -> rusqlite::Result<bool> {
        let Some(row) = document_row(conn, space, document)? else { return Ok(true) };
        let heads = compacted_heads(conn, row)?;
        if heads.is_empty() {
            return Ok(true);
        }
        // Rows of the tail, heads of the snapshot and each actor's last compacted change are in SQL.
        // Only other hashes need the index.
        for hash in change.dependencies.iter().chain([&change.hash]) {
            let in_tail = conn
                .prepare_cached("SELECT 1 FROM change WHERE document = ?1 AND hash = ?2")?
                .exists(params![row.0, hash.0])?;
            let is_head = heads.iter().any(|(head, _)| head == hash);
            let is_new =
                *hash == change.hash && change.seq > self.last_compacted(conn, row, change)?;
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

    fn last_compacted(
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

/// Opens a snapshot, if its bytes have the announced hash and its heads are the announced ones. Returns
/// the bytes of a rejected one.
fn open_snapshot(
    body: Vec<u8>,
    hash: [u8; 32],
    heads: &[ChangeHash],
) -> Result<Opened, (Vec<u8>, Box<BadSnapshot>)> {
    if <[u8; 32]>::from(Sha256::digest(&body)) != hash {
        return Err((body, Box::new(BadSnapshot::Hash)));
    }
    let index = match crate::store::log::indexes::build(&body) {
        Ok(index) => index,
        Err(error) => return Err((body, Box::new(error.into()))),
    };
    let mut stated = heads.to_vec();
    stated.sort_unstable();
    match index.heads() == stated {
        true => Ok(Opened::new(hash, body, index)),
        false => Err((body, Box::new(BadSnapshot::Heads))),
    }
}

/// A snapshot's bytes, if all its parts have arrived.
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
