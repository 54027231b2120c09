//! Replay: the engine in virtual time over a recording.

use std::io::{self, BufRead, Read as _};
use std::sync::Arc;

use super::{Decisions, Entry, Header, Line, VERSION};
use crate::engine::events::EngineEvent;
use crate::engine::policy::CompileError;
use crate::engine::{Engine, Time};

/// Longest line, bytes: the path sets of 10,000 sites.
const LONGEST_LINE: u64 = 64 << 20;

/// Why a file can't be replayed, or not to its end.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// Reading.
    #[error("line {line} can't be read: {source}")]
    Read {
        /// Its number, from 1.
        line: u64,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Not one of ours.
    #[error("line 1 is not the header of a recording of `sdwan run --record`: {problem}")]
    Foreign {
        /// What is there instead.
        problem: String,
    },
    /// Of another version.
    #[error(
        "line 1: the recording has format {found} (sdwan {program}), and this is sdwan {own}, which reads format \
         {VERSION}: replay it with the version that recorded it",
        own = env!("CARGO_PKG_VERSION")
    )]
    Version {
        /// Format of the file.
        found: u64,
        /// What recorded it.
        program: String,
    },
    /// A line that is whole, and wrong.
    #[error("line {line} is not a line of a recording: {problem}")]
    Line {
        /// Its number.
        line: u64,
        /// What is wrong with it.
        problem: String,
    },
    /// A line without its end.
    #[error(
        "line {line} is cut off: the file ends in the middle of it. All before it was replayed; the daemon was killed, or \
         the file wasn't copied to its end"
    )]
    CutOff {
        /// Its number.
        line: u64,
    },
    /// Policies that don't compile.
    #[error("line {line}: the policies don't compile: {source}")]
    Policies {
        /// Its number.
        line: u64,
        /// Why.
        #[source]
        source: CompileError,
    },
}

/// The first decisions that weren't as recorded.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    /// Line of the recorded ones, or of the moment at which there are none.
    pub line: u64,
    /// When.
    pub at: Time,
    /// What was recorded.
    pub recorded: Decisions,
    /// What the replay decided.
    pub replayed: Decisions,
}

/// What a replay found.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// The header.
    pub header: Header,
    /// Lines, the header included.
    pub lines: u64,
    /// Inputs, changes of the policies included.
    pub inputs: u64,
    /// Times that something was decided.
    pub decisions: u64,
    /// How many of these were not as recorded.
    pub different: u64,
    /// The first of them.
    pub difference: Option<Difference>,
    /// Lines that the recorder missed.
    pub missed: u64,
    /// Where it missed the first: from here on, decisions may differ.
    pub missed_from: Option<u64>,
    /// Time of the last line.
    pub end: Time,
    /// Why the recording ended; `None` when the file doesn't say.
    pub ended: Option<String>,
}

/// Replays a recording; `event` gets each event with its time as it happens, also those before a line that is wrong.
///
/// # Errors
/// When the file is none of ours, of another version, or a line is wrong; the error names the line.
pub fn replay(mut file: impl BufRead, mut event: impl FnMut(Time, &EngineEvent)) -> Result<Outcome, ReplayError> {
    let mut text = Vec::new();
    let whole = read_line(&mut file, 1, &mut text)?;
    let header = header(&text, whole)?;
    let mut replayer = Replayer::new(header)?;
    while read_next(&mut file, replayer.outcome.lines + 1, &mut text)? {
        let number = replayer.outcome.lines + 1;
        let line: Line = serde_json::from_slice(&text)
            .map_err(|error| ReplayError::Line { line: number, problem: error.to_string() })?;
        replayer.take(number, line, &mut event)?;
    }
    Ok(replayer.finish(&mut event))
}

/// `false` at the end of the file.
fn read_next(file: &mut impl BufRead, line: u64, text: &mut Vec<u8>) -> Result<bool, ReplayError> {
    match read_line(file, line, text)? {
        true => Ok(true),
        false if text.is_empty() => Ok(false),
        false => Err(ReplayError::CutOff { line }),
    }
}

/// Whether the line has its end.
fn read_line(file: &mut impl BufRead, line: u64, text: &mut Vec<u8>) -> Result<bool, ReplayError> {
    text.clear();
    let read = file.take(LONGEST_LINE).read_until(b'\n', text).map_err(|source| ReplayError::Read { line, source })?;
    if read as u64 == LONGEST_LINE {
        let problem = format!("it is longer than {LONGEST_LINE} bytes");
        return Err(match line {
            1 => ReplayError::Foreign { problem },
            _ => ReplayError::Line { line, problem },
        });
    }
    Ok(text.last() == Some(&b'\n'))
}

