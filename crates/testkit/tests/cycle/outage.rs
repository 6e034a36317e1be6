//! A store that is away for a while: commits wait for it, none is lost, and the lag shows.

use tidemark_testkit::{
    Agent, Garage, PgVersion, PostgresServer, ProxyMode, TcpProxy, TestRepository, Workload,
};

use crate::protected::{NAME, agent_for, restore, wait_for_agent, wait_for_base_backup, wait_until_durable};

fn lag_seconds(agent: &Agent) -> f64 {
    let lag = agent
        .metrics()
        .values("tidemark_lag_seconds", &[("server", NAME)]);
    lag.first().copied().unwrap_or_default()
}

#[test]
fn nothing_is_lost_while_the_store_is_away() {
    let garage = Garage::start_new();
    let endpoint = garage.endpoint();
    let proxy = TcpProxy::start(endpoint.address);
    let repository = TestRepository::s3(&endpoint.by_way_of(proxy.address()), "outage");
    let server = PostgresServer::builder(PgVersion::V18)
        .conf("wal_sender_timeout = 3s")
        .start();
    Workload::create_table(&server.client());
    let agent = agent_for(&repository, &server, "").start();
    wait_for_base_backup(&agent);
    let workload = Workload::builder(&server.url())
        .writers(2)
        .payload_bytes(2000)
        .start();

    for mode in [ProxyMode::Refuse, ProxyMode::Hang] {
        proxy.set(mode);
        // Longer than wal_sender_timeout: the server must keep hearing from the agent all the while.
        wait_for_agent(&agent, "the lag to rise", || lag_seconds(&agent) > 6.0);
        proxy.set(ProxyMode::Pass);
        wait_for_agent(&agent, "the lag to fall", || lag_seconds(&agent) < 3.0);
    }
    assert!(
        !server
            .log_text()
            .contains("terminating walsender process due to replication timeout"),
        "the server gave the agent up"
    );
    let commits = workload.stop();
    wait_until_durable(&agent, &server);
    server.kill9();
    let restored = restore(&repository, PgVersion::V18)
        .args(["--target-latest"])
        .start();
    assert_eq!(Workload::missing(restored.client(), &commits), []);
}
