//! The STAMP session reflector (RFC 8762 section 4.3, RFC 8972): the question becomes the answer in place.

use aya_ebpf::bindings::{BPF_F_MARK_MANGLED_0, BPF_F_RECOMPUTE_CSUM};
use aya_ebpf::helpers::{bpf_csum_diff, bpf_ktime_get_ns, bpf_l4_csum_replace};
use core::ptr::NonNull;
use sdwan_common::abi::{Config, PathLive, SiteLive};
use sdwan_common::liveness::daemon_alive;
use sdwan_common::stamp::{
    BASE_LENGTH, EXTENSION_LENGTH, ErrorEstimate, Extension, ReflectorPacket, SenderPacket, TLV_HEADER_LENGTH,
    Timestamp, tlv_flag,
};

use crate::atomic::fetch_add;
use crate::direct::{self, CHECKSUM, UDP_HEADER};
use crate::forward::checksum;
use crate::parse::Packet;
use crate::skb::Skb;

/// TTL or hop limit of an answer (RFC 8762 section 4.3).
const TTL: u8 = 255;
/// TLVs that are marked as understood or not. A sender that follows RFC 8972 marks them all as not understood itself.
const MAX_TLVS: u32 = 8;

/// Why a probe is not answered here.
#[derive(Clone, Copy)]
#[repr(u32)]
pub enum Unanswered {
    /// The stack gets it, untouched: options.
    Options,
    /// The stack gets it, untouched: it is too short.
    Malformed,
    /// It is lost half-way.
    Lost,
}

/// Turns a probe into its answer, to be sent back where it came from.
#[inline(never)]
pub fn reflect(
    skb: Skb,
    packet: &mut Packet,
    config: &Config,
    live: *mut PathLive,
    site: Option<NonNull<SiteLive>>,
) -> Result<(), Unanswered> {
    // SAFETY: the helper has no preconditions.
    let received_ns = unsafe { bpf_ktime_get_ns() };
    let ip_header = if packet.ipv6 { 40 } else { 20 };
    if packet.transport != packet.ip + ip_header {
        return Err(Unanswered::Options);
    }
    let udp: [u8; 8] = skb.load(packet.transport).ok_or(Unanswered::Malformed)?;
    let length = u32::from(u16::from_be_bytes([udp[4], udp[5]]));
    let payload = packet.transport + UDP_HEADER;
    let end = packet.transport + length;
    if end > packet.ip + packet.length || length < UDP_HEADER + BASE_LENGTH as u32 {
        return Err(Unanswered::Malformed);
    }
    if !skb.load_into(payload, &mut packet.question) {
        return Err(Unanswered::Malformed);
    }
    let tlvs = payload + BASE_LENGTH as u32;
    let mut extension = None;
    if tlvs + EXTENSION_LENGTH as u32 <= end {
        let bytes: [u8; EXTENSION_LENGTH] = skb.load(tlvs).ok_or(Unanswered::Malformed)?;
        extension = Extension::from_bytes(&bytes);
    }
    // SAFETY: values of array maps live as long as the maps.
    let sequence = unsafe {
        (*live).peer_flags = extension.map_or(0, |extension| u32::from(extension.flags));
        (*live).peer_detection_ns = extension.map_or(0, Extension::detection_ns);
        (*live).last_peer_probe_ns = received_ns;
        if let Some(site) = site {
            (*site.as_ptr()).probed((*live).peer_detection_ns, received_ns);
        }
        fetch_add(&raw mut (*live).reflected, 1)
    };
    let asked = direct::question(skb, payload, end);
    let understood = u32::from(extension.is_some()) + u32::from(asked.is_some());
    if asked.is_some_and(|asked| !direct::answer(skb, packet, payload, asked)) {
        return Err(Unanswered::Lost);
    }
    if !turn(skb, packet) || !mark_tlvs(skb, packet.transport, tlvs, end, understood) {
        return Err(Unanswered::Lost);
    }
    // SAFETY: the helper has no preconditions.
    let sent_ns = unsafe { bpf_ktime_get_ns() };
    // Without a daemon the offset grows old, and nobody looks whether the clock is still kept.
    let scale = if daemon_alive(config, received_ns) { config.clock_scale } else { 0 };
    let answer = ReflectorPacket::answer(
        &SenderPacket::from_bytes(&packet.question),
        sequence,
        Timestamp::from_unix_ns(received_ns.wrapping_add(config.realtime_offset_ns)),
        Timestamp::from_unix_ns(sent_ns.wrapping_add(config.realtime_offset_ns)),
        packet.ttl(),
    );
    packet.answer = ReflectorPacket { error_estimate: ErrorEstimate::of_scale(scale), ..answer }.encode();
    // SAFETY: both buffers have the length given, which is a multiple of four.
    let written = unsafe {
        let difference = bpf_csum_diff(
            packet.question.as_ptr().cast_mut().cast(),
            BASE_LENGTH as u32,
            packet.answer.as_ptr().cast_mut().cast(),
            BASE_LENGTH as u32,
            0,
        );
        difference >= 0
            && skb.store(payload, &packet.answer, 0)
            && bpf_l4_csum_replace(
                skb.as_ptr(),
                packet.transport + CHECKSUM,
                0,
                difference as u64,
                // IPv4 without a UDP checksum stays without.
                u64::from(BPF_F_MARK_MANGLED_0),
            ) == 0
    };
    if written { Ok(()) } else { Err(Unanswered::Lost) }
}

