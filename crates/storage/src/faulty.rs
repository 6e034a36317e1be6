//! A decorator that makes a store misbehave as scripted: the faults that real stores and networks show, on demand.
//!
//! Faults are consumed in the order in which operations reach the decorator, so a test with one task is deterministic.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tidemark_types::ErrorClass;

use crate::{
    Capabilities, ETag, ListPage, ObjectData, ObjectKey, ObjectMeta, Operation, PutMode, Storage,
    StorageError, Upload,
};

/// What goes wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// An error of this class; nothing was done.
    FailBefore(ErrorClass),
    /// A transient error after the work was done: a lost reply.
    FailAfter,
    /// No answer, ever; nothing was done.
    Hang,
    /// No answer, ever, after the work was done.
    HangAfter,
    /// The work is done after a delay.
    Slow(Duration),
    /// A read returns at most so many bytes, without an error.
    Truncate(usize),
    /// A read returns bytes of which the one at this index (modulo the length) has one bit flipped.
    FlipBit(usize),
    /// A listing lacks every object written through the decorator since the fault was injected.
    StaleList,
}

/// Which operations a fault hits: by default the very next one of its kind, once.
#[derive(Debug, Clone)]
pub struct Trigger {
    operation: Operation,
    part_of_key: String,
    skip: u64,
    times: u64,
}

impl Trigger {
    /// The next operation of this kind. An upload counts as one put, when it completes.
    pub fn next(operation: Operation) -> Trigger {
        Trigger {
            operation,
            part_of_key: String::new(),
            skip: 0,
            times: 1,
        }
    }

    /// Every operation of this kind until [`FaultyStorage::clear`].
    pub fn every(operation: Operation) -> Trigger {
        Trigger::next(operation).times(u64::MAX)
    }

    /// Only those whose key (of a listing: whose prefix) contains this text.
    #[must_use]
    pub fn on_keys_with(mut self, part: impl Into<String>) -> Trigger {
        self.part_of_key = part.into();
        self
    }

    /// Lets so many that match pass first.
    #[must_use]
    pub fn after(mut self, skip: u64) -> Trigger {
        self.skip = skip;
        self
    }

    /// Hits so many in a row.
    #[must_use]
    pub fn times(mut self, times: u64) -> Trigger {
        self.times = times;
        self
    }
}

#[derive(Debug)]
struct Rule {
    trigger: Trigger,
    fault: Fault,
    /// How many keys had been written when it was injected.
    writes_before: usize,
}

#[derive(Debug, Default)]
struct Script {
    rules: Vec<Rule>,
    calls: BTreeMap<&'static str, u64>,
    written: Vec<ObjectKey>,
}

/// A store that does what its script says. Clones share the script.
#[derive(Debug, Clone)]
pub struct FaultyStorage {
    inner: Arc<dyn Storage>,
    script: Arc<Mutex<Script>>,
}

impl FaultyStorage {
    /// Wraps `inner`; nothing goes wrong yet.
    pub fn new(inner: Arc<dyn Storage>) -> FaultyStorage {
        FaultyStorage {
            inner,
            script: Arc::default(),
        }
    }

    /// Adds a fault. Of several that match, the one added first goes first.
    pub fn inject(&self, trigger: Trigger, fault: Fault) {
        let mut script = self.script();
        let writes_before = script.written.len();
        script.rules.push(Rule {
            trigger,
            fault,
            writes_before,
        });
    }

    /// Drops all faults.
    pub fn clear(&self) {
        self.script().rules.clear();
    }

    /// How many operations of this kind were asked for, the failed ones included.
    pub fn calls(&self, operation: Operation) -> u64 {
        self.script().calls.get(operation.label()).copied().unwrap_or(0)
    }

    /// How many injected faults still wait for their operation.
    pub fn pending(&self) -> usize {
        self.script().rules.len()
    }

    fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts the call and takes the fault that it meets, with the keys that a stale listing hides.
    fn meet(&self, operation: Operation, key: &str) -> Met {
        let mut script = self.script();
        *script.calls.entry(operation.label()).or_default() += 1;
        let Script { rules, written, .. } = &mut *script;
        let mut met = Met::default();
        for rule in rules.iter_mut() {
            let trigger = &mut rule.trigger;
            if trigger.operation != operation || !key.contains(&trigger.part_of_key) {
                continue;
            }
            if trigger.skip > 0 {
                trigger.skip -= 1;
                continue;
            }
            trigger.times -= 1;
            met.fault = Some(rule.fault.clone());
            met.hidden = written.iter().skip(rule.writes_before).cloned().collect();
            break;
        }
        rules.retain(|rule| rule.trigger.times > 0);
        met
    }

