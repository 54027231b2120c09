//! What the bench's data path holds.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::Result;
use ipnet::IpNet;
use sdwan::dataplane::desired::{
    CandidateDesired, Desired, LanIngress, PathDesired, SetDesired, SiteDesired, WallClock,
};
use sdwan::engine::Time;
use sdwan::engine::policy::{Match, Policy, PortRange, Protocol, compile, default_policies};
use sdwan::engine::types::{PathKey, SiteId, TunnelKey, UplinkIndex};

/// How much the data path holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Flows that there is room for.
    pub flows: u32,
    /// Remote sites.
    pub sites: u16,
    /// Policies beside the default ones.
    pub policies: u16,
}

impl Size {
    /// Three sites, the default policies, and the default flow table.
    pub const SMALL: Self = Self { flows: sdwan_common::abi::capacity::FLOWS, sites: 2, policies: 0 };
    /// 256 policies.
    pub const MANY_POLICIES: Self = Self { policies: 252, ..Self::SMALL };
    /// Ten thousand sites, forty thousand prefixes.
    pub const MANY_SITES: Self = Self { sites: 9_999, ..Self::SMALL };
}

/// The interfaces of a gateway.
#[derive(Clone, Debug)]
pub struct Ports {
    /// LAN interfaces, by index.
    pub lan: Vec<u32>,
    /// The tunnel.
    pub tunnel: u32,
    /// MTU of the paths, bytes.
    pub mtu: u16,
}

/// A data path without policies beside the default ones, whose every path works and leads into the one tunnel.
///
/// # Errors
/// When the policies don't compile.
pub fn desired(ports: &Ports, local: Vec<IpNet>, policies: u16) -> Result<Desired> {
    let mut all = default_policies();
    all.extend((0..policies).map(policy));
    let compilation = compile(&all, &["lan".into()], 64)?;
    Ok(Desired {
        overlay: IpAddr::from([100, 64, 0, 1]),
        local_prefixes: local,
        lan: ports.lan.iter().map(|&ifindex| LanIngress { ifindex, vlan: None, zone: 0 }).collect(),
        sites: BTreeMap::new(),
        sets: BTreeMap::new(),
        paths: BTreeMap::new(),
        classes: compilation.classes.iter().map(|class| class.abi()).collect(),
        rules: compilation.rules,
        fast_path: sdwan_common::abi::fast_path::BOTH,
        outer_port: 0,
        flow_event_mask: u32::MAX,
        events_per_second: 0,
        heartbeat_stale: Duration::from_secs(3_600),
        clock: WallClock { offset_ns: 0, scale: 0 },
    })
}

/// Adds a site with four paths.
pub fn add_site(desired: &mut Desired, number: u16, prefixes: Vec<IpNet>, ports: &Ports) {
    let mut id = [0; 16];
    id[..2].copy_from_slice(&number.to_be_bytes());
    let site = SiteId(id);
    let [high, low] = number.to_be_bytes();
    desired.sites.insert(site, SiteDesired { overlay: IpAddr::from([100, 65, high, low]), prefixes });
    let paths: Vec<PathKey> = [(0, 0), (0, 1), (1, 0), (1, 1)]
        .into_iter()
        .filter_map(|(local, remote)| {
            let tunnel = TunnelKey { local: UplinkIndex::new(local)?, remote: UplinkIndex::new(remote)? };
            Some(PathKey { site, tunnel })
        })
        .collect();
    for path in &paths {
        let path_desired = PathDesired {
            ifindex: ports.tunnel,
            mark: 0,
            mtu: ports.mtu,
            up: true,
            // No probes run here: the written state decides.
            detection: Duration::ZERO,
            last_answer: Time(0),
            peer_detection: Duration::ZERO,
        };
        desired.paths.insert(*path, path_desired);
    }
    let candidates: Vec<_> =
        (0..).zip(&paths).map(|(rank, path)| CandidateDesired { path: *path, rank, weight: 1, full: false }).collect();
    for class in 0..desired.classes.len() as u16 {
        desired.sets.insert((site, class), SetDesired { candidates: candidates.clone(), keep_rank: 0 });
    }
}

/// One of many policies that the bench's packets don't match: each looks at another port.
fn policy(number: u16) -> Policy {
    let alternative = Match {
        protocols: vec![Protocol(17)],
        destination_ports: vec![PortRange(1_000 + number..=1_000 + number)],
        ..Match::default()
    };
    Policy {
        name: format!("bench-{number}"),
        priority: 1_000 + number,
        matches: vec![alternative],
        class: Some("default".into()),
        ..default_policies().remove(3)
    }
}
