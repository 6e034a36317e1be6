//! The rules that a written configuration must keep to become settings.
//!
//! A problem does not stop the reading: all of them are collected, and settings exist only if there was none. Every
//! default is a constant with its reason; `docs/CONFIG.md` repeats them.

use std::collections::HashMap;
use std::ops::Range;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tidemark_mysql::basebackup::BackupMethod;
use tidemark_mysql::binlog::Flavor;
use tidemark_storage::StorageUrl;
use tidemark_types::{ByteSize, ServerName};
use toml::Spanned;

use super::error::Problem;
use super::load::{Loaded, line_of};
use super::raw::{RawBaseBackup, RawConfig, RawHttp, RawRepository, RawServer, Scalar, Written};
use super::settings::{
    BaseBackupSettings, CopySettings, Engine, HttpSettings, LogSource, MysqlSettings, PostgresqlSettings,
    RepositorySettings, Server, ServerSettings, Settings,
};
use super::url::{holds_password, mysql_url, postgresql_url};
use super::values::{self, Parsed, Percent};

/// Five seconds of loss at worst cost, on a busy server, about 500,000 writes a month: 2.60 USD.
const DEFAULT_MAX_LAG: Duration = Duration::from_secs(5);
/// Above an hour the agent would miss the recovery point that it exists for.
const GREATEST_MAX_LAG: Duration = Duration::from_secs(3600);
/// 720 small writes a day; one may be lost before another agent takes the server for abandoned (5 minutes).
const DEFAULT_HEARTBEAT: Duration = Duration::from_secs(120);
/// One write may be lost and the next still comes before the lease is stale.
const GREATEST_HEARTBEAT: Duration = Duration::from_secs(140);
/// Once a night: a restore replays a day of log at most.
const DEFAULT_SCHEDULE: &str = "0 2 * * *";
/// Bounds how old a stored page may be that a backup refers to.
const DEFAULT_FULL_EVERY: Duration = Duration::from_secs(30 * 86_400);
/// Where zstd's ratio on table files stops improving cheaply.
const DEFAULT_LEVEL: u16 = 3;
/// Leaves a small host one core's worth of breath.
const DEFAULT_JOBS: u16 = 2;
/// Finds a lost change within a hundred backups at worst, for a hundredth of a full read.
const DEFAULT_VERIFY_UNCHANGED: Percent = Percent::of(1.0);
/// Less could not hold two segments of the usual size.
const LEAST_SLOT_RETAINED: ByteSize = ByteSize(32 << 20);
const A_MILLISECOND: Duration = Duration::from_millis(1);
const A_SECOND: Duration = Duration::from_secs(1);
const AN_HOUR: Duration = Duration::from_secs(3600);
const TEN_YEARS: Duration = Duration::from_secs(3650 * 86_400);

/// The slot of a server whose configuration names none: `tidemark_` and its name in the characters a slot may have.
pub fn default_slot(server: &ServerName) -> String {
    let plain = |c: char| {
        if c.is_ascii_alphanumeric() {
            c.to_ascii_lowercase()
        } else {
            '_'
        }
    };
    let name = server.as_str().chars().map(plain);
    "tidemark_".chars().chain(name).take(63).collect()
}

fn default_application_name(server: &ServerName) -> String {
    format!("tidemark_{server}").chars().take(63).collect()
}

/// Collects what is wrong while values are read.
struct Reader<'a> {
    text: &'a str,
    environment: &'a dyn Fn(&str) -> Option<String>,
    problems: Vec<Problem>,
    warnings: Vec<Problem>,
}

