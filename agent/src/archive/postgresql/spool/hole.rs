//! Log that is missing in the spool: waited for, because the archiver goes in order and a file may be on its way, and
//! recorded as a gap when it will not come.

use std::time::Duration;

use tidemark_postgres::SqlClient;
use tidemark_repository::{GapRecord, LogPosition};
use tidemark_types::{Clock, SegmentName, SegmentNumber, SystemClock, WalSegmentSize};
use tokio::time::Instant;

use super::super::lsn_map::{lsn_of, timeline_of};
use super::name::SpoolFile;
use super::plan::Hole;
use super::shipping::Parts;

/// A missing file is waited for this long.
const PATIENCE: Duration = Duration::from_secs(60);
/// And this long when the server says that it was archived: a look that began before a file came may show later ones.
const PATIENCE_ARCHIVED: Duration = Duration::from_secs(5);

/// Whether a missing file may still come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// It may.
    Wait,
    /// It will not.
    Over,
}

/// The hole that is being waited for.
#[derive(Debug, Default)]
pub struct Holes {
    seen: Option<(Hole, Instant)>,
}

impl Holes {
    /// Nothing is missing.
    pub fn none(&mut self) {
        self.seen = None;
    }

    /// Whether what is missing before `file` may still come.
    pub async fn patience(
        &mut self,
        file: &SpoolFile,
        hole: Hole,
        sql: &SqlClient,
        size: WalSegmentSize,
    ) -> Patience {
        let since = match self.seen {
            Some((seen, since)) if seen == hole => since,
            _ => {
                let missing = missing_segment(hole).file_name(size);
                tracing::warn!(
                    missing,
                    found = file.name,
                    "a segment is missing in the spool; waiting for it"
                );
                let now = Instant::now();
                self.seen = Some((hole, now));
                now
            }
        };
        let waited = since.elapsed();
        let is_over = waited >= PATIENCE
            || (waited >= PATIENCE_ARCHIVED && is_archived(sql, missing_segment(hole), size).await);
        if is_over { Patience::Over } else { Patience::Wait }
    }

    /// Records the gap before `file` and tells of it.
    ///
    /// # Errors
    /// What the repository says.
    pub async fn record(&mut self, parts: &Parts<'_>, hole: Hole, file: &SpoolFile) -> anyhow::Result<()> {
        let size = parts.segment_size;
        let missing = missing_segment(hole).file_name(size);
        let gap = GapRecord {
            branch: hole.branch,
            begin: hole.begin,
            end: LogPosition::start_of(file.segment.0),
            found: SystemClock.now(),
            reason: format!("{missing} never came into the spool, and {} did", file.name),
        };
        parts.archive.record_gap(&gap).await?;
        let extent = format!(
            "from {} on timeline {} to {}: {}",
            lsn_of(gap.begin, size),
            timeline_of(gap.branch),
            lsn_of(gap.end, size),
            gap.reason
        );
        tracing::error!(extent, "the log has a gap; a base backup follows at once");
        parts.state.update(|facts| {
            facts.gaps += 1;
            facts.alarms.insert("gap", extent);
        });
        parts.backups_due.notify_one();
        self.none();
        Ok(())
    }
}

/// The segment that a hole begins in.
fn missing_segment(hole: Hole) -> SegmentName {
    SegmentName {
        timeline: timeline_of(hole.branch),
        segment: SegmentNumber(hole.begin.file),
    }
}

/// Whether the server's archiver, which goes in order, has done with `missing`: then it is not on its way. A server
/// that does not answer says nothing.
async fn is_archived(sql: &SqlClient, missing: SegmentName, size: WalSegmentSize) -> bool {
    let statement = "select coalesce(last_archived_wal, '') from pg_stat_archiver";
    let Ok(row) = sql.query_one("ask how far the archiver is", statement, &[]).await else {
        return false;
    };
    let last: String = row.get(0);
    let last = SegmentName::parse(last.get(..24).unwrap_or_default(), size);
    last.is_ok_and(|last| last > missing)
}
