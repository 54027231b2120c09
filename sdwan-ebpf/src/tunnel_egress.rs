//! Everything on its way into a tunnel: tc egress of each tunnel interface.
//!
//! What `lan_ingress` sends here it has counted already. This program counts the rest, the stack's packets, so that both
//! ends of a path count the same ones, and writes the count into the probes, between the packets that it counts.

use aya_ebpf::bindings::TC_ACT_UNSPEC;
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use sdwan_common::abi::{SITE_LOCAL, TC_INDEX_COUNTED, TunnelPathKey, prefix_flag, trace_program};
use sdwan_common::stamp;

use crate::decide::prefix;
use crate::lan_ingress::config;
use crate::maps::{TUNNEL_HEADER, TUNNEL_PATHS};
use crate::parse::{self, Link, Packet, Part, UDP};
use crate::skb::Skb;
use crate::trace::{self, Verdict};
use crate::{count, direct};

/// Counts and passes every packet on.
#[classifier]
pub fn tunnel_egress(ctx: TcContext) -> i32 {
    let skb = Skb::new(&ctx);
    if skb.tc_index() != u32::from(TC_INDEX_COUNTED) {
        let _ = look(skb);
    }
    TC_ACT_UNSPEC
}

/// Counts a packet if `tunnel_ingress` of the other end will: one of this site for the site of a path through this tunnel,
/// with headers that it can parse, and no probe.
#[inline(always)]
fn look(skb: Skb) -> Option<()> {
    let (config, _) = config().ok()?;
    let link = Link { length: TUNNEL_HEADER.load(), ether_type: skb.ether_type(), vlan: 0, tags: 0 };
    let packet = Packet::scratch(skb, &link)?;
    parse::internet(skb, link.ether_type, packet).ok()?;
    // The other end's WireGuard lets nothing else in.
    if prefix(&packet.key.source)?.site != SITE_LOCAL {
        return None;
    }
    let destination = prefix(&packet.key.destination)?;
    let key = TunnelPathKey { ifindex: packet.ingress.ifindex, site: destination.site };
    // SAFETY: nothing in the programs changes this map.
    let number = unsafe { TUNNEL_PATHS.get(key).copied() }?;
    if packet.key.protocol == UDP
        && packet.part == Part::Whole
        && destination.flags & prefix_flag::OVERLAY != 0
        && packet.key.source == config.overlay
    {
        if packet.key.destination_port == stamp::PORT {
            direct::depart(skb, packet, number);
            return None;
        }
        if packet.key.source_port == stamp::PORT {
            return None;
        }
    }
    count::sent(number, u64::from(packet.segments), u64::from(packet.length));
    if config.scope.traced != 0 {
        packet.path = number;
        trace::tell(packet, trace_program::TUNNEL_EGRESS, Verdict::Forwarded);
    }
    Some(())
}
