//! A small mesh in the maps: this site, another one, two paths, two classes.

use sdwan_common::abi::*;
use sdwan_common::counters::{DropReason, PassReason};

use crate::load::{Programs, now_ns};
use crate::packets::address;

/// Interface of the test-run: the loopback.
pub const LOOPBACK: u32 = 1;
/// Number of the other site.
pub const SITE: u32 = 2;
/// The fibre path, first choice of ordinary traffic, and the radio path, first choice of voice.
pub const FIBRE: u32 = 5;
pub const RADIO: u32 = 6;
pub const FIBRE_MARK: u32 = 0x5d00_0005;
pub const RADIO_MARK: u32 = 0x5d00_0006;
pub const FIBRE_MTU: u16 = 1420;
pub const RADIO_MTU: u16 = 1400;
/// Classes, and the DSCP of voice.
pub const DEFAULT: u16 = 0;
pub const VOICE: u16 = 1;
pub const VOICE_DSCP: u8 = 46;
/// Overlay addresses.
pub const OWN_OVERLAY: &str = "10.255.0.1";
pub const THEIR_OVERLAY: &str = "10.255.0.2";
/// A path is silent after this long. Long enough that none is before a slow machine has run its test; short enough that
/// a freshly booted one is soon older than it.
pub const DETECTION_NS: u64 = 8_000_000_000;

/// Index of a path set.
pub const fn set(class: u16) -> u32 {
    SITE * capacity::CLASSES + class as u32
}

pub fn rules(bits: &[u16]) -> RuleSet {
    let mut set = RuleSet::default();
    for bit in bits {
        set.words[usize::from(bit / 64)] |= 1 << (bit % 64);
    }
    set
}

pub fn path(ifindex: u32, mark: u32, mtu: u16) -> Path {
    Path {
        ifindex,
        mark,
        site: SITE,
        mtu,
        state: path_state::UP,
        detection_ns: DETECTION_NS,
        peer_detection_ns: DETECTION_NS,
        ..Path::default()
    }
}

pub fn path_set(class: u16, candidates: &[(u32, u8)]) -> PathSet {
    let mut set = PathSet { epoch: 1, count: candidates.len() as u8, class, ..PathSet::default() };
    for (slot, (path, rank)) in set.candidates.iter_mut().zip(candidates) {
        *slot = Candidate { path: *path, weight: 1, rank: *rank, flags: 0 };
    }
    set
}

/// Loads the programs and fills the maps. UDP to port 5060 is voice; everything else is of the default class.
///
/// The kernel's test-run puts an Ethernet header before everything, tunnels included.
pub fn mesh() -> Programs {
    mesh_behind(14)
}

/// The same, for tunnels with link-layer headers of this length.
pub fn mesh_behind(tunnel_header: u32) -> Programs {
    let mut programs = Programs::load(tunnel_header);
    let local = PrefixEntry { site: SITE_LOCAL, flags: 0 };
    let remote = PrefixEntry { site: SITE, flags: 0 };
    for prefix in ["10.1.0.0/16", "fd01::/32"] {
        programs.insert_prefix("prefixes", prefix, local);
    }
    for prefix in ["10.2.0.0/16", "fd02::/32"] {
        programs.insert_prefix("prefixes", prefix, remote);
    }
    let overlay = prefix_flag::OVERLAY;
    for prefix in ["10.255.0.1/32", "fd0f::1/128"] {
        programs.insert_prefix("prefixes", prefix, PrefixEntry { site: SITE_LOCAL, flags: overlay });
    }
    for prefix in ["10.255.0.2/32", "fd0f::2/128"] {
        programs.insert_prefix("prefixes", prefix, PrefixEntry { site: SITE, flags: overlay });
    }
    programs.set("paths", FIBRE, path(105, FIBRE_MARK, FIBRE_MTU));
    programs.set("paths", RADIO, path(106, RADIO_MARK, RADIO_MTU));
    for number in [FIBRE, RADIO] {
        programs.set("path_live", number, PathLive { last_reply_ns: now_ns(), ..PathLive::default() });
    }
    programs.set("path_sets", set(DEFAULT), path_set(DEFAULT, &[(FIBRE, 0), (RADIO, 1)]));
    programs.set("path_sets", set(VOICE), path_set(VOICE, &[(RADIO, 0), (FIBRE, 1)]));
    programs.set("classes", u32::from(DEFAULT), Class { dscp: DSCP_KEEP, ..Class::default() });
    programs.set("classes", u32::from(VOICE), Class { dscp: VOICE_DSCP, ..Class::default() });
    programs.set("rules", 0, Rule { class: VOICE, policy: 0 });
    programs.set("rules", 1, Rule { class: DEFAULT, policy: 1 });
    for protocol in 0..256 {
        programs.set("match_proto", protocol, rules(if protocol == 17 { &[0, 1] } else { &[1] }));
    }
    programs.fill("match_sport", &vec![rules(&[0, 1]); 65_536]);
    let to_port: Vec<_> = (0..65_536).map(|port| rules(if port == 5060 { &[0, 1] } else { &[1] })).collect();
    programs.fill("match_dport", &to_port);
    for dscp in 0..64 {
        programs.set("match_dscp", dscp, rules(&[0, 1]));
    }
    programs.set("match_zone", 0, rules(&[0, 1]));
    programs.insert_prefix("match_src", "::/0", rules(&[0, 1]));
    programs.insert_prefix("match_dst", "::/0", rules(&[0, 1]));
    programs.hash("zones").insert(ZoneKey { ifindex: LOOPBACK, vlan: 0 }, Zone { zone: 0 }, 0).expect("zones");
    programs
        .hash("tunnel_paths")
        .insert(TunnelPathKey { ifindex: LOOPBACK, site: SITE }, FIBRE, 0)
        .expect("tunnel_paths");
    programs.set(
        "config",
        0,
        Config {
            abi_version: ABI_VERSION,
            epoch: 1,
            heartbeat_ns: now_ns(),
            heartbeat_stale_ns: DETECTION_NS,
            realtime_offset_ns: 1_700_000_000_000_000_000,
            overlay: address(OWN_OVERLAY),
            scope: Scope { words: 1, unnamed: dimension::SOURCE | dimension::DESTINATION, traced: 0 },
            flow_event_mask: 0,
            fast_path: fast_path::BOTH,
            clock_scale: 0,
            outer_port: 0,
            events_per_second: 1_000,
        },
    );
    programs
}

impl Programs {
    pub fn passes(&mut self, reason: PassReason) -> u64 {
        self.counter("passes", reason as u32)
    }

    pub fn drops(&mut self) -> u64 {
        DropReason::ALL.iter().map(|reason| self.counter("drops", *reason as u32)).sum()
    }

    pub fn flow(&mut self, key: &FlowKey) -> Option<Flow> {
        self.hash("flows").get(key, 0).ok()
    }

    /// Writes new content into a path set as the daemon does: first under the old epoch, then with a new one.
    pub fn replace_set(&mut self, class: u16, mut new: PathSet) {
        let old: PathSet = self.get("path_sets", set(class));
        new.epoch = old.epoch;
        self.set("path_sets", set(class), new);
        new.epoch += 1;
        self.set("path_sets", set(class), new);
    }
}
