//! Programs can be run by the servers' user wherever the checkout lies.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use tidemark_testkit::{ServerUser, accessible_copy, run};

fn script_in_directory_with(mode: u32) -> (tempfile::TempDir, std::path::PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let script = directory.path().join("greet");
    fs::write(&script, "#!/bin/sh\necho hello\n").unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(mode)).unwrap();
    (directory, script)
}

#[test]
fn a_program_in_an_open_directory_is_run_in_place() {
    let (_directory, script) = script_in_directory_with(0o755);
    assert_eq!(accessible_copy(&script), script);
}

#[test]
fn a_program_in_a_closed_directory_is_copied() {
    let (_directory, script) = script_in_directory_with(0o700);
    let copy = accessible_copy(&script);
    assert_ne!(copy, script);
    assert_eq!(
        run(&mut ServerUser::current().command(&copy)).expect_success(),
        "hello\n"
    );
    assert_eq!(accessible_copy(&script), copy);
}
