//! The row of a snapshot, and the ids of its pieces.

use landfall_protocol::{ChangeHash, limits};
use rusqlite::Row;

use crate::store::rows::schema::{number, optional_number};

/// Bytes of a piece: a part on the wire spans at most two pieces.
pub(in crate::store) const PIECE_BYTES: usize = limits::PART_BYTES;

/// A snapshot's pieces are the rows `id << PIECE_BITS | number`.
const PIECE_BITS: u32 = 16;

/// Bytes of a head in its column: the hash, and the last operation counter, little-endian.
pub(in crate::store) const HEAD_BYTES: usize = 40;

const _: () = assert!(limits::SNAPSHOT_BYTES / PIECE_BYTES < 1 << PIECE_BITS);

/// A snapshot's row.
#[derive(Debug, Clone)]
pub(in crate::store) struct Stored {
    pub(in crate::store) row: i64,
    pub(in crate::store) document: i64,
    pub(in crate::store) offset: u64,
    pub(in crate::store) hash: [u8; 32],
    /// Ascending, with their last operation counters.
    pub(in crate::store) heads: Vec<(ChangeHash, u64)>,
    pub(in crate::store) changes: u64,
    pub(in crate::store) bytes: u64,
    pub(in crate::store) at_ms: u64,
    pub(in crate::store) replaced_at_ms: Option<u64>,
}

impl Stored {
    /// Reads the columns `id, document, "offset", hash, heads, changes, bytes, at_ms, replaced_at_ms`,
    /// starting at column `first`.
    pub(in crate::store) fn of_row(row: &Row<'_>, first: usize) -> rusqlite::Result<Self> {
        let heads = row.get_ref(first + 4)?.as_blob()?.as_chunks::<HEAD_BYTES>().0;
        let head = |bytes: &[u8; HEAD_BYTES]| {
            let (mut hash, mut max_op) = ([0; 32], [0; 8]);
            hash.copy_from_slice(&bytes[..32]);
            max_op.copy_from_slice(&bytes[32..]);
            (ChangeHash(hash), u64::from_le_bytes(max_op))
        };
        Ok(Self {
            row: row.get(first)?,
            document: row.get(first + 1)?,
            offset: number(row, first + 2)?,
            hash: row.get(first + 3)?,
            heads: heads.iter().map(head).collect(),
            changes: number(row, first + 5)?,
            bytes: number(row, first + 6)?,
            at_ms: number(row, first + 7)?,
            replaced_at_ms: optional_number(row, first + 8)?,
        })
    }
}

/// The row ids of a snapshot's pieces: the first, and one past the last.
pub(in crate::store) fn pieces(snapshot: i64) -> (i64, i64) {
    (snapshot << PIECE_BITS, (snapshot + 1) << PIECE_BITS)
}
