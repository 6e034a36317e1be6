//! WAL as segment files.

use std::io::Write;
use std::path::Path;

use anyhow::Context;
use futures::stream::{self, StreamExt, TryStreamExt};
use tidemark_repository::Archive;
use tidemark_types::{ErrorClass, LogFiles, SegmentName};

use super::{Range, make_new};
use crate::catalog::read_history_text;
use crate::cli::ExportArgs;
use crate::exit::Failure;
use crate::plan::Ancestry;
use crate::wal::fetch::SegmentSource;
use crate::wal::segments::PlannedLog;
use crate::wal::state::StateDir;

/// Segments assembled at once: each takes a few times its size in memory.
const SEGMENTS_AT_ONCE: usize = 3;

/// Writes the segments and history files of a range; returns their names.
pub(super) async fn write(
    args: &ExportArgs,
    archive: &Archive,
    ancestry: &Ancestry,
    range: &Range<'_, '_>,
) -> anyhow::Result<Vec<String>> {
    let LogFiles::Wal(size) = range.begin.files else {
        return Err(Failure::new(ErrorClass::Permanent, "only WAL comes as segments").into());
    };
    let log = PlannedLog {
        history: ancestry.to_history(),
        segment_size: size,
        begin: range.begin.lsn(),
        end: range.end.lsn(),
    };
    // The state that wal-get works from serves here as well, for the time of the export.
    let scratch = args.output.join(".tidemark-export");
    let dir = StateDir::new(&scratch);
    dir.write(archive, &args.source, &log, range.line).await?;
    let source = SegmentSource::new(archive.clone(), dir.clone(), dir.read()?, None);
    let written = write_segments(&source, &log, &args.output).await;
    std::fs::remove_dir_all(&scratch).with_context(|| format!("remove {}", scratch.display()))?;
    let mut files = written?;
    let ancestors = log.history.ancestors.iter().map(|entry| entry.timeline);
    for timeline in ancestors.chain([log.history.timeline]) {
        if let Some(text) = read_history_text(archive, timeline).await? {
            let name = timeline.history_file_name();
            write_new(&args.output.join(&name), text.as_bytes())?;
            files.push(name);
        }
    }
    Ok(files)
}

async fn write_segments(
    source: &SegmentSource,
    log: &PlannedLog,
    output: &Path,
) -> anyhow::Result<Vec<String>> {
    let writes = log
        .sequence()
        .map(|name| write_segment(source, log, output, name));
    stream::iter(writes)
        .buffered(SEGMENTS_AT_ONCE)
        .try_collect()
        .await
}

/// Writes one segment; as `.partial`, padded with zeros as pg_receivewal does it, when it is not stored to its end.
async fn write_segment(
    source: &SegmentSource,
    log: &PlannedLog,
    output: &Path,
    name: SegmentName,
) -> anyhow::Result<String> {
    let size = log.segment_size;
    let mut file_name = name.file_name(size);
    let bytes = source.segment(name).await?;
    let bytes = bytes.with_context(|| format!("{file_name} is planned and yet absent"))?;
    if size.end_of(name.segment) > log.end {
        file_name.push_str(".partial");
    }
    let path = output.join(&file_name);
    tokio::task::spawn_blocking(move || write_new(&path, &bytes)).await??;
    Ok(file_name)
}

/// Writes a file that must not be there, and syncs it.
fn write_new(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let mut file = make_new(path)?;
    file.write_all(bytes)
        .and_then(|()| file.sync_all())
        .with_context(|| format!("write {}", path.display()))
}
