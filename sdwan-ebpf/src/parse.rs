//! Packet → [`Packet`]: headers, up to the ports.

use aya_ebpf::helpers::{bpf_jiffies64, bpf_ktime_get_coarse_ns};
use sdwan_common::abi::{FlowKey, FragmentKey, ZoneKey};
use sdwan_common::classify::protocol_has_ports;
use sdwan_common::counters::PassReason;
use sdwan_common::select::Best;
use sdwan_common::stamp;

use crate::maps::SCRATCH;
use crate::skb::{PACKET_HOST, PACKET_OTHERHOST, Skb};
use crate::trace::Decided;

pub const ETHERNET: u32 = 14;
pub const ETHERTYPE_IPV4: u16 = 0x0800;
pub const ETHERTYPE_IPV6: u16 = 0x86dd;
const ETHERTYPE_VLAN: u16 = 0x8100;
const ETHERTYPE_QINQ: u16 = 0x88a8;

pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
pub const FRAGMENT: u8 = 44;
pub const AUTHENTICATION: u8 = 51;
pub const DESTINATION_OPTIONS: u8 = 60;
const MOBILITY: u8 = 135;
/// Extension headers that are walked over. RFC 8200 section 4.1 lists seven, one of them never mixed with ports.
pub const MAX_EXTENSIONS: u32 = 6;

const SYN: u8 = 0x02;

/// Which part of a datagram a packet is.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Part {
    Whole,
    First,
    Later,
}

/// Link layer of a packet.
#[derive(Clone, Copy)]
pub struct Link {
    /// Bytes before the IP header.
    pub length: u32,
    /// Ethertype behind the tags.
    pub ether_type: u16,
    /// Outer VLAN id, 0 for untagged.
    pub vlan: u32,
    /// VLAN tags, wherever they are.
    pub tags: u32,
}

impl Link {
    /// A VLAN tag in the packet: the rest begins behind it.
    #[inline(always)]
    pub fn pass_tag(&mut self, [tci, tci_low, ether_type, ether_type_low]: [u8; 4]) {
        if self.tags == 0 {
            self.vlan = u32::from(u16::from_be_bytes([tci, tci_low]) & 0xfff);
        }
        self.ether_type = u16::from_be_bytes([ether_type, ether_type_low]);
        self.length += 4;
        self.tags += 1;
    }
}

/// What the programs need to know of a packet.
///
/// It lies in a per-CPU map and not on the stack, for two reasons: the stack is small, and the verifier, which follows
/// every value on the stack, would walk through all that comes behind once for each combination of header kinds.
#[repr(C, align(8))]
pub struct Packet {
    pub key: FlowKey,
    /// Where the packet came in.
    pub ingress: ZoneKey,
    /// VLAN tags, wherever they are.
    pub tags: u32,
    /// Offset of the IP header.
    pub ip: u32,
    /// Offset of the transport header.
    pub transport: u32,
    /// Bytes of the IP packet, without what Ethernet padded.
    pub length: u32,
    /// Bytes of the largest IP packet on the wire: smaller than `length` for a GSO packet.
    pub wire_length: u32,
    /// Packets on the wire.
    pub segments: u32,
    /// The IP header: 20 bytes of IPv4, or 40 of IPv6. Behind it what is known of the transport header.
    pub head: [u8; 60],
    /// That are its first 20 bytes: one look at the packet is cheaper than two.
    ahead: bool,
    pub ipv6: bool,
    /// IPv4 options, or an IPv6 hop-by-hop header.
    pub options: bool,
    pub part: Part,
    /// Identification of the datagram, when it is fragmented.
    pub identification: u32,
    /// Protocol as the fragment header of each fragment names it.
    pub fragment_protocol: u8,
    /// A TCP packet with SYN.
    pub syn: bool,
    /// Bytes of the header of a TCP packet.
    pub tcp_header: u32,
    /// The path that it came by, where it came out of a tunnel.
    pub path: u32,
    /// A path that was found silent on the way to a decision.
    pub silent: u32,
    /// How the decision was made, where it wasn't the flow's entry; written while a flow is traced.
    pub decided: Decided,
    /// The kernel's count of ticks when the clock was read, and the time then.
    tick: u64,
    tick_ns: u64,
    /// Working space of the selection.
    pub best: Best,
    /// A STAMP packet, and its answer.
    pub question: [u8; stamp::BASE_LENGTH],
    pub answer: [u8; stamp::BASE_LENGTH],
}

