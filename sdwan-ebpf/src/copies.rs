//! Duplicate mode: a packet goes by two paths, and the first copy that arrives passes ([`sdwan_common::copies`]).

use aya_ebpf::bindings::bpf_adj_room_mode::BPF_ADJ_ROOM_NET;
use aya_ebpf::bindings::{BPF_F_ADJ_ROOM_FIXED_GSO, BPF_F_ADJ_ROOM_NO_CSUM_RESET, BPF_F_RECOMPUTE_CSUM};
use aya_ebpf::helpers::{bpf_clone_redirect, bpf_skb_adjust_room};
use sdwan_common::abi::{Config, NO_PATH, Path};
use sdwan_common::copies::{
    IPV4_FLAG, IPV6_MARK_LENGTH, LARGEST_BUNDLE, Mark, ROUND_NS, SEGMENT_NUMBERS, SEGMENT_STEP, entry, is_second, slot,
};
use sdwan_common::select::{SecondState, flow_hash, select_second_in};

use crate::atomic::{exchange, fetch_add};
use crate::count::{self, Copied};
use crate::decide::{Decision, look, usable};
use crate::forward::checksum;
use crate::maps::{COPIES_SEEN, COPY_NUMBERS, FLOWS, PATH_SETS, PATHS};
use crate::parse::{DESTINATION_OPTIONS, ETHERNET, Packet, Part, TCP};
use crate::skb::Skb;

const IPV6_HEADER: u32 = 40;
/// Offset of the payload's length in an IPv6 header; the kind of the next header follows.
const IPV6_LENGTH: u32 = 4;
const MARK: u32 = IPV6_MARK_LENGTH as u32;
/// The offset of a fragment in the last bytes of the flags (IPv4).
const OFFSET: u16 = 0x1fff;
/// Offset of the sequence number in the TCP header.
const SEQUENCE: u32 = 4;

/// The path of the copies, or [`NO_PATH`]: the flow's so far if it can be used, else a new one, which the flow remembers.
/// Now and then it is chosen anew: a path that shares no uplink with the first may have come back.
#[inline(never)]
pub fn second(decision: &Decision, packet: &mut Packet, config: &Config) -> u32 {
    let former = decision.second;
    if former != NO_PATH && !decision.second_due && usable(former, config, decision.now_ns) {
        return former;
    }
    let chosen = choose(decision, packet, config);
    if chosen != former
        && let Some(flow) = FLOWS.get_ptr_mut(&packet.key)
    {
        // SAFETY: the entry may be evicted and reused meanwhile, as with every LRU map; it stays valid memory.
        unsafe { (*flow).second = chosen };
    }
    chosen
}

#[inline(always)]
fn choose(decision: &Decision, packet: &mut Packet, config: &Config) -> u32 {
    let (Some(set), Some(first)) = (PATH_SETS.get(decision.set), PATHS.get(decision.path)) else { return NO_PATH };
    select_second_in(&mut packet.best, set, decision.path, |number| {
        let path = PATHS.get(number)?;
        let (_, liveness) = look(number, config, decision.now_ns)?;
        Some(SecondState::new(
            liveness.usable(),
            (path.local_uplink, path.remote_uplink),
            (first.local_uplink, first.remote_uplink),
        ))
    })
    .unwrap_or(NO_PATH)
}

/// Largest packet of a flow with copies that both of its paths take, without the mark.
#[inline(always)]
pub fn room(packet: &Packet, path: &Path, second: Option<&Path>) -> u16 {
    let mtu = second.map_or(path.mtu, |second| if second.mtu < path.mtu { second.mtu } else { path.mtu });
    room_in(packet, mtu)
}

/// What the mark leaves of an MTU.
#[inline(always)]
pub fn room_in(packet: &Packet, mtu: u16) -> u16 {
    if packet.ipv6 { mtu.saturating_sub(MARK as u16) } else { mtu }
}

/// Can a packet be marked? A bundle only if its segments can be told apart.
#[inline(always)]
pub fn markable(skb: Skb, packet: &Packet, room: u16) -> bool {
    let bundle = skb.gso_size() != 0;
    packet.wire_length <= u32::from(room)
        && (!bundle || packet.key.protocol == TCP && skb.gso_size() >= SEGMENT_STEP && packet.length <= LARGEST_BUNDLE)
}

