//! Logs written by hand: versions that are not installed, borders, and the rules of page and record headers.

use tidemark_types::TimelineId;

use super::writer::{SYSTEM_ID, Writer, main_data};
use super::*;

fn decode_written(writer: &Writer) -> Result<(Vec<Seen>, WalDecoder), WalError> {
    let mut seen = Vec::new();
    let decoder = decode_in_parts(&writer.bytes, &[usize::MAX], |record| seen.push(Seen::of(record)))?;
    // Divided, it must be the same.
    let mut divided = Vec::new();
    decode_in_parts(&writer.bytes, &[5, 24, 3], |record| {
        divided.push(Seen::of(record));
    })?;
    assert_eq!(divided, seen);
    Ok((seen, decoder))
}

fn facts(writer: &Writer) -> Vec<String> {
    let mut facts = Vec::new();
    decode_in_parts(&writer.bytes, &[usize::MAX], |record| {
        facts.push(format!("{:?}", Fact::of(record).unwrap()));
    })
    .unwrap();
    facts
}

#[test]
fn every_supported_magic_is_known() {
    for version in WalVersion::ALL {
        let mut writer = Writer::new(version);
        let begin = writer.filler(100);
        let (seen, decoder) = decode_written(&writer).unwrap();
        assert_eq!(seen.len(), 1);
        assert_eq!(
            (seen[0].begin, seen[0].length, seen[0].main_bytes),
            (begin, 100, Some(71))
        );
        let info = decoder.page_info().unwrap();
        assert_eq!((info.version, info.system_id), (version, Some(SYSTEM_ID)));
    }
}

#[test]
fn an_unknown_magic_is_named_with_what_is_supported() {
    let mut writer = Writer::new(WalVersion::V18);
    writer.filler(100);
    writer.bytes[0..2].copy_from_slice(&0xD11Au16.to_le_bytes());
    let error = decode_written(&writer).unwrap_err();
    assert_eq!(
        error.to_string(),
        "WAL page at 0/00300000 has magic 0xD11A, which is no supported version's (PostgreSQL 13 to 18 on a \
         little-endian machine)"
    );
    assert_eq!(error.position(), writer.start);
}

#[test]
fn each_field_of_a_page_header_is_checked() {
    let field_of = |offset: usize, byte: u8| {
        let mut writer = Writer::new(WalVersion::V16);
        while writer.bytes.len() < (1 << 20) + 100 {
            writer.filler(1000);
        }
        writer.bytes[offset] = byte;
        match decode_written(&writer).unwrap_err() {
            WalError::Page { field, at, .. } => {
                assert_eq!(at.0, writer.start.0 + offset as u64 / 8192 * 8192);
                field
            }
            other => panic!("{other}"),
        }
    };
    let (second, segment) = (8192, 1 << 20);
    assert_eq!(field_of(second, 0x16), PageField::Magic);
    assert_eq!(field_of(second + 2, 0x11), PageField::Flags);
    assert_eq!(
        field_of(second + 2, 0x03),
        PageField::Flags,
        "a long header in mid-segment"
    );
    assert_eq!(
        field_of(segment + 2, 0x01),
        PageField::Flags,
        "a short header at a segment's start"
    );
    assert_eq!(field_of(second + 4, 0), PageField::Timeline);
    assert_eq!(field_of(second + 9, 0), PageField::Address);
    assert_eq!(field_of(segment + 24, 0), PageField::SystemId);
    assert_eq!(field_of(32 + 2, 0x20), PageField::SegmentSize);
    assert_eq!(field_of(36 + 1, 0x40), PageField::BlockSize);
}

#[test]
fn timelines_rise_and_never_fall() {
    let mut writer = Writer::new(WalVersion::V17);
    writer.fill_page(0);
    writer.timeline = 4;
    writer.fill_page(0);
    writer.filler(100);
    let (seen, decoder) = decode_written(&writer).unwrap();
    assert_eq!(seen.len(), 3);
    assert_eq!(decoder.page_info().unwrap().timeline, TimelineId(4));

    writer.fill_page(0);
    writer.timeline = 3;
    writer.filler(100);
    let error = decode_written(&writer).unwrap_err();
    assert_eq!(
        error.to_string(),
        "WAL page at 0/00306000 is of timeline 3, but an earlier page is of timeline 4"
    );
}

