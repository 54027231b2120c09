extern crate std;

use proptest::prelude::*;
use std::vec::Vec;

use super::*;
use crate::abi::MAX_RULES;

/// One rule as an operator sees it: ranges in each dimension.
#[derive(Clone, Debug)]
struct Plain {
    protocols: (u8, u8),
    source_ports: (u16, u16),
    destination_ports: (u16, u16),
    dscp: (u8, u8),
    source: u8,
    destination: u8,
    zones: (u32, u32),
}

/// Dimensions computed from the plain rules; the address dimensions look at the last byte alone, 0 in a rule is any.
struct Tables {
    protocol: Vec<RuleSet>,
    source_port: Vec<RuleSet>,
    destination_port: Vec<RuleSet>,
    dscp: Vec<RuleSet>,
    source: Vec<RuleSet>,
    destination: Vec<RuleSet>,
    zone: Vec<RuleSet>,
}

impl Tables {
    fn new(rules: &[Plain]) -> Self {
        fn dimension(count: usize, rules: &[Plain], matches: impl Fn(&Plain, usize) -> bool) -> Vec<RuleSet> {
            let mut sets = std::vec![RuleSet::default(); count];
            for (value, set) in sets.iter_mut().enumerate() {
                for (number, _) in rules.iter().enumerate().filter(|(_, rule)| matches(rule, value)) {
                    set.words[number / 64] |= 1 << (number % 64);
                }
            }
            sets
        }
        let port = |(low, high): (u16, u16), value: usize| (usize::from(low)..=usize::from(high)).contains(&value);
        let byte = |(low, high): (u8, u8), value: usize| (usize::from(low)..=usize::from(high)).contains(&value);
        Self {
            protocol: dimension(256, rules, |rule, value| byte(rule.protocols, value)),
            source_port: dimension(100, rules, |rule, value| port(rule.source_ports, value)),
            destination_port: dimension(100, rules, |rule, value| port(rule.destination_ports, value)),
            dscp: dimension(64, rules, |rule, value| byte(rule.dscp, value)),
            source: dimension(256, rules, |rule, value| rule.source == 0 || usize::from(rule.source) == value),
            destination: dimension(256, rules, |rule, value| {
                rule.destination == 0 || usize::from(rule.destination) == value
            }),
            zone: dimension(8, rules, |rule, value| (rule.zones.0..=rule.zones.1).contains(&(value as u32))),
        }
    }
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
    fn source(&self, address: &[u8; 16]) -> Option<&RuleSet> {
        self.source.get(usize::from(address[15]))
    }
    fn destination(&self, address: &[u8; 16]) -> Option<&RuleSet> {
        self.destination.get(usize::from(address[15]))
    }
    fn zone(&self, zone: u32) -> Option<&RuleSet> {
        self.zone.get(zone as usize)
    }
}

fn range<T: Ord + Copy + core::fmt::Debug>(values: impl Strategy<Value = T> + Clone) -> impl Strategy<Value = (T, T)> {
    (values.clone(), values).prop_map(|(a, b)| (a.min(b), a.max(b)))
}

