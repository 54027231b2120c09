//! Which path a packet takes: the flow's, as long as that rests on what is true now, else a new one.

use aya_ebpf::btf_maps::lpm_trie::Key;
use sdwan_common::abi::{
    Address, Config, Flow, NO_PATH, PathLive, PathSet, PrefixEntry, RuleSet, SITE_LOCAL, SiteLive, ZoneKey,
    prefix_flag, trace_cause,
};
use sdwan_common::classify::{Dimensions, Facts, classify};
use sdwan_common::counters::PassReason;
use sdwan_common::liveness::{Liveness, candidate_state, daemon_alive, path_liveness};
use sdwan_common::select::{flow_hash, select_in};

use crate::maps::{
    CLASS_CAPACITY, FLOWS, MATCH_DPORT, MATCH_DSCP, MATCH_DST, MATCH_PROTO, MATCH_SPORT, MATCH_SRC, MATCH_ZONE,
    PATH_LIVE, PATH_SETS, PATHS, PREFIXES, RULES, SITE_LIVE, ZONES,
};
use crate::parse::Packet;
use crate::trace::{self, Decided};
use crate::{count, events};

/// `last_seen_ns` is written at most this often, so that a busy flow's cache line isn't dirtied for it.
const SEEN_EVERY_NS: u64 = 100_000_000;

/// The outcome for one packet, on the way to it and at the end.
pub struct Decision {
    /// Number of the path: the flow's so far, then the one to take.
    pub path: u32,
    /// The path of the flow's copies so far, or [`NO_PATH`].
    pub second: u32,
    /// It is time to look whether there is a better one.
    pub second_due: bool,
    /// Index of the path set.
    pub set: u32,
    pub class: u16,
    pub rule: u16,
    /// When, ns of the coarse clock.
    pub now_ns: u64,
}

/// The longest prefix that holds an address.
#[inline(always)]
pub fn prefix(address: &Address) -> Option<&'static PrefixEntry> {
    PREFIXES.get(&Key::new(128, *address))
}

/// Finds or decides the path.
///
/// The steps are functions of their own because the stack of one function holds 512 bytes together with its callers.
#[inline(always)]
pub fn decide(packet: &mut Packet, config: &Config, epoch: u32) -> Result<Decision, PassReason> {
    let now_ns = packet.now_ns();
    let known = FLOWS.get_ptr_mut(&packet.key);
    let mut so_far = SoFar { path: NO_PATH, set: 0, rule: 0, classified: false, cause: trace_cause::NEW };
    if let Some(flow) = known {
        // SAFETY: the entry may be evicted and reused meanwhile, as with every LRU map; it stays valid memory.
        let flow = unsafe { &mut *flow };
        flow.packets = flow.packets.wrapping_add(u64::from(packet.segments));
        flow.bytes = flow.bytes.wrapping_add(u64::from(packet.length));
        let second_due = now_ns.saturating_sub(flow.last_seen_ns) >= SEEN_EVERY_NS;
        if second_due {
            flow.last_seen_ns = now_ns;
        }
        let Flow { path, second, set, class, rule, .. } = *flow;
        let classified = flow.epoch == epoch;
        let mut cause = trace_cause::EPOCH;
        if classified {
            let set_epoch = read_epoch(PATH_SETS.get(set).ok_or(PassReason::NoPathSet)?);
            if flow.set_epoch == set_epoch && usable(path, config, now_ns) {
                return Ok(Decision { path, second, second_due, set, class, rule, now_ns });
            }
            cause = if flow.set_epoch == set_epoch { trace_cause::UNUSABLE } else { trace_cause::SET };
        }
        so_far = SoFar { path, set, rule, classified, cause };
    }
    let SoFar { path, set, rule, classified, cause } = so_far;
    if config.scope.traced != 0 {
        packet.decided = Decided::new(path, cause, 0);
    }
    let mut decision = Decision { path, second: NO_PATH, second_due: false, set, class: 0, rule, now_ns };
    if !classified {
        want(packet, config, &mut decision)?;
    }
    // Before the candidates: a decision from a half-written set then carries the old epoch and is made anew.
    let set_epoch = read_epoch(PATH_SETS.get(decision.set).ok_or(PassReason::NoPathSet)?);
    let hash = flow_hash(&packet.key);
    choose(&mut decision, packet, config, hash, now_ns)?;
    let epochs = Epochs { config: epoch, set: set_epoch };
    let told = if let Some(flow) = known {
        // SAFETY: as above.
        update(unsafe { &mut *flow }, &decision, epochs)
    } else {
        insert(packet, &decision, epochs, now_ns);
        hash & config.flow_event_mask == 0
    };
    if told {
        events::flow(&packet.key, &decision, path, now_ns, config.events_per_second);
    }
    Ok(decision)
}

