//! The kernel's decision equals that of the same functions in user space, on random tables and packets.

use std::collections::HashMap;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use sdwan_common::abi::*;
use sdwan_common::classify::{Dimensions, Facts, classify};
use sdwan_common::liveness::{candidate_state, path_liveness};
use sdwan_common::select::{flow_hash, select};

use crate::lan::key;
use crate::load::{Programs, now_ns, privileged};
use crate::mesh::{LOOPBACK, mesh};
use crate::packets::{Spec, Transport, address, prefix};
use crate::run::{Context, OK, REDIRECT, run};

const SITES: u32 = 5;
const CLASSES: u16 = 8;
const PATHS: u32 = 40;
const DETECTION_NS: u64 = 100_000_000_000;
const PACKETS_PER_TABLE: usize = 2_500;
const TABLES: u64 = 5;

const SOURCES: [&str; 6] = ["10.1.0.0/16", "10.1.4.0/22", "10.1.4.7/32", "fd01::/32", "fd01:0:4::/48", "::/0"];
const DESTINATIONS: [&str; 6] = ["10.64.0.0/10", "10.66.0.0/15", "10.66.1.0/24", "fd40::/16", "fd40:1::/32", "::/0"];

/// Everything that a decision rests on, as user space has it.
struct Tables {
    protocol: Vec<RuleSet>,
    source_port: Vec<RuleSet>,
    destination_port: Vec<RuleSet>,
    dscp: Vec<RuleSet>,
    zone: Vec<RuleSet>,
    source: Vec<(Address, u32, RuleSet)>,
    destination: Vec<(Address, u32, RuleSet)>,
    prefixes: Vec<(Address, u32, PrefixEntry)>,
    zones: HashMap<u32, u32>,
    rules: Vec<Rule>,
    sets: HashMap<u32, PathSet>,
    paths: Vec<Path>,
    live: Vec<PathLive>,
    site_live: Vec<SiteLive>,
    config: Config,
    flows: HashMap<FlowKey, Flow>,
}

impl Dimensions for Tables {
    fn protocol(&self, protocol: u8) -> Option<&RuleSet> {
        self.protocol.get(usize::from(protocol))
    }
    fn source_port(&self, port: u16) -> Option<&RuleSet> {
        self.source_port.get(usize::from(port))
    }
    fn destination_port(&self, port: u16) -> Option<&RuleSet> {
        self.destination_port.get(usize::from(port))
    }
    fn dscp(&self, dscp: u8) -> Option<&RuleSet> {
        self.dscp.get(usize::from(dscp))
    }
    fn source(&self, address: &Address) -> Option<&RuleSet> {
        longest(&self.source, address)
    }
    fn destination(&self, address: &Address) -> Option<&RuleSet> {
        longest(&self.destination, address)
    }
    fn zone(&self, zone: u32) -> Option<&RuleSet> {
        self.zone.get(zone as usize)
    }
}

/// Longest-prefix match, the slow way.
fn longest<'a, V>(entries: &'a [(Address, u32, V)], address: &Address) -> Option<&'a V> {
    let bits = |address: &Address, length: u32| match length {
        0 => 0,
        _ => u128::from_be_bytes(*address) >> (128 - length),
    };
    let matching = entries.iter().filter(|(base, length, _)| bits(base, *length) == bits(address, *length));
    matching.max_by_key(|(_, length, _)| *length).map(|(_, _, value)| value)
}

/// Most rules are in most sets, so that something is left when seven of them are intersected.
fn random_rules(random: &mut StdRng) -> RuleSet {
    RuleSet { words: std::array::from_fn(|_| random.random::<u64>() | random.random::<u64>() | random.random::<u64>()) }
}

fn random_path(random: &mut StdRng) -> Path {
    use path_state::{ADMIN_DOWN, DOWN, UNUSED, UP};
    Path {
        ifindex: random.random_range(2..99),
        site: random.random_range(0..SITES),
        mtu: 1_420,
        state: *[UP, UP, UP, UP, DOWN, ADMIN_DOWN, UNUSED].choose(random).expect("not empty"),
        detection_ns: *[0, DETECTION_NS, DETECTION_NS].choose(random).expect("not empty"),
        peer_detection_ns: *[0, DETECTION_NS, DETECTION_NS].choose(random).expect("not empty"),
        ..Path::default()
    }
}