fn rules() -> impl Strategy<Value = Vec<Plain>> {
    let rule = (range(any::<u8>()), range(0u16..100), range(0u16..100), range(0u8..64), 0u8..3, 0u8..3, range(0u32..8));
    let rule = rule.prop_map(|(protocols, source_ports, destination_ports, dscp, source, destination, zones)| Plain {
        protocols,
        source_ports,
        destination_ports,
        dscp,
        source,
        destination,
        zones,
    });
    prop::collection::vec(rule, 0..MAX_RULES)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_first_rule_that_matches_in_all_dimensions_wins(
        rules in rules(),
        packets in prop::collection::vec((any::<u8>(), 0u16..100, 0u16..100, 0u8..64, 1u8..4, 1u8..4, 0u32..8), 20),
    ) {
        let tables = Tables::new(&rules);
        for (protocol, source_port, destination_port, dscp, source, destination, zone) in packets {
            let mut key = FlowKey { source_port, destination_port, protocol, ..FlowKey::default() };
            key.source[15] = source;
            key.destination[15] = destination;
            let ports = if protocol_has_ports(protocol) { (source_port, destination_port) } else { (0, 0) };
            let within = |(low, high), value| low <= value && value <= high;
            let expected = rules.iter().position(|rule| {
                (rule.protocols.0..=rule.protocols.1).contains(&protocol)
                    && within(rule.source_ports, ports.0)
                    && within(rule.destination_ports, ports.1)
                    && (rule.dscp.0..=rule.dscp.1).contains(&dscp)
                    && (rule.source == 0 || rule.source == source)
                    && (rule.destination == 0 || rule.destination == destination)
                    && (rule.zones.0..=rule.zones.1).contains(&zone)
            });
            let facts = Facts { key: &key, dscp, zone };
            let words = rules.len().div_ceil(64) as u16;
            let unnamed = |any: fn(&Plain) -> bool, dimension| if rules.iter().all(any) { dimension } else { 0 };
            let expected = expected.map(|number| number as u16);
            prop_assert_eq!(classify(&tables, &facts, all(words)), expected);
            let unnamed = unnamed(|rule| rule.source == 0, dimension::SOURCE)
                | unnamed(|rule| rule.destination == 0, dimension::DESTINATION);
            prop_assert_eq!(classify(&tables, &facts, Scope { words, unnamed, traced: 0 }), expected);
        }
    }
}

/// All dimensions are looked at.
fn all(words: u16) -> Scope {
    Scope { words, ..Scope::default() }
}

fn everything() -> Plain {
    Plain {
        protocols: (0, 255),
        source_ports: (0, 99),
        destination_ports: (0, 99),
        dscp: (0, 63),
        source: 0,
        destination: 0,
        zones: (0, 7),
    }
}

#[test]
fn words_that_are_not_in_use_are_not_looked_at() {
    let tables = Tables::new(
        &std::vec![Plain { protocols: (1, 1), ..everything() }; 64]
            .into_iter()
            .chain([everything()])
            .collect::<Vec<_>>(),
    );
    let key = FlowKey { protocol: 17, ..FlowKey::default() };
    let facts = Facts { key: &key, dscp: 0, zone: 0 };
    assert_eq!(classify(&tables, &facts, all(0)), None);
    assert_eq!(classify(&tables, &facts, all(1)), None);
    assert_eq!(classify(&tables, &facts, all(2)), Some(64));
    assert_eq!(classify(&tables, &facts, all(u16::MAX)), Some(64), "more words than there are");
}

#[test]
fn a_value_outside_a_dimension_matches_no_rule() {
    let tables = Tables::new(&[everything()]);
    let key = FlowKey { protocol: 17, ..FlowKey::default() };
    assert_eq!(classify(&tables, &Facts { key: &key, dscp: 0, zone: 0 }, all(1)), Some(0));
    assert_eq!(classify(&tables, &Facts { key: &key, dscp: 64, zone: 0 }, all(1)), None);
    assert_eq!(classify(&tables, &Facts { key: &key, dscp: 0, zone: 8 }, all(1)), None);
    let far = FlowKey { destination_port: 100, ..key };
    assert_eq!(classify(&tables, &Facts { key: &far, dscp: 0, zone: 0 }, all(1)), None);
}

#[test]
fn the_identifier_of_a_ping_is_no_port() {
    let tables = Tables::new(&[Plain { source_ports: (60, 60), ..everything() }, everything()]);
    let classed = |protocol| {
        let key = FlowKey { source_port: 60, protocol, ..FlowKey::default() };
        classify(&tables, &Facts { key: &key, dscp: 0, zone: 0 }, all(1))
    };
    for (protocol, rule) in [(6, 0), (17, 0), (33, 0), (132, 0), (136, 0), (1, 1), (58, 1), (47, 1)] {
        assert_eq!(classed(protocol), Some(rule), "protocol {protocol}");
    }
}
