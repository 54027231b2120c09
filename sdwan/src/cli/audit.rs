//! `sdwan audit`.

use serde_json::Value;

use super::output::{Output, Tone};
use super::{Context, Exit, when};
use crate::api::client::ClientError;
use crate::api::server::AuditListQuery;
use crate::api::views::{AuditView, Listing};
use crate::store::AuditOutcome;

/// Options of `sdwan audit`.
#[derive(clap::Args, Clone, Debug)]
#[command(after_help = "\
Times are UTC. Without a daemon, the changes are read from its database.

Examples:
  sdwan audit --since 1d
  sdwan audit -n 1000 -o json")]
pub(super) struct Args {
    /// Only changes since then: how long ago (10m, 2h, 1d), or 2026-11-23T09:19 (UTC)
    #[arg(long, value_name = "WHEN")]
    since: Option<String>,
    /// Most changes: the latest ones
    #[arg(long, short = 'n', default_value_t = 100, value_name = "COUNT")]
    limit: usize,
}

impl Args {
    pub(super) async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let since = self.since.as_deref().map(|text| when::parse(text, when::now_ns()));
        let query = AuditListQuery { since: since.transpose().map_err(anyhow::Error::msg)?, limit: self.limit };
        let listing = match context.client()?.audit(&query).await {
            Err(away @ (ClientError::NotRunning { .. } | ClientError::Gone { .. })) => {
                let (_, database) = context.database(away)?;
                let question = query.to_store().map_err(anyhow::Error::msg)?;
                let listing = query.listing(database.audit(&question)?);
                eprintln!("note: no daemon answers; these changes are from its database");
                listing
            }
            answer => answer?,
        };
        context.output.print(&listing, |output| render(&listing, output))?;
        Ok(Exit::Ok)
    }
}

/// The lines.
pub(super) fn render(changes: &Listing<AuditView>, output: &Output) -> String {
    let mut text = String::new();
    if changes.truncated {
        text.push_str("… and earlier ones: raise --limit\n");
    }
    for AuditView { entry, .. } in &changes.items {
        let tone = match entry.outcome {
            AuditOutcome::Done => Tone::Plain,
            AuditOutcome::Refused => Tone::Warning,
            AuditOutcome::Failed => Tone::Bad,
        };
        let outcome = output.paint(&format!("{:7}", entry.outcome.name()), tone);
        let of = if entry.target.is_empty() { String::new() } else { format!(" {}", entry.target) };
        let (time, who) = (when::display(entry.time_unix_ns), &entry.who);
        text.push_str(&format!("{time}  {outcome}  {}{of}, by {who} from {}\n", entry.action, entry.source));
        text.push_str(&format!("    {}\n", entry.message));
        for (name, value) in [("before", &entry.before), ("after", &entry.after)] {
            if !matches!(value, Value::Null) && value != &Value::Object(Default::default()) {
                text.push_str(&format!("    {name}: {value}\n"));
            }
        }
    }
    if changes.items.is_empty() {
        text.push_str("no change\n");
    }
    text
}
