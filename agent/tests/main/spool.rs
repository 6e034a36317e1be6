//! Log by way of `archive-wal` and the spool, from a real server to the repository.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tidemark_repository::log::{Run, SliceKey, TimeRange, coverage};
use tidemark_repository::{Archive, Branch, GapRecord, Repository};
use tidemark_storage::StorageOptions;
use tidemark_testkit::{
    Agent, PgVersion, PostgresServer, Scratch, StopMode, TestRepository, accessible_copy, run, wait_for,
};
use tidemark_types::{Lsn, SegmentName, TimelineHistory, TimelineId, Timestamp, WalSegmentSize};

const VERSION: PgVersion = PgVersion::V17;
const SOON: Duration = Duration::from_secs(60);

fn size() -> WalSegmentSize {
    WalSegmentSize::try_from(1 << 20).unwrap()
}

/// A server that archives into a spool, and into a second directory that nobody empties.
struct Archived {
    server: PostgresServer,
    directories: Scratch,
    repository: TestRepository,
}

impl Archived {
    fn start() -> Archived {
        let directories = Scratch::new("spool");
        let (spool, kept) = (directories.subdir("in"), directories.subdir("kept"));
        let agent = accessible_copy(Path::new(env!("CARGO_BIN_EXE_tidemark-agent")));
        let command = format!(
            "cp %p {}/%f && {} archive-wal --spool {} %p",
            kept.display(),
            agent.display(),
            spool.display()
        );
        let server = PostgresServer::builder(VERSION)
            .wal_segment_mib(1)
            .conf("archive_mode = on")
            .conf(&format!("archive_command = '{command}'"))
            // Nothing but the test's own transactions, so that each can be looked for.
            .conf("autovacuum = off")
            .start();
        server.psql(
            "CREATE ROLE plain LOGIN; GRANT pg_monitor TO plain; \
             CREATE TABLE t (n int, filler text)",
        );
        Archived {
            server,
            directories,
            repository: TestRepository::file(),
        }
    }

    fn spool(&self) -> PathBuf {
        self.directories.path().join("in")
    }

    fn kept(&self) -> PathBuf {
        self.directories.path().join("kept")
    }

    /// An agent whose role may not even open a replication connection.
    fn agent(&self) -> Agent {
        let settings = format!("archive_spool = \"{}\"", self.spool().display());
        Agent::builder(&self.repository)
            .postgres("shop", &self.server.url_as("plain"), &settings)
            .create()
    }

    /// Writes a few transactions and has the segment they end in archived.
    fn write_segments(&self, count: u32) {
        for _ in 0..count {
            self.server.psql(
                "INSERT INTO t SELECT i, md5(i::text) FROM generate_series(1, 4000) i; \
                 INSERT INTO t VALUES (0, 'alone');",
            );
            self.switch();
        }
    }

    /// Ends the open segment and waits until it is archived.
    fn switch(&self) {
        let last = self.server.psql("SELECT pg_walfile_name(pg_switch_wal())");
        wait_for("the segment to be archived", SOON, || {
            self.server.psql("SELECT last_archived_wal FROM pg_stat_archiver") >= last
        });
    }

    fn wait_until_shipped(&self) {
        wait_for("the spool to be emptied", SOON, || {
            names(&self.spool()).is_empty()
        });
    }

    /// The segments that the server has archived.
    fn segments(&self) -> Vec<String> {
        let names = names(&self.kept()).into_iter();
        names
            .filter(|name| SegmentName::parse(name, size()).is_ok())
            .collect()
    }

    fn archive(&self) -> Stored {
        Stored::open(&self.repository)
    }

    /// Compares every archived segment with what the repository holds of it, but for `missing`.
    fn assert_equal(&self, missing: &[String]) {
        let stored = self.archive();
        let segments = self.segments();
        assert!(!segments.is_empty());
        for name in segments.iter().filter(|name| !missing.contains(name)) {
            let archived = fs::read(self.kept().join(name)).unwrap();
            assert!(stored.segment(name) == archived, "{name} differs");
        }
    }
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// What the repository holds.
struct Stored {
    archive: Archive,
    runtime: tokio::runtime::Runtime,
}

impl Stored {
    fn open(repository: &TestRepository) -> Stored {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let archive = runtime.block_on(async {
            let storage =
                tidemark_storage::open(&repository.url().parse().unwrap(), &StorageOptions::default())
                    .await
                    .unwrap();
            let repository = Repository::open(storage).await.unwrap();
            repository
                .find_archive(&"shop".parse().unwrap(), None)
                .await
                .unwrap()
                .expect("the agent began an archive")
        });
        Stored { archive, runtime }
    }

