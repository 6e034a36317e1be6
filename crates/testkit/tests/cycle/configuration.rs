//! Configuration that does not lie in the data directory: a fresh host has it from the repository as well.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde_json::Value;
use tidemark_testkit::{PgVersion, PostgresServer, Scratch, TestRepository};

use crate::protected::{agent_for, restore, wait_for_base_backup};

#[test]
fn configuration_from_elsewhere_is_laid_beside_the_restored_directory() {
    const VERSION: PgVersion = PgVersion::V17;
    const TEXT: &str = "work_mem = '7MB' # as after long consideration\n";
    let elsewhere = Scratch::new("etc");
    let file = elsewhere.file("tuning.conf", TEXT);
    let repository = TestRepository::file();
    let server = PostgresServer::builder(VERSION)
        .conf(&format!("include '{}'", file.display()))
        .start();
    let agent = agent_for(&repository, &server, "").start();
    wait_for_base_backup(&agent);
    server.kill9();
    agent.kill9();

    let mut restore = restore(&repository, VERSION).args(["--target-immediate"]);
    let report = restore.run().expect_success();
    let report: Value = serde_json::from_str(&report).unwrap();
    let folder = report["configuration"]
        .as_str()
        .expect("it is said where they are");
    let copy = Path::new(folder).join(file.strip_prefix("/").unwrap());
    assert_eq!(fs::read_to_string(&copy).unwrap(), TEXT);
    let (copied, data) = (
        fs::metadata(&copy).unwrap(),
        fs::metadata(restore.data_directory()).unwrap(),
    );
    assert_eq!((copied.uid(), copied.mode() & 0o777), (data.uid(), 0o600));
    // What lay in the data directory is there, and not here as well.
    assert!(restore.data_directory().join("postgresql.conf").is_file());
    let inside = server.data_directory().join("postgresql.conf");
    assert!(!Path::new(folder).join(inside.strip_prefix("/").unwrap()).exists());
}
