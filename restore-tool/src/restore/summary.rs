//! What a restore reports: its progress while it runs, and what came of it.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use tidemark_repository::Branch;
use tidemark_types::{ByteSize, Position, Timestamp, format_duration};

use crate::command::list::print_json;
use crate::plan::{Plan, TransactionId};
use crate::restore::place::Place;

/// How often a log gets a line of progress.
const LINE_INTERVAL: Duration = Duration::from_secs(10);

/// How long each phase took.
#[derive(Debug, Clone, Default)]
pub struct Phases {
    /// Finding the way.
    pub plan: Duration,
    /// Reading the log beforehand.
    pub verify: Option<Duration>,
    /// Laying the base backup down.
    pub fetch: Duration,
    /// Making its files fit to be started on.
    pub prepare: Option<Duration>,
    /// Until the server could be asked.
    pub start: Option<Duration>,
    /// Until it stood at the target.
    pub replay: Option<Duration>,
    /// Checking where it stands, and promoting or stopping it.
    pub checks: Option<Duration>,
}

/// The phases in seconds.
#[derive(Debug, Serialize)]
pub struct PhaseSeconds {
    plan: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    verify: Option<f64>,
    fetch: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    prepare: Option<f64>,
    start: Option<f64>,
    replay: Option<f64>,
    checks: Option<f64>,
}

impl From<&Phases> for PhaseSeconds {
    fn from(phases: &Phases) -> PhaseSeconds {
        let seconds = |phase: Option<Duration>| phase.map(|phase| phase.as_secs_f64());
        PhaseSeconds {
            plan: phases.plan.as_secs_f64(),
            verify: seconds(phases.verify),
            fetch: phases.fetch.as_secs_f64(),
            prepare: seconds(phases.prepare),
            start: seconds(phases.start),
            replay: seconds(phases.replay),
            checks: seconds(phases.checks),
        }
    }
}

impl PhaseSeconds {
    /// Prints them to standard output, a line each.
    pub fn print(&self) {
        let phase = |name: &str, seconds: Option<f64>| {
            if let Some(seconds) = seconds {
                println!(
                    "  {name:<7} {}",
                    format_duration(Duration::from_secs_f64(seconds))
                );
            }
        };
        phase("plan", Some(self.plan));
        phase("verify", self.verify);
        phase("fetch", Some(self.fetch));
        phase("prepare", self.prepare);
        phase("start", self.start);
        phase("replay", self.replay);
        phase("checks", self.checks);
    }
}

/// Where a restored server stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StoppedAt {
    /// The end of the last record that was replayed.
    pub position: Position,
    /// When the last commit that is in was made.
    pub commit_time: Option<Timestamp>,
    /// Its transaction.
    pub transaction: Option<TransactionId>,
    /// The branch that was followed.
    pub branch: Branch,
}

/// A server that was left running.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Running {
    /// Directory of its socket.
    pub socket: PathBuf,
    /// Part of the socket's name.
    pub port: u16,
    /// Its process.
    pub pid: u32,
    /// The role to connect as.
    pub user: String,
    /// The program that stops it.
    pub pg_ctl: PathBuf,
}

/// What came of a restore.
#[derive(Debug, Serialize)]
pub struct Summary<'a> {
    data_directory: &'a Path,
    state_directory: &'a Path,
    #[serde(skip_serializing_if = "Option::is_none")]
    configuration: Option<&'a Path>,
    /// `restored`, `promoted`, `paused` or `shut down`.
    state: &'static str,
    socket: Option<PathBuf>,
    port: Option<u16>,
    pid: Option<u32>,
    stopped_at: Option<StoppedAt>,
    phases: PhaseSeconds,
    plan: &'a Plan,
    #[serde(skip)]
    running: Option<Running>,
}

