//! Finding the built binaries.

use std::env;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// The built program `name`, where the servers' user can run it. Panics when it has not been built.
///
/// It is what `CARGO_BIN_EXE_<name>` says, when cargo or nextest sets it, else what lies in the target directory of
/// the running test.
pub fn program(name: &str) -> PathBuf {
    let announced = [format!("CARGO_BIN_EXE_{name}"), format!("NEXTEST_BIN_EXE_{name}")];
    let path = announced
        .iter()
        .find_map(env::var_os)
        .map_or_else(|| beside_this_test(name), PathBuf::from);
    assert!(
        path.is_file(),
        "{} has not been built: run cargo build -p tidemark-agent -p tidemark-restore",
        path.display()
    );
    accessible_copy(&path)
}

/// `target/<profile>/name`, for a test in `target/<profile>/deps`.
fn beside_this_test(name: &str) -> PathBuf {
    let test = env::current_exe().expect("know the test's own path");
    let profile = test
        .parent()
        .and_then(Path::parent)
        .expect("a test lies in target/<profile>/deps");
    profile.join(name)
}

/// The path of `file` itself when every user can reach and read it; else that of a copy which they can. Checkouts under
/// a closed home directory need it: the servers, and the commands they run, belong to another user.
pub fn accessible_copy(file: &Path) -> PathBuf {
    const SEARCHABLE_BY_ALL: u32 = 0o001;
    let file = file
        .canonicalize()
        .unwrap_or_else(|error| panic!("find {}: {error}", file.display()));
    let is_searchable =
        |directory: &Path| fs::metadata(directory).is_ok_and(|found| found.mode() & SEARCHABLE_BY_ALL != 0);
    if file.ancestors().skip(1).all(is_searchable) {
        return file;
    }
    let metadata = fs::metadata(&file).expect("read the program's metadata");
    let name = file.file_name().expect("a program has a name").to_string_lossy();
    // A rebuilt program has another time, so a copy is never stale.
    let version = format!(
        "{}-{}-{}",
        metadata.ino(),
        metadata.mtime(),
        metadata.mtime_nsec()
    );
    let directory = env::temp_dir()
        .join(format!("tidemark-programs-{}", metadata.uid()))
        .join(version);
    let copy = directory.join(&*name);
    if !copy.is_file() {
        make_copy(&file, &directory, &copy);
    }
    copy
}

/// Copies by way of a temporary name: tests that run side by side see all of the copy or nothing.
fn make_copy(file: &Path, directory: &Path, copy: &Path) {
    fs::create_dir_all(directory).expect("create the directory of program copies");
    let new = tempfile::NamedTempFile::new_in(directory).expect("make a temporary file");
    fs::copy(file, new.path()).unwrap_or_else(|error| panic!("copy {}: {error}", file.display()));
    fs::set_permissions(new.path(), fs::Permissions::from_mode(0o755)).expect("open up the copy");
    new.into_temp_path().persist(copy).expect("put the copy in place");
}