/// Recent or long past, far from the detection time, so that the two sides' different clocks don't matter.
fn random_time(random: &mut StdRng) -> u64 {
    let now = now_ns();
    if random.random_bool(0.5) { now } else { now.saturating_sub(DETECTION_NS * 2 + random.random_range(0..9_000_000)) }
}

fn random_site(random: &mut StdRng) -> SiteLive {
    let [last_peer_probe_ns, paused_ns, resumed_ns] = std::array::from_fn(|_| random_time(random));
    SiteLive { last_peer_probe_ns, paused_ns, resumed_ns }
}

fn random_live(random: &mut StdRng) -> PathLive {
    PathLive {
        last_reply_ns: random_time(random),
        last_peer_probe_ns: random_time(random),
        peer_flags: random.random_range(0..2),
        peer_detection_ns: *[0, DETECTION_NS, u64::MAX].choose(random).expect("not empty"),
        ..PathLive::default()
    }
}

fn random_set(random: &mut StdRng, epoch: u32) -> PathSet {
    let mut set = PathSet {
        epoch,
        count: random.random_range(0..=MAX_CANDIDATES as u8),
        keep_rank: random.random_range(0..4),
        class: random.random_range(0..CLASSES),
        ..PathSet::default()
    };
    for candidate in &mut set.candidates {
        // Sometimes a path that doesn't exist.
        let path = if random.random_bool(0.02) { capacity::PATHS + 7 } else { random.random_range(0..PATHS) };
        *candidate = Candidate { path, weight: random.random_range(0..50), rank: random.random_range(0..3), flags: 0 };
    }
    set.candidates.sort_by_key(|candidate| candidate.rank);
    set
}

fn random_tables(random: &mut StdRng) -> Tables {
    let pool: Vec<RuleSet> = (0..32).map(|_| random_rules(random)).collect();
    let mut many = |count: usize| (0..count).map(|_| *pool.choose(random).expect("not empty")).collect::<Vec<_>>();
    let (protocol, source_port, destination_port) = (many(256), many(65_536), many(65_536));
    let (dscp, zone) = (many(64), many(MAX_ZONES));
    let mut tries = |texts: &[&str]| {
        texts
            .iter()
            .map(|text| {
                let (base, length) = prefix(text);
                (base, length, random_rules(random))
            })
            .collect()
    };
    let (source, destination) = (tries(&SOURCES), tries(&DESTINATIONS));
    let prefixes = DESTINATIONS[..5].iter().map(|text| {
        let (base, length) = prefix(text);
        (base, length, PrefixEntry { site: random.random_range(0..SITES), flags: 0 })
    });
    let prefixes = prefixes.collect();
    let mut sets = HashMap::new();
    for site in 0..SITES {
        for class in 0..CLASSES {
            sets.insert(site * capacity::CLASSES + u32::from(class), random_set(random, 1));
        }
    }
    let now = now_ns();
    Tables {
        protocol,
        source_port,
        destination_port,
        dscp,
        zone,
        source,
        destination,
        prefixes,
        zones: HashMap::from([(0, 3), (10, 1), (11, 63)]),
        rules: (0..MAX_RULES).map(|n| Rule { class: random.random_range(0..CLASSES), policy: n as u16 }).collect(),
        sets,
        paths: (0..PATHS).map(|_| random_path(random)).collect(),
        live: (0..PATHS).map(|_| random_live(random)).collect(),
        site_live: (0..SITES).map(|_| random_site(random)).collect(),
        config: Config {
            abi_version: ABI_VERSION,
            epoch: 1,
            heartbeat_ns: if random.random_bool(0.6) { now } else { 0 },
            heartbeat_stale_ns: DETECTION_NS,
            overlay: address("10.255.0.1"),
            scope: random_scope(random, 0),
            fast_path: fast_path::TO_TUNNEL,
            ..Config::default()
        },
        flows: HashMap::new(),
    }
}

