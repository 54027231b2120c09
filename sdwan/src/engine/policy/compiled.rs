//! Policies in the shape of the classifier: one set of rules for each value of each dimension.

use sdwan_common::abi::{Address, MAX_ZONES, NO_RULE, PrefixKey, Rule, RuleSet, Scope};
use sdwan_common::classify::Dimensions;

/// What the `match_*`, `rules` and `classes` maps hold. Looked up in user space, it classifies exactly as the kernel
/// does.
///
/// The tries answer with the longest prefix only. The set of each prefix therefore contains the sets of all prefixes
/// that cover it, of the same family; both lists hold the roots of IPv6, `::/0`, and of IPv4, `::ffff:0:0/96`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompiledRules {
    /// Words of the sets in use, and dimensions that no rule names.
    pub scope: Scope,
    /// What each rule stands for, in order of precedence.
    pub rules: Vec<Rule>,
    /// By IP protocol: 256 sets.
    pub protocol: Vec<RuleSet>,
    /// By source port: 65,536 sets.
    pub source_port: Vec<RuleSet>,
    /// By destination port: 65,536 sets.
    pub destination_port: Vec<RuleSet>,
    /// By DSCP: 64 sets.
    pub dscp: Vec<RuleSet>,
    /// By ingress zone: [`MAX_ZONES`] sets.
    pub zone: Vec<RuleSet>,
    /// By source prefix, sorted.
    pub source: Vec<(PrefixKey, RuleSet)>,
    /// By destination prefix, sorted.
    pub destination: Vec<(PrefixKey, RuleSet)>,
}

impl Default for CompiledRules {
    /// No rule at all: nothing matches.
    fn default() -> Self {
        Self {
            scope: Scope::default(),
            rules: Vec::new(),
            protocol: vec![RuleSet::default(); 256],
            source_port: vec![RuleSet::default(); 65_536],
            destination_port: vec![RuleSet::default(); 65_536],
            dscp: vec![RuleSet::default(); 64],
            zone: vec![RuleSet::default(); MAX_ZONES],
            source: vec![(PrefixKey::default(), RuleSet::default())],
            destination: vec![(PrefixKey::default(), RuleSet::default())],
        }
    }
}

impl CompiledRules {
    /// The rule with this number.
    pub fn rule(&self, number: u16) -> Option<&Rule> {
        if number == NO_RULE { None } else { self.rules.get(usize::from(number)) }
    }
}

/// Does `prefix` contain `address`?
pub fn contains(prefix: &PrefixKey, address: &Address) -> bool {
    let length = prefix.length.min(128);
    let mask = if length == 0 { 0 } else { u128::MAX << (128 - length) };
    (u128::from_be_bytes(prefix.address) ^ u128::from_be_bytes(*address)) & mask == 0
}

fn longest<'a>(sets: &'a [(PrefixKey, RuleSet)], address: &Address) -> Option<&'a RuleSet> {
    sets.iter()
        .filter(|(prefix, _)| contains(prefix, address))
        .max_by_key(|(prefix, _)| prefix.length)
        .map(|(_, set)| set)
}

impl Dimensions for CompiledRules {
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
