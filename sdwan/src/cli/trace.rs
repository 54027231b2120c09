//! `sdwan trace FLOW`.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::explain::FlowEnds;
use super::output::{Output, Tone, short};
use super::{Context, Exit, Format, when};
use crate::api::client::{Client, ClientError};
use crate::api::views::{TraceOrder, TraceView, TracedView, VerdictView};
use crate::config::units::Span;

/// How often it asks for more.
const PAUSE: Duration = Duration::from_millis(200);
/// After so long without a packet it says what may be the matter.
const NOTHING: Duration = Duration::from_secs(3);

/// Options of `sdwan trace`.
#[derive(clap::Args, Clone, Debug)]
#[command(after_help = "\
Each line is a packet at a program: → is a packet of the flow, ← one of its answers. lan_ingress decides about what comes
from the LAN, tunnel_ingress about what comes out of a tunnel; tunnel_egress sees what the kernel's stack sends into one.

While nobody traces, packets pay nothing for it; while somebody does, those of other flows pay some 40 ns each. A trace
ends with this command, and by itself a few seconds after it or the daemon is killed. There is one at a time. Packets that a
drop rule drops, or that no program can parse, are not seen.

Examples:
  sdwan trace 10.1.0.5:40000 10.2.0.9:5060 udp
  sdwan trace 10.1.0.5:40000 10.2.0.9:443 tcp --changes --for 10m
  sdwan trace [2001:db8:1::5]:77 2001:db8:2::9 icmpv6 --limit 10 -o json")]
pub(super) struct Args {
    #[command(flatten)]
    flow: FlowEnds,
    /// Only packets with which something changes: the decision, the path, the verdict
    #[arg(long)]
    changes: bool,
    /// End after so long, such as 30s or 5m [default: when interrupted]
    #[arg(long = "for", value_name = "TIME")]
    time: Option<Span>,
    /// End after so many packets
    #[arg(long, short = 'n', value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    /// Most packets that each processor tells of in a second; of the rest, only the number is told
    #[arg(long, value_name = "COUNT", default_value_t = TraceOrder::PER_SECOND,
        value_parser = clap::value_parser!(u32).range(1..=i64::from(TraceOrder::MOST_PER_SECOND)))]
    per_second: u32,
}

impl Args {
    pub(super) async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let client = context.client()?;
        let order = TraceOrder { flow: self.flow.clone().flow()?, per_second: self.per_second };
        let begun = client.trace(&order).await?;
        if context.output.format != Format::Json {
            eprintln!("tracing {}; end it with Ctrl-C", begun.flow);
        }
        let mut shown = Shown { changes: self.changes, limit: self.limit, ..Shown::default() };
        let told = tokio::select! {
            told = self.follow(context, &client, begun.id, &mut shown) => told,
            interrupted = tokio::signal::ctrl_c() => interrupted.map_err(Into::into),
        };
        // A trace that is over already, or a daemon that is gone, needs no word.
        let ended = client.end_trace(begun.id).await;
        told?;
        match ended {
            Ok(_) | Err(ClientError::Refused { status: 404, .. } | ClientError::NotRunning { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        if context.output.format != Format::Json {
            eprintln!("{}", shown.summary());
        }
        Ok(Exit::Ok)
    }

    async fn follow(&self, context: &Context, client: &Client, id: u32, shown: &mut Shown) -> anyhow::Result<()> {
        let start = Instant::now();
        let mut hinted = false;
        loop {
            let view = client.traced(id, shown.last).await?;
            context.output.write(&shown.take(&view, &context.output)?)?;
            let over = self.time.is_some_and(|Span(time)| start.elapsed() >= time);
            if over || shown.full() {
                return Ok(());
            }
            if shown.told == 0 && !hinted && start.elapsed() >= NOTHING {
                hinted = true;
                eprintln!(
                    "no packet of this flow so far: `sdwan flows` lists those that there are, `sdwan explain` says what \
                     would become of one"
                );
            }
            // What waits is fetched at once.
            if view.items.is_empty() {
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// What was shown so far.
#[derive(Debug, Default)]
pub(super) struct Shown {
    pub(super) changes: bool,
    pub(super) limit: Option<u64>,
    /// Number of the last packet that came.
    last: u64,
    told: u64,
    lines: u64,
    withheld: u64,
    lost: u64,
    /// What became of the last packet, by program and direction.
    former: HashMap<(String, bool), Fate>,
}

/// What doesn't change from packet to packet, unless something happens.
type Fate = (VerdictView, Option<String>, Option<u32>, Option<u32>, Option<String>);

fn fate(packet: &TracedView) -> Fate {
    let number = |path: &Option<crate::api::views::FlowPathView>| path.as_ref().map(|path| path.number);
    (packet.verdict, packet.reason.clone(), number(&packet.path), number(&packet.second), packet.class.clone())
}

impl Shown {
    /// Takes what came; gives the lines to show.
    pub(super) fn take(&mut self, view: &TraceView, output: &Output) -> anyhow::Result<String> {
        let mut text = String::new();
        for packet in &view.items {
            self.last = packet.number;
            if self.full() {
                break;
            }
            self.told += 1;
            let former = self.former.insert((packet.program.clone(), packet.reverse), fate(packet));
            let known = packet.decision.as_deref().is_none_or(|decision| decision == "known");
            if self.changes && known && former.is_some_and(|former| former == fate(packet)) {
                continue;
            }
            self.lines += 1;
            match output.format {
                Format::Json => text.push_str(&serde_json::to_string(packet)?),
                _ => text.push_str(&line(packet, output)),
            }
            text.push('\n');
        }
        (self.withheld, self.lost) = (view.withheld, view.lost);
        Ok(text)
    }

    fn full(&self) -> bool {
        self.limit.is_some_and(|limit| self.lines >= limit)
    }

    /// How many packets there were.
    pub(super) fn summary(&self) -> String {
        let mut text = format!("{} packets told of", short(self.told));
        if self.withheld > 0 {
            text.push_str(&format!(", {} more were not: see --per-second", short(self.withheld)));
        }
        if self.lost > 0 {
            text.push_str(&format!(", {} came faster than they were shown", short(self.lost)));
        }
        text
    }
}

/// One packet on one line.
fn line(packet: &TracedView, output: &Output) -> String {
    let tone = match packet.verdict {
        VerdictView::Forwarded => Tone::Plain,
        VerdictView::Stack => Tone::Warning,
        VerdictView::Dropped => Tone::Bad,
    };
    let time = when::microsecond(packet.time_unix_ns);
    let arrow = if packet.reverse { '←' } else { '→' };
    let message = output.paint(&packet.message, tone);
    if !output.wide() {
        return format!("{time} {arrow} {:14} {message}", packet.program);
    }
    let syn = if packet.syn { " SYN" } else { "" };
    let bundle = if packet.segments > 1 { format!(" in {}", packet.segments) } else { String::new() };
    let size = format!("{} B{bundle}", packet.bytes);
    format!(
        "{time} {arrow} {:14} {:10} {size:>8} TTL {:3}{syn}  {message}",
        packet.program, packet.interface, packet.ttl
    )
}