#[test]
fn a_record_that_fills_its_page_ends_at_the_border() {
    let mut writer = Writer::new(WalVersion::V14);
    writer.fill_page(0);
    let border = writer.at();
    let next = writer.filler(64);
    let (seen, _) = decode_written(&writer).unwrap();
    assert_eq!(seen[0].end, border);
    assert_eq!((seen[1].begin, seen[1].previous), (next, seen[0].begin));
    assert_eq!(next.0, border.0 + 24);
}

#[test]
fn a_header_may_be_split_between_pages() {
    for left in [8, 16, 24, 32] {
        let mut writer = Writer::new(WalVersion::V13);
        writer.fill_page(left);
        let begin = writer.filler(20_000);
        let (seen, decoder) = decode_written(&writer).unwrap();
        assert_eq!(seen[1].begin, begin);
        assert_eq!(seen[1].main_bytes, Some(20_000 - 29));
        assert_eq!(decoder.whole(), Some(writer.at()));
    }
}

#[test]
fn a_segment_switch_passes_over_the_rest_of_its_segment() {
    let mut writer = Writer::new(WalVersion::V15);
    writer.filler(100);
    writer.record(0, 0x40, &[]);
    let whole = decode_written(&writer).unwrap().1.whole();
    writer.zeros_to(1 << 20);
    assert_eq!(whole, Some(writer.at()), "known before the rest was fed");
    let next = writer.filler(100);
    let (seen, decoder) = decode_written(&writer).unwrap();
    assert_eq!(seen[1].end.0, writer.start.0 + (1 << 20));
    assert_eq!(seen[2].begin, next);
    assert_eq!(decoder.end_of_log(), None);
}

#[test]
fn who_joins_behind_a_segment_switch_passes_over_its_padding() {
    let mut writer = Writer::new(WalVersion::V15);
    writer.fill_page(16);
    // It reaches over the page's end.
    writer.record(0, 0x40, &[]);
    writer.zeros_to(1 << 20);
    let next = writer.filler(100);
    for from in [8192, 3 * 8192] {
        for portion in [7, 8192, writer.bytes.len()] {
            let mut decoder = WalDecoder::new(Lsn(writer.start.0 + from as u64), small());
            let mut begins = Vec::new();
            for mut input in writer.bytes[from..].chunks(portion) {
                while let Some(record) = decoder.next(&mut input).unwrap() {
                    begins.push(record.begin);
                }
            }
            assert_eq!((begins, decoder.end_of_log()), (vec![next], None));
            let mut decoder = WalDecoder::new(Lsn(writer.start.0 + from as u64), small());
            let mut padding = &writer.bytes[from..1 << 20];
            assert!(decoder.next(&mut padding).unwrap().is_none());
            assert_eq!(decoder.whole(), None, "which record is the last is not known");
        }
    }
}

#[test]
fn padding_holds_nothing_but_zeros() {
    let mut writer = Writer::new(WalVersion::V15);
    writer.filler(100);
    writer.record(0, 0x40, &[]);
    writer.zeros_to(1 << 20);
    writer.bytes[5 * 8192 + 50] = 1;
    let from = 2 * 8192;
    let mut decoder = WalDecoder::new(Lsn(writer.start.0 + from as u64), small());
    let error = decoder.next(&mut &writer.bytes[from..]).unwrap_err();
    assert_eq!(error.position(), Lsn(writer.start.0 + from as u64));
    assert_eq!(decoder.position(), Lsn(writer.start.0 + 5 * 8192 + 50));
}

#[test]
fn zeros_are_the_end_of_the_log() {
    for left in [0, 8, 1000] {
        let mut writer = Writer::new(WalVersion::V17);
        writer.fill_page(left);
        let end = writer.at();
        writer.zeros_to(1 << 20);
        let (seen, decoder) = decode_written(&writer).unwrap();
        assert_eq!(
            (seen.len(), decoder.end_of_log(), decoder.whole()),
            (1, Some(end), Some(end))
        );
        assert_eq!(decoder.position(), writer.at(), "the rest was consumed");
    }
}

#[test]
fn whoever_knows_better_goes_on_past_the_zeros() {
    let mut writer = Writer::new(WalVersion::V17);
    writer.filler(100);
    writer.zeros_to(8192);
    let later = writer.filler(100);
    let (zeros, rest) = writer.bytes.split_at(8192);
    let mut decoder = WalDecoder::new(writer.start, small());
    let mut input = zeros;
    assert!(decoder.next(&mut input).unwrap().is_some());
    assert!(decoder.next(&mut input).unwrap().is_none());
    assert!(decoder.end_of_log().is_some());
    decoder.resync();
    let mut input = rest;
    assert_eq!(decoder.next(&mut input).unwrap().unwrap().begin, later);
}

