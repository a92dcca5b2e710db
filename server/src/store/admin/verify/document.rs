//! Verifies one document: its snapshot, its tail, and its row.

use std::collections::{BTreeSet, HashMap};

use landfall_compaction::hash_of;
use landfall_protocol::admission::{CheckedChange, FormError, preflight};
use landfall_protocol::compacted::PackedIndex;
use landfall_protocol::digest::{DigestEntry, tombstone_id};
use landfall_protocol::frame::{entry_flags, entry_kind};
use landfall_protocol::{ActorId, ChangeHash, DocumentId};
use rusqlite::{OptionalExtension, Row, params};

use super::{Fault, Space, Verifier};
use crate::store::rows::documents::Document;
use crate::store::rows::schema::{column, hashes, number};
use crate::store::rows::snapshots::{self, Stored};

const TAIL: &str = "SELECT e.\"offset\", e.kind, e.flags, e.hash, a.actor, e.seq, e.max_op, e.deps, \
    e.body FROM entry e LEFT JOIN actor a ON a.id = e.actor \
    WHERE e.document = ?1 AND e.\"offset\" > ?2 ORDER BY e.\"offset\"";

/// A change according to its row.
struct Stated {
    offset: u64,
    kind: u16,
    flags: u16,
    hash: ChangeHash,
    actor: ActorId,
    seq: u64,
    max_op: u64,
    dependencies: Vec<ChangeHash>,
    body: Vec<u8>,
}

impl Stated {
    fn of_row(row: &Row<'_>) -> rusqlite::Result<Self> {
        let actor: Option<Vec<u8>> = row.get(4)?;
        Ok(Self {
            offset: number(row, 0)?,
            kind: row.get(1)?,
            flags: row.get(2)?,
            hash: ChangeHash(row.get(3)?),
            actor: ActorId::from(actor.unwrap_or_default()),
            seq: number(row, 5)?,
            max_op: number(row, 6)?,
            dependencies: hashes(row, 7)?.into_iter().map(ChangeHash).collect(),
            body: row.get(8)?,
        })
    }

    /// The first mismatch of the row with the bytes.
    fn contradiction(&self, change: &CheckedChange) -> Option<Fault> {
        if change.hash != self.hash {
            return Some(Fault::OtherChange { found: change.hash });
        }
        let fields = [
            ("kind", self.kind == entry_kind::CHANGE),
            ("flags", self.flags & !entry_flags::SECOND_ROOT == 0),
            ("actor", self.actor == change.actor),
            ("sequence number", self.seq == change.seq),
            ("last operation", self.max_op == change.max_op),
            ("dependencies", self.dependencies == change.dependencies),
        ];
        let (field, _) = fields.into_iter().find(|(_, same)| !same)?;
        Some(Fault::ChangeField { field })
    }
}

/// Whether the bytes are no change at all, or a change that is not admitted today.
fn of_form(error: &FormError) -> Fault {
    let what = error.to_string();
    match error {
        FormError::Magic { .. }
        | FormError::ChunkType { .. }
        | FormError::Truncated { .. }
        | FormError::Number { .. }
        | FormError::TrailingBytes { .. }
        | FormError::Deflate
        | FormError::Checksum { .. } => Fault::ChangeBytes { what },
        // The checksum over all bytes matches, so they are those written.
        _ => Fault::ChangeForm { what },
    }
}

/// State collected during the pass over a tail.
struct Passed {
    heads: BTreeSet<[u8; 32]>,
    sequences: HashMap<ActorId, u64>,
    changes: u64,
    bytes: u64,
}

