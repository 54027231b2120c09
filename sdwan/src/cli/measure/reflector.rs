//! `sdwan measure reflector`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use serde::Serialize;

use crate::api::views::VERSION;
use crate::cli::output::number;
use crate::cli::{Context, Exit};
use crate::config::StampConfig;
use crate::config::stamp::Listen;
use crate::engine::policy::Dscp;
use crate::measure::stamp::listen::Listener;

/// Options of `sdwan measure reflector`.
#[derive(clap::Args, Clone, Debug)]
#[command(after_help = "\
Answers are never longer than questions. Ctrl-C ends it and shows what was answered, and what was refused and why.
The daemon runs one for good with [stamp] in its configuration.")]
pub(in crate::cli) struct Args {
    /// Address to listen on, with port 862 unless it names one; may be repeated [default: 0.0.0.0 and ::]
    #[arg(long, value_name = "ADDR[:PORT]")]
    listen: Vec<Listen>,
    /// Key of the authenticated mode: a file of hexadecimal digits, mode 0600
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// The key authenticates the TLVs of unauthenticated packets instead
    #[arg(long, requires = "key_file")]
    key_for_tlvs: bool,
    /// A prefix whose addresses are answered; may be repeated [default: all]
    #[arg(long, value_name = "PREFIX")]
    allow: Vec<IpNet>,
    /// Most packets per second from one source; 0: any number
    #[arg(long, value_name = "N", default_value_t = StampConfig::default().source_pps)]
    source_pps: u32,
    /// Most packets per second from all sources; 0: any number
    #[arg(long, value_name = "N", default_value_t = StampConfig::default().total_pps)]
    total_pps: u32,
    /// Number the answers as the questions, and remember nothing
    #[arg(long)]
    stateless: bool,
    /// A DSCP that answers may be asked to have; may be repeated [default: any]
    #[arg(long, value_name = "DSCP")]
    allow_dscp: Vec<Dscp>,
}

/// What a reflector did.
#[derive(Debug, Serialize)]
struct Report {
    version: u32,
    listen: Vec<SocketAddr>,
    packets: BTreeMap<String, u64>,
}

impl Args {
    pub(super) async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let all = ["0.0.0.0", "::"].iter().filter_map(|text| text.parse().ok());
        let config = StampConfig {
            listen: if self.listen.is_empty() { all.collect() } else { self.listen },
            key_file: self.key_file,
            key_for_tlvs: self.key_for_tlvs,
            allowed: self.allow,
            source_pps: self.source_pps,
            total_pps: self.total_pps,
            stateless: self.stateless,
            allowed_dscp: (!self.allow_dscp.is_empty()).then_some(self.allow_dscp),
        };
        let listener = Listener::open(&config.addresses(), &config.settings()?)?;
        let counters = listener.counters();
        let listen = listener.addresses();
        let stop = super::interrupted().await?;
        for address in &listen {
            eprintln!("listening on {address}");
        }
        tokio::select! {
            () = stop => {}
            error = listener.run() => anyhow::bail!("the reflector ended: {error}"),
        }
        let report = Report { version: VERSION, listen, packets: counters.snapshot() };
        context.output.print(&report, |output| {
            let mut table = output.table(&["PACKETS", "COUNT"]);
            for (name, count) in &report.packets {
                table.add_row(vec![name.into(), number(count)]);
            }
            output.text(&mut table)
        })?;
        Ok(Exit::Ok)
    }
}
