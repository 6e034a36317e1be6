use proptest::prelude::*;

use super::super::hash::HashKey;
use super::*;

const KEY: HashKey = HashKey([3; 32]);

fn encode(pieces: &[Vec<u8>], page_size: usize) -> (EncodedFrame, Vec<u8>) {
    let mut buffer = FrameBuffer::new(1 << 20, page_size);
    for (number, piece) in pieces.iter().enumerate() {
        assert_eq!(buffer.push(FileId(number as u32), 0, piece), piece.len());
    }
    let frame = FrameEncoder::new(KEY, 3).unwrap().encode(&buffer).unwrap();
    (frame, buffer.bytes().to_vec())
}

fn decode(frame: &EncodedFrame, stored: &[u8]) -> Result<Vec<u8>, FrameDamage> {
    let (plain_len, mark) = frame.identity();
    FrameDecoder::new(KEY)
        .unwrap()
        .decode(stored, plain_len, mark)
        .map(<[u8]>::to_vec)
}

#[test]
fn a_buffer_takes_whole_pages_unless_the_rest_of_the_file_fits() {
    let mut buffer = FrameBuffer::new(1000, 100);
    assert_eq!(buffer.push(FileId(0), 0, &[1; 150]), 150);
    assert_eq!(buffer.room_for(850), 850);
    assert_eq!(buffer.room_for(10_000), 800);
    assert_eq!(buffer.push(FileId(1), 0, &[2; 2000]), 800);
    assert!(buffer.is_full());
    assert_eq!(buffer.pieces().len(), 2);
}

#[test]
fn neighbouring_pages_of_a_file_become_one_piece() {
    let mut buffer = FrameBuffer::new(1000, 100);
    for page in [0, 1, 2, 4] {
        buffer.push(FileId(7), page * 100, &[1; 100]);
    }
    let runs: Vec<(u64, u32)> = buffer
        .pieces()
        .iter()
        .map(|piece| (piece.offset, piece.len))
        .collect();
    assert_eq!(runs, [(0, 300), (400, 100)]);
}

#[test]
fn a_frame_is_a_zstd_stream_of_its_plain_bytes() {
    let (frame, plain) = encode(&[vec![1; 20_000], b"small".to_vec()], 8192);
    assert_eq!(zstd::stream::decode_all(frame.stored()).unwrap(), plain);
}

#[test]
fn another_frame_in_the_place_of_the_wanted_one_is_refused() {
    let (frame, _) = encode(&[vec![1; 100]], 8192);
    let (other, _) = encode(&[vec![2; 100]], 8192);
    let damage = decode(&frame, other.stored()).unwrap_err();
    assert_eq!(damage.to_string(), "it is another frame than its map means");
}

#[test]
fn pages_are_found_by_where_they_lie() {
    let (frame, _) = encode(&[vec![1; 250], vec![2; 100]], 100);
    assert_eq!(frame.grid.page_count(), 4);
    assert_eq!(frame.grid.page_at(0, 100, 100), Some(0));
    assert_eq!(frame.grid.page_at(200, 50, 100), Some(2));
    assert_eq!(frame.grid.page_at(250, 100, 100), Some(3));
    for (offset, len, page_size) in [(200, 100, 100), (50, 100, 100), (350, 1, 100), (0, 50, 50)] {
        assert_eq!(
            frame.grid.page_at(offset, len, page_size),
            None,
            "{offset} {len} {page_size}"
        );
    }
}

fn pieces() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let piece = (1usize..3000, any::<u8>(), 1u8..5).prop_map(|(len, first, step)| {
        (0..len)
            .map(|i| first.wrapping_add(((i / 7) as u8).wrapping_mul(step)))
            .collect()
    });
    proptest::collection::vec(piece, 1..6)
}

proptest! {
    #[test]
    fn frames_round_trip(pieces in pieces(), page_size in prop::sample::select(vec![512usize, 1000, 8192])) {
        let (frame, plain) = encode(&pieces, page_size);
        prop_assert_eq!(decode(&frame, frame.stored()).unwrap(), plain);
        prop_assert_eq!(frame.page_hashes.len(), frame.grid.hashes_len());
    }

    #[test]
    fn one_flipped_bit_is_always_found(pieces in pieces(), bit: prop::sample::Index) {
        let (frame, _) = encode(&pieces, 512);
        let mut stored = frame.stored().to_vec();
        let bit = bit.index(stored.len() * 8);
        stored[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(decode(&frame, &stored).is_err());
    }

    #[test]
    fn a_cut_frame_is_always_found(pieces in pieces(), len: prop::sample::Index) {
        let (frame, _) = encode(&pieces, 512);
        let stored = &frame.stored()[..len.index(frame.stored().len())];
        prop_assert!(decode(&frame, stored).is_err());
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), keep: prop::sample::Index) {
        let (frame, _) = encode(&[vec![9; 600]], 512);
        let mut stored = frame.stored()[..keep.index(frame.stored().len())].to_vec();
        stored.extend_from_slice(&bytes);
        prop_assert!(decode(&frame, &stored).is_err() || stored == frame.stored());
        let _ = decode(&frame, &bytes);
    }
}
