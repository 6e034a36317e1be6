//! Concurrent writers to MySQL and MariaDB that know which of their commits were acknowledged.

use std::collections::HashSet;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::mysql::client::MysqlClient;

const CREATE_TABLE: &str = "CREATE DATABASE IF NOT EXISTS load_test; CREATE TABLE load_test.t (writer INT, sequence INT, \
     payload LONGTEXT NOT NULL, digest CHAR(64) NOT NULL, PRIMARY KEY (writer, sequence)) ENGINE = InnoDB";

/// How long a writer waits before it connects again.
const RECONNECT_PAUSE: Duration = Duration::from_millis(50);

/// Running writers, each a client of the vendor's. Each appends rows, one a transaction, and connects again after every
/// failure, until it is stopped.
#[derive(Debug)]
pub struct MysqlWorkload {
    shared: Arc<Shared>,
    writers: Vec<JoinHandle<()>>,
}

/// A commit that the server has acknowledged to its client: the writer's number, and the commit's among the writer's.
pub type MysqlCommit = (u32, u32);

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    acknowledged: Mutex<Vec<MysqlCommit>>,
}

impl MysqlWorkload {
    /// Makes the table on `server` and starts `writers`, whose rows have about `payload_bytes`.
    #[track_caller]
    pub fn start(server: &MysqlClient, writers: u32, payload_bytes: u32) -> MysqlWorkload {
        server.query(CREATE_TABLE);
        let shared = Arc::new(Shared::default());
        let writers = (0..writers)
            .map(|number| {
                let (client, shared) = (server.clone(), Arc::clone(&shared));
                thread::spawn(move || write(&client, number, payload_bytes, &shared))
            })
            .collect();
        MysqlWorkload { shared, writers }
    }

    /// How many commits have been acknowledged so far.
    pub fn count(&self) -> usize {
        self.shared.commits().len()
    }

    /// Stops the writers and returns all acknowledged commits. A writer that waits for its commit is waited for.
    pub fn stop(mut self) -> Vec<MysqlCommit> {
        self.join();
        self.shared.commits().clone()
    }

    /// Those of `commits` that a server does not hold, or holds with other contents. `query` asks it.
    #[track_caller]
    pub fn missing(query: impl Fn(&str) -> String, commits: &[MysqlCommit]) -> Vec<MysqlCommit> {
        // In hexadecimal, because neither vendor compares texts of two character sets.
        let intact = query(
            "SELECT CONCAT(writer, ' ', sequence) FROM load_test.t WHERE HEX(digest) = HEX(SHA2(payload, 256))",
        );
        let intact: HashSet<&str> = intact.lines().collect();
        let is_missing =
            |(writer, sequence): &&MysqlCommit| !intact.contains(format!("{writer} {sequence}").as_str());
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

impl Drop for MysqlWorkload {
    fn drop(&mut self) {
        self.join();
    }
}

impl Shared {
    fn commits(&self) -> std::sync::MutexGuard<'_, Vec<MysqlCommit>> {
        self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_stopping(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

fn write(client: &MysqlClient, writer: u32, payload_bytes: u32, shared: &Shared) {
    let mut sequence = 0;
    while !shared.is_stopping() {
        if let Ok(mut session) = Session::open(client) {
            while !shared.is_stopping() {
                // A number whose outcome is unknown is not used again.
                sequence += 1;
                if !session.commit(writer, sequence, payload_bytes) {
                    break;
                }
                shared.commits().push((writer, sequence));
            }
            session.close();
        }
        thread::sleep(RECONNECT_PAUSE);
    }
}

/// The vendor's client, which is given a statement at a time.
struct Session {
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Session {
    fn open(client: &MysqlClient) -> std::io::Result<Session> {
        let mut process = client
            .tool("mysql")
            .args(["--batch", "--skip-column-names", "--unbuffered"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let (input, output) = (process.stdin.take(), process.stdout.take());
        let (Some(input), Some(output)) = (input, output) else {
            return Err(std::io::Error::other("the client has no pipes"));
        };
        Ok(Session {
            process,
            input,
            output: BufReader::new(output),
        })
    }

    /// Whether the commit was acknowledged: the client goes on to the next statement only then.
    fn commit(&mut self, writer: u32, sequence: u32, payload_bytes: u32) -> bool {
        let repeats = payload_bytes.div_ceil(64);
        let statement = format!(
            "INSERT INTO load_test.t SELECT {writer}, {sequence}, p, SHA2(p, 256) FROM \
             (SELECT REPEAT(SHA2('{writer}/{sequence}', 256), {repeats}) AS p) AS x; SELECT {sequence};\n"
        );
        let mut line = String::new();
        self.input.write_all(statement.as_bytes()).is_ok()
            && self.input.flush().is_ok()
            && self.output.read_line(&mut line).is_ok()
            && line.trim() == sequence.to_string()
    }

    fn close(mut self) {
        drop(self.input);
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
