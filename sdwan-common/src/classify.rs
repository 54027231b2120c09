//! Packet → rule, by bit vectors (Lakshman and Stiliadis, SIGCOMM 1998).
//!
//! Each dimension is one lookup that gives the set of rules that match in it; the sets are intersected, and the lowest
//! rule wins. The cost doesn't grow with the number of rules beyond their words.

use core::hint::black_box;

use crate::abi::{FlowKey, RULE_WORDS, RuleSet, Scope, dimension};

/// What a packet is classified by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts<'a> {
    /// Addresses, ports, protocol.
    pub key: &'a FlowKey,
    /// DSCP of the packet, 0..=63.
    pub dscp: u8,
    /// Ingress zone, `0..MAX_ZONES`.
    pub zone: u32,
}

/// The seven dimensions: eBPF maps in the kernel, vectors in user space. `None` matches no rule.
pub trait Dimensions {
    /// Rules that match an IP protocol.
    fn protocol(&self, protocol: u8) -> Option<&RuleSet>;
    /// Rules that match a source port.
    fn source_port(&self, port: u16) -> Option<&RuleSet>;
    /// Rules that match a destination port.
    fn destination_port(&self, port: u16) -> Option<&RuleSet>;
    /// Rules that match a DSCP.
    fn dscp(&self, dscp: u8) -> Option<&RuleSet>;
    /// Rules that match the longest prefix of a source address.
    fn source(&self, address: &[u8; 16]) -> Option<&RuleSet>;
    /// Rules that match the longest prefix of a destination address.
    fn destination(&self, address: &[u8; 16]) -> Option<&RuleSet>;
    /// Rules that match an ingress zone.
    fn zone(&self, zone: u32) -> Option<&RuleSet>;
}

/// The lowest rule that matches in every dimension.
#[inline(always)]
pub fn classify<D: Dimensions>(dimensions: &D, facts: &Facts<'_>, scope: Scope) -> Option<u16> {
    let protocol = dimensions.protocol(facts.key.protocol)?;
    // The identifier of an ICMP echo tells flows apart but is no port: `ports = [5060]` must not match a ping.
    let has_ports = protocol_has_ports(facts.key.protocol);
    let (source_port, destination_port) =
        if has_ports { (facts.key.source_port, facts.key.destination_port) } else { (0, 0) };
    let source_port = dimensions.source_port(source_port)?;
    let destination_port = dimensions.destination_port(destination_port)?;
    let dscp = dimensions.dscp(facts.dscp)?;
    // A set that is intersected a second time changes nothing.
    let everything = protocol;
    let named = |dimension| scope.unnamed & dimension == 0;
    let source = if named(dimension::SOURCE) { dimensions.source(&facts.key.source)? } else { everything };
    let destination =
        if named(dimension::DESTINATION) { dimensions.destination(&facts.key.destination)? } else { everything };
    let zone = dimensions.zone(facts.zone)?;
    for word in 0..RULE_WORDS {
        // Kept apart from the loop's own bound: merged into `word != min(words, RULE_WORDS)`, as the compiler would, the
        // verifier of Linux 6.1 sees no bound at all, for it learns nothing from an inequality of two registers.
        if word >= black_box(scope.words) as usize {
            break;
        }
        let matching = protocol.words[word]
            & source_port.words[word]
            & destination_port.words[word]
            & dscp.words[word]
            & source.words[word]
            & destination.words[word]
            & zone.words[word];
        if matching != 0 {
            return Some((word as u16) * 64 + matching.trailing_zeros() as u16);
        }
    }
    None
}

/// Protocols whose header begins with a source and a destination port: TCP, UDP, DCCP, SCTP, UDP-Lite.
pub const WITH_PORTS: [u8; 5] = [6, 17, 33, 132, 136];

/// Is it one of [`WITH_PORTS`]?
#[inline(always)]
pub const fn protocol_has_ports(protocol: u8) -> bool {
    let [tcp, udp, dccp, sctp, udp_lite] = WITH_PORTS;
    protocol == tcp || protocol == udp || protocol == dccp || protocol == sctp || protocol == udp_lite
}

#[cfg(test)]
mod tests;
