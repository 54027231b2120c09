//! What the XDP programs go by: drop rules of the LAN, and the guard of the tunnel ports.

mod maps;
mod rules;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use sdwan_common::abi::Limit;
use serde::{Deserialize, Serialize};

pub(super) use maps::EarlyMaps;
pub use rules::DropRule;

use crate::engine::types::TunnelKey;

/// Where the XDP programs are attached, always in native mode: in the kernel's generic one a packet has been made of the
/// frame before they run, and nothing is gained.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum XdpMode {
    /// Where the driver has it and something is gained; elsewhere a line in the log, and all goes on without.
    #[default]
    Auto,
    /// On every interface, virtual ones as well; where the driver doesn't have it, that is an error.
    Native,
    /// Nowhere.
    Off,
}

/// Everything that the XDP programs shall know.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EarlyDesired {
    /// The drop rules; at most [`sdwan_common::abi::MAX_DROP_RULES`].
    pub rules: Vec<DropRule>,
    /// Where they apply.
    pub lan: Vec<LanFilterDesired>,
    /// The guard; `None`: off.
    pub guard: Option<GuardDesired>,
}

/// What is dropped at one ingress of the LAN.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LanFilterDesired {
    /// Interface index.
    pub ifindex: u32,
    /// Outer VLAN id, if packets come tagged.
    pub vlan: Option<u16>,
    /// Interface name, as rules name it.
    pub interface: String,
    /// Zone, as rules name it.
    pub zone: String,
    /// Packets that no stack takes are dropped.
    pub malformed: bool,
    /// Packets from addresses that are nobody's are dropped.
    pub martians: bool,
}

/// What the guard of the tunnel ports goes by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuardDesired {
    /// Base port of the tunnels.
    pub base_port: u16,
    /// The tunnels that exist, or are to.
    pub tunnels: BTreeSet<TunnelKey>,
    /// Ports of announcements and of path MTU probes.
    pub control_ports: [Option<u16>; 2],
    /// Addresses of this machine.
    pub addresses: BTreeSet<IpAddr>,
    /// The limits, by [`sdwan_common::abi::guard_limit`].
    pub limits: [RateLimit; sdwan_common::abi::guard_limit::COUNT],
    /// How long the guard, where it is new, only limits what it doesn't recognise.
    pub learn: Duration,
}

/// A limit in packets per second. Of one source two seconds' worth may come at once, of all strangers a tenth of a second's:
/// more would fill the socket that a tunnel's packets wait in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// From one source.
    pub source_pps: u32,
    /// From all strangers.
    pub total_pps: u32,
}

impl RateLimit {
    const SOURCE_BURST_NS: u64 = 2_000_000_000;
    const TOTAL_BURST_NS: u64 = 100_000_000;

    fn abi(self) -> Limit {
        let interval = |pps: u32| 1_000_000_000 / u64::from(pps.max(1));
        Limit {
            source_interval_ns: interval(self.source_pps),
            source_burst_ns: Self::SOURCE_BURST_NS,
            total_interval_ns: interval(self.total_pps),
            total_burst_ns: Self::TOTAL_BURST_NS,
        }
    }
}
