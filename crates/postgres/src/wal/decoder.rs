//! The decoder: from bytes of the log, in any portions, to records.
//!
//! It does no I/O and keeps no time. What it checks: page headers, the chain of records, lengths, checksums, the form
//! of block references. What it leaves to others: what a record means ([`super::Fact`]), which blocks changed
//! ([`super::ChangedBlocks`]), whether the system identifier is the right one ([`WalDecoder::page_info`]).
//!
//! Invariants: bytes are consumed in order, each once; no byte from outside causes a panic or an allocation larger than
//! what was fed; the same bytes yield the same records, however they are divided.

use tidemark_types::{Lsn, WalSegmentSize};

use super::assembly::{Assembly, LENGTH_BYTES};
use super::block::{BlockRef, RecordLayout, read_layout};
use super::bytes::max_align;
use super::crc::RecordCrc;
use super::error::WalError;
use super::page::{LONG_HEADER_BYTES, PAGE_BYTES, PageHeader, PageInfo, header_bytes};
use super::record::{RECORD_HEADER_BYTES, RECORD_LENGTH_MAX, Record, RecordHeader, is_segment_switch};
use super::version::WalVersion;

/// Decodes a log from a page's start on.
///
/// Feed it by calling [`next`](WalDecoder::next) with a slice that it consumes from the front, until it answers `None`;
/// then with the bytes that follow. A record that lies within one page and one input is parsed in place, others are put
/// together first. Of a record over 1 MiB only the beginning is held (its `main` is then `None`), except for the kinds
/// that [`super::Fact`] reads.
///
/// **Joining.** Nothing is known at the start, so the rest of a record begun earlier is passed over by what the page
/// headers say (`xlp_rem_len`), and the first record to be seen is the first that begins at or after the start.
///
/// **The end of the log.** A page header, or a record's length, of zero is where the log of a partial or pre-allocated
/// segment file ends, as it is to the server. From there on everything is consumed and nothing returned;
/// [`end_of_log`](WalDecoder::end_of_log) tells the position. A server streams no such bytes, so there it means damage.
/// A recycled segment file holds older pages past its end instead of zeros: these show as an error.
///
/// **Segment switch.** What follows `XLOG_SWITCH` in its segment is passed over unread. Who joins behind one, within a
/// segment, meets zeros first, headers of pages included (`CopyXLogRecordToWAL` in `xlog.c`): they are passed over up to
/// the segment's end, and anything else among them is an error.
///
/// **A record given up.** After a crash in the midst of a record the server overwrites its continuation
/// (`XLP_FIRST_IS_OVERWRITE_CONTRECORD`): the unfinished record is dropped and decoding goes on.
///
/// **Timelines** may rise from page to page, never fall.
///
/// **The end of the address space.** Its last page ends at no number that 64 bits can hold. No log gets there; bytes that
/// claim to lie there are consumed, and nothing is returned.
///
/// **Errors.** After one, `next` repeats it and consumes nothing, until [`resync`](WalDecoder::resync).
#[derive(Debug)]
pub struct WalDecoder {
    segment_size: WalSegmentSize,
    /// The next byte to consume.
    at: Lsn,
    state: State,
    page: Option<PageInfo>,
    /// Where the last record began; `None` while joining.
    previous: Option<Lsn>,
    whole: Option<Lsn>,
    /// The beginning of a page header that two inputs share.
    split_header: Vec<u8>,
    assembly: Assembly,
    blocks: Vec<BlockRef>,
    crc: RecordCrc,
}

#[derive(Debug)]
enum State {
    /// A page header comes next.
    Page,
    /// A record comes next.
    Record,
    /// The rest of the record in `assembly` comes next.
    RecordRest,
    /// Nothing of interest comes before this position.
    Skip(Lsn),
    /// Joined in zeros at this position: what follows a segment switch.
    Padding(Lsn),
    /// Nothing but zeros since this position.
    EndOfLog(Lsn),
    /// Lost by this error; to be found again at this position.
    Lost(WalError, Lsn),
}

/// The last page of the address space: whatever arithmetic says of positions before it can be told in 64 bits.
const LAST_PAGE: Lsn = Lsn(u64::MAX - (PAGE_BYTES - 1));

