//! The keeper: a process beside the one that uses a bed. It holds the bed's namespaces and carries its lines, and when
//! the user is gone, by whatever end, it ends everything in them.
//!
//! The user speaks to it in lines of JSON over its standard input and output; the end of its input is the end of the
//! user. [`Request::Keep`] makes it stay until SIGTERM.

mod hold;
mod serve;

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::emulator::{Direction, Impairment, LineSpec, LineStatistics};
use super::error::{Attempt, BedError, Result};
use super::namespace::MARKER;

pub use hold::Kind;

/// First argument of the keeper's command line.
pub(crate) const KEEP: &str = "--bed-keeper";
/// First argument of a namespace holder's command line.
pub(crate) const HOLD: &str = "--bed-hold";

/// What the user asks of the keeper.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Request {
    /// Create a namespace.
    Hold {
        /// Its name.
        name: String,
        /// What is mounted in it.
        kind: Kind,
    },
    /// Start a line in the namespace `namespace`.
    Emulate {
        /// Name of the namespace.
        namespace: String,
        /// The line.
        line: Box<LineSpec>,
    },
    /// Change a line.
    Impair {
        /// Name of the line.
        name: String,
        /// Which way.
        direction: Direction,
        /// What happens from now on.
        impairment: Box<Impairment>,
    },
    /// Ask what a line did.
    Statistics {
        /// Name of the line.
        name: String,
    },
    /// Stay when the user goes.
    Keep,
}

/// The keeper's answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Response {
    /// Done.
    Done,
    /// The namespace is held by this process.
    Held {
        /// Process id.
        pid: u32,
    },
    /// What the line did.
    Statistics(Box<LineStatistics>),
    /// Refused, and why.
    Failed(String),
}

/// The user's end.
#[derive(Debug)]
pub struct Keeper {
    child: Child,
    pipes: Mutex<Option<(ChildStdin, BufReader<ChildStdout>)>>,
    kept: bool,
}

impl Keeper {
    /// Starts the keeper of the bed with this prefix and directory.
    pub fn start(prefix: &str, directory: &Path) -> Result<Self> {
        let program = super::tool()?;
        let log = directory.join("keeper.log");
        let log = std::fs::File::create(&log).attempt(|| format!("create {}", log.display()))?;
        let mut child = Command::new(&program)
            .args([KEEP, prefix])
            .arg(directory)
            .env_remove(MARKER)
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .attempt(|| format!("start {}", program.display()))?;
        let stdin = child.stdin.take().expect("stdin is piped");
        let stdout = BufReader::new(child.stdout.take().expect("stdout is piped"));
        Ok(Self { child, pipes: Mutex::new(Some((stdin, stdout))), kept: false })
    }

    /// Process id of the keeper.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Asks and waits for the answer. A refusal is an error.
    pub fn ask(&self, request: &Request) -> Result<Response> {
        let gone = |error: std::io::Error| BedError::Keeper(format!("it doesn't answer: {error}"));
        let mut line = serde_json::to_vec(request).map_err(|error| BedError::Keeper(error.to_string()))?;
        line.push(b'\n');
        let mut pipes = self.pipes.lock().unwrap_or_else(PoisonError::into_inner);
        let (stdin, stdout) = pipes.as_mut().ok_or_else(|| BedError::Keeper("it is already told to end".into()))?;
        stdin.write_all(&line).map_err(gone)?;
        let mut answer = String::new();
        stdout.read_line(&mut answer).map_err(gone)?;
        match serde_json::from_str(&answer) {
            Ok(Response::Failed(why)) => Err(BedError::Keeper(why)),
            Ok(response) => Ok(response),
            Err(error) => Err(BedError::Keeper(format!("it answers {answer:?}: {error}"))),
        }
    }

    /// Makes it stay when this process ends.
    pub fn keep(&mut self) -> Result<()> {
        self.ask(&Request::Keep)?;
        self.kept = true;
        Ok(())
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        // The end of its input tells it to end everything.
        *self.pipes.get_mut().unwrap_or_else(PoisonError::into_inner) = None;
        drop(self.child.wait());
    }
}

/// Whether this process was started as a keeper or holder; if so, does that work and doesn't return.
///
/// The first thing in `main` of each program that [`super::tool`] may find.
pub fn main_if_asked() {
    let arguments: Vec<String> = std::env::args().collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match arguments.as_slice() {
        [_, KEEP, prefix, directory] => serve::serve(prefix, Path::new(directory)),
        [_, HOLD, _prefix, name, kind] => hold::hold(name, kind),
        _ => return,
    };
    if let Err(error) = outcome {
        eprintln!("{error}");
        std::process::exit(1);
    }
    std::process::exit(0);
}
