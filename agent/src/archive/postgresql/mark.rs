//! What a PostgreSQL server says of its clock and of the end of its log.

use tidemark_postgres::SqlClient;
use tidemark_repository::lease::Lease;
use tidemark_types::{LogFiles, Lsn, SegmentName, TimelineHistory, Timestamp, WalSegmentSize};

use super::lsn_map::{branch_of, lsn_of, timeline_of};
use crate::archive::lease_keeper::{Mark, Marks};

/// Lengths of page headers: where the server points past the header of a page that is not begun.
const PAGE_HEADERS: [u64; 2] = [24, 40];
const PAGE_LEN: u64 = 8192;

/// A server that is asked by SQL.
pub struct WalMarks<'a> {
    /// The connection.
    pub sql: &'a SqlClient,
    /// The server's segment size.
    pub segment_size: WalSegmentSize,
}

impl Marks for WalMarks<'_> {
    async fn mark(&self) -> anyhow::Result<Option<Mark>> {
        // PostgreSQL evaluates the columns of a select list in their order.
        let statement = "select (extract(epoch from clock_timestamp()) * 1000000)::int8, \
                     case when pg_is_in_recovery() then null else pg_current_wal_insert_lsn()::text end, \
                     case when pg_is_in_recovery() then null else pg_walfile_name(pg_current_wal_insert_lsn()) end";
        let row = self
            .sql
            .query_one("read the server's clock and WAL position", statement, &[])
            .await?;
        let (end, segment): (Option<String>, Option<String>) = (row.get(1), row.get(2));
        let (Some(end), Some(segment)) = (end, segment) else {
            return Ok(None);
        };
        let end: Lsn = end.parse()?;
        let timeline = SegmentName::parse(&segment, self.segment_size)?.timeline;
        let in_page = end.0 % PAGE_LEN;
        let end = if PAGE_HEADERS.contains(&in_page) {
            end.align_down(PAGE_LEN)
        } else {
            end
        };
        Ok(Some(Mark {
            time: Timestamp(row.get(0)),
            branch: branch_of(timeline),
            end: LogFiles::Wal(self.segment_size).lsn(end),
        }))
    }
}

/// Whether a log on `history` descends from what the holder has covered: then the holder's server was left behind by
/// a promotion.
pub fn descends(history: &TimelineHistory, found: &Lease, size: WalSegmentSize) -> bool {
    found.covered.is_some_and(|covered| {
        let timeline = timeline_of(covered.branch);
        history.timeline > timeline && history.contains(timeline, lsn_of(covered.position, size))
    })
}