    fn wrote(&self, key: &ObjectKey) {
        self.script().written.push(key.clone());
    }

    fn error(&self, operation: Operation, key: &str, class: ErrorClass) -> StorageError {
        StorageError::Failed {
            operation,
            subject: key.to_owned(),
            url: self.inner.url().to_owned(),
            class,
            source: "injected fault".into(),
        }
    }

    /// Runs `work` under the fault that this operation meets.
    async fn under<T: Send>(
        &self,
        operation: Operation,
        key: &str,
        work: impl Future<Output = Result<T, StorageError>> + Send,
    ) -> Result<(T, Met), StorageError> {
        let met = self.meet(operation, key);
        match met.fault {
            Some(Fault::FailBefore(class)) => return Err(self.error(operation, key, class)),
            Some(Fault::Hang) => std::future::pending().await,
            Some(Fault::Slow(delay)) => tokio::time::sleep(delay).await,
            _ => {}
        }
        let done = work.await;
        match met.fault {
            Some(Fault::FailAfter) => Err(self.error(operation, key, ErrorClass::Transient)),
            Some(Fault::HangAfter) => std::future::pending().await,
            _ => done.map(|done| (done, met)),
        }
    }
}

#[derive(Debug, Default)]
struct Met {
    fault: Option<Fault>,
    hidden: Vec<ObjectKey>,
}

