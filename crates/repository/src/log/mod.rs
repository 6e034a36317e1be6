//! The log half of the repository: the hash chain, slices and what they add up to.

mod assembler;
mod chain;
mod coverage;
mod listing;
mod reader;
mod slice;

pub use assembler::{Diverged, Resume, SliceAssembler, SliceDraft, SliceFacts};
pub use chain::{ChainHash, ChainKey, RunningHash};
pub use coverage::{ChainPoint, Run, coverage, run_to_continue};
pub use listing::SliceList;
pub use reader::{LogChunk, LogReader, LogVerifier};
pub use slice::{ParseSliceKeyError, SliceFlags, SliceKey, TimeRange};
pub use tidemark_types::{GRAIN_LEN, LogPosition};
