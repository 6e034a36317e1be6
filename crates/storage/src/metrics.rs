//! Counting what is asked of a store: requests by operation and outcome, bytes, retries, latency.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use tidemark_types::ErrorClass;

use crate::{
    Capabilities, ETag, ListPage, ObjectData, ObjectKey, ObjectMeta, Operation, PutMode, Storage,
    StorageError, Upload,
};

/// How an operation ended, as a metric label. What a caller asks about routinely (is it there?) is no failure.
const OUTCOMES: [&str; 9] = [
    "ok",
    "not_found",
    "transient",
    "permanent",
    "corrupt",
    "conflict",
    "config",
    "cancelled",
    "other",
];

/// Counters of one store. All are monotonic and lock-free; reading them while they move is fine.
#[derive(Default)]
pub struct StorageMetrics {
    operations: [OperationCounters; Operation::ALL.len()],
    bytes_read: AtomicU64,
    bytes_written: AtomicU64,
}

#[derive(Default)]
struct OperationCounters {
    outcomes: [AtomicU64; OUTCOMES.len()],
    retries: AtomicU64,
    latency_total_micros: AtomicU64,
    latency_max_micros: AtomicU64,
}

/// The counters at one moment.
#[derive(Debug, Clone)]
pub struct MetricsSnapshot {
    /// One per kind of operation, in the order of [`Operation::ALL`].
    pub operations: Vec<OperationSnapshot>,
    /// Bytes of objects read.
    pub bytes_read: u64,
    /// Bytes of objects written, by completed puts and by parts of uploads.
    pub bytes_written: u64,
}

/// The counters of one kind of operation.
#[derive(Debug, Clone)]
pub struct OperationSnapshot {
    /// Which.
    pub operation: Operation,
    /// Attempts by outcome label; those that never happened are left out.
    pub outcomes: Vec<(&'static str, u64)>,
    /// Attempts that repeated a failed one.
    pub retries: u64,
    /// Sum over all attempts.
    pub latency_total: Duration,
    /// The longest attempt since the start.
    pub latency_max: Duration,
}

impl OperationSnapshot {
    /// Attempts altogether.
    pub fn attempts(&self) -> u64 {
        self.outcomes.iter().map(|(_, count)| count).sum()
    }

    /// Attempts that ended with this label.
    pub fn ended(&self, label: &str) -> u64 {
        self.outcomes
            .iter()
            .find(|(outcome, _)| *outcome == label)
            .map_or(0, |(_, count)| *count)
    }
}

impl StorageMetrics {
    /// Reads all counters.
    pub fn snapshot(&self) -> MetricsSnapshot {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let operations = Operation::ALL.into_iter().zip(&self.operations);
        MetricsSnapshot {
            operations: operations
                .map(|(operation, counters)| OperationSnapshot {
                    operation,
                    outcomes: OUTCOMES
                        .into_iter()
                        .zip(counters.outcomes.iter().map(read))
                        .filter(|(_, count)| *count > 0)
                        .collect(),
                    retries: read(&counters.retries),
                    latency_total: Duration::from_micros(read(&counters.latency_total_micros)),
                    latency_max: Duration::from_micros(read(&counters.latency_max_micros)),
                })
                .collect(),
            bytes_read: read(&self.bytes_read),
            bytes_written: read(&self.bytes_written),
        }
    }

    pub(crate) fn retried(&self, operation: Operation) {
        self.of(operation).retries.fetch_add(1, Ordering::Relaxed);
    }

    fn of(&self, operation: Operation) -> &OperationCounters {
        &self.operations[operation.index()]
    }

    fn attempted<T>(&self, operation: Operation, latency: Duration, result: &Result<T, StorageError>) {
        let counters = self.of(operation);
        let label = outcome(result.as_ref().err());
        if let Some(index) = OUTCOMES.iter().position(|outcome| *outcome == label) {
            counters.outcomes[index].fetch_add(1, Ordering::Relaxed);
        }
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        counters.latency_total_micros.fetch_add(micros, Ordering::Relaxed);
        counters.latency_max_micros.fetch_max(micros, Ordering::Relaxed);
    }

