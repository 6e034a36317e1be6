//! What WAL says.

use tidemark_postgres::wal::{Fact, Record, WalDecoder};
use tidemark_repository::Archive;
use tidemark_types::{LogFiles, Lsn, WalSegmentSize};

use super::{Reader, Scan, run};
use crate::plan::{Ending, EndingKind, LineSlice, RecordSpan, RestorePoint, SliceFacts, TransactionId};

/// Reads one slice.
pub(super) async fn read(
    archive: &Archive,
    slice: &LineSlice<'_>,
    scan: Scan,
    size: WalSegmentSize,
) -> anyhow::Result<SliceFacts> {
    let bytes = scan.bytes(archive, slice, scan.parse_from);
    let reader = WalReader {
        files: scan.parse_from.files,
        decoder: WalDecoder::new(scan.parse_from.lsn(), size),
        facts: SliceFacts::default(),
        scan,
    };
    run(reader, bytes).await
}

struct WalReader {
    files: LogFiles,
    decoder: WalDecoder,
    facts: SliceFacts,
    scan: Scan,
}

impl Reader for WalReader {
    fn feed(&mut self, mut input: &[u8]) -> anyhow::Result<()> {
        let WalReader {
            files,
            decoder,
            facts,
            scan,
        } = self;
        loop {
            match decoder.next(&mut input) {
                Ok(None) => return Ok(()),
                Ok(Some(record)) => {
                    let span = span(&record, *files);
                    if scan.counts(span.end) {
                        take(&record, span, scan.wanted.as_ref(), facts)?;
                    }
                }
                Err(error) if scan.may_be_damaged => {
                    tracing::warn!(%error, "the log cannot be read here; going on behind it");
                    decoder.resync();
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn facts(self) -> SliceFacts {
        self.facts
    }
}

fn take(
    record: &Record<'_>,
    span: RecordSpan,
    wanted: Option<&TransactionId>,
    facts: &mut SliceFacts,
) -> anyhow::Result<()> {
    facts.last = Some(span);
    let is_wanted = |xid: u32| wanted == Some(&TransactionId::Xid(xid));
    let ending = |kind, time, xid, is_wanted| Ending {
        begin: span.begin,
        end: span.end,
        kind,
        time,
        transaction: TransactionId::Xid(xid),
        is_wanted,
    };
    match Fact::of(record)? {
        Some(Fact::RestorePoint { time, name }) => facts.points.push(RestorePoint {
            begin: span.begin,
            time,
            name: name.into_owned(),
        }),
        Some(Fact::Prepare(prepare)) => {
            let (time, xid) = (prepare.time, prepare.xid);
            facts
                .endings
                .push(ending(EndingKind::Prepare, time, xid, is_wanted(xid)));
        }
        Some(fact @ (Fact::Commit(_) | Fact::Abort(_))) => {
            let kind = if matches!(fact, Fact::Commit(_)) {
                EndingKind::Commit
            } else {
                EndingKind::Abort
            };
            let (Fact::Commit(end) | Fact::Abort(end)) = fact else {
                return Ok(());
            };
            let is_wanted = is_wanted(end.xid) || end.subtransactions.iter().any(is_wanted);
            facts.endings.push(ending(kind, end.time, end.xid, is_wanted));
        }
        _ => {}
    }
    Ok(())
}

/// Where a record lies. That of a segment switch ends with itself here, not with its segment: the padding behind it may
/// be in other slices.
fn span(record: &Record<'_>, files: LogFiles) -> RecordSpan {
    let end = if record.is_segment_switch() {
        Lsn(record
            .begin
            .0
            .saturating_add(u64::from(record.length).next_multiple_of(8)))
    } else {
        record.end
    };
    RecordSpan {
        begin: files.lsn(record.begin),
        end: files.lsn(end),
    }
}
