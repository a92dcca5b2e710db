//! Deferred entries: they arrived and cannot be applied yet. The store keeps them, and retries them
//! when what they wait for may have arrived.

use std::collections::BTreeSet;

use landfall_protocol::frame::{Entry, entry_kind};
use landfall_protocol::{ChangeHash, limits};
use rusqlite::{Connection, params};

use crate::store::log::rows::{SpaceRow, UpstreamRow, space_waiting};
use crate::store::upstream::damaged;

/// The condition that a deferred entry waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) enum Wait {
    /// None: the entry is kept for a later version, or as evidence.
    Never = 0,
    /// Its missing dependencies.
    Dependencies = 1,
    /// The application's request to merge unrelated histories.
    Merge = 2,
}

/// The changes that a transaction has added to a document.
#[derive(Debug, Default)]
pub(in crate::store) struct Fresh {
    hashes: BTreeSet<ChangeHash>,
    all: bool,
}

impl Fresh {
    pub(in crate::store) fn add(&mut self, hash: ChangeHash) {
        self.hashes.insert(hash);
    }

    /// Marks so many changes as added that comparing hashes is not worthwhile.
    pub(in crate::store) fn all(&mut self) {
        self.all = true;
    }

    pub(super) fn concerns(&self, dependencies: &[u8]) -> bool {
        let came = |hash: &[u8; 32]| self.hashes.contains(&ChangeHash(*hash));
        // An entry without dependencies waits for something else, which may have arrived.
        self.all || dependencies.is_empty() || dependencies.as_chunks().0.iter().any(came)
    }
}

/// Stores a deferred entry; `false` if it is already there. The number of entries that wait for
/// dependencies is bounded: one more is dropped, and arrives again when the two ends compare their
/// documents.
pub(in crate::store) fn put(
    conn: &Connection,
    upstream: UpstreamRow,
    space: SpaceRow,
    entry: &Entry,
    wait: Wait,
    reason: &str,
) -> rusqlite::Result<bool> {
    if wait == Wait::Dependencies {
        let waiting = space_waiting(conn, space)?.deferred_waiting;
        if waiting >= limits::DEFERRED_CHANGES as u64 {
            tracing::warn!(document = %entry.document, "too many changes wait for their dependencies; dropped one");
            return Ok(false);
        }
    }
    let is_mark = entry.kind == entry_kind::DAMAGED;
    if is_mark
        && !(damaged::is_new(conn, upstream, space, entry)?
            && damaged::make_room(conn, upstream, space)?)
    {
        return Ok(false);
    }
    let new = conn
        .prepare_cached(
            "INSERT OR IGNORE INTO aside (upstream, space, offset, document, kind, flags, hash,
                 dependencies, author, at_ms, body, reason, wait)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)",
        )?
        .execute(params![
            upstream.0,
            space.0,
            entry.offset.0,
            entry.document.as_bytes(),
            entry.kind,
            entry.flags,
            entry.id,
            entry.dependencies.concat(),
            entry.author.as_slice(),
            entry.at_ms,
            entry.body.as_slice(),
            reason,
            wait as i64,
        ])?;
    Ok(new > 0)
}
