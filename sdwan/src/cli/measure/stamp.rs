//! `sdwan measure stamp`.

use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use clap::ValueEnum;
use sdwan_common::stamp::PORT;

use super::show::{Report, line, render};
use crate::api::views::VERSION;
use crate::cli::output::Output;
use crate::cli::{Context, Exit, Format};
use crate::config::Seed;
use crate::config::units::Span;
use crate::engine::policy::Dscp;
use crate::measure::stamp::answer::Mode;
use crate::measure::stamp::key::Key;
use crate::measure::stamp::send::{Plan, Progress, run};
use crate::measure::stamp::session::question::{Form, Questions};

/// Least time between packets.
const LEAST_INTERVAL: Duration = Duration::from_millis(1);
/// Longest time that a packet is waited for.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(60);

/// Options of `sdwan measure stamp`.
#[derive(clap::Args, Clone, Debug)]
#[command(after_help = "\
RTT is without the time that the reflector took. Loss and reordering have directions where the reflector counts
(stateful). One-way delays are as good as the clocks agree; delay variation needs no agreement. The timestamps' format
of the reflector is understood whichever it is. Ctrl-C ends with the summary.
Exit code 0: there were answers; 1: none.")]
pub(in crate::cli) struct Args {
    /// The reflector: HOST, HOST:PORT, [IPV6]:PORT; the port is 862 by default
    host: Seed,
    /// Packets to send; 0: until Ctrl-C
    #[arg(long, short = 'n', value_name = "N", default_value_t = 10)]
    count: u64,
    /// Time between packets, at least 1ms
    #[arg(long, short, value_name = "TIME", default_value = "200ms")]
    interval: Span,
    /// A packet without an answer for so long is lost, at most 60s
    #[arg(long, value_name = "TIME", default_value = "1s")]
    timeout: Span,
    /// Size of the UDP payload: an Extra Padding TLV fills it up
    #[arg(long, short, value_name = "BYTES")]
    size: Option<usize>,
    /// DSCP of the packets, a value or a name such as ef
    #[arg(long, value_name = "DSCP", default_value = "0")]
    dscp: Dscp,
    /// DSCP that the reflector is asked to answer with [default: that of --dscp]
    #[arg(long, value_name = "DSCP", conflicts_with = "base")]
    reply_dscp: Option<Dscp>,
    /// Key of the authenticated mode: a file of hexadecimal digits, mode 0600
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// The key authenticates the TLVs of unauthenticated packets instead
    #[arg(long, requires = "key_file", conflicts_with = "base")]
    key_for_tlvs: bool,
    /// Session identifier, 1 to 65535 [default: at random]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    ssid: Option<u16>,
    /// Format of our timestamps
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t = Timestamps::Ntp)]
    timestamps: Timestamps,
    /// Base packets alone, without TLVs that ask for more: for reflectors of RFC 8762 or TWAMP Light
    #[arg(long)]
    base: bool,
    /// Use IPv4 only
    #[arg(long, conflicts_with = "ipv6")]
    ipv4: bool,
    /// Use IPv6 only
    #[arg(long)]
    ipv6: bool,
    /// Send from this address
    #[arg(long, value_name = "ADDR")]
    source: Option<IpAddr>,
    /// Send and receive by this interface only
    #[arg(long, value_name = "IFACE")]
    interface: Option<String>,
    /// Show each packet; on standard error with `-o json`
    #[arg(long, short)]
    verbose: bool,
}

/// Formats of timestamps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Timestamps {
    /// NTP, the default of RFC 8762
    Ntp,
    /// Truncated PTPv2
    Ptp,
}

impl Args {
    pub(super) async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let (interval, timeout) = (self.interval.0, self.timeout.0);
        ensure!(interval >= LEAST_INTERVAL, "--interval {}: use 1ms or more", self.interval);
        let fits = !timeout.is_zero() && timeout <= LONGEST_TIMEOUT;
        ensure!(fits, "--timeout {}: use more than 0s and at most {}", self.timeout, Span(LONGEST_TIMEOUT));
        let target = self.resolve().await?;
        let key = self.key_file.as_deref().map(Key::load).transpose()?;
        let mode = if key.is_some() && !self.key_for_tlvs { Mode::Authenticated } else { Mode::Unauthenticated };
        let questions = Questions::new(Form {
            mode,
            key,
            session: self.ssid.unwrap_or_else(|| rand::random_range(1..=u16::MAX)),
            ptp: self.timestamps == Timestamps::Ptp,
            ask: !self.base,
            wanted_dscp: self.reply_dscp.unwrap_or(self.dscp).0,
            size: self.size,
        })?;
        let plan = Plan {
            target,
            source: self.source,
            interface: self.interface.clone(),
            count: (self.count > 0).then_some(self.count),
            interval,
            timeout,
            dscp: self.dscp.0,
        };
        let stop = super::interrupted().await?;
        let json = context.output.format == Format::Json;
        if !json {
            let kind = if mode == Mode::Authenticated { "authenticated, " } else { "" };
            context.output.write(&format!("STAMP to {target}, {kind}{} bytes\n", questions.length()))?;
        }
        let verbose = self.verbose;
        let mut tell = |progress: Progress| {
            if verbose {
                show(&context.output, json, &line(&progress));
            }
        };
        let ended = run(&plan, &questions, stop, &mut tell).await?;
        let report = Report::new(VERSION, &plan, &questions, &ended);
        context.output.print(&report, |output| render(&report, output))?;
        Ok(if report.summary.answered > 0 { Exit::Ok } else { Exit::Failed })
    }

    async fn resolve(&self) -> anyhow::Result<SocketAddr> {
        let (host, port) = (self.host.host.as_str(), self.host.port.unwrap_or(PORT));
        let addresses = tokio::net::lookup_host((host, port))
            .await
            .with_context(|| format!("cannot find the address of {host}"))?;
        let v4 = self.ipv4 || self.source.is_some_and(|source| source.is_ipv4());
        let v6 = self.ipv6 || self.source.is_some_and(|source| source.is_ipv6());
        ensure!(!(v4 && v6), "--source is of the other family than the one that is asked for");
        let mut fitting = addresses.filter(|address| !(v4 && address.is_ipv6() || v6 && address.is_ipv4()));
        fitting.next().with_context(|| format!("{host} has no address of the family that is asked for"))
    }
}

/// A line about a packet. Nobody may be reading any more; the session goes on then.
fn show(output: &Output, json: bool, text: &str) {
    if json {
        let _ = writeln!(std::io::stderr(), "{text}");
    } else {
        let _ = output.write(&format!("{text}\n"));
    }
}
