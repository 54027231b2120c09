//! `sdwan validate`.

use std::path::PathBuf;

use serde::Serialize;

use super::{Context, Exit, Format};
use crate::api::views::VERSION;
use crate::config::{self, Config, ConfigError, DEFAULT_FILE, Options, Origin, Problems};
use crate::store::Reader;

/// Options of `sdwan validate`.
#[derive(clap::Args, Clone, Debug)]
#[command(after_help = "\
Changes nothing and asks no daemon: for a file before it is installed, or in a pipeline. Exits with 1 when it is wrong.
`sdwan check` looks at the machine, too; `sdwan config show` prints what applies.

Examples:
  sdwan validate new.toml && install -m 600 new.toml /etc/sdwan/sdwan.toml && sdwan reload
  sdwan validate -o json new.toml")]
pub(super) struct Args {
    /// The file [default: that of --config, else /etc/sdwan/sdwan.toml]
    file: Option<PathBuf>,
}

/// What was found.
#[derive(Debug, Serialize)]
struct Verdict {
    version: u32,
    file: PathBuf,
    valid: bool,
    problems: Vec<ProblemView>,
}

/// One thing that is wrong.
#[derive(Debug, Serialize)]
struct ProblemView {
    key: String,
    line: Option<usize>,
    column: Option<usize>,
    message: String,
    remedy: Option<String>,
}

impl Args {
    pub(super) fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let file = self.file.or_else(|| context.global.config.clone()).unwrap_or_else(|| DEFAULT_FILE.into());
        let outcome = config::load(&Options { config: Some(file.clone()), ..Options::default() });
        let (summary, problems) = match &outcome {
            Ok(config) => match with_stored(config) {
                Ok(note) => (format!("{} is valid: {}{note}\n", file.display(), contents(config)), Vec::new()),
                Err(message) => (String::new(), vec![whole(message)]),
            },
            Err(ConfigError::Invalid(problems)) => (String::new(), listed(problems)),
            Err(error @ ConfigError::Read { .. }) => (String::new(), vec![whole(error.to_string())]),
        };
        let valid = problems.is_empty();
        let verdict = Verdict { version: VERSION, file, valid, problems };
        if !valid && context.output.format != Format::Json {
            // With the lines that are wrong, where there are any.
            match outcome {
                Err(error) => return Err(error.into()),
                Ok(_) => anyhow::bail!(verdict.problems.into_iter().map(|problem| problem.message).collect::<String>()),
            }
        }
        context.output.print(&verdict, |_| summary)?;
        Ok(if valid { Exit::Ok } else { Exit::Failed })
    }
}

/// The operator's policies in the database must go with those of the file, or the daemon wouldn't start.
fn with_stored(config: &Config) -> Result<String, String> {
    let database = &config.site.database;
    let stored = match Reader::open(database).and_then(|reader| reader.policies()) {
        Ok(stored) => stored,
        // A file for another machine, or somebody who may not read ours.
        Err(_) => return Ok(String::new()),
    };
    config::compile_with(config, &stored)
        .map_err(|error| format!("the file doesn't go with the policies in {}: {error}", database.display()))?;
    Ok(match stored.len() {
        0 => String::new(),
        1 => ", and goes with the stored policy".into(),
        count => format!(", and goes with the {count} stored policies"),
    })
}

fn contents(config: &Config) -> String {
    let count = |count: usize, what: &str, many: &str| match count {
        0 => format!("no {what}"),
        1 => format!("1 {what}"),
        count => format!("{count} {many}"),
    };
    let uplinks = match config.uplinks.len() {
        0 => "uplinks found by their default routes".into(),
        uplinks => count(uplinks, "uplink", "uplinks"),
    };
    let policies = count(config.policies.len(), "policy", "policies");
    format!("{uplinks}, {policies}, {}", count(config.drops.len(), "drop rule", "drop rules"))
}

fn listed(problems: &Problems) -> Vec<ProblemView> {
    let view = |problem: &config::Problem| {
        let place = match &problem.origin {
            Origin::File(span) => Some(problems.position(span.start)),
            Origin::Option(_) | Origin::Default => None,
        };
        ProblemView {
            key: problem.key.clone(),
            line: place.map(|(line, ..)| line),
            column: place.map(|(_, column, _)| column),
            message: problem.message.clone(),
            remedy: problem.remedy.clone(),
        }
    };
    problems.problems.iter().map(view).collect()
}

fn whole(message: String) -> ProblemView {
    ProblemView { key: String::new(), line: None, column: None, message, remedy: None }
}
