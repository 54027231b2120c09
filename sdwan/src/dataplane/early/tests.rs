use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::time::Duration;

use sdwan_common::abi::{Address, Guard, LanFilter, PrefixKey, ZoneKey, lan_filter_flag};
use sdwan_common::classify::WITH_PORTS;

use super::maps::EarlyTables;
use super::rules::CompiledDrops;
use super::*;
use crate::dataplane::memory::MemoryTable;
use crate::engine::Time;
use crate::engine::policy::{PortRange, Protocol, address_bytes};
use crate::engine::types::UplinkIndex;

/// The maps in memory. Clones share their content.
#[derive(Clone)]
struct Memory {
    filter: MemoryTable<ZoneKey, LanFilter>,
    protocol: MemoryTable<u32, u64>,
    source_port: MemoryTable<u32, u64>,
    destination_port: MemoryTable<u32, u64>,
    source: MemoryTable<PrefixKey, u64>,
    destination: MemoryTable<PrefixKey, u64>,
    hits: MemoryTable<u32, u64>,
    guard: MemoryTable<u32, Guard>,
    addresses: MemoryTable<Address, u32>,
}

impl Memory {
    fn new(fuse: &Arc<AtomicI64>) -> Self {
        Self {
            filter: MemoryTable::new(fuse.clone()),
            protocol: MemoryTable::new(fuse.clone()),
            source_port: MemoryTable::new(fuse.clone()),
            destination_port: MemoryTable::new(fuse.clone()),
            source: MemoryTable::new(fuse.clone()),
            destination: MemoryTable::new(fuse.clone()),
            hits: MemoryTable::new(fuse.clone()),
            guard: MemoryTable::new(fuse.clone()),
            addresses: MemoryTable::new(fuse.clone()),
        }
    }

    fn maps(&self) -> EarlyMaps {
        EarlyMaps::new(EarlyTables {
            filter: Box::new(self.filter.clone()),
            protocol: Box::new(self.protocol.clone()),
            source_port: Box::new(self.source_port.clone()),
            destination_port: Box::new(self.destination_port.clone()),
            source: Box::new(self.source.clone()),
            destination: Box::new(self.destination.clone()),
            hits: Box::new(self.hits.clone()),
            guard: Box::new(self.guard.clone()),
            addresses: Box::new(self.addresses.clone()),
        })
    }

    /// Does a rule of the ingress match, as the program looks it up?
    fn drops(&self, packet: &Packet) -> bool {
        let filter = self.filter.snapshot()[&ZoneKey { ifindex: packet.ifindex, vlan: 0 }];
        let array = |table: &MemoryTable<u32, u64>, at: u32| table.snapshot().get(&at).copied().unwrap_or(0);
        let tree = |table: &MemoryTable<PrefixKey, u64>, address: &str| {
            let key = PrefixKey { length: 128, address: address_bytes(address.parse().expect("an address")) };
            super::maps::covering(&table.snapshot(), &key)
        };
        let ports =
            array(&self.source_port, packet.ports.0.into()) & array(&self.destination_port, packet.ports.1.into());
        filter.rules
            & array(&self.protocol, packet.protocol.into())
            & ports
            & tree(&self.source, packet.source)
            & tree(&self.destination, packet.destination)
            != 0
    }
}

#[derive(Clone, Copy)]
struct Packet {
    ifindex: u32,
    protocol: u8,
    ports: (u16, u16),
    source: &'static str,
    destination: &'static str,
}

const TELNET: Packet =
    Packet { ifindex: 3, protocol: 6, ports: (40_000, 23), source: "10.1.0.5", destination: "192.0.2.1" };

fn telnet() -> DropRule {
    DropRule {
        name: "telnet".into(),
        protocols: vec![Protocol(6)],
        destination_ports: vec![PortRange(23..=23)],
        ..DropRule::default()
    }
}

fn from_guests() -> DropRule {
    let prefixes = ["10.1.9.0/24", "2001:db8:9::/48"];
    let sources = prefixes.iter().map(|prefix| prefix.parse().expect("a prefix")).collect();
    DropRule { name: "guests".into(), sources, zones: vec!["lan".into()], ..DropRule::default() }
}