/// Turns what was written into settings.
pub(super) fn validate(
    raw: RawConfig,
    text: &str,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Result<Loaded, Vec<Problem>> {
    let mut reader = Reader {
        text,
        environment,
        problems: Vec::new(),
        warnings: Vec::new(),
    };
    let settings = reader.config(raw);
    let Reader {
        mut problems,
        warnings,
        ..
    } = reader;
    match settings {
        Some(settings) if problems.is_empty() => Ok(Loaded { settings, warnings }),
        _ => {
            problems.sort_by_key(|problem| problem.line);
            Err(problems)
        }
    }
}

impl Reader<'_> {
    fn problem(&mut self, span: &Range<usize>, key: &str, message: impl Into<String>) {
        self.problems.push(self.at(span, key, message.into()));
    }

    fn warning(&mut self, span: &Range<usize>, key: &str, message: impl Into<String>) {
        self.warnings.push(self.at(span, key, message.into()));
    }

    fn at(&self, span: &Range<usize>, key: &str, message: String) -> Problem {
        Problem {
            line: line_of(self.text, span.start),
            key: key.to_owned(),
            message,
        }
    }

    /// The value of a key that may be missing; also `None` after a problem.
    fn optional<T>(
        &mut self,
        key: &str,
        written: &Written,
        parse: impl FnOnce(&Scalar) -> Parsed<T>,
    ) -> Option<T> {
        let written = written.as_ref()?;
        parse(written.get_ref())
            .map_err(|message| self.problem(&written.span(), key, message))
            .ok()
    }

    /// The value of a key that has to be there; `None` only after a problem.
    fn required<T>(
        &mut self,
        section: &Range<usize>,
        key: &str,
        written: &Written,
        parse: impl FnOnce(&Scalar) -> Parsed<T>,
    ) -> Option<T> {
        if written.is_none() {
            self.problem(section, key, "this key is required");
        }
        self.optional(key, written, parse)
    }

    fn config(&mut self, raw: RawConfig) -> Option<Settings> {
        let top = 0..0;
        if raw.repository.is_none() {
            self.problem(&top, "repository", "expected a section [repository] with a url");
        }
        let repository = raw.repository.and_then(|raw| self.repository(&raw));
        let http = raw.http.and_then(|raw| self.http(&raw));
        let written = raw.server.unwrap_or_default();
        if written.is_empty() {
            self.problem(&top, "server", "expected at least one section [[server]]");
        }
        self.refuse_equal_names(&written);
        let servers = written.iter().filter_map(|raw| self.server(raw)).collect();
        Some(Settings {
            repository: repository?,
            http,
            servers,
        })
    }

    fn http(&mut self, raw: &Spanned<RawHttp>) -> Option<HttpSettings> {
        let listen = self.required(
            &raw.span(),
            "http.listen",
            &raw.get_ref().listen,
            values::listen_address,
        )?;
        Some(HttpSettings { listen })
    }

    fn repository(&mut self, written: &Spanned<RawRepository>) -> Option<RepositorySettings> {
        let raw = written.get_ref();
        let url = self.required(&written.span(), "repository.url", &raw.url, repository_url)?;
        if matches!(url, StorageUrl::File { .. }) {
            let s3_only = [
                ("repository.endpoint", &raw.endpoint),
                ("repository.region", &raw.region),
                ("repository.path_style", &raw.path_style),
            ];
            for (key, value) in s3_only {
                if let Some(value) = value {
                    self.problem(&value.span(), key, "has a meaning for s3:// repositories only");
                }
            }
        }
        Some(RepositorySettings {
            url,
            endpoint: self.optional("repository.endpoint", &raw.endpoint, http_url),
            region: self.optional("repository.region", &raw.region, values::text),
            path_style: self.optional("repository.path_style", &raw.path_style, values::flag),
        })
    }

    fn refuse_equal_names(&mut self, servers: &[Spanned<RawServer>]) {
        let mut seen: HashMap<String, usize> = HashMap::new();
        for name in servers.iter().filter_map(|server| server.get_ref().name.as_ref()) {
            let Scalar::Text(text) = name.get_ref() else {
                continue;
            };
            let line = line_of(self.text, name.span().start);
            if let Some(first) = seen.get(text) {
                let message = format!("expected a name of its own, but line {first} has \"{text}\" too");
                self.problem(&name.span(), "server.name", message);
            } else {
                seen.insert(text.clone(), line);
            }
        }
    }

    fn server(&mut self, written: &Spanned<RawServer>) -> Option<Server> {
        let (raw, span) = (written.get_ref(), written.span());
        let name: Option<ServerName> = self.required(&span, "server.name", &raw.name, values::parsed);
        let engine = self.required(&span, "server.engine", &raw.engine, engine);
        let password_file = self.optional("server.password_file", &raw.password_file, values::absolute_path);
        self.check_password_file(raw, password_file.as_deref());
        let max_lag = |value: &Scalar| values::duration(value, A_MILLISECOND, GREATEST_MAX_LAG);
        let heartbeat = |value: &Scalar| values::duration(value, A_SECOND, GREATEST_HEARTBEAT);
        let data_directory = self.optional(
            "server.data_directory",
            &raw.data_directory,
            values::absolute_path,
        );
        let max_lag = self.optional("server.max_lag", &raw.max_lag, max_lag);
        let heartbeat = self.optional("server.heartbeat", &raw.heartbeat, heartbeat);
        let base_backup = self.base_backup(raw.base_backup.as_ref().map(Spanned::get_ref));
        // Without a name or an engine the other keys are still looked at, so that all mistakes are told at once.
        let common = name
            .zip(engine)
            .zip(base_backup)
            .map(|((name, engine), base_backup)| {
                Arc::new(ServerSettings {
                    name,
                    engine,
                    password_file,
                    data_directory,
                    max_lag: max_lag.unwrap_or(DEFAULT_MAX_LAG),
                    heartbeat: heartbeat.unwrap_or(DEFAULT_HEARTBEAT),
                    base_backup,
                })
            });
        match engine.unwrap_or(Engine::Postgresql) {
            Engine::Postgresql => {
                self.refuse_foreign_keys("postgresql", &mysql_keys(raw));
                if let Some(base_backup) = &raw.base_backup {
                    self.refuse_foreign_keys("postgresql", &copy_keys(base_backup.get_ref()));
                }
                let settings = self.postgresql(raw, &span, common)?;
                Some(Server::Postgresql(Arc::new(settings)))
            }
            engine @ (Engine::Mysql | Engine::Mariadb) => {
                self.refuse_foreign_keys(engine.label(), &postgresql_keys(raw));
                let flavor = match engine {
                    Engine::Mariadb => Flavor::MariaDb,
                    _ => Flavor::MySql,
                };
                let settings = self.mysql(raw, &span, flavor, common)?;
                Some(Server::Mysql(Arc::new(settings)))
            }
        }
    }

    fn postgresql(
        &mut self,
        raw: &RawServer,
        span: &Range<usize>,
        server: Option<Arc<ServerSettings>>,
    ) -> Option<PostgresqlSettings> {
        let environment = self.environment;
        let connection = self.url(raw, span, |text| postgresql_url(text, environment));
        let slot = self.optional("server.slot", &raw.slot, values::slot_name);
        let application_name = self.optional(
            "server.application_name",
            &raw.application_name,
            values::application_name,
        );
        let archive_spool = self.optional("server.archive_spool", &raw.archive_spool, values::absolute_path);
        let data_directory = server
            .as_ref()
            .and_then(|server| server.data_directory.as_deref());
        self.keep_spool_apart(raw, archive_spool.as_deref(), data_directory);
        let synchronous = self.optional("server.synchronous", &raw.synchronous, values::flag);
        let max_slot_retained = self.optional("server.max_slot_retained", &raw.max_slot_retained, |value| {
            values::size(value, LEAST_SLOT_RETAINED)
        });
        self.warn_of_idle_bound(raw, synchronous.unwrap_or_default());
        let server = server?;
        let application_name = application_name.unwrap_or_else(|| default_application_name(&server.name));
        Some(PostgresqlSettings {
            connection: connection?.with_application_name(application_name.clone()),
            slot: slot.unwrap_or_else(|| default_slot(&server.name)),
            application_name,
            synchronous: synchronous.unwrap_or_default(),
            max_slot_retained,
            archive_spool,
            server,
        })
    }

    fn mysql(
        &mut self,
        raw: &RawServer,
        span: &Range<usize>,
        flavor: Flavor,
        server: Option<Arc<ServerSettings>>,
    ) -> Option<MysqlSettings> {
        let environment = self.environment;
        let connection = self.url(raw, span, |text| mysql_url(text, environment));
        let server_id = self.optional("server.server_id", &raw.server_id, values::server_id);
        let semi_sync = self.optional("server.semi_sync", &raw.semi_sync, values::flag);
        let nothing = RawBaseBackup::default();
        let base_backup = raw.base_backup.as_ref().map_or(&nothing, Spanned::get_ref);
        Some(MysqlSettings {
            flavor,
            copy: self.copy(base_backup, flavor),
            connection: connection?,
            server_id,
            semi_sync: semi_sync.unwrap_or_default(),
            log_source: self.log_source(raw, semi_sync.unwrap_or_default())?,
            server: server?,
        })
    }

    fn log_source(&mut self, raw: &RawServer, semi_sync: bool) -> Option<LogSource> {
        const KEY: &str = "server.log_source";
        let is_directory = self.optional(KEY, &raw.log_source, |value| match value {
            Scalar::Text(text) if text == "replication" => Ok(false),
            Scalar::Text(text) if text == "directory" => Ok(true),
            _ => Err(format!(
                "expected \"replication\" or \"directory\", found {value}"
            )),
        });
        let directory = self.optional("server.log_directory", &raw.log_directory, values::absolute_path);
        if is_directory.unwrap_or_default() {
            if let (true, Some(written)) = (semi_sync, &raw.log_source) {
                let message = "cannot go with semi_sync: only a replica acknowledges commits";
                self.problem(&written.span(), KEY, message);
            }
            return Some(LogSource::Directory(directory));
        }
        if let Some(written) = &raw.log_directory {
            self.problem(
                &written.span(),
                "server.log_directory",
                "has a meaning with log_source = \"directory\" only",
            );
        }
        Some(LogSource::Replication)
    }

    fn copy(&mut self, raw: &RawBaseBackup, flavor: Flavor) -> CopySettings {
        let [
            (method_key, method),
            (scratch_key, scratch),
            (program_key, program),
        ] = copy_keys(raw);
        let settings = CopySettings {
            method: self.optional(method_key, method, |value| backup_method(value, flavor)),
            scratch_directory: self.optional(scratch_key, scratch, values::absolute_path),
            program: self.optional(program_key, program, values::absolute_path),
        };
        let foreign = match flavor {
            Flavor::MySql => (program_key, program),
            Flavor::MariaDb => (scratch_key, scratch),
        };
        self.refuse_foreign_keys(engine_of(flavor).label(), &[foreign]);
        settings
    }

    /// Keys that have a meaning for other engines only.
    fn refuse_foreign_keys(&mut self, engine: &str, keys: &[(&str, &Written)]) {
        for (key, written) in keys {
            if let Some(written) = written {
                let message = format!("has no meaning for engine = \"{engine}\"");
                self.problem(&written.span(), key, message);
            }
        }
    }

    /// Reads the server's URL, in which a password in clear is no secret any more.
    fn url<T>(
        &mut self,
        raw: &RawServer,
        section: &Range<usize>,
        parse: impl FnOnce(&str) -> Parsed<T>,
    ) -> Option<T> {
        const KEY: &str = "server.url";
        let connection = self.required(section, KEY, &raw.url, |value| {
            let Scalar::Text(text) = value else {
                return Err("expected a URL such as \"postgresql://tidemark@localhost/postgres\"".to_owned());
            };
            parse(text)
        })?;
        if let Some(written) = &raw.url
            && let Scalar::Text(text) = written.get_ref()
            && holds_password(text)
        {
            self.warning(
                &written.span(),
                KEY,
                "holds a password in clear: prefer password_file, a passfile, or ${NAME} for the environment",
            );
        }
        Some(connection)
    }

    fn check_password_file(&mut self, raw: &RawServer, path: Option<&Path>) {
        let (Some(path), Some(written)) = (path, raw.password_file.as_ref()) else {
            return;
        };
        const KEY: &str = "server.password_file";
        match std::fs::metadata(path) {
            Err(error) => self.problem(&written.span(), KEY, format!("{}: {error}", path.display())),
            Ok(meta) if meta.is_dir() => self.problem(
                &written.span(),
                KEY,
                format!("expected a file, but {} is a directory", path.display()),
            ),
            Ok(meta) if meta.permissions().mode() & 0o007 != 0 => {
                let path = path.display();
                let message = format!("{path} is open to every user of this host: run chmod 600 {path}");
                self.problem(&written.span(), KEY, message);
            }
            Ok(_) => {}
        }
    }

    fn keep_spool_apart(&mut self, raw: &RawServer, spool: Option<&Path>, data: Option<&Path>) {
        if let (Some(spool), Some(data), Some(written)) = (spool, data, raw.archive_spool.as_ref())
            && spool.starts_with(data)
        {
            let message =
                "expected a directory outside data_directory: it would be part of every base backup";
            self.problem(&written.span(), "server.archive_spool", message);
        }
    }

    fn warn_of_idle_bound(&mut self, raw: &RawServer, synchronous: bool) {
        if let (true, Some(written)) = (synchronous, raw.max_slot_retained.as_ref()) {
            let message =
                "has no effect with synchronous = true: a slot that commits wait for is never given up";
            self.warning(&written.span(), "server.max_slot_retained", message);
        }
    }

    fn base_backup(&mut self, written: Option<&RawBaseBackup>) -> Option<BaseBackupSettings> {
        let nothing = RawBaseBackup::default();
        let raw = written.unwrap_or(&nothing);
        let schedule = self.optional("server.base_backup.schedule", &raw.schedule, values::parsed);
        let full_every = self.optional("server.base_backup.full_every", &raw.full_every, |value| {
            values::duration(value, AN_HOUR, TEN_YEARS)
        });
        let level = self.optional("server.base_backup.level", &raw.level, |value| {
            values::number(value, 1..=19)
        });
        let jobs = self.optional("server.base_backup.jobs", &raw.jobs, |value| {
            values::number(value, 1..=64)
        });
        let verify_unchanged = self.optional(
            "server.base_backup.verify_unchanged",
            &raw.verify_unchanged,
            values::percent,
        );
        Some(BaseBackupSettings {
            schedule: schedule.or_else(|| DEFAULT_SCHEDULE.parse().ok())?,
            full_every: full_every.unwrap_or(DEFAULT_FULL_EVERY),
            level: i32::from(level.unwrap_or(DEFAULT_LEVEL)),
            jobs: usize::from(jobs.unwrap_or(DEFAULT_JOBS)),
            verify_unchanged: verify_unchanged.unwrap_or(DEFAULT_VERIFY_UNCHANGED),
        })
    }
}

