//! Makes a decoder that has read the end of what is stored, so that a record which reaches over it is seen whole, and one
//! that does not follow it is known: the segments before are no longer in the spool.

use std::pin::pin;

use futures::StreamExt;
use tidemark_postgres::wal::WalDecoder;
use tidemark_repository::log::{GRAIN_LEN, LogReader, LogVerifier, Run};
use tidemark_repository::{Archive, LogPosition, RepositoryError, StoredSlice};
use tidemark_types::{Lsn, WalSegmentSize};

use super::super::lsn_map::{branch_of, lsn_of, position_of};
use super::super::start::Start;

/// A decoder that stands at the begin of `start` and has read the last record before it, and what is there of the one
/// that is open; `None` when no record is stored before, or when the stored log cannot be parsed. Reads the grain that
/// the last whole record ends in, and those before it only for a record that is longer.
///
/// # Errors
/// What the repository says.
pub async fn primed_decoder(
    archive: &Archive,
    run: &Run,
    start: &Start,
    size: WalSegmentSize,
) -> Result<Option<WalDecoder>, RepositoryError> {
    let first = run.begin.position;
    let mut back = 1;
    loop {
        let before = Lsn(start.whole.0.saturating_sub(back));
        let from = position_of(before, size).grain_start().max(first);
        if from >= start.resume.start {
            return Ok(None);
        }
        match read(archive, run, start, from, size).await? {
            Some(decoder) if decoder.whole().is_none() && from > first => back = back.max(GRAIN_LEN) * 2,
            read => return Ok(read),
        }
    }
}

/// Reads the log from `from` on, the start of a grain.
async fn read(
    archive: &Archive,
    run: &Run,
    start: &Start,
    from: LogPosition,
    size: WalSegmentSize,
) -> Result<Option<WalDecoder>, RepositoryError> {
    let branch = branch_of(start.timeline);
    let reader = LogReader::new(archive, branch, run, from, start.resume.start);
    let mut priming = Priming {
        verifier: reader.verifier(run),
        decoder: WalDecoder::new(lsn_of(from, size), size),
        size,
    };
    let mut slices = pin!(reader.fetch(1));
    while let Some(slice) = slices.next().await {
        let slice = slice?;
        let fed = tokio::task::spawn_blocking(move || priming.feed(&slice)).await;
        match fed.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))? {
            Some(fed) => priming = fed,
            None => return Ok(None),
        }
    }
    Ok(Some(priming.decoder).filter(|decoder| decoder.position() == start.lsn))
}

struct Priming {
    verifier: LogVerifier,
    decoder: WalDecoder,
    size: WalSegmentSize,
}

impl Priming {
    /// Reads what `slice` holds of the wanted stretch; `None` when it makes no sense.
    fn feed(mut self, slice: &StoredSlice) -> Result<Option<Priming>, RepositoryError> {
        let Some(chunk) = self.verifier.next(slice)? else {
            return Ok(Some(self));
        };
        let begin: Lsn = lsn_of(chunk.begin, self.size);
        let skip = usize::try_from(self.decoder.position().bytes_since(begin)).unwrap_or(usize::MAX);
        let mut input = chunk.bytes.get(skip..).unwrap_or_default();
        // What these records tell is known from the stored keys.
        loop {
            match self.decoder.next(&mut input) {
                Ok(Some(_)) => {}
                Ok(None) => return Ok(Some(self)),
                Err(error) => {
                    tracing::warn!(
                        %error,
                        "the end of the stored log cannot be parsed; a record that reaches over it is not indexed"
                    );
                    return Ok(None);
                }
            }
        }
    }
}
