//! Trying again, by class of error: exponential backoff with full jitter, bounded in attempts and in time.
//!
//! A create whose reply was lost meets its own object when tried again. That [`StorageError::AlreadyExists`] is passed
//! on: only the caller can tell its own content from somebody else's.

use std::error::Error;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tidemark_types::ErrorClass;
use tokio::time::Instant;

use crate::{
    Capabilities, ETag, ListPage, ObjectData, ObjectKey, ObjectMeta, Operation, PutMode, Storage,
    StorageError, StorageMetrics, Upload,
};

/// How often and how long to try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Attempts altogether, the first included.
    pub attempts_max: u32,
    /// Upper bound of the random wait before the second attempt; it doubles with each further one.
    pub delay_first: Duration,
    /// Where the doubling ends.
    pub delay_max: Duration,
    /// No attempt begins later than this after the first one began.
    pub elapsed_max: Duration,
    /// An attempt without an answer after this long counts as failed. Guards against a backend that hangs without
    /// limits of its own, such as a dead network mount.
    pub attempt_max: Duration,
}

impl Default for RetryPolicy {
    /// Rides out a restart of a store (a minute or two). Longer outages are the caller's: the agent's pipeline stops
    /// reading and asks again, a restore says that the store is gone.
    fn default() -> RetryPolicy {
        RetryPolicy {
            attempts_max: 10,
            delay_first: Duration::from_millis(200),
            delay_max: Duration::from_secs(20),
            elapsed_max: Duration::from_secs(120),
            attempt_max: Duration::from_secs(300),
        }
    }
}

impl RetryPolicy {
    /// One attempt.
    pub fn once() -> RetryPolicy {
        RetryPolicy {
            attempts_max: 1,
            ..RetryPolicy::default()
        }
    }

    /// The longest wait after `failed` attempts.
    fn delay_bound(&self, failed: u32) -> Duration {
        let doubled = 2_u32.saturating_pow(failed.saturating_sub(1));
        self.delay_first.saturating_mul(doubled).min(self.delay_max)
    }
}

/// What is tried, for messages.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Task<'a> {
    pub(crate) operation: Operation,
    pub(crate) subject: &'a str,
    pub(crate) url: &'a str,
}

/// Carries a policy out.
#[derive(Debug, Clone)]
pub(crate) struct Retrier {
    policy: RetryPolicy,
    metrics: Arc<StorageMetrics>,
}

impl Retrier {
    pub(crate) fn new(policy: RetryPolicy, metrics: Arc<StorageMetrics>) -> Retrier {
        Retrier { policy, metrics }
    }

    /// Runs `attempt` until it succeeds, fails for good, or the policy is used up; then returns the last error.
    pub(crate) async fn run<T, F>(
        &self,
        task: Task<'_>,
        mut attempt: impl FnMut() -> F,
    ) -> Result<T, StorageError>
    where
        F: Future<Output = Result<T, StorageError>>,
    {
        let begin = Instant::now();
        let mut failed = 0;
        loop {
            let error = match tokio::time::timeout(self.policy.attempt_max, attempt()).await {
                Ok(Ok(done)) => return Ok(done),
                Ok(Err(error)) => error,
                Err(_) => no_answer(task, self.policy.attempt_max),
            };
            failed += 1;
            let delay = random_up_to(self.policy.delay_bound(failed));
            let late = begin.elapsed() + delay > self.policy.elapsed_max;
            if !error.class().is_transient() || failed >= self.policy.attempts_max || late {
                return Err(error);
            }
            tracing::warn!(
                store = task.url,
                object = task.subject,
                operation = task.operation.label(),
                attempt = failed,
                delay_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX),
                error = with_causes(&error),
                "trying again"
            );
            self.metrics.retried(task.operation);
            tokio::time::sleep(delay).await;
        }
    }
}

fn no_answer(task: Task<'_>, limit: Duration) -> StorageError {
    StorageError::Failed {
        operation: task.operation,
        subject: task.subject.to_owned(),
        url: task.url.to_owned(),
        class: ErrorClass::Transient,
        source: format!("no answer within {} s", limit.as_secs_f32()).into(),
    }
}

