//! The two clocks: `CLOCK_MONOTONIC`, which the engine and the data path count by, and `CLOCK_REALTIME`, which packets
//! carry.

use nix::time::{ClockId, clock_gettime};

use sdwan_common::stamp::ErrorEstimate;

use super::stamp::answer::ClockQuality;
use crate::dataplane::desired::WallClock;
use crate::engine::Time;

fn nanoseconds(clock: ClockId) -> u64 {
    // Reading these two clocks can't fail on Linux; a zero would only make a measurement implausible.
    clock_gettime(clock).map_or(0, |time| time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64)
}

/// `CLOCK_MONOTONIC` now.
pub fn now() -> Time {
    Time(nanoseconds(ClockId::CLOCK_MONOTONIC))
}

/// `CLOCK_REALTIME` now, ns since 1970 UTC.
pub fn unix_ns() -> u64 {
    nanoseconds(ClockId::CLOCK_REALTIME)
}

/// `CLOCK_REALTIME` now, whole seconds since 1970 UTC.
pub fn unix_s() -> i64 {
    (unix_ns() / 1_000_000_000) as i64
}

/// `CLOCK_REALTIME - CLOCK_MONOTONIC`, which changes when the wall clock is set, and how far off the times may be that the
/// programs make of it.
pub fn wall_clock() -> WallClock {
    let ClockQuality { synchronized, error_ns } = quality();
    let error = ErrorEstimate::of(error_ns.saturating_add(OFFSET_ERROR_NS), synchronized, true);
    WallClock { offset_ns: unix_ns().wrapping_sub(now().0), scale: error.to_scale() }
}

/// The offset is as old as the last heartbeat, half a second at the most, and a clock that is being steered moves by
/// 500 µs a second.
const OFFSET_ERROR_NS: u64 = 250_000;

/// How far `CLOCK_REALTIME` may be off, by what keeps it (`adjtimex(2)`).
pub fn quality() -> ClockQuality {
    // SAFETY: `timex` is a structure of numbers, for which zero is a value; with `modes` zero the call only reads.
    let (state, told) = unsafe {
        let mut told: libc::timex = std::mem::zeroed();
        (libc::adjtimex(&raw mut told), told)
    };
    read(state, told.status, told.maxerror)
}

/// What the kernel told: the clock's state, the status bits, and the largest error in µs.
fn read(state: i32, status: i32, maxerror: libc::c_long) -> ClockQuality {
    let kept = state != libc::TIME_ERROR && state >= 0 && status & libc::STA_UNSYNC == 0;
    judge(kept, u64::try_from(maxerror).unwrap_or(0).saturating_mul(1_000))
}

/// A clock that may be off by more than this is not kept by anything.
const MOST_ERROR_NS: u64 = 1_000_000_000;
/// What is claimed of a clock that nothing keeps: 2⁻¹⁰ s, as in probes.
const UNKNOWN_ERROR_NS: u64 = 1_000_000_000 >> 10;

fn judge(kept: bool, error_ns: u64) -> ClockQuality {
    let synchronized = kept && error_ns > 0 && error_ns <= MOST_ERROR_NS;
    ClockQuality { synchronized, error_ns: if synchronized { error_ns } else { UNKNOWN_ERROR_NS } }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_decides_whether_the_clock_is_in_step() {
        const PLL: i32 = libc::STA_PLL;
        let kept = ClockQuality { synchronized: true, error_ns: 12_000_000 };
        assert_eq!(read(libc::TIME_OK, PLL, 12_000), kept);
        assert_eq!(read(libc::TIME_INS, PLL, 12_000), kept, "a leap second is announced");
        for (state, status, maxerror) in [
            (libc::TIME_ERROR, PLL, 12_000),
            (libc::TIME_OK, PLL | libc::STA_UNSYNC, 12_000),
            (-1, 0, 0),
            (libc::TIME_OK, PLL, -1),
            (libc::TIME_OK, PLL, libc::c_long::MAX),
        ] {
            assert!(!read(state, status, maxerror).synchronized, "{state} {status:#x} {maxerror}");
        }
    }

    #[test]
    fn the_programs_are_told_what_the_kernel_says_of_the_clock_now() {
        let (quality, wall) = (quality(), wall_clock());
        let told = ErrorEstimate::of_scale(wall.scale);
        assert_eq!(told.synchronized, quality.synchronized);
        if quality.synchronized {
            assert!(told.error_ns() >= quality.error_ns, "{told:?} {quality:?}");
        } else {
            assert_eq!(told, ErrorEstimate::OURS);
        }
        let offset = unix_ns().wrapping_sub(now().0);
        assert!(offset.abs_diff(wall.offset_ns) < 1_000_000_000);
    }

    #[test]
    fn only_a_clock_that_is_kept_within_a_second_claims_to_be_in_step() {
        assert_eq!(judge(true, 5_000_000), ClockQuality { synchronized: true, error_ns: 5_000_000 });
        for (kept, error_ns) in [(false, 5_000_000), (true, 16_000_000_000), (true, 0)] {
            assert_eq!(judge(kept, error_ns), ClockQuality { synchronized: false, error_ns: UNKNOWN_ERROR_NS });
        }
    }
}