fn header(text: &[u8], whole: bool) -> Result<Header, ReplayError> {
    let foreign = |problem: &dyn ToString| ReplayError::Foreign { problem: problem.to_string() };
    if text.is_empty() {
        return Err(foreign(&"the file is empty"));
    }
    // The version first: of another one, the rest may look different.
    let value: serde_json::Value = serde_json::from_slice(text).map_err(|error| match whole {
        true => foreign(&error),
        false if text.starts_with(b"{\"sdwan-recording\"") => ReplayError::CutOff { line: 1 },
        false => foreign(&error),
    })?;
    let found = value.get("sdwan-recording").and_then(serde_json::Value::as_u64);
    let found = found.ok_or_else(|| foreign(&"it has no number \"sdwan-recording\""))?;
    if found != u64::from(VERSION) {
        let program = value.get("program").and_then(serde_json::Value::as_str).unwrap_or("unknown");
        return Err(ReplayError::Version { found, program: program.into() });
    }
    serde_json::from_value(value).map_err(|error| foreign(&error))
}

struct Replayer {
    engine: Engine,
    outcome: Outcome,
    /// The last line let the engine work; what it decided comes next, or it decided nothing.
    worked: bool,
}

impl Replayer {
    fn new(header: Header) -> Result<Self, ReplayError> {
        let compilation = header.policies.compile().map_err(|source| ReplayError::Policies { line: 1, source })?;
        let engine = Engine::new(header.settings.clone(), header.local.clone(), Arc::new(compilation));
        let outcome = Outcome {
            lines: 1,
            inputs: 0,
            decisions: 0,
            different: 0,
            difference: None,
            missed: 0,
            missed_from: None,
            end: header.started,
            ended: None,
            header,
        };
        Ok(Self { engine, outcome, worked: false })
    }

    fn take(&mut self, number: u64, line: Line, event: &mut impl FnMut(Time, &EngineEvent)) -> Result<(), ReplayError> {
        let Line { at, entry } = line;
        // The probes that are due may follow the deadlines, and what both decided is recorded together.
        if !matches!(entry, Entry::Changed(_) | Entry::Probes) {
            self.unrecorded(event);
        }
        match entry {
            Entry::Input(input) => {
                self.outcome.inputs += 1;
                self.engine.handle(input, at);
            }
            Entry::Policies(policies) => {
                self.outcome.inputs += 1;
                let compilation =
                    policies.compile().map_err(|source| ReplayError::Policies { line: number, source })?;
                self.engine.set_policies(Arc::new(compilation), at);
            }
            Entry::Poll => {
                self.engine.poll(at);
                self.worked = true;
            }
            Entry::Probes => {
                while self.engine.next_probe(at).is_some() {}
                self.worked = true;
            }
            Entry::Changed(recorded) => {
                self.worked = false;
                let replayed = self.decisions().unwrap_or_default();
                self.compare(number, at, *recorded, replayed, event);
            }
            Entry::Missed(count) => {
                self.outcome.missed += count;
                self.outcome.missed_from.get_or_insert(number);
            }
            Entry::Ended(why) => self.outcome.ended = Some(why),
        }
        self.outcome.lines = number;
        self.outcome.end = self.outcome.end.max(at);
        Ok(())
    }

    fn decisions(&mut self) -> Option<Decisions> {
        let changes = self.engine.take_changes();
        (!changes.is_empty()).then(|| Decisions::of(&changes, &self.engine))
    }

    /// The engine decided something when it was let work, and the recording doesn't say so.
    fn unrecorded(&mut self, event: &mut impl FnMut(Time, &EngineEvent)) {
        if std::mem::take(&mut self.worked)
            && let Some(replayed) = self.decisions()
        {
            self.compare(self.outcome.lines, self.outcome.end, Decisions::default(), replayed, event);
        }
    }

    fn compare(
        &mut self,
        line: u64,
        at: Time,
        recorded: Decisions,
        replayed: Decisions,
        event: &mut impl FnMut(Time, &EngineEvent),
    ) {
        self.outcome.decisions += 1;
        replayed.events.iter().for_each(|happened| event(at, happened));
        if recorded != replayed {
            self.outcome.different += 1;
            self.outcome.difference.get_or_insert(Difference { line, at, recorded, replayed });
        }
    }

    fn finish(mut self, event: &mut impl FnMut(Time, &EngineEvent)) -> Outcome {
        self.unrecorded(event);
        // What the last inputs did was never asked for, because the daemon stopped before.
        for happened in self.engine.take_changes().events {
            event(self.outcome.end, &happened);
        }
        self.outcome
    }
}
