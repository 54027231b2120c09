//! The structs in the eBPF maps.
//!
//! Every struct is `repr(C)`, of fixed-width integers in host byte order (addresses are bytes in network order), with
//! explicit padding that is always zero. Times are nanoseconds of `CLOCK_MONOTONIC` unless they say otherwise.
//! A change of any layout raises [`ABI_VERSION`], which is part of the pin path.

mod counted;
mod early;
mod traced;

pub use counted::*;
pub use early::*;
pub use traced::*;

/// Version of everything in this module.
pub const ABI_VERSION: u32 = 2;

/// Most rules the classifier holds. A policy compiles to one or more rules.
pub const MAX_RULES: usize = 512;
/// 64-bit words in a [`RuleSet`].
pub const RULE_WORDS: usize = MAX_RULES / 64;
/// Most candidate paths in a [`PathSet`].
pub const MAX_CANDIDATES: usize = 16;
/// Uplinks of one site have indices `0..MAX_UPLINKS`.
pub const MAX_UPLINKS: usize = 8;
/// Most ingress zones.
pub const MAX_ZONES: usize = 64;
/// `PrefixEntry::site` of this site's own prefixes: such packets belong to the stack.
pub const SITE_LOCAL: u32 = u32::MAX;
/// "No path" where a path number is expected.
pub const NO_PATH: u32 = u32::MAX;
/// "No rule" where a rule number is expected.
pub const NO_RULE: u16 = u16::MAX;
/// Ports that the tunnels take: the base and those above it.
pub const TUNNEL_PORTS: u16 = 64;

/// `Class::dscp` of a class that leaves the packet's DSCP alone.
pub const DSCP_KEEP: u8 = 0xff;

/// Default sizes of the maps whose size the operator may change (`[dataplane]` in the configuration).
pub mod capacity {
    /// Entries of `flows`.
    pub const FLOWS: u32 = 262_144;
    /// Sites, hence entries of `site_live`.
    pub const SITES: u32 = 1_024;
    /// Classes, hence `SITES * CLASSES` entries of `path_sets`.
    pub const CLASSES: u32 = 64;
    /// Entries of `paths`, `path_live` and `path_stats`.
    pub const PATHS: u32 = 8_192;
    /// Entries of `prefixes`, `match_src` and `match_dst`.
    pub const PREFIXES: u32 = 65_536;
    /// Entries of `moves`.
    pub const MOVES: u32 = 8_192;
    /// Entries of `fragments`.
    pub const FRAGMENTS: u32 = 16_384;
    /// Entries of `tcp_samples`; a power of two.
    pub const TCP_SAMPLES: u32 = 4_096;
    /// Entries of `copies_seen`, the window in which the second copy of a packet is known; a power of two.
    pub const COPIES_SEEN: u32 = 65_536;
    /// Bytes of the `events` ring buffer.
    pub const EVENTS_BYTES: u32 = 1 << 20;
}

/// An IPv4 or IPv6 address as 16 bytes; IPv4 is mapped (`::ffff:a.b.c.d`).
pub type Address = [u8; 16];

/// Key of `flows`: the 5-tuple. Ports are 0 for protocols without ports; for ICMP echo the identifier is the source
/// port, so that each ping is a flow of its own.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FlowKey {
    /// Source address.
    pub source: Address,
    /// Destination address.
    pub destination: Address,
    /// Source port, host byte order.
    pub source_port: u16,
    /// Destination port, host byte order.
    pub destination_port: u16,
    /// IP protocol number (the last one of an IPv6 header chain).
    pub protocol: u8,
    /// Zero.
    pub padding: [u8; 3],
}

/// Value of `flows`: the path that a flow sticks to, and what that decision rests on.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flow {
    /// Number of the path, index into `paths`.
    pub path: u32,
    /// Index into `path_sets` (`site * class capacity + class`).
    pub set: u32,
    /// [`Config::epoch`] at the decision.
    pub epoch: u32,
    /// [`PathSet::epoch`] at the decision.
    pub set_epoch: u32,
    /// Class of the flow.
    pub class: u16,
    /// Rule that matched.
    pub rule: u16,
    /// How often the flow changed its path.
    pub moves: u32,
    /// When the flow was first seen, ns.
    pub created_ns: u64,
    /// When a packet of the flow was last seen, ns; written at most every 0.1 s.
    pub last_seen_ns: u64,
    /// Packets so far; approximate when one flow is handled by several CPUs at once.
    pub packets: u64,
    /// Bytes of IP packets so far; approximate likewise.
    pub bytes: u64,
    /// The path of the copies, of a class that has them ([`class_flag::COPIES`]), or [`NO_PATH`].
    pub second: u32,
    /// Zero.
    pub padding: u32,
}

