//! Metrics in Prometheus' text format (version 0.0.4). Names, labels and help texts live here and nowhere else;
//! `docs/METRICS.md` explains them.

use std::fmt::Write;

use tidemark_storage::MetricsSnapshot;
use tidemark_types::{Position, Timestamp};

use crate::health;
use crate::state::{AgentState, Facts, Pipeline, ServerState};

/// What `Content-Type` says of the text.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

const BUILD_INFO: Name = Name("tidemark_build_info", GAUGE, "Version of the agent, as a label");
const START_TIME: Name = Name(
    "tidemark_process_start_time_seconds",
    GAUGE,
    "When the agent started, in seconds since 1970",
);
const HEALTHY: Name = Name(
    "tidemark_healthy",
    GAUGE,
    "1 when /healthz has no complaint about the server",
);
const COMPLAINT: Name = Name(
    "tidemark_complaint",
    GAUGE,
    "1 for each kind of complaint that /healthz has about the server",
);
const PIPELINE_STATE: Name = Name(
    "tidemark_pipeline_state",
    GAUGE,
    "1 for the state that the server's pipeline is in, 0 for the others",
);
const SLOT_STATUS: Name = Name(
    "tidemark_slot_status",
    GAUGE,
    "1 for the replication slot's wal_status, 0 for the others",
);
const BACKUP_INFO: Name = Name(
    "tidemark_base_backup_info",
    GAUGE,
    "Id and kind of the newest base backup, as labels",
);

const REQUESTS: Name = Name(
    "tidemark_storage_requests_total",
    COUNTER,
    "Requests to the repository's store, each attempt counted",
);
const RETRIES: Name = Name(
    "tidemark_storage_retries_total",
    COUNTER,
    "Attempts that repeated a failed one",
);
const REQUEST_TIME: Name = Name(
    "tidemark_storage_request_seconds_total",
    COUNTER,
    "Time that requests took, summed over all attempts",
);
const STORE_BYTES: Name = Name(
    "tidemark_storage_bytes_total",
    COUNTER,
    "Bytes of objects read and written",
);

const GAUGE: &str = "gauge";
const COUNTER: &str = "counter";

/// Values of `wal_status` in `pg_replication_slots`.
const SLOT_STATUSES: [&str; 4] = ["reserved", "extended", "unreserved", "lost"];

