//! The fuzz targets' checks over their committed inputs, without a fuzzer.

#[path = "../../../../../fuzz/checks.rs"]
mod checks;

use tidemark_testkit::check_corpus;

use super::writer;

#[test]
fn wal_decoder() {
    check_corpus("wal_decoder", checks::wal_decoder);
}

#[test]
fn wal_record() {
    check_corpus("wal_record", checks::wal_record);
}

#[test]
fn changed_blocks() {
    check_corpus("changed_blocks", checks::changed_blocks);
}
