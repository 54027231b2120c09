//! `sdwan report`.

mod html;
mod plot;
#[cfg(test)]
pub(super) mod tests;
mod text;

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::output::{Output, both, decimal};
use super::{Context, Exit, Format, when};
use crate::api::client::ClientError;
use crate::api::report::{ReportQuery, report};
use crate::api::views::{AvailabilityView, ClassReport, PathReport, QualityView, ReportView};
use crate::trust::state::SiteFiles;

/// Options of `sdwan report`.
#[derive(clap::Args, Clone, Debug)]
#[command(after_help = "\
UP % is the share of the watched time in which a path answered; a provider is up while any path by it is. UNKNOWN is the
time in which nobody watched: the daemon did not run, or there was no such path. RTT in ms; JITTER in ms and LOSS in
percent, to the peer and from it, while the path was up; MOS of a G.711 call. KEPT % is the share of the watched time in
which the path of a class kept its SLA; of a class without bounds, in which it had a path.

Times are UTC. Without a daemon, the report is made from its database.

Examples:
  sdwan report --since 7d
  sdwan report --since 2026-10-01 --until 2026-11-01 -o html --file october.html
  sdwan report -o json")]
pub(super) struct Args {
    /// Begin: how long ago (10m, 2h, 30d), or 2026-11-23T09:19 (UTC)
    #[arg(long, value_name = "WHEN", default_value = "1d")]
    since: String,
    /// End, written likewise [default: now]
    #[arg(long, value_name = "WHEN")]
    until: Option<String>,
    /// Write the report to this file, instead of a former one
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
}

impl Args {
    pub(super) async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let format = context.output.format;
        anyhow::ensure!(
            format != Format::Html || self.file.is_some() || !std::io::stdout().is_terminal(),
            "a page for a browser is nothing for a terminal: write it to a file with --file"
        );
        let view = self.view(context).await?;
        let output = if self.file.is_some() { Output::for_file(format) } else { context.output };
        let text = match format {
            Format::Table | Format::Wide => text::render(&view, &output),
            Format::Json => serde_json::to_string_pretty(&view)? + "\n",
            Format::Html => html::render(&view),
        };
        match &self.file {
            Some(file) => write(file, &text)?,
            None => context.output.write(&text)?,
        }
        Ok(Exit::Ok)
    }

    fn query(&self, now_ns: i64) -> anyhow::Result<ReportQuery> {
        let seconds = |text: &str| when::parse(text, now_ns).map(|ns| ns.div_euclid(1_000_000_000));
        let until = self.until.as_deref().map(seconds).transpose().map_err(anyhow::Error::msg)?;
        let now = now_ns.div_euclid(1_000_000_000);
        // The rest of what is asked for is still to come.
        let until = until.unwrap_or(now).min(now);
        Ok(ReportQuery { since: seconds(&self.since).map_err(anyhow::Error::msg)?, until })
    }

    async fn view(&self, context: &Context) -> anyhow::Result<ReportView> {
        let query = self.query(when::now_ns())?;
        let span = query.span().map_err(anyhow::Error::msg)?;
        match context.client()?.report(&query).await {
            Err(away @ (ClientError::NotRunning { .. } | ClientError::Gone { .. })) => {
                let (config, reader) = context.database(away)?;
                let view = report(&reader, span)?;
                eprintln!("note: no daemon answers; this report is from its database");
                // The name is a nicety: whoever may read the database may not read the keys.
                let name = SiteFiles::new(&config.site.state_dir).load().ok().and_then(|state| state.certificate);
                let site_name = config.site.name.or(name.map(|certificate| certificate.content.name));
                Ok(ReportView { site_name, ..view })
            }
            answer => Ok(answer?),
        }
    }
}

/// Puts the text into the file at once: whoever reads it meanwhile sees the former one.
fn write(file: &Path, text: &str) -> anyhow::Result<()> {
    let mut name = file.as_os_str().to_owned();
    name.push(format!(".{}", std::process::id()));
    let early = PathBuf::from(name);
    let written = std::fs::File::create(&early)
        .and_then(|mut early| early.write_all(text.as_bytes()))
        .and_then(|()| std::fs::rename(&early, file));
    if written.is_err() {
        // It may not even have been made.
        let _ = std::fs::remove_file(&early);
    }
    written.with_context(|| format!("cannot write {}: check the directory, or choose another file", file.display()))
}

/// `2026-11-23 09:19`, UTC.
fn minute(unix_s: i64) -> String {
    when::minute(unix_s.saturating_mul(1_000_000_000))
}

/// Uplink pair of a path.
fn uplinks(path: &PathReport) -> String {
    format!("{}→{}", path.local_uplink, path.remote_uplink)
}

/// Bounds of a class.
fn sla(class: &ClassReport) -> &str {
    if class.sla.is_empty() { "none" } else { &class.sla }
}

/// For how long something was up: the share, down, and not watched.
fn up_cells(up: &AvailabilityView) -> [String; 3] {
    [share(up.availability_pct), span(up.down_s), span(up.unknown_s)]
}

/// Round-trip time, jitter and loss out and in, and MOS.
fn quality_cells(quality: &QualityView) -> [String; 4] {
    [
        decimal(quality.rtt_ms),
        both(quality.jitter_forward_ms, quality.jitter_backward_ms),
        both(quality.loss_forward_pct, quality.loss_backward_pct),
        decimal(quality.mos),
    ]
}

/// `99.95`: never more than it was. `-`: nothing is known.
fn share(percent: Option<f64>) -> String {
    percent.map_or_else(|| "-".into(), |percent| format!("{:.3}", (percent * 1e3).floor() / 1e3))
}

/// Seconds as `2m5s`; `-` for none at all.
fn span(seconds: f64) -> String {
    match seconds {
        ..0.001 => "-".into(),
        ..0.5 => "<1s".into(),
        _ => super::output::age(seconds.round() as u64),
    }
}

/// What can't be told, for people; each is a sentence.
fn gaps(view: &ReportView) -> Vec<String> {
    let mut gaps = Vec::new();
    match view.history_begins_unix_s {
        None => gaps.push("nothing was recorded yet: the daemon writes every 10 s".into()),
        Some(begins) if begins > view.since_unix_s + 60 => {
            gaps.push(format!("the history begins at {}: what was before is unknown", minute(begins)));
        }
        Some(_) => {}
    }
    if let Some(begins) = view.events_begin_unix_s.filter(|begins| *begins > view.since_unix_s + 60)
        && view.history_begins_unix_s.is_some_and(|history| begins > history + 60)
    {
        gaps.push(format!("events are kept since {}: earlier failovers are not listed", minute(begins)));
    }
    gaps
}
