//! The map of one part of a file, and how changed pages are laid over it.

use std::collections::HashMap;

use super::super::hash::FrameMark;

/// Where one frame lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameRef {
    /// Index of the pack in the manifest's pack table.
    pub pack: u32,
    /// Which frame of the pack it is, from zero.
    pub number: u32,
    /// Where in the pack it begins.
    pub offset: u64,
    /// Its length there, trailer included.
    pub stored_len: u32,
    /// Length of its plain bytes.
    pub plain_len: u32,
    /// What tells it from every other frame.
    pub mark: FrameMark,
}

impl FrameRef {
    /// Where in the pack it ends.
    pub fn end(&self) -> u64 {
        self.offset.saturating_add(u64::from(self.stored_len))
    }
}

/// What an extent's bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Zeros, stored nowhere.
    Zero,
    /// Bytes of a frame.
    Frame {
        /// Index into [`PartMap::frames`].
        frame: u32,
        /// Where in the frame's plain bytes they begin.
        offset: u32,
    },
}

impl Source {
    /// The source of the bytes from `skip` on.
    fn skip(self, skip: u64) -> Source {
        match self {
            Source::Zero => Source::Zero,
            // Extents lie within their frame, whose length fits 32 bits.
            Source::Frame { frame, offset } => Source::Frame {
                frame,
                offset: offset.saturating_add(skip as u32),
            },
        }
    }
}

/// A run of bytes of a part and where they lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Where in the part it begins.
    pub begin: u64,
    /// Its length in bytes; never zero.
    pub len: u64,
    /// Its bytes.
    pub source: Source,
}

impl Extent {
    /// Where in the part it ends.
    pub fn end(&self) -> u64 {
        self.begin + self.len
    }
}

/// The map of one part: extents in order, each beginning where the one before ends, covering `[0, len)`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PartMap {
    pub(super) len: u64,
    pub(super) frames: Vec<FrameRef>,
    pub(super) extents: Vec<Extent>,
}

/// New bytes of a part: a piece of a frame that was written, or zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct Placement {
    /// Where in the part they begin.
    pub(in super::super) begin: u64,
    /// How many.
    pub(in super::super) len: u64,
    /// The frame and where in it; `None` for zeros.
    pub(in super::super) at: Option<(FrameRef, u32)>,
}

/// Why placements do not make a map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Uncovered {
    /// Nothing was given for these bytes of the part.
    Missing { begin: u64, end: u64 },
    /// Bytes at this offset of the part were given twice, or lie past its end.
    Misplaced { begin: u64 },
}

impl PartMap {
    /// Bytes of the file that it covers.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether it covers nothing.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The frames that its extents use.
    pub fn frames(&self) -> &[FrameRef] {
        &self.frames
    }

    /// The same, to number their packs anew.
    pub(in super::super) fn frames_mut(&mut self) -> &mut [FrameRef] {
        &mut self.frames
    }

    /// Its extents, in order.
    pub fn extents(&self) -> &[Extent] {
        &self.extents
    }

    /// The frame an extent's bytes lie in and where, or `None` for zeros.
    pub fn frame_of(&self, extent: &Extent) -> Option<(&FrameRef, u32)> {
        match extent.source {
            Source::Zero => None,
            Source::Frame { frame, offset } => Some((self.frames.get(frame as usize)?, offset)),
        }
    }

    /// The extents that meet `[begin, end)`, cut to it.
    pub fn within(&self, begin: u64, end: u64) -> impl Iterator<Item = Extent> {
        let first = self.extents.partition_point(|extent| extent.end() <= begin);
        self.extents[first..]
            .iter()
            .take_while(move |extent| extent.begin < end)
            .map(move |extent| {
                let cut_begin = extent.begin.max(begin);
                Extent {
                    begin: cut_begin,
                    len: extent.end().min(end) - cut_begin,
                    source: extent.source.skip(cut_begin - extent.begin),
                }
            })
    }

    /// A part of `len` bytes made of `placements` (sorted by where they begin) over what `base` holds there.
    pub(in super::super) fn lay_over(
        base: Option<&PartMap>,
        len: u64,
        placements: &[Placement],
    ) -> Result<PartMap, Uncovered> {
        let mut laid = Layer {
            base,
            map: PartMap {
                len,
                ..PartMap::default()
            },
            interned: HashMap::new(),
        };
        let mut cursor = 0;
        for placement in placements {
            let end = placement
                .begin
                .checked_add(placement.len)
                .filter(|end| *end <= len);
            let (true, Some(end)) = (placement.begin >= cursor, end) else {
                return Err(Uncovered::Misplaced {
                    begin: placement.begin,
                });
            };
            laid.copy_base(cursor, placement.begin)?;
            laid.push(placement.len, placement.at);
            cursor = end;
        }
        laid.copy_base(cursor, len)?;
        Ok(laid.map)
    }
}

/// A map that grows by its end.
struct Layer<'a> {
    base: Option<&'a PartMap>,
    map: PartMap,
    /// Index of each frame used so far, by pack and offset.
    interned: HashMap<(u32, u64), u32>,
}

impl Layer<'_> {
    /// Takes `[begin, end)` over from the base.
    fn copy_base(&mut self, begin: u64, end: u64) -> Result<(), Uncovered> {
        if begin == end {
            return Ok(());
        }
        let covered = self.base.map_or(0, |base| base.len);
        if covered < end {
            return Err(Uncovered::Missing {
                begin: begin.max(covered),
                end,
            });
        }
        if let Some(base) = self.base {
            for extent in base.within(begin, end) {
                self.push(
                    extent.len,
                    base.frame_of(&extent).map(|(frame, offset)| (*frame, offset)),
                );
            }
        }
        Ok(())
    }

    /// Adds bytes at the end; those that go on where the last extent's stop join it.
    fn push(&mut self, len: u64, at: Option<(FrameRef, u32)>) {
        let source = match at {
            None => Source::Zero,
            Some((frame, offset)) => Source::Frame {
                frame: self.intern(frame),
                offset,
            },
        };
        let begin = match self.map.extents.last_mut() {
            Some(last) if last.source.skip(last.len) == source => {
                last.len += len;
                return;
            }
            last => last.map_or(0, |last| last.end()),
        };
        if len > 0 {
            self.map.extents.push(Extent { begin, len, source });
        }
    }

    fn intern(&mut self, frame: FrameRef) -> u32 {
        *self
            .interned
            .entry((frame.pack, frame.offset))
            .or_insert_with(|| {
                self.map.frames.push(frame);
                self.map.frames.len() as u32 - 1
            })
    }
}