/// Name, type and help of a metric.
struct Name(&'static str, &'static str, &'static str);

/// A metric with no labels of its own, and how it is read; `None`: not known now, no sample.
struct Plain(Name, fn(&Facts, Timestamp) -> Option<f64>);

const PLAIN: [Plain; 24] = [
    plain(
        "tidemark_generation",
        GAUGE,
        "Generation that is written to",
        |f, _| f.generation.map(|generation| f64::from(generation.0)),
    ),
    plain(
        "tidemark_branch",
        GAUGE,
        "Branch of the log that is streamed (PostgreSQL: timeline)",
        |f, _| f.branch.map(|branch| f64::from(branch.0)),
    ),
    plain(
        "tidemark_server_position_bytes",
        GAUGE,
        "How far the server's log is known to reach",
        |f, _| number_of(f.server_end),
    ),
    plain(
        "tidemark_received_position_bytes",
        GAUGE,
        "How far bytes have reached the agent",
        |f, _| number_of(f.received),
    ),
    plain(
        "tidemark_durable_position_bytes",
        GAUGE,
        "How far bytes have reached the repository",
        |f, _| number_of(f.durable),
    ),
    plain(
        "tidemark_lag_bytes",
        GAUGE,
        "Log that exists and is not in the repository",
        |f, _| Some(f.lag_bytes() as f64),
    ),
    plain(
        "tidemark_purge_seconds",
        GAUGE,
        "How long until the server may purge binlog that is not in the repository",
        |f, _| f.purge_in.map(|left| left.as_secs_f64()),
    ),
    plain(
        "tidemark_lag_seconds",
        GAUGE,
        "How long the oldest commit that is not in the repository has waited",
        |f, now| Some(f.lag(now).as_secs_f64()),
    ),
    plain(
        "tidemark_last_durable_commit_timestamp_seconds",
        GAUGE,
        "Commit time of the newest commit in the repository, by the server's clock",
        |f, _| f.last_durable_commit().map(seconds),
    ),
    plain(
        "tidemark_last_contact_timestamp_seconds",
        GAUGE,
        "When something was last heard from the server",
        |f, _| f.last_contact.map(seconds),
    ),
    plain("tidemark_uploads_total", COUNTER, "Slices stored", |f, _| {
        Some(f.uploads.count as f64)
    }),
    plain(
        "tidemark_uploaded_plain_bytes_total",
        COUNTER,
        "Bytes of log in the slices stored",
        |f, _| Some(f.uploads.plain_bytes as f64),
    ),
    plain(
        "tidemark_uploaded_stored_bytes_total",
        COUNTER,
        "Bytes of the slices stored",
        |f, _| Some(f.uploads.stored_bytes as f64),
    ),
    plain(
        "tidemark_gaps_total",
        COUNTER,
        "Holes found in the log",
        |f, _| Some(f.gaps as f64),
    ),
    plain(
        "tidemark_slot_retained_bytes",
        GAUGE,
        "Log that the replication slot holds back on the server",
        |f, _| f.slot.as_ref().map(|slot| slot.retained_bytes as f64),
    ),
    plain(
        "tidemark_slot_safe_bytes",
        GAUGE,
        "Log that can be written before the slot is in danger; absent without max_slot_wal_keep_size",
        |f, _| f.slot.as_ref()?.safe_bytes.map(|bytes| bytes as f64),
    ),
    plain(
        "tidemark_base_backup_running",
        GAUGE,
        "1 while a base backup is made",
        |f, _| Some(f64::from(u8::from(f.base_backups.running_since.is_some()))),
    ),
    plain(
        "tidemark_base_backup_failures_total",
        COUNTER,
        "Base backups that failed",
        |f, _| Some(f.base_backups.failures as f64),
    ),
    plain(
        "tidemark_base_backup_known",
        GAUGE,
        "1 once the repository was asked about base backups",
        |f, _| Some(f64::from(u8::from(f.base_backups.known))),
    ),
    plain(
        "tidemark_base_backup_end_timestamp_seconds",
        GAUGE,
        "When all files of the newest base backup were read",
        |f, _| Some(seconds(f.base_backups.newest.as_ref()?.ended)),
    ),
    plain(
        "tidemark_base_backup_age_seconds",
        GAUGE,
        "Age of the newest base backup, from its end",
        |f, now| Some(now.since(f.base_backups.newest.as_ref()?.ended).as_secs_f64()),
    ),
    plain(
        "tidemark_base_backup_duration_seconds",
        GAUGE,
        "How long the newest base backup took",
        |f, _| Some(f.base_backups.newest.as_ref()?.duration().as_secs_f64()),
    ),
    plain(
        "tidemark_base_backup_size_bytes",
        GAUGE,
        "Bytes of the files that the newest base backup describes",
        |f, _| Some(f.base_backups.newest.as_ref()?.size_bytes as f64),
    ),
    plain(
        "tidemark_base_backup_stored_bytes",
        GAUGE,
        "Bytes that the newest base backup added to the repository",
        |f, _| Some(f.base_backups.newest.as_ref()?.stored_bytes as f64),
    ),
];

const fn plain(
    name: &'static str,
    kind: &'static str,
    help: &'static str,
    read: fn(&Facts, Timestamp) -> Option<f64>,
) -> Plain {
    Plain(Name(name, kind, help), read)
}

fn seconds(time: Timestamp) -> f64 {
    time.0 as f64 / 1e6
}

/// All metrics of the process at `now`.
pub fn render(agent: &AgentState, now: Timestamp) -> String {
    let mut page = Page::default();
    page.head(&BUILD_INFO);
    page.sample(&BUILD_INFO, &[("version", env!("CARGO_PKG_VERSION"))], 1.0);
    page.head(&START_TIME);
    page.sample(&START_TIME, &[], seconds(agent.started));

    render_storage(&mut page, &agent.storage.snapshot());
    let servers: Vec<(&ServerState, Facts)> = agent
        .servers
        .iter()
        .map(|server| (server.as_ref(), server.facts()))
        .collect();
    render_states(&mut page, &servers, now);
    for Plain(name, read) in &PLAIN {
        page.head(name);
        for (server, facts) in &servers {
            if let Some(value) = read(facts, now) {
                page.sample(name, &labels(server), value);
            }
        }
    }
    page.text
}

fn render_storage(page: &mut Page, storage: &MetricsSnapshot) {
    page.head(&REQUESTS);
    for operation in &storage.operations {
        for (outcome, count) in &operation.outcomes {
            let labels = [("operation", operation.operation.label()), ("outcome", *outcome)];
            page.sample(&REQUESTS, &labels, *count as f64);
        }
    }
    page.head(&RETRIES);
    for operation in &storage.operations {
        let labels = [("operation", operation.operation.label())];
        page.sample(&RETRIES, &labels, operation.retries as f64);
    }
    page.head(&REQUEST_TIME);
    for operation in &storage.operations {
        let labels = [("operation", operation.operation.label())];
        page.sample(&REQUEST_TIME, &labels, operation.latency_total.as_secs_f64());
    }
    page.head(&STORE_BYTES);
    page.sample(&STORE_BYTES, &[("direction", "read")], storage.bytes_read as f64);
    page.sample(
        &STORE_BYTES,
        &[("direction", "written")],
        storage.bytes_written as f64,
    );
}

/// The metrics of servers with labels of their own.
fn render_states(page: &mut Page, servers: &[(&ServerState, Facts)], now: Timestamp) {
    let complaints =
        |server: &ServerState, facts: &Facts| health::complaints(facts, server.thresholds(), now);
    page.head(&HEALTHY);
    for (server, facts) in servers {
        let healthy = complaints(server, facts).is_empty();
        page.sample(&HEALTHY, &labels(server), f64::from(u8::from(healthy)));
    }
    page.head(&COMPLAINT);
    for (server, facts) in servers {
        for complaint in complaints(server, facts) {
            page.sample(&COMPLAINT, &with(server, "kind", complaint.kind), 1.0);
        }
    }
    page.head(&PIPELINE_STATE);
    for (server, facts) in servers {
        page.choice(
            &PIPELINE_STATE,
            server,
            "state",
            &Pipeline::LABELS,
            facts.pipeline.label(),
        );
    }
    page.head(&SLOT_STATUS);
    for (server, facts) in servers {
        if let Some(slot) = &facts.slot {
            page.choice(&SLOT_STATUS, server, "status", &SLOT_STATUSES, &slot.wal_status);
        }
    }
    page.head(&BACKUP_INFO);
    for (server, facts) in servers {
        if let Some(newest) = &facts.base_backups.newest {
            let mut labels = with(server, "kind", newest.kind.label());
            labels.push(("backup", &newest.id));
            page.sample(&BACKUP_INFO, &labels, 1.0);
        }
    }
}

type Label<'a> = (&'static str, &'a str);

fn labels(server: &ServerState) -> Vec<Label<'_>> {
    vec![
        ("server", server.name().as_str()),
        ("engine", server.engine().label()),
    ]
}