/// Marks a packet that is about to leave, and sends a copy of it by the second path. Whether the packet is still whole.
#[inline(never)]
pub fn send(skb: Skb, packet: &mut Packet, second: u32, decision: &Decision) -> bool {
    let Some(path) = PATHS.get(second) else { return true };
    let packets = u64::from(packet.segments);
    match mark(skb, packet, path.site, decision.now_ns) {
        Ok(true) => {}
        Ok(false) => {
            count::copied(decision.class, Copied::Unmarked, packets);
            return true;
        }
        Err(Broken) => return false,
    }
    let bytes = u64::from(packet.length);
    // SAFETY: the context is valid while the program runs.
    if unsafe { bpf_clone_redirect(skb.as_ptr(), path.ifindex, 0) } == 0 {
        count::sent(second, packets, bytes);
        count::copied(decision.class, Copied::Both(bytes), packets);
    } else {
        // No memory, or the tunnel is just going away: the packet goes alone.
        count::copied(decision.class, Copied::Alone, packets);
    }
    true
}

/// A packet that was changed by half.
struct Broken;

/// Marks a packet. `false`: that is not possible, and the packet is as it was.
#[inline(always)]
fn mark(skb: Skb, packet: &mut Packet, site: u32, now_ns: u64) -> Result<bool, Broken> {
    let Some(numbers) = COPY_NUMBERS.get_ptr_mut(site) else { return Ok(false) };
    if packet.ipv6 {
        let bundle = skb.gso_size() != 0;
        let taken = if bundle { SEGMENT_NUMBERS } else { 1 };
        // SAFETY: a value of an array map lives as long as the map.
        let mark = Mark::new(unsafe { fetch_add(&raw mut (*numbers).next, taken) }, bundle);
        return mark_ipv6(skb, packet, mark);
    }
    let mut identification = packet.identification as u16;
    if packet.part == Part::Whole {
        // SAFETY: as above.
        let number = unsafe { fetch_add(&raw mut (*numbers).next, packet.segments) };
        identification = number as u16;
        if number >> 16 != number.wrapping_add(packet.segments) >> 16 {
            // SAFETY: as above. Two CPUs never do this at once: 65,536 packets lie between.
            unsafe {
                (*numbers).pause = u32::from(now_ns.saturating_sub((*numbers).round_ns) < ROUND_NS);
                (*numbers).round_ns = now_ns;
            }
        }
        // SAFETY: as above.
        if unsafe { core::ptr::read_volatile(&raw const (*numbers).pause) } != 0 {
            return Ok(false);
        }
    }
    let Some(mut head) = skb.load::<[u8; 12]>(ETHERNET) else { return Ok(false) };
    let flags = u16::from_be_bytes([head[6], head[7]]) | IPV4_FLAG;
    identify(&mut head, identification, flags);
    Ok(skb.store(ETHERNET, &head, 0))
}

/// Writes identification and flags into an IPv4 header, and the checksum. The header's sum stays what it was, so the sum over
/// the packet needs no correction.
#[inline(always)]
fn identify(head: &mut [u8; 12], identification: u16, flags: u16) {
    let before = [u16::from_be_bytes([head[4], head[5]]), u16::from_be_bytes([head[6], head[7]])];
    let sum = checksum(u16::from_be_bytes([head[10], head[11]]), before, [identification, flags]);
    [head[4], head[5]] = identification.to_be_bytes();
    [head[6], head[7]] = flags.to_be_bytes();
    [head[10], head[11]] = sum.to_be_bytes();
}

#[inline(always)]
fn mark_ipv6(skb: Skb, packet: &mut Packet, mark: Mark) -> Result<bool, Broken> {
    let Some([high, low, next]) = skb.load::<[u8; 3]>(ETHERNET + IPV6_LENGTH) else { return Ok(false) };
    if !adjust(skb, MARK as i32) {
        return Ok(false);
    }
    let [high, low] = u16::from_be_bytes([high, low]).wrapping_add(MARK as u16).to_be_bytes();
    let flags = u64::from(BPF_F_RECOMPUTE_CSUM);
    packet.length += MARK;
    let written = skb.store(ETHERNET + IPV6_LENGTH, &[high, low, DESTINATION_OPTIONS], flags)
        && skb.store(ETHERNET + IPV6_HEADER, &mark.to_bytes(next), flags);
    if written { Ok(true) } else { Err(Broken) }
}

