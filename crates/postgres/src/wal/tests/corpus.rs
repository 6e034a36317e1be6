//! The fuzz targets' checks over their committed inputs, without a fuzzer.

#[path = "../../../../../fuzz/checks.rs"]
mod checks;

use std::path::Path;

use super::writer;

fn run_over(target: &str, check: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../fuzz/corpus")
        .join(target);
    let inputs: Vec<_> = std::fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("list {}: {error}", folder.display()))
        .map(|entry| entry.unwrap().path())
        .collect();
    assert!(!inputs.is_empty(), "no inputs in {}", folder.display());
    for path in inputs {
        check(&std::fs::read(&path).unwrap());
    }
}

#[test]
fn wal_decoder() {
    run_over("wal_decoder", checks::wal_decoder);
}

#[test]
fn wal_record() {
    run_over("wal_record", checks::wal_record);
}

#[test]
fn changed_blocks() {
    run_over("changed_blocks", checks::changed_blocks);
}
