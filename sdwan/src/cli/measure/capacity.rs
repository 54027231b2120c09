//! `sdwan measure capacity`.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use crate::api::client::Client;
use crate::api::views::{CapacityOrder, CapacityRunView};
use crate::cli::{Context, Exit, Format};
use crate::engine::capacity::Direction;
use crate::engine::capacity::search::Ended;

/// How often the daemon is asked how far it is.
const PAUSE: Duration = Duration::from_millis(200);
/// Columns of the progress bar.
const BAR: usize = 30;

/// Options of `sdwan measure capacity`.
#[derive(clap::Args, Clone, Debug)]
#[command(after_help = "\
The capacity is that of the IP layer below the tunnel: bits of encrypted IP packets per second.
Short trains of packets fill the path for some hundredths of a second, and the other end measures
how fast they come out. Other traffic on the path is part of the result and comes first: the
trains stop when its delay rises.")]
pub(crate) struct Capacity {
    /// SITE, SITE/0-1 or SITE/LOCAL/REMOTE, as `sdwan paths` shows sites and uplinks
    path: String,
    /// Towards the peer [default]
    #[arg(long, conflicts_with = "backward")]
    forward: bool,
    /// From the peer: it is asked to measure, and may refuse
    #[arg(long)]
    backward: bool,
    /// Even if the uplink is metered
    #[arg(long)]
    metered: bool,
}

impl Capacity {
    pub(super) async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let client = context.client()?;
        let direction = if self.backward { Direction::Backward } else { Direction::Forward };
        let order = CapacityOrder { path: self.path, direction, metered: self.metered };
        let run = client.measure_capacity(&order).await?;
        let bar = context.output.format != Format::Json && std::io::stderr().is_terminal();
        let run = watch(&client, run, bar).await?;
        if let Some(error) = &run.error {
            anyhow::bail!("path {} could not be measured: {error}", run.path);
        }
        context.output.print(&run, |_| render(&run))?;
        let found = run.outcome.as_ref().is_some_and(|outcome| outcome.capacity_bps.is_some());
        Ok(if found { Exit::Ok } else { Exit::Failed })
    }
}

/// Waits for the end; shows how far it is where somebody sees it.
async fn watch(client: &Client, mut run: CapacityRunView, bar: bool) -> anyhow::Result<CapacityRunView> {
    while !run.done {
        if bar {
            show(&line(&run))?;
        }
        tokio::time::sleep(PAUSE).await;
        run = client.capacity_run(run.id).await?;
    }
    if bar {
        show("")?;
    }
    Ok(run)
}

/// Puts a text in the place of the last one.
fn show(text: &str) -> std::io::Result<()> {
    let mut stderr = std::io::stderr().lock();
    write!(stderr, "\r\x1b[K{text}")?;
    stderr.flush()
}

/// The progress bar.
fn line(run: &CapacityRunView) -> String {
    let full = (run.progress_pct / 100.0 * BAR as f64).round().clamp(0.0, BAR as f64) as usize;
    let so_far = run.estimate_bps.map(|rate| format!("  {}", rate_text(rate))).unwrap_or_default();
    format!("{} [{}{}]{so_far}", run.path, "#".repeat(full), ".".repeat(BAR - full))
}

/// The result.
fn render(run: &CapacityRunView) -> String {
    let Some(outcome) = &run.outcome else { return String::new() };
    let way = if run.direction == Direction::Forward { "towards the peer" } else { "from the peer" };
    let least = if outcome.ended == Ended::Found { "" } else { "at least " };
    let rate = |rate: Option<u64>| rate.map_or_else(|| "unknown".into(), rate_text);
    let mut text = format!(
        "path {}, {way}\n  capacity     {least}{} (encrypted IP packets)\n  inside       {least}{} (packets in the tunnel)\n",
        run.path,
        rate(outcome.capacity_bps),
        rate(outcome.inner_bps)
    );
    let mut more = |name: &str, value: Option<u64>| {
        if let Some(value) = value {
            text.push_str(&format!("  {name:<12} {}\n", rate_text(value)));
        }
    };
    more("available", outcome.available_bps);
    more("live traffic", outcome.passive_bps);
    if outcome.trains > 0 {
        text.push_str(&format!(
            "  {} trains, {} readings within {:.1} %, {:.1} MB in {:.1} s\n",
            outcome.trains,
            outcome.readings,
            outcome.spread_pct,
            run.sent_bytes as f64 / 1e6,
            outcome.took_s
        ));
    }
    text.push_str(&format!("  {}\n", outcome.note));
    text
}

/// A rate with three digits.
fn rate_text(rate: u64) -> String {
    let rate = rate as f64;
    let (value, unit) = match rate {
        _ if rate >= 1e9 => (rate / 1e9, "Gbit/s"),
        _ if rate >= 1e6 => (rate / 1e6, "Mbit/s"),
        _ => (rate / 1e3, "kbit/s"),
    };
    let digits = if value >= 100.0 {
        0
    } else if value >= 10.0 {
        1
    } else {
        2
    };
    format!("{value:.digits$} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::views::{CapacityOutcomeView, VERSION};

    fn run(direction: Direction, ended: Ended) -> CapacityRunView {
        CapacityRunView {
            version: VERSION,
            id: 1,
            path: "berlin/fibre/lte".into(),
            direction,
            done: true,
            progress_pct: 50.0,
            estimate_bps: Some(98_765_432),
            sent_bytes: 7_300_000,
            outcome: Some(CapacityOutcomeView {
                capacity_bps: Some(98_765_432),
                inner_bps: Some(94_761_428),
                available_bps: Some(50_000_000),
                passive_bps: None,
                ended,
                note: ended.text().into(),
                spread_pct: 0.42,
                readings: 5,
                trains: 13,
                took_s: 4.2,
            }),
            error: None,
        }
    }

    #[test]
    fn a_result_says_what_it_is_and_fits_a_terminal() {
        let text = render(&run(Direction::Forward, Ended::Found));
        assert!(text.contains("capacity     98.8 Mbit/s (encrypted IP packets)"), "{text}");
        assert!(text.contains("available    50.0 Mbit/s"), "{text}");
        assert!(text.contains("13 trains, 5 readings within 0.4 %, 7.3 MB in 4.2 s"), "{text}");
        let bound = render(&run(Direction::Backward, Ended::SenderLimited));
        assert!(bound.contains("from the peer") && bound.contains("at least 98.8 Mbit/s"), "{bound}");
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    }

    #[test]
    fn the_bar_is_filled_by_the_share_done() {
        let line = line(&run(Direction::Forward, Ended::Found));
        assert_eq!(line, format!("berlin/fibre/lte [{}{}]  98.8 Mbit/s", "#".repeat(15), ".".repeat(15)));
    }
}
