//! Policies → rules of the classifier.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use sdwan_common::abi::{
    Address, Class, DSCP_KEEP, MAX_RULES, MAX_ZONES, PrefixKey, Rule, RuleSet, Scope, class_flag, dimension,
};
use sdwan_common::classify::{WITH_PORTS, protocol_has_ports};

use super::compiled::{CompiledRules, contains};
use super::{Match, Mode, Policy, PortRange, Preference, Sla, Sticky};

/// A class as the policies define it.
#[derive(Clone, Debug, PartialEq)]
pub struct ClassSpec {
    /// Its name; the position in [`Compilation::classes`] is its number.
    pub name: String,
    /// What makes a path good for it.
    pub preference: Preference,
    /// Its bounds.
    pub sla: Sla,
    /// One path or all.
    pub mode: Mode,
    /// What flows do when a better path appears.
    pub sticky: Sticky,
    /// DSCP to write, if any.
    pub dscp: Option<u8>,
    /// DSCP of the encrypted packets, if any.
    pub outer_dscp: Option<u8>,
}

impl ClassSpec {
    /// The record of the `classes` map.
    pub fn abi(&self) -> Class {
        Class {
            dscp: self.dscp.unwrap_or(DSCP_KEEP),
            outer_dscp: self.outer_dscp.unwrap_or(0),
            flags: if self.mode == Mode::Duplicate { class_flag::COPIES } else { 0 },
            padding: 0,
        }
    }
}

/// The outcome: policies in order of precedence, classes, rules.
#[derive(Clone, Debug, PartialEq)]
pub struct Compilation {
    /// The policies as they apply.
    pub policies: Vec<Policy>,
    /// The classes by number.
    pub classes: Vec<ClassSpec>,
    /// The rules for the classifier.
    pub rules: Arc<CompiledRules>,
    /// Zone names by number.
    pub zones: Vec<String>,
}

/// Policies that can't be compiled.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CompileError {
    /// Too many alternatives.
    #[error("the policies make {0} rules, and the classifier holds {MAX_RULES}: merge matches, or remove policies")]
    TooManyRules(usize),
    /// Too many classes for the data path.
    #[error("the policies name {0} classes, and the data path is set up for {1}: raise `classes` in [dataplane]")]
    TooManyClasses(usize, usize),
    /// Too many zones.
    #[error("there are {0} zones, and the classifier knows {MAX_ZONES}")]
    TooManyZones(usize),
    /// Two policies have the same name.
    #[error("two policies are called {0:?}: names must be unique")]
    DuplicateName(String),
    /// Two policies say different things about one class.
    #[error(
        "policies {first:?} and {second:?} assign the class {class:?} with different preference, sla, mode, sticky, \
         dscp or outer_dscp: make them equal, or give one its own class"
    )]
    Contradiction {
        /// The class.
        class: String,
        /// The policy that defined it.
        first: String,
        /// The policy that contradicts.
        second: String,
    },
    /// `ports` together with a directed list.
    #[error("policy {0:?}: `ports` stands for both directions; leave it out, or source_ports and destination_ports")]
    PortsTwice(String),
    /// Ports on a protocol that has none.
    #[error("policy {0:?}: ports are matched, but none of its protocols has ports")]
    PortsWithoutProtocol(String),
    /// A zone that no LAN interface has.
    #[error("policy {policy:?}: no LAN interface is in zone {zone:?}; the zones are: {known}")]
    UnknownZone {
        /// The policy.
        policy: String,
        /// The zone.
        zone: String,
        /// Zones that exist.
        known: String,
    },
}

/// One line of the classifier.
#[derive(Clone, Default)]
struct Line {
    rule: Rule,
    protocols: Vec<u8>,
    source_ports: Vec<PortRange>,
    destination_ports: Vec<PortRange>,
    dscp: Vec<u8>,
    sources: Vec<IpNet>,
    destinations: Vec<IpNet>,
    zones: Vec<u32>,
}