/// What became of a packet that came out of a tunnel.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Arrived {
    /// It has no mark.
    Plain,
    /// The first copy; its mark is off.
    First,
    /// The second copy.
    Second,
    /// It can't be changed, and still has its mark.
    Stuck,
}

/// Looks for a mark; takes it off the first copy of a packet of `site`.
#[inline(always)]
pub fn arrive(skb: Skb, packet: &mut Packet, site: u32) -> Arrived {
    let marked =
        if packet.ipv6 { packet.head[6] == DESTINATION_OPTIONS } else { packet.head[6] & (IPV4_FLAG >> 8) as u8 != 0 };
    if marked { unmark(skb, packet, site) } else { Arrived::Plain }
}

#[inline(never)]
fn unmark(skb: Skb, packet: &mut Packet, site: u32) -> Arrived {
    if packet.ipv6 { unmark_ipv6(skb, packet, site) } else { unmark_ipv4(skb, packet, site) }
}

/// The TCP sequence number of a packet, 0 of one that has none.
#[inline(always)]
fn sequence(skb: Skb, packet: &Packet) -> u32 {
    match (packet.part, packet.key.protocol) {
        (Part::Whole, TCP) => skb.load::<[u8; 4]>(packet.transport + SEQUENCE).map_or(0, u32::from_be_bytes),
        _ => 0,
    }
}

#[inline(always)]
fn unmark_ipv4(skb: Skb, packet: &mut Packet, site: u32) -> Arrived {
    let number = u16::from_be_bytes([packet.head[4], packet.head[5]]);
    let part = match packet.part {
        Part::Whole => sequence(skb, packet),
        _ => u32::from(u16::from_be_bytes([packet.head[6], packet.head[7]]) & OFFSET),
    };
    if is_second_copy(skb, packet, site, u32::from(number), part) {
        return Arrived::Second;
    }
    // SAFETY: the first twelve bytes exist, and bytes have no alignment.
    let head = unsafe { &mut *packet.head.as_mut_ptr().cast::<[u8; 12]>() };
    let flags = u16::from_be_bytes([head[6], head[7]]) & !IPV4_FLAG;
    identify(head, number, flags);
    if skb.store(packet.ip, head, 0) { Arrived::First } else { Arrived::Stuck }
}

#[inline(always)]
fn unmark_ipv6(skb: Skb, packet: &mut Packet, site: u32) -> Arrived {
    let mark = skb.load(packet.ip + IPV6_HEADER).and_then(Mark::from_bytes);
    let Some((mark, next)) = mark else { return Arrived::Plain };
    // Each fragment has a number of its own.
    let part = sequence(skb, packet);
    if is_second_copy(skb, packet, site, mark.number(part), part) {
        return Arrived::Second;
    }
    if !adjust(skb, -(MARK as i32)) {
        return Arrived::Stuck;
    }
    let [high, low] = u16::from_be_bytes([packet.head[4], packet.head[5]]).wrapping_sub(MARK as u16).to_be_bytes();
    let head = [high, low, next];
    [packet.head[4], packet.head[5], packet.head[6]] = head;
    packet.transport -= MARK;
    packet.length -= MARK;
    packet.wire_length -= MARK;
    let written = skb.store(packet.ip + IPV6_LENGTH, &head, u64::from(BPF_F_RECOMPUTE_CSUM));
    if written { Arrived::First } else { Arrived::Stuck }
}

/// Notes that a packet was seen. Whether it had been before, and is not to pass again.
#[inline(always)]
fn is_second_copy(skb: Skb, packet: &mut Packet, site: u32, number: u32, part: u32) -> bool {
    let Some(slot) = COPIES_SEEN.get_ptr_mut(slot(site, number)) else { return false };
    let new = entry(flow_hash(&packet.key), part, number, packet.now_ns());
    // SAFETY: a value of an array map lives as long as the map.
    let second = is_second(unsafe { exchange(slot, new) }, new);
    // Segments that the kernel has put together again may hold some that the other copy lacked: TCP sorts them out.
    second && skb.gso_size() == 0
}

/// Makes room behind the IP header, or takes it away. What the segments of a bundle carry, and what is known of its
/// checksum, stays.
#[inline(always)]
fn adjust(skb: Skb, bytes: i32) -> bool {
    let flags = u64::from(BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_NO_CSUM_RESET);
    // SAFETY: the context is valid while the program runs.
    unsafe { bpf_skb_adjust_room(skb.as_ptr(), bytes, BPF_ADJ_ROOM_NET, flags) == 0 }
}
