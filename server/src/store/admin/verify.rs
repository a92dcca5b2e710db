//! Verifies a store: every live byte against its hash, every counter against what it counts. Reads in one
//! view of the store, one document at a time, alongside a running writer; reports its findings, and modifies
//! nothing.

mod document;

use std::collections::BTreeMap;

use landfall_protocol::digest::Digest;
use landfall_protocol::{DocumentId, Offset, SpaceName};
use rusqlite::{Connection, Row};

use crate::limits;
use crate::store::StoreError;
use crate::store::admin::fault::{Fault, Finding};
use crate::store::admin::inspect::Inspection;
use crate::store::damage::condition::DamagedPlace;
use crate::store::damage::is_damage;
use crate::store::log::read::epochs;
use crate::store::lookups::digests::buckets;
use crate::store::rows::documents;
use crate::store::rows::documents::head;
use crate::store::rows::schema::number;
use crate::store::sqlite::SqliteStore;

/// How many findings of SQLite's own check are reported.
const FILE_FINDINGS: u32 = 100;

/// Counters of a verification.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Verified {
    /// Spaces.
    pub spaces: u64,
    /// Documents, deleted ones too.
    pub documents: u64,
    /// Changes of tails.
    pub changes: u64,
    /// Snapshots.
    pub snapshots: u64,
    /// Bytes of changes and snapshots.
    pub bytes: u64,
    /// Findings.
    pub findings: u64,
}

impl SqliteStore {
    /// Sets the known damage to the result of a full check of the store.
    pub(crate) fn set_condition(&self, findings: &[Finding]) {
        let damage = findings.iter().filter(|finding| !finding.damage.is_harmless());
        let place = |finding: &Finding| {
            let (space, document) = (finding.space.clone(), finding.document);
            (DamagedPlace { space, document }, finding.damage.is_of_file())
        };
        let places: BTreeMap<DamagedPlace, bool> =
            damage.map(place).take(limits::DAMAGED_PLACES).collect();
        self.set_known(places.into_iter().collect());
    }
}

impl Inspection {
    /// Verifies everything; calls `found` for each finding. `whole_file` also has SQLite compare its tables
    /// with their indexes, which takes as long as the rest.
    pub fn verify(
        &self,
        whole_file: bool,
        found: &mut dyn FnMut(Finding),
    ) -> Result<Verified, StoreError> {
        let (mut verified, mut findings) = (Verified::default(), 0);
        let mut count = |finding| {
            findings += 1;
            found(finding);
        };
        self.read(|conn| {
            let seen = &mut verified;
            let mut verifier = Verifier { conn, seen, found: &mut count };
            if whole_file {
                let checked = verifier.file();
                verifier.note_unreadable(None, checked)?;
            }
            let checked = verifier.spaces();
            verifier.note_unreadable(None, checked)
        })?;
        Ok(Verified { findings, ..verified })
    }
}

/// One pass over a store.
struct Verifier<'a> {
    conn: &'a Connection,
    seen: &'a mut Verified,
    found: &'a mut dyn FnMut(Finding),
}

/// A space being verified.
struct Space {
    row: i64,
    name: SpaceName,
    /// The first offset of its first epoch.
    first: Option<Offset>,
}

