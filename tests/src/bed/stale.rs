//! What beds leave behind: their directories, and how a crashed one's processes are found and ended.

use std::collections::{HashMap, HashSet};
use std::fs::{self, DirBuilder};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::error::{Attempt, BedError, Result};
use super::namespace::{MARKER, Namespace};

const RECORD: &str = "bed.json";
const KEPT: &str = "kept";

/// How long processes get to disappear after SIGKILL.
const PATIENCE: Duration = Duration::from_secs(10);

/// Who a bed belongs to; a file in its directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The bed.
    pub prefix: String,
    /// The process that uses it.
    pub owner: Process,
    /// Its keeper.
    pub keeper: Option<Process>,
}

/// A process that can't be mistaken for a later one with the same id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Process id.
    pub pid: u32,
    /// When it started, in clock ticks since boot.
    pub started: u64,
}

impl Process {
    /// The process with this id, if there is one.
    pub fn find(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name may hold anything; the fields after it start behind the last parenthesis.
        let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
        let state = fields.next()?;
        let started = fields.nth(18)?.parse().ok()?;
        (state != "Z" && state != "X").then_some(Self { pid, started })
    }

    /// Whether it still runs.
    pub fn runs(&self) -> bool {
        Self::find(self.pid) == Some(*self)
    }
}

/// A new prefix and directory for a bed of this process, after cleaning up what crashed ones left.
pub(super) fn new_directory() -> Result<(String, PathBuf)> {
    static COUNTER: AtomicU32 = AtomicU32::new(0);
    let root = root()?;
    clean_stale()?;
    let me = Process::find(std::process::id()).ok_or_else(|| BedError::Unavailable("no /proc".into()))?;
    // The start time keeps a later process with the same id from meeting this one's leftovers.
    let number = COUNTER.fetch_add(1, Ordering::Relaxed);
    let prefix = format!("bed{}-{number}-{:x}", me.pid, me.started);
    let directory = root.join(&prefix);
    DirBuilder::new().mode(0o700).create(&directory).attempt(|| format!("create {}", directory.display()))?;
    write_record(&directory, &Record { prefix: prefix.clone(), owner: me, keeper: None })?;
    Ok((prefix, directory))
}

/// Writes who a bed belongs to.
pub(super) fn write_record(directory: &Path, record: &Record) -> Result<()> {
    let path = directory.join(RECORD);
    let text = serde_json::to_vec(record).expect("a record is plain data");
    let new = directory.join("bed.json.new");
    fs::write(&new, text).and_then(|()| fs::rename(&new, &path)).attempt(|| format!("write {}", path.display()))
}

/// Marks a bed as one that stays without its user.
pub(super) fn mark_kept(directory: &Path) -> Result<()> {
    fs::write(directory.join(KEPT), "").attempt(|| format!("mark {} as kept", directory.display()))
}

/// Removes a bed's directory; gone already is as good.
pub(super) fn remove_directory(directory: &Path) -> Result<()> {
    match fs::remove_dir_all(directory) {
        // Another bed may be at the same work.
        Err(error) if directory.exists() => Err(error).attempt(|| format!("remove {}", directory.display())),
        _ => Ok(()),
    }
}

/// Ends what crashed beds left: those whose user and keeper are both dead. Never touches others.
pub fn clean_stale() -> Result<()> {
    for (directory, record) in records()? {
        let keeper_runs = record.keeper.is_some_and(|keeper| keeper.runs());
        if record.owner.runs() || keeper_runs {
            continue;
        }
        end_marked(&record.prefix)?;
        remove_directory(&directory)?;
    }
    Ok(())
}

