//! The fuzz target's check over its committed inputs, without a fuzzer.

#[path = "../../../../../../fuzz/xbstream_checks.rs"]
mod checks;

use tidemark_testkit::check_corpus;

use super::writer;

#[test]
fn xbstream() {
    check_corpus("xbstream", checks::xbstream);
}