/// What a step came to.
enum Step<'b> {
    /// Go on.
    Continue,
    /// The input is used up.
    Starved,
    /// A whole record, in the input.
    InPlace { begin: Lsn, bytes: &'b [u8] },
    /// A whole record, in the assembly.
    Assembled,
}

impl WalDecoder {
    /// A decoder of the log from `start` on, which should be a page's start: bytes before the next page are passed over.
    pub fn new(start: Lsn, segment_size: WalSegmentSize) -> WalDecoder {
        WalDecoder {
            segment_size,
            at: start,
            state: State::Skip(page_at_or_after(start)),
            page: None,
            previous: None,
            whole: None,
            split_header: Vec::with_capacity(LONG_HEADER_BYTES),
            assembly: Assembly::new(),
            blocks: Vec::new(),
            crc: RecordCrc::new(),
        }
    }

    /// The next record. Consumes from the front of `input`; `None` when it is used up and more is needed.
    ///
    /// # Errors
    /// What is wrong with the log, and where. `input` then stands where [`position`](WalDecoder::position) says;
    /// [`resync`](WalDecoder::resync) goes on past the damage.
    pub fn next<'a, 'b: 'a>(&'a mut self, input: &mut &'b [u8]) -> Result<Option<Record<'a>>, WalError> {
        loop {
            let step = match &self.state {
                State::Lost(error, _) => return Err(error.clone()),
                State::EndOfLog(_) => Ok(self.pass_over(input)),
                _ if self.at >= LAST_PAGE => Ok(self.pass_over(input)),
                State::Page => self.page(input),
                State::Record => self.record(input),
                State::RecordRest => self.record_rest(input),
                State::Skip(until) => Ok(self.skip(*until, input)),
                State::Padding(from) => self.padding(*from, input),
            };
            match step? {
                Step::Continue => {}
                Step::Starved => return Ok(None),
                Step::InPlace { begin, bytes } => return self.in_place(begin, bytes).map(Some),
                Step::Assembled => return self.assembled().map(Some),
            }
        }
    }

    /// After an error: go on at the next page that a record begins on. Records that begin before it are lost; the
    /// damaged range is from the error's position to where the next record begins. May have to be called again if that
    /// page is damaged too. After the end of the log: go on at the next page. Without effect otherwise.
    pub fn resync(&mut self) {
        let resume = match self.state {
            State::Lost(_, resume) => resume,
            State::EndOfLog(_) => self.next_page(),
            State::Page | State::Record | State::RecordRest | State::Skip(_) | State::Padding(_) => return,
        };
        self.previous = None;
        self.state = State::Skip(resume);
    }

    /// The position of the next byte to consume.
    pub fn position(&self) -> Lsn {
        self.at
    }

    /// Where the last record ended; `None` until one was seen. After a segment switch this is the end of its segment,
    /// which may lie past [`position`](WalDecoder::position).
    pub fn whole(&self) -> Option<Lsn> {
        self.whole
    }

    /// Where the log ended in zeros, if it did.
    pub fn end_of_log(&self) -> Option<Lsn> {
        match self.state {
            State::EndOfLog(at) => Some(at),
            _ => None,
        }
    }

    /// What the page headers say so far; `None` before the first.
    pub fn page_info(&self) -> Option<PageInfo> {
        self.page
    }

