//! What is dropped at a LAN interface before the kernel makes a packet of it: XDP of each LAN interface.
//!
//! Drop rules are matched as policies are: each dimension gives the set of rules that match in it, and what is left of all
//! sets matches. The cheap dimensions come first; most packets are done after them.

use aya_ebpf::bindings::xdp_action;
use aya_ebpf::btf_maps::lpm_trie::Key;
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use sdwan_common::abi::{Address, LanFilter, ZoneKey, lan_filter_flag};
use sdwan_common::classify::protocol_has_ports;
use sdwan_common::counters::EarlyDropReason;

use crate::count;
use crate::frame::{Chain, Frame, mapped};
use crate::maps::{
    DROP_DESTINATION, DROP_DESTINATION_PORT, DROP_HITS, DROP_PROTOCOL, DROP_SOURCE, DROP_SOURCE_PORT, LAN_FILTER,
};
use crate::parse::{ETHERTYPE_IPV4, ETHERTYPE_IPV6};

/// Largest IP packet.
const LARGEST: u32 = 65_535;

/// What the rules look at.
#[derive(Default)]
struct Headers {
    source: Address,
    destination: Address,
    /// Whether the protocol is known; if not, no rule that asks for one matches.
    told: bool,
    protocol: u8,
    /// Where the ports are; 0 in a later fragment.
    transport: u32,
}

/// What a look at the IP header says besides the reasons to drop.
const UNTOLD: u32 = EarlyDropReason::ALL.len() as u32;
const LOOK_ON: u32 = UNTOLD + 1;

/// Drops what the operator's rules name and what no stack takes; everything else passes.
#[xdp(frags)]
pub fn lan_xdp(ctx: XdpContext) -> u32 {
    let frame = Frame::new(&ctx);
    let Some(link) = frame.link() else { return xdp_action::XDP_PASS };
    let key = ZoneKey { ifindex: frame.ifindex(), vlan: link.vlan };
    // SAFETY: entries are replaced, not changed.
    let Some(filter) = (unsafe { LAN_FILTER.get(&key) }) else { return xdp_action::XDP_PASS };
    let mut headers = Headers::default();
    let outcome = match link.ether_type {
        ETHERTYPE_IPV4 => ipv4(frame, link.length, filter, &mut headers),
        ETHERTYPE_IPV6 => ipv6(frame, link.length, filter, &mut headers),
        _ => UNTOLD,
    };
    if outcome == LOOK_ON && filter.rules != 0 && matches(frame, &headers, filter) {
        count::refuse(EarlyDropReason::Rule as u32)
    } else if outcome < UNTOLD {
        count::refuse(outcome)
    } else {
        xdp_action::XDP_PASS
    }
}

/// What is malformed passes where only rules are asked for: nothing can be told of it.
#[inline(always)]
fn malformed(filter: &LanFilter, reason: EarlyDropReason) -> u32 {
    if filter.flags & lan_filter_flag::MALFORMED != 0 { reason as u32 } else { UNTOLD }
}

/// A reason to drop, [`UNTOLD`], or [`LOOK_ON`] with the headers filled.
#[inline(always)]
fn ipv4(frame: Frame, ip: u32, filter: &LanFilter, headers: &mut Headers) -> u32 {
    let Some(header) = frame.load::<[u8; 20]>(ip) else { return malformed(filter, EarlyDropReason::Header) };
    let bytes = u32::from(header[0] & 0x0f) * 4;
    if header[0] >> 4 != 4 || bytes < 20 {
        return malformed(filter, EarlyDropReason::Header);
    }
    let (total, room) = (u32::from(u16::from_be_bytes([header[2], header[3]])), frame.length().saturating_sub(ip));
    // A bundle of segments of more than 64 KiB says 0 (BIG TCP).
    let bundle = total == 0 && room > LARGEST;
    if !bundle && (total < bytes || total > room) {
        return malformed(filter, EarlyDropReason::Length);
    }
    let fragment = u16::from_be_bytes([header[6], header[7]]);
    let offset = u32::from(fragment & 0x1fff) * 8;
    if offset != 0 && offset + total.saturating_sub(bytes) > LARGEST {
        return malformed(filter, EarlyDropReason::Fragment);
    }
    let source = [header[12], header[13], header[14], header[15]];
    let destination = [header[16], header[17], header[18], header[19]];
    if source == destination {
        return malformed(filter, EarlyDropReason::Land);
    }
    // 0.0.0.0 itself asks for an address (DHCP).
    let nobody = source[0] == 0 && source != [0; 4] || source[0] == 127 || source[0] >= 224;
    if nobody && filter.flags & lan_filter_flag::MARTIANS != 0 {
        return EarlyDropReason::Martian as u32;
    }
    headers.source = mapped(source);
    headers.destination = mapped(destination);
    headers.told = true;
    headers.protocol = header[9];
    headers.transport = if offset == 0 { ip + bytes } else { 0 };
    LOOK_ON
}