/// Key of the longest-prefix-match tries.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PrefixKey {
    /// Length in bits of the 128-bit prefix; an IPv4 /24 is 120.
    pub length: u32,
    /// The prefix, bits past the length zero.
    pub address: Address,
}

/// Bits of [`PrefixEntry::flags`].
pub mod prefix_flag {
    /// The prefix is the overlay address of its site (length 128). Only such addresses take part in STAMP: a host of a
    /// remote LAN can't pretend that a path is alive.
    pub const OVERLAY: u32 = 1;
}

/// Value of `prefixes`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PrefixEntry {
    /// Number of the site, or [`SITE_LOCAL`].
    pub site: u32,
    /// Bits of [`prefix_flag`].
    pub flags: u32,
}

/// [`Path::state`] values, as the daemon last wrote them.
pub mod path_state {
    /// The slot is free.
    pub const UNUSED: u8 = 0;
    /// Probes are answered.
    pub const UP: u8 = 1;
    /// Probes are not answered, or the uplink is gone.
    pub const DOWN: u8 = 2;
    /// The operator switched the path off.
    pub const ADMIN_DOWN: u8 = 3;
}

/// Value of `paths`: written by the daemon alone.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Path {
    /// Interface index of the tunnel.
    pub ifindex: u32,
    /// Firewall mark that leads a packet into this tunnel through the stack (`ip rule`).
    pub mark: u32,
    /// Number of the remote site.
    pub site: u32,
    /// Largest IP packet that fits the path, bytes.
    pub mtu: u16,
    /// One of [`path_state`].
    pub state: u8,
    /// Index of the local uplink.
    pub local_uplink: u8,
    /// Index of the remote uplink.
    pub remote_uplink: u8,
    /// Zero.
    pub padding: [u8; 7],
    /// A path is silent when its last STAMP reply is older than this, ns. 0 switches the check off.
    pub detection_ns: u64,
    /// The same for the peer's probes, which count while the local daemon is dead, ns; of a peer that tells its own
    /// ([`PathLive::peer_detection_ns`]), that one holds. 0 switches the check off.
    pub peer_detection_ns: u64,
}

/// `tc_index` of a packet that `lan_ingress` or the reflector sends into a tunnel: `tunnel_egress` has nothing to do.
pub const TC_INDEX_COUNTED: u16 = 0x5dc0;

/// Bits of [`PathLive::peer_flags`] and of the flags byte of our STAMP extension.
pub mod peer_flag {
    /// The peer receives replies on this path: "I hear you".
    pub const HEARS: u32 = 1;
}

/// Value of `path_live`: written by the data path alone; one cache line.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PathLive {
    /// When a STAMP reply last came in, ns.
    pub last_reply_ns: u64,
    /// When a STAMP probe of the peer last came in, ns.
    pub last_peer_probe_ns: u64,
    /// Bits of [`peer_flag`] from the peer's last probe.
    pub peer_flags: u32,
    /// STAMP packets reflected on this path: the sequence number of a stateful reflector (RFC 8762 section 4.3).
    pub reflected: u32,
    /// When `events` was last told that the path is silent, ns.
    pub silent_reported_ns: u64,
    /// When TCP's round-trip time is to be measured next, ns; while a flow has its turn, when that ends.
    pub tcp_due_ns: u64,
    /// The flow whose turn it is, as [`TcpSample::tag`]; 0: none.
    pub tcp_flow: u32,
    /// Timestamp in the packet of that flow that was seen first (RFC 7323).
    pub tcp_timestamp: u32,
    /// After how long without a probe of the peer the path is silent, as its last probe said, ns; 0: it didn't say.
    /// Zero is also what an older program leaves here, so the field needed no other [`ABI_VERSION`].
    pub peer_detection_ns: u64,
    /// Zero.
    pub padding: u64,
}

/// Value of `site_live`: written by the data path alone.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SiteLive {
    /// When a STAMP probe of this site last came in on any path, ns.
    pub last_peer_probe_ns: u64,
    /// When its last pause began, ns: the last probe before it.
    pub paused_ns: u64,
    /// When that pause ended, ns: its silence is held against none of the paths that were probed until then.
    pub resumed_ns: u64,
}

/// Value of `site_ids`: who a site number is. Written and read by the daemon, so that numbers survive a restart.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SiteIdentity {
    /// The site's identifier; zeros: the number is free.
    pub id: [u8; 16],
}