fn with<'a>(server: &'a ServerState, name: &'static str, value: &'a str) -> Vec<Label<'a>> {
    let mut labels = labels(server);
    labels.push((name, value));
    labels
}

/// The text being written. Writing to a `String` cannot fail.
#[derive(Default)]
struct Page {
    text: String,
}

impl Page {
    fn head(&mut self, Name(name, kind, help): &Name) {
        let _ = writeln!(self.text, "# HELP {name} {help}.\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, Name(name, ..): &Name, labels: &[Label<'_>], value: f64) {
        self.text.push_str(name);
        for (index, (label, text)) in labels.iter().enumerate() {
            let separator = if index == 0 { '{' } else { ',' };
            let text = text
                .replace('\\', r"\\")
                .replace('"', "\\\"")
                .replace('\n', r"\n");
            let _ = write!(self.text, "{separator}{label}=\"{text}\"");
        }
        let end = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.text, "{end} {value}");
    }

    /// One sample for each of the values a label can have: 1 for the present one.
    fn choice(
        &mut self,
        name: &Name,
        server: &ServerState,
        label: &'static str,
        values: &[&str],
        present: &str,
    ) {
        for value in values {
            let chosen = f64::from(u8::from(*value == present));
            self.sample(name, &with(server, label, value), chosen);
        }
    }
}

