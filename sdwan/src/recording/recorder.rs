//! The recorder: a bounded queue, and a thread that writes what comes out of it. Whoever records never waits; what
//! finds the queue full, or the disk, is counted, and the file says where it is missing.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::{Entry, Header, Line, Record};
use crate::confine::precedence;
use crate::engine::Time;

/// Most bytes of a recording when nobody says otherwise: two hours of a small mesh.
pub const DEFAULT_LIMIT: u64 = 256 << 20;
/// Lines that may wait for the disk.
const QUEUE: usize = 8_192;
/// Bytes that are written at once, about.
const BATCH: usize = 64 << 10;
/// After a write that failed, the next is tried after this long.
const RETRY: Duration = Duration::from_secs(1);
/// How long the end of a recording waits for the disk.
const PATIENCE: Duration = Duration::from_secs(2);
/// Room that is kept for the last line.
const LAST_LINE: u64 = 256;

/// What to record into.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recording {
    /// The file.
    pub file: PathBuf,
    /// Most bytes.
    pub limit: u64,
}

/// Why nothing can be recorded.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The file.
    #[error("cannot {action} {file} to record into: {source}", file = file.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// The file.
        file: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// Not a regular file: nothing else can be cut back to its last whole line.
    #[error("{file} is not a regular file: --record wants the name of a file that it can make", file = file.display())]
    NotAFile {
        /// What is there.
        file: PathBuf,
    },
}

/// Where whole lines go. One that fails leaves what was there.
pub(super) trait Sink: Send + 'static {
    /// Adds all of `bytes`, or nothing.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;
}

/// A new and empty file. A recording that was there has got `.1` at the end of its name.
#[derive(Debug)]
pub struct RecordFile {
    pub(super) file: File,
    /// Bytes of whole lines.
    length: u64,
    /// Half a line may be behind them.
    pub(super) dirty: bool,
}

impl RecordFile {
    /// Makes it, for its owner's eyes only.
    ///
    /// # Errors
    /// When that can't be done, or something is in the way that isn't a regular file.
    pub fn create(path: &Path) -> Result<Self, RecordError> {
        let fail = |action| move |source| RecordError::File { action, file: path.into(), source };
        match path.symlink_metadata() {
            Ok(found) if !found.is_file() => return Err(RecordError::NotAFile { file: path.into() }),
            Ok(_) => {
                let mut former = path.as_os_str().to_owned();
                former.push(".1");
                std::fs::rename(path, former).map_err(fail("move the former recording out of the way of"))?;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(fail("look at")(error)),
        }
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(fail("make"))?;
        Ok(Self { file, length: 0, dirty: false })
    }
}

impl Sink for RecordFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        // Half a line would spoil the next one.
        if std::mem::replace(&mut self.dirty, true) {
            self.file.set_len(self.length)?;
            self.file.seek(SeekFrom::Start(self.length))?;
        }
        self.file.write_all(bytes)?;
        self.dirty = false;
        self.length += bytes.len() as u64;
        Ok(())
    }
}

/// A line on its way, and how many before it found no room.
struct Queued {
    missed: u64,
    line: Line,
}

/// Takes lines without ever waiting. Dropped, it ends the recording.
#[derive(Debug)]
pub struct Recorder {
    queue: Option<SyncSender<Queued>>,
    missed: u64,
    /// Those of the end, for the writer.
    missed_at_end: Arc<AtomicU64>,
    /// The file is as large as it may be.
    ended: Arc<AtomicBool>,
    done: Receiver<()>,
}

impl Recorder {
    /// Writes the header and starts the thread.
    ///
    /// # Errors
    /// When the header can't be written or there can be no thread.
    pub fn start(file: RecordFile, limit: u64, header: &Header) -> io::Result<Self> {
        Self::start_with(file, limit, header)
    }

    pub(super) fn start_with(mut sink: impl Sink, limit: u64, header: &Header) -> io::Result<Self> {
        let mut first = serde_json::to_vec(header)?;
        first.push(b'\n');
        sink.append(&first)?;
        let (queue, lines) = sync_channel(QUEUE);
        let (finished, done) = mpsc::channel();
        let (missed_at_end, ended) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let mut writer = Writer {
            sink,
            limit,
            written: first.len() as u64,
            batch: Vec::new(),
            lines: 0,
            missed: 0,
            failed: None,
            last: header.started,
            ended: ended.clone(),
        };
        let at_end = missed_at_end.clone();
        thread::Builder::new().name("recorder".into()).spawn(move || {
            precedence::give_up();
            writer.run(&lines);
            writer.finish(at_end.load(Ordering::Acquire));
            // Nobody may be waiting any more.
            let _ = finished.send(());
        })?;
        Ok(Self { queue: Some(queue), missed: 0, missed_at_end, ended, done })
    }
}

