//! `sdwan check`: is the machine ready, does it reach the other sites, and if not, what to do.

mod identity;
pub(super) mod machine;
pub(super) mod mesh;
pub(super) mod network;

use serde::Serialize;

use super::output::{Output, Tone};
use super::{Context, Exit};
use crate::api::client::Client;
use crate::api::views::VERSION;
use crate::config::{Config, Options};

/// Options of `sdwan check`.
#[derive(clap::Args, Clone, Debug)]
#[command(after_help = "\
Touches nothing. Exits with 1 when a check failed; warnings alone exit with 0.

With a daemon that runs, other sites are checked, too: an answer by a path proves that the ports at both ends are open.
--machine-only leaves that out.")]
pub(super) struct Args {
    /// Print the configuration that applies, too
    #[arg(long)]
    show_config: bool,
    /// Ask no daemon: look at the machine and the configuration alone
    #[arg(long)]
    machine_only: bool,
    #[command(flatten)]
    options: Options,
}

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Outcome {
    /// As it should be.
    Ok,
    /// Works, with less than it could.
    Warning,
    /// sdwan can't work like this.
    Failed,
}

/// One check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Check {
    /// What was looked at.
    pub name: &'static str,
    /// How it ended.
    pub outcome: Outcome,
    /// One sentence: what was found.
    pub finding: String,
    /// What to do, unless it is as it should be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

impl Check {
    pub(super) fn ok(name: &'static str, finding: impl Into<String>) -> Self {
        Self { name, outcome: Outcome::Ok, finding: finding.into(), remedy: None }
    }

    pub(super) fn warning(name: &'static str, finding: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { name, outcome: Outcome::Warning, finding: finding.into(), remedy: Some(remedy.into()) }
    }

    pub(super) fn failed(name: &'static str, finding: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { name, outcome: Outcome::Failed, finding: finding.into(), remedy: Some(remedy.into()) }
    }
}

#[derive(Serialize)]
struct Report {
    version: u32,
    ok: bool,
    checks: Vec<Check>,
    #[serde(skip_serializing_if = "Option::is_none")]
    config: Option<Config>,
}

impl Args {
    pub(super) async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let mut checks = Vec::new();
        let config = match context.load(self.options) {
            Ok(config) => {
                checks.push(Check::ok("configuration", "is valid"));
                Some(config)
            }
            Err(error) => {
                let remedy = "mend the file; `sdwan config defaults` documents every key";
                checks.push(Check::failed("configuration", error.to_string(), remedy));
                None
            }
        };
        // What doesn't depend on the configuration is checked even when that is wrong.
        checks.extend(machine::checks(config.as_ref()));
        checks.extend(config.as_ref().and_then(stamp_key));
        if let Some(config) = &config {
            checks.extend(network::checks(config).await);
            if !self.machine_only {
                checks.extend(mesh::checks(&Client::new(&config.site.socket)).await);
            }
        }
        let ok = checks.iter().all(|check| check.outcome != Outcome::Failed);
        let report = Report { version: VERSION, ok, checks, config: config.filter(|_| self.show_config) };
        context.output.print(&report, |output| {
            let mut text = render(&report.checks, output);
            if let Some(config) = &report.config {
                text.push('\n');
                text.push_str(&config.to_toml());
            }
            text
        })?;
        Ok(if ok { Exit::Ok } else { Exit::Failed })
    }
}

/// Can the reflector's key be used, if there is one?
fn stamp_key(config: &Config) -> Option<Check> {
    let path = config.stamp.key_file.as_ref()?;
    Some(match config.stamp.settings() {
        Ok(_) => Check::ok("stamp key", format!("{} holds a key", path.display())),
        Err(error) => Check::failed("stamp key", error.to_string(), "mend the file, or `key_file` in [stamp]"),
    })
}

/// One line per check, the remedy below it.
pub(super) fn render(checks: &[Check], output: &Output) -> String {
    let mut text = String::new();
    for check in checks {
        let (word, tone) = match check.outcome {
            Outcome::Ok => ("ok", Tone::Good),
            Outcome::Warning => ("warning", Tone::Warning),
            Outcome::Failed => ("FAILED", Tone::Bad),
        };
        text.push_str(&format!("{} {}: {}\n", output.paint(&format!("{word:8}"), tone), check.name, check.finding));
        if let Some(remedy) = &check.remedy {
            text.push_str(&format!("         → {remedy}\n"));
        }
    }
    text
}
