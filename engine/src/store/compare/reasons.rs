//! Why the upstream's copy of a document may differ from this store's although nothing is lost: part of
//! it is rejected, deferred, or not known to have arrived there.
//!
//! A reason is read in the same snapshot as the compared data. It may be gone when the comparison ends:
//! a deletion, a merge or an edit can remove it at any time.

use std::collections::BTreeSet;

use landfall_protocol::DocumentId;
use landfall_protocol::client::DocumentHeads;
use landfall_protocol::digest::{Branch, Node, Prefix};
use rusqlite::{Connection, params};

use crate::store::log::rows::document_row;
use crate::store::log::{digests, tombstones};
use crate::store::upstream::rejected::rejected_document;
use crate::store::upstream::{acked, pending};
use crate::store::{LocalLog, SpaceRow, UpstreamRow, ViewError};

/// Compared data, with the documents for which a difference is expected.
#[derive(Debug)]
pub(crate) struct Compared<T> {
    pub(crate) found: T,
    pub(crate) expected: BTreeSet<DocumentId>,
}

impl LocalLog {
    /// As [`LocalLog::branches`], with the reasons for differences.
    pub(crate) fn compared_branches(
        &self,
        space: SpaceRow,
        prefixes: &[(Prefix, bool)],
    ) -> Result<Compared<Vec<Branch>>, ViewError> {
        let whose = self.whose;
        self.view(|conn| {
            let (upstream, mut expected) = (whose.row(conn)?, BTreeSet::new());
            let found = digests::branches(conn, space, prefixes)?;
            for branch in &found {
                let Node::DigestEntries(digest_entries) = &branch.node else { continue };
                for (document, _) in digest_entries {
                    if is_refused(conn, upstream, space, document)?
                        || is_pending(conn, upstream, space, document)?
                    {
                        expected.insert(*document);
                    }
                }
                // A document of which everything is deferred has no digest entry.
                let (first, last) = branch.prefix.range();
                let mut deferred = conn.prepare_cached(
                    "SELECT DISTINCT document FROM aside
                     WHERE space = ?1 AND document BETWEEN ?2 AND ?3",
                )?;
                let mut rows = deferred.query(params![space.0, first, last])?;
                while let Some(row) = rows.next()? {
                    expected.insert(DocumentId::from_bytes(row.get(0)?));
                }
            }
            Ok(Compared { found, expected })
        })
    }

    /// As [`LocalLog::heads_of`], with the reasons for differences.
    pub(crate) fn compared_heads(
        &self,
        space: SpaceRow,
        documents: &[DocumentId],
    ) -> Result<Compared<Vec<DocumentHeads>>, ViewError> {
        let whose = self.whose;
        self.view(|conn| {
            let (upstream, mut expected) = (whose.row(conn)?, BTreeSet::new());
            for document in documents {
                if is_refused(conn, upstream, space, document)?
                    || is_pending(conn, upstream, space, document)?
                {
                    expected.insert(*document);
                }
            }
            Ok(Compared { found: digests::heads_of(conn, space, documents)?, expected })
        })
    }

    /// Those of some documents for which there is no reason now: their changes are not rejected, and no
    /// entry of them is deferred. (Changes that are not known to have arrived at the upstream are no
    /// reason any more: the comparison itself has found out.)
    pub(crate) fn unexplained(
        &self,
        space: SpaceRow,
        documents: &[DocumentId],
    ) -> Result<Vec<DocumentId>, ViewError> {
        let whose = self.whose;
        self.view(|conn| {
            let (upstream, mut unexplained) = (whose.row(conn)?, Vec::new());
            for document in documents {
                if !is_refused(conn, upstream, space, document)? {
                    unexplained.push(*document);
                }
            }
            Ok(unexplained)
        })
    }
}

/// Whether changes of the document are rejected, or an entry of it is deferred.
fn is_refused(
    conn: &Connection,
    upstream: Option<UpstreamRow>,
    space: SpaceRow,
    document: &DocumentId,
) -> rusqlite::Result<bool> {
    if let Some(row) = document_row(conn, space, document)?
        && rejected_document(conn, upstream, row, document)?.is_some()
    {
        return Ok(true);
    }
    conn.prepare_cached("SELECT 1 FROM aside WHERE space = ?1 AND document = ?2 LIMIT 1")?
        .exists(params![space.0, document.as_bytes()])
}

/// Whether the upstream is not known to hold all of the document: it was edited or deleted, and that is
/// still to be sent.
fn is_pending(
    conn: &Connection,
    upstream: Option<UpstreamRow>,
    space: SpaceRow,
    document: &DocumentId,
) -> rusqlite::Result<bool> {
    let Some(row) = document_row(conn, space, document)? else { return Ok(false) };
    match (tombstones::local(conn, row)?, upstream) {
        (Some(local), Some(upstream)) => Ok(!acked::is_acked(conn, upstream, space, local)?),
        (Some(_), None) => Ok(true),
        (None, _) => Ok(pending::pending_of_document(conn, upstream, space, row)?.changes > 0),
    }
}
