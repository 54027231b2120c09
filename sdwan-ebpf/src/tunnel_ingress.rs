//! Tunnel → LAN: tc ingress of each tunnel interface.

use aya_ebpf::bindings::{
    BPF_FIB_LKUP_RET_FRAG_NEEDED, BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_NOT_FWDED, BPF_FIB_LKUP_RET_SUCCESS,
    TC_ACT_OK, bpf_fib_lookup as FibLookup, bpf_redir_neigh,
};
use aya_ebpf::helpers::{bpf_fib_lookup, bpf_ktime_get_ns, bpf_redirect, bpf_redirect_neigh, bpf_skb_change_head};
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use core::ptr::NonNull;
use sdwan_common::abi::{
    Config, DSCP_KEEP, SITE_LOCAL, TC_INDEX_COUNTED, TunnelPathKey, ZoneKey, fast_path, prefix_flag, trace_program,
};
use sdwan_common::counters::{DropReason, PassReason};
use sdwan_common::stamp;

use crate::copies::Arrived;
use crate::decide::prefix;
use crate::lan_ingress::config;
use crate::maps::{PATH_LIVE, PATHS, SITE_LIVE, TUNNEL_HEADER, TUNNEL_PATHS, ZONES};
use crate::parse::{self, ETHERNET, Link, Packet, Part, UDP};
use crate::reflect::{Unanswered, reflect};
use crate::skb::Skb;
use crate::trace::{self, Verdict};
use crate::{copies, count, direct, forward, mss, tcp_rtt};

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// Notes that a path lives, answers probes, and forwards to the LAN.
#[classifier]
pub fn tunnel_ingress(ctx: TcContext) -> i32 {
    match receive(Skb::new(&ctx)) {
        Ok(verdict) => verdict,
        Err(reason) => count::pass(reason),
    }
}

#[inline(always)]
fn receive(skb: Skb) -> Result<i32, PassReason> {
    let (config, _) = config()?;
    let link = Link { length: TUNNEL_HEADER.load(), ether_type: skb.ether_type(), vlan: 0, tags: 0 };
    let packet = Packet::scratch(skb, &link).ok_or(PassReason::NotConfigured)?;
    parse::internet(skb, link.ether_type, packet)?;
    let source = prefix(&packet.key.source).ok_or(PassReason::UnknownPath)?;
    let ifindex = packet.ingress.ifindex;
    // SAFETY: nothing in the programs changes this map.
    let number = unsafe { TUNNEL_PATHS.get(TunnelPathKey { ifindex, site: source.site }).copied() };
    let number = number.ok_or(PassReason::UnknownPath)?;
    // Only the gateways themselves probe: a host behind one can't keep a dead path alive.
    let stamp = packet.key.protocol == UDP
        && packet.part == Part::Whole
        && source.flags & prefix_flag::OVERLAY != 0
        && packet.key.destination == config.overlay;
    if stamp {
        let live = PATH_LIVE.get_ptr_mut(number).ok_or(PassReason::UnknownPath)?;
        if packet.key.destination_port == stamp::PORT {
            packet.path = number;
            let site = SITE_LIVE.get_ptr_mut(source.site).and_then(NonNull::new);
            return match reflect(skb, packet, config, live, site) {
                Ok(()) => {
                    skb.set_tc_index(TC_INDEX_COUNTED);
                    // SAFETY: the helper has no preconditions.
                    Ok(unsafe { bpf_redirect(ifindex, 0) as i32 })
                }
                Err(Unanswered::Options) => Err(PassReason::Options),
                Err(Unanswered::Malformed) => Err(PassReason::Unparsed),
                Err(Unanswered::Lost) => Ok(count::lose(DropReason::Reflect)),
            };
        }
        if packet.key.source_port == stamp::PORT {
            // SAFETY: a value of an array map lives as long as the map.
            unsafe { (*live).last_reply_ns = bpf_ktime_get_ns() };
            direct::arrive(skb, packet, number);
            return Ok(TC_ACT_OK);
        }
    }
    count::received(number, u64::from(packet.segments), u64::from(packet.length));
    let outcome = deliver(skb, packet, config, number, source.site);
    if config.scope.traced != 0 {
        packet.path = number;
        let verdict = match outcome {
            Ok(verdict) => trace::verdict(verdict),
            Err(reason) => Verdict::Stack(reason),
        };
        trace::tell(packet, trace_program::TUNNEL_INGRESS, verdict);
    }
    outcome
}

