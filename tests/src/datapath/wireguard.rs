//! TCP from a host at one site to a host at another one, through WireGuard: with our programs at both gateways, and by the
//! kernel's forwarding with one route.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use sdwan::dataplane::{Attachment, Capacities, Dataplane, Direction, Reader, Settings};
use sdwan::engine::types::{SiteId, TunnelKey, UplinkIndex};
use sdwan::tunnel::{
    BackendKind, DesiredTunnels, PeerDesired, TunnelDesired, TunnelReconciler, UserspaceBackend, kernel_has_wireguard,
};
use sdwan_common::abi::PathStats;

use super::desired::{Ports, add_site, desired};
use crate::bed::{Bed, MARKER, Namespace, Provider, Site};
use crate::figures::{Figures, median};
use crate::iperf::server_report;
use crate::{mesh, pace};

const SITES: [&str; 2] = ["a", "b"];
const UPLINK: &str = "isp1";
/// The gateways' LAN interface.
const LAN: &str = "lan0";
/// UDP port of the tunnels, and MTU.
const PORT: u16 = 51_820;
const MTU: u16 = 1_420;
/// Where iperf3 listens.
const SERVER: u16 = 5_201;
/// A second that doesn't count, and two that do.
const IPERF: [&str; 4] = ["-O", "1", "-t", "2"];
/// Rounds. The two differ by less than runs of the same do.
const ROUNDS: usize = 9;
const SLOW_ROUNDS: usize = 3;

/// More packets than are on their way while programs are taken off.
const MANY: u64 = 100;

/// The figures of each WireGuard: with our programs, without, the median of the rounds' ratios, and how many segments go
/// through our programs at a time, into the tunnel and out of it: bundles are carried whole.
const FIGURES: [(BackendKind, [&str; 5]); 2] = [
    (
        BackendKind::Kernel,
        [
            "datapath.wireguard_mbps",
            "datapath.wireguard_plain_mbps",
            "datapath.wireguard_ratio",
            "datapath.wireguard_segments_out",
            "datapath.wireguard_segments_in",
        ],
    ),
    (
        BackendKind::Userspace,
        [
            "datapath.userspace_wireguard_mbps",
            "datapath.userspace_wireguard_plain_mbps",
            "datapath.userspace_wireguard_ratio",
            "datapath.userspace_wireguard_segments_out",
            "datapath.userspace_wireguard_segments_in",
        ],
    ),
];
const UNITS: [&str; 5] = ["Mbit/s", "Mbit/s", "", "segments", "segments"];

/// The names of all figures, with their units.
pub fn names() -> Vec<(&'static str, &'static str)> {
    FIGURES.iter().flat_map(|(_, names)| names.iter().copied().zip(UNITS)).collect()
}

/// Measures each WireGuard that is here; a figure that can't be measured says why. `program` is the userspace one with its
/// arguments, instead of the carried one.
pub fn run(figures: &mut Figures, program: Option<&[OsString]>) {
    for (kind, names) in FIGURES {
        match measure(kind, program) {
            Ok((values, rounds)) => {
                for ((name, unit), value) in names.into_iter().zip(UNITS).zip(values) {
                    eprintln!("        {name}: {value:.3} {unit}");
                    figures.add(name, value, unit, rounds);
                }
            }
            Err(error) => {
                eprintln!("        {}: {error:#}", names[0]);
                for (name, unit) in names.into_iter().zip(UNITS) {
                    figures.missing(name, unit, format!("{error:#}"));
                }
            }
        }
    }
}

