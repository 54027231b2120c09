//! Copies: the packets of a class in duplicate mode go by two paths, and the other end lets the first copy of each pass.
//!
//! Both copies carry a mark that the gateway at the other end takes off again. Were its programs detached, hosts would get
//! both copies, and nothing worse:
//!
//! - IPv4: the reserved bit of the flags is set, and the identification is a number that the sender counts up for each site.
//!   A whole datagram may have any identification (RFC 6864 section 4.1; for one that may still be fragmented, the
//!   counter keeps it unique). It makes no packet larger, and the segments of a bundle (GSO) get numbers in a row when
//!   they are cut. A fragment keeps its identification, which tells it from all others together with its offset.
//! - IPv6: a destination options header (RFC 8200 section 4.6) of eight bytes behind the IP header, with an option of a type
//!   for experiments, which whoever doesn't know it skips (RFC 4727 section 4). A bundle is marked once, and its segments
//!   have the same mark: it takes as many numbers as it may have segments ([`SEGMENT_NUMBERS`]), says so, and each
//!   segment's own follows from its TCP sequence number.
//!
//! The receiver remembers what it has seen in a table of [`COPIES_SEEN`](capacity::COPIES_SEEN) entries, each with the time
//! and a hash of what tells the packet from others: a copy is known as the second one if no more than so many numbers of
//! its sender and [`WINDOW_NS`] lie between the two.

use crate::abi::capacity;
use crate::select::mix;

/// The reserved bit in the flags of an IPv4 header.
pub const IPV4_FLAG: u16 = 0x8000;
/// Bytes of an IPv6 mark.
pub const IPV6_MARK_LENGTH: usize = 8;
/// Option type: skipped when unknown, not changed on the way, number 30 (RFC 4727 section 4).
pub const IPV6_OPTION: u8 = 0x1e;

/// A copy that comes later than this after the first isn't known any more, ns: half a second, more than the ways of any two
/// paths that a call may use differ by.
pub const WINDOW_NS: u64 = 500_000_000;
/// The 65,536 identifications of IPv4 don't begin anew within this time, ns: a packet must not pass for a copy of the one
/// that had its number before.
pub const ROUND_NS: u64 = 2 * WINDOW_NS;

/// Numbers that an IPv6 bundle takes: one for each [`SEGMENT_STEP`] bytes of the sequence, with room for bundles that begin
/// anywhere.
pub const SEGMENT_NUMBERS: u32 = 256;
/// Bytes of the TCP sequence per number; segments of a bundle that is marked hold at least as many.
pub const SEGMENT_STEP: u32 = 512;
/// Most bytes of a bundle that is marked: its segments' numbers must differ.
pub const LARGEST_BUNDLE: u32 = SEGMENT_STEP * (SEGMENT_NUMBERS - 1);

/// Set in the number of an IPv6 bundle.
const BUNDLE: u32 = 1 << 31;
/// One unit of the time in an entry: 33.6 ms. It wraps around after 37 minutes.
const TICK_SHIFT: u32 = 25;

/// What an IPv6 mark says: the number of a packet, or of the first segment of a bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark(u32);

impl Mark {
    /// The mark of a packet, or of a bundle of segments, that was given `number` by the counter.
    #[inline(always)]
    pub const fn new(number: u32, bundle: bool) -> Self {
        Self(number & !BUNDLE | if bundle { BUNDLE } else { 0 })
    }

    /// The number of a packet with this mark. `sequence` is its TCP sequence number, 0 without one.
    #[inline(always)]
    pub const fn number(self, sequence: u32) -> u32 {
        let number = self.0 & !BUNDLE;
        if self.0 & BUNDLE != 0 { number.wrapping_add(sequence / SEGMENT_STEP % SEGMENT_NUMBERS) } else { number }
    }

    /// As it stands behind an IPv6 header, before a header of the kind `next`.
    #[inline(always)]
    pub const fn to_bytes(self, next: u8) -> [u8; IPV6_MARK_LENGTH] {
        let [a, b, c, d] = self.0.to_be_bytes();
        [next, 0, IPV6_OPTION, 4, a, b, c, d]
    }

    /// Reads a destination options header; the mark, and the kind of the next header.
    #[inline(always)]
    pub const fn from_bytes(bytes: [u8; IPV6_MARK_LENGTH]) -> Option<(Self, u8)> {
        let [next, 0, IPV6_OPTION, 4, a, b, c, d] = bytes else { return None };
        Some((Self(u32::from_be_bytes([a, b, c, d])), next))
    }
}

/// Where in `copies_seen` a packet's entry is. The numbers of one site are neighbours, so that an entry is used again only
/// when the table is through; the sites' ways through it begin apart.
#[inline(always)]
pub const fn slot(site: u32, number: u32) -> u32 {
    site.wrapping_mul(0x9e37_79b1).wrapping_add(number) % capacity::COPIES_SEEN
}

/// An entry of `copies_seen`, in one word so that it is exchanged at once: a hash of what tells the packet from others, the
/// lower half of its number, and the time. `flow` is the hash of its flow, `part` its TCP sequence number or, of a
/// fragment, its offset.
#[inline(always)]
pub const fn entry(flow: u32, part: u32, number: u32, now_ns: u64) -> u64 {
    let identity = mix(flow ^ mix(part ^ mix(number >> 16)));
    (identity as u64) << 32 | (number as u64 & 0xffff) << 16 | now_ns >> TICK_SHIFT & 0xffff
}

/// Whether the entry that was there before says that `new` is the second copy.
#[inline(always)]
pub const fn is_second(old: u64, new: u64) -> bool {
    let age = (new as u16).wrapping_sub(old as u16);
    // Two CPUs may read the clock in the other order.
    let near = age as u64 <= WINDOW_NS >> TICK_SHIFT || age == u16::MAX;
    old >> 16 == new >> 16 && near && old != 0
}

#[cfg(test)]
mod tests;
