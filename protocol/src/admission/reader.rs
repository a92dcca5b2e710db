//! Reads untrusted bytes: every step is checked, nothing is allocated.

use super::form::FormError;

/// The unread rest of a byte slice.
#[derive(Debug, Clone, Copy)]
pub(super) struct ByteReader<'a> {
    rest: &'a [u8],
}

impl<'a> ByteReader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(super) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// The next `count` bytes of `part`. The claimed length is compared with the rest first.
    pub(super) fn take(&mut self, count: u64, part: &'static str) -> Result<&'a [u8], FormError> {
        let split = usize::try_from(count).ok().and_then(|count| self.rest.split_at_checked(count));
        let (taken, rest) = split.ok_or(FormError::Truncated { part })?;
        self.rest = rest;
        Ok(taken)
    }

    /// The next `N` bytes of `part`.
    pub(super) fn array<const N: usize>(
        &mut self,
        part: &'static str,
    ) -> Result<[u8; N], FormError> {
        let (&taken, rest) = self.rest.split_first_chunk().ok_or(FormError::Truncated { part })?;
        self.rest = rest;
        Ok(taken)
    }

    /// The next byte, of `part`.
    pub(super) fn byte(&mut self, part: &'static str) -> Result<u8, FormError> {
        let (&byte, rest) = self.rest.split_first().ok_or(FormError::Truncated { part })?;
        self.rest = rest;
        Ok(byte)
    }

    /// An unsigned LEB128 number in its shortest form. automerge accepts longer forms inside
    /// columns but writes the short form back, so the change's hash would not survive saving and
    /// loading.
    pub(super) fn unsigned(&mut self, part: &'static str) -> Result<u64, FormError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte(part)?;
            let bits = u64::from(byte & 0x7f);
            value |= bits << shift;
            if byte & 0x80 == 0 {
                let overlong = shift > 0 && byte == 0;
                let overflows = shift == 63 && byte > 1;
                return if overlong || overflows {
                    Err(FormError::Number { part })
                } else {
                    Ok(value)
                };
            }
        }
        Err(FormError::Number { part })
    }

    /// A signed LEB128 number in its shortest form.
    pub(super) fn signed(&mut self, part: &'static str) -> Result<i64, FormError> {
        let (mut value, mut before) = (0i64, 0u8);
        for shift in (0..64).step_by(7) {
            let byte = self.byte(part)?;
            value |= i64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                let sign_was_told = before & 0x40 != 0;
                let overlong =
                    shift > 0 && ((byte == 0 && !sign_was_told) || (byte == 0x7f && sign_was_told));
                // The tenth byte carries one bit, the sign.
                let overflows = shift == 63 && byte != 0 && byte != 0x7f;
                if overlong || overflows {
                    return Err(FormError::Number { part });
                }
                let negative = byte & 0x40 != 0 && shift < 57;
                return Ok(if negative { value | (-1 << (shift + 7)) } else { value });
            }
            before = byte;
        }
        Err(FormError::Number { part })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Writes the shortest form; the tests of the readers above use it too.
    pub(in crate::admission) fn put_unsigned(mut value: u64, out: &mut Vec<u8>) {
        while value > 0x7f {
            out.push(value as u8 | 0x80);
            value >>= 7;
        }
        out.push(value as u8);
    }

    pub(in crate::admission) fn put_signed(mut value: i64, out: &mut Vec<u8>) {
        loop {
            let byte = value as u8 & 0x7f;
            value >>= 7;
            if (value == 0 && byte & 0x40 == 0) || (value == -1 && byte & 0x40 != 0) {
                return out.push(byte);
            }
            out.push(byte | 0x80);
        }
    }

    proptest! {
        #[test]
        fn numbers_round_trip(value in any::<i64>(), shift in 0u32..64) {
            let value = value >> shift;
            let mut bytes = Vec::new();
            put_signed(value, &mut bytes);
            put_unsigned(value as u64, &mut bytes);
            let mut reader = ByteReader::new(&bytes);
            prop_assert_eq!(reader.signed("signed"), Ok(value));
            prop_assert_eq!(reader.unsigned("unsigned"), Ok(value as u64));
            prop_assert!(reader.is_empty());
        }

        #[test]
        fn numbers_are_read_in_their_shortest_form_only(bytes in prop::collection::vec(any::<u8>(), 0..12)) {
            let mut reader = ByteReader::new(&bytes);
            if let Ok(value) = reader.unsigned("n") {
                let mut again = Vec::new();
                put_unsigned(value, &mut again);
                prop_assert_eq!(&again[..], &bytes[..bytes.len() - reader.rest().len()]);
            }
            let mut reader = ByteReader::new(&bytes);
            if let Ok(value) = reader.signed("n") {
                let mut again = Vec::new();
                put_signed(value, &mut again);
                prop_assert_eq!(&again[..], &bytes[..bytes.len() - reader.rest().len()]);
            }
        }
    }

    #[test]
    fn numbers_at_their_limits_are_read_or_refused() {
        let unsigned = |bytes: &[u8]| ByteReader::new(bytes).unsigned("n");
        let bad = Err(FormError::Number { part: "n" });
        let longest = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
        assert_eq!(unsigned(&[&longest[..], &[1]].concat()), Ok(u64::MAX));
        assert_eq!(unsigned(&[&longest[..], &[2]].concat()), bad);
        assert_eq!(unsigned(&[&longest[..], &[0x81]].concat()), bad);
        assert_eq!(unsigned(&[0x80, 0]), bad);
        assert_eq!(unsigned(&[0x80]), Err(FormError::Truncated { part: "n" }));
        assert_eq!(
            ByteReader::new(&[1, 2]).take(u64::MAX, "n"),
            Err(FormError::Truncated { part: "n" })
        );
    }
}