    fn consume<'b>(&mut self, input: &mut &'b [u8], count: usize) -> &'b [u8] {
        let (head, rest) = input.split_at_checked(count).unwrap_or((*input, &[]));
        *input = rest;
        self.at = Lsn(self.at.0.saturating_add(head.len() as u64));
        head
    }

    /// Consumes all of the input.
    fn pass_over(&mut self, input: &mut &[u8]) -> Step<'static> {
        self.consume(input, input.len());
        Step::Starved
    }

    fn skip(&mut self, until: Lsn, input: &mut &[u8]) -> Step<'static> {
        let distance = usize::try_from(until.bytes_since(self.at)).unwrap_or(usize::MAX);
        self.consume(input, distance);
        if self.at < until {
            return Step::Starved;
        }
        self.state = self.state_after_record();
        Step::Continue
    }

    /// Zeros begin here, where a page or a record was due.
    fn zeros_from(&mut self, at: Lsn) {
        let is_padding = self.is_joining() && self.segment_size.offset_of(at) != 0;
        self.state = if is_padding {
            State::Padding(at)
        } else {
            State::EndOfLog(at)
        };
    }

    fn padding(&mut self, from: Lsn, input: &mut &[u8]) -> Result<Step<'static>, WalError> {
        let segment = self.segment_size.segment_of(from);
        let end = self.segment_size.end_of(segment);
        let rest = usize::try_from(end.bytes_since(self.at)).unwrap_or(usize::MAX);
        let zeros = input.iter().take(rest).take_while(|byte| **byte == 0).count();
        self.consume(input, zeros);
        if self.at == end {
            self.state = State::Page;
        } else if input.is_empty() {
            return Ok(Step::Starved);
        } else {
            return self.lost(WalError::RecordLength { at: from, length: 0 }, self.next_page());
        }
        Ok(Step::Continue)
    }

    /// What comes next where neither a record nor a gap is under way.
    fn state_after_record(&self) -> State {
        if self.at.0.is_multiple_of(PAGE_BYTES) {
            State::Page
        } else {
            State::Record
        }
    }

    fn lost<T>(&mut self, error: WalError, resume: Lsn) -> Result<T, WalError> {
        self.assembly.finish();
        self.split_header.clear();
        self.state = State::Lost(error.clone(), resume);
        Err(error)
    }

    fn page(&mut self, input: &mut &[u8]) -> Result<Step<'static>, WalError> {
        let page = Lsn(self.at.0.saturating_sub(self.split_header.len() as u64));
        let wanted = header_bytes(page, self.segment_size).saturating_sub(self.split_header.len());
        let bytes = self.consume(input, wanted);
        if bytes.len() < wanted {
            self.split_header.extend_from_slice(bytes);
            return Ok(Step::Starved);
        }
        let mut whole = [0; LONG_HEADER_BYTES];
        let mut length = 0;
        for (to, from) in whole.iter_mut().zip(self.split_header.iter().chain(bytes)) {
            *to = *from;
            length += 1;
        }
        self.split_header.clear();
        let header = whole.get(..length).unwrap_or(&whole);
        if header.iter().all(|&byte| byte == 0) {
            self.assembly.finish();
            self.zeros_from(page);
            return Ok(Step::Continue);
        }
        // Not after an error: a damaged timeline must not make strangers of all pages after it.
        let timeline_min = self.page.map(|seen| seen.timeline).filter(|_| !self.is_joining());
        match PageHeader::parse(header, page, self.segment_size, self.page.as_ref(), timeline_min) {
            Ok(header) => self.enter_page(page, &header),
            Err(error) => self.lost(error, page_end(page)),
        }
    }

    /// Goes on behind a page header, with the unfinished record if there is one.
    fn enter_page(&mut self, page: Lsn, header: &PageHeader) -> Result<Step<'static>, WalError> {
        self.page = Some(header.update(self.page));
        if header.gives_up_unfinished {
            self.assembly.finish();
        }
        let expected = if self.assembly.is_begun() {
            self.assembly.lacking()
        } else {
            0
        };
        let continued = header.continued_bytes;
        // The rest of a record begun earlier: its end, or all of this page.
        let behind = Lsn(self
            .at
            .0
            .saturating_add(max_align(continued))
            .min(page_end(page).0));
        if continued == expected {
            self.state = if continued > 0 {
                State::RecordRest
            } else {
                State::Record
            };
        } else if self.is_joining() {
            self.state = State::Skip(behind);
        } else {
            let error = WalError::Continuation {
                at: page,
                expected,
                found: continued,
            };
            return self.lost(error, behind);
        }
        Ok(Step::Continue)
    }

    /// Nothing is known yet of the record that the next page may continue.
    fn is_joining(&self) -> bool {
        self.previous.is_none() && !self.assembly.is_begun()
    }

    /// A record begins here.
    fn record<'b>(&mut self, input: &mut &'b [u8]) -> Result<Step<'b>, WalError> {
        let begin = self.at;
        let page_rest = page_end(begin).bytes_since(begin);
        if let Some(length) = input.first_chunk::<4>().map(|bytes| u32::from_le_bytes(*bytes)) {
            if length == 0 {
                self.zeros_from(begin);
                return Ok(Step::Continue);
            }
            self.check_length(begin, length)?;
            let aligned = max_align(length.into());
            let in_input = usize::try_from(aligned).is_ok_and(|aligned| aligned <= input.len());
            if aligned <= page_rest && in_input {
                let bytes = input.get(..usize::try_from(length).unwrap_or(usize::MAX));
                let (Some(bytes), Ok(aligned)) = (bytes, usize::try_from(aligned)) else {
                    return Ok(Step::Starved);
                };
                self.check_header(begin, RecordHeader::parse(bytes))?;
                self.check_crc(begin, bytes)?;
                self.consume(input, aligned);
                return Ok(Step::InPlace { begin, bytes });
            }
        } else if input.is_empty() {
            return Ok(Step::Starved);
        }
        self.assembly.start(begin, &mut self.crc);
        self.state = State::RecordRest;
        Ok(Step::Continue)
    }

    /// More of the record in the assembly. Its length and then its header are checked as soon as they are there, so that
    /// a damaged length is not believed for a gigabyte.
    fn record_rest(&mut self, input: &mut &[u8]) -> Result<Step<'static>, WalError> {
        let begin = self.assembly.begin;
        loop {
            let wanted = self.assembly.wanted();
            if wanted == 0 {
                let header = self.assembly.header();
                let found = self.crc.finish(self.assembly.bytes());
                self.compare_crc(begin, header, found)?;
                return Ok(Step::Assembled);
            }
            let page_rest = match self.at.0 % PAGE_BYTES {
                0 if self.assembly.is_begun() => {
                    self.state = State::Page;
                    return Ok(Step::Continue);
                }
                offset => PAGE_BYTES - offset,
            };
            if input.is_empty() {
                return Ok(Step::Starved);
            }
            let count = usize::try_from(wanted.min(page_rest)).unwrap_or(usize::MAX);
            let bytes = self.consume(input, count);
            self.assembly.push(bytes, &mut self.crc);
            if self.assembly.taken() == LENGTH_BYTES {
                let length = self.assembly.length_field().unwrap_or(0);
                if length == 0 {
                    self.assembly.finish();
                    self.zeros_from(begin);
                    return Ok(Step::Continue);
                }
                self.check_length(begin, length)?;
                self.assembly.length = length;
            } else if self.assembly.taken() == RECORD_HEADER_BYTES as u64 {
                let manager = self.check_header(begin, self.assembly.header())?.manager;
                if manager.is_kept_whole() {
                    self.assembly.keep_whole();
                }
            }
        }
    }

    fn check_length(&mut self, at: Lsn, length: u32) -> Result<(), WalError> {
        if (RECORD_HEADER_BYTES as u32..=RECORD_LENGTH_MAX).contains(&length) {
            return Ok(());
        }
        self.lost(WalError::RecordLength { at, length }, self.next_page())
    }

    /// The checks of `ValidXLogRecordHeader` in the server's `xlogreader.c`.
    fn check_header(&mut self, at: Lsn, header: Option<RecordHeader>) -> Result<RecordHeader, WalError> {
        let Some(header) = header else {
            return self.lost(WalError::RecordLength { at, length: 0 }, self.next_page());
        };
        if !header.manager.is_known(self.version()) {
            let error = WalError::Malformed {
                at,
                rmgr: header.manager.0,
                problem: "no such resource manager",
            };
            return self.lost(error, self.next_page());
        }
        let is_chained = match self.previous {
            Some(previous) => header.previous == previous,
            None => header.previous < at,
        };
        if !is_chained {
            let error = WalError::PreviousRecord {
                at,
                expected: self.previous.unwrap_or(at),
                found: header.previous,
            };
            return self.lost(error, self.next_page());
        }
        Ok(header)
    }

    fn check_crc(&mut self, at: Lsn, record: &[u8]) -> Result<(), WalError> {
        let found = self.crc.of_record(record);
        self.compare_crc(at, RecordHeader::parse(record), found)
    }

    fn compare_crc(
        &mut self,
        at: Lsn,
        header: Option<RecordHeader>,
        found: Option<u32>,
    ) -> Result<(), WalError> {
        match (header, found) {
            (Some(header), Some(found)) if header.crc == found => Ok(()),
            (header, found) => {
                let error = WalError::Checksum {
                    at,
                    length: header.map_or(0, |header| header.length),
                    expected: header.map_or(0, |header| header.crc),
                    found: found.unwrap_or(0),
                };
                self.lost(error, self.next_page())
            }
        }
    }

    /// The next page that is still whole: the one that begins here, or after here.
    fn next_page(&self) -> Lsn {
        page_at_or_after(self.at)
    }

    fn version(&self) -> WalVersion {
        self.page.map_or(WalVersion::V18, |page| page.version)
    }

    fn in_place<'a>(&'a mut self, begin: Lsn, bytes: &'a [u8]) -> Result<Record<'a>, WalError> {
        let (span, version) = ((begin, self.at), self.version());
        match Parts::read(span, bytes, version, self.segment_size, &mut self.blocks) {
            Ok(parts) => {
                self.record_done(&parts);
                Ok(parts.into_record(bytes, &self.blocks))
            }
            Err(problem) => self.malformed(begin, RecordHeader::parse(bytes), problem),
        }
    }

    fn assembled(&mut self) -> Result<Record<'_>, WalError> {
        let (begin, version) = (self.assembly.begin, self.version());
        self.assembly.finish();
        let bytes = self.assembly.bytes();
        match Parts::read(
            (begin, self.at),
            bytes,
            version,
            self.segment_size,
            &mut self.blocks,
        ) {
            Ok(parts) => {
                self.record_done(&parts);
                Ok(parts.into_record(self.assembly.bytes(), &self.blocks))
            }
            Err(problem) => self.malformed(begin, self.assembly.header(), problem),
        }
    }

    fn malformed<T>(
        &mut self,
        at: Lsn,
        header: Option<RecordHeader>,
        problem: &'static str,
    ) -> Result<T, WalError> {
        let rmgr = header.map_or(0, |header| header.manager.0);
        self.lost(WalError::Malformed { at, rmgr, problem }, self.next_page())
    }

    fn record_done(&mut self, record: &Parts) {
        self.previous = Some(record.begin);
        self.whole = Some(record.end);
        self.state = if record.end > self.at {
            State::Skip(record.end)
        } else {
            self.state_after_record()
        };
    }
}

