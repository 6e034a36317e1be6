//! Files of a dump on their way to whoever takes it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::super::{BaseBackupError, FileEvent};

/// Bytes that are handed on together.
const CHUNK_LEN: usize = 256 << 10;

/// Makes files.
#[derive(Debug, Clone)]
pub struct Output {
    events: mpsc::Sender<FileEvent>,
    next: Arc<AtomicU64>,
    /// How long an event may wait to be taken; `None`: for ever.
    patience: Option<Duration>,
}

impl Output {
    pub fn new(events: mpsc::Sender<FileEvent>) -> Output {
        Output {
            events,
            next: Arc::default(),
            patience: None,
        }
    }

    /// The same, for files that come while others wait: it gives up when nothing was taken for `patience`.
    pub fn impatient(&self, patience: Duration) -> Output {
        Output {
            patience: Some(patience),
            ..self.clone()
        }
    }

    /// A new file.
    pub async fn file(&self, path: &str) -> Result<OutputFile, BaseBackupError> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let file = OutputFile {
            events: self.events.clone(),
            number,
            sent: 0,
            waiting: BytesMut::new(),
            patience: self.patience,
        };
        let path = format!("dump/{path}").into();
        file.send(FileEvent::Begin {
            file: number,
            path,
            replaces: false,
        })
        .await?;
        Ok(file)
    }
}

/// A file that is being written.
#[derive(Debug)]
pub struct OutputFile {
    events: mpsc::Sender<FileEvent>,
    number: u64,
    sent: u64,
    waiting: BytesMut,
    patience: Option<Duration>,
}

impl OutputFile {
    /// How long it is.
    pub fn len(&self) -> u64 {
        self.sent + self.waiting.len() as u64
    }

    /// Appends bytes.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), BaseBackupError> {
        self.waiting.put_slice(bytes);
        if self.waiting.len() >= CHUNK_LEN {
            self.flush().await?;
        }
        Ok(())
    }

    /// The file is complete.
    pub async fn end(mut self) -> Result<(), BaseBackupError> {
        self.flush().await?;
        self.send(FileEvent::End { file: self.number }).await
    }

    async fn flush(&mut self) -> Result<(), BaseBackupError> {
        let bytes = self.waiting.split().freeze();
        if bytes.is_empty() {
            return Ok(());
        }
        let (file, offset) = (self.number, self.sent);
        self.sent += bytes.len() as u64;
        self.send(FileEvent::Data { file, offset, bytes }).await
    }

    /// Nobody takes what comes: the backup was given up, and says itself why.
    async fn send(&self, event: FileEvent) -> Result<(), BaseBackupError> {
        let sending = self.events.send(event);
        let sent = match self.patience {
            None => sending.await,
            Some(patience) => timeout(patience, sending)
                .await
                .map_err(|_| BaseBackupError::LockTooLong {
                    seconds: patience.as_secs(),
                })?,
        };
        sent.map_err(|_| BaseBackupError::Cancelled)
    }
}