/// Bits of [`Candidate::flags`].
pub mod candidate_flag {
    /// The path has no room for copies of what another path carries.
    pub const FULL: u8 = 1;
}

/// One path of a [`PathSet`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Candidate {
    /// Number of the path.
    pub path: u32,
    /// Share among the candidates of the same rank, 1..=65535. 0 counts as 1.
    pub weight: u16,
    /// Lower ranks are taken first.
    pub rank: u8,
    /// Bits of [`candidate_flag`].
    pub flags: u8,
}

/// Value of `path_sets`: the candidates for one (site, class), best rank first.
///
/// A reader may see a half-written set. The daemon therefore writes the new content under the old epoch and then
/// raises the epoch: whatever was decided from a torn read carries the old epoch and is decided anew.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathSet {
    /// Raised by every change; flows that carry another epoch decide anew.
    pub epoch: u32,
    /// Candidates in use, 0..=[`MAX_CANDIDATES`]. 0: not a set, the packet goes to the stack.
    pub count: u8,
    /// A flow whose path is a usable candidate of at most this rank stays on it.
    pub keep_rank: u8,
    /// Class of the set.
    pub class: u16,
    /// The candidates, sorted by rank.
    pub candidates: [Candidate; MAX_CANDIDATES],
}

impl Default for PathSet {
    fn default() -> Self {
        Self {
            epoch: 0,
            count: 0,
            keep_rank: 0,
            class: 0,
            candidates: [Candidate { path: 0, weight: 0, rank: 0, flags: 0 }; MAX_CANDIDATES],
        }
    }
}

/// A set of rules, one bit each; rule `n` is bit `n % 64` of word `n / 64`. Lower rules come first.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RuleSet {
    /// The bits.
    pub words: [u64; RULE_WORDS],
}

/// Value of `rules`: what a rule of the classifier stands for.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// Class that the policy assigns.
    pub class: u16,
    /// Number of the policy, in order of priority.
    pub policy: u16,
}

/// Bits of [`Class::flags`].
pub mod class_flag {
    /// Each packet goes by two paths ([`crate::copies`]).
    pub const COPIES: u8 = 1;
}

/// Value of `classes`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Class {
    /// DSCP written into the packet, 0..=63, or [`DSCP_KEEP`].
    pub dscp: u8,
    /// DSCP of the encrypted packet, 0..=63; see [`Config::outer_port`].
    pub outer_dscp: u8,
    /// Bits of [`class_flag`].
    pub flags: u8,
    /// Zero.
    pub padding: u8,
}

/// Key of `zones`: an ingress.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ZoneKey {
    /// Interface index.
    pub ifindex: u32,
    /// Outer VLAN id, 0 for untagged.
    pub vlan: u32,
}

/// Value of `zones`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Zone {
    /// Number of the zone, `0..MAX_ZONES`.
    pub zone: u32,
}

/// Key of `tunnel_paths`: which path a packet from a tunnel came by.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TunnelPathKey {
    /// Interface index of the tunnel.
    pub ifindex: u32,
    /// Number of the remote site.
    pub site: u32,
}

/// Key of `fragments`: one fragmented datagram.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FragmentKey {
    /// Source address.
    pub source: Address,
    /// Destination address.
    pub destination: Address,
    /// Identification field (16 bits in IPv4, 32 in IPv6).
    pub identification: u32,
    /// IP protocol number.
    pub protocol: u8,
    /// Zero.
    pub padding: [u8; 3],
}

/// Value of `fragments`: the ports that only the first fragment carries.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FragmentPorts {
    /// Source port, host byte order.
    pub source_port: u16,
    /// Destination port, host byte order.
    pub destination_port: u16,
}

/// [`Config::fast_path`] values: how much of the forwarding passes by the stack.
pub mod fast_path {
    /// None: packets are only marked, and the stack forwards them.
    pub const OFF: u8 = 0;
    /// LAN → tunnel.
    pub const TO_TUNNEL: u8 = 1;
    /// LAN → tunnel and tunnel → LAN.
    pub const BOTH: u8 = 2;
}

/// What the classifier has to look at.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    /// Words of the [`RuleSet`]s in use, `0..=RULE_WORDS`.
    pub words: u16,
    /// Bits of [`dimension`]: no rule names a value in these, so that every packet matches there. 0 is always right.
    pub unnamed: u8,
    /// Not 0: somebody traces a flow, and `trace` is to be looked at. Not the classifier's: here is the one byte that the
    /// cache line of [`Config`] had left. Zero is also what an older daemon leaves here, so it needed no other
    /// [`ABI_VERSION`].
    pub traced: u8,
}

