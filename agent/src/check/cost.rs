//! What the requests of a server cost in a month, at the prices of S3 in its standard class.

use std::time::Duration;

use tidemark_storage::StorageUrl;

use super::finding::Finding;
use crate::config::{RepositorySettings, Server};

/// AWS, us-east-1, 2026: 0.005 USD for a thousand writes.
const USD_PER_WRITE: f64 = 0.005 / 1000.0;
const MONTH: Duration = Duration::from_secs(30 * 86_400);
/// Slices are merged by 64, the merged ones by 64 again.
const MERGING: f64 = 1.0 + 1.0 / 64.0 + 1.0 / 4096.0;
/// A write to S3 takes about 50 ms, and in synchronous mode the next begins when the last is done.
const SYNCHRONOUS_WRITES_PER_SECOND: f64 = 20.0;

/// What the server's writes cost at worst, when it commits all the time; nothing for a directory.
pub fn estimate(repository: &RepositorySettings, server: &Server) -> Option<Finding> {
    let at_once = match server {
        Server::Postgresql(settings) => settings.synchronous,
        Server::Mysql(settings) => settings.semi_sync,
    };
    let server = server.common();
    matches!(repository.url, StorageUrl::S3 { .. }).then(|| {
        let (writes, usd) = monthly(server.max_lag, server.heartbeat, at_once);
        let mode = if at_once {
            "in synchronous mode".to_owned()
        } else {
            format!("at max_lag {}", tidemark_types::format_duration(server.max_lag))
        };
        let text =
            format!("at most {writes:.0} writes a month, about {usd:.2} USD, {mode} and under constant load");
        Finding::good(server.name.as_str(), "request cost", text)
    })
}

/// Writes in a month, and their price in USD.
fn monthly(max_lag: Duration, heartbeat: Duration, synchronous: bool) -> (f64, f64) {
    let slices_per_second = if synchronous {
        SYNCHRONOUS_WRITES_PER_SECOND
    } else {
        (1.0 / max_lag.as_secs_f64()).min(SYNCHRONOUS_WRITES_PER_SECOND)
    };
    let per_second = slices_per_second * MERGING + 1.0 / heartbeat.as_secs_f64();
    let writes = per_second * MONTH.as_secs_f64();
    (writes, writes * USD_PER_WRITE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_seconds_cost_less_than_three_dollars_and_synchronous_mode_hundreds() {
        let cents = |(_, usd): (f64, f64)| (usd * 100.0).round();
        let two_minutes = Duration::from_secs(120);
        assert_eq!(cents(monthly(Duration::from_secs(5), two_minutes, false)), 274.0);
        assert_eq!(
            cents(monthly(Duration::from_secs(5), two_minutes, true)),
            26_342.0
        );
    }
}