#[async_trait]
impl Storage for FaultyStorage {
    fn url(&self) -> &str {
        self.inner.url()
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn probe(&self, prefix: &ObjectKey) -> Result<Capabilities, StorageError> {
        let work = self.inner.probe(prefix);
        self.under(Operation::Open, prefix.as_str(), work)
            .await
            .map(|(seen, _)| seen)
    }

    async fn put(&self, key: &ObjectKey, body: Bytes, mode: PutMode) -> Result<Option<ETag>, StorageError> {
        let work = async {
            let etag = self.inner.put(key, body, mode).await?;
            self.wrote(key);
            Ok(etag)
        };
        self.under(Operation::Put, key.as_str(), work)
            .await
            .map(|(etag, _)| etag)
    }

    async fn upload(&self, key: &ObjectKey) -> Result<Box<dyn Upload>, StorageError> {
        Ok(Box::new(FaultyUpload {
            inner: self.inner.upload(key).await?,
            storage: self.clone(),
            key: key.clone(),
        }))
    }

    async fn get(&self, key: &ObjectKey, range: Option<Range<u64>>) -> Result<ObjectData, StorageError> {
        let work = self.inner.get(key, range);
        let (mut data, met) = self.under(Operation::Get, key.as_str(), work).await?;
        match met.fault {
            Some(Fault::Truncate(length)) => data.bytes.truncate(length),
            Some(Fault::FlipBit(at)) if !data.bytes.is_empty() => {
                let mut bytes = data.bytes.to_vec();
                let at = at % bytes.len();
                bytes[at] ^= 1;
                data.bytes = Bytes::from(bytes);
            }
            _ => {}
        }
        Ok(data)
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectMeta, StorageError> {
        let work = self.inner.head(key);
        self.under(Operation::Head, key.as_str(), work)
            .await
            .map(|(meta, _)| meta)
    }

    async fn list(&self, prefix: &str, start_after: Option<&str>) -> Result<ListPage, StorageError> {
        let work = self.inner.list(prefix, start_after);
        let (mut page, met) = self.under(Operation::List, prefix, work).await?;
        if met.fault == Some(Fault::StaleList) {
            loop {
                let last = page.objects.last().map(|object| object.key.to_string());
                page.objects.retain(|object| !met.hidden.contains(&object.key));
                if !page.objects.is_empty() || !page.more {
                    break;
                }
                // A page may be empty only at the end: nobody could ask for the one after it.
                page = self.inner.list(prefix, last.as_deref()).await?;
            }
        }
        Ok(page)
    }

    async fn folders(&self, prefix: &str) -> Result<Vec<String>, StorageError> {
        let work = self.inner.folders(prefix);
        self.under(Operation::List, prefix, work)
            .await
            .map(|(folders, _)| folders)
    }

    async fn delete(&self, keys: &[ObjectKey]) -> Result<(), StorageError> {
        let first = keys.first().map(ObjectKey::as_str).unwrap_or_default();
        let work = self.inner.delete(keys);
        self.under(Operation::Delete, first, work).await.map(|_| ())
    }
}

struct FaultyUpload {
    inner: Box<dyn Upload>,
    storage: FaultyStorage,
    key: ObjectKey,
}

#[async_trait]
impl Upload for FaultyUpload {
    async fn write(&mut self, bytes: Bytes) -> Result<(), StorageError> {
        self.inner.write(bytes).await
    }

    async fn complete(self: Box<Self>) -> Result<(), StorageError> {
        let FaultyUpload { inner, storage, key } = *self;
        let work = async {
            inner.complete().await?;
            storage.wrote(&key);
            Ok(())
        };
        storage
            .under(Operation::Put, key.as_str(), work)
            .await
            .map(|_| ())
    }

    async fn abort(self: Box<Self>) -> Result<(), StorageError> {
        self.inner.abort().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{MemoryStorage, list_all};

    fn key(name: &str) -> ObjectKey {
        ObjectKey::new(name).unwrap()
    }

    async fn store_with(names: &[&str]) -> FaultyStorage {
        let storage = FaultyStorage::new(Arc::new(MemoryStorage::new().with_page_size(2)));
        for name in names {
            put(&storage, name).await;
        }
        storage
    }

    async fn put(storage: &FaultyStorage, name: &str) {
        let body = Bytes::copy_from_slice(name.as_bytes());
        storage.put(&key(name), body, PutMode::Create).await.unwrap();
    }

    #[tokio::test]
    async fn a_stale_listing_lacks_what_came_after_the_fault_and_still_pages() {
        let storage = store_with(&["a", "z"]).await;
        storage.inject(Trigger::every(Operation::List), Fault::StaleList);
        for name in ["b", "c", "d", "e", "f"] {
            put(&storage, name).await;
        }
        let names = |objects: Vec<ObjectMeta>| objects.iter().map(|o| o.key.to_string()).collect::<Vec<_>>();
        assert_eq!(
            names(list_all(&storage, "", None, None).await.unwrap()),
            ["a", "z"]
        );
        storage.clear();
        assert_eq!(list_all(&storage, "", None, None).await.unwrap().len(), 7);
    }

    #[tokio::test]
    async fn reads_are_cut_short_and_rot_as_scripted() {
        let storage = store_with(&["abcd"]).await;
        storage.inject(Trigger::next(Operation::Get), Fault::Truncate(2));
        storage.inject(Trigger::next(Operation::Get), Fault::FlipBit(5));
        let read = async || storage.get(&key("abcd"), None).await.unwrap().bytes;
        assert_eq!([read().await, read().await, read().await], ["ab", "accd", "abcd"]);
        assert_eq!((storage.calls(Operation::Get), storage.pending()), (3, 0));
    }

    #[tokio::test]
    async fn a_fault_hits_the_operations_it_names_and_no_others() {
        let storage = store_with(&["log/1", "base/1"]).await;
        let second_of_logs = Trigger::next(Operation::Get).on_keys_with("log/").after(1);
        storage.inject(second_of_logs, Fault::FailBefore(ErrorClass::Permanent));
        let mut ok = Vec::new();
        for name in ["log/1", "base/1", "base/1", "log/1", "log/1"] {
            ok.push(storage.get(&key(name), None).await.is_ok());
        }
        assert_eq!(ok, [true, true, true, false, true]);
    }

    #[tokio::test]
    async fn an_upload_fails_when_it_completes_before_or_after_the_work() {
        let storage = store_with(&[]).await;
        storage.inject(
            Trigger::next(Operation::Put),
            Fault::FailBefore(ErrorClass::Transient),
        );
        storage.inject(Trigger::next(Operation::Put), Fault::FailAfter);
        for (name, is_there) in [("before", false), ("after", true)] {
            let upload = storage.upload(&key(name)).await.unwrap();
            assert!(upload.complete().await.is_err());
            assert_eq!(storage.head(&key(name)).await.is_ok(), is_there, "{name}");
        }
    }
}