/// Bits of [`Scope::unnamed`], for the dimensions whose lookup is worth sparing.
pub mod dimension {
    /// Source prefixes.
    pub const SOURCE: u8 = 1;
    /// Destination prefixes.
    pub const DESTINATION: u8 = 2;
}

/// The one record of `config`: written by the daemon alone.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// [`ABI_VERSION`] of the daemon that wrote it. Any other: the programs leave every packet to the stack.
    pub abi_version: u32,
    /// Raised when prefixes, zones or policies change, after the change is complete; flows decide anew.
    pub epoch: u32,
    /// When the daemon last showed that it probes, ns.
    pub heartbeat_ns: u64,
    /// The daemon counts as dead when its heartbeat is older than this, ns.
    pub heartbeat_stale_ns: u64,
    /// `CLOCK_REALTIME - CLOCK_MONOTONIC`, ns: for STAMP timestamps.
    pub realtime_offset_ns: u64,
    /// Overlay address of this site.
    pub overlay: Address,
    /// What the classifier has to look at.
    pub scope: Scope,
    /// A new flow is told to `events` when `hash & mask == 0`.
    pub flow_event_mask: u32,
    /// One of [`fast_path`].
    pub fast_path: u8,
    /// `CLOCK_REALTIME` is kept within 2^(this − 32) s of UTC; 0: nothing keeps it, which is also what an older daemon
    /// leaves here. For STAMP error estimates, [`crate::stamp::ErrorEstimate::of_scale`].
    pub clock_scale: u8,
    /// Base port of the tunnels if encrypted packets get the DSCP of their class, else 0.
    pub outer_port: u16,
    /// Most events per CPU and second that the programs put into `events`.
    pub events_per_second: u32,
}

/// Size, alignment and the last field's offset: a silent change of layout doesn't compile.
macro_rules! layout {
    ($($type:ty: $size:literal, $align:literal, $last:ident @ $offset:literal;)*) => {
        $(const _: () = {
            assert!(core::mem::size_of::<$type>() == $size);
            assert!(core::mem::align_of::<$type>() == $align);
            assert!(core::mem::offset_of!($type, $last) == $offset);
        };)*
        // SAFETY: all of these are `repr(C)`, `Copy`, of integers only, and without implicit padding: the sizes
        // above are the sums of their fields.
        #[cfg(feature = "user")]
        mod pod { use super::*; $(unsafe impl aya::Pod for $type {})* }
    };
}

layout! {
    FlowKey: 40, 2, protocol @ 36;
    Flow: 64, 8, padding @ 60;
    PrefixKey: 20, 4, address @ 4;
    PrefixEntry: 8, 4, flags @ 4;
    Path: 40, 8, peer_detection_ns @ 32;
    PathLive: 64, 8, padding @ 56;
    SiteLive: 24, 8, resumed_ns @ 16;
    SiteIdentity: 16, 1, id @ 0;
    Candidate: 8, 4, flags @ 7;
    PathSet: 136, 4, candidates @ 8;
    RuleSet: 64, 8, words @ 0;
    Rule: 4, 2, policy @ 2;
    Class: 4, 1, padding @ 3;
    ZoneKey: 8, 4, vlan @ 4;
    Zone: 4, 4, zone @ 0;
    TunnelPathKey: 8, 4, site @ 4;
    FragmentKey: 40, 4, protocol @ 36;
    FragmentPorts: 4, 2, destination_port @ 2;
    PathStats: 32, 8, received_bytes @ 24;
    TcpSample: 64, 8, padding @ 60;
    TcpRtt: 520, 8, entries @ 8;
    ClassStats: 32, 8, moves @ 24;
    CopyNumbers: 16, 8, round_ns @ 8;
    CopyStats: 32, 8, unmarked @ 24;
    MoveKey: 12, 4, to @ 8;
    Scope: 4, 2, traced @ 3;
    Config: 64, 8, events_per_second @ 60;
    EventBudget: 16, 8, withheld @ 12;
    Event: 64, 8, flow @ 24;
    TraceFilter: 96, 8, per_second @ 92;
    TraceBudget: 24, 8, padding @ 20;
    TraceRecord: 64, 8, padding @ 56;
    LanFilter: 32, 8, padding @ 28;
    Limit: 32, 8, total_burst_ns @ 24;
    Guard: 152, 8, padding @ 150;
    SessionKey: 8, 2, padding @ 6;
    OtherKey: 20, 2, local_port @ 18;
    SourceKey: 20, 4, kind @ 16;
}
