#![no_main]

use tidemark_mysql::basebackup;

#[path = "../xbstream_checks.rs"]
mod checks;
#[path = "../../crates/mysql/src/basebackup/xbstream/tests/writer.rs"]
mod writer;

libfuzzer_sys::fuzz_target!(|data: &[u8]| checks::xbstream(data));