fn desired(rules: Vec<DropRule>) -> EarlyDesired {
    let lan = |ifindex, zone: &str| LanFilterDesired {
        ifindex,
        vlan: None,
        interface: format!("eth{ifindex}"),
        zone: zone.into(),
        malformed: true,
        martians: false,
    };
    EarlyDesired { rules, lan: vec![lan(3, "lan"), lan(4, "voice")], guard: None }
}

#[test]
fn a_rule_drops_what_it_names_and_nothing_else() {
    let memory = Memory::new(&Arc::new(AtomicI64::new(-1)));
    memory.maps().apply(&desired(vec![telnet(), from_guests()]), Time(1)).expect("memory takes it");
    let guest = Packet { source: "10.1.9.7", protocol: 17, ports: (1, 53), ..TELNET };
    for (packet, expected) in [
        (TELNET, true),
        (Packet { protocol: 17, ..TELNET }, false),
        (Packet { ports: (23, 40_000), ..TELNET }, false),
        (Packet { source: "2001:db8::1", destination: "2001:db8::2", ..TELNET }, true),
        (guest, true),
        (Packet { ifindex: 4, ..guest }, false),
        (Packet { ifindex: 4, ..TELNET }, true),
        (Packet { source: "10.1.8.7", ..guest }, false),
        (Packet { source: "2001:db8:9:1::7", destination: "::2", ..guest }, true),
        // An address that looks alike in the other family.
        (Packet { source: "::10.1.9.7", destination: "::2", ..guest }, false),
    ] {
        assert_eq!(memory.drops(&packet), expected, "{} {:?}", packet.source, packet.ports);
    }
    let filter = memory.filter.snapshot()[&ZoneKey { ifindex: 3, vlan: 0 }];
    // The first rules are in the upper half.
    assert_eq!((filter.flags, filter.any_port), (lan_filter_flag::MALFORMED, 0b10 << 32));
    assert_eq!(filter.any_protocol, 0b10 << 32);
}

#[test]
fn whatever_the_moment_of_a_failure_packets_meet_the_old_rules_or_the_new_ones() {
    let (old, new) = (desired(vec![telnet(), from_guests()]), desired(vec![from_guests(), telnet()]));
    let other = desired(vec![from_guests()]);
    for target in [new, other] {
        let telnet_stays = target.rules.len() == 2;
        // Arrays are written one entry at a time in memory, so there are many moments: look at some of each kind.
        for fuse_at in [0, 1, 100, 257, 60_000, 131_327, 131_330, 131_335, 131_340, 131_400, 131_410] {
            let fuse = Arc::new(AtomicI64::new(-1));
            let memory = Memory::new(&fuse);
            memory.maps().apply(&old, Time(1)).expect("memory takes it");
            fuse.store(fuse_at, std::sync::atomic::Ordering::Relaxed);
            let done = memory.maps().apply(&target, Time(2)).is_ok();
            let guest = Packet { source: "10.1.9.7", protocol: 17, ports: (1, 53), ..TELNET };
            assert!(memory.drops(&guest), "the guests' rule is in both: {fuse_at}");
            assert!(!memory.drops(&Packet { protocol: 17, ..TELNET }), "in neither: {fuse_at}");
            assert!(!telnet_stays || memory.drops(&TELNET), "in both: {fuse_at}");
            fuse.store(-1, std::sync::atomic::Ordering::Relaxed);
            memory.maps().apply(&target, Time(3)).expect("the next one mends it");
            assert_eq!(memory.drops(&TELNET), telnet_stays, "{fuse_at}");
            if done {
                break;
            }
        }
    }
}

