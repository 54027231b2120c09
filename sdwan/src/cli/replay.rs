//! `sdwan replay`.

use std::fs::File;
use std::io::BufReader;
use std::path::PathBuf;

use anyhow::Context as _;
use serde::Serialize;

use super::output::Output;
use super::{Exit, Format, events, when};
use crate::api::views::{EventView, VERSION};
use crate::engine::Time;
use crate::engine::types::SiteId;
use crate::recording::{self, Difference, Outcome};

/// Options of `sdwan replay`.
#[derive(clap::Args, Clone, Debug)]
#[command(after_help = "\
The engine runs in virtual time: an hour takes seconds, needs no privileges, and touches nothing. Times are UTC.

Examples:
  sdwan replay /var/lib/sdwan/engine.jsonl
  sdwan replay --check engine.jsonl       fails unless every decision is as it was recorded
  sdwan replay -o json engine.jsonl")]
pub(super) struct Args {
    /// The recording
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Fail when a decision isn't as recorded
    #[arg(long)]
    check: bool,
}

/// What `-o json` prints.
#[derive(Serialize)]
struct ReplayView {
    version: u32,
    /// The site that recorded.
    site: SiteId,
    name: String,
    /// Version of the program that recorded.
    program: String,
    started_unix_ns: i64,
    ended_unix_ns: i64,
    /// Why the recording ended; null when the file doesn't say.
    ended: Option<String>,
    lines: u64,
    inputs: u64,
    decisions: u64,
    /// Decisions that aren't as recorded.
    different: u64,
    /// The first of them.
    difference: Option<DifferenceView>,
    /// Lines that the recorder missed.
    missed: u64,
    /// Line at which it missed the first.
    missed_from: Option<u64>,
    items: Vec<EventView>,
}

#[derive(Serialize)]
struct DifferenceView {
    line: u64,
    time_unix_ns: i64,
    recorded: recording::Decisions,
    replayed: recording::Decisions,
}

impl Args {
    pub(super) fn run(self, output: &Output) -> anyhow::Result<Exit> {
        let name = self.file.display();
        let file = File::open(&self.file).with_context(|| format!("cannot open {name}"))?;
        let mut happened = Vec::new();
        let outcome = recording::replay(BufReader::new(file), |at, event| happened.push((at, event.clone())));
        let outcome = match outcome {
            Ok(outcome) => outcome,
            Err(error) => {
                // What came before the line that is wrong is still worth seeing.
                if output.format != Format::Json {
                    for (_, event) in &happened {
                        output.write(&format!("{:20} {}\n", event.kind.name(), event.message))?;
                    }
                }
                return Err(error).with_context(|| name.to_string());
            }
        };
        let unix = |at: Time| unix_ns(&outcome, at);
        let items = happened.into_iter().zip(1..);
        let items = items.map(|((at, event), id)| EventView { id, time_unix_ns: unix(at), event }).collect();
        let view = view(&outcome, items);
        output.print(&view, |output| render(&view, &outcome, output))?;
        Ok(if self.check && view.different > 0 { Exit::Failed } else { Exit::Ok })
    }
}

fn unix_ns(outcome: &Outcome, at: Time) -> i64 {
    let started = i128::from(outcome.header.started_unix_ns) - i128::from(outcome.header.started.0);
    i64::try_from(started + i128::from(at.0)).unwrap_or(i64::MAX)
}

fn view(outcome: &Outcome, items: Vec<EventView>) -> ReplayView {
    let difference = |found: &Difference| DifferenceView {
        line: found.line,
        time_unix_ns: unix_ns(outcome, found.at),
        recorded: found.recorded.clone(),
        replayed: found.replayed.clone(),
    };
    ReplayView {
        version: VERSION,
        site: outcome.header.site,
        name: outcome.header.name.clone(),
        program: outcome.header.program.clone(),
        started_unix_ns: unix_ns(outcome, outcome.header.started),
        ended_unix_ns: unix_ns(outcome, outcome.end),
        ended: outcome.ended.clone(),
        lines: outcome.lines,
        inputs: outcome.inputs,
        decisions: outcome.decisions,
        different: outcome.different,
        difference: outcome.difference.as_ref().map(difference),
        missed: outcome.missed,
        missed_from: outcome.missed_from,
        items,
    }
}

fn render(view: &ReplayView, outcome: &Outcome, output: &Output) -> String {
    let mut text = format!("site {} ({}), recorded by sdwan {}\n", view.name, view.site, view.program);
    for event in &view.items {
        text.push_str(&events::line(event, output));
        text.push('\n');
    }
    let seconds = outcome.end.since(outcome.header.started).as_secs_f64();
    text.push_str(&format!("{} inputs in {seconds:.1} s, {} decisions", view.inputs, view.decisions));
    text.push_str(&match view.different {
        0 => ", all as recorded\n".to_owned(),
        different => format!(", {different} not as recorded\n"),
    });
    if let Some(line) = view.missed_from {
        let why = "the disk was too slow or full; from there on, decisions may differ from those of then";
        text.push_str(&format!("{} lines are missing from line {line} on: {why}\n", view.missed));
    }
    match &view.ended {
        Some(why) => text.push_str(&format!("the recording ended because {why}\n")),
        None => text.push_str("the recording has no end: the daemon still runs, or was killed\n"),
    }
    if let Some(found) = &view.difference {
        let json = |decisions| serde_json::to_string(decisions).unwrap_or_else(|error| error.to_string());
        let at = when::display(found.time_unix_ns);
        text.push_str(&format!(
            "first difference: line {}, {at}\n  recorded: {}\n  replayed: {}\n",
            found.line,
            json(&found.recorded),
            json(&found.replayed)
        ));
    }
    text
}
