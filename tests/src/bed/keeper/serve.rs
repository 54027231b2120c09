//! The keeper's own side.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{SigSet, Signal};

use super::{HOLD, Kind, Request, Response};
use crate::bed::emulator::Line;
use crate::bed::error::{Attempt, BedError, Result};
use crate::bed::namespace::Namespace;
use crate::bed::stale;

struct Kept {
    prefix: String,
    directory: PathBuf,
    program: PathBuf,
    holders: Vec<Child>,
    namespaces: HashMap<String, Namespace>,
    lines: HashMap<String, Line>,
    stays: bool,
}

/// Serves requests until the user is gone, then ends everything in the namespaces.
pub(super) fn serve(prefix: &str, directory: &Path) -> Result<()> {
    // A terminal's hang-up or interrupt ends the user; the keeper outlives it for the cleaning.
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        signals.add(signal);
    }
    signals.thread_block().attempt(|| "block signals".into())?;
    let program = std::env::current_exe().attempt(|| "find my own program".into())?;
    let mut kept = Kept {
        prefix: prefix.into(),
        directory: directory.into(),
        program,
        holders: Vec::new(),
        namespaces: HashMap::new(),
        lines: HashMap::new(),
        stays: false,
    };
    kept.serve_user()?;
    if kept.stays {
        signals.wait().attempt(|| "wait for a signal".into())?;
    }
    kept.end()
}

impl Kept {
    fn serve_user(&mut self) -> Result<()> {
        let (stdin, mut stdout) = (BufReader::new(std::io::stdin()), std::io::stdout());
        for line in stdin.lines() {
            let Ok(line) = line else { return Ok(()) };
            let answer = match serde_json::from_str(&line) {
                Ok(request) => self.answer(request).unwrap_or_else(|error| Response::Failed(error.to_string())),
                Err(error) => Response::Failed(format!("not a request: {error}")),
            };
            let mut answer = serde_json::to_vec(&answer).map_err(|error| BedError::Keeper(error.to_string()))?;
            answer.push(b'\n');
            if stdout.write_all(&answer).and_then(|()| stdout.flush()).is_err() {
                return Ok(());
            }
        }
        Ok(())
    }

    fn answer(&mut self, request: Request) -> Result<Response> {
        match request {
            Request::Hold { name, kind } => Ok(Response::Held { pid: self.hold(&name, kind)? }),
            Request::Emulate { namespace, line } => {
                let Some(namespace) = self.namespaces.get(&namespace) else {
                    return Err(BedError::Unknown { kind: "namespace", name: namespace });
                };
                let name = line.name.clone();
                // An old line of this name ends first: two would double each packet.
                self.lines.remove(&name);
                self.lines.insert(name, Line::start(namespace, *line)?);
                Ok(Response::Done)
            }
            Request::Impair { name, direction, impairment } => {
                self.line(name)?.set(direction, *impairment)?;
                Ok(Response::Done)
            }
            Request::Statistics { name } => Ok(Response::Statistics(Box::new(self.line(name)?.statistics()?))),
            Request::Keep => {
                self.stays = true;
                stale::mark_kept(&self.directory)?;
                Ok(Response::Done)
            }
        }
    }

    fn line(&self, name: String) -> Result<&Line> {
        self.lines.get(&name).ok_or(BedError::Unknown { kind: "line", name })
    }

    fn hold(&mut self, name: &str, kind: Kind) -> Result<u32> {
        let mut child = Command::new(&self.program)
            .args([HOLD, &self.prefix, name, kind.argument()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .attempt(|| format!("start the holder of {name}"))?;
        let mut answer = String::new();
        let stdout = child.stdout.take().expect("stdout is piped");
        BufReader::new(stdout).read_line(&mut answer).attempt(|| format!("read from the holder of {name}"))?;
        let pid = child.id();
        self.holders.push(child);
        if answer != "ready\n" {
            let log = std::fs::read_to_string(self.directory.join("keeper.log")).unwrap_or_default();
            return Err(BedError::Keeper(format!("no namespace {name}: {}", log.trim())));
        }
        self.namespaces.insert(name.into(), Namespace::open(&self.prefix, name, pid)?);
        Ok(pid)
    }

    /// Ends every process in the namespaces, then the namespaces.
    fn end(mut self) -> Result<()> {
        self.lines.clear();
        let holders: Vec<u32> = self.holders.iter().map(Child::id).collect();
        let ended = stale::end_processes_in(&self.namespaces, &holders);
        for holder in &mut self.holders {
            // Already dead is as good.
            drop(holder.kill());
            drop(holder.wait());
        }
        drop(std::mem::take(&mut self.namespaces));
        ended?;
        stale::remove_directory(&self.directory)
    }
}
