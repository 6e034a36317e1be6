//! What the tests stand on: real servers, workloads, faults. A dev-dependency only; it knows nothing of the repository's
//! format, the storage layer or the engines' protocols.
//!
//! The harness panics where a test cannot go on (a server that does not start), with what is needed to see why; it
//! never skips. Everything it starts or writes is gone when the test ends; `TIDEMARK_KEEP=1` keeps the files.

mod certificate;
mod command;
mod corpus;
mod daemon;
mod http;
mod install;
mod mysql;
mod port;
mod postgres;
mod proxy;
mod psql;
mod s3;
mod scratch;
mod slot;
mod tidemark;
mod user;
mod wait;
mod workload;

pub use certificate::Certificate;
pub use command::{Finished, run};
pub use corpus::check_corpus;
pub use daemon::{Daemon, Signal};
pub use http::{HttpResponse, http_get};
pub use install::{MysqlVersion, PgVersion, faketime_library};
pub use mysql::{MysqlBuilder, MysqlClient, MysqlCommit, MysqlServer, MysqlWorkload};
pub use port::Port;
pub use postgres::{Builder as PostgresBuilder, PostgresServer, StopMode};
pub use proxy::{ProxyMode, TcpProxy};
pub use psql::Psql;
pub use s3::{Garage, Moto, S3Endpoint};
pub use scratch::Scratch;
pub use tidemark::{
    Agent, AgentBuilder, Metrics, MysqlRestore, Restore, RestoredMysql, RestoredServer, TestRepository,
    accessible_copy, program, tidemark_restore,
};
pub use user::ServerUser;
pub use wait::{holds_within, wait_for};
pub use workload::{Commit, WORKLOAD_TABLE, Workload, WorkloadBuilder};
