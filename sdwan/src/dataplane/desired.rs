//! What the data path shall hold, in the engine's words.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use sdwan_common::abi::Class;

use crate::engine::Time;
use crate::engine::policy::CompiledRules;
use crate::engine::types::{PathKey, SiteId};

/// The whole desired state of the maps.
#[derive(Clone, Debug, PartialEq)]
pub struct Desired {
    /// This site's overlay address.
    pub overlay: IpAddr,
    /// This site's own prefixes; they belong to the stack even inside a wider remote one.
    pub local_prefixes: Vec<IpNet>,
    /// Where LAN packets come in.
    pub lan: Vec<LanIngress>,
    /// The remote sites.
    pub sites: BTreeMap<SiteId, SiteDesired>,
    /// The paths whose tunnel exists.
    pub paths: BTreeMap<PathKey, PathDesired>,
    /// The path sets by site and class.
    pub sets: BTreeMap<(SiteId, u16), SetDesired>,
    /// The classifier.
    pub rules: Arc<CompiledRules>,
    /// The classes by number.
    pub classes: Vec<Class>,
    /// One of [`sdwan_common::abi::fast_path`].
    pub fast_path: u8,
    /// Base port of the tunnels if encrypted packets get the DSCP of their class, else 0.
    pub outer_port: u16,
    /// A new flow is told when `hash & mask == 0`.
    pub flow_event_mask: u32,
    /// Most events per CPU and second.
    pub events_per_second: u32,
    /// The daemon counts as dead when its heartbeat is older than this.
    pub heartbeat_stale: Duration,
    /// The wall clock: probes are answered from the first state on, before the first heartbeat.
    pub clock: WallClock,
}

/// An ingress of LAN packets.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LanIngress {
    /// Interface index.
    pub ifindex: u32,
    /// Outer VLAN id, if packets come tagged.
    pub vlan: Option<u16>,
    /// Number of the zone.
    pub zone: u32,
}

/// What the programs make `CLOCK_REALTIME` of, and what that is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WallClock {
    /// `CLOCK_REALTIME - CLOCK_MONOTONIC`, ns.
    pub offset_ns: u64,
    /// See `clock_scale` of the programs' configuration.
    pub scale: u8,
}

/// A remote site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SiteDesired {
    /// Its overlay address.
    pub overlay: IpAddr,
    /// The prefixes that it owns.
    pub prefixes: Vec<IpNet>,
}

/// A path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathDesired {
    /// Interface index of the tunnel.
    pub ifindex: u32,
    /// Mark that leads into the tunnel through the stack.
    pub mark: u32,
    /// Largest IP packet, bytes.
    pub mtu: u16,
    /// May it be used?
    pub up: bool,
    /// Silent after so long without a reply.
    pub detection: Duration,
    /// When it last answered the daemon, 0 for never: what a path that is new in the maps begins with.
    pub last_answer: Time,
    /// The same for the probes of a peer that doesn't tell its own.
    pub peer_detection: Duration,
}

/// A path set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SetDesired {
    /// The candidates, best rank first.
    pub candidates: Vec<CandidateDesired>,
    /// A flow on a usable candidate of at most this rank stays.
    pub keep_rank: u8,
}

/// A candidate of a path set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CandidateDesired {
    /// The path.
    pub path: PathKey,
    /// Lower is taken first.
    pub rank: u8,
    /// Share within the rank.
    pub weight: u16,
    /// It has no room for copies.
    pub full: bool,
}

/// A single change of what the data path shall hold, which can't wait for the next whole state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A path came up or went down.
    PathState(PathKey, bool),
    /// A path is to be left after another time without an answer.
    PathDetection(PathKey, Duration),
    /// The path set of a site's class, by number, changed.
    PathSet(SiteId, u16, SetDesired),
}