/// The medians of the figures, and how many rounds they are of.
fn measure(kind: BackendKind, program: Option<&[OsString]>) -> Result<([f64; 5], u64)> {
    if kind == BackendKind::Kernel {
        let there = kernel_has_wireguard()?;
        ensure!(there, "this kernel has no WireGuard: `cargo xtask bench datapath --vm` runs on one that has");
    }
    let bed = Bed::builder().sites(SITES).providers([(UPLINK, Provider::Bridge)]).build()?;
    let mut gateways = [Gateway::new(&bed, kind, program, 0)?, Gateway::new(&bed, kind, program, 1)?];
    let [a, b] = SITES.map(|name| bed.site(name).host(0));
    let server = SocketAddr::new(b.v4(), SERVER);
    let mut values: [Vec<f64>; 5] = Default::default();
    let rounds = if pace::is_slow() { SLOW_ROUNDS } else { ROUNDS };
    for round in 0..=rounds {
        let (mut pair, mut bundles) = ([0.0; 2], [0.0; 2]);
        // Each goes first as often as the other.
        for step in 0..2 {
            let which = (round + step) % 2;
            for gateway in &mut gateways {
                if which == 0 { gateway.attach()? } else { gateway.detach()? }
            }
            let before = [gateways[0].outbound()?, gateways[1].inbound()?];
            pair[which] = goodput(a.namespace(), b.namespace(), server)?;
            let after = [gateways[0].outbound()?, gateways[1].inbound()?];
            let counted = after[0].0 - before[0].0;
            if which == 0 {
                bundles = [0, 1].map(|end| {
                    let packets = (after[end].1 - before[end].1).max(1);
                    (after[end].0 - before[end].0) as f64 / packets as f64
                });
            }
            // The kernel takes programs off a moment after it was told.
            ensure!(
                (counted > MANY) == (which == 0),
                "our programs counted {counted} packets, attached: {}",
                which == 0
            );
        }
        // In the first one keys are exchanged and the path's MTU is learnt.
        if round > 0 {
            let [out, inward] = bundles;
            let round = [pair[0], pair[1], pair[0] / pair[1], out, inward];
            values.iter_mut().zip(round).for_each(|(values, value)| values.push(value));
        }
    }
    for gateway in gateways {
        gateway.remove()?;
    }
    let mut medians = [0.0; 5];
    for (to, values) in medians.iter_mut().zip(values) {
        *to = median(&values).context("no round was measured")?;
    }
    Ok((medians, rounds as u64))
}

/// What arrives of TCP, Mbit/s.
fn goodput(from: &Namespace, to: &Namespace, server: SocketAddr) -> Result<f64> {
    let report = server_report(from, to, server, &IPERF)?;
    let report: serde_json::Value = serde_json::from_str(&report).context("iperf3 printed no JSON")?;
    // The first whole second doesn't count.
    let intervals = report["intervals"].as_array().context("iperf3 tells no intervals")?;
    let sums: Vec<_> = intervals.iter().map(|one| &one["sum"]).filter(|sum| sum["omitted"] == false).collect();
    let (bytes, seconds) = sums.iter().fold((0.0, 0.0), |(bytes, seconds), sum| {
        (bytes + sum["bytes"].as_f64().unwrap_or(0.0), seconds + sum["seconds"].as_f64().unwrap_or(0.0))
    });
    ensure!(bytes > 0.0, "nothing arrived at iperf3's server");
    Ok(bytes * 8.0 / seconds / 1e6)
}

/// A gateway with one tunnel, whose programs are loaded.
struct Gateway {
    namespace: Namespace,
    tunnels: TunnelReconciler,
    key: [u8; 32],
    dataplane: Dataplane,
    attachments: BTreeSet<Attachment>,
}

/// The one tunnel.
fn tunnel() -> TunnelKey {
    let first = UplinkIndex::new(0).expect("a small number");
    TunnelKey { local: first, remote: first }
}

/// The private key of a site of the bench: it protects nothing.
fn private_key(number: usize) -> [u8; 32] {
    [number as u8 + 1; 32]
}

impl Gateway {
    fn new(bed: &Bed, kind: BackendKind, program: Option<&[OsString]>, number: usize) -> Result<Self> {
        let (site, other) = (bed.site(SITES[number]), bed.site(SITES[1 - number]));
        let address = bed.link(SITES[1 - number], UPLINK).attachments().first().context("an address")?.address.addr();
        let key = private_key(number);
        let peer = DesiredTunnels { private_key: private_key(1 - number), tunnels: Default::default() }.public_key();
        let peer = (
            peer,
            PeerDesired {
                site: SiteId([9; 16]),
                endpoint: Some(SocketAddr::new(address, PORT)),
                allowed_ips: other.prefixes().into(),
                keepalive: None,
            },
        );
        let wanted = TunnelDesired { listen_port: PORT, fwmark: 0, mtu: MTU, peers: [peer].into() };
        let wanted = DesiredTunnels { private_key: key, tunnels: [(tunnel(), wanted)].into() };
        let mut tunnels = reconciler(bed, kind, program)?;
        let report = site.run(|| tunnels.reconcile(&wanted))?;
        let status = report.tunnels.get(&tunnel()).context("the tunnel is missing")?;
        ensure!(status.error.is_none() && report.errors.is_empty(), "{:?} {:?}", status.error, report.errors);
        let name = tunnel().interface();
        let routes = other.prefixes().map(|prefix| format!("route add {prefix} dev {name}\n"));
        site.ip(&routes.concat())?;
        site.sysctl(&[("net/ipv4/conf/all/rp_filter", "0"), (&format!("net/ipv4/conf/{name}/rp_filter"), "0")])?;
        let (dataplane, attachments) = data_path(site, other, status.ifindex)?;
        Ok(Self { namespace: site.namespace().clone(), tunnels, key, dataplane, attachments })
    }

