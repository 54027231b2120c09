//! `[xdp]`, `[[drop]]` and `[guard]`: what is dropped before the kernel makes a packet of it.

use std::collections::BTreeMap;
use std::time::Duration;

use sdwan_common::abi::{DROP_PREFIXES, MAX_DROP_RULES};
use sdwan_common::classify::protocol_has_ports;
use serde::Serialize;

use super::policies::is_name;
use super::read::set;
use super::reader::{Notes, Section};
use super::units::{Span, duration};
use super::validate::{between, range};
use super::{Config, LanInterface};
use crate::dataplane::early::{DropRule, RateLimit, XdpMode};

/// `[xdp]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct XdpConfig {
    /// Where the programs are attached.
    pub mode: XdpMode,
    /// Packets from the LAN that no stack takes are dropped.
    pub malformed: bool,
    /// Packets from the LAN with a source address that is nobody's are dropped.
    pub martians: bool,
}

/// `[guard]`: limits at the uplinks, in packets per second ([`RateLimit`] says how many at once).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GuardConfig {
    /// Off: the tunnel ports take everything.
    pub enabled: bool,
    /// Handshake initiations from one source.
    pub source_initiations_pps: u32,
    /// Handshake initiations from all strangers.
    pub total_initiations_pps: u32,
    /// Messages of unknown sessions from one source.
    pub source_unknown_pps: u32,
    /// Messages of unknown sessions from all strangers.
    pub total_unknown_pps: u32,
    /// Fragments of datagrams to tunnel ports from one source.
    pub source_fragments_pps: u32,
    /// Fragments of datagrams to tunnel ports from all strangers.
    pub total_fragments_pps: u32,
    /// Announcements and path MTU probes from one source.
    pub source_control_pps: u32,
    /// Announcements and path MTU probes from all strangers.
    pub total_control_pps: u32,
    /// How long a guard that is new only limits what it doesn't recognise.
    #[serde(with = "duration")]
    pub learn: Duration,
}

impl Default for XdpConfig {
    fn default() -> Self {
        Self { mode: XdpMode::Auto, malformed: true, martians: false }
    }
}

impl Default for GuardConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            source_initiations_pps: 50,
            total_initiations_pps: 500,
            source_unknown_pps: 100,
            total_unknown_pps: 500,
            source_fragments_pps: 100,
            total_fragments_pps: 500,
            source_control_pps: 2_000,
            total_control_pps: 4_000,
            // WireGuard's sessions end after 180 s.
            learn: Duration::from_secs(180),
        }
    }
}

impl GuardConfig {
    /// The limits, by [`sdwan_common::abi::guard_limit`].
    pub fn limits(&self) -> [RateLimit; 4] {
        let limit = |source_pps, total_pps| RateLimit { source_pps, total_pps };
        [
            limit(self.source_initiations_pps, self.total_initiations_pps),
            limit(self.source_unknown_pps, self.total_unknown_pps),
            limit(self.source_fragments_pps, self.total_fragments_pps),
            limit(self.source_control_pps, self.total_control_pps),
        ]
    }
}

/// Reads `[xdp]`.
pub(super) fn read_xdp(xdp: &mut XdpConfig, mut section: Section<'_>, notes: &mut Notes) {
    set(&mut xdp.mode, section.take(notes, "mode", "\"auto\", \"native\" or \"off\""));
    set(&mut xdp.malformed, section.take(notes, "malformed", "true or false"));
    set(&mut xdp.martians, section.take(notes, "martians", "true or false"));
    section.finish(notes);
}

/// Reads `[guard]`.
pub(super) fn read_guard(guard: &mut GuardConfig, mut section: Section<'_>, notes: &mut Notes) {
    set(&mut guard.enabled, section.take(notes, "enabled", "true or false"));
    for (place, key) in [
        (&mut guard.source_initiations_pps, "source_initiations_pps"),
        (&mut guard.total_initiations_pps, "total_initiations_pps"),
        (&mut guard.source_unknown_pps, "source_unknown_pps"),
        (&mut guard.total_unknown_pps, "total_unknown_pps"),
        (&mut guard.source_fragments_pps, "source_fragments_pps"),
        (&mut guard.total_fragments_pps, "total_fragments_pps"),
        (&mut guard.source_control_pps, "source_control_pps"),
        (&mut guard.total_control_pps, "total_control_pps"),
    ] {
        set(place, section.take(notes, key, "a whole number"));
    }
    set(&mut guard.learn, section.take::<Span>(notes, "learn", "a duration such as \"180s\"").map(|span| span.0));
    section.finish(notes);
}