const KEY_WORDS: usize = 5;
const _: () = {
    assert!(core::mem::offset_of!(Packet, key) == 0 && core::mem::offset_of!(FlowKey, source_port) == 32);
    assert!(core::mem::size_of::<FlowKey>() == 8 * KEY_WORDS);
    assert!(core::mem::offset_of!(Packet, head) % 8 == 0);
};

impl Packet {
    /// The scratch space of this CPU, with nothing known yet but the sizes. Neither program runs inside the other, nor
    /// twice at once on one CPU.
    #[inline(always)]
    pub fn scratch(skb: Skb, link: &Link) -> Option<&'static mut Self> {
        let packet = SCRATCH.get_ptr_mut(0)?;
        // SAFETY: a per-CPU value that nothing else uses meanwhile. All zeros, as it starts, are a valid `Packet`.
        let packet = unsafe { &mut *packet };
        let segments = skb.gso_segs();
        // What is not an address. Volatile: the compiler makes a call of it otherwise.
        // SAFETY: the key is the first field, and aligned.
        unsafe { core::ptr::from_mut(packet).cast::<u64>().add(KEY_WORDS - 1).write_volatile(0) };
        packet.ingress = ZoneKey { ifindex: skb.ifindex(), vlan: link.vlan };
        packet.tags = link.tags;
        packet.ip = link.length;
        packet.length = skb.len().saturating_sub(link.length);
        packet.segments = if segments == 0 { 1 } else { segments };
        packet.ipv6 = false;
        packet.ahead = false;
        packet.options = false;
        packet.part = Part::Whole;
        packet.syn = false;
        Some(packet)
    }

    /// Time of `CLOCK_MONOTONIC` as of the last tick, ns. The coarse clock takes a call; it was read at this tick already, most
    /// times. It lags by at most one tick (4 ms at 250 Hz), or two when it is read while the tick is being handled, so that
    /// silence is noticed that much later. Stamps of the precise clock may lie ahead of it; differences saturate.
    #[inline(always)]
    pub fn now_ns(&mut self) -> u64 {
        // SAFETY: the helper has no preconditions. It is one read of memory.
        let tick = unsafe { bpf_jiffies64() };
        if tick != self.tick {
            self.tick = tick;
            // SAFETY: as above.
            self.tick_ns = unsafe { bpf_ktime_get_coarse_ns() };
        }
        self.tick_ns
    }

    /// Both in words of four bytes, as they lie in memory.
    #[inline(always)]
    fn set_addresses(&mut self, source: [u32; 4], destination: [u32; 4]) {
        // SAFETY: the addresses are the first 32 bytes of the key, which is the first field, and aligned.
        unsafe { core::ptr::from_mut(self).cast::<[[u32; 4]; 2]>().write([source, destination]) };
    }

    /// Four bytes of the IP header, as they lie in memory.
    #[inline(always)]
    pub fn word(&self, index: usize) -> u32 {
        // SAFETY: there are fifteen, and they are aligned; the callers' indices are constants.
        unsafe { self.head.as_ptr().cast::<u32>().add(index).read() }
    }

    #[inline(always)]
    pub fn dscp(&self) -> u8 {
        if self.ipv6 { (self.head[0] & 0x0f) << 2 | self.head[1] >> 6 } else { self.head[1] >> 2 }
    }

    /// TTL or hop limit.
    #[inline(always)]
    pub fn ttl(&self) -> u8 {
        if self.ipv6 { self.head[7] } else { self.head[8] }
    }

    #[inline(always)]
    pub fn fragment_key(&self) -> FragmentKey {
        FragmentKey {
            source: self.key.source,
            destination: self.key.destination,
            identification: self.identification,
            protocol: self.fragment_protocol,
            padding: [0; 3],
        }
    }

    /// Why a router's short cut is not for this packet, if so.
    #[inline(always)]
    pub fn obstacle(&self) -> Option<PassReason> {
        let destination = &self.key.destination;
        // 224.0.0.0/4, 255.255.255.255; ff00::/8. Link-local IPv6 addresses are in no site's prefix.
        let multicast = if self.ipv6 { destination[0] == 0xff } else { destination[12] >= 224 };
        if multicast {
            Some(PassReason::Multicast)
        } else if self.options {
            Some(PassReason::Options)
        } else if self.ttl() <= 1 {
            Some(PassReason::TtlExpired)
        } else {
            None
        }
    }
}

