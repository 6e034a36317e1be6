//! Connections and dumps from real servers.

mod connect;
mod stream;

use tidemark_testkit::{MysqlServer, MysqlVersion};

use super::*;

const ALL: [MysqlVersion; 3] = [
    MysqlVersion::Mysql97,
    MysqlVersion::MariaDb1011,
    MysqlVersion::MariaDb118,
];

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(future)
}

/// Root, by the socket.
fn root(server: &MysqlServer) -> ConnectOptions {
    ConnectOptions::socket(server.socket(), "root")
}
