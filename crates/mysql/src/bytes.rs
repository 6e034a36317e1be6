//! MySQL's ways to write integers and strings.

use tidemark_types::ByteReader;

/// What MySQL's own integers and strings need beside plain little-endian ones.
pub(crate) trait ReadMysql<'a> {
    /// A length-encoded integer (`net_field_length_ll` in `mysys/pack.cc`): one byte up to 250, or a mark and 2, 3 or 8
    /// bytes. 251 means NULL, which is no number.
    fn length_encoded(&mut self) -> Option<u64>;

    /// A string behind its length-encoded length.
    fn length_encoded_bytes(&mut self) -> Option<&'a [u8]>;

    /// An unsigned integer of MySQL's serialization library (`variable_length_integers.h` in `libs/mysql/serialization`):
    /// the trailing one bits of the first byte count the bytes that follow it.
    fn varlen(&mut self) -> Option<u64>;

    /// A signed integer of the same library: the sign is its lowest bit.
    fn varlen_signed(&mut self) -> Option<i64>;
}

impl<'a> ReadMysql<'a> for ByteReader<'a> {
    fn length_encoded(&mut self) -> Option<u64> {
        match self.u8()? {
            small @ 0..=250 => Some(small.into()),
            252 => self.uint(2),
            253 => self.uint(3),
            254 => self.uint(8),
            251 | 255 => None,
        }
    }

    fn length_encoded_bytes(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.length_encoded()?).ok()?;
        self.take(length)
    }

    fn varlen(&mut self) -> Option<u64> {
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

    fn varlen_signed(&mut self) -> Option<i64> {
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
        assert_eq!(ByteReader::new(&[9, 1]).length_encoded_bytes(), None);
    }

    #[test]
    fn length_encoded_integers() {
        let read = |bytes: &[u8]| ByteReader::new(bytes).length_encoded();
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
        let read = |bytes: &[u8]| ByteReader::new(bytes).varlen();
        assert_eq!(read(&[0b1111_1011, 0xFF, 0b0000_0111]), Some(65535));
        assert_eq!(read(&[0]), Some(0));
        assert_eq!(read(&[0b1111_1110]), Some(127));
        assert_eq!(read(&[0xFF; 9]), Some(u64::MAX));
        assert_eq!(read(&[0x7F, 0, 0, 0, 0, 0, 0, 0x80]), Some(1 << 55));
        assert_eq!(read(&[0xFF; 8]), None);
        let read = |bytes: &[u8]| ByteReader::new(bytes).varlen_signed();
        assert_eq!(read(&[0b1111_0011, 0xFF, 0b0000_1111]), Some(65535));
        assert_eq!(read(&[0b1110_1011, 0xFF, 0b0000_1111]), Some(-65535));
        assert_eq!(read(&[0b1111_1011, 0xFF, 0b0000_1111]), Some(-65536));
    }
}