impl Verifier<'_> {
    /// Verifies a document; returns the digest entry that it should have.
    pub(super) fn document(
        &mut self,
        space: &Space,
        row: i64,
    ) -> rusqlite::Result<Option<DigestEntry>> {
        let document = Document::at(self.conn, row)?;
        self.tombstone(space, &document)?;
        if document.tombstone.is_some() {
            self.field(
                space,
                &document,
                "digest entry",
                document.digest_entry == document.digest_entry_now(),
            );
            return Ok(document.digest_entry_now());
        }
        let stored = snapshots::current(self.conn, row)?;
        let snapshot_offset = stored.as_ref().map_or(0, |stored| stored.offset);
        self.field(space, &document, "snapshot", snapshot_offset == document.compacted);
        let index = match &stored {
            Some(stored) => self.snapshot(space, document.id, stored)?,
            None => None,
        };
        let compacted = stored.as_ref().map_or(0, |stored| stored.changes);
        self.field(
            space,
            &document,
            "number of compacted changes",
            compacted == document.compacted_changes,
        );
        let passed = self.tail(space, &document, stored.as_ref(), index.as_ref())?;
        let mut expected = document.clone();
        expected.heads = passed.heads.into_iter().collect();
        (expected.tail_changes, expected.tail_bytes) = (passed.changes, passed.bytes);
        let digest_entry = expected.digest_entry_now();
        self.field(space, &document, "heads", document.heads == expected.heads);
        self.field(space, &document, "digest entry", document.digest_entry == digest_entry);
        let counters = (document.tail_changes, document.tail_bytes);
        let same = counters == (expected.tail_changes, expected.tail_bytes);
        self.field(space, &document, "length of its tail", same);
        Ok(digest_entry)
    }

    fn field(&mut self, space: &Space, document: &Document, field: &'static str, is_right: bool) {
        if !is_right {
            self.tell(space, Some(document.id), None, Fault::DocumentField { field });
        }
    }

    fn tombstone(&mut self, space: &Space, document: &Document) -> rusqlite::Result<()> {
        let sql = "SELECT \"offset\", hash, space FROM tombstone WHERE document = ?1";
        let found = |row: &Row<'_>| Ok((number(row, 0)?, row.get(1)?, row.get(2)?));
        let mut find = self.conn.prepare_cached(sql)?;
        let found: Option<(u64, [u8; 32], i64)> =
            find.query_row([document.row], found).optional()?;
        let expected = document.tombstone.map(|at| (at, tombstone_id(&document.id), space.row));
        if found != expected {
            self.tell(space, Some(document.id), document.tombstone, Fault::Tombstone);
        }
        Ok(())
    }

    /// Verifies a snapshot; returns its index, if that is whole.
    fn snapshot(
        &mut self,
        space: &Space,
        document: DocumentId,
        stored: &Stored,
    ) -> rusqlite::Result<Option<PackedIndex>> {
        self.seen.snapshots += 1;
        self.seen.bytes += stored.bytes;
        let at = Some(stored.offset);
        let body = stored.read(self.conn, 0, stored.bytes as usize).unwrap_or_default();
        let packed = snapshots::packed(self.conn, stored.row)?.unwrap_or_default();
        let index = PackedIndex::parse(packed);
        if hash_of(&body) != stored.hash {
            self.tell(space, Some(document), at, Fault::SnapshotBytes);
        }
        let index = match index {
            Ok(index) => index,
            Err(error) => {
                let damage = Fault::SnapshotIndex { what: error.to_string() };
                self.tell(space, Some(document), at, damage);
                return Ok(None);
            }
        };
        let heads: Vec<_> = stored.heads.iter().map(|(head, _)| *head).collect();
        let max_op = |(head, max_op): &(ChangeHash, u64)| {
            index.find(head).is_some_and(|found| found.max_op == *max_op)
        };
        if heads != index.heads() || !stored.heads.iter().all(max_op) {
            self.tell(space, Some(document), at, Fault::SnapshotField { field: "heads" });
        }
        if stored.changes != index.len() as u64 {
            self.tell(space, Some(document), at, Fault::SnapshotField { field: "changes" });
        }
        if !self.actors_agree(stored, &index)? {
            self.tell(space, Some(document), at, Fault::CompactedActors);
        }
        Ok(Some(index))
    }

    fn actors_agree(&self, stored: &Stored, index: &PackedIndex) -> rusqlite::Result<bool> {
        let sql = "SELECT a.actor, f.seq, f.hash, f.max_op FROM folded_actor f \
            JOIN actor a ON a.id = f.actor WHERE f.document = ?1 ORDER BY a.actor";
        let mut find = self.conn.prepare_cached(sql)?;
        let mut rows = find.query([stored.document])?;
        for expected in index.actors() {
            let Some(row) = rows.next()? else { return Ok(false) };
            let actor: Vec<u8> = row.get(0)?;
            let found = (ActorId::from(actor), number(row, 1)?, row.get(2)?, number(row, 3)?);
            if found != (expected.actor, expected.seq, expected.hash.0, expected.max_op) {
                return Ok(false);
            }
        }
        Ok(rows.next()?.is_none())
    }

    fn tail(
        &mut self,
        space: &Space,
        document: &Document,
        stored: Option<&Stored>,
        index: Option<&PackedIndex>,
    ) -> rusqlite::Result<Passed> {
        let heads = stored.map(|stored| stored.heads.iter().map(|(head, _)| head.0).collect());
        let (heads, sequences) = (heads.unwrap_or_default(), HashMap::new());
        let mut passed = Passed { heads, sequences, changes: 0, bytes: 0 };
        let mut find = self.conn.prepare_cached(TAIL)?;
        let mut rows = find.query(params![document.row, column(document.compacted)?])?;
        while let Some(row) = rows.next()? {
            let stated = Stated::of_row(row)?;
            passed.changes += 1;
            passed.bytes += stated.body.len() as u64;
            self.change(space, document, &stated)?;
            self.rests(space, document, &stated, stored.is_some().then_some(index))?;
            self.sequence(space, document, &stated, &mut passed)?;
            for dependency in &stated.dependencies {
                passed.heads.remove(&dependency.0);
            }
            passed.heads.insert(stated.hash.0);
        }
        Ok(passed)
    }

    /// Checks a change's bytes against its row.
    fn change(
        &mut self,
        space: &Space,
        document: &Document,
        stated: &Stated,
    ) -> rusqlite::Result<()> {
        self.seen.changes += 1;
        self.seen.bytes += stated.body.len() as u64;
        let damage = match preflight(&stated.body) {
            Ok(change) => stated.contradiction(&change),
            Err(error) => Some(of_form(&error)),
        };
        let (id, at) = (Some(document.id), Some(stated.offset));
        if let Some(damage) = damage {
            self.tell(space, id, at, damage);
        }
        if space.first.is_none_or(|first| stated.offset < first.0) {
            self.tell(space, id, at, Fault::OutsideEpochs);
        }
        Ok(())
    }

    /// Checks that a change's dependencies exist. A damaged index counts as having them.
    fn rests(
        &mut self,
        space: &Space,
        document: &Document,
        stated: &Stated,
        compacted: Option<Option<&PackedIndex>>,
    ) -> rusqlite::Result<()> {
        let sql = "SELECT 1 FROM entry WHERE document = ?1 AND hash = ?2 AND \"offset\" < ?3 \
            AND \"offset\" > ?4";
        let (before, after) = (column(stated.offset)?, column(document.compacted)?);
        for dependency in &stated.dependencies {
            let is_compacted = match compacted {
                Some(Some(index)) => index.contains(dependency),
                Some(None) => true,
                None => false,
            };
            let mut find = self.conn.prepare_cached(sql)?;
            if !is_compacted && !find.exists(params![document.row, dependency.0, before, after])? {
                let damage = Fault::MissingDependency { missing: *dependency };
                self.tell(space, Some(document.id), Some(stated.offset), damage);
            }
        }
        Ok(())
    }

    fn sequence(
        &mut self,
        space: &Space,
        document: &Document,
        stated: &Stated,
        passed: &mut Passed,
    ) -> rusqlite::Result<()> {
        let last = match passed.sequences.get(&stated.actor) {
            Some(last) => *last,
            None => self.compacted_sequence(document, &stated.actor)?,
        };
        passed.sequences.insert(stated.actor.clone(), stated.seq);
        if stated.seq != last + 1 {
            let (actor, next) = (stated.actor.clone(), stated.seq);
            let damage = Fault::SequenceGap { actor, last, next };
            self.tell(space, Some(document.id), Some(stated.offset), damage);
        }
        Ok(())
    }

    fn compacted_sequence(&self, document: &Document, actor: &ActorId) -> rusqlite::Result<u64> {
        let sql = "SELECT f.seq FROM folded_actor f JOIN actor a ON a.id = f.actor \
            WHERE f.document = ?1 AND a.actor = ?2";
        let mut find = self.conn.prepare_cached(sql)?;
        let key = params![document.row, actor.to_bytes()];
        let last = find.query_row(key, |row| number(row, 0)).optional()?;
        Ok(last.unwrap_or(0))
    }
}
