//! Loss of the data itself: the counters of a path, and where they stand in a test packet (RFC 8972 section 4.5).
//!
//! The counters are per CPU, so that a packet's cost stays that of one addition; a test packet pays for the sum.

use core::ffi::c_void;

use aya_ebpf::bindings::BPF_F_MARK_MANGLED_0;
use aya_ebpf::helpers::{bpf_csum_diff, bpf_l4_csum_replace, bpf_loop, bpf_map_lookup_percpu_elem};
use sdwan_common::abi::PathStats;
use sdwan_common::stamp::direct::{self, DirectMeasurement};
use sdwan_common::stamp::{BASE_LENGTH, EXTENSION_LENGTH, Extension};

use crate::maps::PATH_STATS;
use crate::parse::Packet;
use crate::skb::Skb;

pub const UDP_HEADER: u32 = 8;
/// Offset of the checksum in the UDP header.
pub const CHECKSUM: u32 = 6;
/// Largest `NR_CPUS` that Linux can be built for; the sum ends at the last CPU that there is.
const MOST_CPUS: u32 = 8_192;

/// What a path has carried, packets modulo 2³².
#[derive(Clone, Copy)]
pub struct Totals {
    pub sent: u32,
    pub received: u32,
}

struct Sum {
    path: u32,
    sent: u64,
    received: u64,
}

/// Sums a path's counters up over all CPUs.
#[inline(never)]
pub fn totals(path: u32) -> Totals {
    let mut sum = Sum { path, sent: 0, received: 0 };
    // SAFETY: `add` takes the context that it is given here, which outlives the call.
    unsafe { bpf_loop(MOST_CPUS, add as *mut c_void, (&raw mut sum).cast(), 0) };
    Totals { sent: sum.sent as u32, received: sum.received as u32 }
}

/// Adds one CPU's counters; other than 0 ends the loop.
extern "C" fn add(cpu: u32, sum: *mut Sum) -> i64 {
    let map = core::ptr::from_ref(&PATH_STATS).cast_mut().cast();
    // SAFETY: the context is the one of `totals`; the helper returns null or a value of the map.
    unsafe {
        let path = (*sum).path;
        let stats: *const PathStats = bpf_map_lookup_percpu_elem(map, (&raw const path).cast(), cpu).cast();
        if stats.is_null() {
            return 1;
        }
        (*sum).sent += (*stats).sent_packets;
        (*sum).received += (*stats).received_packets;
    }
    0
}

/// The Direct Measurement TLV of a probe of our kind, whose payload begins at `payload` and ends before `end`.
#[inline(always)]
pub fn question(skb: Skb, payload: u32, end: u32) -> Option<DirectMeasurement> {
    if !is_ours(skb, payload, end) {
        return None;
    }
    DirectMeasurement::from_bytes(&skb.load(payload + direct::OFFSET as u32)?)
}

/// Writes the number of packets that entered the tunnel into a probe that is about to do so. A probe without a place for
/// it, or one that can't be written, goes as it is.
#[inline(always)]
pub fn depart(skb: Skb, packet: &Packet, path: u32) {
    let Some((payload, end)) = payload(skb, packet) else { return };
    if question(skb, payload, end).is_some() {
        replace(skb, packet, payload + direct::SENT_OFFSET as u32, totals(path).sent);
    }
}

/// Writes the number of packets that came out of the tunnel into an answer that just did; if that isn't possible, it stays
/// as it is.
#[inline(always)]
pub fn arrive(skb: Skb, packet: &Packet, path: u32) {
    let Some((payload, end)) = payload(skb, packet) else { return };
    if is_ours(skb, payload, end) {
        replace(skb, packet, payload + direct::RECEIVED_OFFSET as u32, totals(path).received);
    }
}

/// Answers the TLV: `asked` becomes what this site has received and sent on the path.
#[inline(always)]
pub fn answer(skb: Skb, packet: &Packet, payload: u32, asked: DirectMeasurement) -> bool {
    let Totals { sent, received } = totals(packet.path);
    let answer = DirectMeasurement { reflector_received: received, reflector_transmitted: sent, ..asked };
    let at = payload + direct::OFFSET as u32;
    let Some(old) = skb.load::<[u8; direct::LENGTH]>(at) else { return false };
    let new = answer.encode_answer();
    let length = direct::LENGTH as u32;
    // SAFETY: both buffers have the length given, which is a multiple of four.
    unsafe {
        let difference =
            bpf_csum_diff(old.as_ptr().cast_mut().cast(), length, new.as_ptr().cast_mut().cast(), length, 0);
        difference >= 0
            && skb.store(at, &new, 0)
            && bpf_l4_csum_replace(
                skb.as_ptr(),
                packet.transport + CHECKSUM,
                0,
                difference as u64,
                u64::from(BPF_F_MARK_MANGLED_0),
            ) == 0
    }
}

/// Is the first TLV ours, and room behind it for the other one?
#[inline(always)]
fn is_ours(skb: Skb, payload: u32, end: u32) -> bool {
    payload + (direct::OFFSET + direct::LENGTH) as u32 <= end
        && skb
            .load::<[u8; EXTENSION_LENGTH]>(payload + BASE_LENGTH as u32)
            .is_some_and(|bytes| Extension::from_bytes(&bytes).is_some())
}

/// Where the payload of a UDP packet begins, and where it ends.
#[inline(always)]
fn payload(skb: Skb, packet: &Packet) -> Option<(u32, u32)> {
    let [_, _, _, _, high, low, _, _] = skb.load::<[u8; 8]>(packet.transport)?;
    let end = packet.transport + u32::from(u16::from_be_bytes([high, low]));
    (end <= packet.ip + packet.length).then_some((packet.transport + UDP_HEADER, end))
}

/// Replaces four bytes at an even offset of the UDP payload.
#[inline(always)]
fn replace(skb: Skb, packet: &Packet, at: u32, value: u32) {
    let Some(old) = skb.load::<[u8; 4]>(at) else { return };
    let new = value.to_be_bytes();
    if skb.store(at, &new, 0) {
        // SAFETY: the context is valid while the program runs.
        unsafe {
            bpf_l4_csum_replace(
                skb.as_ptr(),
                packet.transport + CHECKSUM,
                u64::from(u32::from_ne_bytes(old)),
                u64::from(u32::from_ne_bytes(new)),
                u64::from(BPF_F_MARK_MANGLED_0) | 4,
            )
        };
    }
}
