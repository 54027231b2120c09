//! The thread that writes.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use rusqlite::{Connection, ErrorCode, TransactionBehavior};
use tokio::sync::watch;

use super::record::{Record, insert};
use super::retention::Housekeeping;
use super::{StoreHealth, open};
use crate::config::StoreConfig;
use crate::trust::clock::ClockWatch;
use crate::trust::verifier::Now;

/// Records are written at the latest this long after they were queued …
const BATCH_DELAY: Duration = Duration::from_secs(1);
/// … or when this many wait.
const BATCH: usize = 1_024;
/// First and longest pause after a failed attempt.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// How often old history is rolled up and removed.
const HOUSEKEEPING: Duration = Duration::from_secs(30);

/// A durable change; runs on the writer's thread.
pub(super) type Job = Box<dyn FnOnce(&mut Connection) + Send>;

/// What waits for the writer. The lock is held for moments only, never over IO.
#[derive(Debug)]
pub(super) struct Queue {
    capacity: usize,
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Default)]
struct State {
    records: VecDeque<Record>,
    /// Records that the writer holds and hasn't written yet.
    in_hand: usize,
    jobs: VecDeque<Job>,
    flushes: Vec<Sender<()>>,
    dropped: u64,
    closed: bool,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").field("records", &self.records.len()).field("jobs", &self.jobs.len()).finish()
    }
}

/// What the writer should do next.
enum Work {
    Job(Job),
    Batch(Vec<Record>, Vec<Sender<()>>),
    Idle,
    Closed(Vec<Record>, Vec<Sender<()>>),
}

impl Queue {
    pub fn new(capacity: usize) -> Self {
        Self { capacity, state: Mutex::default(), wake: Condvar::new() }
    }

    pub fn push_record(&self, record: Record) {
        let mut state = self.lock();
        if state.closed || state.records.len() + state.in_hand >= self.capacity {
            state.dropped += 1;
            return;
        }
        state.records.push_back(record);
        let wake = state.records.len() == 1 || state.records.len() == BATCH;
        drop(state);
        if wake {
            self.wake.notify_one();
        }
    }

    /// `false` when the writer is closed.
    pub fn push_job(&self, job: Job) -> bool {
        let mut state = self.lock();
        if state.closed {
            return false;
        }
        state.jobs.push_back(job);
        drop(state);
        self.wake.notify_one();
        true
    }

    /// `false` when the writer is closed.
    pub fn push_flush(&self, done: Sender<()>) -> bool {
        let mut state = self.lock();
        if state.closed {
            return false;
        }
        state.flushes.push(done);
        drop(state);
        self.wake.notify_one();
        true
    }

    pub fn close(&self) {
        self.lock().closed = true;
        self.wake.notify_one();
    }

