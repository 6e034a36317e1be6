//! What a running agent answers over HTTP, beside a real server.

use std::time::Duration;

use serde_json::Value;
use tidemark_testkit::{Agent, PgVersion, PostgresServer, StopMode, TestRepository, wait_for};

const SOON: Duration = Duration::from_secs(120);

fn json(agent: &Agent, path: &str) -> (u16, Value) {
    let answer = agent.get(path).unwrap();
    (answer.status, serde_json::from_str(&answer.body).unwrap())
}

fn wait_for_health(agent: &Agent, status: u16) -> Value {
    wait_for("the health to change", SOON, || {
        json(agent, "/healthz").0 == status
    });
    json(agent, "/healthz").1
}

/// The names in the tables of docs/METRICS.md.
fn documented() -> Vec<&'static str> {
    let rows = include_str!("../../../docs/METRICS.md").lines();
    rows.filter_map(|row| row.strip_prefix("| `")?.split('`').next())
        .filter(|name| name.starts_with("tidemark_"))
        .collect()
}

#[test]
fn health_metrics_and_status_follow_the_server() {
    // Without a limit there is no distance to it, and no sample.
    let server = PostgresServer::builder(PgVersion::V17)
        .conf("max_slot_wal_keep_size = '1GB'")
        .start();
    let repository = TestRepository::file();
    let data = server.data_directory().display();
    let settings = format!("max_lag = \"50ms\"\ndata_directory = \"{data}\"");
    let agent = Agent::builder(&repository)
        .postgres("shop", &server.url(), &settings)
        .start();
    let backup = || agent.metrics().values("tidemark_base_backup_info", &[]);
    wait_for("a base backup", SOON, || backup() == [1.0]);
    server.psql("CREATE TABLE t (n int)");

    let healthy = serde_json::json!({
        "healthy": true,
        "servers": [{"server": "shop", "engine": "postgresql", "healthy": true, "complaints": []}]
    });
    assert_eq!(wait_for_health(&agent, 200), healthy);
    let lacking = || -> Vec<&str> {
        let metrics = agent.metrics();
        // Nothing is complained of, and PostgreSQL purges nothing that a slot holds.
        let absent = ["tidemark_complaint", "tidemark_purge_seconds"];
        let has_none = |name: &&str| !absent.contains(name) && metrics.values(name, &[]).is_empty();
        documented().into_iter().filter(has_none).collect()
    };
    assert!(documented().len() > 30);
    wait_for("a sample of every metric", SOON, || lacking().is_empty());
    let (code, status) = json(&agent, "/status");
    assert_eq!(code, 200);
    let status = &status["servers"][0];
    assert_eq!(status["server"], "shop");
    assert_eq!(status["pipeline"]["state"], "streaming");
    assert_eq!(status["branch"], 1);
    assert_eq!(agent.get("/").unwrap().status, 404);

    server.stop(StopMode::Fast);
    let sick = wait_for_health(&agent, 503);
    assert_eq!(sick["healthy"], false);
    let complaint = &sick["servers"][0]["complaints"][0];
    assert_eq!(complaint["kind"], "failed", "{sick}");
    let text = complaint["text"].as_str().unwrap();
    assert!(text.contains(&server.port().to_string()), "{text}");
    let metrics = agent.metrics();
    assert_eq!(metrics.value("tidemark_healthy", &[("server", "shop")]), 0.0);
    assert_eq!(metrics.value("tidemark_complaint", &[("kind", "failed")]), 1.0);

    server.start();
    assert_eq!(wait_for_health(&agent, 200), healthy);
}