/// Full jitter: agents that failed at the same instant do not come back at the same instant.
fn random_up_to(bound: Duration) -> Duration {
    bound.mul_f64(rand::random::<f64>())
}

fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// Tries again what failed in a way that may pass.
///
/// The parts of an upload are the backend's to try again: once handed over, their bytes are no longer here.
#[derive(Debug)]
pub struct Retrying<S> {
    inner: S,
    retrier: Retrier,
}

impl<S: Storage> Retrying<S> {
    /// Wraps a store; retries are counted in `metrics`.
    pub fn new(inner: S, policy: RetryPolicy, metrics: Arc<StorageMetrics>) -> Retrying<S> {
        Retrying {
            inner,
            retrier: Retrier::new(policy, metrics),
        }
    }

    fn task<'a>(&'a self, operation: Operation, subject: &'a str) -> Task<'a> {
        Task {
            operation,
            subject,
            url: self.inner.url(),
        }
    }
}

#[async_trait]
impl<S: Storage> Storage for Retrying<S> {
    fn url(&self) -> &str {
        self.inner.url()
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn probe(&self, prefix: &ObjectKey) -> Result<Capabilities, StorageError> {
        let task = self.task(Operation::Open, prefix.as_str());
        self.retrier.run(task, || self.inner.probe(prefix)).await
    }

    async fn put(&self, key: &ObjectKey, body: Bytes, mode: PutMode) -> Result<Option<ETag>, StorageError> {
        let task = self.task(Operation::Put, key.as_str());
        self.retrier
            .run(task, || self.inner.put(key, body.clone(), mode.clone()))
            .await
    }

    async fn upload(&self, key: &ObjectKey) -> Result<Box<dyn Upload>, StorageError> {
        let task = self.task(Operation::Put, key.as_str());
        self.retrier.run(task, || self.inner.upload(key)).await
    }

    async fn get(&self, key: &ObjectKey, range: Option<Range<u64>>) -> Result<ObjectData, StorageError> {
        let task = self.task(Operation::Get, key.as_str());
        self.retrier
            .run(task, || self.inner.get(key, range.clone()))
            .await
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectMeta, StorageError> {
        let task = self.task(Operation::Head, key.as_str());
        self.retrier.run(task, || self.inner.head(key)).await
    }

    async fn list(&self, prefix: &str, start_after: Option<&str>) -> Result<ListPage, StorageError> {
        let task = self.task(Operation::List, prefix);
        self.retrier
            .run(task, || self.inner.list(prefix, start_after))
            .await
    }

    /// Tried once: what was shown cannot be taken back, and a directory of this machine seldom fails for a moment.
    fn visit_folder(
        &self,
        folder: &str,
        each: &mut dyn FnMut(&str, u64),
    ) -> Option<Result<(), StorageError>> {
        self.inner.visit_folder(folder, each)
    }

    async fn folders(&self, prefix: &str) -> Result<Vec<String>, StorageError> {
        let task = self.task(Operation::List, prefix);
        self.retrier.run(task, || self.inner.folders(prefix)).await
    }

    async fn delete(&self, keys: &[ObjectKey]) -> Result<(), StorageError> {
        let first = keys.first().map(ObjectKey::as_str).unwrap_or_default();
        let task = self.task(Operation::Delete, first);
        self.retrier.run(task, || self.inner.delete(keys)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Fault, FaultyStorage, MemoryStorage, Metered, Trigger};

    struct Bench {
        faulty: FaultyStorage,
        storage: Retrying<Metered<FaultyStorage>>,
        metrics: Arc<StorageMetrics>,
    }

    fn bench(policy: RetryPolicy) -> Bench {
        let metrics = Arc::<StorageMetrics>::default();
        let faulty = FaultyStorage::new(Arc::new(MemoryStorage::new()));
        let metered = Metered::new(faulty.clone(), Arc::clone(&metrics));
        Bench {
            faulty,
            storage: Retrying::new(metered, policy, Arc::clone(&metrics)),
            metrics,
        }
    }

    fn key(name: &str) -> ObjectKey {
        ObjectKey::new(name).unwrap()
    }

    fn fail_with(class: ErrorClass) -> Fault {
        Fault::FailBefore(class)
    }

    #[tokio::test(start_paused = true)]
    async fn transient_failures_pass_unseen_and_are_counted() {
        let bench = bench(RetryPolicy::default());
        bench.faulty.inject(
            Trigger::next(Operation::Put).times(3),
            fail_with(ErrorClass::Transient),
        );
        let body = Bytes::from_static(b"four");
        bench.storage.put(&key("a"), body, PutMode::Create).await.unwrap();
        bench.storage.get(&key("a"), Some(1..3)).await.unwrap();
        assert!(bench.storage.head(&key("b")).await.is_err());
        let seen = bench.metrics.snapshot();
        let of = |operation: Operation| {
            let found = seen.operations.iter().find(|seen| seen.operation == operation);
            found.unwrap().clone()
        };
        assert_eq!(of(Operation::Put).outcomes, [("ok", 1), ("transient", 3)]);
        assert_eq!(
            (of(Operation::Put).retries, of(Operation::Put).attempts()),
            (3, 4)
        );
        assert_eq!(of(Operation::Head).outcomes, [("not_found", 1)]);
        assert_eq!((seen.bytes_written, seen.bytes_read), (4, 2));
    }

    #[tokio::test(start_paused = true)]
    async fn what_will_not_pass_is_tried_once() {
        for class in [
            ErrorClass::Permanent,
            ErrorClass::Config,
            ErrorClass::Conflict,
            ErrorClass::Corrupt,
        ] {
            let bench = bench(RetryPolicy::default());
            bench
                .faulty
                .inject(Trigger::every(Operation::Get), fail_with(class));
            let error = bench.storage.get(&key("a"), None).await.unwrap_err();
            assert_eq!((error.class(), bench.faulty.calls(Operation::Get)), (class, 1));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_create_whose_reply_was_lost_is_told_that_the_object_exists() {
        let bench = bench(RetryPolicy::default());
        bench
            .faulty
            .inject(Trigger::next(Operation::Put), Fault::FailAfter);
        let put = bench.storage.put(&key("a"), Bytes::new(), PutMode::Create).await;
        assert!(matches!(put, Err(StorageError::AlreadyExists { .. })), "{put:?}");
        assert_eq!(bench.faulty.calls(Operation::Put), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn attempts_and_time_are_bounded() {
        let attempts = bench(RetryPolicy {
            attempts_max: 4,
            ..RetryPolicy::default()
        });
        attempts
            .faulty
            .inject(Trigger::every(Operation::List), fail_with(ErrorClass::Transient));
        assert!(attempts.storage.list("", None).await.is_err());
        assert_eq!(attempts.faulty.calls(Operation::List), 4);

        let time = bench(RetryPolicy {
            attempts_max: u32::MAX,
            elapsed_max: Duration::from_secs(60),
            ..RetryPolicy::default()
        });
        time.faulty
            .inject(Trigger::every(Operation::List), fail_with(ErrorClass::Transient));
        let begin = Instant::now();
        assert!(time.storage.list("", None).await.is_err());
        assert!(
            begin.elapsed() <= Duration::from_secs(60),
            "{:?}",
            begin.elapsed()
        );
        assert!(time.faulty.calls(Operation::List) > 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_hanging_attempt_ends_and_the_next_one_succeeds() {
        let bench = bench(RetryPolicy {
            attempt_max: Duration::from_secs(5),
            ..RetryPolicy::default()
        });
        bench
            .faulty
            .inject(Trigger::next(Operation::Put), Fault::HangAfter);
        let put = bench
            .storage
            .put(&key("a"), Bytes::new(), PutMode::Overwrite)
            .await;
        assert!(put.is_ok());
        bench.faulty.inject(Trigger::every(Operation::Get), Fault::Hang);
        let error = bench.storage.get(&key("a"), None).await.unwrap_err();
        assert_eq!(with_causes(&error), "get a in memory://: no answer within 5 s");
    }

    #[test]
    fn waits_double_up_to_their_bound() {
        let policy = RetryPolicy::default();
        let bounds: Vec<_> = (1..=9)
            .map(|failed| policy.delay_bound(failed).as_millis())
            .collect();
        assert_eq!(bounds, [200, 400, 800, 1600, 3200, 6400, 12_800, 20_000, 20_000]);
        assert_eq!(policy.delay_bound(u32::MAX), policy.delay_max);
    }
}