/// What a flow is known to take, if it is known, and whether its class still holds.
struct SoFar {
    path: u32,
    set: u32,
    rule: u16,
    classified: bool,
    /// Why that isn't enough: one of `trace_cause`.
    cause: u8,
}

/// What a decision rests on.
#[derive(Clone, Copy)]
struct Epochs {
    config: u32,
    set: u32,
}

/// Selects from the path set, starting from the path the flow is on.
#[inline(never)]
fn choose(
    decision: &mut Decision,
    packet: &mut Packet,
    config: &Config,
    hash: u32,
    now_ns: u64,
) -> Result<(), PassReason> {
    let set = PATH_SETS.get(decision.set).ok_or(PassReason::NoPathSet)?;
    decision.class = set.class;
    let Packet { silent, best, decided, .. } = packet;
    *silent = NO_PATH;
    let selection = select_in(best, set, decision.path, hash, |number| {
        let (live, liveness) = look(number, config, now_ns)?;
        if matches!(liveness, Liveness::Silent) {
            *silent = number;
        }
        // SAFETY: a value of an array map lives as long as the map.
        candidate_state(unsafe { &*live }, liveness)
    })
    .ok_or(PassReason::NoPathSet)?;
    decision.path = selection.path;
    if config.scope.traced != 0 {
        decided.chosen = trace::choice(selection.reason);
    }
    if *silent != NO_PATH {
        events::silent(*silent, now_ns);
    }
    Ok(())
}

/// Writes a decision into the flow's entry. Has it moved?
#[inline(always)]
fn update(flow: &mut Flow, decision: &Decision, epochs: Epochs) -> bool {
    let old_path = flow.path;
    let moved = old_path != decision.path;
    flow.path = decision.path;
    flow.second = NO_PATH;
    flow.set = decision.set;
    flow.class = decision.class;
    flow.rule = decision.rule;
    flow.set_epoch = epochs.set;
    flow.epoch = epochs.config;
    if moved {
        flow.moves = flow.moves.wrapping_add(1);
        count::decided(decision.class, true);
        count::moved(decision.set, old_path, decision.path);
    }
    moved
}

#[inline(never)]
fn insert(packet: &Packet, decision: &Decision, epochs: Epochs, now_ns: u64) {
    let flow = Flow {
        path: decision.path,
        set: decision.set,
        epoch: epochs.config,
        set_epoch: epochs.set,
        class: decision.class,
        rule: decision.rule,
        moves: 0,
        created_ns: now_ns,
        last_seen_ns: now_ns,
        packets: u64::from(packet.segments),
        bytes: u64::from(packet.length),
        second: NO_PATH,
        padding: 0,
    };
    // Without an entry the next packet is decided again, and alike.
    let _ = FLOWS.insert(&packet.key, &flow, 0);
    count::decided(decision.class, false);
}

