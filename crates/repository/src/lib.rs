//! The repository: what is stored under which key, in which bytes, and what can be restored from it.
//!
//! Knows no engine: a log is files of bytes on branches, a base backup is named files made of frames. Async where it
//! reads or writes the store, but it never spawns a task: the binaries own concurrency.

mod archive;
pub mod base;
pub mod envelope;
mod error;
pub mod layout;
pub mod lease;
pub mod log;
mod repository;
mod server;

pub use archive::{Archive, GapRecord, SealedSlice, StoredSlice};
pub use error::RepositoryError;
pub use layout::{Branch, Layout};
pub use log::{LogPosition, SliceKey};
pub use repository::{NewServer, Repository};
pub use server::{Descriptor, ServerRecord};
