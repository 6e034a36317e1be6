//! Concurrent writers that know which of their commits were acknowledged.

use std::collections::HashSet;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tidemark_types::Timestamp;
use tokio_postgres::{Client, Error, NoTls, Statement};

use crate::psql::Psql;

/// The table that workloads write to. Rows of several workloads may share it if their writers' numbers differ.
pub const WORKLOAD_TABLE: &str = "tidemark_workload";

const CREATE_TABLE: &str = "CREATE TABLE tidemark_workload (\
     writer bigint, sequence bigint, payload text NOT NULL, digest text NOT NULL, written_at timestamptz NOT NULL, \
     PRIMARY KEY (writer, sequence))";

const INSERT: &str = "INSERT INTO tidemark_workload \
     SELECT $1::bigint, $2::bigint, p, md5(p), clock_timestamp() \
     FROM repeat(md5($1::bigint || '/' || $2::bigint), $3::int) AS p \
     RETURNING (extract(epoch FROM written_at) * 1000000)::bigint";

/// How long a writer waits before it connects again.
const RECONNECT_PAUSE: Duration = Duration::from_millis(50);

/// How often a writer that waits for its commit looks whether it shall stop.
const STOP_POLL: Duration = Duration::from_millis(50);

/// A commit that the server has acknowledged to its client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Commit {
    /// Which writer made it.
    pub writer: i64,
    /// Its number among the writer's commits; numbers whose outcome stayed unknown are left out.
    pub sequence: i64,
    /// The server's clock while the transaction ran, a little before it was committed.
    pub written_at: Timestamp,
}

impl fmt::Display for Commit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "writer {} commit {} at {}",
            self.writer, self.sequence, self.written_at
        )
    }
}

/// What a workload shall do; see [`Workload::builder`].
#[derive(Debug, Clone)]
pub struct WorkloadBuilder {
    conninfo: String,
    writers: i64,
    first_writer: i64,
    payload_bytes: u32,
    pause: Duration,
}

impl WorkloadBuilder {
    /// How many writers (default 4).
    pub fn writers(mut self, writers: i64) -> WorkloadBuilder {
        self.writers = writers;
        self
    }

    /// The number of the first writer (default 0): keeps the rows of a second workload apart.
    pub fn first_writer(mut self, number: i64) -> WorkloadBuilder {
        self.first_writer = number;
        self
    }

    /// About how long a row's payload is (default 64 bytes).
    pub fn payload_bytes(mut self, bytes: u32) -> WorkloadBuilder {
        self.payload_bytes = bytes;
        self
    }

    /// How long a writer rests between two commits (default: not at all).
    pub fn pause(mut self, pause: Duration) -> WorkloadBuilder {
        self.pause = pause;
        self
    }

    /// Starts the writers.
    pub fn start(self) -> Workload {
        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            acknowledged: Mutex::new(Vec::new()),
        });
        let writers = (self.first_writer..self.first_writer + self.writers)
            .map(|number| {
                let writer = Writer {
                    number,
                    plan: self.clone(),
                    shared: Arc::clone(&shared),
                };
                thread::spawn(move || writer.run())
            })
            .collect();
        Workload { shared, writers }
    }
}

/// Running writers. Each appends rows, one a transaction, and connects again after every failure, until it is stopped.
#[derive(Debug)]
pub struct Workload {
    shared: Arc<Shared>,
    writers: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    stop: AtomicBool,
    acknowledged: Mutex<Vec<Commit>>,
}

impl Workload {
    /// Makes the table.
    #[track_caller]
    pub fn create_table(server: &Psql) {
        server.query(CREATE_TABLE);
    }

    /// Describes a workload on the server that `conninfo` (a URL or key-value string) leads to.
    pub fn builder(conninfo: &str) -> WorkloadBuilder {
        WorkloadBuilder {
            conninfo: conninfo.to_owned(),
            writers: 4,
            first_writer: 0,
            payload_bytes: 64,
            pause: Duration::ZERO,
        }
    }

    /// The commits acknowledged so far, in the order in which their clients heard of them.
    pub fn acknowledged(&self) -> Vec<Commit> {
        self.shared.acknowledged().clone()
    }

    /// How many commits have been acknowledged so far.
    pub fn count(&self) -> usize {
        self.shared.acknowledged().len()
    }

    /// Stops the writers, also those whose commit hangs, and returns all acknowledged commits.
    pub fn stop(mut self) -> Vec<Commit> {
        self.join();
        self.acknowledged()
    }

    /// Those of `commits` that `server` does not hold, or holds with other contents.
    #[track_caller]
    pub fn missing(server: &Psql, commits: &[Commit]) -> Vec<Commit> {
        let intact = server
            .query("SELECT writer || ' ' || sequence FROM tidemark_workload WHERE digest = md5(payload)");
        let intact: HashSet<&str> = intact.lines().collect();
        let is_missing =
            |commit: &&Commit| !intact.contains(format!("{} {}", commit.writer, commit.sequence).as_str());
        commits.iter().filter(is_missing).copied().collect()
    }

    fn join(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for writer in self.writers.drain(..) {
            // A panic in a writer has been printed; the test sees it as commits that stay away.
            let _ = writer.join();
        }
    }
}

impl Drop for Workload {
    fn drop(&mut self) {
        self.join();
    }
}

impl Shared {
    fn acknowledged(&self) -> MutexGuard<'_, Vec<Commit>> {
        self.acknowledged
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn stopping(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

struct Writer {
    number: i64,
    plan: WorkloadBuilder,
    shared: Arc<Shared>,
}

impl Writer {
    fn run(&self) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("start the writer's runtime");
        runtime.block_on(async {
            tokio::select! {
                () = self.write() => {}
                () = self.told_to_stop() => {}
            }
        });
    }

    async fn told_to_stop(&self) {
        while !self.shared.stopping() {
            tokio::time::sleep(STOP_POLL).await;
        }
    }

    /// Writes for ever. A number is used once: after a failure nobody knows whether its commit took place.
    async fn write(&self) {
        let mut sequence = 0;
        loop {
            if let Ok((client, connection)) = tokio_postgres::connect(&self.plan.conninfo, NoTls).await {
                let connection = tokio::spawn(connection);
                sequence = self.write_until_failure(&client, sequence).await;
                connection.abort();
            }
            tokio::time::sleep(RECONNECT_PAUSE).await;
        }
    }

    /// Returns the next unused number.
    async fn write_until_failure(&self, client: &Client, first: i64) -> i64 {
        let Ok(insert) = client.prepare(INSERT).await else {
            return first;
        };
        let mut sequence = first;
        while self.append(client, &insert, sequence).await.is_ok() {
            sequence += 1;
            tokio::time::sleep(self.plan.pause).await;
        }
        sequence + 1
    }

    async fn append(&self, client: &Client, insert: &Statement, sequence: i64) -> Result<(), Error> {
        const BYTES_PER_REPEAT: u32 = 32;
        let repeats = i32::try_from(self.plan.payload_bytes.div_ceil(BYTES_PER_REPEAT)).unwrap_or(i32::MAX);
        let row = client
            .query_one(insert, &[&self.number, &sequence, &repeats])
            .await?;
        let commit = Commit {
            writer: self.number,
            sequence,
            written_at: Timestamp(row.get(0)),
        };
        self.shared.acknowledged().push(commit);
        Ok(())
    }
}
