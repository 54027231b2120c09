//! `sdwan paths`.

use super::output::{Output, Tone, age, both, decimal, number, short, toned};
use super::watch::Watch;
use super::{Context, Exit};
use crate::api::client::Client;
use crate::api::views::{Listing, PathView};
use crate::engine::path::PathState;

/// Options of `sdwan paths`.
#[derive(clap::Args, Clone, Debug)]
#[command(after_help = "\
SCORE is 0 to 100: 40 % latency, 30 % jitter, 30 % loss. RTT in ms; JITTER in ms and LOSS in percent,
to the peer and from it. `-o wide` adds MOS, the loss of the data itself, the RTT of TCP, capacities, bytes, the
tunnel and where it leads; `-o json` has everything.

With --quantiles, round-trip times in ms over the last minute, 15 minutes and 24 hours: smallest, median,
95 %, 99 %, largest; JITTER is the mean over the span.")]
pub(super) struct Args {
    /// Only paths to this site, by name or id
    site: Option<String>,
    /// What the paths did over the last minute, 15 minutes and 24 hours
    #[arg(long)]
    quantiles: bool,
    #[command(flatten)]
    watch: Watch,
}

impl Args {
    pub(super) async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let client = context.client()?;
        self.watch.run(context, async || self.show(context, &client).await).await
    }

    async fn show(&self, context: &Context, client: &Client) -> anyhow::Result<Exit> {
        let mut paths = client.paths().await?;
        if let Some(site) = &self.site {
            let known = paths.items.iter().any(|path| is(path, site));
            anyhow::ensure!(known, "there is no path to a site {site:?}: `sdwan sites` lists the sites");
            paths = Listing { items: paths.items.into_iter().filter(|path| is(path, site)).collect(), ..paths };
        }
        let render = if self.quantiles { render_quantiles } else { render };
        context.output.print(&paths, |output| render(&paths.items, output))?;
        Ok(Exit::Ok)
    }
}

fn is(path: &PathView, site: &str) -> bool {
    path.site_name == site || path.site.to_string() == site
}

/// A state as people read it, and what it means.
pub(super) fn state(state: PathState, degraded: bool) -> (&'static str, Tone) {
    match state {
        PathState::Up if degraded => ("degraded", Tone::Warning),
        PathState::Up => ("up", Tone::Good),
        PathState::Starting => ("starting", Tone::Plain),
        PathState::Recovering => ("recovering", Tone::Warning),
        PathState::Down => ("down", Tone::Bad),
    }
}

const NO_PATH: &str = "no path: no remote site is known, or no uplink is up (`sdwan status`)\n";

pub(super) fn uplinks(path: &PathView) -> String {
    format!("{}→{}", path.local_uplink, path.remote_uplink)
}

/// The table.
pub(super) fn render(paths: &[PathView], output: &Output) -> String {
    if paths.is_empty() {
        return NO_PATH.into();
    }
    let mut headings = vec!["SITE", "UPLINKS", "STATE", "SCORE", "RTT", "JITTER", "LOSS", "MTU", "SINCE"];
    if output.wide() {
        headings.extend(["MOS", "DATA LOSS", "TCP RTT", "CAPACITY", "SENT", "RECEIVED", "INTERFACE", "ENDPOINT"]);
    }
    let mut table = output.table(&headings);
    for path in paths {
        let (state, tone) = state(path.state, path.degraded);
        let mut row = vec![
            path.site_name.clone().into(),
            uplinks(path).into(),
            toned(state, tone),
            number(format!("{:.0}", path.score)),
            number(decimal(path.rtt_ms)),
            number(both(Some(path.jitter_forward_ms), Some(path.jitter_backward_ms))),
            number(both(path.loss_forward_pct, path.loss_backward_pct)),
            number(path.mtu),
            number(age(path.since_s)),
        ];
        if output.wide() {
            let rate = |rate: Option<u64>| rate.map_or_else(|| "-".into(), |rate| format!("{}bit/s", short(rate)));
            row.extend([
                number(decimal(path.mos)),
                number(both(path.data_loss_forward_pct, path.data_loss_backward_pct)),
                number(decimal(path.tcp_rtt_ms)),
                number(format!("{}/{}", rate(path.capacity_bps), rate(path.capacity_backward_bps))),
                number(short(path.sent_bytes)),
                number(short(path.received_bytes)),
                path.interface.clone().into(),
                path.endpoint.clone().unwrap_or_else(|| "-".into()).into(),
            ]);
        }
        table.add_row(row);
    }
    output.text(&mut table)
}

/// The table of what the paths did over longer spans.
pub(super) fn render_quantiles(paths: &[PathView], output: &Output) -> String {
    if paths.is_empty() {
        return NO_PATH.into();
    }
    let header = ["SITE", "UPLINKS", "SPAN", "MIN", "P50", "P95", "P99", "MAX", "JITTER", "LOSS"];
    let mut table = output.table(&header);
    for path in paths {
        for span in &path.spans {
            let time = |milliseconds: f64| number(decimal(Some(milliseconds)));
            table.add_row(vec![
                path.site_name.clone().into(),
                uplinks(path).into(),
                number(age(span.span_s)),
                time(span.rtt_min_ms),
                time(span.rtt_p50_ms),
                time(span.rtt_p95_ms),
                time(span.rtt_p99_ms),
                time(span.rtt_max_ms),
                number(both(Some(span.jitter_forward_ms), Some(span.jitter_backward_ms))),
                number(both(span.loss_forward_pct, span.loss_backward_pct)),
            ]);
        }
    }
    output.text(&mut table)
}
