//! The fuzz targets' checks over their committed inputs, without a fuzzer.

#[path = "../../../../../fuzz/binlog_checks.rs"]
mod checks;

use tidemark_testkit::check_corpus;

use super::writer;

#[test]
fn binlog_decoder() {
    check_corpus("binlog_decoder", checks::binlog_decoder);
}

#[test]
fn gtid_set() {
    check_corpus("gtid_set", checks::gtid_set);
}
