//! The position at which a space resumes with an upstream, and its filter.

use landfall_protocol::client::ResumePoint;
use landfall_protocol::frame::Filter;
use landfall_protocol::{DocumentId, Upstream};
use landfall_storage::{Committed, Durability};
use rusqlite::{Connection, OptionalExtension, params};

use super::partial;
use crate::store::log::rows::{SpaceRow, UpstreamRow, space_totals};
use crate::store::upstream::links;
use crate::store::{Done, LocalLog, SpaceCount, ViewError, WriteFailure};

/// The state of a space's sync with an upstream.
#[derive(Debug)]
pub(crate) struct AttachedUpstream {
    pub(crate) upstream: UpstreamRow,
    pub(crate) point: ResumePoint,
    /// Whether the relay has an entry there that it could not read.
    pub(crate) damaged: bool,
}

pub(in crate::store) fn resume_point(
    conn: &Connection,
    upstream: UpstreamRow,
    space: SpaceRow,
) -> rusqlite::Result<ResumePoint> {
    let (cursor, acknowledged) = links::cursor(conn, upstream, space)?;
    let holds = space_totals(conn, space)?.changes > 0;
    let (filter, partial) = (filter(conn, space)?, partial::partial(conn, upstream, space)?);
    Ok(ResumePoint { cursor, acknowledged, holds, filter, partial })
}

pub(in crate::store) fn filter(conn: &Connection, space: SpaceRow) -> rusqlite::Result<Filter> {
    let documents = conn
        .prepare_cached("SELECT documents FROM filter WHERE space = ?1")?
        .query_row([space.0], |row| row.get::<_, Vec<u8>>(0))
        .optional()?;
    let Some(documents) = documents else { return Ok(Filter::Everything) };
    let documents = documents.as_chunks().0.iter().map(|id| DocumentId::from_bytes(*id));
    Ok(Filter::of_documents(documents))
}

impl LocalLog {
    /// Records that this upstream is the one in use, and returns the space's sync state with it.
    pub(crate) fn submit_attach(
        &self,
        upstream: Upstream,
        space: SpaceRow,
        done: Done<AttachedUpstream>,
    ) {
        let job = move |tx: &rusqlite::Transaction<'_>| {
            let row = links::meet(tx, &upstream)?;
            links::ensure_link(tx, row, space)?;
            let point = resume_point(tx, row, space)?;
            let damaged = links::damaged(tx, row, space)? > 0;
            Ok::<_, rusqlite::Error>(AttachedUpstream { upstream: row, point, damaged })
        };
        let done = move |result: Result<
            Committed<(SpaceCount, AttachedUpstream)>,
            WriteFailure,
        >| {
            done(result.map(|Committed { value: (_, value), number }| Committed { value, number }));
        };
        self.submit_in_space(Durability::Relaxed, space, job, done);
    }

    /// The filter of a space: which documents are synced.
    pub(crate) fn filter(&self, space: SpaceRow) -> Result<Filter, ViewError> {
        self.view(|conn| filter(conn, space))
    }

    /// Sets the filter of a space. Documents that are already here stay.
    pub(crate) fn set_filter(&self, space: SpaceRow, filter: &Filter) -> Result<(), WriteFailure> {
        let documents = match filter {
            Filter::Everything => None,
            Filter::Documents(documents) => {
                Some(documents.iter().flat_map(|id| *id.as_bytes()).collect::<Vec<u8>>())
            }
        };
        let job = move |tx: &rusqlite::Transaction<'_>| match &documents {
            None => tx.execute("DELETE FROM filter WHERE space = ?1", [space.0]),
            Some(documents) => tx.execute(
                "INSERT OR REPLACE INTO filter (space, documents) VALUES (?1, ?2)",
                params![space.0, documents],
            ),
        };
        self.db.write(Durability::Full, job).map(drop)
    }
}
