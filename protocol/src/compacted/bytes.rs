//! Numbers of the packed index: unsigned LEB128 in its shortest form.

use super::BadIndex;

/// The unread rest of a byte slice. Every step is checked, nothing is allocated.
#[derive(Debug)]
pub(super) struct IndexReader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> IndexReader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// The number of bytes read.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// The number of bytes left.
    pub(super) fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// The next `count` bytes of `part`.
    pub(super) fn take(&mut self, count: usize, part: &'static str) -> Result<&'a [u8], BadIndex> {
        if count > self.left() {
            return Err(BadIndex::Truncated { part });
        }
        let taken = &self.bytes[self.at..][..count];
        self.at += count;
        Ok(taken)
    }

    /// The next number, of `part`.
    pub(super) fn number(&mut self, part: &'static str) -> Result<u64, BadIndex> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1, part)?[0];
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                let overlong = shift > 0 && byte == 0;
                let overflows = shift == 63 && byte > 1;
                return if overlong || overflows {
                    Err(BadIndex::Number { part })
                } else {
                    Ok(value)
                };
            }
        }
        Err(BadIndex::Number { part })
    }
}

/// Reads a number from parsed bytes: it fits 32 bits and is complete.
pub(super) fn number_at(bytes: &[u8], at: &mut usize) -> u32 {
    let (mut value, mut shift) = (0u32, 0u32);
    while let Some(&byte) = bytes.get(*at) {
        *at += 1;
        value |= u32::from(byte & 0x7f).checked_shl(shift).unwrap_or_default();
        if byte & 0x80 == 0 {
            break;
        }
        shift += 7;
    }
    value
}

/// Writes a number.
pub(super) fn put_number(mut value: u64, out: &mut Vec<u8>) {
    while value > 0x7f {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}
