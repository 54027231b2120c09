//! What is left of a tunnel while its port is flooded: `cargo xtask bench flood`.
//!
//! Two gateways with one line each, and a bulk TCP transfer from a host of one to a host of the other. The flood comes in at
//! the receiving gateway's uplink, from 65,536 forged sources, as fast as one processor makes it and the kernel takes it: the
//! generator and the handling of what it sends share that processor, as a network card's queue for it would have one. The
//! gateways, WireGuard and the hosts have the others. In the rounds without a flood the same generator sends at its full rate
//! into an interface that drops everything, so that both kinds of rounds have the same processors.

mod generator;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::unistd::Pid;

pub use generator::{Flood, Kind, SINK_PORT, Sink};

use crate::bed::{Bed, Families, Link, Namespace, Provider, offload};
use crate::figures::{self, Figures};
use crate::mesh::{Mesh, MeshOptions};
use crate::processors::pin;
use crate::traffic::{TcpSink, TcpSource, TcpSpec};

/// Rounds of each kind with the guard.
const ROUNDS: usize = 7;
/// Rounds of each kind without it.
const UNGUARDED_ROUNDS: usize = 5;
/// How long a round is measured, after a second for TCP to find its rate.
const MEASURED: Duration = Duration::from_secs(3);
const WARM_UP: Duration = Duration::from_secs(1);
/// Packets that the generator sends per call.
const BATCH: u32 = 65_536;
/// How long the mesh may take to come up.
const PATIENCE: Duration = Duration::from_secs(60);
/// Port of the only tunnel.
const PORT: u16 = 51_820;
/// Configuration with the guard on veth, and without it.
pub const GUARDED: &str = "[xdp]\nmode = \"native\"\n";
const UNGUARDED: &str = "[xdp]\nmode = \"off\"\n";

/// What a round gave.
struct Round {
    goodput_bps: f64,
    /// Packets that came to the uplink; a few of them are the tunnel's.
    offered_pps: f64,
}

/// Runs the bench; progress goes to standard error.
///
/// # Errors
/// When the mesh can't be made.
pub fn run() -> Result<Figures> {
    let mut figures = Figures::new("flood");
    let start = Instant::now();
    let say = |what: &str| eprintln!("{:4.0} s: {what}", start.elapsed().as_secs_f64());
    let processors = std::thread::available_parallelism()?.get();
    ensure!(processors >= 2, "the generator needs a processor of its own, and there is one in all");
    // Everything but the generator: what is started from here on inherits it.
    pin(Pid::from_raw(0), 1..processors)?;
    say("two gateways with the guard");
    guarded(&mut figures, processors, &say)?;
    say("the same without it");
    unguarded(&mut figures, processors, &say)?;
    say("done");
    Ok(figures)
}

/// Figures of the three kinds of floods, each against the quiet rounds between them.
fn guarded(figures: &mut Figures, processors: usize, say: &impl Fn(&str)) -> Result<()> {
    let stage = Stage::new(GUARDED, processors)?;
    let (mut quiet, mut flooded) = (Vec::new(), [const { Vec::new() }; Kind::ALL.len()]);
    let mut offered = Vec::new();
    for round in 1..=ROUNDS {
        quiet.push(stage.round(None)?.goodput_bps);
        for (rates, kind) in flooded.iter_mut().zip(Kind::ALL) {
            let before = (stage.dropped(kind)?, stage.arrived()?);
            let one = stage.round(Some(kind))?;
            let (dropped, arrived) = (stage.dropped(kind)? - before.0, stage.arrived()? - before.1);
            ensure!(
                dropped > arrived / 10 * 8,
                "of {arrived} packets, most of them {kind:?}, the guard dropped {dropped}"
            );
            rates.push(one.goodput_bps);
            offered.push(one.offered_pps);
        }
        say(&format!(
            "round {round} of {ROUNDS}: {:.0} Mbit/s quiet, {} flooded",
            last(&quiet) / 1e6,
            flooded.iter().map(|rates| format!("{:.0}", last(rates) / 1e6)).collect::<Vec<_>>().join(", ")
        ));
    }
    let names = ["flood.goodput_ratio", "flood.initiations_goodput_ratio", "flood.garbage_goodput_ratio"];
    for (rates, name) in flooded.iter().zip(names) {
        figures.add(name, median(rates) / median(&quiet), "", rates.len() as u64);
    }
    figures.add("flood.offered_pps", median(&offered), "packets/s", offered.len() as u64);
    figures.add("flood.quiet_mbps", median(&quiet) / 1e6, "Mbit/s", quiet.len() as u64);
    Ok(())
}

/// The same flood of data where nobody drops it early.
fn unguarded(figures: &mut Figures, processors: usize, say: &impl Fn(&str)) -> Result<()> {
    let stage = Stage::new(UNGUARDED, processors)?;
    let (mut quiet, mut flooded, mut offered) = (Vec::new(), Vec::new(), Vec::new());
    for round in 1..=UNGUARDED_ROUNDS {
        quiet.push(stage.round(None)?.goodput_bps);
        let before = stage.datagrams()?;
        let one = stage.round(Some(Kind::Data))?;
        let came = stage.datagrams()? - before;
        say(&format!(
            "round {round} of {UNGUARDED_ROUNDS}: {:.0} Mbit/s quiet, {:.0} flooded; {came} datagrams came to a socket, or \
             found it full",
            last(&quiet) / 1e6,
            one.goodput_bps / 1e6
        ));
        flooded.push(one.goodput_bps);
        offered.push(one.offered_pps);
    }
    let count = flooded.len() as u64;
    figures.add("flood.unguarded_goodput_ratio", median(&flooded) / median(&quiet), "", count);
    figures.add("flood.unguarded_offered_pps", median(&offered), "packets/s", count);
    Ok(())
}