/// A position as a number, where it is one: in WAL.
fn number_of(position: Option<Position>) -> Option<f64> {
    position
        .map(Position::lsn)
        .filter(|lsn| lsn.is_valid())
        .map(|lsn| lsn.0 as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidemark_repository::Branch;
    use tidemark_types::{Generation, LogFiles, Lsn, WalSegmentSize};

    fn agent() -> AgentState {
        let server = ServerState::for_tests("shop");
        let at = |lsn| LogFiles::Wal(WalSegmentSize::DEFAULT).lsn(Lsn(lsn));
        server.update(|facts| {
            facts.pipeline = Pipeline::Streaming;
            facts.generation = Some(Generation(1));
            facts.restart_at(Branch(3), at(0x100), at(0x100));
            facts.note_received(at(0x300), Timestamp(0));
            facts.note_commit(at(0x300), Timestamp(4_000_000));
            facts.note_durable(at(0x200));
            facts.alarms.insert("unindexed_range", "a \"bad\" CRC".to_owned());
        });
        AgentState {
            started: Timestamp(1_500_000),
            servers: vec![server],
            storage: Default::default(),
        }
    }

    #[test]
    fn samples_carry_server_and_engine() {
        let page = render(&agent(), Timestamp(6_500_000));
        for line in [
            "tidemark_process_start_time_seconds 1.5",
            "tidemark_storage_retries_total{operation=\"put\"} 0",
            "tidemark_storage_bytes_total{direction=\"written\"} 0",
            "tidemark_lag_bytes{server=\"shop\",engine=\"postgresql\"} 256",
            "tidemark_lag_seconds{server=\"shop\",engine=\"postgresql\"} 2.5",
            "tidemark_branch{server=\"shop\",engine=\"postgresql\"} 3",
            "tidemark_pipeline_state{server=\"shop\",engine=\"postgresql\",state=\"streaming\"} 1",
            "tidemark_complaint{server=\"shop\",engine=\"postgresql\",kind=\"unindexed_range\"} 1",
            "tidemark_healthy{server=\"shop\",engine=\"postgresql\"} 0",
        ] {
            assert!(
                page.lines().any(|found| found == line),
                "{line} is not in\n{page}"
            );
        }
        assert!(
            !page.contains("tidemark_slot_retained_bytes{"),
            "a slot that is not known has no sample"
        );
    }

    #[test]
    fn every_metric_is_documented_and_every_documented_one_exists() {
        let page = render(&agent(), Timestamp(0));
        let mut rendered: Vec<&str> = page
            .lines()
            .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next())
            .collect();
        let document = include_str!("../../docs/METRICS.md");
        let mut documented: Vec<&str> = document
            .lines()
            .filter_map(|line| {
                line.strip_prefix("| `tidemark_")
                    .and(line.get(3..))?
                    .split('`')
                    .next()
            })
            .collect();
        rendered.sort_unstable();
        documented.sort_unstable();
        assert_eq!(rendered, documented);
    }
}
