//! The command line: what can be asked for. Deciding and doing lie elsewhere.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use tidemark_types::ServerName;

use crate::telemetry::LogOptions;

/// Streams a database's log and base backups to a repository, so that it can be restored to any moment.
#[derive(Debug, Parser)]
#[command(name = "tidemark-agent", version, propagate_version = true)]
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
    /// Protect the servers of a configuration until stopped.
    Run(RunArgs),
    /// Look at configuration, servers and repository, and say how to mend what is wrong.
    Check(CheckArgs),
    /// Look at a server and write a commented configuration for it.
    Init(InitArgs),
    /// Take a base backup now.
    Backup(BackupArgs),
    /// Let another cluster take over a server's name (after pg_upgrade, a re-init, a restore gone live).
    Adopt(AdoptArgs),
    /// Copy one finished log file into the spool; to be called as PostgreSQL's archive_command.
    ArchiveWal(ArchiveWalArgs),
}

/// Where the configuration is.
#[derive(Debug, Args)]
pub struct ConfigArg {
    /// Configuration file.
    #[arg(long, value_name = "FILE", env = "TIDEMARK_CONFIG")]
    pub config: PathBuf,
}

/// Arguments of `run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    #[command(flatten)]
    pub config: ConfigArg,

    /// Do not wait for another agent's lease to go stale: that agent is known to be gone for good.
    #[arg(long)]
    pub take_over: bool,
}

/// Arguments of `check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    #[command(flatten)]
    pub config: ConfigArg,

    /// Look at this server only.
    #[arg(long, value_name = "NAME")]
    pub server: Option<ServerName>,

    /// Print findings as JSON.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `init`.
#[derive(Debug, Args)]
pub struct InitArgs {
    /// How to reach the server, such as postgresql://postgres@localhost/postgres or mysql://root@localhost (the password
    /// comes from --password-file, PGPASSWORD or a passfile, MYSQL_PWD).
    #[arg(long)]
    pub url: String,

    /// A file that holds the password.
    #[arg(long, value_name = "FILE")]
    pub password_file: Option<PathBuf>,

    /// What to call the server; by default its cluster_name (PostgreSQL), else "main".
    #[arg(long)]
    pub name: Option<ServerName>,

    /// The repository to name in the configuration.
    #[arg(long, value_name = "URL", default_value = "file:///var/lib/tidemark")]
    pub repository: String,

    /// Where to write the configuration; never overwritten. Standard output by default.
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

/// Arguments of `backup`.
#[derive(Debug, Args)]
pub struct BackupArgs {
    #[command(flatten)]
    pub config: ConfigArg,

    /// The server.
    #[arg(long, value_name = "NAME")]
    pub server: ServerName,

    /// Store every page, even those that an earlier backup holds.
    #[arg(long)]
    pub full: bool,
}

/// Arguments of `adopt`.
#[derive(Debug, Args)]
pub struct AdoptArgs {
    #[command(flatten)]
    pub config: ConfigArg,

    /// The server.
    #[arg(long, value_name = "NAME")]
    pub server: ServerName,
}

/// Arguments of `archive-wal`.
#[derive(Debug, Args)]
pub struct ArchiveWalArgs {
    /// The file to copy: %p in archive_command.
    #[arg(value_name = "PATH")]
    pub path: PathBuf,

    /// The spool directory: archive_spool of the configuration.
    #[arg(long, value_name = "DIR", required_unless_present = "config", conflicts_with_all = ["config", "server"])]
    pub spool: Option<PathBuf>,

    /// Configuration file that names the spool directory.
    #[arg(long, value_name = "FILE", requires = "server")]
    pub config: Option<PathBuf>,

    /// The server in that configuration.
    #[arg(long, value_name = "NAME", requires = "config")]
    pub server: Option<ServerName>,
}
