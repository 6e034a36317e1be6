#![no_main]

use tidemark_postgres::wal;

#[path = "../checks.rs"]
#[allow(dead_code)]
mod checks;
#[path = "../../crates/postgres/src/wal/tests/writer.rs"]
#[allow(dead_code)]
mod writer;

libfuzzer_sys::fuzz_target!(|data: &[u8]| checks::wal_record(data));
