//! The command line: what can be asked for. Deciding and doing lie elsewhere. `wal-get` is read by hand, before any of
//! this ([`crate::wal::get`]); it is named here for the help text only.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use tidemark_mysql::binlog::TransactionGtid;
use tidemark_postgres::restore::TablespaceMapping;
use tidemark_repository::Branch;
use tidemark_types::{ErrorClass, Lsn, Timestamp, parse_time};

use crate::exit::Failure;
use crate::plan::{BinlogPoint, Pick, Request, Target, TransactionId};
use crate::source::{RepositoryArgs, ServerArgs};
use crate::telemetry::LogOptions;

/// Brings a database back to any moment from a Tidemark repository.
#[derive(Debug, Parser)]
#[command(name = "tidemark-restore", version, propagate_version = true)]
pub struct Cli {
    /// How to log.
    #[command(flatten)]
    pub log: LogOptions,

    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What can be asked for.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show what can be restored: servers, recovery windows, base backups, gaps.
    List(ListArgs),
    /// Show how a restore would go, without touching anything.
    Plan(PlanArgs),
    /// Restore a server.
    Restore(Box<RestoreArgs>),
    /// Write plain log files: WAL segments, binlog files.
    Export(ExportArgs),
    /// Serve one WAL file to a restored server; its restore_command calls this.
    WalGet {
        /// --state DIR %f %p
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
}

/// Arguments of `list`.
#[derive(Debug, Args)]
pub struct ListArgs {
    #[command(flatten)]
    pub source: RepositoryArgs,

    /// Show this server only.
    #[arg(long, value_name = "NAME")]
    pub server: Option<tidemark_types::ServerName>,

    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// Where to restore to.
#[derive(Debug, Args)]
#[group(id = "target", required = true, multiple = false)]
pub struct TargetArgs {
    /// A time, as the server's clock told it: RFC 3339 with a zone, or "10 minutes ago".
    #[arg(long, value_name = "TIME")]
    pub target_time: Option<String>,

    /// PostgreSQL: a position in the log.
    #[arg(long, value_name = "LSN")]
    pub target_lsn: Option<Lsn>,

    /// PostgreSQL: the end of a transaction (or of the one that this was a subtransaction of).
    #[arg(long, value_name = "XID")]
    pub target_xid: Option<u64>,

    /// MySQL, MariaDB: the end of a transaction.
    #[arg(long, value_name = "GTID")]
    pub target_gtid: Option<String>,

    /// MySQL, MariaDB: a position in a binlog file, such as binlog.000003:198; the transactions that end up to there.
    #[arg(long, value_name = "FILE:OFFSET")]
    pub target_position: Option<String>,

    /// PostgreSQL: a named restore point.
    #[arg(long, value_name = "NAME")]
    pub target_name: Option<String>,

    /// The end of the newest base backup.
    #[arg(long)]
    pub target_immediate: bool,

    /// The last record, or transaction, that is stored.
    #[arg(long)]
    pub target_latest: bool,
}

/// Which server, and where to restore it to.
#[derive(Debug, Args)]
pub struct WhatArgs {
    #[command(flatten)]
    pub source: RepositoryArgs,

    #[command(flatten)]
    pub server: ServerArgs,

    #[command(flatten)]
    pub target: TargetArgs,

    /// Stop just before the target: what ends exactly at it stays out.
    #[arg(long, conflicts_with_all = ["target_immediate", "target_latest"])]
    pub exclusive: bool,

    /// Follow this branch of the log instead of the newest, as `list` numbers them.
    #[arg(long, value_name = "NUMBER", conflicts_with = "timeline")]
    pub branch: Option<u32>,

    /// PostgreSQL: the same; follow this timeline.
    #[arg(long, value_name = "NUMBER")]
    pub timeline: Option<u32>,

    /// Where the target has several readings: the first in the log.
    #[arg(long, conflicts_with = "last")]
    pub first: bool,