/// The same.
#[inline(always)]
fn ipv6(frame: Frame, ip: u32, filter: &LanFilter, headers: &mut Headers) -> u32 {
    let Some(header) = frame.load::<[u8; 40]>(ip) else { return malformed(filter, EarlyDropReason::Header) };
    if header[0] >> 4 != 6 {
        return malformed(filter, EarlyDropReason::Header);
    }
    // 0: a jumbogram, or a bundle of segments; the stack tells them apart.
    let payload = u32::from(u16::from_be_bytes([header[4], header[5]]));
    if payload + 40 > frame.length().saturating_sub(ip) {
        return malformed(filter, EarlyDropReason::Length);
    }
    let mut at = 0;
    while at < 16 {
        headers.source[at] = header[8 + at];
        headers.destination[at] = header[24 + at];
        at += 1;
    }
    let mut chain = Chain::default();
    headers.told = frame.walk(ip, header[6], &mut chain);
    headers.protocol = chain.protocol;
    let offset = u32::from(chain.fragment & 0xfff8);
    headers.transport = if offset == 0 { chain.transport } else { 0 };
    if offset != 0 && offset + (ip + 40 + payload).saturating_sub(chain.fragment_end) > LARGEST {
        return malformed(filter, EarlyDropReason::Fragment);
    }
    if headers.source == headers.destination {
        return malformed(filter, EarlyDropReason::Land);
    }
    // ::1, ff00::/8, ::ffff:0:0/96. :: itself asks whether an address is free.
    let source = &headers.source;
    let (mut upper, mut at) = (0, 0);
    while at < 10 {
        upper |= source[at];
        at += 1;
    }
    let loopback = source[10] | source[11] | source[12] | source[13] | source[14] == 0 && source[15] == 1;
    let nobody = source[0] == 0xff || upper == 0 && (loopback || source[10] & source[11] == 0xff);
    if nobody && filter.flags & lan_filter_flag::MARTIANS != 0 {
        return EarlyDropReason::Martian as u32;
    }
    LOOK_ON
}

/// Does a rule match? Counts the first one that does.
#[inline(never)]
fn matches(frame: Frame, headers: &Headers, filter: &LanFilter) -> bool {
    let mut rules = filter.rules;
    if headers.told {
        rules &= DROP_PROTOCOL.get(u32::from(headers.protocol)).copied().unwrap_or(0);
        let has_ports = headers.transport != 0 && protocol_has_ports(headers.protocol);
        let ports = if has_ports && rules & !filter.any_port != 0 { frame.load(headers.transport) } else { None };
        match ports {
            None => rules &= filter.any_port,
            Some(ports) => {
                let ports: [u8; 4] = ports;
                let source = u16::from_be_bytes([ports[0], ports[1]]);
                let destination = u16::from_be_bytes([ports[2], ports[3]]);
                rules &= DROP_SOURCE_PORT.get(u32::from(source)).copied().unwrap_or(0);
                rules &= DROP_DESTINATION_PORT.get(u32::from(destination)).copied().unwrap_or(0);
            }
        }
    } else {
        rules &= filter.any_protocol;
    }
    if rules != 0 {
        rules &= DROP_SOURCE.get(&Key::new(128, headers.source)).copied().unwrap_or(0);
    }
    if rules != 0 {
        rules &= DROP_DESTINATION.get(&Key::new(128, headers.destination)).copied().unwrap_or(0);
    }
    if rules == 0 {
        return false;
    }
    if let Some(hits) = DROP_HITS.get_ptr_mut(rules.trailing_zeros()) {
        // SAFETY: a per-CPU value; nothing else on this CPU runs the program meanwhile.
        unsafe { *hits += 1 }
    }
    true
}
