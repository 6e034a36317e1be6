use std::fs;

use crate::command::agent;

#[test]
fn a_bad_configuration_is_exit_2_with_file_line_key_and_expectation() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("agent.toml");
    fs::write(
        &file,
        "[repository]\nurl = \"file:///r\"\n[[server]]\nnane = \"shop\"\nschedule = \"x\"\n",
    )
    .unwrap();
    let file = file.to_str().unwrap();
    let ended = agent(&["check", "--config", file]);
    assert_eq!(ended.code, Some(2));
    assert_eq!(
        ended.stderr,
        format!(
            "error: {file}:4: server.nane: there is no such key; did you mean \"name\"?\n       \
             {file}:5: server.schedule: there is no such key here; it belongs under [server.base_backup]\n"
        )
    );
}

#[test]
fn a_configuration_that_is_not_there_is_exit_2() {
    let ended = agent(&["check", "--config", "/does/not/exist.toml"]);
    assert_eq!(ended.code, Some(2));
    assert_eq!(
        ended.stderr,
        "error: read configuration /does/not/exist.toml: No such file or directory (os error 2)\n"
    );
}

#[test]
fn a_bad_log_filter_is_exit_2_with_a_hint() {
    let ended = agent(&[
        "check",
        "--config",
        "/does/not/exist.toml",
        "--log",
        "tidemark_agent=noisy",
    ]);
    assert_eq!(ended.code, Some(2));
    assert!(ended.stderr.starts_with("error: --log: "), "{}", ended.stderr);
    assert!(
        ended
            .stderr
            .ends_with("hint: a filter looks like info,tidemark_postgres=debug\n")
    );
}

#[test]
fn init_refuses_to_overwrite_before_it_connects() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("agent.toml");
    fs::write(&file, "precious").unwrap();
    let shown = file.to_str().unwrap();
    let ended = agent(&[
        "init",
        "--url",
        "postgresql://u@/postgres?host=/nowhere",
        "--output",
        shown,
    ]);
    assert_eq!(ended.code, Some(6));
    assert_eq!(
        ended.stderr,
        format!(
            "error: {shown} is already there\nhint: init never overwrites: name another --output, or remove the file\n"
        )
    );
    assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
}