    /// Where the target has several readings: the last in the log.
    #[arg(long)]
    pub last: bool,
}

impl WhatArgs {
    /// The target as asked for; `now` is what relative times count from.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn request(&self, now: Timestamp) -> Result<Request, Failure> {
        let target = &self.target;
        let target = if let Some(text) = &target.target_time {
            let time = parse_time(text, now);
            Target::Time(
                time.map_err(|error| Failure::new(ErrorClass::Config, format!("--target-time: {error}")))?,
            )
        } else if let Some(lsn) = target.target_lsn {
            Target::Lsn(lsn)
        } else if let Some(xid) = target.target_xid {
            // What pg_current_xact_id() shows has an epoch above the 32 bits that the log holds.
            Target::Transaction(TransactionId::Xid((xid & u64::from(u32::MAX)) as u32))
        } else if let Some(text) = &target.target_gtid {
            Target::Transaction(TransactionId::Gtid(parse_gtid(text)?))
        } else if let Some(text) = &target.target_position {
            let point = BinlogPoint::parse(text).ok_or_else(|| {
                let message = format!("--target-position: \"{text}\" is no position in a binlog");
                Failure::usage(message).hint("give FILE:OFFSET, such as binlog.000003:198")
            })?;
            Target::Binlog(point)
        } else if let Some(name) = &target.target_name {
            Target::Name(name.clone())
        } else if target.target_immediate {
            Target::Immediate
        } else {
            Target::Latest
        };
        let pick = match (self.first, self.last) {
            (true, _) => Some(Pick::First),
            (_, true) => Some(Pick::Last),
            _ => None,
        };
        Ok(Request {
            target,
            exclusive: self.exclusive,
            pick,
        })
    }

    /// The branch that was asked for.
    pub fn branch(&self) -> Option<Branch> {
        self.branch.or(self.timeline).map(Branch)
    }
}

/// A GTID as its vendor writes it: only MySQL's has colons.
fn parse_gtid(text: &str) -> Result<TransactionGtid, Failure> {
    let gtid = if text.contains(':') {
        text.parse().map(TransactionGtid::MySql)
    } else {
        text.parse().map(TransactionGtid::MariaDb)
    };
    gtid.map_err(|error| Failure::usage(format!("--target-gtid: {error}")))
}

/// Arguments of `plan`.
#[derive(Debug, Args)]
pub struct PlanArgs {
    #[command(flatten)]
    pub what: WhatArgs,

    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// How a restored server ends up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Action {
    /// Open for writes (PostgreSQL: on a new timeline).
    Promote,
    /// Readable at the target, and no more than that.
    Pause,
    /// Shut down at the target.
    Shutdown,
}

/// Arguments of `restore`.
#[derive(Debug, Args)]
pub struct RestoreArgs {
    #[command(flatten)]
    pub what: WhatArgs,

    /// The data directory to make; must be empty or absent.
    #[arg(long, value_name = "DIR")]
    pub to: PathBuf,

    /// Start the server in private, roll it forward, and check where it ends.
    #[arg(long)]
    pub start: bool,

    /// How the server ends up.
    #[arg(long, value_enum, default_value = "promote")]
    pub action: Action,

    /// Put a tablespace (its location in the backup, or its OID) elsewhere; may be given several times.
    #[arg(long, value_name = "OLD=NEW")]
    pub tablespace: Vec<TablespaceMapping>,

    /// Restore over an earlier data directory: fetch what differs, remove what does not belong.
    #[arg(long)]
    pub delta: bool,

    /// Requests and decoders at once.
    #[arg(long, value_name = "NUMBER", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub jobs: u16,

    /// PostgreSQL: directory of the server programs; found by version when absent.
    #[arg(long, value_name = "DIR")]
    pub pg_bin: Option<PathBuf>,

    /// MySQL, MariaDB: the server program; found by version when absent.
    #[arg(long, value_name = "PATH")]
    pub mysqld: Option<PathBuf>,

    /// MySQL, MariaDB: go on with an earlier restore into this directory: an interrupted replay, or with a later target.
    #[arg(long, conflicts_with = "delta")]
    pub resume: bool,

    /// Read and prove all of the planned log before anything is written.
    #[arg(long)]
    pub verify_first: bool,

    /// As root: the user that the files belong to and the server runs as. By default the owner of the directory that
    /// holds the target, or postgres or mysql where that is root.
    #[arg(long, value_name = "USER")]
    pub owner: Option<String>,

    /// Print the summary as JSON.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `export`.
#[derive(Debug, Args)]
pub struct ExportArgs {
    #[command(flatten)]
    pub source: RepositoryArgs,

    #[command(flatten)]
    pub server: ServerArgs,

    /// First log wanted: an LSN, a binlog's FILE:OFFSET, or a time. By default what the branch's unbroken log begins with.
    #[arg(long, value_name = "POSITION|TIME")]
    pub from: Option<String>,

    /// Last log wanted. By default everything.
    #[arg(long, value_name = "POSITION|TIME")]
    pub to: Option<String>,

    /// Follow this branch of the log instead of the newest, as `list` numbers them. Of binlogs: its own files only.
    #[arg(long, value_name = "NUMBER", conflicts_with = "timeline")]
    pub branch: Option<u32>,

    /// PostgreSQL: the same; follow this timeline.
    #[arg(long, value_name = "NUMBER")]
    pub timeline: Option<u32>,

    /// The directory to write into; files that are there already are never replaced.
    #[arg(long, value_name = "DIR")]
    pub output: PathBuf,

    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}
