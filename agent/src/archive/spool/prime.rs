//! Makes a decoder that has read the end of what is stored, so that a record which reaches over it is seen whole: the
//! segments that hold its beginning are no longer in the spool.

use std::pin::pin;

use futures::StreamExt;
use tidemark_postgres::wal::WalDecoder;
use tidemark_repository::log::{LogReader, LogVerifier, Run};
use tidemark_repository::{Archive, RepositoryError, StoredSlice};
use tidemark_types::{Lsn, WalSegmentSize};

use super::super::lsn_map::{branch_of, lsn_of, position_of};
use super::super::start::Start;

/// Decoding begins at a page.
const PAGE_LEN: u64 = 8192;

/// A decoder that stands at the begin of `start` and knows the record that is open there; `None` when no record is, or
/// when the stored log cannot be parsed. At most one record is read, and the grain that it begins in.
///
/// # Errors
/// What the repository says.
pub async fn primed_decoder(
    archive: &Archive,
    run: &Run,
    start: &Start,
    size: WalSegmentSize,
) -> Result<Option<WalDecoder>, RepositoryError> {
    let from = start
        .whole
        .align_down(PAGE_LEN)
        .max(lsn_of(run.begin.position, size));
    if from >= start.lsn {
        return Ok(None);
    }
    let reader = LogReader::new(
        archive,
        branch_of(start.timeline),
        run,
        position_of(from, size),
        position_of(start.lsn, size),
    );
    let mut priming = Priming {
        verifier: reader.verifier(run),
        decoder: WalDecoder::new(from, size),
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
                    tracing::warn!(%error, "the end of the stored log cannot be parsed; a record that reaches over it is not indexed");
                    return Ok(None);
                }
            }
        }
    }
}