impl<'a> Summary<'a> {
    /// Of files that were laid down and not started.
    pub fn not_started(place: &'a Place, plan: &'a Plan, phases: &Phases) -> Summary<'a> {
        Summary {
            data_directory: &place.data,
            state_directory: place.state.path(),
            configuration: place.configuration.as_deref(),
            state: "restored",
            socket: None,
            port: None,
            pid: None,
            stopped_at: None,
            phases: phases.into(),
            plan,
            running: None,
        }
    }

    /// Of a server that reached its target.
    pub fn started(
        place: &'a Place,
        plan: &'a Plan,
        phases: &Phases,
        state: &'static str,
        stopped_at: StoppedAt,
        running: Option<Running>,
    ) -> Summary<'a> {
        Summary {
            state,
            socket: running.as_ref().map(|running| running.socket.clone()),
            port: running.as_ref().map(|running| running.port),
            pid: running.as_ref().map(|running| running.pid),
            stopped_at: Some(stopped_at),
            running,
            ..Summary::not_started(place, plan, phases)
        }
    }

    /// Prints it to standard output.
    ///
    /// # Errors
    /// When that is closed.
    pub fn print(&self, json: bool) -> anyhow::Result<()> {
        if json {
            return print_json(self);
        }
        println!(
            "{} {} into {}",
            self.state,
            self.plan.server,
            self.data_directory.display()
        );
        if let Some(stopped) = &self.stopped_at {
            let commit = stopped.commit_time.zip(stopped.transaction.as_ref()).map_or_else(
                || "no commit in the log that was replayed".to_owned(),
                |(time, transaction)| format!("last commit in: transaction {transaction}, {time}"),
            );
            println!(
                "stands at {} of {} {}; {commit}",
                stopped.position,
                self.plan.engine.branch_word(),
                stopped.branch
            );
        }
        if let Some(configuration) = self.configuration {
            println!(
                "configuration of the lost server from outside its data directory: {}",
                configuration.display()
            );
        }
        if let Some(running) = &self.running {
            println!(
                "connect with: psql -h {} -p {} -U {} -d postgres",
                running.socket.display(),
                running.port,
                running.user
            );
            println!(
                "no application reaches it there; to go live, stop it (as the owner of its files) with: {} -D {} stop\n\
                 and start it with a configuration of your own; archiving stays off in its postgresql.auto.conf",
                running.pg_ctl.display(),
                self.data_directory.display()
            );
        }
        self.phases.print();
        Ok(())
    }
}

/// Progress in bytes: a bar on a terminal, a line now and then in a log.
#[derive(Debug)]
pub struct Progress {
    what: &'static str,
    bar: ProgressBar,
    last_line: Option<Mutex<Instant>>,
}

impl Progress {
    /// Begins at none of `total` bytes.
    pub fn new(what: &'static str, total: u64) -> Progress {
        if std::io::stderr().is_terminal() {
            let style =
                ProgressStyle::with_template("{prefix:>12} {wide_bar} {bytes}/{total_bytes} {eta} {msg}");
            let bar = ProgressBar::new(total).with_prefix(what);
            let bar = bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            return Progress {
                what,
                bar,
                last_line: None,
            };
        }
        let bar = ProgressBar::hidden();
        bar.set_length(total);
        Progress {
            what,
            bar,
            last_line: Some(Mutex::new(Instant::now())),
        }
    }

    /// So many more bytes are done.
    pub fn add(&self, bytes: u64) {
        self.bar.inc(bytes);
        self.line("");
    }

    /// So many bytes are done in all; `note` tells more.
    pub fn set(&self, bytes: u64, note: &str) {
        self.bar.set_position(bytes);
        self.bar.set_message(note.to_owned());
        self.line(note);
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }

    fn line(&self, note: &str) {
        let Some(last) = &self.last_line else { return };
        let mut last = last.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if last.elapsed() < LINE_INTERVAL {
            return;
        }
        *last = Instant::now();
        let total = ByteSize(self.bar.length().unwrap_or_default());
        eprintln!(
            "{}: {} of {total} {note}",
            self.what,
            ByteSize(self.bar.position())
        );
    }
}
