//! The stored form of one part's map.
//!
//! All integers are varints (signed ones zigzag). `part length · number of frames · frames · number of extents ·
//! extents`. A frame: pack minus the pack before (signed; packs are numbered as in the map object's own list), number,
//! offset minus the end of the frame before it in the list if that lies in the same pack, else minus zero (signed),
//! stored length, plain length, mark (eight bytes). An extent: length; zero for zeros, else one plus the zigzag form of
//! its frame's index minus the last extent's (one less than the first); offset in the frame minus where the last
//! extent ended, if that lies in the same frame, else minus zero (signed).

use super::super::frame::FRAME_LEN_MAX;
use super::super::hash::FrameMark;
use super::super::varint::{self, Cursor, Malformed};
use super::PART_LEN;
use super::part::{Extent, FrameRef, PartMap, Source};

/// Fewest bytes of one stored frame reference: five varints and the mark.
const FRAME_LEN_MIN: usize = 5 + 8;
/// Fewest bytes of one stored extent: a length and its source.
const EXTENT_LEN_MIN: usize = 2;

/// Appends the stored form of `part`; `local` turns an index of the manifest's pack table into the map object's own.
pub(super) fn encode(part: &PartMap, mut local: impl FnMut(u32) -> u32, out: &mut Vec<u8>) {
    varint::put(out, part.len);
    varint::put(out, part.frames.len() as u64);
    let (mut pack_before, mut end_before) = (0, 0);
    for frame in &part.frames {
        let pack = local(frame.pack);
        if pack != pack_before {
            end_before = 0;
        }
        varint::put_signed(out, i64::from(pack) - i64::from(pack_before));
        varint::put(out, u64::from(frame.number));
        varint::put_signed(out, frame.offset.wrapping_sub(end_before) as i64);
        varint::put(out, u64::from(frame.stored_len));
        varint::put(out, u64::from(frame.plain_len));
        out.extend_from_slice(&frame.mark.0);
        (pack_before, end_before) = (pack, frame.end());
    }
    varint::put(out, part.extents.len() as u64);
    let (mut frame_before, mut end_before) = (-1, 0);
    for extent in &part.extents {
        varint::put(out, extent.len);
        match extent.source {
            Source::Zero => varint::put(out, 0),
            Source::Frame { frame, offset } => {
                let frame = i64::from(frame);
                if frame != frame_before {
                    end_before = 0;
                }
                let step = frame - frame_before;
                varint::put(out, 1 + ((step as u64) << 1 ^ (step >> 63) as u64));
                varint::put_signed(out, i64::from(offset) - end_before);
                (frame_before, end_before) = (frame, i64::from(offset) + extent.len as i64);
            }
        }
    }
}

/// Reads a part's map that is exactly `bytes`; `packs` turns the map object's own pack numbers into the manifest's.
/// Whatever it returns covers `[0, len)` exactly, with every extent inside its frame.
pub(super) fn decode(bytes: &[u8], packs: &[u32]) -> Result<PartMap, Malformed> {
    let mut cursor = Cursor::new(bytes);
    let len = cursor.u64()?;
    if len > PART_LEN {
        return Err(Malformed("a part is longer than any can be"));
    }
    let frames = decode_frames(&mut cursor, packs)?;
    let extents = decode_extents(&mut cursor, len, &frames)?;
    cursor.end()?;
    Ok(PartMap { len, frames, extents })
}

fn decode_frames(cursor: &mut Cursor<'_>, packs: &[u32]) -> Result<Vec<FrameRef>, Malformed> {
    let count = cursor.count(FRAME_LEN_MIN)?;
    let mut frames = Vec::with_capacity(count);
    let (mut pack_before, mut end_before) = (0i64, 0u64);
    for _ in 0..count {
        let local = pack_before
            .checked_add(cursor.signed()?)
            .ok_or(Malformed("a pack number overflows"))?;
        let pack = usize::try_from(local).ok().and_then(|index| packs.get(index));
        if local != pack_before {
            end_before = 0;
        }
        let frame = FrameRef {
            pack: *pack.ok_or(Malformed("a frame names a pack that its map does not list"))?,
            number: cursor.u32()?,
            offset: end_before
                .checked_add_signed(cursor.signed()?)
                .ok_or(Malformed("an offset overflows"))?,
            stored_len: cursor.u32()?,
            plain_len: cursor.u32()?,
            mark: FrameMark(cursor.array()?),
        };
        if frame.plain_len as usize > FRAME_LEN_MAX
            || frame.offset.checked_add(frame.stored_len.into()).is_none()
        {
            return Err(Malformed("a frame is larger than any can be"));
        }
        (pack_before, end_before) = (local, frame.end());
        frames.push(frame);
    }
    Ok(frames)
}

fn decode_extents(
    cursor: &mut Cursor<'_>,
    part_len: u64,
    frames: &[FrameRef],
) -> Result<Vec<Extent>, Malformed> {
    let count = cursor.count(EXTENT_LEN_MIN)?;
    let mut extents = Vec::with_capacity(count);
    let (mut begin, mut frame_before, mut end_before) = (0u64, -1i64, 0i64);
    for _ in 0..count {
        let len = cursor.u64()?;
        if len == 0 || len > part_len - begin {
            return Err(Malformed("an extent has an impossible length"));
        }
        let source = match cursor.u64()?.checked_sub(1) {
            None => Source::Zero,
            Some(step) => {
                let step = (step >> 1) as i64 ^ -((step & 1) as i64);
                let frame = frame_before
                    .checked_add(step)
                    .ok_or(Malformed("a frame number overflows"))?;
                if frame != frame_before {
                    end_before = 0;
                }
                let offset = end_before
                    .checked_add(cursor.signed()?)
                    .and_then(|offset| u32::try_from(offset).ok());
                let offset = offset.ok_or(Malformed("an offset overflows"))?;
                let known = usize::try_from(frame).ok().and_then(|index| frames.get(index));
                let plain_len = known
                    .ok_or(Malformed("an extent names a frame that is not listed"))?
                    .plain_len;
                if u64::from(offset) + len > u64::from(plain_len) {
                    return Err(Malformed("an extent reaches past its frame"));
                }
                (frame_before, end_before) = (frame, i64::from(offset) + len as i64);
                Source::Frame {
                    frame: frame as u32,
                    offset,
                }
            }
        };
        extents.push(Extent { begin, len, source });
        begin += len;
    }
    if begin == part_len {
        Ok(extents)
    } else {
        Err(Malformed("extents do not cover their part"))
    }
}
