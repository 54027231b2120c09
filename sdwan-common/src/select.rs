//! Flow → path: the lowest rank with a usable path, and in a rank a weighted rendezvous hash.
//!
//! Rendezvous (highest random weight) hashing, Thaler and Ravishankar 1998, with the logarithmic weights of
//! Schindelhauer and Schomaker 2005: the loss of a path moves only that path's flows, and a flow whose table entry was
//! evicted is decided as before.

use crate::abi::{FlowKey, MAX_CANDIDATES, PathSet, candidate_flag};

/// While no path is usable, a flow leaves its path only for one that was heard this much later, ns. Without it, replies
/// that trickle in on several bad paths would toss the flow to and fro.
pub const LEAST_BAD_MARGIN_NS: u64 = 1_000_000_000;

/// What a selection rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The flow's path is still good enough to keep.
    Kept,
    /// Best usable rank.
    Ranked,
    /// No path of the set is usable; this one was heard last.
    LeastBad,
}

/// The outcome of a selection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Selection {
    /// Number of the path.
    pub path: u32,
    /// Why this one.
    pub reason: Reason,
}

/// State of a candidate at the moment of the selection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CandidateState {
    /// May flows use it ([`crate::liveness::path_liveness`])?
    pub usable: bool,
    /// When packets of ours last got through, as far as is known, ns; decides between paths none of which is usable.
    pub heard_ns: u64,
}

/// Chooses the path of a flow.
///
/// `current` is the path that the flow is on, or [`crate::abi::NO_PATH`]; `hash` is [`flow_hash`] of its key. `state` tells about a
/// path by number, `None` for one that doesn't exist. Returns `None` when the set is empty or none of its paths
/// exists.
pub fn select(
    set: &PathSet,
    current: u32,
    hash: u32,
    state: impl FnMut(u32) -> Option<CandidateState>,
) -> Option<Selection> {
    select_in(&mut Best::default(), set, current, hash, state)
}

/// The best candidate so far.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Best {
    value: u64,
    path: u32,
    padding: u32,
}

/// [`select`] with a working space that the caller provides.
///
/// The eBPF program gives a piece of a map. What comes out of a map is unknown to the verifier, while it would follow
/// the range of a value in a register or on the stack, and walk through the loop again for each.
#[inline(always)]
pub fn select_in(
    best: &mut Best,
    set: &PathSet,
    current: u32,
    hash: u32,
    mut state: impl FnMut(u32) -> Option<CandidateState>,
) -> Option<Selection> {
    *best = Best::default();
    // One number per candidate, higher is better, instead of a comparison in several steps: the eBPF verifier walks
    // through every combination of branches in a loop.
    for index in 0..MAX_CANDIDATES {
        if index >= set.count as usize {
            break;
        }
        let candidate = &set.candidates[index];
        let path = candidate.path;
        let Some(now) = state(path) else { continue };
        let stays = path == current;
        let value = if !now.usable {
            let margin = if stays { LEAST_BAD_MARGIN_NS } else { 0 };
            now.heard_ns.min(HEARD_MAXIMUM_NS) + margin + 1
        } else if stays && candidate.rank <= set.keep_rank {
            KEPT
        } else {
            let cost = u64::from(negative_log2(mix(hash ^ path.wrapping_mul(0x9e37_79b1))));
            let share = (u64::from(candidate.weight.max(1)) << 38).checked_div(cost).unwrap_or(0);
            USABLE | u64::from(u8::MAX - candidate.rank) << 55 | share
        };
        // SAFETY: a reference is valid for reads. Volatile, lest the compiler keep the value out of the map.
        if value > unsafe { core::ptr::read_volatile(&raw const best.value) } {
            best.path = path;
            // SAFETY: a mutable reference is valid for writes.
            unsafe { core::ptr::write_volatile(&raw mut best.value, value) };
        }
    }
    // SAFETY: as above.
    let reason = match unsafe { core::ptr::read_volatile(&raw const best.value) } {
        0 => return None,
        KEPT => Reason::Kept,
        USABLE.. => Reason::Ranked,
        _ => Reason::LeastBad,
    };
    Some(Selection { path: best.path, reason })
}

/// Value of a usable candidate: this bit, 8 bits of rank upside down, 55 bits of weight by cost.
const USABLE: u64 = 1 << 63;
/// Value of the flow's own path when it is good enough: above all others.
const KEPT: u64 = u64::MAX;
/// Value of an unusable candidate: when it was heard, far below [`USABLE`] (36 years after the boot).
const HEARD_MAXIMUM_NS: u64 = 1 << 60;