/// A mesh of two sites with a line each.
struct Stage {
    mesh: Mesh,
    _sink: Sink,
}

impl Stage {
    fn new(extra: &str, processors: usize) -> Result<Self> {
        let bed =
            Bed::builder().sites(["a", "b"]).providers([("isp1", Provider::Bridge)]).families(Families::V4).build()?;
        let mesh = Mesh::prepare(bed, &MeshOptions { extra: extra.into(), ..MeshOptions::default() })?;
        // A veth interface takes what XDP sends from a ring, which it has with GRO where it has no program.
        let (link, site) = (mesh.bed().link("a", "isp1"), mesh.bed().site("a").namespace());
        site.run(|| offload::switch_on_gro(link.uplink()))?.context("switch GRO on")?;
        queue_for_each_processor(link, site, processors)?;
        mesh.start_daemons()?;
        mesh.wait_until_up(PATIENCE)?;
        let sink = Sink::new(link.provider())?;
        Ok(Self { mesh, _sink: sink })
    }

    /// What the transfer reaches while the generator floods the tunnel's port, or the sink.
    fn round(&self, kind: Option<Kind>) -> Result<Round> {
        let bed = self.mesh.bed();
        let (link, site) = (bed.link("a", "isp1"), bed.site("a"));
        let flood = match kind {
            Some(kind) => Flood::of(link, site.namespace(), PORT, kind)?,
            None => Flood::to(link.provider(), SINK_PORT, [2; 6], Ipv4Addr::new(192, 0, 2, 1), PORT, Kind::Data)?,
        };
        let stop = Arc::new(AtomicBool::new(false));
        let until = stop.clone();
        let generator = std::thread::Builder::new().name("generator".into()).spawn(move || -> Result<()> {
            pin(Pid::from_raw(0), 0..1)?;
            while !until.load(Ordering::Relaxed) {
                flood.send(BATCH)?;
            }
            Ok(())
        })?;
        let measured = self.transfer();
        stop.store(true, Ordering::Relaxed);
        generator.join().map_err(|_| anyhow::anyhow!("the generator panicked"))??;
        // Queues run empty, and TCP's state of this round is gone.
        std::thread::sleep(Duration::from_millis(300));
        measured
    }

    fn transfer(&self) -> Result<Round> {
        let (to, from) = (self.mesh.bed().site("a").host(0), self.mesh.bed().site("b").host(0));
        let sink = TcpSink::start(to, SocketAddr::new(to.v4(), 0))?;
        let time = WARM_UP + MEASURED + Duration::from_secs(5);
        let spec = TcpSpec { patience: Duration::from_secs(10), ..TcpSpec::new(sink.local(), time) };
        let source = TcpSource::start(from, spec)?;
        std::thread::sleep(WARM_UP);
        let (start, bytes, packets) = (Instant::now(), sink.bytes(), self.arrived()?);
        std::thread::sleep(MEASURED);
        let (time, bytes) = (start.elapsed().as_secs_f64(), sink.bytes() - bytes);
        let packets = self.arrived()? - packets;
        match source.stop() {
            Ok(_) => {}
            // A flood that lets no connection be made leaves nothing, and that is the figure.
            Err(error) => eprintln!("        {error}"),
        }
        Ok(Round { goodput_bps: bytes as f64 * 8.0 / time, offered_pps: packets as f64 / time })
    }

    fn dropped(&self, kind: Kind) -> Result<u64> {
        let status = self.mesh.gateway("a").status()?;
        Ok(status.drops.get(kind.counter()).copied().unwrap_or(0))
    }

    /// Packets that came to the gateway's uplink. What the generator sends faster than the interface's ring takes it is lost
    /// before.
    fn arrived(&self) -> Result<u64> {
        let (site, link) = (self.mesh.bed().site("a").namespace(), self.mesh.bed().link("a", "isp1"));
        Ok(site.statistic(link.uplink(), "rx_packets")?)
    }

    /// Datagrams that came to the gateway's sockets, or found them full.
    fn datagrams(&self) -> Result<u64> {
        let text = self.mesh.bed().site("a").namespace().shell("grep ^Udp: /proc/self/net/snmp | tail -1")?;
        let fields: Vec<u64> = text.split_whitespace().skip(1).filter_map(|field| field.parse().ok()).collect();
        // InDatagrams and RcvbufErrors.
        let both = fields.first().zip(fields.get(4)).map(|(taken, full)| taken + full);
        both.with_context(|| format!("the kernel's counters: {text}"))
    }
}

/// Gives the end of a line a queue for each processor, as a card has: what a processor sends into the line is handled by itself,
/// out of a ring of its own.
fn queue_for_each_processor(link: &Link, site: &Namespace, processors: usize) -> Result<()> {
    let queues = u32::try_from(processors)?;
    // The end that receives first: the other one may not send to queues that aren't there.
    site.run(|| offload::set_queues(link.uplink(), queues, queues))?.context("queues of the uplink")?;
    let (provider, port) = (link.provider(), link.port());
    provider.run(|| offload::set_queues(port, queues, queues))?.context("queues of the line")?;
    for processor in 0..processors {
        let senders = format!("/sys/class/net/{port}/queues/tx-{processor}/xps_cpus");
        let mask = format!("{:x}", 1_u64.checked_shl(processor as u32).context("more than 64 processors")?);
        provider.run(|| std::fs::write(&senders, mask))?.with_context(|| format!("write {senders}"))?;
    }
    Ok(())
}

fn last(numbers: &[f64]) -> f64 {
    numbers.last().copied().unwrap_or(0.0)
}

/// Without a round there is no number.
fn median(numbers: &[f64]) -> f64 {
    figures::median(numbers).unwrap_or(f64::NAN)
}
