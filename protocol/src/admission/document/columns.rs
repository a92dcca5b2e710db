//! The columns of a document chunk, counted by their types. Unlike a change's columns, they need
//! not have automerge's own encoding: automerge encodes all columns again when it saves a document,
//! and other versions encoded them differently.

use super::super::chunk::{inflate, inflated_length};
use super::super::form::FormError;
use super::super::reader::ByteReader;
use super::{Budget, DocumentError, OverBudget};
use crate::limits;

/// More columns than automerge knows, so that documents of later versions can be read.
const MOST: u64 = 64;

/// The specification bit of a deflated column.
const DEFLATED: u64 = 8;

/// Column types: the low three bits of a specification. The remaining types are run lengths of
/// unsigned numbers: group counts, actors, integers, value metadata.
const GROUP: u64 = 0;
const DIFFERENCES: u64 = 3;
const BOOLEANS: u64 = 4;
const TEXTS: u64 = 5;
const VALUES: u64 = 7;

/// The change and operation columns that automerge 0.12 reads, ascending. It drops others unread.
const KNOWN: [u64; 20] = [
    0x01, 0x02, 0x03, 0x11, 0x13, 0x15, 0x21, 0x23, 0x34, 0x35, 0x40, 0x42, 0x43, 0x56, 0x57, 0x80,
    0x81, 0x83, 0x94, 0xa5,
];

/// The metadata of the columns, which precedes their data.
#[derive(Debug)]
pub(super) struct Columns {
    /// Specification and length of each column.
    stated: Vec<(u64, u64)>,
}

/// Totals of a set of columns.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// The rows of the longest column outside groups.
    pub(super) rows: u64,
    /// The entries of all groups together.
    pub(super) grouped: u64,
    /// Bytes of texts, each counted as often as its row is repeated.
    pub(super) text_bytes: u64,
}

impl Columns {
    pub(super) fn read(body: &mut ByteReader<'_>) -> Result<Self, FormError> {
        const PART: &str = "column metadata";
        let count = body.unsigned(PART)?;
        if count > MOST {
            return Err(FormError::Columns { limit: MOST as usize, actual: count });
        }
        let mut stated = Vec::with_capacity(count as usize);
        for _ in 0..count {
            stated.push((body.unsigned(PART)?, body.unsigned(PART)?));
        }
        Ok(Self { stated })
    }

    /// Reads the columns' data. `inflatable` is the number of bytes that may still be inflated.
    pub(super) fn tally(
        &self,
        body: &mut ByteReader<'_>,
        inflatable: &mut usize,
    ) -> Result<Tally, DocumentError> {
        let mut tally = Tally::default();
        // The id of the current group: following columns with the same id belong to it.
        let mut group = None;
        for &(spec, length) in &self.stated {
            let data = body.take(length, "column data")?;
            let (id, kind) = (spec >> 4, spec & 7);
            if kind == VALUES || KNOWN.binary_search(&(spec & !DEFLATED)).is_err() {
                // This column adds nothing to the counts. It may be as long as the document.
                if spec & DEFLATED != 0 {
                    let length = inflated_length(data, *inflatable).map_err(inflating)?;
                    *inflatable -= length;
                }
                continue;
            }
            let inflated;
            let data = if spec & DEFLATED != 0 {
                inflated = inflate(data, 0, *inflatable).map_err(inflating)?;
                *inflatable -= inflated.len();
                &inflated[..]
            } else {
                data
            };
            let column = count(kind, data)?;
            tally.text_bytes = tally.text_bytes.saturating_add(column.text_bytes);
            if kind == GROUP {
                group = Some(id);
                tally.grouped = tally.grouped.saturating_add(column.sum);
            }
            if kind == GROUP || group != Some(id) {
                tally.rows = tally.rows.max(column.rows);
            } else {
                // automerge reads the entries beyond the group's stated count too.
                tally.grouped = tally.grouped.max(column.rows);
            }
        }
        Ok(tally)
    }
}

fn inflating(error: FormError) -> DocumentError {
    match error {
        FormError::Inflated { .. } => {
            let limit = limits::DOCUMENT_INFLATED_BYTES as u64;
            let (budget, actual) = (Budget::InflatedBytes, limit + 1);
            DocumentError::OverBudget(OverBudget { budget, limit, actual })
        }
        other => DocumentError::Malformed(other),
    }
}

/// Counts of one column.
#[derive(Debug, Default)]
struct Counted {
    rows: u64,
    /// The sum of its numbers.
    sum: u64,
    text_bytes: u64,
}

fn count(kind: u64, data: &[u8]) -> Result<Counted, FormError> {
    let mut reader = ByteReader::new(data);
    let mut counted = Counted::default();
    match kind {
        BOOLEANS => {
            while !reader.is_empty() {
                counted.rows = counted.rows.saturating_add(reader.unsigned("booleans")?);
            }
        }
        _ => runs(kind, &mut reader, &mut counted)?,
    }
    Ok(counted)
}

/// A run: a positive count and one value; a negative count and that many values; or 0 and a count
/// of nulls.
fn runs(kind: u64, reader: &mut ByteReader<'_>, counted: &mut Counted) -> Result<(), FormError> {
    const PART: &str = "column";
    while !reader.is_empty() {
        let (rows, values) = match reader.signed(PART)? {
            0 => {
                counted.rows = counted.rows.saturating_add(reader.unsigned(PART)?);
                continue;
            }
            count @ 1.. => (count.unsigned_abs(), 1),
            // Each value takes at least one byte, so a false count ends with the input.
            count => (1, count.unsigned_abs()),
        };
        for _ in 0..values {
            counted.rows = counted.rows.saturating_add(rows);
            match kind {
                DIFFERENCES => drop(reader.signed(PART)?),
                TEXTS => {
                    let length = reader.unsigned(PART)?;
                    reader.take(length, PART)?;
                    let bytes = length.saturating_mul(rows);
                    counted.text_bytes = counted.text_bytes.saturating_add(bytes);
                }
                _ => {
                    let value = reader.unsigned(PART)?;
                    counted.sum = counted.sum.saturating_add(value.saturating_mul(rows));
                }
            }
        }
    }
    Ok(())
}
