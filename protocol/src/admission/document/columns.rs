//! The columns of a document chunk, counted by their types. The encodings are not held to
//! automerge's own here, as those of a change are: automerge encodes all columns again when it
//! saves a document, and other versions have encoded them otherwise.

use super::super::chunk::{inflate, inflated_length};
use super::super::form::FormError;
use super::super::reader::Reader;
use super::{Budget, DocumentError, OverBudget};
use crate::limits;

/// More columns than automerge knows, so that a later version's can be read.
const MOST: u64 = 64;

/// The bit of a specification that says that the column is deflated.
const DEFLATED: u64 = 8;

/// Types of columns: the low three bits of their specifications. Those that are left are run
/// lengths of unsigned numbers: group counts, actors, integers, metadata of values.
const GROUP: u64 = 0;
const DIFFERENCES: u64 = 3;
const BOOLEANS: u64 = 4;
const TEXTS: u64 = 5;
const VALUES: u64 = 7;

/// The columns that automerge 0.12 reads, of changes and of operations, ascending. It drops others
/// without looking at them.
const KNOWN: [u64; 20] = [
    0x01, 0x02, 0x03, 0x11, 0x13, 0x15, 0x21, 0x23, 0x34, 0x35, 0x40, 0x42, 0x43, 0x56, 0x57, 0x80,
    0x81, 0x83, 0x94, 0xa5,
];

/// What columns are there, before their data.
#[derive(Debug)]
pub(super) struct Columns {
    /// Specification and length of each.
    stated: Vec<(u64, u64)>,
}

/// What columns come to.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// The rows of the longest column outside groups.
    pub(super) rows: u64,
    /// The entries of all groups together.
    pub(super) grouped: u64,
    /// Bytes of texts, each as often as its row is repeated.
    pub(super) text_bytes: u64,
}

impl Columns {
    pub(super) fn read(body: &mut Reader<'_>) -> Result<Self, FormError> {
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

    /// Reads over the columns' data. `inflatable` is how many bytes may still be inflated.
    pub(super) fn tally(
        &self,
        body: &mut Reader<'_>,
        inflatable: &mut usize,
    ) -> Result<Tally, DocumentError> {
        let mut tally = Tally::default();
        // The id of the group that the columns behind it with the same id belong to.
        let mut group = None;
        for &(spec, length) in &self.stated {
            let data = body.take(length, "column data")?;
            let (id, kind) = (spec >> 4, spec & 7);
            if kind == VALUES || KNOWN.binary_search(&(spec & !DEFLATED)).is_err() {
                // Nothing is counted in it. It may be as long as the document.
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
                // More entries than the group states are still read by automerge.
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

/// What one column states.
#[derive(Debug, Default)]
struct Counted {
    rows: u64,
    /// The sum of its numbers.
    sum: u64,
    text_bytes: u64,
}

fn count(kind: u64, data: &[u8]) -> Result<Counted, FormError> {
    let mut reader = Reader::new(data);
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

/// A run: a positive count and one value; a negative count and as many values; 0 and a count of
/// nulls.
fn runs(kind: u64, reader: &mut Reader<'_>, counted: &mut Counted) -> Result<(), FormError> {
    const PART: &str = "column";
    while !reader.is_empty() {
        let (rows, values) = match reader.signed(PART)? {
            0 => {
                counted.rows = counted.rows.saturating_add(reader.unsigned(PART)?);
                continue;
            }
            count @ 1.. => (count.unsigned_abs(), 1),
            // Each value takes a byte at least, so a false count ends with the bytes.
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