    /// Records that wait, and records dropped so far.
    pub fn counts(&self) -> (u64, u64) {
        let state = self.lock();
        ((state.records.len() + state.in_hand) as u64, state.dropped)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for work until `idle_at`. `batch_at` keeps when waiting records are to be written; `held` says how many
    /// the writer still holds from a failed attempt, and `not_before` when it may try again.
    fn next(&self, batch_at: &mut Option<Instant>, idle_at: Instant, held: usize, not_before: Option<Instant>) -> Work {
        let mut state = self.lock();
        state.in_hand = held;
        loop {
            if let Some(job) = state.jobs.pop_front() {
                return Work::Job(job);
            }
            let now = Instant::now();
            let allowed = not_before.is_none_or(|at| now >= at);
            let flushing = !state.flushes.is_empty();
            let waiting = state.records.len() + held;
            if waiting > 0 && batch_at.is_none() {
                *batch_at = Some(now + BATCH_DELAY);
            }
            let due = batch_at.is_some_and(|at| now >= at) || waiting >= BATCH || flushing;
            if state.closed || flushing || (waiting > 0 && due && allowed) {
                let room = BATCH.saturating_sub(held);
                let count = if state.closed || flushing { state.records.len() } else { room.min(state.records.len()) };
                let records: Vec<Record> = state.records.drain(..count).collect();
                state.in_hand = held + records.len();
                let flushes = std::mem::take(&mut state.flushes);
                *batch_at = None;
                return if state.closed { Work::Closed(records, flushes) } else { Work::Batch(records, flushes) };
            }
            let mut until = idle_at;
            if waiting > 0 {
                let batch_at = if waiting >= BATCH { now } else { batch_at.unwrap_or(now) };
                until = until.min(batch_at.max(not_before.unwrap_or(batch_at)));
            }
            if until <= now {
                return Work::Idle;
            }
            state = self.wake.wait_timeout(state, until - now).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// The writer's state.
pub(super) struct Writer {
    path: PathBuf,
    connection: Connection,
    queue: Arc<Queue>,
    health: watch::Sender<StoreHealth>,
    housekeeping: Housekeeping,
    /// Taken from the queue and not written yet.
    held: Vec<Record>,
    backoff: Duration,
    not_before: Option<Instant>,
    /// The damage that was found. It stays until the next start, even though writing may seem to work.
    damage: Option<String>,
    clock: ClockWatch,
    started: Instant,
}

impl Writer {
    pub fn new(
        path: &Path,
        connection: Connection,
        queue: Arc<Queue>,
        health: watch::Sender<StoreHealth>,
        retention: StoreConfig,
    ) -> Self {
        Self {
            path: path.into(),
            connection,
            queue,
            health,
            housekeeping: Housekeeping::new(retention),
            held: Vec::new(),
            backoff: BACKOFF.0,
            not_before: None,
            damage: None,
            clock: ClockWatch::default(),
            started: Instant::now(),
        }
    }

    /// Works until the queue is closed; then writes what is left, once.
    pub fn run(mut self) {
        let mut housekeeping_at = Instant::now();
        let mut batch_at = None;
        loop {
            match self.queue.next(&mut batch_at, housekeeping_at, self.held.len(), self.not_before) {
                Work::Job(job) => job(&mut self.connection),
                Work::Batch(records, flushes) => {
                    self.held.extend(records);
                    self.write();
                    tell(flushes);
                }
                Work::Idle => {
                    housekeeping_at = Instant::now() + HOUSEKEEPING;
                    if self.housekeep() {
                        housekeeping_at = Instant::now();
                    }
                }
                Work::Closed(records, flushes) => {
                    self.held.extend(records);
                    self.write();
                    tell(flushes);
                    // Leaves one file, not three. A failure is harmless: the next start finds the log and reads it.
                    let _ = self.connection.execute_batch("PRAGMA optimize; PRAGMA wal_checkpoint(TRUNCATE);");
                    return;
                }
            }
        }
    }

    fn write(&mut self) {
        if self.held.is_empty() {
            return;
        }
        match write_batch(&mut self.connection, &self.held) {
            Ok(rejected) => {
                let written = (self.held.len() - rejected) as u64;
                self.held.clear();
                self.backoff = BACKOFF.0;
                self.not_before = None;
                self.health.send_modify(|health| {
                    health.ok = self.damage.is_none();
                    health.trouble.clone_from(&self.damage);
                    health.written += written;
                    health.rejected += rejected as u64;
                });
            }
            Err(error) => {
                self.not_before = Some(Instant::now() + self.backoff);
                self.backoff = (self.backoff * 2).min(BACKOFF.1);
                self.failed("write to", error);
            }
        }
    }

    /// One step of the work on old history; `true` when there is more to do right away.
    fn housekeep(&mut self) -> bool {
        let now = self.now_unix();
        match self.housekeeping.step(&mut self.connection, now) {
            Ok(step) => {
                if self.damage.is_none()
                    && let Err(error) = open::look(&self.path, step.size_bytes)
                    && open::is_damage_code(&error)
                {
                    self.failed("read", error);
                    return false;
                }
                self.health.send_if_modified(|health| {
                    let recovered = !health.ok && self.held.is_empty() && self.damage.is_none();
                    if recovered {
                        health.ok = true;
                        health.trouble = None;
                    }
                    let grown = health.size_bytes != step.size_bytes;
                    health.size_bytes = step.size_bytes;
                    recovered || grown
                });
                step.more
            }
            Err(error) => {
                self.failed("remove old history from", error);
                false
            }
        }
    }

    /// Unix time, s, by which history is old: a wall clock that was set far ahead doesn't age it at once.
    fn now_unix(&mut self) -> i64 {
        let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let unix_ms = u64::try_from(unix.as_millis()).unwrap_or(u64::MAX);
        let now = Now { monotonic: self.started.elapsed(), unix_ms };
        self.clock.look(now);
        i64::try_from(self.clock.times(now).reckoned_ms / 1_000).unwrap_or(i64::MAX)
    }

    fn failed(&mut self, action: &'static str, error: rusqlite::Error) {
        let damaged = open::is_damage_code(&error);
        let mut trouble = super::StoreError::Sqlite { action, path: self.path.clone(), source: error }.to_string();
        if damaged {
            // The next start sees the marker even when its own check would pass by the damage.
            let marked = std::fs::write(open::damage_marker(&self.path), &trouble).is_ok();
            trouble.push_str(". The database is damaged: restart sdwan, which moves it aside and begins a fresh one");
            if !marked {
                trouble.push_str(" (and the directory can't be written)");
            }
            self.damage = Some(trouble.clone());
        }
        tracing::warn!(target: "sdwan::store", "{trouble}");
        self.health.send_modify(|health| {
            health.ok = false;
            health.errors += 1;
            health.trouble = Some(trouble);
        });
    }
}

fn tell(flushes: Vec<Sender<()>>) {
    for done in flushes {
        // The asker may have given up.
        let _ = done.send(());
    }
}

/// Writes records in one transaction; returns how many the database refused. On an error nothing was written.
fn write_batch(connection: &mut Connection, records: &[Record]) -> rusqlite::Result<usize> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let mut rejected = 0;
    for record in records {
        match insert(&transaction, record) {
            Ok(()) => {}
            // SQLite undoes the one statement and keeps the transaction.
            Err(error) if concerns_one_record(&error) => rejected += 1,
            Err(error) => return Err(error),
        }
    }
    transaction.commit()?;
    Ok(rejected)
}

fn concerns_one_record(error: &rusqlite::Error) -> bool {
    match error.sqlite_error_code() {
        Some(code) => matches!(code, ErrorCode::ConstraintViolation | ErrorCode::TooBig | ErrorCode::TypeMismatch),
        None => matches!(error, rusqlite::Error::ToSqlConversionFailure(_)),
    }
}
