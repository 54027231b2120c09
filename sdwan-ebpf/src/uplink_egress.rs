//! Packets on their way out: tc egress of each uplink, where the tunnel ports are guarded, or the operator wants classes to
//! be seen outside.

use aya_ebpf::bindings::{BPF_F_RECOMPUTE_CSUM, TC_ACT_UNSPEC};
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use sdwan_common::abi::TUNNEL_PORTS;
use sdwan_common::outer;

use crate::forward::checksum;
use crate::lan_ingress::config;
use crate::learn::learn;
use crate::parse::{ETHERNET, ETHERTYPE_IPV4, ETHERTYPE_IPV6, UDP};
use crate::skb::Skb;

/// Lets the guard learn, and gives each packet of a tunnel the DSCP of the class inside. Everything else passes as it is, and
/// so does a packet that can't be written.
#[classifier]
pub fn uplink_egress(ctx: TcContext) -> i32 {
    let skb = Skb::new(&ctx);
    // `None` only says how far it looked.
    let _ = learn(skb);
    if let Some(dscp) = outer::decode(skb.hash()) {
        let _ = mark(skb, dscp);
    }
    TC_ACT_UNSPEC
}

#[inline(always)]
fn mark(skb: Skb, dscp: u8) -> Option<()> {
    let (config, _) = config().ok()?;
    if config.outer_port == 0 {
        return None;
    }
    match skb.ether_type() {
        ETHERTYPE_IPV4 => {
            // WireGuard writes no options.
            let head: [u8; 22] = skb.load_network(0)?;
            let ours = head[0] == 0x45 && head[9] == UDP && is_tunnel(config.outer_port, [head[20], head[21]]);
            let tos = dscp << 2 | head[1] & 3;
            if !ours || tos == head[1] {
                return None;
            }
            let sum = checksum(
                u16::from_be_bytes([head[10], head[11]]),
                [u16::from_be_bytes([head[0], head[1]]), 0],
                [u16::from_be_bytes([head[0], tos]), 0],
            );
            let at = network_offset(skb, [head[2], head[3], head[4], head[5]])?;
            // Each store alone would leave the header's sum wrong for a moment nobody sees: one packet, one program.
            skb.store(at + 1, &tos, 0);
            skb.store(at + 10, &sum.to_be_bytes(), 0);
        }
        ETHERTYPE_IPV6 => {
            let head: [u8; 42] = skb.load_network(0)?;
            let ours = head[6] == UDP && is_tunnel(config.outer_port, [head[40], head[41]]);
            let new = [0x60 | dscp >> 2, (dscp & 3) << 6 | head[1] & 0x3f];
            if !ours || new == [head[0], head[1]] {
                return None;
            }
            let at = network_offset(skb, [head[2], head[3], head[4], head[5]])?;
            skb.store(at, &new, u64::from(BPF_F_RECOMPUTE_CSUM));
        }
        _ => {}
    }
    Some(())
}

#[inline(always)]
fn is_tunnel(base: u16, port: [u8; 2]) -> bool {
    u16::from_be_bytes(port).wrapping_sub(base) < TUNNEL_PORTS
}

/// Where the IP header begins: behind an Ethernet header, or at once on a device without one (PPP, a raw modem). Told by
/// the bytes 2 to 5 of the header: nothing says what kind of device it is.
#[inline(always)]
fn network_offset(skb: Skb, bytes: [u8; 4]) -> Option<u32> {
    let found = |at: u32| skb.load::<[u8; 4]>(at + 2) == Some(bytes);
    if found(ETHERNET) {
        Some(ETHERNET)
    } else if found(0) {
        Some(0)
    } else {
        None
    }
}