fn random_scope(random: &mut StdRng, least: u16) -> Scope {
    Scope {
        words: random.random_range(least..=RULE_WORDS as u16),
        unnamed: random.random_range(0..4),
        ..Scope::default()
    }
}

/// Writes the tables into the maps.
fn install(tables: &Tables, programs: &mut Programs) {
    for (name, sets) in [
        ("match_proto", &tables.protocol),
        ("match_sport", &tables.source_port),
        ("match_dport", &tables.destination_port),
        ("match_dscp", &tables.dscp),
        ("match_zone", &tables.zone),
    ] {
        programs.fill(name, sets);
    }
    for (name, entries) in [("match_src", &tables.source), ("match_dst", &tables.destination)] {
        for (base, length, set) in entries {
            programs.insert_prefix_bytes(name, *base, *length, *set);
        }
    }
    for (base, length, entry) in &tables.prefixes {
        programs.insert_prefix_bytes("prefixes", *base, *length, *entry);
    }
    for (vlan, zone) in &tables.zones {
        programs
            .hash("zones")
            .insert(ZoneKey { ifindex: LOOPBACK, vlan: *vlan }, Zone { zone: *zone }, 0)
            .expect("zones");
    }
    for (number, rule) in tables.rules.iter().enumerate() {
        programs.set("rules", number as u32, *rule);
    }
    install_paths(tables, programs);
}

/// Writes what changes between the packets.
fn install_paths(tables: &Tables, programs: &mut Programs) {
    for (index, set) in &tables.sets {
        programs.set("path_sets", *index, *set);
    }
    for number in 0..PATHS {
        programs.set("paths", number, tables.paths[number as usize]);
        programs.set("path_live", number, tables.live[number as usize]);
    }
    for site in 0..SITES {
        programs.set("site_live", site, tables.site_live[site as usize]);
    }
    programs.set("config", 0, tables.config);
}

impl Tables {
    /// The flow's entry after a packet, or `None` when the packet goes to the stack.
    fn decide(&mut self, key: &FlowKey, dscp: u8, vlan: u32) -> Option<Flow> {
        let now = now_ns();
        let liveness = |number: u32| {
            let (path, live) = (self.paths.get(number as usize)?, &self.live[number as usize]);
            let site = &self.site_live[path.site as usize];
            Some(path_liveness(path, live, site, &self.config, now))
        };
        let known = self.flows.get(key).copied();
        let (set, rule, current) = match known {
            Some(flow) if flow.epoch == self.config.epoch => {
                let unchanged = self.sets[&flow.set].epoch == flow.set_epoch;
                if unchanged && liveness(flow.path).is_some_and(|liveness| liveness.usable()) {
                    return Some(flow);
                }
                (flow.set, flow.rule, flow.path)
            }
            _ => {
                let site = longest(&self.prefixes, &key.destination)?.site;
                let zone = *self.zones.get(&vlan).or_else(|| self.zones.get(&0))?;
                let rule = classify(self, &Facts { key, dscp, zone }, self.config.scope)?;
                let set = site * capacity::CLASSES + u32::from(self.rules[usize::from(rule)].class);
                let current = known.filter(|flow| flow.set == set).map_or(NO_PATH, |flow| flow.path);
                (set, rule, current)
            }
        };
        let content = &self.sets[&set];
        let state = |number| candidate_state(&self.live[number as usize], liveness(number)?);
        let state = |number: u32| if number < PATHS { state(number) } else { None };
        let selection = select(content, current, flow_hash(key), state)?;
        let moved = known.is_some_and(|flow| flow.path != selection.path);
        let flow = Flow {
            path: selection.path,
            set,
            epoch: self.config.epoch,
            set_epoch: content.epoch,
            class: content.class,
            rule,
            moves: known.map_or(0, |flow| flow.moves) + u32::from(moved),
            second: NO_PATH,
            ..Flow::default()
        };
        self.flows.insert(*key, flow);
        Some(flow)
    }

