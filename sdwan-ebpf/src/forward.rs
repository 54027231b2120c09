//! What a router does to a packet: TTL, DSCP, header checksum.

use aya_ebpf::bindings::BPF_F_RECOMPUTE_CSUM;
use sdwan_common::abi::DSCP_KEEP;

use crate::parse::Packet;
use crate::skb::Skb;

/// Writes the class's DSCP and, if `hop`, a TTL or hop limit lowered by one into the header at `ip`. The ECN bits stay.
#[inline(never)]
pub fn rewrite(skb: Skb, packet: &Packet, ip: u32, dscp: u8, hop: bool) -> bool {
    let mark = dscp != DSCP_KEEP && dscp < 64 && dscp != packet.dscp();
    if !mark && !hop {
        return true;
    }
    let head = &packet.head;
    if packet.ipv6 {
        let mut new = [head[0], head[1], head[2], head[3], head[4], head[5], head[6], head[7]];
        if mark {
            new[0] = 0x60 | dscp >> 2;
            new[1] = (dscp & 3) << 6 | head[1] & 0x3f;
        }
        if hop {
            new[7] = head[7].wrapping_sub(1);
        }
        skb.store(ip, &new, u64::from(BPF_F_RECOMPUTE_CSUM))
    } else {
        let mut new = [
            head[0], head[1], head[2], head[3], head[4], head[5], head[6], head[7], head[8], head[9], head[10],
            head[11],
        ];
        if mark {
            new[1] = dscp << 2 | head[1] & 3;
        }
        if hop {
            new[8] = head[8].wrapping_sub(1);
        }
        let [high, low] = checksum(
            u16::from_be_bytes([head[10], head[11]]),
            [u16::from_be_bytes([head[0], head[1]]), u16::from_be_bytes([head[8], head[9]])],
            [u16::from_be_bytes([new[0], new[1]]), u16::from_be_bytes([new[8], new[9]])],
        )
        .to_be_bytes();
        new[10] = high;
        new[11] = low;
        // The header's sum stays what it was, so the sum over the packet needs no correction.
        skb.store(ip, &new, 0)
    }
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
