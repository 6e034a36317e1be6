use std::fs;

use crate::command::agent;

#[test]
fn a_history_file_is_spooled_and_sent_again_without_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let spool = directory.path().join("spool");
    fs::create_dir(&spool).unwrap();
    let file = directory.path().join("00000002.history");
    fs::write(&file, "1\t0/3000000\tno recovery target specified\n").unwrap();
    let (spool_text, path) = (spool.to_str().unwrap(), file.to_str().unwrap());
    for _ in 0..2 {
        let ended = agent(&["archive-wal", "--spool", spool_text, path]);
        assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
    }
    assert_eq!(
        fs::read(spool.join("00000002.history")).unwrap(),
        fs::read(&file).unwrap()
    );

    fs::write(&file, "another").unwrap();
    let ended = agent(&["archive-wal", "--spool", spool_text, path]);
    assert_eq!(ended.code, Some(1));
    assert_eq!(
        ended.stderr,
        format!(
            "error: archive {path}: {spool_text}/00000002.history is already there with other content\n\
             hint: two servers share this spool, or one was re-made: give each server its own archive_spool\n"
        )
    );
}

#[test]
fn misuse_never_looks_like_a_signal_to_the_archiver() {
    for arguments in [
        &["archive-wal"] as &[&str],
        &["archive-wal", "--no-such-option"],
        &["archive-wal", "pg_wal/000000010000000000000001"],
        &[
            "archive-wal",
            "--spool",
            "/does/not/exist",
            "pg_wal/000000010000000000000001",
        ],
        &["archive-wal", "--config", "/does/not/exist", "--server", "a", "x"],
    ] {
        let code = agent(arguments).code;
        assert!(
            code.is_some_and(|code| (1..=125).contains(&code)),
            "{arguments:?}: {code:?}"
        );
    }
}
