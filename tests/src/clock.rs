//! Wall clocks that single processes see differently. The kernel has no namespaces for `CLOCK_REALTIME`, and the machine's
//! own clock isn't ours to set: a small library, built by the machine's C compiler and loaded before the C library, adds an
//! offset out of a file to what a process reads. Time stamps by the kernel stay right.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::bed::{Attempt, BedError, Result};

const SOURCE: &str = r#"
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile const long long *offset;

__attribute__((constructor)) static void find(void) {
    const char *path = getenv("SDWAN_TEST_CLOCK");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0) return;
    void *page = mmap(0, sizeof *offset, PROT_READ, MAP_SHARED, file, 0);
    close(file);
    if (page != MAP_FAILED) offset = page;
}

int clock_gettime(clockid_t clock, struct timespec *time) {
    int result = syscall(SYS_clock_gettime, clock, time);
    if (result == 0 && offset && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) time->tv_sec += *offset;
    return result;
}

int gettimeofday(struct timeval *time, void *zone) {
    struct timespec now;
    (void)zone;
    if (clock_gettime(CLOCK_REALTIME, &now) != 0) return -1;
    time->tv_sec = now.tv_sec;
    time->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *out) {
    struct timespec now;
    if (clock_gettime(CLOCK_REALTIME, &now) != 0) return -1;
    if (out) *out = now.tv_sec;
    return now.tv_sec;
}
"#;

/// The wall clock of the processes that are started with its environment.
#[derive(Debug)]
pub struct WallClock {
    library: PathBuf,
    path: PathBuf,
    file: File,
}

impl WallClock {
    /// Whether this machine can build the library.
    pub fn available() -> bool {
        let version = Command::new("cc").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        version.is_ok_and(|status| status.success())
    }

    /// A clock that is right, with its files in a directory.
    ///
    /// # Errors
    /// When the library can't be built or the file can't be written.
    pub fn new(directory: &Path, name: &str) -> Result<Self> {
        let library = directory.join("clock.so");
        if !library.exists() {
            let arguments = ["-x", "c", "-shared", "-fPIC", "-O2", "-o"];
            let mut compiler = Command::new("cc")
                .args(arguments)
                .arg(&library)
                .arg("-")
                .stdin(Stdio::piped())
                .spawn()
                .attempt(|| "start cc".into())?;
            let mut source = compiler.stdin.take().expect("its input is piped");
            source.write_all(SOURCE.as_bytes()).attempt(|| "write to cc".into())?;
            drop(source);
            let status = compiler.wait().attempt(|| "wait for cc".into())?;
            if !status.success() {
                return Err(BedError::Plan(format!("cc can't build the clock's library: {status}")));
            }
        }
        let path = directory.join(format!("clock-{name}"));
        let open = || File::options().read(true).write(true).create(true).truncate(true).open(&path);
        let file = open().attempt(|| format!("create {}", path.display()))?;
        let clock = Self { library, path, file };
        clock.set(0)?;
        Ok(clock)
    }

    /// Sets it by so many seconds from what is right.
    ///
    /// # Errors
    /// When the file can't be written.
    pub fn set(&self, seconds: i64) -> Result<()> {
        self.file.write_all_at(&seconds.to_ne_bytes(), 0).attempt(|| format!("write {}", self.path.display()))
    }

    /// What processes that are to see it must have in their environment.
    pub fn environment(&self) -> [(String, PathBuf); 2] {
        [("LD_PRELOAD".into(), self.library.clone()), ("SDWAN_TEST_CLOCK".into(), self.path.clone())]
    }

    /// Whether a process with its environment sees it.
    ///
    /// # Errors
    /// When `date` can't be started.
    pub fn is_seen(&self) -> Result<bool> {
        self.set(-DAY.as_secs().cast_signed())?;
        let output =
            Command::new("date").arg("+%s").envs(self.environment()).output().attempt(|| "start date".into())?;
        self.set(0)?;
        let seen: u64 = String::from_utf8_lossy(&output.stdout).trim().parse().unwrap_or_default();
        let now = std::time::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs());
        Ok(now.abs_diff(seen + DAY.as_secs()) < 60)
    }
}

const DAY: Duration = Duration::from_secs(86_400);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_sees_the_time_that_is_set_and_others_do_not() {
        if !WallClock::available() {
            eprintln!("skipped: a_process_sees_the_time_that_is_set_and_others_do_not: no C compiler `cc`");
            return;
        }
        let directory = tempfile::tempdir().expect("a directory");
        let clock = WallClock::new(directory.path(), "a").expect("the library is built");
        assert!(clock.is_seen().expect("date runs"));
        let date = Command::new("date").arg("+%s").output().expect("date runs").stdout;
        let date: u64 = String::from_utf8_lossy(&date).trim().parse().expect("a number");
        assert!(std::time::UNIX_EPOCH.elapsed().expect("now").as_secs().abs_diff(date) < 60);
    }
}