/// Swaps addresses and ports, which leaves the UDP checksum alone, and sets the TTL.
#[inline(always)]
fn turn(skb: Skb, packet: &Packet) -> bool {
    let source = packet.key.source_port.to_be_bytes();
    let destination = packet.key.destination_port.to_be_bytes();
    let ports = [destination[0], destination[1], source[0], source[1]];
    let from = packet.key.destination;
    let to = packet.key.source;
    let head = &packet.head;
    let turned = if packet.ipv6 {
        skb.store(packet.ip + 8, &[from, to], 0) && skb.store(packet.ip + 7, &[TTL], u64::from(BPF_F_RECOMPUTE_CSUM))
    } else {
        let [high, low] = checksum(
            u16::from_be_bytes([head[10], head[11]]),
            [u16::from_be_bytes([head[8], head[9]]), 0],
            [u16::from_be_bytes([TTL, head[9]]), 0],
        )
        .to_be_bytes();
        let new = [TTL, head[9], high, low, from[12], from[13], from[14], from[15], to[12], to[13], to[14], to[15]];
        skb.store(packet.ip + 8, &new, 0)
    };
    turned && skb.store(packet.transport, &ports, 0)
}

/// Sets the flags of the TLVs: the first `understood` are, the others are not; one that is longer than the packet is
/// malformed.
#[inline(always)]
fn mark_tlvs(skb: Skb, transport: u32, tlvs: u32, end: u32, understood: u32) -> bool {
    let mut at = tlvs;
    let mut seen = 0;
    while seen < MAX_TLVS && at + TLV_HEADER_LENGTH as u32 <= end {
        let Some([flags, kind, high, low]) = skb.load::<[u8; 4]>(at) else { return false };
        let next = at + TLV_HEADER_LENGTH as u32 + u32::from(u16::from_be_bytes([high, low]));
        let new = if seen < understood {
            0
        } else if next > end {
            tlv_flag::UNRECOGNIZED | tlv_flag::MALFORMED
        } else {
            tlv_flag::UNRECOGNIZED
        };
        if new != flags {
            // A TLV of odd length puts the next one at an odd offset, where the two bytes belong to two words.
            let odd = (at - transport) & 1 != 0;
            let word = |flags: u8| {
                u64::from(if odd { u16::from_ne_bytes([kind, flags]) } else { u16::from_ne_bytes([flags, kind]) })
            };
            // SAFETY: the context is valid while the program runs.
            let written = skb.store(at, &[new], 0)
                && unsafe {
                    bpf_l4_csum_replace(
                        skb.as_ptr(),
                        transport + CHECKSUM,
                        word(flags),
                        word(new),
                        u64::from(BPF_F_MARK_MANGLED_0) | 2,
                    ) == 0
                };
            if !written {
                return false;
            }
        }
        at = next;
        seen += 1;
    }
    true
}