    /// Paths go and come, sets and policies change.
    fn change(&mut self, random: &mut StdRng) {
        for number in 0..PATHS as usize {
            if random.random_bool(0.2) {
                self.paths[number] = random_path(random);
            }
            // Stamps grow old while the test runs: all are made anew.
            self.live[number] = random_live(random);
        }
        for site in &mut self.site_live {
            *site = random_site(random);
        }
        for set in self.sets.values_mut() {
            if random.random_bool(0.2) {
                *set = random_set(random, set.epoch + 1);
            }
        }
        self.config.heartbeat_ns = if random.random_bool(0.6) { now_ns() } else { 0 };
        if random.random_bool(0.3) {
            self.config.scope = random_scope(random, 1);
            self.config.epoch += 1;
        }
    }
}

fn random_packet(random: &mut StdRng) -> (Spec, FlowKey, u8, u32) {
    let v4 = random.random_bool(0.5);
    // Few enough that flows come again.
    let low = |random: &mut StdRng| random.random_range(0..8u32);
    let (source, destination) = if v4 {
        let source = format!("10.1.{}.{}", low(random), low(random));
        (source, format!("10.{}.{}.9", random.random_range(64..70), low(random)))
    } else {
        (format!("fd01:0:{}::{}", low(random), low(random)), format!("fd40:{}::9", low(random)))
    };
    let ports = (random.random_range(0..20_000) * 3, random.random_range(0..65_535));
    let transport = match random.random_range(0..4) {
        0 => Transport::Tcp(ports.0, ports.1, None),
        1 => Transport::Udp(ports.0, ports.1),
        2 => Transport::Echo(ports.0),
        _ => Transport::Raw(random.random_range(61..130)),
    };
    let (protocol, source_port, destination_port) = match transport {
        Transport::Tcp(from, to, _) => (6, from, to),
        Transport::Udp(from, to) => (17, from, to),
        Transport::Echo(id) => (if v4 { 1 } else { 58 }, id, 0),
        Transport::Raw(protocol) => (protocol, 0, 0),
    };
    let dscp = random.random_range(0..64);
    let vlan = *[0u16, 10, 11, 12].choose(random).expect("not empty");
    let key = key(&source, &destination, protocol, source_port, destination_port);
    let spec = Spec::between(&source, &destination, transport).with(|spec| {
        spec.tos = dscp << 2;
        spec.vlans = if vlan == 0 { vec![] } else { vec![vlan] };
    });
    (spec, key, dscp, u32::from(vlan))
}

#[test]
fn kernel_and_user_space_decide_alike() {
    if !privileged("kernel_and_user_space_decide_alike") {
        return;
    }
    let (mut steered, mut left, mut moved) = (0, 0, 0);
    for seed in 0..TABLES {
        let mut random = StdRng::seed_from_u64(seed);
        let mut tables = random_tables(&mut random);
        let mut programs = mesh();
        install(&tables, &mut programs);
        let mut sent = Vec::new();
        for number in 0..PACKETS_PER_TABLE {
            if number % 100 == 99 {
                tables.change(&mut random);
                install_paths(&tables, &mut programs);
            }
            // Half of the packets belong to flows that were seen before.
            let (spec, key, dscp, vlan) = if !sent.is_empty() && random.random_bool(0.5) {
                sent.choose(&mut random).cloned().expect("not empty")
            } else {
                random_packet(&mut random)
            };
            sent.push((spec.clone(), key, dscp, vlan));
            let before = tables.flows.get(&key).map_or(0, |flow| flow.moves);
            let expected = tables.decide(&key, dscp, vlan);
            let outcome = run(programs.program("lan_ingress"), &spec.frame(), Context::default());
            let place = format!("seed {seed}, packet {number}: {spec:?}");
            let Some(expected) = expected else {
                left += 1;
                assert_eq!(outcome.verdict, OK, "{place}");
                continue;
            };
            steered += 1;
            moved += expected.moves - before;
            assert_eq!(outcome.verdict, REDIRECT, "{place}");
            let flow = programs.flow(&key).expect("a flow");
            let decided = Flow { created_ns: 0, last_seen_ns: 0, packets: 0, bytes: 0, ..flow };
            assert_eq!(decided, expected, "{place}");
        }
    }
    println!("{steered} packets steered, {moved} of them moved their flow, {left} left to the stack");
    assert!(steered > 8_000 && left > 100 && moved > 100, "the tables exercise all outcomes");
}