/// Compiles policies. `zones` are the zone names by number; `class_capacity` is the most classes.
pub fn compile(policies: &[Policy], zones: &[String], class_capacity: usize) -> Result<Compilation, CompileError> {
    if zones.len() > MAX_ZONES {
        return Err(CompileError::TooManyZones(zones.len()));
    }
    let mut policies = policies.to_vec();
    policies.sort_by(|a, b| (a.priority, &a.name).cmp(&(b.priority, &b.name)));
    let mut names = BTreeSet::new();
    if let Some(twice) = policies.iter().find(|policy| !names.insert(policy.name.clone())) {
        return Err(CompileError::DuplicateName(twice.name.clone()));
    }
    let (classes, numbers) = classes(&policies, class_capacity)?;
    let mut lines = Vec::new();
    for (number, policy) in policies.iter().enumerate() {
        let rule = Rule { class: numbers[policy.class_name()], policy: number as u16 };
        if policy.matches.is_empty() {
            lines.push(Line { rule, ..Line::default() });
        }
        for alternative in &policy.matches {
            lines.extend(lines_of(policy, alternative, rule, zones)?);
        }
    }
    if lines.len() > MAX_RULES {
        return Err(CompileError::TooManyRules(lines.len()));
    }
    Ok(Compilation { policies, classes, rules: Arc::new(rules(&lines)), zones: zones.to_vec() })
}

fn classes(policies: &[Policy], capacity: usize) -> Result<(Vec<ClassSpec>, BTreeMap<String, u16>), CompileError> {
    let mut classes: Vec<ClassSpec> = Vec::new();
    let mut numbers = BTreeMap::new();
    let mut definers = Vec::new();
    for policy in policies {
        let spec = ClassSpec {
            name: policy.class_name().to_owned(),
            preference: policy.preference,
            sla: policy.sla,
            mode: policy.mode,
            sticky: policy.sticky,
            dscp: policy.dscp,
            outer_dscp: policy.outer_dscp,
        };
        if let Some(position) = classes.iter().position(|known| known.name == spec.name) {
            if classes[position] != spec {
                let first: &String = &definers[position];
                return Err(CompileError::Contradiction {
                    class: spec.name,
                    first: first.clone(),
                    second: policy.name.clone(),
                });
            }
            continue;
        }
        numbers.insert(spec.name.clone(), classes.len() as u16);
        definers.push(policy.name.clone());
        classes.push(spec);
    }
    if classes.len() > capacity {
        Err(CompileError::TooManyClasses(classes.len(), capacity))
    } else {
        Ok((classes, numbers))
    }
}

fn lines_of(policy: &Policy, alternative: &Match, rule: Rule, zones: &[String]) -> Result<Vec<Line>, CompileError> {
    let directed = !alternative.source_ports.is_empty() || !alternative.destination_ports.is_empty();
    if directed && !alternative.ports.is_empty() {
        return Err(CompileError::PortsTwice(policy.name.clone()));
    }
    let mut protocols: Vec<u8> = alternative.protocols.iter().map(|protocol| protocol.0).collect();
    if directed || !alternative.ports.is_empty() {
        // "Any protocol" with ports means any that has ports; port 0 of the others must not match.
        if protocols.is_empty() {
            protocols.extend(WITH_PORTS);
        }
        protocols.retain(|protocol| protocol_has_ports(*protocol));
        if protocols.is_empty() {
            return Err(CompileError::PortsWithoutProtocol(policy.name.clone()));
        }
    }
    let mut zone_numbers = Vec::new();
    for zone in &alternative.zones {
        let number = zones.iter().position(|known| known == zone).ok_or_else(|| CompileError::UnknownZone {
            policy: policy.name.clone(),
            zone: zone.clone(),
            known: zones.join(", "),
        })?;
        zone_numbers.push(number as u32);
    }
    let line = Line {
        rule,
        protocols,
        source_ports: alternative.source_ports.clone(),
        destination_ports: alternative.destination_ports.clone(),
        dscp: alternative.dscp.iter().map(|dscp| dscp.0).collect(),
        sources: alternative.sources.clone(),
        destinations: alternative.destinations.clone(),
        zones: zone_numbers,
    };
    if alternative.ports.is_empty() {
        return Ok(vec![line]);
    }
    Ok(vec![
        Line { destination_ports: alternative.ports.clone(), ..line.clone() },
        Line { source_ports: alternative.ports.clone(), ..line },
    ])
}