/// What is no probe: off with its mark, and on to the LAN.
#[inline(always)]
fn deliver(skb: Skb, packet: &mut Packet, config: &Config, number: u32, from: u32) -> Result<i32, PassReason> {
    let mut mtu = PATHS.get(number).ok_or(PassReason::UnknownPath)?.mtu;
    match copies::arrive(skb, packet, from) {
        Arrived::Plain => tcp_rtt::come_back(skb, packet),
        Arrived::First => mtu = copies::room_in(packet, mtu),
        Arrived::Second => return Ok(count::lose(DropReason::Copy)),
        Arrived::Stuck => return Ok(count::lose(DropReason::Rewrite)),
    }
    mss::clamp(skb, packet, mtu);
    if config.fast_path != fast_path::BOTH {
        return Err(PassReason::FastPathOff);
    }
    if let Some(obstacle) = packet.obstacle() {
        return Err(obstacle);
    }
    let site = prefix(&packet.key.destination).ok_or(PassReason::NoPrefix)?.site;
    if site != SITE_LOCAL {
        return Err(PassReason::NotLan);
    }
    to_lan(skb, packet)
}

/// Forwards to the host or router that the kernel's routes name, if that is on a LAN interface.
#[inline(always)]
fn to_lan(skb: Skb, packet: &Packet) -> Result<i32, PassReason> {
    // SAFETY: all zeros are a valid value of this struct of integers.
    let mut route: FibLookup = unsafe { core::mem::zeroed() };
    route.ifindex = packet.ingress.ifindex;
    route.l4_protocol = packet.key.protocol;
    route.__bindgen_anon_1.tot_len = if packet.wire_length > 0xffff { 0xffff } else { packet.wire_length as u16 };
    let from = &packet.key.source;
    let to = &packet.key.destination;
    if packet.ipv6 {
        route.family = AF_INET6;
        route.__bindgen_anon_2.flowinfo =
            u32::from_ne_bytes([packet.head[0] & 0x0f, packet.head[1], packet.head[2], packet.head[3]]);
        route.__bindgen_anon_3.ipv6_src = words(from);
        route.__bindgen_anon_4.ipv6_dst = words(to);
    } else {
        route.family = AF_INET;
        route.__bindgen_anon_2.tos = packet.head[1] & 0xfc;
        route.__bindgen_anon_3.ipv4_src = u32::from_ne_bytes([from[12], from[13], from[14], from[15]]);
        route.__bindgen_anon_4.ipv4_dst = u32::from_ne_bytes([to[12], to[13], to[14], to[15]]);
    }
    // SAFETY: the pointer and the length belong together.
    let found =
        unsafe { bpf_fib_lookup(skb.as_ptr().cast(), &raw mut route, core::mem::size_of::<FibLookup>() as i32, 0) };
    match found as u32 {
        // Without a neighbour entry the kernel makes one when the packet leaves.
        BPF_FIB_LKUP_RET_SUCCESS | BPF_FIB_LKUP_RET_NO_NEIGH => {}
        BPF_FIB_LKUP_RET_FRAG_NEEDED => return Err(PassReason::TooBig),
        // An address of this machine, or a broadcast address.
        BPF_FIB_LKUP_RET_NOT_FWDED => return Err(PassReason::LocalDestination),
        _ => return Err(PassReason::NotLan),
    }
    // SAFETY: nothing in the programs changes this map.
    if unsafe { ZONES.get(ZoneKey { ifindex: route.ifindex, vlan: 0 }) }.is_none() {
        return Err(PassReason::NotLan);
    }
    let mut ip = packet.ip;
    if ip == 0 {
        // SAFETY: the context is valid while the program runs.
        if unsafe { bpf_skb_change_head(skb.as_ptr(), ETHERNET, 0) } != 0 {
            return Ok(count::lose(DropReason::Rewrite));
        }
        ip = ETHERNET;
    }
    if !forward::rewrite_apart(skb, packet, ip, DSCP_KEEP, true) {
        return Ok(count::lose(DropReason::Rewrite));
    }
    let mut next_hop: bpf_redir_neigh = unsafe { core::mem::zeroed() };
    next_hop.nh_family = u32::from(route.family);
    // SAFETY: both unions hold the next hop in the family that the lookup wrote; all bytes are initialised.
    next_hop.__bindgen_anon_1.ipv6_nh = unsafe { route.__bindgen_anon_4.ipv6_dst };
    // The kernel writes the Ethernet header and keeps the neighbour's state machine going: an address that moves to
    // another MAC is noticed, which a header written from `route` would never do.
    // SAFETY: the pointer and the length belong together.
    let verdict = unsafe {
        bpf_redirect_neigh(route.ifindex, &raw mut next_hop, core::mem::size_of::<bpf_redir_neigh>() as i32, 0)
    };
    Ok(verdict as i32)
}

#[inline(always)]
fn words(address: &[u8; 16]) -> [u32; 4] {
    let a = address;
    [
        u32::from_ne_bytes([a[0], a[1], a[2], a[3]]),
        u32::from_ne_bytes([a[4], a[5], a[6], a[7]]),
        u32::from_ne_bytes([a[8], a[9], a[10], a[11]]),
        u32::from_ne_bytes([a[12], a[13], a[14], a[15]]),
    ]
}
