//! Says, beside all that a base backup does, that it is alive: copying, waiting for the log, writing the manifest.

use std::time::Duration;

use anyhow::Context;
use tidemark_repository::base::{Announced, INTENT_LIFE};
use tidemark_types::{Clock, ErrorClass};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::exit::{Failure, one_line};

/// How often.
const REFRESH_EVERY: Duration = Duration::from_secs(60);
/// A backup that could not say so for this long is called off, before others take it for dead: they would begin one
/// beside it, and delete what it refers to.
const SILENCE_MAX: Duration = Duration::from_secs(INTENT_LIFE.as_secs() / 2);

/// Does `work`, which is handed what calls it off, and says meanwhile that it goes on. Ends when `work` does, which must
/// end soon after it was called off.
///
/// # Errors
/// Those of `work`; what the repository says, when it could not be told for too long.
pub async fn while_announced<T, W: Future<Output = anyhow::Result<T>>>(
    announced: Announced,
    clock: &dyn Clock,
    cancel: &CancellationToken,
    work: impl FnOnce(CancellationToken) -> W,
) -> anyhow::Result<T> {
    let (called_off, ended) = (cancel.child_token(), CancellationToken::new());
    let work = work(called_off.clone());
    let work = async {
        let _ended = ended.clone().drop_guard();
        work.await
    };
    let announcing = async {
        let silent = announce(announced, clock, &ended).await;
        if silent.is_err() {
            called_off.cancel();
        }
        silent
    };
    match tokio::join!(work, announcing) {
        (Err(_), Err(silent)) => Err(silent),
        (done, _) => done,
    }
}

/// Refreshes the intent until the backup has ended.
async fn announce(
    mut announced: Announced,
    clock: &dyn Clock,
    ended: &CancellationToken,
) -> anyhow::Result<()> {
    let mut heard = Instant::now();
    loop {
        tokio::select! {
            biased;
            () = ended.cancelled() => return Ok(()),
            () = sleep(REFRESH_EVERY) => {}
        }
        let refreshed = timeout(REFRESH_EVERY, announced.refresh(clock.now())).await;
        if ended.is_cancelled() {
            // The backup took its intent back while this one was on its way.
            return Ok(announced.withdraw().await?);
        }
        let late = || Failure::new(ErrorClass::Transient, "the repository does not answer");
        match refreshed.map_err(|_| late().into()).and_then(|done| Ok(done?)) {
            Ok(()) => heard = Instant::now(),
            Err(error) if heard.elapsed() < SILENCE_MAX => {
                let error: anyhow::Error = error;
                tracing::warn!(
                    error = one_line(&error),
                    "the base backup could not say that it is alive"
                );
            }
            Err(error) => return Err(error).context("say that the base backup is alive"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use tidemark_repository::Archive;
    use tidemark_repository::base::{BackupId, BackupWriter, Intent, live_intents};
    use tidemark_storage::{Fault, FaultyStorage, MemoryStorage, Operation, Trigger};
    use tidemark_types::Timestamp;

    /// A clock that goes with the runtime's.
    struct PausedClock(Instant);

    impl Clock for PausedClock {
        fn now(&self) -> Timestamp {
            Timestamp(0).plus(self.0.elapsed())
        }
    }

    async fn archive() -> (FaultyStorage, Archive) {
        let storage = FaultyStorage::new(Arc::new(MemoryStorage::new()));
        let (_, archive) = crate::testing::shop(storage.clone(), 1 << 24).await;
        (storage, archive)
    }

    async fn begin(archive: &Archive) -> BackupWriter {
        let intent = Intent {
            backup: BackupId::new(Timestamp(0), 1),
            parent: None,
            host: "db1".to_owned(),
            boot: "b".to_owned(),
            process: 1,
            started: Timestamp(0),
            refreshed: Timestamp(0),
        };
        BackupWriter::begin(archive.base(), intent, None, |_| false)
            .await
            .unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_backup_is_known_to_be_alive_as_long_as_it_takes() {
        let (_, archive) = archive().await;
        let writer = begin(&archive).await;
        let (clock, announced) = (PausedClock(Instant::now()), writer.announced());
        let work = async |_| {
            for _ in 0..60 {
                sleep(Duration::from_secs(59)).await;
                assert_eq!(live_intents(&archive.base(), clock.now()).await.unwrap().len(), 1);
            }
            writer.abandon().await?;
            Ok(clock.now())
        };
        let ended = while_announced(announced, &clock, &CancellationToken::new(), work).await;
        assert_eq!(ended.unwrap(), Timestamp(0).plus(Duration::from_secs(60 * 59)));
        sleep(REFRESH_EVERY).await;
        assert_eq!(live_intents(&archive.base(), Timestamp(0)).await.unwrap(), []);
    }

    #[tokio::test(start_paused = true)]
    async fn an_intent_that_was_on_its_way_when_the_backup_ended_does_not_stay() {
        let (storage, archive) = archive().await;
        let writer = begin(&archive).await;
        let slow = Fault::Slow(Duration::from_secs(20));
        storage.inject(Trigger::next(Operation::Put), slow);
        let clock = PausedClock(Instant::now());
        let announced = writer.announced();
        let work = async |_| {
            sleep(REFRESH_EVERY + Duration::from_secs(10)).await;
            Ok(writer.abandon().await?)
        };
        while_announced(announced, &clock, &CancellationToken::new(), work)
            .await
            .unwrap();
        assert_eq!(live_intents(&archive.base(), clock.now()).await.unwrap(), []);
    }

    #[tokio::test(start_paused = true)]
    async fn a_backup_that_cannot_say_that_it_is_alive_is_called_off_before_it_is_taken_for_dead() {
        for fault in [Fault::FailBefore(ErrorClass::Transient), Fault::Hang] {
            let (storage, archive) = archive().await;
            let writer = begin(&archive).await;
            storage.inject(Trigger::every(Operation::Put), fault);
            let clock = PausedClock(Instant::now());
            let work = async |called_off: CancellationToken| {
                called_off.cancelled().await;
                Err::<(), _>(crate::base::lanes::cancelled())
            };
            let ended = while_announced(writer.announced(), &clock, &CancellationToken::new(), work).await;
            let error = one_line(&ended.unwrap_err());
            assert!(
                error.starts_with("say that the base backup is alive: "),
                "{error}"
            );
            assert_eq!(live_intents(&archive.base(), clock.now()).await.unwrap().len(), 1);
        }
    }
}
