//! The database: history that may be lost by seconds, and configuration that may not be lost at all.
//!
//! One thread owns the only connection that writes. It takes two kinds of work:
//!
//! - [`Record`]s (metrics, events, samples): [`Store::record`] puts them into a bounded queue and returns at once. They
//!   are written in batches with `synchronous = NORMAL`; a power cut loses the last seconds. When the disk is slow or
//!   full they wait, and when the queue is full they are dropped and counted.
//! - Changes of configuration and sequence numbers: the caller waits until they are on the disk
//!   (`synchronous = FULL`), at most [`DURABLE_TIMEOUT`]. They go before records.
//!
//! Readers have read-only connections of their own, which WAL keeps from waiting for the writer.
//!
//! Everything that may touch the disk blocks its caller: from asynchronous code use `tokio::task::spawn_blocking`,
//! except for [`Store::record`], [`Store::health`] and [`Store::watch_health`], which never block.

mod api;
mod durable;
mod history;
mod lock;
mod open;
mod query;
mod record;
mod report;
mod retention;
mod sequences;
#[cfg(test)]
mod tests;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

pub use api::{AuditEntry, AuditOutcome, AuditQuery, TokenRecord};
pub use history::PathSeries;
pub use lock::{LockError, StateLock};
pub use query::{EventQuery, MetricPoint, Reader, Resolution, StoredEvent, StoredSite};
pub use record::{ClassMetrics, FlowSample, PathMetrics, Record, SiteRecord, UplinkMetrics};
pub use report::{ClassSums, Mean, PathHistory, PathSums, Span, SpanHistory, UplinkSums};
pub use sequences::Sequences;

use crate::config::StoreConfig;
use crate::confine::precedence;
use writer::{Queue, Writer};

/// Longest that a durable change may take before its caller is told that it failed.
pub const DURABLE_TIMEOUT: Duration = Duration::from_secs(10);
/// Records that wait at most.
pub const QUEUE_CAPACITY: usize = 65_536;
/// Read-only connections kept for the next query.
const POOLED_READERS: usize = 4;

/// Why the store failed. Where an operator sees it, the text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// SQLite says no.
    #[error("cannot {action} {path}: {source}{hint}", path = path.display(), hint = hint(source))]
    Sqlite {
        /// What was tried, such as `open the database`.
        action: &'static str,
        /// The database.
        path: PathBuf,
        /// Why.
        #[source]
        source: rusqlite::Error,
    },
    /// The file system says no.
    #[error("cannot {action} {path}: {source}", path = path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A later version of the program made it.
    #[error(
        "the database {path} has schema {found}, and this sdwan knows {known}: a newer sdwan wrote it. Install that \
         version again, or move the file away to begin with an empty history",
        path = path.display()
    )]
    Newer {
        /// The database.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// The latest that this program knows.
        known: u32,
    },
    /// Some other program's database.
    #[error("{path} is the database of another program: choose another file with `database` in [site] or --database", path = path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// The database can't be brought to the current schema.
    #[error("cannot bring the database {path} to the current schema: {reason}", path = path.display())]
    Migration {
        /// The database.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The disk is too slow.
    #[error("the database {path} did not take the change within {seconds} s: check the disk", path = path.display(), seconds = DURABLE_TIMEOUT.as_secs())]
    Timeout {
        /// The database.
        path: PathBuf,
    },
    /// The writer is gone.
    #[error("the database {path} is closed", path = path.display())]
    Closed {
        /// The database.
        path: PathBuf,
    },
    /// The change contradicts what is stored.
    #[error("{0}")]
    Conflict(String),
    /// Something stored can't be understood.
    #[error("{what} in the database {path} can't be read: {reason}", path = path.display())]
    Content {
        /// Which thing.
        what: String,
        /// The database.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

fn hint(error: &rusqlite::Error) -> &'static str {
    match error.sqlite_error_code() {
        Some(rusqlite::ErrorCode::DiskFull) => ". Make room on the disk",
        Some(rusqlite::ErrorCode::ReadOnly | rusqlite::ErrorCode::PermissionDenied) => {
            ". Run as root, and check that the file system is writable"
        }
        Some(rusqlite::ErrorCode::CannotOpen) => ". Check that its directory exists and that you may write there",
        _ => "",
    }
}

/// How the store does.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct StoreHealth {
    /// Writing works.
    pub ok: bool,
    /// Why not, and what to do.
    pub trouble: Option<String>,
    /// Records that wait to be written.
    pub queued: u64,
    /// Records written since the start.
    pub written: u64,
    /// Records dropped because the queue was full.
    pub dropped: u64,
    /// Records that the database refused.
    pub rejected: u64,
    /// Attempts to write that failed.
    pub errors: u64,
    /// Bytes in use in the database.
    pub size_bytes: u64,
    /// Where a damaged database was moved at the start, and what was saved from it.
    pub moved_aside: Option<String>,
}