#[test]
fn a_log_that_ends_within_a_record_ends_before_it() {
    let mut writer = Writer::new(WalVersion::V17);
    writer.filler(100);
    let end = writer.at();
    writer.filler(9000);
    writer.bytes.truncate(8192);
    writer.zeros_to(1 << 20);
    writer.bytes.resize(1 << 20, 0);
    let (seen, decoder) = decode_written(&writer).unwrap();
    assert_eq!((seen.len(), decoder.whole()), (1, Some(end)));
    assert_eq!(decoder.end_of_log(), Some(Lsn(writer.start.0 + 8192)));
}

#[test]
fn an_overwritten_record_is_dropped() {
    for version in WalVersion::ALL {
        let mut writer = Writer::new(version);
        let first = writer.filler(100);
        let unfinished = writer.encode(21, 0, &main_data(&[1; 20_000]));
        let begin = writer.at();
        let on_this_page = 8192 - writer.bytes.len();
        writer.bytes.extend(&unfinished[..on_this_page]);
        writer.page_header(8, 0);
        let mut content = begin.0.to_le_bytes().to_vec();
        content.extend(0i64.to_le_bytes());
        writer.record(0, 0xD0, &main_data(&content));
        let (seen, _) = decode_written(&writer).unwrap();
        assert_eq!((seen.len(), seen[1].previous), (2, first));
        assert!(facts(&writer)[1].contains(&format!("overwritten: {begin}")));
    }
}

