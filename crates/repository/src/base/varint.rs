//! Variable-length integers of maps, frame trailers and page-hash tables: LEB128, least significant group first.
//!
//! The reader is strict: an encoding with more bytes than needed, or of more than 64 bits, is refused, so that equal
//! values always have equal bytes.

/// Appends `value`.
pub(super) fn put(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends a signed difference: its zigzag form, so that small differences of either sign are short.
pub(super) fn put_signed(out: &mut Vec<u8>, value: i64) {
    put(out, (value as u64) << 1 ^ (value >> 63) as u64);
}

/// What was read is no valid encoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed(pub(super) &'static str);

/// Walks over encoded fields; every read is bounded by what is left.
#[derive(Debug, Clone)]
pub(super) struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    /// Starts at the front of `bytes`.
    pub(super) fn new(bytes: &'a [u8]) -> Cursor<'a> {
        Cursor(bytes)
    }

    /// How many bytes are left.
    pub(super) fn remaining(&self) -> usize {
        self.0.len()
    }

    /// The next `len` bytes.
    pub(super) fn bytes(&mut self, len: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self
            .0
            .split_at_checked(len)
            .ok_or(Malformed("it ends too early"))?;
        self.0 = rest;
        Ok(taken)
    }

    /// The next `N` bytes.
    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(Malformed("it ends too early"))?;
        self.0 = rest;
        Ok(*taken)
    }

    /// The next integer.
    pub(super) fn u64(&mut self) -> Result<u64, Malformed> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let [byte] = self.array()?;
            let group = u64::from(byte & 0x7f);
            if shift == 63 && group > 1 {
                return Err(Malformed("an integer is too large"));
            }
            value |= group << shift;
            if byte & 0x80 == 0 {
                return if group == 0 && shift > 0 {
                    Err(Malformed("an integer is padded"))
                } else {
                    Ok(value)
                };
            }
        }
        Err(Malformed("an integer is too long"))
    }

    /// The next integer, which must fit 32 bits.
    pub(super) fn u32(&mut self) -> Result<u32, Malformed> {
        u32::try_from(self.u64()?).map_err(|_| Malformed("an integer is too large"))
    }

    /// The next signed difference.
    pub(super) fn signed(&mut self) -> Result<i64, Malformed> {
        let raw = self.u64()?;
        Ok((raw >> 1) as i64 ^ -((raw & 1) as i64))
    }

    /// A count of items that take at least `item_len_min` bytes each, so that it bounds what may be allocated.
    pub(super) fn count(&mut self, item_len_min: usize) -> Result<usize, Malformed> {
        let count = usize::try_from(self.u64()?).map_err(|_| Malformed("a count is too large"))?;
        if count > self.0.len() / item_len_min {
            return Err(Malformed("a count is larger than what follows"));
        }
        Ok(count)
    }

    /// Nothing may be left.
    pub(super) fn end(&self) -> Result<(), Malformed> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(Malformed("bytes follow its end"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn integers_round_trip(value: u64, difference: i64) {
            let mut out = Vec::new();
            put(&mut out, value);
            put_signed(&mut out, difference);
            let mut cursor = Cursor::new(&out);
            prop_assert_eq!(cursor.u64(), Ok(value));
            prop_assert_eq!(cursor.signed(), Ok(difference));
            prop_assert_eq!(cursor.end(), Ok(()));
        }

        #[test]
        fn whatever_is_accepted_is_canonical(bytes in proptest::collection::vec(any::<u8>(), 0..12)) {
            let mut cursor = Cursor::new(&bytes);
            if let Ok(value) = cursor.u64() {
                let mut out = Vec::new();
                put(&mut out, value);
                prop_assert_eq!(&out[..], &bytes[..bytes.len() - cursor.remaining()]);
            }
        }
    }
}