/// Notes what is wrong with all of it.
pub(super) fn validate(config: &Config, notes: &mut Notes) {
    let guard = &config.guard;
    for (key, value) in [
        ("guard.source_initiations_pps", guard.source_initiations_pps),
        ("guard.total_initiations_pps", guard.total_initiations_pps),
        ("guard.source_unknown_pps", guard.source_unknown_pps),
        ("guard.total_unknown_pps", guard.total_unknown_pps),
        ("guard.source_fragments_pps", guard.source_fragments_pps),
        ("guard.total_fragments_pps", guard.total_fragments_pps),
        ("guard.source_control_pps", guard.source_control_pps),
        ("guard.total_control_pps", guard.total_control_pps),
    ] {
        range(key, value, 1, 1_000_000, notes);
    }
    between("guard.learn", guard.learn, Duration::ZERO, Duration::from_secs(3_600), notes);
    if config.drops.len() > MAX_DROP_RULES {
        let message = format!("{} drop rules, and there is room for {MAX_DROP_RULES}", config.drops.len());
        notes.problem(&format!("drop[{MAX_DROP_RULES}]"), message, "merge some: each list may be long");
    }
    if config.xdp.mode == XdpMode::Off && !config.drops.is_empty() {
        let message = "drop rules are carried out by XDP, which is off";
        notes.problem("drop[0]", message, "set xdp.mode to \"auto\" or \"native\", or remove the rules");
    }
    let prefixes: usize = config.drops.iter().map(|rule| rule.sources.len().max(rule.destinations.len())).sum();
    // Room for the rules before these as well, while they are replaced.
    if prefixes > DROP_PREFIXES as usize / 2 - 2 {
        let message =
            format!("the drop rules name {prefixes} prefixes, and there is room for {}", DROP_PREFIXES / 2 - 2);
        notes.problem("drop", message, "merge prefixes");
    }
    let mut names: BTreeMap<&str, usize> = BTreeMap::new();
    for (index, rule) in config.drops.iter().enumerate() {
        if names.insert(&rule.name, index).is_some() {
            let message = format!("there are two drop rules named {:?}", rule.name);
            notes.problem(&format!("drop[{index}].name"), message, "give each a name of its own");
        }
        rule_alone(index, rule, notes);
        rule_in_its_place(index, rule, config, notes);
    }
}

fn rule_alone(index: usize, rule: &DropRule, notes: &mut Notes) {
    let key = |name: &str| format!("drop[{index}].{name}");
    if !is_name(&rule.name) {
        let remedy = "use 1 to 32 of the characters a-z, 0-9 and -: packets are counted under it";
        notes.problem(&key("name"), format!("{:?} can't be the name of a drop rule", rule.name), remedy);
    }
    if *rule == (DropRule { name: rule.name.clone(), ..DropRule::default() }) {
        let remedy = "name protocols, ports, prefixes, zones or interfaces; \"0.0.0.0/0\" and \"::/0\" mean everything";
        notes.problem(&format!("drop[{index}]"), "this rule would drop everything from the LAN", remedy);
    }
    if rule.has_ports()
        && let Some(other) = rule.protocols.iter().find(|protocol| !protocol_has_ports(protocol.0))
    {
        let message = format!("{other} has no ports, and this rule names some");
        notes.problem(&key("protocols"), message, "give protocols without ports a [[drop]] of their own");
    }
    for (name, prefixes) in [("sources", &rule.sources), ("destinations", &rule.destinations)] {
        for (at, prefix) in prefixes.iter().enumerate().filter(|(_, prefix)| prefix.addr() != prefix.network()) {
            let message = format!("{prefix} has bits set past its length");
            notes.problem(&format!("{}[{at}]", key(name)), message, format!("write {}", prefix.trunc()));
        }
    }
    let families = |prefixes: &[ipnet::IpNet]| {
        (prefixes.iter().any(|p| p.addr().is_ipv4()), prefixes.iter().any(|p| p.addr().is_ipv6()))
    };
    let (sources, destinations) = (families(&rule.sources), families(&rule.destinations));
    let both = !rule.sources.is_empty() && !rule.destinations.is_empty();
    if both && !(sources.0 && destinations.0) && !(sources.1 && destinations.1) {
        let message = "sources and destinations are of different IP versions, so nothing can match";
        notes.problem(&key("destinations"), message, "name prefixes of one IP version in both");
    }
}

fn rule_in_its_place(index: usize, rule: &DropRule, config: &Config, notes: &mut Notes) {
    let zones = config.zones();
    if let Some(zone) = rule.zones.iter().find(|zone| !zones.contains(zone)) {
        let message = format!("no LAN interface is in zone {zone:?}");
        notes.problem(&format!("drop[{index}].zones"), message, "give one that zone in [lan] interfaces");
    }
    let interfaces = &config.lan.interfaces;
    let is_lan = |name: &String| interfaces.is_empty() || interfaces.iter().any(|lan: &LanInterface| lan.name == *name);
    if let Some(name) = rule.interfaces.iter().find(|name| !is_lan(name)) {
        let message = format!("{name} is no interface of the LAN");
        notes.problem(&format!("drop[{index}].interfaces"), message, "name one of [lan] interfaces");
    }
}
