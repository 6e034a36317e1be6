//! What unit tests of several modules begin with.

use std::sync::Arc;

use tidemark_repository::{Archive, NewServer, Repository};
use tidemark_storage::Storage;
use tidemark_types::{Generation, Timestamp};

/// A new repository in `storage`, and in it the archive of the PostgreSQL server "shop" with segments of `segment_len`
/// bytes.
pub async fn shop(storage: impl Storage + 'static, segment_len: u64) -> (Repository, Archive) {
    let repository = Repository::open_or_create(Arc::new(storage), Timestamp(0))
        .await
        .unwrap();
    let new = NewServer {
        engine: "postgresql".to_owned(),
        system_id: "1".to_owned(),
        version: String::new(),
        log_file_len: Some(segment_len),
    };
    let server = "shop".parse().unwrap();
    let archive = repository.create_archive(&server, Generation(1), new, Timestamp(0));
    let archive = archive.await.unwrap();
    (repository, archive)
}
