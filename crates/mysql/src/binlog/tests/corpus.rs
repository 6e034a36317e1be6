//! The fuzz targets' checks over their committed inputs, without a fuzzer.

#[path = "../../../../../fuzz/binlog_checks.rs"]
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
fn binlog_decoder() {
    run_over("binlog_decoder", checks::binlog_decoder);
}

#[test]
fn gtid_set() {
    run_over("gtid_set", checks::gtid_set);
}
