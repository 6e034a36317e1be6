//! Ranges of an object's bytes, as S3 sees them.

use std::ops::Range;

/// The part of `wanted` (all, when absent) that an object of `size` bytes has; the range itself when no byte of it
/// exists: it is empty, or begins at the object's end or past it.
pub(crate) fn clip(wanted: Option<Range<u64>>, size: u64) -> Result<Range<u64>, Range<u64>> {
    match wanted {
        None => Ok(0..size),
        Some(range) if range.start < range.end && range.start < size => Ok(range.start..range.end.min(size)),
        Some(range) => Err(range),
    }
}

#[cfg(test)]
mod tests {
    use super::clip;

    #[test]
    fn a_range_is_cut_at_the_end_and_refused_past_it() {
        assert_eq!(clip(None, 0), Ok(0..0));
        assert_eq!(clip(Some(2..100), 10), Ok(2..10));
        assert_eq!(clip(Some(10..11), 10), Err(10..11));
        assert_eq!(clip(Some(4..4), 10), Err(4..4));
    }
}
