//! Fuzz targets without a fuzzer.

use std::fs;
use std::path::Path;

/// Runs a fuzz target's `check` over its committed inputs. Panics when there are none.
#[track_caller]
pub fn check_corpus(target: &str, check: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../fuzz/corpus")
        .join(target);
    let inputs: Vec<_> = fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("list {}: {error}", folder.display()))
        .map(|entry| entry.unwrap().path())
        .collect();
    assert!(!inputs.is_empty(), "no inputs in {}", folder.display());
    for path in inputs {
        check(&fs::read(&path).unwrap());
    }
}