/// Ethernet and up to two VLAN tags, each in the packet or taken off by the kernel.
#[inline(always)]
pub fn ethernet(skb: Skb) -> Result<Link, PassReason> {
    match skb.pkt_type() {
        PACKET_HOST => {}
        PACKET_OTHERHOST => return Err(PassReason::OtherHost),
        _ => return Err(PassReason::Multicast),
    }
    let mut link = Link { length: ETHERNET, ether_type: skb.ether_type(), vlan: 0, tags: 0 };
    if skb.vlan_present() != 0 {
        link.vlan = skb.vlan_tci() & 0xfff;
        link.tags = 1;
    }
    if is_vlan(link.ether_type) {
        link.pass_tag(skb.load(link.length).ok_or(PassReason::Unparsed)?);
        if is_vlan(link.ether_type) && link.tags < 2 {
            link.pass_tag(skb.load(link.length).ok_or(PassReason::Unparsed)?);
        }
    }
    Ok(link)
}

/// Reads the IP and transport headers; `packet.ip` says where the first is.
#[inline(always)]
pub fn internet(skb: Skb, ether_type: u16, packet: &mut Packet) -> Result<(), PassReason> {
    match ether_type {
        ETHERTYPE_IPV4 => ipv4(skb, packet)?,
        ETHERTYPE_IPV6 => ipv6(skb, packet)?,
        _ => return Err(PassReason::Unparsed),
    }
    transport(skb, packet)
}

#[inline(always)]
pub fn is_vlan(ether_type: u16) -> bool {
    ether_type == ETHERTYPE_VLAN || ether_type == ETHERTYPE_QINQ
}

#[inline(always)]
fn ipv4(skb: Skb, packet: &mut Packet) -> Result<(), PassReason> {
    let ahead = skb.read_into::<40>(packet.ip, first(&mut packet.head));
    // A short packet ends before.
    if !ahead && !skb.load_into::<[u8; 20]>(packet.ip, first(&mut packet.head)) {
        return Err(PassReason::Unparsed);
    }
    let header = &packet.head;
    let words = header[0] & 0x0f;
    packet.ahead = ahead && words == 5;
    if header[0] >> 4 != 4 || words < 5 {
        return Err(PassReason::Unparsed);
    }
    let total = u32::from(u16::from_be_bytes([header[2], header[3]]));
    // A GSO packet of more than 64 KiB says 0 (BIG TCP).
    if total != 0 {
        if total > packet.length {
            return Err(PassReason::Unparsed);
        }
        packet.length = total;
    } else if packet.segments <= 1 {
        return Err(PassReason::Unparsed);
    }
    packet.options = words != 5;
    packet.key.protocol = header[9];
    let mapped = 0xffff_u32.to_be();
    packet.set_addresses([0, 0, mapped, packet.word(3)], [0, 0, mapped, packet.word(4)]);
    packet.transport = packet.ip + u32::from(words) * 4;
    let header = &packet.head;
    let fragment = u16::from_be_bytes([header[6], header[7]]);
    if fragment & 0x3fff != 0 {
        packet.part = if fragment & 0x1fff == 0 { Part::First } else { Part::Later };
        packet.identification = u32::from(u16::from_be_bytes([header[4], header[5]]));
        packet.fragment_protocol = header[9];
    }
    Ok(())
}

/// The first bytes of the 60.
#[inline(always)]
fn first<const BYTES: usize>(head: &mut [u8; 60]) -> &mut [u8; BYTES] {
    const { assert!(BYTES <= 60) };
    // SAFETY: they exist, and bytes have no alignment.
    unsafe { &mut *head.as_mut_ptr().cast() }
}