impl Verifier<'_> {
    fn file(&mut self) -> rusqlite::Result<()> {
        let mut check = self.conn.prepare(&format!("PRAGMA integrity_check({FILE_FINDINGS})"))?;
        let mut rows = check.query([])?;
        while let Some(row) = rows.next()? {
            let what: String = row.get(0)?;
            if what != "ok" {
                let damage = Fault::File { what };
                (self.found)(Finding { space: None, document: None, offset: None, damage });
            }
        }
        Ok(())
    }

    fn spaces(&mut self) -> rusqlite::Result<()> {
        let mut find = self.conn.prepare("SELECT id, name FROM space ORDER BY id")?;
        let named = |row: &Row<'_>| Ok((row.get(0)?, row.get::<_, String>(1)?));
        let spaces = find.query_map([], named)?.collect::<rusqlite::Result<Vec<_>>>()?;
        for (row, text) in spaces {
            let space = match documents::space_name(text.clone()) {
                Ok(name) => name,
                Err(error) => {
                    let damage = Fault::Unreadable { what: format!("{error}: {text:?}") };
                    (self.found)(Finding { space: None, document: None, offset: None, damage });
                    continue;
                }
            };
            self.seen.spaces += 1;
            let checked = self.space_of(row, space.clone());
            self.note_unreadable(Some(space), checked)?;
        }
        Ok(())
    }

    /// An unreadable row is a finding; the verification continues.
    fn note_unreadable(
        &mut self,
        space: Option<SpaceName>,
        checked: rusqlite::Result<()>,
    ) -> rusqlite::Result<()> {
        match checked {
            Err(error) if is_damage(&error) => {
                let damage = Fault::Unreadable { what: error.to_string() };
                (self.found)(Finding { space, document: None, offset: None, damage });
                Ok(())
            }
            checked => checked,
        }
    }

    fn space_of(&mut self, row: i64, name: SpaceName) -> rusqlite::Result<()> {
        let first = epochs(self.conn, row)?.first().map(|record| record.first);
        self.space(&Space { row, name, first })
    }

    fn space(&mut self, space: &Space) -> rusqlite::Result<()> {
        let stated = head(self.conn, space.row)?;
        let last = "SELECT max((SELECT coalesce(max(\"offset\"), 0) FROM entry WHERE space = ?1), \
            (SELECT coalesce(max(\"offset\"), 0) FROM snapshot WHERE space = ?1 \
             AND replaced_at_ms IS NULL), \
            (SELECT coalesce(max(\"offset\"), 0) FROM tombstone WHERE space = ?1))";
        let last = self.conn.query_row(last, [space.row], |row| number(row, 0))?;
        if last > stated.0 {
            self.tell(space, None, Some(last), Fault::Head { stated });
        }
        let mut sums: BTreeMap<u8, Digest> = BTreeMap::new();
        let mut find = self.conn.prepare("SELECT id, document FROM document WHERE space = ?1")?;
        let mut rows = find.query([space.row])?;
        while let Some(row) = rows.next()? {
            let (row, id): (i64, [u8; 16]) = (row.get(0)?, row.get(1)?);
            self.seen.documents += 1;
            let id = DocumentId::from_bytes(id);
            match self.document(space, row) {
                Ok(digest_entry) => {
                    let sum = sums.entry(id.as_bytes()[0]).or_default();
                    digest_entry.into_iter().for_each(|digest_entry| sum.add(digest_entry));
                }
                Err(error) if is_damage(&error) => {
                    let damage = Fault::Unreadable { what: error.to_string() };
                    self.tell(space, Some(id), None, damage);
                }
                Err(error) => return Err(error),
            }
        }
        self.digests(space, sums)
    }

    fn digests(&mut self, space: &Space, sums: BTreeMap<u8, Digest>) -> rusqlite::Result<()> {
        let mut stated: BTreeMap<u8, Digest> =
            buckets(self.conn, space.row, 0, u8::MAX)?.into_iter().collect();
        for (bucket, sum) in sums {
            if stated.remove(&bucket).unwrap_or_default() != sum {
                self.tell(space, None, None, Fault::Digest { bucket });
            }
        }
        for (bucket, rest) in stated {
            if rest != Digest::default() {
                self.tell(space, None, None, Fault::Digest { bucket });
            }
        }
        Ok(())
    }

    fn tell(
        &mut self,
        space: &Space,
        document: Option<DocumentId>,
        offset: Option<u64>,
        damage: Fault,
    ) {
        let (space, offset) = (Some(space.name.clone()), offset.map(Offset));
        (self.found)(Finding { space, document, offset, damage });
    }
}
