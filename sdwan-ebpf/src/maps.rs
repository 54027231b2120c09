//! The maps, and the numbers that the loader may override.

use aya_ebpf::Global;
use aya_ebpf::btf_maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf};
use aya_ebpf::macros::btf_map;
use sdwan_common::abi::{
    self, Address, Class, ClassStats, Config, CopyNumbers, CopyStats, DROP_PREFIXES, EventBudget, Flow, FlowKey,
    FragmentKey, FragmentPorts, Guard, LanFilter, MAX_DROP_RULES, MAX_RULES, MAX_ZONES, MoveKey, OtherKey, Path,
    PathLive, PathSet, PathStats, PrefixEntry, Rule, RuleSet, SessionKey, SiteIdentity, SiteLive, SourceKey, TcpRtt,
    TcpSample, TraceBudget, TraceFilter, TunnelPathKey, Zone, ZoneKey, capacity, guard_limit,
};
use sdwan_common::counters::{DropReason, EarlyDropReason, PassReason};

use crate::parse::Packet;

/// Classes per site in `path_sets`: the row length of the two-dimensional index.
#[unsafe(no_mangle)]
pub static CLASS_CAPACITY: Global<u32> = Global::new(capacity::CLASSES);

/// Bytes before the IP header at `tunnel_ingress`. Tunnel interfaces have none; the kernel's test-run always prepends an
/// Ethernet header.
#[unsafe(no_mangle)]
pub static TUNNEL_HEADER: Global<u32> = Global::new(0);

/// How often TCP's round-trip time is measured by each path, ns; 0: never.
#[unsafe(no_mangle)]
pub static TCP_RTT_INTERVAL_NS: Global<u64> = Global::new(100_000_000);

#[btf_map(name = "flows")]
pub static FLOWS: LruHashMap<FlowKey, Flow, { capacity::FLOWS as usize }> = LruHashMap::new();

#[btf_map(name = "prefixes")]
pub static PREFIXES: LpmTrie<Address, PrefixEntry, { capacity::PREFIXES as usize }> = LpmTrie::new();

#[btf_map(name = "paths")]
pub static PATHS: Array<Path, { capacity::PATHS as usize }> = Array::new();

#[btf_map(name = "path_live")]
pub static PATH_LIVE: Array<PathLive, { capacity::PATHS as usize }> = Array::new();

#[btf_map(name = "site_live")]
pub static SITE_LIVE: Array<SiteLive, { capacity::SITES as usize }> = Array::new();

/// For the daemon alone: who each site number is, so that numbers survive a restart.
#[btf_map(name = "site_ids")]
pub static SITE_IDS: Array<SiteIdentity, { capacity::SITES as usize }> = Array::new();

#[btf_map(name = "path_sets")]
pub static PATH_SETS: Array<PathSet, { (capacity::SITES * capacity::CLASSES) as usize }> = Array::new();

#[btf_map(name = "match_proto")]
pub static MATCH_PROTO: Array<RuleSet, 256> = Array::new();

#[btf_map(name = "match_sport")]
pub static MATCH_SPORT: Array<RuleSet, 65_536> = Array::new();

#[btf_map(name = "match_dport")]
pub static MATCH_DPORT: Array<RuleSet, 65_536> = Array::new();

#[btf_map(name = "match_dscp")]
pub static MATCH_DSCP: Array<RuleSet, 64> = Array::new();

#[btf_map(name = "match_zone")]
pub static MATCH_ZONE: Array<RuleSet, MAX_ZONES> = Array::new();

#[btf_map(name = "match_src")]
pub static MATCH_SRC: LpmTrie<Address, RuleSet, { capacity::PREFIXES as usize }> = LpmTrie::new();

#[btf_map(name = "match_dst")]
pub static MATCH_DST: LpmTrie<Address, RuleSet, { capacity::PREFIXES as usize }> = LpmTrie::new();

#[btf_map(name = "rules")]
pub static RULES: Array<Rule, MAX_RULES> = Array::new();

#[btf_map(name = "classes")]
pub static CLASSES: Array<Class, { capacity::CLASSES as usize }> = Array::new();

#[btf_map(name = "zones")]
pub static ZONES: HashMap<ZoneKey, Zone, 1_024> = HashMap::new();

#[btf_map(name = "tunnel_paths")]
pub static TUNNEL_PATHS: HashMap<TunnelPathKey, u32, { capacity::PATHS as usize }> = HashMap::new();

#[btf_map(name = "fragments")]
pub static FRAGMENTS: LruHashMap<FragmentKey, FragmentPorts, { capacity::FRAGMENTS as usize }> = LruHashMap::new();

#[btf_map(name = "path_stats")]
pub static PATH_STATS: PerCpuArray<PathStats, { capacity::PATHS as usize }> = PerCpuArray::new();

#[btf_map(name = "class_stats")]
pub static CLASS_STATS: PerCpuArray<ClassStats, { capacity::CLASSES as usize }> = PerCpuArray::new();

#[btf_map(name = "copy_numbers")]
pub static COPY_NUMBERS: Array<CopyNumbers, { capacity::SITES as usize }> = Array::new();