/// Ends the beds that were told to stay. Returns their prefixes.
pub fn clean_kept() -> Result<Vec<String>> {
    let mut cleaned = Vec::new();
    for (directory, record) in records()? {
        let Some(keeper) = record.keeper.filter(|keeper| keeper.runs() && directory.join(KEPT).exists()) else {
            continue;
        };
        kill(Pid::from_raw(keeper.pid as i32), Signal::SIGTERM).attempt(|| format!("end keeper {}", keeper.pid))?;
        let start = Instant::now();
        while keeper.runs() {
            if start.elapsed() > PATIENCE {
                let what = format!("the end of keeper {}", keeper.pid);
                return Err(BedError::Timeout { what, seconds: PATIENCE.as_secs_f64(), last: "it still runs".into() });
            }
            sleep(Duration::from_millis(10));
        }
        cleaned.push(record.prefix);
    }
    clean_stale()?;
    Ok(cleaned)
}

/// Ends every process whose network namespace is one of these, except the holders. The namespaces must be open: then no
/// other namespace can have their numbers.
pub(super) fn end_processes_in(namespaces: &HashMap<String, Namespace>, holders: &[u32]) -> Result<()> {
    let mut numbers = HashSet::new();
    for namespace in namespaces.values() {
        // Opened by the keeper itself at the holder's start; a dead holder's number is read off the open file.
        numbers.insert(namespace.network_number()?);
    }
    let me = std::process::id();
    end_all("processes in the bed", || {
        let inside = |pid: &u32| {
            let number = fs::metadata(format!("/proc/{pid}/ns/net")).map(|file| file.ino()).ok();
            *pid != me && !holders.contains(pid) && number.is_some_and(|number| numbers.contains(&number))
        };
        processes().into_iter().filter(inside).collect()
    })
}

/// Ends every process that carries the mark of a bed.
fn end_marked(prefix: &str) -> Result<()> {
    let mark = format!("{MARKER}={prefix}").into_bytes();
    end_all("processes of a crashed bed", || {
        let marked = |pid: &u32| {
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environment.split(|byte| *byte == 0).any(|variable| variable == mark)
        };
        processes().into_iter().filter(marked).collect()
    })
}

/// Kills what `find` finds until it finds nothing.
fn end_all(what: &str, find: impl Fn() -> Vec<u32>) -> Result<()> {
    let start = Instant::now();
    loop {
        let found = find();
        if found.is_empty() {
            return Ok(());
        }
        if start.elapsed() > PATIENCE {
            let last = format!("still there: {found:?}");
            return Err(BedError::Timeout {
                what: format!("the end of {what}"),
                seconds: PATIENCE.as_secs_f64(),
                last,
            });
        }
        for pid in found {
            // It may have ended by itself meanwhile.
            let _ = kill(Pid::from_raw(pid as i32), Signal::SIGKILL);
        }
        sleep(Duration::from_millis(5));
    }
}

/// All process ids except zombies.
fn processes() -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let numbers = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    numbers.filter(|pid| Process::find(*pid).is_some()).collect()
}

fn records() -> Result<Vec<(PathBuf, Record)>> {
    let root = root()?;
    let entries = fs::read_dir(&root).attempt(|| format!("read {}", root.display()))?;
    let mut records = Vec::new();
    for entry in entries.flatten() {
        let directory = entry.path();
        // A bed that is just being made or removed has no record; its owner sees to it.
        let Ok(text) = fs::read(directory.join(RECORD)) else { continue };
        let Ok(record) = serde_json::from_slice::<Record>(&text) else { continue };
        if entry.file_name().to_str() == Some(&record.prefix) {
            records.push((directory, record));
        }
    }
    Ok(records)
}

/// The directory of all beds of this machine, which must be root's own.
fn root() -> Result<PathBuf> {
    let root = std::env::temp_dir().join("sdwan-beds");
    match DirBuilder::new().mode(0o700).create(&root) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            return Err(error).attempt(|| format!("create {}", root.display()));
        }
        _ => {}
    }
    let metadata = fs::symlink_metadata(&root).attempt(|| format!("look at {}", root.display()))?;
    if !metadata.is_dir() || metadata.uid() != nix::unistd::geteuid().as_raw() || metadata.mode() & 0o022 != 0 {
        let why = format!("{} isn't a directory that only root writes to: remove it", root.display());
        return Err(BedError::Unavailable(why));
    }
    Ok(root)
}