#[test]
fn what_is_in_force_is_not_written_again_and_its_counts_stay() {
    let fuse = Arc::new(AtomicI64::new(-1));
    let memory = Memory::new(&fuse);
    let wanted = desired(vec![telnet()]);
    memory.maps().apply(&wanted, Time(1)).expect("memory takes it");
    // Another daemon, and the same one again: not one write.
    fuse.store(0, std::sync::atomic::Ordering::Relaxed);
    let mut maps = memory.maps();
    maps.apply(&wanted, Time(2)).expect("nothing is written");
    maps.apply(&wanted, Time(3)).expect("nothing is written");
    fuse.store(-1, std::sync::atomic::Ordering::Relaxed);
    maps.apply(&desired(Vec::new()), Time(4)).expect("memory takes it");
    assert!(memory.source.snapshot().is_empty() && memory.destination.snapshot().is_empty());
    assert!(!memory.drops(&TELNET));
}

#[test]
fn a_guard_learns_once_and_anew_with_other_ports() {
    let memory = Memory::new(&Arc::new(AtomicI64::new(-1)));
    let tunnel = |local, remote| TunnelKey {
        local: UplinkIndex::new(local).expect("small"),
        remote: UplinkIndex::new(remote).expect("small"),
    };
    let guard = GuardDesired {
        base_port: 51_820,
        tunnels: [tunnel(0, 0), tunnel(1, 2)].into(),
        control_ports: [Some(51_819), None],
        addresses: ["192.0.2.1", "2001:db8::1"].map(|text| text.parse().expect("an address")).into(),
        limits: [RateLimit { source_pps: 50, total_pps: 500 }; 4],
        learn: Duration::from_nanos(1_000),
    };
    let with = |guard: &GuardDesired| EarlyDesired { guard: Some(guard.clone()), ..desired(Vec::new()) };
    let record = || memory.guard.snapshot()[&0];
    memory.maps().apply(&with(&guard), Time(5)).expect("memory takes it");
    assert_eq!((record().tunnels, record().strict_from_ns), (1 | 1 << 10, 1_005));
    assert_eq!((record().control_ports, record().limits[0].source_interval_ns), ([51_819, 0], 20_000_000));
    assert_eq!(memory.addresses.snapshot().len(), 2);
    // The next daemon, with one tunnel more.
    let more = GuardDesired { tunnels: [tunnel(0, 0), tunnel(7, 7)].into(), ..guard.clone() };
    memory.maps().apply(&with(&more), Time(9_000)).expect("memory takes it");
    assert_eq!((record().tunnels, record().strict_from_ns), (1 | 1 << 63, 1_005));
    let moved = GuardDesired { base_port: 40_000, ..guard };
    memory.maps().apply(&with(&moved), Time(9_000)).expect("memory takes it");
    assert_eq!(record().strict_from_ns, 10_000);
    memory.maps().apply(&desired(Vec::new()), Time(9_500)).expect("memory takes it");
    assert!(memory.guard.snapshot().get(&0).is_none_or(|guard| guard.tunnels == 0));
    assert!(memory.addresses.snapshot().is_empty());
}

#[test]
fn ports_without_a_protocol_mean_the_protocols_that_have_ports() {
    let rule = DropRule { source_ports: vec![PortRange(1..=9)], ..DropRule::default() };
    let drops = CompiledDrops::new(&[rule]);
    let with: Vec<usize> = (0..256).filter(|protocol| drops.protocol[*protocol] != 0).collect();
    assert_eq!(with, WITH_PORTS.map(usize::from));
    assert_eq!((drops.any_port, drops.any_protocol), (0, 0));
    assert_eq!((drops.source_port[9], drops.source_port[10], drops.destination_port[10]), (1, 0, 1));
}

#[test]
fn covering_finds_the_longest_prefix_around() {
    let key = |length, text: &str| PrefixKey { length, address: address_bytes(text.parse().expect("an address")) };
    let content = BTreeMap::from([(key(0, "::"), 1), (key(96, "0.0.0.0"), 2), (key(120, "10.1.9.0"), 3)]);
    for (text, expected) in [("10.1.9.1", 3), ("10.1.8.1", 2), ("fd00::1", 1)] {
        assert_eq!(super::maps::covering(&content, &key(128, text)), expected, "{text}");
    }
}