    fn attach(&mut self) -> Result<()> {
        let (dataplane, attachments) = (&mut self.dataplane, &self.attachments);
        self.namespace.run(|| super::stage::attach(dataplane, attachments))?
    }

    fn detach(&mut self) -> Result<()> {
        let dataplane = &mut self.dataplane;
        self.namespace.run(|| super::stage::attach(dataplane, &BTreeSet::new()))?
    }

    /// Segments that our programs have put into the tunnel, and packets that the LAN interface has taken in.
    fn outbound(&self) -> Result<(u64, u64)> {
        Ok((self.counted(|stats| stats.sent_packets)?, self.namespace.statistic(LAN, "rx_packets")?))
    }

    /// Segments that have come out of the tunnel, and packets that the LAN interface has sent.
    fn inbound(&self) -> Result<(u64, u64)> {
        Ok((self.counted(|stats| stats.received_packets)?, self.namespace.statistic(LAN, "tx_packets")?))
    }

    fn counted(&self, of: impl Fn(&PathStats) -> u64 + Sync) -> Result<u64> {
        let (layout, numbers) = (self.dataplane.layout(), self.dataplane.path_numbers());
        let of = &of;
        self.namespace.run(|| {
            let reader = Reader::open(layout)?;
            numbers.iter().map(|(_, number)| Ok(of(&reader.path_counters(*number)?.stats))).sum()
        })?
    }

    /// Ends the tunnel, and whoever carries it.
    fn remove(mut self) -> Result<()> {
        let nothing = DesiredTunnels { private_key: self.key, tunnels: Default::default() };
        let report = self.namespace.run(|| self.tunnels.reconcile(&nothing))?;
        ensure!(report.errors.is_empty(), "{:?}", report.errors);
        Ok(())
    }
}

/// The backend. A userspace WireGuard bears the mark of the bed, so that it ends with it at the latest.
fn reconciler(bed: &Bed, kind: BackendKind, program: Option<&[OsString]>) -> Result<TunnelReconciler> {
    if kind == BackendKind::Kernel {
        return Ok(TunnelReconciler::new(Box::new(sdwan::tunnel::KernelBackend)));
    }
    let carried = [mesh::binary()?.into_os_string(), "userspace-wireguard".into()];
    let mut arguments = vec![format!("{MARKER}={}", bed.prefix())];
    for word in program.unwrap_or(&carried) {
        arguments.push(word.to_str().context("a program whose name is not UTF-8")?.to_owned());
    }
    Ok(TunnelReconciler::new(Box::new(UserspaceBackend::new("/usr/bin/env".into(), arguments))))
}

/// Our data path at a gateway, and where it is to be attached.
fn data_path(site: &Site, other: &Site, tunnel_index: u32) -> Result<(Dataplane, BTreeSet<Attachment>)> {
    let lan_index = site.ifindex(LAN)?;
    let ports = Ports { lan: vec![lan_index], tunnel: tunnel_index, mtu: MTU };
    let mut wanted = desired(&ports, site.prefixes().into(), 0)?;
    add_site(&mut wanted, 1, other.prefixes().into(), &ports);
    let capacities = Capacities { sites: 4, paths: 16, prefixes: 64, ..Capacities::default() };
    let dataplane = site.run(|| -> Result<_> {
        let directory = "/sys/fs/bpf/bench".into();
        let mut dataplane = Dataplane::open(&Settings { directory, capacities, tcp_rtt_per_second: 10 })?;
        dataplane.apply(&wanted)?;
        Ok(dataplane)
    })??;
    let name = tunnel().interface();
    let attachments = [
        (Direction::Lan, lan_index, LAN),
        (Direction::Tunnel, tunnel_index, name.as_str()),
        (Direction::IntoTunnel, tunnel_index, name.as_str()),
    ];
    let attachments = attachments.map(|(direction, ifindex, interface)| Attachment {
        direction,
        ifindex,
        interface: interface.into(),
    });
    Ok((dataplane, attachments.into()))
}