fn engine(value: &Scalar) -> Parsed<Engine> {
    const ENGINES: [Engine; 3] = [Engine::Postgresql, Engine::Mysql, Engine::Mariadb];
    let found = match value {
        Scalar::Text(text) => ENGINES.into_iter().find(|engine| engine.label() == text),
        _ => None,
    };
    found.ok_or_else(|| format!("expected \"postgresql\", \"mysql\" or \"mariadb\", found {value}"))
}

fn postgresql_keys(raw: &RawServer) -> [(&'static str, &Written); 5] {
    [
        ("server.slot", &raw.slot),
        ("server.application_name", &raw.application_name),
        ("server.synchronous", &raw.synchronous),
        ("server.max_slot_retained", &raw.max_slot_retained),
        ("server.archive_spool", &raw.archive_spool),
    ]
}

fn mysql_keys(raw: &RawServer) -> [(&'static str, &Written); 4] {
    [
        ("server.server_id", &raw.server_id),
        ("server.semi_sync", &raw.semi_sync),
        ("server.log_source", &raw.log_source),
        ("server.log_directory", &raw.log_directory),
    ]
}

fn copy_keys(raw: &RawBaseBackup) -> [(&'static str, &Written); 3] {
    [
        ("server.base_backup.method", &raw.method),
        ("server.base_backup.scratch_directory", &raw.scratch_directory),
        ("server.base_backup.program", &raw.program),
    ]
}

fn engine_of(flavor: Flavor) -> Engine {
    match flavor {
        Flavor::MySql => Engine::Mysql,
        Flavor::MariaDb => Engine::Mariadb,
    }
}

fn backup_method(value: &Scalar, flavor: Flavor) -> Parsed<BackupMethod> {
    let methods = BackupMethod::of(flavor);
    let found = match value {
        Scalar::Text(text) => methods.into_iter().find(|method| method.label() == text),
        _ => None,
    };
    let [one, other] = methods.map(BackupMethod::label);
    found.ok_or_else(|| format!("expected \"{one}\" or \"{other}\", found {value}"))
}

fn repository_url(value: &Scalar) -> Parsed<StorageUrl> {
    let text = values::text(value)?;
    text.parse::<StorageUrl>().map_err(|error| error.problem)
}

fn http_url(value: &Scalar) -> Parsed<String> {
    match value {
        Scalar::Text(text) if text.starts_with("http://") || text.starts_with("https://") => Ok(text.clone()),
        _ => Err(format!("expected an http:// or https:// URL, found {value}")),
    }
}
