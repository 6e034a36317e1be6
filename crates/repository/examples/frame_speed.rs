//! Measures encoding and decoding of base backup frames on one core.
//!
//!     cargo run --release -p tidemark-repository --example frame_speed -- FILE [zstd level]
//!
//! FILE should be a relation file of a real database; up to 1 GiB of it is read. Rates are by CPU time of the one thread
//! (Linux only), so that other work on the machine disturbs them little.

use std::fs;
use std::io::Read;
use std::time::Duration;

use tidemark_repository::base::{FileId, FrameBuffer, FrameDecoder, FrameEncoder, HashKey, PageHash};

const PAGE_SIZE: usize = 8192;
const KEY: HashKey = HashKey([7; 32]);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let path = args.next().ok_or("usage: frame_speed FILE [zstd level]")?;
    let level = args.next().map_or(Ok(3), |text| text.parse())?;
    let mut data = Vec::new();
    fs::File::open(&path)?.take(1 << 30).read_to_end(&mut data)?;

    let (_, took) = timed(|| {
        for page in data.chunks(PAGE_SIZE) {
            std::hint::black_box(PageHash::of(&KEY, page));
        }
    });
    report("page hashes alone", data.len(), took);
    let (_, took) = timed(|| std::hint::black_box(blake3::keyed_hash(&KEY.0, &data)));
    report("one hash of all", data.len(), took);
    for frame_len in [128 << 10, 256 << 10, 512 << 10, 1 << 20, 2 << 20] {
        measure(&data, frame_len, level)?;
    }
    Ok(())
}

fn measure(data: &[u8], frame_len: usize, level: i32) -> Result<(), Box<dyn std::error::Error>> {
    let mut compressor = zstd::bulk::Compressor::new(level)?;
    let mut out = Vec::with_capacity(zstd::zstd_safe::compress_bound(frame_len));
    let (compressed, bare) = timed(|| {
        data.chunks(frame_len).try_fold(0, |sum, chunk| {
            out.clear();
            compressor
                .compress_to_buffer(chunk, &mut out)
                .map(|len| sum + len)
        })
    });
    let compressed = compressed?;

    let file = FileId(0);
    let mut encoder = FrameEncoder::new(KEY, level)?;
    let mut buffer = FrameBuffer::new(frame_len, PAGE_SIZE);
    let (frames, encoding) = timed(|| {
        let encoded = data.chunks(frame_len).map(|chunk| {
            buffer.clear();
            buffer.push(file, 0, chunk);
            encoder.encode(&buffer)
        });
        encoded.collect::<Result<Vec<_>, _>>()
    });
    let frames = frames?;

    let mut decoder = FrameDecoder::new(KEY)?;
    let (decoded, decoding) = timed(|| {
        frames.iter().try_fold(0, |sum, frame| {
            let (plain_len, mark) = frame.identity();
            decoder
                .decode(frame.stored(), plain_len, mark)
                .map(|plain| sum + plain.len())
        })
    });
    assert_eq!(decoded?, data.len());
    let stored: usize = frames.iter().map(|frame| frame.stored_len()).sum();
    println!(
        "frames of {} KiB: stored {stored} bytes, {} of them beside zstd's",
        frame_len >> 10,
        stored - compressed
    );
    report("  zstd alone", data.len(), bare);
    report("  encode", data.len(), encoding);
    report("  decode", data.len(), decoding);
    Ok(())
}

/// Runs `work`; returns its result and the CPU time it took.
fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let begin = cpu_time();
    let result = work();
    (result, cpu_time().saturating_sub(begin))
}

/// CPU time of this thread: the first field of its `schedstat`, in nanoseconds.
fn cpu_time() -> Duration {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanos = text
        .split_whitespace()
        .next()
        .and_then(|field| field.parse().ok());
    Duration::from_nanos(nanos.unwrap_or(0))
}

fn report(what: &str, bytes: usize, took: Duration) {
    println!(
        "{what:20} {:6.0} MB per CPU second",
        bytes as f64 / 1e6 / took.as_secs_f64()
    );
}
