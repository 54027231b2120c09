//! `sdwan explain FLOW`.

use super::output::{Output, Tone, number, toned};
use super::paths::state;
use super::{Context, Exit};
use crate::api::flow::{Endpoint, FlowSpec};
use crate::api::views::ExplainView;
use crate::engine::policy::{Dscp, Protocol};

/// The ends of a flow on the command line.
#[derive(clap::Args, Clone, Debug)]
pub(super) struct FlowEnds {
    /// Source, as ADDRESS:PORT, [IPV6]:PORT, or ADDRESS for protocols without ports
    #[arg(value_name = "SOURCE")]
    source: Endpoint,
    /// Destination, written likewise
    #[arg(value_name = "DESTINATION")]
    destination: Endpoint,
    /// IP protocol: tcp, udp, icmp, icmpv6, or a number
    #[arg(value_name = "PROTOCOL")]
    protocol: Protocol,
}

/// A flow on the command line, and what else its packets are classified by.
#[derive(clap::Args, Clone, Debug)]
pub(super) struct FlowArgs {
    #[command(flatten)]
    ends: FlowEnds,
    /// DSCP of the packets, by name or number
    #[arg(long, default_value = "0", value_name = "DSCP")]
    dscp: Dscp,
    /// Zone that the packets come from [default: the first one]
    #[arg(long, value_name = "ZONE")]
    zone: Option<String>,
}

impl FlowEnds {
    /// The flow, whose parts fit each other.
    pub(super) fn flow(self) -> anyhow::Result<FlowSpec> {
        Ok(FlowSpec::new(self.source, self.destination, self.protocol)?)
    }
}

impl FlowArgs {
    /// The flow, whose parts fit each other.
    pub(super) fn flow(self) -> anyhow::Result<FlowSpec> {
        let flow = self.ends.flow()?;
        Ok(FlowSpec { dscp: self.dscp, zone: self.zone, ..flow })
    }
}

/// Options of `sdwan explain`.
#[derive(clap::Args, Clone, Debug)]
#[command(after_help = "\
The answer comes from the functions that the kernel runs, on the state that the kernel has.

Examples:
  sdwan explain 10.1.0.5:40000 10.2.0.9:5060 udp
  sdwan explain 10.1.0.5:40000 10.2.0.9:443 tcp --dscp ef --zone lan
  sdwan explain [2001:db8:1::5]:40000 [2001:db8:2::9]:443 tcp
  sdwan explain 10.1.0.5 10.2.0.9 icmp")]
pub(super) struct Args {
    #[command(flatten)]
    flow: FlowArgs,
}

impl Args {
    pub(super) async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let flow = self.flow.flow()?;
        let explanation = context.client()?.explain(&flow).await?;
        context.output.print(&explanation, |output| render(&explanation, output))?;
        Ok(Exit::Ok)
    }
}

/// The whole screen.
pub(super) fn render(view: &ExplainView, output: &Output) -> String {
    let none = || "none".to_owned();
    let classification = &view.classification;
    let policy = match (&classification.policy, classification.rule) {
        (Some(policy), Some(rule)) => format!("{policy} (rule {rule})"),
        _ => none(),
    };
    let site = match (&view.site_name, &view.prefix) {
        (Some(site), Some(prefix)) => format!("{site}, by prefix {prefix}"),
        _ => "none: the destination is in no remote site's prefix".into(),
    };
    let mut text = format!(
        "flow:     {}\npolicy:   {policy}\nclass:    {}\nsite:     {site}\n",
        view.flow,
        classification.class.clone().unwrap_or_else(none)
    );
    if !view.candidates.is_empty() {
        let mut table = output.table(&["", "UPLINKS", "TUNNEL", "RANK", "WEIGHT", "STATE", "SCORE", "SLA", "USABLE"]);
        for (index, candidate) in view.candidates.iter().enumerate() {
            let (state, tone) = state(candidate.state, false);
            let usable = if candidate.usable { Tone::Good } else { Tone::Bad };
            table.add_row(vec![
                match index {
                    _ if view.chosen == Some(index) => "→",
                    _ if view.second == Some(index) => "+",
                    _ => "",
                }
                .into(),
                format!("{}→{}", candidate.local_uplink, candidate.remote_uplink).into(),
                candidate.tunnel.to_string().into(),
                number(candidate.rank),
                number(candidate.weight),
                toned(state, tone),
                number(format!("{:.0}", candidate.score)),
                if candidate.complies { "kept" } else { "broken" }.into(),
                toned(&candidate.liveness, usable),
            ]);
        }
        text.push('\n');
        text.push_str(&output.text(&mut table));
        text.push('\n');
    }
    let name = |index: Option<usize>| {
        let path = view.candidates.get(index?)?;
        Some(format!("{}→{} (tunnel {})", path.local_uplink, path.remote_uplink, path.tunnel))
    };
    let chosen = name(view.chosen).unwrap_or_else(|| "the kernel's routes".into());
    text.push_str(&format!("takes:    {chosen}\nbecause:  {}\n", view.reason));
    if let Some(second) = name(view.second) {
        text.push_str(&format!("copies:   {second}\n"));
    }
    match &view.entry {
        Some(flow) => text.push_str(&format!(
            "in table: on {} {}, {} packets, moved {} times, seen {:.1} s ago\n",
            flow.path.site_name, flow.path.uplinks, flow.packets, flow.moves, flow.idle_s
        )),
        None => text.push_str("in table: no: its first packet would be decided as above\n"),
    }
    text
}
