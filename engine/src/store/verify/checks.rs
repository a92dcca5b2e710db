//! Checks the store: bytes against hashes, changes against their dependencies, snapshots against their
//! heads, and derived values against their sources. It changes nothing.

use landfall_protocol::{ChangeHash, DocumentId, SpaceName};
use rusqlite::Connection;

use super::document::document_faults;
use super::space::space_faults;
use crate::store::log::rows::{DocumentRow, SpaceRow};
use crate::store::{LocalLog, ViewError};

/// A fault that a check found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The space; `None` for a fault of the file as a whole.
    pub space: Option<SpaceName>,
    /// The document, if the fault is in one.
    pub document: Option<DocumentId>,
    /// The fault.
    pub fault: Fault,
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(space) = &self.space {
            write!(f, "space {space}: ")?;
        }
        if let Some(document) = &self.document {
            write!(f, "document {document}: ")?;
        }
        self.fault.fmt(f)
    }
}

/// A fault of a store.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// SQLite reports the file as damaged.
    #[error("the file is damaged: {0}")]
    File(String),
    /// A change's bytes do not have its hash.
    #[error("change {hash} is damaged: {reason}")]
    Change {
        /// The change, as the log names it.
        hash: ChangeHash,
        /// The problem with its bytes.
        reason: String,
    },
    /// The log's record of a change differs from the change's bytes.
    #[error("the log's row of change {0} contradicts its bytes")]
    Row(ChangeHash),
    /// A dependency of a change is missing.
    #[error("change {hash} depends on {missing}, which is missing")]
    Dependency {
        /// The change.
        hash: ChangeHash,
        /// The missing dependency.
        missing: ChangeHash,
    },
    /// An actor's changes have a gap before this one.
    #[error("change {0} does not follow its actor's last one")]
    Sequence(ChangeHash),
    /// A snapshot's bytes do not have its hash, or automerge cannot read them.
    #[error("the snapshot is damaged: {0}")]
    Snapshot(String),
    /// The recorded facts about a snapshot differ from its contents.
    #[error("the snapshot's metadata does not match its content")]
    SnapshotNotes,
    /// The document's id is not the one from which its digest entry was computed.
    #[error("the document's id is damaged")]
    Identity,
    /// The recorded heads are not those of the changes.
    #[error("the stored heads differ from the heads of the changes")]
    Heads,
    /// The digest entry does not match the heads.
    #[error("the digest entry does not match the heads")]
    DigestEntry,
    /// The mark between compacted and other changes is wrong.
    #[error("rows of changes are on the wrong side of the snapshot's end")]
    SnapshotBase,
    /// The recorded counts are not those of the changes.
    #[error("the stored counts do not match the changes")]
    Counts,
    /// There are dead rows that no sweep will remove.
    #[error("rows of compacted or deleted changes remain")]
    Unswept,
    /// The sweep mark covers rows that are needed.
    #[error("rows that are needed are marked as removable")]
    SweepMark,
    /// A sum of digest entries is wrong.
    #[error("digest {0:02x} does not match its entries")]
    Digest(u8),
    /// The recorded acked ranges of an upstream are impossible, or counted wrongly.
    #[error("the acked ranges of an upstream are wrong: {0}")]
    Held(&'static str),
}

/// The repair for a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::store) enum Remedy {
    /// It is derived, and can be derived again.
    Derive,
    /// Bytes are lost: they are removed, and received from the upstream again.
    Fetch,
    /// SQLite repairs it.
    Reindex,
}

impl Fault {
    pub(in crate::store) fn remedy(&self) -> Remedy {
        match self {
            Self::File(_) => Remedy::Reindex,
            Self::Change { .. }
            | Self::Dependency { .. }
            | Self::Sequence(_)
            | Self::Snapshot(_)
            | Self::Identity => Remedy::Fetch,
            _ => Remedy::Derive,
        }
    }
}

impl LocalLog {
    /// Checks everything. Each document's snapshot is loaded, one after the other.
    ///
    /// # Errors
    /// If the store cannot be read at all. Damage that SQLite reports is a finding.
    pub(crate) fn verify(&self) -> Result<Vec<Finding>, ViewError> {
        let mut findings = Vec::new();
        let mut add = |space: Option<&SpaceName>, document, faults: Vec<Fault>| {
            let finding = |fault| Finding { space: space.cloned(), document, fault };
            findings.extend(faults.into_iter().map(finding));
        };
        add(None, None, self.faults(file_faults)?);
        let mut names = Vec::new();
        let read = self.faults(|conn| {
            names = space_names(conn)?;
            Ok(Vec::new())
        })?;
        add(None, None, read);
        let whose = self.whose;
        for (name, space) in names {
            let mut documents = Vec::new();
            let read = self.faults(|conn| {
                documents = documents_of(conn, space)?;
                space_faults(conn, space, whose.row(conn)?)
            })?;
            add(Some(&name), None, read);
            for (row, id) in documents {
                let faults = self.faults(|conn| document_faults(conn, space, row, &id))?;
                add(Some(&name), Some(id), faults);
            }
        }
        Ok(findings)
    }

    /// Runs a check; data that SQLite cannot read is a fault too.
    fn faults(
        &self,
        look: impl FnOnce(&Connection) -> rusqlite::Result<Vec<Fault>>,
    ) -> Result<Vec<Fault>, ViewError> {
        match self.view(look) {
            Ok(faults) => Ok(faults),
            Err(error) if is_damage(&error) => Ok(vec![Fault::File(chain(&error))]),
            Err(error) => Err(error),
        }
    }
}

fn is_damage(error: &ViewError) -> bool {
    use landfall_storage::{FailureClass, ReadError};
    let value = |error: &rusqlite::Error| {
        matches!(
            error,
            rusqlite::Error::FromSqlConversionFailure(..)
                | rusqlite::Error::IntegralValueOutOfRange(..)
                | rusqlite::Error::InvalidColumnType(..)
                | rusqlite::Error::QueryReturnedNoRows
                // The schema's tables are stored as text, which can be damaged too.
                | rusqlite::Error::SqlInputError { .. }
        )
    };
    error.0.class() == FailureClass::Corrupt
        || matches!(&error.0, ReadError::Query(error) if value(error))
}

fn chain(error: &ViewError) -> String {
    let source = std::error::Error::source(error);
    let deeper = source.and_then(std::error::Error::source);
    deeper.or(source).map_or_else(|| error.to_string(), ToString::to_string)
}

fn file_faults(conn: &Connection) -> rusqlite::Result<Vec<Fault>> {
    let lines: Vec<String> = conn
        .prepare("PRAGMA integrity_check(20)")?
        .query_map([], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    Ok(lines.into_iter().filter(|line| line != "ok").map(Fault::File).collect())
}

fn space_names(conn: &Connection) -> rusqlite::Result<Vec<(SpaceName, SpaceRow)>> {
    let mut statement = conn.prepare("SELECT id, name FROM space ORDER BY id")?;
    let mut rows = statement.query([])?;
    let mut names = Vec::new();
    while let Some(row) = rows.next()? {
        if let Ok(name) = row.get::<_, String>(1)?.parse() {
            names.push((name, SpaceRow(row.get(0)?)));
        }
    }
    Ok(names)
}

fn documents_of(
    conn: &Connection,
    space: SpaceRow,
) -> rusqlite::Result<Vec<(DocumentRow, DocumentId)>> {
    conn.prepare("SELECT id, document FROM document WHERE space = ?1 ORDER BY id")?
        .query_map([space.0], |row| {
            Ok((DocumentRow(row.get(0)?), DocumentId::from_bytes(row.get(1)?)))
        })?
        .collect()
}
