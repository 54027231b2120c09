//! MSS clamp: a SYN must not promise segments that don't fit the path.

use aya_ebpf::helpers::bpf_l4_csum_replace;

use crate::parse::Packet;
use crate::skb::Skb;

const TCP_HEADER: u32 = 20;
/// Offset of the checksum in the TCP header.
const CHECKSUM: u32 = 16;
const END: u8 = 0;
const NO_OPERATION: u8 = 1;
const MAXIMUM_SEGMENT_SIZE: u8 = 2;
/// Options looked at. 40 bytes hold more only when they are no-operations.
const MAX_OPTIONS: u32 = 16;

/// Lowers the MSS option of a SYN to what fits `mtu`, the largest IP packet of the path. `ip` and the transport header
/// are where `packet` says. Leaves everything else alone; a failure leaves the packet as it was.
#[inline(always)]
pub fn clamp(skb: Skb, packet: &Packet, mtu: u16) {
    if packet.syn {
        clamp_syn(skb, packet, mtu);
    }
}

#[inline(never)]
fn clamp_syn(skb: Skb, packet: &Packet, mtu: u16) {
    let headers = if packet.ipv6 { 60 } else { 40 };
    let Some(largest) = mtu.checked_sub(headers) else { return };
    let mut at = packet.transport + TCP_HEADER;
    let end = packet.transport + packet.tcp_header;
    let mut seen = 0;
    while seen < MAX_OPTIONS && at + 4 <= end {
        seen += 1;
        let Some([kind, length, high, low]) = skb.load::<[u8; 4]>(at) else { return };
        match kind {
            END => return,
            NO_OPERATION => at += 1,
            MAXIMUM_SEGMENT_SIZE if length == 4 => {
                if u16::from_be_bytes([high, low]) > largest {
                    replace(skb, packet.transport, at + 2, [high, low], largest.to_be_bytes());
                }
                return;
            }
            _ if length < 2 => return,
            _ => at += u32::from(length),
        }
    }
}

#[inline(always)]
fn replace(skb: Skb, transport: u32, at: u32, old: [u8; 2], new: [u8; 2]) {
    // The checksum sums up 16-bit words; at an odd offset the two bytes belong to two of them.
    let odd = (at - transport) & 1 != 0;
    let word = |bytes: [u8; 2]| {
        u64::from(if odd { u16::from_ne_bytes([bytes[1], bytes[0]]) } else { u16::from_ne_bytes(bytes) })
    };
    if skb.store(at, &new, 0) {
        // SAFETY: the context is valid while the program runs.
        unsafe { bpf_l4_csum_replace(skb.as_ptr(), transport + CHECKSUM, word(old), word(new), 2) };
    }
}
