//! The suite over every backend and every decorator.

use std::sync::Arc;

use tidemark_storage::conformance::{self, Expected};
use tidemark_storage::{
    FaultyStorage, FileStorage, MemoryStorage, Storage, StorageOptions, StorageUrl, open,
};
use tidemark_testkit::{Garage, Moto};

use crate::servers;

#[tokio::test(flavor = "multi_thread")]
async fn memory() {
    let fresh = || async { Arc::new(MemoryStorage::new()) as Arc<dyn Storage> };
    conformance::run(fresh, Expected::atomic()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_behind_a_faulty_store_without_faults() {
    let fresh = || async { Arc::new(FaultyStorage::new(Arc::new(MemoryStorage::new()))) as Arc<dyn Storage> };
    conformance::run(fresh, Expected::atomic()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn file() {
    let dir = tempfile::tempdir().unwrap();
    let fresh = || async {
        let path = dir.path().join(format!("{:016x}", rand::random::<u64>()));
        Arc::new(FileStorage::open(&path).await.unwrap()) as Arc<dyn Storage>
    };
    conformance::run(fresh, Expected::atomic()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn file_as_opened_with_retry_and_metering() {
    let dir = tempfile::tempdir().unwrap();
    let fresh = || async {
        let url = format!("file://{}/{:016x}", dir.path().display(), rand::random::<u64>());
        let url: StorageUrl = url.parse().unwrap();
        open(&url, &StorageOptions::default()).await.unwrap()
    };
    conformance::run(fresh, Expected::atomic()).await;
}

/// Garage checks signatures, knows multipart uploads, and ignores conditions: the fallback looks before it writes.
#[tokio::test(flavor = "multi_thread")]
async fn garage() {
    let garage = Garage::start_new();
    let endpoint = garage.endpoint();
    conformance::run(|| servers::fresh(&endpoint), Expected::looks_first()).await;
}

/// moto honours conditions.
#[tokio::test(flavor = "multi_thread")]
async fn moto() {
    let moto = Moto::start_new();
    let endpoint = moto.endpoint();
    let expected = Expected {
        // Each request takes it milliseconds.
        listed_objects: 1_100,
        ..Expected::atomic()
    };
    conformance::run(|| servers::fresh(&endpoint), expected).await;
}
