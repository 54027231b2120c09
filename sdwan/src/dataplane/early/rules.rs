//! Drop rules, and what they compile to: for each value of each dimension the set of rules that match it.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use sdwan_common::abi::{MAX_DROP_RULES, PrefixKey};
use sdwan_common::classify::WITH_PORTS;
use serde::{Deserialize, Serialize};

use super::LanFilterDesired;
use crate::engine::policy::{PortRange, Protocol, prefix_key};

/// `[[drop]]`: what is dropped where it comes in from the LAN. All lists must match; an empty one matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DropRule {
    /// Name; under it the packets are counted.
    pub name: String,
    /// IP protocols.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub protocols: Vec<Protocol>,
    /// Source ports.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub source_ports: Vec<PortRange>,
    /// Destination ports.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub destination_ports: Vec<PortRange>,
    /// Source prefixes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<IpNet>,
    /// Destination prefixes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub destinations: Vec<IpNet>,
    /// Zones of the LAN.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub zones: Vec<String>,
    /// Interfaces of the LAN.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub interfaces: Vec<String>,
}

impl DropRule {
    /// Does it look at ports?
    pub fn has_ports(&self) -> bool {
        !self.source_ports.is_empty() || !self.destination_ports.is_empty()
    }

    /// Does it apply to what comes in there?
    pub fn applies_at(&self, ingress: &LanFilterDesired) -> bool {
        let named = |names: &[String], name: &String| names.is_empty() || names.contains(name);
        named(&self.zones, &ingress.zone) && named(&self.interfaces, &ingress.interface)
    }
}

/// The rules, one bit each from the lowest on, by value of each dimension.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CompiledDrops {
    pub protocol: Vec<u64>,
    pub source_port: Vec<u64>,
    pub destination_port: Vec<u64>,
    pub source: BTreeMap<PrefixKey, u64>,
    pub destination: BTreeMap<PrefixKey, u64>,
    pub any_port: u64,
    pub any_protocol: u64,
}

impl CompiledDrops {
    /// Rules beyond [`MAX_DROP_RULES`] are left out: the configuration refuses them.
    pub(super) fn new(rules: &[DropRule]) -> Self {
        let rules = &rules[..rules.len().min(MAX_DROP_RULES)];
        let mut drops = Self {
            protocol: vec![0; 256],
            source_port: vec![0; 65_536],
            destination_port: vec![0; 65_536],
            source: tree(rules, |rule| &rule.sources),
            destination: tree(rules, |rule| &rule.destinations),
            any_port: 0,
            any_protocol: 0,
        };
        for (number, rule) in rules.iter().enumerate() {
            let bit = 1 << number;
            let with_ports = WITH_PORTS.map(Protocol);
            let protocols: &[Protocol] =
                if rule.has_ports() && rule.protocols.is_empty() { &with_ports } else { &rule.protocols };
            if !rule.has_ports() {
                drops.any_port |= bit;
                drops.any_protocol |= if protocols.is_empty() { bit } else { 0 };
            }
            for (value, set) in drops.protocol.iter_mut().enumerate() {
                let matches = protocols.is_empty() || protocols.iter().any(|protocol| usize::from(protocol.0) == value);
                *set |= if matches { bit } else { 0 };
            }
            mark(&mut drops.source_port, &rule.source_ports, bit);
            mark(&mut drops.destination_port, &rule.destination_ports, bit);
        }
        drops
    }
}

fn mark(sets: &mut [u64], ranges: &[PortRange], bit: u64) {
    if ranges.is_empty() {
        sets.iter_mut().for_each(|set| *set |= bit);
    }
    for range in ranges {
        for port in range.0.clone() {
            sets[usize::from(port)] |= bit;
        }
    }
}

/// Every prefix that a rule names, and the whole of both families, with the rules that match all of it.
fn tree(rules: &[DropRule], prefixes: impl Fn(&DropRule) -> &Vec<IpNet>) -> BTreeMap<PrefixKey, u64> {
    if rules.is_empty() {
        return BTreeMap::new();
    }
    let whole = |text: &str| text.parse::<IpNet>().unwrap_or_else(|_| unreachable!("{text} is a prefix"));
    let mut named: BTreeSet<IpNet> = rules.iter().flat_map(&prefixes).copied().collect();
    named.extend([whole("0.0.0.0/0"), whole("::/0")]);
    let matching = |prefix: &IpNet| {
        let numbered = rules.iter().enumerate();
        let matches = numbered.filter(|(_, rule)| {
            prefixes(rule).is_empty() || prefixes(rule).iter().any(|around| around.contains(prefix))
        });
        matches.fold(0, |set, (number, _)| set | 1 << number)
    };
    named.iter().map(|prefix| (prefix_key(prefix), matching(prefix))).collect()
}
