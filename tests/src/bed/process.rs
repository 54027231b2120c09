//! A process in a bed, with its output in a file.

use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::error::{Attempt, BedError, Result};

/// Lines of the log that a failing test prints.
const TAIL: usize = 60;

/// A running process. It is killed when this is dropped; when the test fails then, the end of its log is printed.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    kept: bool,
}

impl Process {
    /// Starts a command with its output appended to `log`.
    pub fn start(name: &str, mut command: Command, log: &Path) -> Result<Self> {
        let open = || File::options().create(true).append(true).open(log);
        let output = open().attempt(|| format!("open {}", log.display()))?;
        let errors = output.try_clone().attempt(|| format!("open {}", log.display()))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .spawn()
            .attempt(|| format!("start {name} ({:?})", command.get_program()))?;
        Ok(Self { name: name.into(), child, log: log.into(), kept: false })
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where its output goes.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Everything it has put out.
    pub fn output(&self) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&text).into_owned()
    }

    /// The end of its output.
    pub fn tail(&self) -> String {
        let output = self.output();
        let lines: Vec<&str> = output.lines().collect();
        lines[lines.len().saturating_sub(TAIL)..].join("\n")
    }

    /// Its exit status, once it has ended.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().attempt(|| format!("look after {}", self.name))
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill(Pid::from_raw(self.child.id() as i32), signal).attempt(|| format!("send {signal} to {}", self.name))
    }

    /// Waits for its end, at most so long.
    pub fn wait(&mut self, patience: Duration) -> Result<ExitStatus> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.ended()? {
                return Ok(status);
            }
            if start.elapsed() > patience {
                let what = format!("the end of {}", self.name);
                return Err(BedError::Timeout { what, seconds: patience.as_secs_f64(), last: self.tail() });
            }
            sleep(Duration::from_millis(5));
        }
    }

    /// SIGTERM, and SIGKILL when it hasn't ended within `patience`. Returns how it ended.
    pub fn stop(&mut self, patience: Duration) -> Result<ExitStatus> {
        if let Some(status) = self.ended()? {
            return Ok(status);
        }
        self.signal(Signal::SIGTERM)?;
        match self.wait(patience) {
            Err(BedError::Timeout { .. }) => self.kill(),
            other => other,
        }
    }

    /// SIGKILL. Returns how it ended.
    pub fn kill(&mut self) -> Result<ExitStatus> {
        if let Some(status) = self.ended()? {
            return Ok(status);
        }
        self.child.kill().attempt(|| format!("kill {}", self.name))?;
        self.child.wait().attempt(|| format!("wait for {}", self.name))
    }

    /// Leaves it running when this is dropped.
    pub fn keep(&mut self) {
        self.kept = true;
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        let ended = self.child.try_wait().ok().flatten();
        if std::thread::panicking() {
            let state = match ended {
                None => "was running".to_string(),
                Some(status) => match status.signal() {
                    Some(signal) => format!("had died of signal {signal}"),
                    None => format!("had ended with {status}"),
                },
            };
            eprintln!("---- {} {state}; the end of {}:\n{}\n----", self.name, self.log.display(), self.tail());
        }
        if ended.is_none() {
            // Already dead is as good.
            drop(self.child.kill());
            drop(self.child.wait());
        }
    }
}