/// Which packets of two copies have come in lately.
#[btf_map(name = "copies_seen")]
pub static COPIES_SEEN: Array<u64, { capacity::COPIES_SEEN as usize }> = Array::new();

#[btf_map(name = "copy_stats")]
pub static COPY_STATS: PerCpuArray<CopyStats, { capacity::CLASSES as usize }> = PerCpuArray::new();

#[btf_map(name = "moves")]
pub static MOVES: LruHashMap<MoveKey, u32, { capacity::MOVES as usize }> = LruHashMap::new();

#[btf_map(name = "tcp_samples")]
pub static TCP_SAMPLES: Array<TcpSample, { capacity::TCP_SAMPLES as usize }> = Array::new();

#[btf_map(name = "tcp_rtt")]
pub static TCP_RTT: Array<TcpRtt, { capacity::PATHS as usize }> = Array::new();

#[btf_map(name = "drops")]
pub static DROPS: PerCpuArray<u64, { DropReason::ALL.len() }> = PerCpuArray::new();

#[btf_map(name = "passes")]
pub static PASSES: PerCpuArray<u64, { PassReason::ALL.len() }> = PerCpuArray::new();

/// Records are [`sdwan_common::abi::Event`]. The value type is empty: with another one libbpf, hence `bpftool prog load`,
/// refuses the object.
#[btf_map(name = "events")]
pub static EVENTS: RingBuf<(), { capacity::EVENTS_BYTES as usize }> = RingBuf::new();

#[btf_map(name = "event_budget")]
pub static EVENT_BUDGET: PerCpuArray<EventBudget, 1> = PerCpuArray::new();

/// The flow that is traced.
#[btf_map(name = "trace")]
pub static TRACE: Array<TraceFilter, 1> = Array::new();

/// Records are [`sdwan_common::abi::TraceRecord`]; the value type is empty as that of `events` is.
#[btf_map(name = "traces")]
pub static TRACES: RingBuf<(), { abi::TRACES_BYTES as usize }> = RingBuf::new();

#[btf_map(name = "trace_budget")]
pub static TRACE_BUDGET: PerCpuArray<TraceBudget, 1> = PerCpuArray::new();

#[btf_map(name = "scratch")]
pub static SCRATCH: PerCpuArray<Packet, 1> = PerCpuArray::new();

#[btf_map(name = "config")]
pub static CONFIG: Array<Config, 1> = Array::new();

#[btf_map(name = "early_drops")]
pub static EARLY_DROPS: PerCpuArray<u64, { EarlyDropReason::ALL.len() }> = PerCpuArray::new();

#[btf_map(name = "lan_filter")]
pub static LAN_FILTER: HashMap<ZoneKey, LanFilter, 1_024> = HashMap::new();

#[btf_map(name = "drop_proto")]
pub static DROP_PROTOCOL: Array<u64, 256> = Array::new();

#[btf_map(name = "drop_sport")]
pub static DROP_SOURCE_PORT: Array<u64, 65_536> = Array::new();

#[btf_map(name = "drop_dport")]
pub static DROP_DESTINATION_PORT: Array<u64, 65_536> = Array::new();

#[btf_map(name = "drop_src")]
pub static DROP_SOURCE: LpmTrie<Address, u64, { DROP_PREFIXES as usize }> = LpmTrie::new();

#[btf_map(name = "drop_dst")]
pub static DROP_DESTINATION: LpmTrie<Address, u64, { DROP_PREFIXES as usize }> = LpmTrie::new();

#[btf_map(name = "drop_hits")]
pub static DROP_HITS: PerCpuArray<u64, { 2 * MAX_DROP_RULES }> = PerCpuArray::new();

#[btf_map(name = "guard")]
pub static GUARD: Array<Guard, 1> = Array::new();

/// Addresses of this machine; the values say nothing.
#[btf_map(name = "guard_addresses")]
pub static GUARD_ADDRESSES: HashMap<Address, u32, { abi::GUARD_ADDRESSES as usize }> = HashMap::new();

#[btf_map(name = "guard_sessions")]
pub static GUARD_SESSIONS: LruHashMap<SessionKey, u64, { abi::GUARD_SESSIONS as usize }> = LruHashMap::new();

/// Addresses that a handshake was sent to, and when, ns.
#[btf_map(name = "guard_known")]
pub static GUARD_KNOWN: LruHashMap<Address, u64, { abi::GUARD_SESSIONS as usize }> = LruHashMap::new();

#[btf_map(name = "guard_others")]
pub static GUARD_OTHERS: LruHashMap<OtherKey, u64, { abi::GUARD_SOURCES as usize }> = LruHashMap::new();

#[btf_map(name = "guard_sources")]
pub static GUARD_SOURCES: LruHashMap<SourceKey, u64, { abi::GUARD_SOURCES as usize }> = LruHashMap::new();

#[btf_map(name = "guard_totals")]
pub static GUARD_TOTALS: Array<u64, { guard_limit::COUNT }> = Array::new();