#[inline(always)]
fn ipv6(skb: Skb, packet: &mut Packet) -> Result<(), PassReason> {
    let ahead = skb.read_into(packet.ip, &mut packet.head);
    if !ahead && !skb.load_into::<[u8; 40]>(packet.ip, first(&mut packet.head)) {
        return Err(PassReason::Unparsed);
    }
    let header = &packet.head;
    if header[0] >> 4 != 6 {
        return Err(PassReason::Unparsed);
    }
    packet.ipv6 = true;
    let payload = u32::from(u16::from_be_bytes([header[4], header[5]]));
    if payload != 0 {
        if payload + 40 > packet.length {
            return Err(PassReason::Unparsed);
        }
        packet.length = payload + 40;
    }
    let word = |index| packet.word(index);
    let (source, destination) = ([word(2), word(3), word(4), word(5)], [word(6), word(7), word(8), word(9)]);
    packet.set_addresses(source, destination);
    let mut next = packet.head[6];
    let mut offset = packet.ip + 40;
    let mut walked = 0;
    // A later fragment's bytes are data, not headers.
    while packet.part != Part::Later && is_extension(next) {
        if walked == MAX_EXTENSIONS {
            return Err(PassReason::Unparsed);
        }
        walked += 1;
        let header: [u8; 8] = skb.load(offset).ok_or(PassReason::Unparsed)?;
        match next {
            FRAGMENT => {
                let fragment = u16::from_be_bytes([header[2], header[3]]);
                // An atomic fragment (RFC 6946) is a whole datagram.
                if fragment & 0xfff9 != 0 {
                    packet.part = if fragment & 0xfff8 == 0 { Part::First } else { Part::Later };
                    packet.identification = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
                    packet.fragment_protocol = header[0];
                }
                offset += 8;
            }
            AUTHENTICATION => offset += (u32::from(header[1]) + 2) * 4,
            _ => {
                packet.options |= next == HOP_BY_HOP;
                offset += (u32::from(header[1]) + 1) * 8;
            }
        }
        next = header[0];
    }
    packet.key.protocol = next;
    packet.transport = offset;
    packet.ahead = ahead && walked == 0;
    Ok(())
}

#[inline(always)]
pub fn is_extension(protocol: u8) -> bool {
    matches!(protocol, HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION_OPTIONS | MOBILITY)
}

/// The first bytes of the transport header, at most 20.
#[inline(always)]
fn begin<const BYTES: usize>(skb: Skb, packet: &mut Packet) -> Option<&mut [u8; BYTES]> {
    const { assert!(BYTES <= 20) };
    let at = if packet.ipv6 { 40 } else { 20 };
    // SAFETY: 60 bytes exist, and bytes have no alignment.
    let bytes = unsafe { &mut *packet.head.as_mut_ptr().add(at).cast() };
    if packet.ahead || skb.load_into::<[u8; BYTES]>(packet.transport, bytes) { Some(bytes) } else { None }
}

#[inline(always)]
fn transport(skb: Skb, packet: &mut Packet) -> Result<(), PassReason> {
    packet.wire_length = packet.length;
    if packet.part == Part::Later {
        return Ok(());
    }
    let mut header = 8;
    match packet.key.protocol {
        TCP => {
            // As far as the flags.
            let &mut [a, b, c, d, .., offset, flags] = begin::<14>(skb, packet).ok_or(PassReason::Unparsed)?;
            packet.key.source_port = u16::from_be_bytes([a, b]);
            packet.key.destination_port = u16::from_be_bytes([c, d]);
            packet.syn = flags & SYN != 0;
            header = u32::from(offset >> 4) * 4;
            packet.tcp_header = header;
        }
        ICMP | ICMPV6 => {
            let &mut [kind, _, _, _, high, low, ..] = begin::<8>(skb, packet).ok_or(PassReason::Unparsed)?;
            let echo = if packet.key.protocol == ICMP { matches!(kind, 0 | 8) } else { matches!(kind, 128 | 129) };
            if echo {
                packet.key.source_port = u16::from_be_bytes([high, low]);
            }
        }
        protocol if protocol_has_ports(protocol) => {
            let &mut [a, b, c, d] = begin::<4>(skb, packet).ok_or(PassReason::Unparsed)?;
            packet.key.source_port = u16::from_be_bytes([a, b]);
            packet.key.destination_port = u16::from_be_bytes([c, d]);
        }
        _ => {}
    }
    let gso_size = skb.gso_size();
    if gso_size != 0 {
        let headers = packet.transport - packet.ip + header;
        packet.wire_length = headers + gso_size;
        // A virtual machine's packet says how large its segments are and leaves their number to whoever cuts it.
        if skb.gso_segs() == 0 {
            let payload = packet.length.saturating_sub(headers);
            packet.segments = payload.saturating_add(gso_size - 1) / gso_size;
        }
    }
    Ok(())
}