fn set(rules: &mut RuleSet, rule: usize) {
    rules.words[rule / 64] |= 1 << (rule % 64);
}

fn rules(lines: &[Line]) -> CompiledRules {
    let unnamed = |none: fn(&Line) -> bool, dimension| if lines.iter().all(none) { dimension } else { 0 };
    let unnamed = unnamed(|line| line.sources.is_empty(), dimension::SOURCE)
        | unnamed(|line| line.destinations.is_empty(), dimension::DESTINATION);
    let mut compiled = CompiledRules {
        scope: Scope { words: lines.len().div_ceil(64) as u16, unnamed, traced: 0 },
        rules: lines.iter().map(|line| line.rule).collect(),
        ..CompiledRules::default()
    };
    for (rule, line) in lines.iter().enumerate() {
        mark(&mut compiled.protocol, rule, line.protocols.iter().map(|&protocol| usize::from(protocol)));
        mark(&mut compiled.source_port, rule, line.source_ports.iter().flat_map(ports));
        mark(&mut compiled.destination_port, rule, line.destination_ports.iter().flat_map(ports));
        mark(&mut compiled.dscp, rule, line.dscp.iter().map(|&dscp| usize::from(dscp)));
        mark(&mut compiled.zone, rule, line.zones.iter().map(|&zone| zone as usize));
    }
    compiled.source = prefix_sets(lines, |line| &line.sources);
    compiled.destination = prefix_sets(lines, |line| &line.destinations);
    compiled
}

fn ports(range: &PortRange) -> impl Iterator<Item = usize> + use<> {
    usize::from(*range.0.start())..=usize::from(*range.0.end())
}

/// Marks the values of a rule in one dimension; no value stands for all of them.
fn mark(sets: &mut [RuleSet], rule: usize, values: impl Iterator<Item = usize>) {
    let mut any = true;
    for value in values {
        any = false;
        set(&mut sets[value], rule);
    }
    if any {
        sets.iter_mut().for_each(|rules| set(rules, rule));
    }
}

fn prefix_sets(lines: &[Line], prefixes: impl Fn(&Line) -> &[IpNet]) -> Vec<(PrefixKey, RuleSet)> {
    // `::/0` must not match IPv4, which is mapped into it: IPv4 has a root of its own.
    let roots = [PrefixKey::default(), IPV4_ROOT];
    let mut sets: BTreeMap<PrefixKey, RuleSet> = roots.map(|root| (root, RuleSet::default())).into();
    for line in lines {
        for prefix in prefixes(line) {
            sets.insert(prefix_key(prefix), RuleSet::default());
        }
    }
    for (key, rules) in &mut sets {
        for (rule, line) in lines.iter().enumerate() {
            let own = prefixes(line);
            let covers = |prefix: &IpNet| {
                let covering = prefix_key(prefix);
                covering.length <= key.length && contains(&covering, &key.address) && is_ipv4(&covering) == is_ipv4(key)
            };
            if own.is_empty() || own.iter().any(covers) {
                set(rules, rule);
            }
        }
    }
    sets.into_iter().collect()
}

/// `::ffff:0:0/96`, which holds all of IPv4.
const IPV4_ROOT: PrefixKey = PrefixKey { length: 96, address: [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 0, 0] };

fn is_ipv4(prefix: &PrefixKey) -> bool {
    prefix.length >= IPV4_ROOT.length && contains(&IPV4_ROOT, &prefix.address)
}

/// An address as 16 bytes, IPv4 mapped.
pub fn address_bytes(address: IpAddr) -> Address {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

/// A prefix as the key of the tries, bits past its length zero.
pub fn prefix_key(prefix: &IpNet) -> PrefixKey {
    let length = match prefix {
        IpNet::V4(_) => 96 + u32::from(prefix.prefix_len()),
        IpNet::V6(_) => u32::from(prefix.prefix_len()),
    };
    PrefixKey { length, address: address_bytes(prefix.network()) }
}
