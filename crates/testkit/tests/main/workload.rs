//! A workload knows exactly what was acknowledged.

use std::time::{Duration, Instant};

use tidemark_testkit::{PgVersion, PostgresServer, ProxyMode, TcpProxy, Workload, wait_for};

const PATIENCE: Duration = Duration::from_secs(30);

#[test]
fn acknowledged_commits_are_there_after_crashes() {
    for version in PgVersion::ALL {
        let server = PostgresServer::start_new(version);
        Workload::create_table(&server.client());
        let workload = Workload::builder(&server.url())
            .writers(3)
            .payload_bytes(100)
            .start();
        wait_for("the first commits", PATIENCE, || workload.count() > 100);
        server.kill9();
        server.start();
        let before = workload.count();
        wait_for("commits after the crash", PATIENCE, || {
            workload.count() > before + 100
        });
        let commits = workload.stop();
        assert_eq!(Workload::missing(&server.client(), &commits), []);
        assert!(commits.windows(2).any(|pair| pair[0].writer != pair[1].writer));
    }
}

#[test]
fn lost_and_damaged_rows_are_found() {
    let server = PostgresServer::start_new(PgVersion::V17);
    Workload::create_table(&server.client());
    let workload = Workload::builder(&server.url())
        .writers(1)
        .first_writer(9)
        .pause(Duration::from_millis(1))
        .start();
    wait_for("some commits", PATIENCE, || workload.count() > 10);
    let commits = workload.stop();
    server.psql("DELETE FROM tidemark_workload WHERE sequence = 3");
    server.psql("UPDATE tidemark_workload SET payload = 'x' WHERE sequence = 5");
    assert_eq!(
        Workload::missing(&server.client(), &commits),
        [commits[3], commits[5]]
    );
    assert_eq!((commits[3].writer, commits[3].sequence), (9, 3));
}

#[test]
fn a_workload_stops_while_its_server_hangs() {
    let server = PostgresServer::start_new(PgVersion::V15);
    Workload::create_table(&server.client());
    let proxy = TcpProxy::start(server.address());
    let conninfo = format!(
        "host=127.0.0.1 port={} user=postgres dbname=postgres",
        proxy.address().port()
    );
    let workload = Workload::builder(&conninfo).start();
    wait_for("some commits", PATIENCE, || workload.count() > 10);
    proxy.set(ProxyMode::Hang);
    let begin = Instant::now();
    let commits = workload.stop();
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    assert_eq!(Workload::missing(&server.client(), &commits), []);
}
