use proptest::prelude::*;

use super::super::hash::FrameMark;
use super::super::id::{BackupId, PartId};
use super::*;

fn frame(pack: u32, number: u32, plain_len: u32) -> FrameRef {
    FrameRef {
        pack,
        number,
        offset: 160 + u64::from(number) * 1000,
        stored_len: 900,
        plain_len,
        mark: FrameMark([number as u8; 8]),
    }
}

fn placement(begin: u64, len: u64, frame: FrameRef, offset: u32) -> Placement {
    Placement {
        begin,
        len,
        at: Some((frame, offset)),
    }
}

fn pack_name(index: u32) -> PartId {
    PartId {
        backup: "20261121T140300Z-0f3a9c11".parse::<BackupId>().unwrap(),
        number: index,
    }
}

/// Writes parts into one object and reads them back.
fn through_object(parts: &[PartMap]) -> Vec<PartMap> {
    let names: Vec<PartId> = (0..100).map(pack_name).collect();
    let mut builder = MapBuilder::default();
    let places: Vec<(u32, u32)> = parts.iter().map(|part| builder.add(part)).collect();
    let (mut plain, records) = builder.finish(|pack| &names[pack as usize]);
    plain.extend_from_slice(&records);
    let object = MapObject::decode(plain, |pack| Some(pack.number)).unwrap();
    places
        .iter()
        .map(|(offset, len)| object.part(*offset, *len).unwrap())
        .collect()
}

#[test]
fn pages_laid_over_a_part_replace_what_was_there() {
    let whole = PartMap::lay_over(None, 1000, &[placement(0, 1000, frame(0, 0, 1000), 0)]).unwrap();
    let changed = PartMap::lay_over(Some(&whole), 900, &[placement(300, 100, frame(1, 0, 100), 0)]).unwrap();
    let cuts: Vec<(u64, u64, u32, u32)> = changed
        .extents()
        .iter()
        .map(|extent| {
            let (frame, offset) = changed.frame_of(extent).unwrap();
            (extent.begin, extent.len, frame.pack, offset)
        })
        .collect();
    assert_eq!(cuts, [(0, 300, 0, 0), (300, 100, 1, 0), (400, 500, 0, 400)]);
    assert_eq!(through_object(std::slice::from_ref(&changed))[0], changed);
}

#[test]
fn bytes_that_nobody_gave_are_reported() {
    let given = placement(0, 100, frame(0, 0, 100), 0);
    assert_eq!(
        PartMap::lay_over(None, 150, &[given]),
        Err(Uncovered::Missing { begin: 100, end: 150 })
    );
    assert_eq!(
        PartMap::lay_over(None, 100, &[given, given]),
        Err(Uncovered::Misplaced { begin: 0 })
    );
    assert_eq!(
        PartMap::lay_over(None, 50, &[given]),
        Err(Uncovered::Misplaced { begin: 0 })
    );
    let base = PartMap::lay_over(None, 100, &[given]).unwrap();
    assert_eq!(
        PartMap::lay_over(Some(&base), 130, &[]),
        Err(Uncovered::Missing { begin: 100, end: 130 })
    );
}

#[test]
fn frames_in_a_row_take_few_bytes() {
    let placements: Vec<Placement> = (0..1024)
        .map(|n| placement(u64::from(n) << 20, 1 << 20, frame(0, n, 1 << 20), 0))
        .collect();
    let part = PartMap::lay_over(None, PART_LEN, &placements).unwrap();
    let mut builder = MapBuilder::default();
    let (_, len) = builder.add(&part);
    assert!(len < 1024 * 26, "{len} bytes for 1024 frames");
    assert_eq!(through_object(std::slice::from_ref(&part))[0], part);
}

/// Placements over a part of 5000 bytes, in order, with holes between them.
fn placements() -> impl Strategy<Value = Vec<Placement>> {
    let one = (0u64..300, 1u64..500, 0u32..4, 0u32..8, 0u32..100, any::<bool>());
    proptest::collection::vec(one, 0..20).prop_map(|items| {
        let mut begin = 0;
        let mut all = Vec::new();
        for (gap, len, pack, number, offset, zero) in items {
            begin += gap;
            if begin + len > 5000 {
                break;
            }
            let at = (!zero).then_some((frame(pack, number, 1000), offset));
            all.push(Placement { begin, len, at });
            begin += len;
        }
        all
    })
}

/// What each byte of a part is: pack, frame number and offset in the frame, or nothing for zeros.
fn bytes_of(part: &PartMap) -> Vec<Option<(u32, u32, u32)>> {
    let mut bytes = Vec::new();
    for extent in part.extents() {
        assert_eq!(extent.begin, bytes.len() as u64);
        for i in 0..extent.len as u32 {
            bytes.push(
                part.frame_of(extent)
                    .map(|(frame, offset)| (frame.pack, frame.number, offset + i)),
            );
        }
    }
    bytes
}

proptest! {
    #[test]
    fn layers_equal_a_plain_list_of_bytes(layers in proptest::collection::vec((placements(), 4600u64..5000), 1..5)) {
        let zeros = Placement { begin: 0, len: 5000, at: None };
        let mut part = PartMap::lay_over(None, 5000, &[zeros]).unwrap();
        let mut model = vec![None; 5000];
        for (placements, len) in layers {
            let len = len.min(part.len());
            let placements: Vec<Placement> =
                placements.into_iter().filter(|placement| placement.begin + placement.len <= len).collect();
            part = PartMap::lay_over(Some(&part), len, &placements).unwrap();
            model.truncate(len as usize);
            for placement in &placements {
                for i in 0..placement.len as u32 {
                    model[placement.begin as usize + i as usize] =
                        placement.at.map(|(frame, offset)| (frame.pack, frame.number, offset + i));
                }
            }
        }
        prop_assert_eq!(bytes_of(&part), model);
        let parts = [part.clone(), PartMap::default(), part];
        prop_assert_eq!(through_object(&parts), parts);
    }

    #[test]
    fn arbitrary_bytes_never_panic_and_never_make_a_broken_map(
        bytes in proptest::collection::vec(prop_oneof![0u8..12, any::<u8>()], 0..80),
    ) {
        if let Ok(part) = codec::decode(&bytes, &[0, 1, 2]) {
            prop_assert_eq!(part.extents().iter().map(|extent| extent.len).sum::<u64>(), part.len());
            for extent in part.extents() {
                if let Some((frame, offset)) = part.frame_of(extent) {
                    prop_assert!(u64::from(offset) + extent.len <= u64::from(frame.plain_len));
                }
            }
        }
        if let Ok(object) = MapObject::decode(bytes, |_| Some(0)) {
            let _ = object.part(0, 10);
        }
    }

    #[test]
    fn a_changed_byte_never_panics(layer in placements(), at: prop::sample::Index, to: u8) {
        let zeros = PartMap::lay_over(None, 5000, &[Placement { begin: 0, len: 5000, at: None }]).unwrap();
        let part = PartMap::lay_over(Some(&zeros), 5000, &layer).unwrap();
        let mut bytes = Vec::new();
        codec::encode(&part, |pack| pack, &mut bytes);
        let at = at.index(bytes.len());
        bytes[at] = to;
        let _ = codec::decode(&bytes, &[0, 1, 2, 3]);
    }
}
