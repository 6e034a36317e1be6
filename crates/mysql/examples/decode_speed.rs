//! How fast binlog files are decoded: events, facts, transactions.
//!
//!     cargo run --release -p tidemark-mysql --example decode_speed -- FILE...

use std::time::Instant;

use tidemark_mysql::binlog::{BinlogDecoder, Fact, Transactions};

/// What a replication connection or an object store hands over at a time.
const PORTION_BYTES: usize = 1 << 20;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files: Vec<Vec<u8>> = std::env::args()
        .skip(1)
        .map(std::fs::read)
        .collect::<Result<_, _>>()?;
    let bytes: usize = files.iter().map(Vec::len).sum();
    for _ in 0..3 {
        let start = Instant::now();
        let (mut events, mut transactions) = (0, 0);
        for file in &files {
            let mut decoder = BinlogDecoder::new();
            let mut whole = Transactions::new();
            for mut input in file.chunks(PORTION_BYTES) {
                while let Some(event) = decoder.next(&mut input)? {
                    let fact = Fact::of(&event)?;
                    events += 1;
                    transactions += usize::from(whole.add(&event, fact.as_ref())?.is_some());
                }
            }
        }
        let seconds = start.elapsed().as_secs_f64();
        let rate = bytes as f64 / seconds / 1e6;
        println!(
            "{bytes} bytes, {events} events, {transactions} transactions in {seconds:.3} s: {rate:.0} MB/s"
        );
    }
    Ok(())
}
