//! Round-trip time of the paths as TCP sees it, from the flows' own timestamps (RFC 7323): the time from a packet with a
//! new timestamp to the packet that echoes it.
//!
//! At most one packet in a while is awaited per path, in a table of fixed size; all others are told by two comparisons
//! that they are not it. The first packet of a flow with a new timestamp is the one whose echo counts, so the flow is
//! looked at twice: once to learn its timestamp, and then until that changes.

use aya_ebpf::helpers::bpf_ktime_get_ns;
use sdwan_common::abi::{FlowKey, PathLive, TCP_RTTS, TcpSample, capacity, tcp_rtt_entry};

use crate::atomic::fetch_add;
use crate::maps::{PATH_LIVE, TCP_RTT, TCP_RTT_INTERVAL_NS, TCP_SAMPLES};
use crate::parse::{Packet, Part, TCP};
use crate::skb::Skb;

/// How long a flow's next timestamp is waited for before another flow gets its turn.
const TURN_NS: u64 = 50_000_000;
/// An echo that takes longer is no measurement.
const LONGEST_NS: u64 = 10_000_000_000;

const HEADER: u32 = 20;
const END: u8 = 0;
const NO_OPERATION: u8 = 1;
const TIMESTAMPS: u8 = 8;
const TIMESTAMPS_LENGTH: u8 = 10;
/// Options looked at: as many as a SYN has, and room for no-operations.
const MAX_OPTIONS: u32 = 12;

/// A packet leaves by a path. `now_ns` is of the coarse clock.
#[inline(always)]
pub fn leave(skb: Skb, packet: &Packet, path: u32, now_ns: u64) {
    if packet.key.protocol != TCP || packet.part == Part::Later {
        return;
    }
    let interval_ns = TCP_RTT_INTERVAL_NS.load();
    let Some(live) = PATH_LIVE.get_ptr_mut(path) else { return };
    // SAFETY: a value of an array map lives as long as the map. Two CPUs may both see their turn; that does no harm.
    let (due_ns, flow) = unsafe { ((*live).tcp_due_ns, (*live).tcp_flow) };
    let early = now_ns < due_ns;
    if interval_ns == 0 || early && flow == 0 || early && flow != tag(packet) {
        return;
    }
    // Only what is acknowledged at once is echoed at once.
    if packet.syn || packet.length > packet.transport - packet.ip + packet.tcp_header {
        consider(skb, packet, live, path, now_ns);
    }
}

/// A packet came out of a tunnel, whichever path it took.
#[inline(always)]
pub fn come_back(skb: Skb, packet: &Packet) {
    if packet.key.protocol != TCP || packet.part == Part::Later {
        return;
    }
    let tag = tag(packet);
    let Some(sample) = TCP_SAMPLES.get_ptr_mut(slot(tag)) else { return };
    // SAFETY: a value of an array map lives as long as the map.
    if unsafe { (*sample).tag == tag && (*sample).sent_ns != 0 } {
        compare(skb, packet, sample);
    }
}

/// Learns a flow's timestamp, or awaits the echo of its next one.
#[inline(never)]
fn consider(skb: Skb, packet: &Packet, live: *mut PathLive, path: u32, now_ns: u64) {
    let tag = tag(packet);
    let interval_ns = TCP_RTT_INTERVAL_NS.load();
    let Some([timestamp, _]) = timestamps(skb, packet) else {
        // A flow without timestamps; the next one in turn may have some.
        // SAFETY: as in `leave`.
        unsafe { ((*live).tcp_flow, (*live).tcp_due_ns) = (0, now_ns + interval_ns) };
        return;
    };
    // SAFETY: as in `leave`.
    unsafe {
        let known = (*live).tcp_flow == tag;
        // The timestamp of a SYN is new.
        if packet.syn || known && (timestamp.wrapping_sub((*live).tcp_timestamp) as i32) > 0 {
            ((*live).tcp_flow, (*live).tcp_due_ns) = (0, now_ns + interval_ns);
            if let Some(sample) = TCP_SAMPLES.get_ptr_mut(slot(tag)) {
                (*sample).sent_ns = 0;
                (*sample).flow = packet.key;
                (*sample).tag = tag;
                (*sample).path = path;
                (*sample).timestamp = timestamp;
                (*sample).sent_ns = bpf_ktime_get_ns();
            }
        } else if !known {
            ((*live).tcp_flow, (*live).tcp_timestamp, (*live).tcp_due_ns) = (tag, timestamp, now_ns + TURN_NS);
        }
    }
}

/// Is this the echo that is awaited?
#[inline(never)]
fn compare(skb: Skb, packet: &Packet, sample: *mut TcpSample) {
    // SAFETY: as in `come_back`.
    let sample = unsafe { &mut *sample };
    let (out, back) = (&sample.flow, &packet.key);
    if !is_reverse(out, back) {
        return;
    }
    let Some([_, echo]) = timestamps(skb, packet) else { return };
    let newer = echo.wrapping_sub(sample.timestamp) as i32;
    // SAFETY: the helper has no preconditions.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    let rtt_ns = now_ns.saturating_sub(sample.sent_ns);
    if newer < 0 && rtt_ns <= LONGEST_NS {
        return;
    }
    // An echo of a later timestamp: ours was acknowledged together with it, and will never be echoed.
    sample.sent_ns = 0;
    if newer != 0 || rtt_ns > LONGEST_NS {
        return;
    }
    let Some(record) = TCP_RTT.get_ptr_mut(sample.path) else { return };
    // SAFETY: a value of an array map lives as long as the map.
    unsafe {
        let number = fetch_add(&raw mut (*record).count, 1);
        (*record).entries[number as usize % TCP_RTTS] = tcp_rtt_entry(now_ns, rtt_ns);
    }
}

#[inline(always)]
fn is_reverse(out: &FlowKey, back: &FlowKey) -> bool {
    out.source_port == back.destination_port
        && out.destination_port == back.source_port
        && out.source == back.destination
        && out.destination == back.source
}

/// The two timestamps of a TCP packet: its own, and the one that it echoes.
#[inline(always)]
fn timestamps(skb: Skb, packet: &Packet) -> Option<[u32; 2]> {
    let mut at = packet.transport + HEADER;
    let end = packet.transport + packet.tcp_header;
    let mut seen = 0;
    while seen < MAX_OPTIONS && at + u32::from(TIMESTAMPS_LENGTH) <= end {
        seen += 1;
        let option: [u8; TIMESTAMPS_LENGTH as usize] = skb.load(at)?;
        match option[0] {
            END => return None,
            NO_OPERATION => at += 1,
            TIMESTAMPS if option[1] == TIMESTAMPS_LENGTH => {
                let word = |at: usize| u32::from_be_bytes([option[at], option[at + 1], option[at + 2], option[at + 3]]);
                return Some([word(2), word(6)]);
            }
            _ if option[1] < 2 => return None,
            _ => at += u32::from(option[1]),
        }
    }
    None
}

/// A number that a flow and its reverse share, not 0.
#[inline(always)]
fn tag(packet: &Packet) -> u32 {
    // SAFETY: the key is the first field of a struct that is aligned to 8 bytes, and has 40 of them.
    let [a, b, c, d, e] = unsafe { core::ptr::from_ref(packet).cast::<[u64; 5]>().read() };
    let ports = (e & 0xffff) + (e >> 16 & 0xffff);
    let mixed = ((a ^ c).rotate_left(17) ^ b ^ d ^ ports << 24).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 32) as u32 | 1
}

#[inline(always)]
const fn slot(tag: u32) -> u32 {
    tag >> 8 & (capacity::TCP_SAMPLES - 1)
}
