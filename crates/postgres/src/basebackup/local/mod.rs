//! Reading a cluster's files where they lie, on the host of the server.

mod read;
mod scan;

pub use read::{BadPage, PagesRead, SourceReader};
pub use scan::{Scan, Skipped, SourceDirectory, SourceFile, scan};
