//! What one packet costs, by the kernel's test-run.

use anyhow::{Context, Result};

use super::desired::Size;
use super::packets::{Kind, ports};
use super::raw::{self, Object};
use super::rounds::Rounds;
use super::stage::Stage;
use super::test_run::{Ours, Verdict, yardstick};
use super::{FLOWS, ROOM, fill};
use crate::figures::Figures;

/// What is done to a packet.
#[derive(Clone, Copy, Debug)]
enum Case {
    Empty,
    Lookup,
    Hit(Kind),
    Miss(Kind),
    /// An address that is no site's: left to the stack.
    Local(Kind),
    /// Tunnel → LAN.
    Return(Kind),
    /// The second copy of a packet, at the end of its tunnel.
    Drop(Kind),
}

/// The sizes of data paths.
const SIZES: [Size; 3] = [Size::SMALL, Size::MANY_POLICIES, Size::MANY_SITES];
/// All cases, each on a data path of one of these sizes.
const CASES: [(&str, usize, Case); 24] = [
    ("datapath.empty_ns", 0, Case::Empty),
    ("datapath.lookup_ns", 0, Case::Lookup),
    ("datapath.hit_ns", 0, Case::Hit(Kind::Udp)),
    ("datapath.hit_256_policies_ns", 1, Case::Hit(Kind::Udp)),
    ("datapath.hit_10k_sites_ns", 2, Case::Hit(Kind::Udp)),
    ("datapath.hit_tcp_ns", 0, Case::Hit(Kind::Tcp)),
    ("datapath.hit_ipv6_ns", 0, Case::Hit(Kind::Ipv6)),
    ("datapath.hit_vlan_ns", 0, Case::Hit(Kind::Vlan)),
    ("datapath.miss_ns", 0, Case::Miss(Kind::Udp)),
    ("datapath.miss_256_policies_ns", 1, Case::Miss(Kind::Udp)),
    ("datapath.miss_10k_sites_ns", 2, Case::Miss(Kind::Udp)),
    ("datapath.miss_tcp_ns", 0, Case::Miss(Kind::Tcp)),
    ("datapath.miss_ipv6_ns", 0, Case::Miss(Kind::Ipv6)),
    ("datapath.miss_vlan_ns", 0, Case::Miss(Kind::Vlan)),
    ("datapath.local_ns", 0, Case::Local(Kind::Udp)),
    ("datapath.local_tcp_ns", 0, Case::Local(Kind::Tcp)),
    ("datapath.local_ipv6_ns", 0, Case::Local(Kind::Ipv6)),
    ("datapath.local_vlan_ns", 0, Case::Local(Kind::Vlan)),
    ("datapath.return_ns", 0, Case::Return(Kind::Udp)),
    ("datapath.return_10k_sites_ns", 2, Case::Return(Kind::Udp)),
    ("datapath.return_tcp_ns", 0, Case::Return(Kind::Tcp)),
    ("datapath.return_ipv6_ns", 0, Case::Return(Kind::Ipv6)),
    ("datapath.drop_ns", 0, Case::Drop(Kind::Udp)),
    ("datapath.drop_tcp_ns", 0, Case::Drop(Kind::Tcp)),
];
/// Single packets of so many flows.
const FLOW_COUNTS: [(&str, u64); 2] = [("datapath.hit_1k_flows_ns", 1_024), ("datapath.hit_1m_flows_ns", FLOWS)];
/// Flows that a cold packet is taken of.
const COLD: u64 = 2_000;

/// The names of all figures.
pub fn names() -> impl Iterator<Item = &'static str> {
    CASES.iter().map(|(name, _, _)| *name).chain(FLOW_COUNTS.iter().map(|(name, _)| *name))
}

impl Case {
    fn measure(self, ours: &Ours, yardsticks: &[Object; 2]) -> Result<f64> {
        match self {
            Self::Empty => yardstick(&yardsticks[0]),
            Self::Lookup => yardstick(&yardsticks[1]),
            Self::Hit(kind) => ours.hit(kind),
            Self::Miss(kind) => ours.miss(kind),
            Self::Local(kind) => ours.elsewhere(kind),
            Self::Return(kind) => ours.inbound(&kind.inbound(), Verdict::Redirect),
            Self::Drop(kind) => ours.inbound(&copy(kind), Verdict::Drop),
        }
    }
}

/// An IPv4 packet from the tunnel with the mark of a copy.
fn copy(kind: Kind) -> Vec<u8> {
    let mut frame = kind.inbound();
    frame[18..20].copy_from_slice(&7_u16.to_be_bytes());
    frame[20] |= (sdwan_common::copies::IPV4_FLAG >> 8) as u8;
    frame
}

/// Measures them all.
///
/// # Errors
/// When the kernel refuses a program.
pub fn run(stage: &Stage, figures: &mut Figures) -> Result<()> {
    let yardsticks = [raw::empty()?, raw::lookup_and_redirect(stage.tunnel, Size::SMALL.flows)?];
    stage.with(SIZES, |dataplanes| {
        let loaded: Result<Vec<_>> = dataplanes.iter().map(|one| Ours::load(stage, one.layout())).collect();
        let ours = loaded?;
        let mut rounds = Rounds::new(CASES.iter().map(|(name, _, _)| *name).collect());
        rounds.each(|name| {
            let (_, size, case) = CASES.iter().find(|(known, _, _)| *known == name).expect("every name has a case");
            case.measure(&ours[*size], &yardsticks)
        });
        rounds.into_figures(figures, "ns");
        Ok(())
    })?;
    for (name, flows) in FLOW_COUNTS {
        let value = stage.with([Size { flows: ROOM, ..Size::SMALL }], |[dataplane]| {
            fill(stage, dataplane, flows)?;
            // Scattered over all of them.
            let scattered = (0..COLD).map(|number| ports(number.wrapping_mul(0x9e37_79b1) % flows));
            Ours::load(stage, dataplane.layout())?.cold(scattered)
        });
        figures.tell(name, "ns", 1, value.context("packets of many flows"));
    }
    Ok(())
}
