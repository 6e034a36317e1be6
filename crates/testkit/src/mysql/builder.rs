//! Making a server: option file, initialisation, first start, accounts.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use crate::command::run;
use crate::install::MysqlVersion;
use crate::mysql::server::MysqlServer;
use crate::port::Port;
use crate::scratch::Scratch;
use crate::user::ServerUser;

/// Settings of every test server. Durability across a power failure is not what tests look at.
const BASE_OPTIONS: &str = "\
bind_address = 127.0.0.1
skip_name_resolve = ON
binlog_format = ROW
binlog_row_metadata = FULL
sync_binlog = 0
innodb_flush_log_at_trx_commit = 2
innodb_buffer_pool_size = 64M
";

const MYSQL_OPTIONS: &str = "\
mysqlx = OFF
gtid_mode = ON
enforce_gtid_consistency = ON
innodb_redo_log_capacity = 32M
";

const MARIADB_OPTIONS: &str = "\
gtid_strict_mode = ON
log_slave_updates = ON
innodb_log_file_size = 32M
";

/// What a new server shall be like; see [`MysqlServer::builder`].
#[derive(Debug)]
pub struct MysqlBuilder {
    version: MysqlVersion,
    options: String,
    accounts: Vec<String>,
}

impl MysqlBuilder {
    pub(crate) fn new(version: MysqlVersion) -> MysqlBuilder {
        let own = if version.is_mariadb() {
            MARIADB_OPTIONS
        } else {
            MYSQL_OPTIONS
        };
        MysqlBuilder {
            version,
            options: BASE_OPTIONS.to_owned() + own,
            accounts: Vec::new(),
        }
    }

    /// A line for the option file, after and so above the harness's own: `max_binlog_size = 4096`.
    pub fn option(mut self, line: &str) -> MysqlBuilder {
        self.options.push_str(line);
        self.options.push('\n');
        self
    }

    /// Several lines for the option file; see [`MysqlBuilder::option`].
    pub fn options(self, lines: &[&str]) -> MysqlBuilder {
        lines.iter().fold(self, |builder, line| builder.option(line))
    }

    /// An account that may come from anywhere, with `privileges` on everything (`REPLICATION SLAVE, SELECT`). Root has no
    /// password and comes by the socket only.
    pub fn account(mut self, user: &str, password: &str, privileges: &str) -> MysqlBuilder {
        self.accounts.push(format!(
            "CREATE USER '{user}'@'%' IDENTIFIED BY '{password}'; GRANT {privileges} ON *.* TO '{user}'@'%';"
        ));
        self
    }

    /// Makes the data directory, starts the server and makes its accounts. Panics when any of it fails.
    #[track_caller]
    pub fn start(self) -> MysqlServer {
        let accounts = self.accounts.concat();
        let server = self.create();
        server.start();
        if !accounts.is_empty() {
            server.sql(&accounts);
        }
        server
    }

    /// Makes the data directory only; its accounts are lost.
    #[track_caller]
    pub fn create(self) -> MysqlServer {
        let (server, option_file) = self.prepare();
        self.initialise(&option_file);
        server
    }

    /// As [`MysqlBuilder::create`], with the data directory that `fill` makes at the path it is given.
    #[track_caller]
    pub fn create_with(self, fill: impl FnOnce(&Path)) -> MysqlServer {
        let (server, _) = self.prepare();
        fill(&server.data_directory());
        ServerUser::current().own_all(&server.data_directory());
        server
    }

    /// All but the data directory.
    fn prepare(&self) -> (MysqlServer, PathBuf) {
        let scratch = Scratch::new("my");
        let port = Port::reserve();
        for directory in ["binlog", "tmp"] {
            scratch.subdir(directory);
        }
        let option_file = scratch.file("my.cnf", self.option_file(&scratch, &port));
        (MysqlServer::new(self.version, scratch, port), option_file)
    }

    fn option_file(&self, scratch: &Scratch, port: &Port) -> String {
        let (prefix, scratch, number) = (self.version.prefix(), scratch.path().display(), port.number());
        let prefix = prefix.display();
        let mut text = format!(
            "[mysqld]\n\
             basedir = {prefix}/usr\n\
             lc_messages_dir = {prefix}/usr/share/mysql\n\
             character_sets_dir = {prefix}/usr/share/mysql/charsets\n\
             plugin_dir = {prefix}/usr/lib/mysql/plugin\n\
             datadir = {scratch}/data\n\
             tmpdir = {scratch}/tmp\n\
             secure_file_priv = {scratch}/tmp\n\
             socket = {scratch}/sock\n\
             pid_file = {scratch}/pid\n\
             log_error = {scratch}/error.log\n\
             log_bin = {scratch}/binlog/bin\n\
             port = {number}\n"
        );
        // The port is no other server's, and so this is a server_id of its own among a test's servers.
        writeln!(text, "server_id = {number}").expect("write to a string");
        text + &self.options
    }

    fn initialise(&self, option_file: &Path) {
        let defaults = format!("--defaults-file={}", option_file.display());
        let mut command = if self.version.is_mariadb() {
            let mut command = self.version.tool("mariadb-install-db");
            command
                .arg(defaults)
                .arg(format!("--basedir={}/usr", self.version.prefix().display()))
                .args([
                    "--auth-root-authentication-method=normal",
                    "--skip-test-db",
                    "--skip-log-bin",
                ]);
            command
        } else {
            let mut command = ServerUser::current().command(self.version.server_program());
            command
                .arg(defaults)
                .args(["--initialize-insecure", "--skip-log-bin"]);
            command
        };
        // What initialisation changes is no part of the log.
        run(&mut command).expect_success();
    }
}