#[test]
fn a_page_that_continues_another_record_is_an_error() {
    let mut writer = Writer::new(WalVersion::V18);
    writer.filler(9000);
    writer.bytes[8192 + 16] ^= 8;
    let error = decode_written(&writer).unwrap_err();
    assert!(
        matches!(
            error,
            WalError::Continuation {
                expected: 848,
                found: 856,
                ..
            }
        ),
        "{error}"
    );

    // Nor may a record be continued that nobody began.
    let mut writer = Writer::new(WalVersion::V18);
    writer.fill_page(0);
    writer.page_header(1, 64);
    let error = decode_written(&writer).unwrap_err();
    assert!(
        matches!(
            error,
            WalError::Continuation {
                expected: 0,
                found: 64,
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn lengths_are_bounded_before_they_are_believed() {
    for length in [1, 23, (1020 << 20) + 1, u32::MAX] {
        let mut writer = Writer::new(WalVersion::V18);
        let begin = writer.filler(100);
        writer.bytes[40..44].copy_from_slice(&u32::to_le_bytes(length));
        let error = decode_written(&writer).unwrap_err();
        assert_eq!(error, WalError::RecordLength { at: begin, length });
    }
}

#[test]
fn records_must_point_back() {
    let mut writer = Writer::new(WalVersion::V18);
    writer.filler(100);
    let second = writer.filler(100);
    let third = writer.encode(21, 0, &main_data(&[1]));
    writer.write(&third);
    writer.write(&third);
    let error = decode_written(&writer).unwrap_err();
    assert!(
        matches!(error, WalError::PreviousRecord { expected, found, .. } if expected > second && found == second),
        "{error}"
    );
}

#[test]
fn a_wrong_checksum_is_an_error_that_can_be_stepped_over() {
    let mut writer = Writer::new(WalVersion::V18);
    writer.filler(100);
    let damaged = writer.filler(100);
    writer.bytes[40 + 104 + 50] ^= 1;
    writer.fill_page(40);
    writer.filler(500);
    let found_again = writer.filler(100);
    writer.filler(100);
    let mut decoder = WalDecoder::new(writer.start, small());
    let mut input = &writer.bytes[..];
    assert!(decoder.next(&mut input).unwrap().is_some());
    let error = decoder.next(&mut input).map(|_| ()).unwrap_err();
    assert_eq!(error.position(), damaged);
    let again = decoder.next(&mut input).map(|_| ()).unwrap_err();
    assert_eq!(error, again, "it stays lost until told");
    decoder.resync();
    assert_eq!(decoder.next(&mut input).unwrap().unwrap().begin, found_again);
    assert!(decoder.next(&mut input).unwrap().is_some());
}

/// Found by fuzzing: stepping over damage there never came to an end.
#[test]
fn nothing_lies_on_the_last_page_of_the_address_space() {
    let last_page = Lsn(u64::MAX - 8191);
    let mut writer = Writer::starting_at(Lsn(last_page.0 - 8192), WalVersion::V18);
    let first = writer.filler(100);
    writer.fill_page(40);
    let unfinished = writer.filler(500);
    assert!(unfinished < last_page && last_page < writer.at());
    let (seen, _) = decode_written(&writer).unwrap();
    assert_eq!(seen.len(), 2);
    assert_eq!(seen[0].begin, first);

    let mut decoder = WalDecoder::new(Lsn(u64::MAX - 100), small());
    for _ in 0..3 {
        let mut input = &[0xA5; 4096][..];
        assert!(decoder.next(&mut input).unwrap().is_none());
        assert!(input.is_empty());
        decoder.resync();
    }
}

#[test]
fn of_a_long_record_only_facts_are_held() {
    let mut writer = Writer::new(WalVersion::V18);
    writer.filler(3 << 20);
    let mut commit = 5i64.to_le_bytes().to_vec();
    commit.extend(2u32.to_le_bytes());
    commit.extend(600_000u32.to_le_bytes());
    (0..600_000u32).for_each(|xid| commit.extend(xid.to_le_bytes()));
    writer.record(1, 0x80, &main_data(&commit));
    let mut lengths = Vec::new();
    decode_in_parts(&writer.bytes, &[100_000], |record| {
        match Fact::of(record).unwrap() {
            Some(Fact::Commit(end)) => {
                assert!(end.subtransactions.iter().eq(0..600_000));
                lengths.push(record.main.map(<[u8]>::len));
            }
            other => lengths.push(record.main.map(<[u8]>::len).filter(|_| other.is_none())),
        }
    })
    .unwrap();
    assert_eq!(lengths, [None, Some(commit.len())]);
}

/// One block with an image and some data, then another block of the same relation.
fn with_image(image_flags: u8, hole_length: bool) -> Vec<u8> {
    let mut body = vec![0, 0x10 | 0x20];
    body.extend(3u16.to_le_bytes());
    body.extend(100u16.to_le_bytes());
    body.extend(40u16.to_le_bytes());
    body.push(image_flags);
    body.extend(vec![9; if hole_length { 2 } else { 0 }]);
    [1663u32, 5, 16384, 42]
        .into_iter()
        .for_each(|part| body.extend(part.to_le_bytes()));
    body.extend([1, 0x80 | 0x02, 0, 0]);
    body.extend(43u32.to_le_bytes());
    body.extend([255, 4]);
    body.extend(vec![1; 100 + 3 + 4]);
    body
}

#[test]
fn image_flags_are_read_by_version() {
    for version in WalVersion::ALL {
        let compressed = if version < WalVersion::V15 {
            [0x03, 0x07, 0x03]
        } else {
            [0x05, 0x0B, 0x13]
        };
        let plain = if version < WalVersion::V15 { 0x05 } else { 0x03 };
        let cases = compressed.map(|flags| (flags, true));
        for (flags, hole_length) in cases.into_iter().chain([(plain, false), (0x00, false)]) {
            let mut writer = Writer::new(version);
            writer.record(10, 0, &with_image(flags, hole_length));
            let (seen, _) = decode_written(&writer).unwrap_or_else(|e| panic!("{version} {flags:#x}: {e}"));
            let relation = "1663/5/16384".to_owned();
            assert_eq!(
                seen[0].blocks,
                [(0, relation.clone(), "main", 42), (1, relation, "vm", 43)]
            );
            assert_eq!(seen[0].main_bytes, Some(4));
            // The other reading of the flag does not add up.
            let mut writer = Writer::new(version);
            writer.record(10, 0, &with_image(flags, !hole_length));
            assert!(decode_written(&writer).is_err(), "{version} {flags:#x}");
        }
    }
}

#[test]
fn ids_belong_to_versions() {
    let mut body = vec![253, 1, 0, 252];
    body.extend(700u32.to_le_bytes());
    body.extend([255, 1, 1]);
    for version in WalVersion::ALL {
        let mut writer = Writer::new(version);
        writer.record(10, 0, &body);
        let read = decode_written(&writer).map(|(seen, _)| seen[0].main_bytes);
        match version {
            WalVersion::V13 => assert!(matches!(read, Err(WalError::Malformed { .. })), "{read:?}"),
            _ => assert_eq!(read, Ok(Some(1))),
        }
        let mut writer = Writer::new(version);
        writer.record(128, 0, &main_data(&[1]));
        assert_eq!(decode_written(&writer).is_ok(), version >= WalVersion::V15);
        let mut writer = Writer::new(version);
        writer.record(22, 0, &main_data(&[1]));
        assert!(
            decode_written(&writer).is_err(),
            "no version has 22 resource managers and one"
        );
    }
}

fn numbers(numbers: &[u32]) -> Vec<u8> {
    main_data(&numbers.iter().flat_map(|n| n.to_le_bytes()).collect::<Vec<_>>())
}

#[test]
fn database_records_were_renumbered_in_15() {
    let create =
        "Some(DatabaseCreate { database: DatabaseDirectory { tablespace: 1663, database: 5 }, copied_from: ";
    let source = "Some(DatabaseDirectory { tablespace: 1664, database: 1 }) })";
    let drop = "Some(DatabaseDrop { directories: [DatabaseDirectory { tablespace: 1663, database: 5 }, \
                DatabaseDirectory { tablespace: 1700, database: 5 }] })";
    for version in WalVersion::ALL {
        let mut writer = Writer::new(version);
        writer.record(4, 0x00, &numbers(&[5, 1663, 1, 1664]));
        let mut expected = vec![format!("{create}{source}")];
        if version >= WalVersion::V15 {
            writer.record(4, 0x10, &numbers(&[5, 1663]));
            expected.push(format!("{create}None }})"));
        }
        let operation = if version >= WalVersion::V15 { 0x20 } else { 0x10 };
        writer.record(4, operation, &numbers(&[5, 2, 1663, 1700]));
        expected.push(drop.to_owned());
        assert_eq!(facts(&writer), expected, "{version}");
    }
}

/// A commit with every list there is, and a prepare, in each version's layout.
#[test]
fn transaction_records_are_read_by_version() {
    for version in WalVersion::ALL {
        let has_statistics = version >= WalVersion::V15;
        let statistics_bytes = if version >= WalVersion::V18 { 16 } else { 12 };
        let flags = 0b1_1111 | if has_statistics { 1 << 8 } else { 0 };
        let mut commit = vec![0; 8];
        let put = |bytes: &mut Vec<u8>, list: &[u32]| bytes.extend(list.iter().flat_map(|n| n.to_le_bytes()));
        put(&mut commit, &[flags, 5, 1663, 2, 801, 802, 1, 1663, 5, 16400]);
        if has_statistics {
            put(&mut commit, &[2]);
            commit.extend(vec![6; 2 * statistics_bytes]);
        }
        put(&mut commit, &[1]);
        commit.extend([7; 16]);
        put(&mut commit, &[800]);
        let mut writer = Writer::new(version);
        writer.record(1, 0x30 | 0x80, &main_data(&commit));

        let mut prepare = Vec::new();
        put(&mut prepare, &[0x57F9_4534, 0, 900, 5, 0, 0, 10, 0, 0, 0]);
        put(&mut prepare, if has_statistics { &[0, 0, 0] } else { &[0] });
        prepare.extend([0, 0]);
        prepare.extend(4u16.to_le_bytes());
        prepare.extend([0; 16]);
        prepare.extend(b"gid\0....");
        writer.record(1, 0x10, &main_data(&prepare));

        let mut facts = Vec::new();
        decode_in_parts(&writer.bytes, &[usize::MAX], |record| {
            match Fact::of(record).unwrap() {
                Some(Fact::Commit(end)) => {
                    let lists = (end.subtransactions.iter().collect::<Vec<_>>(), end.dropped.len());
                    assert_eq!(end.time.to_string(), "2000-01-01T00:00:00Z");
                    facts.push(format!("{} {lists:?}", end.xid));
                }
                Some(Fact::Prepare(prepare)) => {
                    facts.push(format!(
                        "{} {}",
                        prepare.xid,
                        String::from_utf8_lossy(prepare.gid)
                    ));
                }
                other => panic!("{other:?}"),
            }
        })
        .unwrap();
        assert_eq!(facts, ["800 ([801, 802], 1)", "900 gid"], "{version}");
    }
}
