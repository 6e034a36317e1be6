//! A bounded little-endian reader over bytes from outside: every read may fail, none can panic.

/// Reads from the front of a slice.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { rest: bytes }
    }

    /// What is left to read.
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    #[inline]
    pub(crate) fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.rest.split_at_checked(count)?;
        self.rest = rest;
        Some(head)
    }

    #[inline]
    pub(crate) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.rest.split_first_chunk::<N>()?;
        self.rest = rest;
        Some(*head)
    }

    #[inline]
    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    #[inline]
    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    #[inline]
    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    #[inline]
    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// An integer of `count` bytes, at most 8.
    pub(crate) fn uint(&mut self, count: usize) -> Option<u64> {
        let bytes = self.take(count)?;
        let mut whole = [0; 8];
        whole.get_mut(..count)?.copy_from_slice(bytes);
        Some(u64::from_le_bytes(whole))
    }

    /// A length-encoded integer (`net_field_length_ll` in `mysys/pack.cc`): one byte up to 250, or a mark and 2, 3 or 8
    /// bytes. 251 means NULL, which is no number.
    pub(crate) fn length_encoded(&mut self) -> Option<u64> {
        match self.u8()? {
            small @ 0..=250 => Some(small.into()),
            252 => self.uint(2),
            253 => self.uint(3),
            254 => self.uint(8),
            251 | 255 => None,
        }
    }

    /// A string behind its length-encoded length.
    pub(crate) fn length_encoded_bytes(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.length_encoded()?).ok()?;
        self.take(length)
    }

    /// An unsigned integer of MySQL's serialization library (`variable_length_integers.h` in `libs/mysql/serialization`):
    /// the trailing one bits of the first byte count the bytes that follow it.
    pub(crate) fn varlen(&mut self) -> Option<u64> {
        let first = self.u8()?;
        let following = first.trailing_ones();
        let rest = self.uint(following as usize)?;
        if following == 8 {
            return Some(rest);
        }
        // What is left of the first byte, then the bytes that follow.
        let low_bits = 7 - following;
        let low = u64::from(first).checked_shr(following + 1)?;
        // At most 56 bits altogether: nothing is shifted out.
        Some(low | rest.checked_shl(low_bits)?)
    }

    /// A signed integer of the same library: the sign is its lowest bit.
    pub(crate) fn varlen_signed(&mut self) -> Option<i64> {
        let encoded = self.varlen()?;
        let magnitude = (encoded >> 1).cast_signed();
        Some(if encoded & 1 == 1 { !magnitude } else { magnitude })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_read_past_the_end() {
        let mut reader = Reader::new(&[1, 2, 3]);
        assert_eq!(reader.u16(), Some(0x0201));
        assert_eq!(reader.u16(), None);
        assert_eq!(reader.rest(), &[3]);
        assert_eq!(reader.uint(9), None);
        assert_eq!(Reader::new(&[9, 1]).length_encoded_bytes(), None);
    }

    #[test]
    fn length_encoded_integers() {
        let read = |bytes: &[u8]| Reader::new(bytes).length_encoded();
        assert_eq!(read(&[250]), Some(250));
        assert_eq!(read(&[251]), None);
        assert_eq!(read(&[252, 1, 2]), Some(0x201));
        assert_eq!(read(&[253, 1, 2, 3]), Some(0x3_0201));
        assert_eq!(read(&[254, 1, 2, 3, 4, 5, 6, 7, 8]), Some(0x0807_0605_0403_0201));
        assert_eq!(read(&[254, 1]), None);
    }

    /// The examples of `libs/mysql/serialization/readme.md`, and the ends of the range.
    #[test]
    fn variable_length_integers() {
        let read = |bytes: &[u8]| Reader::new(bytes).varlen();
        assert_eq!(read(&[0b1111_1011, 0xFF, 0b0000_0111]), Some(65535));
        assert_eq!(read(&[0]), Some(0));
        assert_eq!(read(&[0b1111_1110]), Some(127));
        assert_eq!(read(&[0xFF; 9]), Some(u64::MAX));
        assert_eq!(read(&[0x7F, 0, 0, 0, 0, 0, 0, 0x80]), Some(1 << 55));
        assert_eq!(read(&[0xFF; 8]), None);
        let read = |bytes: &[u8]| Reader::new(bytes).varlen_signed();
        assert_eq!(read(&[0b1111_0011, 0xFF, 0b0000_1111]), Some(65535));
        assert_eq!(read(&[0b1110_1011, 0xFF, 0b0000_1111]), Some(-65535));
        assert_eq!(read(&[0b1111_1011, 0xFF, 0b0000_1111]), Some(-65536));
    }
}
