#![no_main]

use tidemark_mysql::{binlog, gtid};

#[path = "../binlog_checks.rs"]
#[allow(dead_code)]
mod checks;
#[path = "../../crates/mysql/src/binlog/tests/writer.rs"]
#[allow(dead_code)]
mod writer;

libfuzzer_sys::fuzz_target!(|data: &[u8]| checks::gtid_set(data));