    fn runs(&self, timeline: u32) -> Vec<Run> {
        let slices = self.runtime.block_on(self.archive.slices(Branch(timeline), 0));
        coverage(&mut slices.unwrap())
    }

    fn gaps(&self) -> Vec<GapRecord> {
        self.runtime.block_on(self.archive.gaps()).unwrap()
    }

    fn branch_file(&self, timeline: u32, name: &str) -> Option<Vec<u8>> {
        let read = self.archive.read_branch_file(Branch(timeline), name);
        self.runtime.block_on(read).unwrap()
    }

    /// The bytes of a segment.
    fn segment(&self, name: &str) -> Vec<u8> {
        let name = SegmentName::parse(name, size()).unwrap();
        let branch = Branch(name.timeline.0);
        let slices = self
            .runtime
            .block_on(self.archive.list_file(branch, name.segment.0));
        let runs = coverage(&mut slices.unwrap());
        let path = runs.first().map(|run| run.path.clone()).unwrap_or_default();
        path.iter()
            .flat_map(|slice| {
                let read = self.runtime.block_on(self.archive.read_slice(branch, slice));
                read.unwrap().open().unwrap()
            })
            .collect()
    }
}

/// When transactions ended, and where their records begin, as the server's own tool tells.
fn transaction_ends(archived: &Archived) -> Vec<(Lsn, Timestamp)> {
    let (segments, kept) = (archived.segments(), archived.kept());
    let mut dump = VERSION.tool("pg_waldump");
    dump.arg("--rmgr=Transaction")
        .arg("--path")
        .arg(&kept)
        .args([segments.first().unwrap(), segments.last().unwrap()]);
    let finished = run(&mut dump);
    let of_line = |line: &str| {
        let begin = line.split("lsn: ").nth(1)?.split(',').next()?.parse().ok()?;
        let (_, time) = line.split_once("desc: COMMIT ")?;
        let words: Vec<&str> = time.split([' ', ';']).collect();
        let time = format!("{}T{}Z", words.first()?, words.get(1)?);
        Some((begin, tidemark_types::parse_time(&time, Timestamp(0)).unwrap()))
    };
    finished.stdout.lines().filter_map(of_line).collect()
}

/// Whether the time is in the key of the slice in which the record begins, or in one that the record reaches into.
fn is_indexed(path: &[SliceKey], (begin, time): (Lsn, Timestamp)) -> bool {
    const LONGEST: u64 = 3 << 20;
    let holds = |range: TimeRange| range.min <= time && time <= range.max;
    path.iter()
        .filter(|slice| {
            let start = size().start_of(tidemark_types::SegmentNumber(slice.file)).0;
            start + slice.end > begin.0 && start + slice.begin <= begin.0 + LONGEST
        })
        .any(|slice| slice.times.is_some_and(holds))
}

#[test]
fn every_segment_is_stored_as_it_was_archived_though_the_agent_is_killed_in_between() {
    let archived = Archived::start();
    let agent = archived.agent();
    agent.start();
    archived.write_segments(3);
    archived.wait_until_shipped();

    // A commit record longer than a segment: what the repository holds ends in the midst of it.
    archived.server.psql(
        "DO $$ BEGIN FOR i IN 1..320000 LOOP \
           BEGIN INSERT INTO t VALUES (i); EXCEPTION WHEN others THEN NULL; END; \
         END LOOP; END $$",
    );
    let complete = archived
        .server
        .psql("SELECT pg_walfile_name(pg_current_wal_lsn())");
    wait_for("the complete segments to be archived", SOON, || {
        archived.segments().last().is_some_and(|last| {
            let number = |name: &str| SegmentName::parse(name, size()).unwrap().segment.0;
            number(last) + 1 == number(&complete)
        })
    });
    archived.wait_until_shipped();
    agent.kill9();
    archived.switch();
    agent.start();
    archived.wait_until_shipped();

    for _ in 0..3 {
        archived.write_segments(2);
        agent.kill9();
        archived.write_segments(2);
        agent.start();
    }
    archived.wait_until_shipped();
    assert!(agent.terminate(Duration::from_secs(15)).success());

    archived.assert_equal(&[]);
    let runs = archived.archive().runs(1);
    assert_eq!(runs.len(), 1, "{runs:?}");
    let commits = transaction_ends(&archived);
    assert!(commits.len() > 30, "{} commits", commits.len());
    for commit in commits {
        assert!(is_indexed(&runs[0].path, commit), "{commit:?}");
    }
    assert_eq!(
        archived.server.psql("SELECT count(*) FROM pg_replication_slots"),
        "0"
    );
}

#[test]
fn an_idle_server_does_not_lag() {
    let archived = Archived::start();
    let agent = archived.agent();
    agent.start();
    archived.write_segments(1);
    archived.wait_until_shipped();
    let asked_after = |what: &str| {
        let end = archived.server.psql("SELECT pg_current_wal_flush_lsn() - '0/0'");
        let end: f64 = end.parse().unwrap();
        wait_for(what, SOON, || {
            agent.metrics().value("tidemark_server_position_bytes", &[]) >= end
        });
    };
    let lag = || agent.metrics().value("tidemark_lag_seconds", &[]);
    asked_after("the agent to ask the server");
    // Log that holds no transaction: the server does not archive it by itself.
    archived.server.psql("CHECKPOINT");
    asked_after("the agent to ask again");
    assert_eq!(lag(), 0.0);
    assert!(agent.metrics().value("tidemark_lag_bytes", &[]) > 0.0);
    archived
        .server
        .psql("INSERT INTO t VALUES (1, 'waits for the end of its segment')");
    wait_for("the commit to count", SOON, || lag() > 0.0);
    archived.switch();
    wait_for("it to be stored", SOON, || lag() == 0.0);
}

#[test]
fn a_segment_that_never_comes_is_a_gap_and_the_log_goes_on_behind_it() {
    let archived = Archived::start();
    let agent = archived.agent();
    agent.start();
    archived.write_segments(2);
    archived.wait_until_shipped();
    agent.kill9();
    archived.write_segments(3);
    let lost = names(&archived.spool()).first().cloned().unwrap();
    fs::remove_file(archived.spool().join(&lost)).unwrap();
    agent.start();
    archived.wait_until_shipped();

    assert_eq!(agent.metrics().value("tidemark_gaps_total", &[]), 1.0);
    let stored = archived.archive();
    let gaps = stored.gaps();
    let number = SegmentName::parse(&lost, size()).unwrap().segment.0;
    assert_eq!(gaps.len(), 1, "{gaps:?}");
    assert_eq!((gaps[0].begin.file, gaps[0].end.file), (number, number + 1));
    assert!(gaps[0].reason.contains(&lost), "{}", gaps[0].reason);
    assert_eq!(stored.runs(1).len(), 2);
    archived.assert_equal(&[lost]);
}

#[test]
fn a_file_sent_again_is_accepted_when_it_is_the_same_and_refused_when_not() {
    let archived = Archived::start();
    let agent = archived.agent();
    agent.start();
    archived.write_segments(3);
    archived.wait_until_shipped();
    let segments = archived.segments();
    let again = |name: &str, change: bool| {
        let mut bytes = fs::read(archived.kept().join(name)).unwrap();
        if change {
            bytes[100_000] ^= 1;
        }
        archived.directories.file(name, bytes);
        fs::rename(
            archived.directories.path().join(name),
            archived.spool().join(name),
        )
        .unwrap();
    };
    again(&segments[0], false);
    archived.wait_until_shipped();

    again(&segments[1], true);
    wait_for("the conflict to show", SOON, || {
        agent
            .metrics()
            .values("tidemark_pipeline_state", &[("state", "conflict")])
            == [1.0]
    });
    assert_eq!(names(&archived.spool()), [segments[1].clone()]);
    let log = agent.log_text();
    assert!(
        log.contains(&format!("{} differs from what is stored", segments[1])),
        "{log}"
    );
    archived.assert_equal(&[]);
}

#[test]
fn a_file_of_another_cluster_is_refused_before_anything_of_it_is_stored() {
    let archived = Archived::start();
    let other = Archived::start();
    other.write_segments(1);
    let agent = archived.agent();
    agent.start();
    archived.write_segments(1);
    archived.wait_until_shipped();
    let next = archived
        .server
        .psql("SELECT pg_walfile_name(pg_current_wal_lsn())");
    let stranger = fs::read(other.kept().join(&other.segments()[0])).unwrap();
    archived.directories.file(&next, stranger);
    fs::rename(
        archived.directories.path().join(&next),
        archived.spool().join(&next),
    )
    .unwrap();
    wait_for("the conflict to show", SOON, || {
        agent
            .metrics()
            .values("tidemark_pipeline_state", &[("state", "conflict")])
            == [1.0]
    });
    assert_eq!(names(&archived.spool()), [next]);
    archived.assert_equal(&[]);
}

#[test]
fn a_file_that_does_not_follow_what_is_stored_is_refused() {
    let archived = Archived::start();
    let agent = archived.agent();
    agent.start();
    archived.write_segments(1);
    archived.wait_until_shipped();
    archived.server.stop(StopMode::Fast);
    archived.wait_until_shipped();
    // A copy of the server goes its own way: the same system identifier and timeline, other log.
    let clone = archived.server.copy_files();
    let elsewhere = archived.directories.subdir("clone");
    let command = format!("archive_command = 'cp %p {}/%f'\n", elsewhere.display());
    let mut settings = OpenOptions::new()
        .append(true)
        .open(clone.data_directory().join("postgresql.auto.conf"))
        .unwrap();
    settings.write_all(command.as_bytes()).unwrap();
    clone.start();
    archived.server.start();
    archived.write_segments(2);
    archived.wait_until_shipped();
    agent.kill9();

    let next = archived
        .server
        .psql("SELECT pg_walfile_name(pg_current_wal_lsn())");
    clone.psql(
        "INSERT INTO t SELECT i, md5(i::text) FROM generate_series(1, 60000) i; SELECT pg_switch_wal()",
    );
    wait_for("the copy to archive that segment", SOON, || {
        elsewhere.join(&next).is_file() && clone.psql("SELECT last_archived_wal FROM pg_stat_archiver") > next
    });
    fs::rename(elsewhere.join(&next), archived.spool().join(&next)).unwrap();
    agent.start();
    wait_for("the conflict to show", SOON, || {
        agent
            .metrics()
            .values("tidemark_pipeline_state", &[("state", "conflict")])
            == [1.0]
    });
    assert_eq!(names(&archived.spool()), std::slice::from_ref(&next));
    let log = agent.log_text();
    assert!(
        log.contains("the log does not go on from what is stored"),
        "{log}"
    );
    let stored = archived.archive();
    assert!(stored.segment(&next).is_empty(), "nothing of it is stored");
}

#[test]
fn a_promotion_goes_on_in_a_branch_of_its_own_with_its_history_before_it() {
    let archived = Archived::start();
    archived.write_segments(2);
    let agent = archived.agent();
    agent.start();
    archived.wait_until_shipped();
    let standby = archived.server.start_standby();
    archived.server.psql("INSERT INTO t VALUES (1, 'on the way')");
    let end = archived.server.psql("SELECT pg_current_wal_lsn()");
    wait_for("the standby to follow", SOON, || {
        standby.psql(&format!("SELECT pg_last_wal_replay_lsn() >= '{end}'")) == "t"
    });
    archived.server.kill9();
    standby.promote();
    agent.kill9();
    let config = fs::read_to_string(agent.config_path()).unwrap();
    let moved = config.replace(&archived.server.url_as("plain"), &standby.url_as("plain"));
    fs::write(agent.config_path(), moved).unwrap();
    standby.psql("INSERT INTO t VALUES (2, 'on the new timeline'); SELECT pg_switch_wal()");
    agent.start();
    wait_for("a segment of the new timeline to be archived", SOON, || {
        archived
            .segments()
            .last()
            .is_some_and(|name| name.starts_with("00000002"))
    });
    archived.wait_until_shipped();
    archived.assert_equal(&[]);

    let stored = archived.archive();
    assert!(stored.branch_file(2, "00000002.history").is_some());
    let partial: Vec<String> = names(&archived.kept())
        .into_iter()
        .filter(|name| name.ends_with(".partial"))
        .collect();
    assert_eq!(partial.len(), 1, "{partial:?}");
    let kept = fs::read(archived.kept().join(&partial[0])).unwrap();
    assert!(stored.branch_file(1, &partial[0]) == Some(kept));
    let (parent, child) = (stored.runs(1), stored.runs(2));
    assert_eq!((parent.len(), child.len()), (1, 1));
    // The parent reaches to the fork, though its last segment came as `.partial` and in the child's copy only.
    let history = stored.branch_file(2, "00000002.history").unwrap();
    let history = TimelineHistory::parse(TimelineId(2), &String::from_utf8_lossy(&history)).unwrap();
    let fork = history.begin();
    let end = parent[0].end.position;
    assert_eq!(
        (end.file, end.offset),
        (size().segment_of(fork).0, size().offset_of(fork))
    );
    assert_eq!(child[0].begin.position.file, end.file);
    assert_eq!(stored.gaps(), []);
}