/// State of a candidate for the copies of what the first path carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SecondState {
    /// May flows use it?
    pub usable: bool,
    /// Uplinks that it has in common with the first path, 0..=2: what takes the first path down may take it along.
    pub shared: u8,
}

impl SecondState {
    /// Of a path with these uplinks, (local, remote), beside a first path with those.
    #[inline(always)]
    pub const fn new(usable: bool, uplinks: (u8, u8), first: (u8, u8)) -> Self {
        Self { usable, shared: (uplinks.0 == first.0) as u8 + (uplinks.1 == first.1) as u8 }
    }
}

/// Chooses the path of the copies of a flow whose packets go by `first`: of the usable ones with room the one that shares
/// the fewest uplinks with it, then the one of the lowest rank, then the first. A path that shares both uplinks is no
/// second way. `state` as for [`select`].
pub fn select_second(set: &PathSet, first: u32, state: impl FnMut(u32) -> Option<SecondState>) -> Option<u32> {
    select_second_in(&mut Best::default(), set, first, state)
}

/// [`select_second`] with a working space that the caller provides, as [`select_in`] has it.
#[inline(always)]
pub fn select_second_in(
    best: &mut Best,
    set: &PathSet,
    first: u32,
    mut state: impl FnMut(u32) -> Option<SecondState>,
) -> Option<u32> {
    *best = Best::default();
    for index in 0..MAX_CANDIDATES {
        if index >= set.count as usize {
            break;
        }
        let candidate = &set.candidates[index];
        let path = candidate.path;
        if path == first || candidate.flags & candidate_flag::FULL != 0 {
            continue;
        }
        let Some(now) = state(path) else { continue };
        if !now.usable || now.shared >= 2 {
            continue;
        }
        let value = (2 - u64::from(now.shared)) << 8 | u64::from(u8::MAX - candidate.rank);
        // SAFETY: as in `select_in`.
        if value > unsafe { core::ptr::read_volatile(&raw const best.value) } {
            best.path = path;
            // SAFETY: as above.
            unsafe { core::ptr::write_volatile(&raw mut best.value, value) };
        }
    }
    // SAFETY: as above.
    if unsafe { core::ptr::read_volatile(&raw const best.value) } == 0 { None } else { Some(best.path) }
}

/// A 32-bit hash of the 5-tuple, well mixed, the same in the kernel and in user space.
#[inline(always)]
pub fn flow_hash(key: &FlowKey) -> u32 {
    let mut hash = u32::from(key.source_port) << 16 | u32::from(key.destination_port);
    hash = mix(hash ^ u32::from(key.protocol).wrapping_mul(0x85eb_ca6b));
    for word in 0..4 {
        let at = word * 4;
        let source = u32::from_ne_bytes([key.source[at], key.source[at + 1], key.source[at + 2], key.source[at + 3]]);
        let destination = u32::from_ne_bytes([
            key.destination[at],
            key.destination[at + 1],
            key.destination[at + 2],
            key.destination[at + 3],
        ]);
        hash = mix(hash ^ source);
        hash = mix(hash.rotate_left(13) ^ destination);
    }
    hash
}

/// The finalizer of MurmurHash3 (Appleby, public domain): every input bit reaches every output bit.
#[inline(always)]
pub const fn mix(mut value: u32) -> u32 {
    value ^= value >> 16;
    value = value.wrapping_mul(0x85eb_ca6b);
    value ^= value >> 13;
    value = value.wrapping_mul(0xc2b2_ae35);
    value ^ value >> 16
}

/// `-log2((value + 1) / 2^32)` in 1/65536, at least 1: the cost of a uniformly distributed hash.
///
/// The fraction is a cubic fit of `log2(1 + x)` on [0, 1), exact at both ends; its error is below 0.001.
#[inline(always)]
pub const fn negative_log2(value: u32) -> u32 {
    let number = value as u64 + 1;
    let exponent = 63 - number.leading_zeros() as u64;
    // The mantissa's fraction in 1/65536.
    let x = ((number << 16) >> exponent) & 0xffff;
    // 1.42287 x - 0.58209 x² + 0.15922 x³
    let fraction = (93_249 * x - ((38_148 * x) >> 16) * x + ((((10_435 * x) >> 16) * x) >> 16) * x) >> 16;
    let log = (exponent << 16) + fraction;
    let full = 32u64 << 16;
    if log >= full { 1 } else { (full - log) as u32 }
}

#[cfg(test)]
mod tests;
