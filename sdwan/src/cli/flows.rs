//! `sdwan flows`.

use std::net::IpAddr;

use super::output::{Output, age, number, short};
use super::watch::Watch;
use super::{Context, Exit};
use crate::api::flow::Endpoint;
use crate::api::request::FlowFilter;
use crate::api::views::{FlowView, Listing};

/// Options of `sdwan flows`.
#[derive(clap::Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  sdwan flows --class voip-video
  sdwan flows --address 10.1.0.5 --limit 1000 -o json")]
pub(super) struct Args {
    /// Most flows
    #[arg(long, short = 'n', default_value_t = 100, value_name = "COUNT")]
    limit: usize,
    /// Only flows of this class
    #[arg(long, value_name = "NAME")]
    class: Option<String>,
    /// Only flows to this site, by name or id
    #[arg(long, value_name = "SITE")]
    site: Option<String>,
    /// Only flows from or to this address
    #[arg(long, value_name = "ADDRESS")]
    address: Option<IpAddr>,
    #[command(flatten)]
    watch: Watch,
}

impl Args {
    pub(super) async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let filter = FlowFilter { limit: self.limit, class: self.class, site: self.site, address: self.address };
        let client = context.client()?;
        self.watch
            .run(context, async || {
                let flows = client.flows(&filter).await?;
                context.output.print(&flows, |output| render(&flows, output))?;
                Ok(Exit::Ok)
            })
            .await
    }
}

/// The table.
pub(super) fn render(flows: &Listing<FlowView>, output: &Output) -> String {
    if flows.items.is_empty() {
        return "no flow\n".into();
    }
    let mut headings = vec!["SOURCE", "DESTINATION", "PROTO", "CLASS", "PATH", "PACKETS", "MOVES"];
    if output.wide() {
        headings.extend(["BYTES", "AGE", "IDLE", "POLICY"]);
    }
    let mut table = output.table(&headings);
    for flow in &flows.items {
        let end = |address, port| Endpoint { address, port }.to_string();
        let mut row = vec![
            end(flow.source, flow.source_port).into(),
            end(flow.destination, flow.destination_port).into(),
            flow.protocol.clone().into(),
            flow.class.clone().into(),
            path(flow).into(),
            number(short(flow.packets)),
            number(flow.moves),
        ];
        if output.wide() {
            row.extend([
                number(short(flow.bytes)),
                number(age(flow.age_s as u64)),
                number(format!("{:.1}s", flow.idle_s)),
                flow.policy.clone().unwrap_or_else(|| "-".into()).into(),
            ]);
        }
        table.add_row(row);
    }
    let mut text = output.text(&mut table);
    if flows.truncated {
        text.push_str(&format!("… and more: the first {} are shown, raise --limit\n", flows.items.len()));
    }
    text
}

/// Its path, and below it that of the copies.
pub(super) fn path(flow: &FlowView) -> String {
    let second = flow.second.as_ref().map(|second| format!("\nand {}", second.uplinks)).unwrap_or_default();
    format!("{} {}{second}", flow.path.site_name, flow.path.uplinks)
}