/// Destination → site, packet → class: the path set.
#[inline(never)]
fn want(packet: &Packet, config: &Config, decision: &mut Decision) -> Result<(), PassReason> {
    let site = prefix(&packet.key.destination).ok_or(PassReason::NoPrefix)?.site;
    if site == SITE_LOCAL {
        return Err(PassReason::LocalDestination);
    }
    let own = |source: &PrefixEntry| source.site == SITE_LOCAL && source.flags & prefix_flag::OVERLAY == 0;
    if !prefix(&packet.key.source).is_some_and(own) {
        return Err(PassReason::SpoofedSource);
    }
    let untagged = ZoneKey { ifindex: packet.ingress.ifindex, vlan: 0 };
    // SAFETY: nothing in the programs changes this map.
    let zone = unsafe { ZONES.get(&packet.ingress).or_else(|| ZONES.get(untagged)) };
    let zone = zone.ok_or(PassReason::NoPathSet)?.zone;
    let facts = Facts { key: &packet.key, dscp: packet.dscp(), zone };
    let rule = classify(&KernelTables, &facts, config.scope).ok_or(PassReason::NoPathSet)?;
    let class = RULES.get(u32::from(rule)).ok_or(PassReason::NoPathSet)?.class;
    let classes = CLASS_CAPACITY.load();
    if u32::from(class) >= classes {
        return Err(PassReason::NoPathSet);
    }
    let set = site.wrapping_mul(classes).wrapping_add(u32::from(class));
    // A flow that now belongs to another set owes its old path nothing.
    if decision.set != set {
        decision.path = NO_PATH;
    }
    decision.set = set;
    decision.rule = rule;
    Ok(())
}

/// May flows use the path now?
#[inline(always)]
pub fn usable(number: u32, config: &Config, now_ns: u64) -> bool {
    look(number, config, now_ns).is_some_and(|(_, liveness)| liveness.usable())
}

/// How a path does now.
#[inline(always)]
pub fn look(number: u32, config: &Config, now_ns: u64) -> Option<(*mut PathLive, Liveness)> {
    let path = PATHS.get(number)?;
    let live = PATH_LIVE.get_ptr_mut(number)?;
    // Only a dead daemon's paths rest on the site's probes.
    let site = if daemon_alive(config, now_ns) {
        SiteLive::default()
    } else {
        SITE_LIVE.get(path.site).copied().unwrap_or_default()
    };
    // SAFETY: a value of an array map lives as long as the map.
    let liveness = path_liveness(path, unsafe { &*live }, &site, config, now_ns);
    Some((live, liveness))
}

/// Raised by the daemon at any moment: read once.
#[inline(always)]
fn read_epoch(set: &PathSet) -> u32 {
    // SAFETY: a reference is valid for reads.
    unsafe { core::ptr::read_volatile(&raw const set.epoch) }
}

/// The seven dimensions in their maps.
struct KernelTables;

impl Dimensions for KernelTables {
    #[inline(always)]
    fn protocol(&self, protocol: u8) -> Option<&RuleSet> {
        MATCH_PROTO.get(u32::from(protocol))
    }
    #[inline(always)]
    fn source_port(&self, port: u16) -> Option<&RuleSet> {
        MATCH_SPORT.get(u32::from(port))
    }
    #[inline(always)]
    fn destination_port(&self, port: u16) -> Option<&RuleSet> {
        MATCH_DPORT.get(u32::from(port))
    }
    #[inline(always)]
    fn dscp(&self, dscp: u8) -> Option<&RuleSet> {
        MATCH_DSCP.get(u32::from(dscp))
    }
    #[inline(always)]
    fn source(&self, address: &[u8; 16]) -> Option<&RuleSet> {
        MATCH_SRC.get(&Key::new(128, *address))
    }
    #[inline(always)]
    fn destination(&self, address: &[u8; 16]) -> Option<&RuleSet> {
        MATCH_DST.get(&Key::new(128, *address))
    }
    #[inline(always)]
    fn zone(&self, zone: u32) -> Option<&RuleSet> {
        MATCH_ZONE.get(zone)
    }
}