/// A record but for its bytes, which are borrowed last.
struct Parts {
    begin: Lsn,
    end: Lsn,
    header: RecordHeader,
    layout: RecordLayout,
    version: WalVersion,
}

impl Parts {
    /// Reads the headers of a record from `bytes`, the whole of it or the beginning of a long one, which ends (with its
    /// padding) at `at`.
    fn read(
        (begin, at): (Lsn, Lsn),
        bytes: &[u8],
        version: WalVersion,
        segment_size: WalSegmentSize,
        blocks: &mut Vec<BlockRef>,
    ) -> Result<Parts, &'static str> {
        let cut = "shorter than its header";
        let header = RecordHeader::parse(bytes).ok_or(cut)?;
        let body = bytes.get(RECORD_HEADER_BYTES..).ok_or(cut)?;
        let length = usize::try_from(header.length).map_err(|_| cut)?;
        let body_bytes = length.checked_sub(RECORD_HEADER_BYTES).ok_or(cut)?;
        let layout = read_layout(body, body_bytes, version, blocks)?;
        let is_switch = is_segment_switch(header.manager, header.info);
        let end = match segment_size.offset_of(at) {
            offset if is_switch && offset > 0 => segment_size.end_of(segment_size.segment_of(at)),
            _ => at,
        };
        Ok(Parts {
            begin,
            end,
            header,
            layout,
            version,
        })
    }

    fn into_record<'a>(self, bytes: &'a [u8], blocks: &'a [BlockRef]) -> Record<'a> {
        let header = self.header;
        let is_whole = usize::try_from(header.length).is_ok_and(|length| length == bytes.len());
        let main_begin = bytes.len().saturating_sub(self.layout.main_bytes);
        Record {
            begin: self.begin,
            end: self.end,
            previous: header.previous,
            xid: header.xid,
            top_level_xid: self.layout.top_level_xid,
            manager: header.manager,
            info: header.info,
            length: header.length,
            version: self.version,
            blocks,
            main: bytes.get(main_begin..).filter(|_| is_whole),
        }
    }
}

/// The end of the page that holds `at`, which is where the next one begins.
fn page_end(at: Lsn) -> Lsn {
    Lsn(at.align_down(PAGE_BYTES).0.saturating_add(PAGE_BYTES))
}

/// The start of the first page that begins at or after `at`.
fn page_at_or_after(at: Lsn) -> Lsn {
    if at.0.is_multiple_of(PAGE_BYTES) {
        at
    } else {
        page_end(at)
    }
}