impl Record for Recorder {
    /// Records a line, or counts it as missing.
    fn put(&mut self, line: Line) {
        let Some(queue) = self.queue.as_ref().filter(|_| !self.ended.load(Ordering::Relaxed)) else { return };
        let queued = Queued { missed: std::mem::take(&mut self.missed), line };
        if let Err(TrySendError::Full(line) | TrySendError::Disconnected(line)) = queue.try_send(queued) {
            self.missed = line.missed + 1;
        }
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.missed_at_end.store(self.missed, Ordering::Release);
        self.queue = None;
        if self.done.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
            warn!("the disk is too slow for the end of the recording: its last lines may be missing");
        }
    }
}

/// The thread's side.
struct Writer<S> {
    sink: S,
    limit: u64,
    written: u64,
    batch: Vec<u8>,
    /// Lines in the batch.
    lines: u64,
    /// Lines that are missing since the last one that was written.
    missed: u64,
    failed: Option<Instant>,
    last: Time,
    ended: Arc<AtomicBool>,
}

impl<S: Sink> Writer<S> {
    fn run(&mut self, lines: &Receiver<Queued>) {
        while let Ok(first) = lines.recv() {
            let mut next = Some(first);
            while let Some(queued) = next {
                self.add(queued);
                next = if self.batch.len() < BATCH { lines.try_recv().ok() } else { None };
            }
            self.write();
        }
    }

    fn add(&mut self, queued: Queued) {
        if self.ended.load(Ordering::Relaxed) {
            return;
        }
        self.missed += queued.missed;
        self.last = queued.line.at;
        if self.failed.is_some_and(|failed| failed.elapsed() < RETRY) {
            self.missed += 1;
            return;
        }
        self.say_missed();
        self.push(&queued.line);
    }

    /// Lines that are missing are told before the next one.
    fn say_missed(&mut self) {
        if self.missed > 0 {
            let missed = std::mem::take(&mut self.missed);
            self.push(&Line { at: self.last, entry: Entry::Missed(missed) });
            // The line that tells is none that could go missing; should it, its number is not forgotten.
            self.lines += missed - 1;
        }
    }

    fn push(&mut self, line: &Line) {
        // Plain data with text keys: it can't fail but for want of memory.
        match serde_json::to_writer(&mut self.batch, line) {
            Ok(()) => {
                self.batch.push(b'\n');
                self.lines += 1;
            }
            Err(error) => {
                warn!("a line can't be recorded: {error}");
                let whole = self.batch.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
                self.batch.truncate(whole);
                self.missed += 1;
            }
        }
    }

    fn write(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        if self.written + self.batch.len() as u64 + LAST_LINE > self.limit {
            self.batch.clear();
            self.end(&format!("it reached its limit of {} bytes", self.limit));
            return;
        }
        match self.sink.append(&self.batch) {
            Ok(()) => {
                self.written += self.batch.len() as u64;
                if self.failed.take().is_some() {
                    info!("recording goes on");
                }
            }
            Err(error) => {
                if self.failed.replace(Instant::now()).is_none() {
                    warn!("recording pauses, and what happens meanwhile will be missing: {error}");
                }
                self.missed += self.lines;
            }
        }
        self.batch.clear();
        self.lines = 0;
    }

    fn end(&mut self, why: &str) {
        if self.ended.swap(true, Ordering::Relaxed) {
            return;
        }
        self.say_missed();
        self.push(&Line { at: self.last, entry: Entry::Ended(why.into()) });
        match self.sink.append(&self.batch) {
            Ok(()) => info!("the recording ends: {why}"),
            Err(error) => warn!("the last line of the recording could not be written: {error}"),
        }
        self.batch.clear();
        self.lines = 0;
    }

    fn finish(&mut self, missed: u64) {
        self.missed += missed;
        self.end("the daemon stopped");
    }
}