/// The handle; clones share the writer. The last one to go tells the writer to finish what is queued.
#[derive(Clone, Debug)]
pub struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    queue: Arc<Queue>,
    health: watch::Receiver<StoreHealth>,
    readers: Mutex<Vec<Reader>>,
    writer: Mutex<Option<std::thread::JoinHandle<()>>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.queue.close();
    }
}

impl Store {
    /// Opens the database, makes it if there is none, and starts the writer.
    ///
    /// A damaged database is moved aside, what can be read of the configuration is carried over into a fresh one, and
    /// [`StoreHealth::moved_aside`] tells about it. The caller holds the [`StateLock`].
    pub fn open(path: &Path, retention: &StoreConfig) -> Result<Self, StoreError> {
        let opened = open::open(path)?;
        let health = StoreHealth { ok: true, moved_aside: opened.moved_aside, ..StoreHealth::default() };
        let (sender, receiver) = watch::channel(health);
        let queue = Arc::new(Queue::new(QUEUE_CAPACITY));
        let writer = Writer::new(path, opened.connection, queue.clone(), sender, retention.clone());
        let thread = std::thread::Builder::new()
            .name("store".into())
            .spawn(move || {
                precedence::give_up();
                writer.run();
            })
            .map_err(|source| StoreError::File { action: "start the writer of", path: path.into(), source })?;
        Ok(Self {
            inner: Arc::new(Inner {
                path: path.into(),
                queue,
                health: receiver,
                readers: Mutex::default(),
                writer: Mutex::new(Some(thread)),
            }),
        })
    }

    /// The database file.
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// Queues a record. Never blocks; a full queue drops it and counts it.
    pub fn record(&self, record: Record) {
        self.inner.queue.push_record(record);
    }

    /// How the store does right now.
    pub fn health(&self) -> StoreHealth {
        let (queued, dropped) = self.inner.queue.counts();
        StoreHealth { queued, dropped, ..self.inner.health.borrow().clone() }
    }

    /// Tells when the writer's state changes; [`Store::health`] has the exact counts.
    pub fn watch_health(&self) -> watch::Receiver<StoreHealth> {
        self.inner.health.clone()
    }

    /// Waits until everything recorded so far is written, or failed to be.
    pub fn flush(&self) -> Result<(), StoreError> {
        let (sender, receiver) = std::sync::mpsc::channel();
        if !self.inner.queue.push_flush(sender) {
            return Err(StoreError::Closed { path: self.path().into() });
        }
        receiver.recv_timeout(DURABLE_TIMEOUT).map_err(|_| StoreError::Timeout { path: self.path().into() })
    }

    /// Writes what is queued and stops the writer; waits for it at most [`DURABLE_TIMEOUT`].
    pub fn close(&self) -> Result<(), StoreError> {
        self.inner.queue.close();
        let thread = self.inner.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(thread) = thread else { return Ok(()) };
        let deadline = std::time::Instant::now() + DURABLE_TIMEOUT;
        while !thread.is_finished() {
            if std::time::Instant::now() >= deadline {
                return Err(StoreError::Timeout { path: self.path().into() });
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        thread.join().map_err(|_| StoreError::Closed { path: self.path().into() })
    }

    /// Runs a query on a read-only connection.
    pub fn read<T>(&self, query: impl FnOnce(&Reader) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let pooled = self.inner.readers.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let reader = match pooled {
            Some(reader) => reader,
            None => Reader::open(&self.inner.path)?,
        };
        let answer = query(&reader);
        if answer.is_ok() {
            let mut readers = self.inner.readers.lock().unwrap_or_else(PoisonError::into_inner);
            if readers.len() < POOLED_READERS {
                readers.push(reader);
            }
        }
        answer
    }

    fn sqlite(&self, action: &'static str) -> impl FnOnce(rusqlite::Error) -> StoreError {
        let path = self.path().to_owned();
        move |source| StoreError::Sqlite { action, path, source }
    }
}
