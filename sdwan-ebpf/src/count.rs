//! Counters, all per CPU.

use aya_ebpf::bindings::{BPF_NOEXIST, TC_ACT_OK, TC_ACT_SHOT, xdp_action};
use sdwan_common::abi::MoveKey;
use sdwan_common::counters::{DropReason, PassReason};

use crate::atomic::fetch_add;
use crate::maps::{CLASS_STATS, COPY_STATS, DROPS, EARLY_DROPS, MOVES, PASSES, PATH_STATS};

/// Counts a packet that goes to the stack, and returns the verdict.
#[inline(always)]
pub fn pass(reason: PassReason) -> i32 {
    if let Some(counter) = PASSES.get_ptr_mut(reason as u32) {
        // SAFETY: a per-CPU value; nothing else on this CPU runs the program meanwhile.
        unsafe { *counter += 1 }
    }
    TC_ACT_OK
}

/// Counts a packet that is lost, and returns the verdict.
#[inline(always)]
pub fn lose(reason: DropReason) -> i32 {
    if let Some(counter) = DROPS.get_ptr_mut(reason as u32) {
        // SAFETY: as above.
        unsafe { *counter += 1 }
    }
    TC_ACT_SHOT
}

/// Counts a frame that an XDP program drops, by the number of an `EarlyDropReason`, and returns the verdict.
#[inline(always)]
pub fn refuse(reason: u32) -> u32 {
    if let Some(counter) = EARLY_DROPS.get_ptr_mut(reason) {
        // SAFETY: as above.
        unsafe { *counter += 1 }
    }
    xdp_action::XDP_DROP
}

/// Counts a packet that enters a path's tunnel.
#[inline(always)]
pub fn sent(path: u32, packets: u64, bytes: u64) {
    if let Some(stats) = PATH_STATS.get_ptr_mut(path) {
        // SAFETY: as above.
        unsafe {
            (*stats).sent_packets += packets;
            (*stats).sent_bytes += bytes;
        }
    }
}

/// Counts a packet of a class, whichever way it takes.
#[inline(always)]
pub fn steered(class: u16, packets: u64, bytes: u64) {
    if let Some(stats) = CLASS_STATS.get_ptr_mut(u32::from(class)) {
        // SAFETY: as above.
        unsafe {
            (*stats).packets += packets;
            (*stats).bytes += bytes;
        }
    }
}

/// Counts a packet that came out of a path.
#[inline(always)]
pub fn received(path: u32, packets: u64, bytes: u64) {
    if let Some(stats) = PATH_STATS.get_ptr_mut(path) {
        // SAFETY: as above.
        unsafe {
            (*stats).received_packets += packets;
            (*stats).received_bytes += bytes;
        }
    }
}

/// Counts a decision about a flow: its first one, or one that moved it.
#[inline(always)]
pub fn decided(class: u16, moved: bool) {
    if let Some(stats) = CLASS_STATS.get_ptr_mut(u32::from(class)) {
        // SAFETY: as above.
        unsafe {
            if moved {
                (*stats).moves += 1;
            } else {
                (*stats).flows += 1;
            }
        }
    }
}

/// What became of the packets of a class in duplicate mode.
pub enum Copied {
    /// They went by two paths, with copies of so many bytes.
    Both(u64),
    /// There was one path only.
    Alone,
    /// They can't be marked.
    Unmarked,
}

/// Counts packets of a class in duplicate mode.
#[inline(always)]
pub fn copied(class: u16, what: Copied, packets: u64) {
    if let Some(stats) = COPY_STATS.get_ptr_mut(u32::from(class)) {
        // SAFETY: as above.
        unsafe {
            match what {
                Copied::Both(bytes) => {
                    (*stats).packets += packets;
                    (*stats).bytes += bytes;
                }
                Copied::Alone => (*stats).alone += packets,
                Copied::Unmarked => (*stats).unmarked += packets,
            }
        }
    }
}

/// Counts a flow that left a path for another.
#[inline(never)]
pub fn moved(set: u32, from: u32, to: u32) {
    let key = MoveKey { set, from, to };
    if MOVES.get_ptr_mut(&key).is_none() {
        let mut none = 0;
        // SAFETY: a mutable reference is valid for writes. Volatile, so that it lies on the stack: of a constant in the
        // object's read-only data the kernel was seen to take another one.
        unsafe { core::ptr::write_volatile(&raw mut none, 0) };
        // Another CPU may have been first: its entry stays.
        let _ = MOVES.insert(&key, &none, u64::from(BPF_NOEXIST));
    }
    if let Some(count) = MOVES.get_ptr_mut(&key) {
        // SAFETY: the entry may be evicted meanwhile; it stays valid memory, and it is aligned.
        unsafe { fetch_add(count, 1) };
    }
}
