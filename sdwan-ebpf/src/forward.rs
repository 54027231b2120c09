//! What a router does to a packet: TTL, DSCP, header checksum.

use sdwan_common::abi::DSCP_KEEP;

use crate::parse::Packet;
use crate::skb::Skb;

/// Writes the class's DSCP and, if `hop`, a TTL or hop limit lowered by one into the header at `ip`. The ECN bits stay.
#[inline(always)]
pub fn rewrite(skb: Skb, packet: &Packet, ip: u32, dscp: u8, hop: bool) -> bool {
    let mark = dscp != DSCP_KEEP && dscp < 64 && dscp != packet.dscp();
    if !mark && !hop {
        return true;
    }
    let hop = u8::from(hop);
    if packet.ipv6 {
        ipv6(skb, packet, ip, mark.then_some(dscp), hop)
    } else {
        ipv4(skb, packet, ip, mark.then_some(dscp), hop)
    }
}

/// For where the way is long already: a function of its own.
#[inline(never)]
pub fn rewrite_apart(skb: Skb, packet: &Packet, ip: u32, dscp: u8, hop: bool) -> bool {
    rewrite(skb, packet, ip, dscp, hop)
}

#[inline(always)]
fn ipv4(skb: Skb, packet: &Packet, ip: u32, dscp: Option<u8>, hop: u8) -> bool {
    let [version, tos, length, length_low] = packet.word(0).to_ne_bytes();
    let [ttl, protocol, sum, sum_low] = packet.word(2).to_ne_bytes();
    let new_tos = dscp.map_or(tos, |dscp| dscp << 2 | tos & 3);
    let new_ttl = ttl.wrapping_sub(hop);
    let [sum, sum_low] = checksum(
        u16::from_be_bytes([sum, sum_low]),
        [u16::from_be_bytes([version, tos]), u16::from_be_bytes([ttl, protocol])],
        [u16::from_be_bytes([version, new_tos]), u16::from_be_bytes([new_ttl, protocol])],
    )
    .to_be_bytes();
    // The header's sum stays what it was, so the sum over the packet needs no correction.
    skb.write(
        ip,
        [
            u32::from_ne_bytes([version, new_tos, length, length_low]),
            packet.word(1),
            u32::from_ne_bytes([new_ttl, protocol, sum, sum_low]),
        ],
    )
}

#[inline(always)]
fn ipv6(skb: Skb, packet: &Packet, ip: u32, dscp: Option<u8>, hop: u8) -> bool {
    let marked = dscp.is_none_or(|dscp| {
        let [_, second, third, fourth] = packet.word(0).to_ne_bytes();
        let new = u32::from_ne_bytes([0x60 | dscp >> 2, (dscp & 3) << 6 | second & 0x3f, third, fourth]);
        skb.replace(ip, packet.word(0), new)
    });
    let [length, length_low, next, limit] = packet.word(1).to_ne_bytes();
    let new = u32::from_ne_bytes([length, length_low, next, limit.wrapping_sub(hop)]);
    marked && (hop == 0 || skb.replace(ip + 4, packet.word(1), new))
}

/// The checksum after some words have changed (RFC 1624, equation 3).
#[inline(always)]
pub fn checksum<const WORDS: usize>(sum: u16, old: [u16; WORDS], new: [u16; WORDS]) -> u16 {
    let mut total = u32::from(!sum);
    let mut word = 0;
    while word < WORDS {
        total += u32::from(!old[word]) + u32::from(new[word]);
        word += 1;
    }
    total = (total & 0xffff) + (total >> 16);
    total = (total & 0xffff) + (total >> 16);
    !(total as u16)
}
