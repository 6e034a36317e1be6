//! A store that is away for a while: commits go on, none is lost, and the lag shows.

use tidemark_testkit::{
    Agent, Garage, MysqlRestore, MysqlVersion, MysqlWorkload, ProxyMode, TcpProxy, TestRepository,
};

use crate::protected::{
    NAME, PATIENCE, agent_for, server, wait_for_agent, wait_for_base_backup, wait_until_durable,
};

fn lag_seconds(agent: &Agent) -> f64 {
    let lag = agent
        .metrics()
        .values("tidemark_lag_seconds", &[("server", NAME)]);
    lag.first().copied().unwrap_or_default()
}

fn nothing_is_lost_while_the_store_is_away(version: MysqlVersion) {
    let garage = Garage::start_new();
    let endpoint = garage.endpoint();
    let proxy = TcpProxy::start(endpoint.address);
    let repository = TestRepository::s3(&endpoint.by_way_of(proxy.address()), "outage");
    let server = server(version).start();
    let agent = agent_for(&repository, &server, "").start();
    wait_for_base_backup(&agent);
    let workload = MysqlWorkload::start(&server.client(), 2, 2000);
    for mode in [ProxyMode::Refuse, ProxyMode::Hang] {
        proxy.set(mode);
        wait_for_agent(&agent, "the lag to rise", || lag_seconds(&agent) > 6.0);
        proxy.set(ProxyMode::Pass);
        wait_for_agent(&agent, "the lag to fall", || lag_seconds(&agent) < 3.0);
    }
    let commits = workload.stop();
    wait_until_durable(&agent, &server);
    server.kill9();
    agent.terminate(PATIENCE);
    let restore = MysqlRestore::new(&repository, NAME, version);
    let restored = restore.start(&["--target-latest"]);
    assert_eq!(MysqlWorkload::missing(|sql| restored.sql(sql), &commits), []);
}

#[test]
fn mysql_loses_nothing_while_the_store_is_away() {
    nothing_is_lost_while_the_store_is_away(MysqlVersion::Mysql97);
}

#[test]
fn mariadb_loses_nothing_while_the_store_is_away() {
    nothing_is_lost_while_the_store_is_away(MysqlVersion::MariaDb1011);
}