    async fn measure<T>(
        &self,
        operation: Operation,
        work: impl Future<Output = Result<T, StorageError>>,
    ) -> Result<T, StorageError> {
        let begin = Instant::now();
        let result = work.await;
        self.attempted(operation, begin.elapsed(), &result);
        result
    }

    fn wrote(&self, bytes: usize) {
        self.bytes_written.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

impl fmt::Debug for StorageMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.snapshot(), f)
    }
}

fn outcome(error: Option<&StorageError>) -> &'static str {
    match error {
        None => "ok",
        Some(error) if error.is_not_found() => "not_found",
        Some(error) => match error.class() {
            ErrorClass::Unreachable | ErrorClass::CheckFailed => "other",
            class => class.label(),
        },
    }
}

/// Counts every attempt that reaches `S`. Put it inside [`crate::Retrying`], so that it sees each attempt.
#[derive(Debug)]
pub struct Metered<S> {
    inner: S,
    metrics: Arc<StorageMetrics>,
}

impl<S> Metered<S> {
    /// Wraps a store.
    pub fn new(inner: S, metrics: Arc<StorageMetrics>) -> Metered<S> {
        Metered { inner, metrics }
    }
}

#[async_trait]
impl<S: Storage> Storage for Metered<S> {
    fn url(&self) -> &str {
        self.inner.url()
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn probe(&self, prefix: &ObjectKey) -> Result<Capabilities, StorageError> {
        self.metrics
            .measure(Operation::Open, self.inner.probe(prefix))
            .await
    }

    async fn put(&self, key: &ObjectKey, body: Bytes, mode: PutMode) -> Result<Option<ETag>, StorageError> {
        let length = body.len();
        let put = self.inner.put(key, body, mode);
        let etag = self.metrics.measure(Operation::Put, put).await?;
        self.metrics.wrote(length);
        Ok(etag)
    }

    async fn upload(&self, key: &ObjectKey) -> Result<Box<dyn Upload>, StorageError> {
        Ok(Box::new(MeteredUpload {
            inner: self.inner.upload(key).await?,
            metrics: Arc::clone(&self.metrics),
        }))
    }

    async fn get(&self, key: &ObjectKey, range: Option<Range<u64>>) -> Result<ObjectData, StorageError> {
        let get = self.inner.get(key, range);
        let data = self.metrics.measure(Operation::Get, get).await?;
        self.metrics
            .bytes_read
            .fetch_add(data.bytes.len() as u64, Ordering::Relaxed);
        Ok(data)
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectMeta, StorageError> {
        self.metrics.measure(Operation::Head, self.inner.head(key)).await
    }

    async fn list(&self, prefix: &str, start_after: Option<&str>) -> Result<ListPage, StorageError> {
        let list = self.inner.list(prefix, start_after);
        self.metrics.measure(Operation::List, list).await
    }

    fn visit_folder(
        &self,
        folder: &str,
        each: &mut dyn FnMut(&str, u64),
    ) -> Option<Result<(), StorageError>> {
        let begin = Instant::now();
        let visited = self.inner.visit_folder(folder, each)?;
        self.metrics.attempted(Operation::List, begin.elapsed(), &visited);
        Some(visited)
    }

    async fn folders(&self, prefix: &str) -> Result<Vec<String>, StorageError> {
        self.metrics
            .measure(Operation::List, self.inner.folders(prefix))
            .await
    }

    async fn delete(&self, keys: &[ObjectKey]) -> Result<(), StorageError> {
        self.metrics
            .measure(Operation::Delete, self.inner.delete(keys))
            .await
    }
}

/// Counts an upload as one put, when it completes.
struct MeteredUpload {
    inner: Box<dyn Upload>,
    metrics: Arc<StorageMetrics>,
}

#[async_trait]
impl Upload for MeteredUpload {
    async fn write(&mut self, bytes: Bytes) -> Result<(), StorageError> {
        let length = bytes.len();
        self.inner.write(bytes).await?;
        self.metrics.wrote(length);
        Ok(())
    }

    async fn complete(self: Box<Self>) -> Result<(), StorageError> {
        self.metrics.measure(Operation::Put, self.inner.complete()).await
    }

    async fn abort(self: Box<Self>) -> Result<(), StorageError> {
        self.inner.abort().await
    }
}
