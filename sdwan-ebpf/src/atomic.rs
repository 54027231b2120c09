//! The atomic operations that the programs need, each a full barrier (Linux 5.12).
//!
//! Written out, because the compiler generates them only together with 32-bit jumps, hence only for a whole object built
//! with `-C target-cpu=v3`; for less it stops, or, with `+alu32` alone, compares 32-bit values wrongly.

/// Adds to a number that other CPUs add to as well, and returns what it was.
///
/// # Safety
///
/// `number` is valid for reads and writes, and aligned.
#[inline(always)]
pub unsafe fn fetch_add(number: *mut u32, addend: u32) -> u32 {
    let mut value = u64::from(addend);
    // SAFETY: the caller's promise.
    unsafe {
        core::arch::asm!(
            "w2 = atomic_fetch_add((u32 *)(r1 + 0), w2)",
            in("r1") number,
            inout("r2") value,
            options(nostack),
        );
    }
    value as u32
}

/// Puts a number where other CPUs do so as well, and returns the one that was there.
///
/// # Safety
///
/// `number` is valid for reads and writes, and aligned.
#[inline(always)]
pub unsafe fn exchange(number: *mut u64, new: u64) -> u64 {
    let mut value = new;
    // SAFETY: the caller's promise.
    unsafe {
        core::arch::asm!(
            "r2 = xchg_64(r1 + 0, r2)",
            in("r1") number,
            inout("r2") value,
            options(nostack),
        );
    }
    value
}
