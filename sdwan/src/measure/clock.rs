//! The two clocks: `CLOCK_MONOTONIC`, which the engine and the data path count by, and `CLOCK_REALTIME`, which packets
//! carry.

use nix::time::{ClockId, clock_gettime};

use super::stamp::answer::ClockQuality;
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

/// `CLOCK_REALTIME - CLOCK_MONOTONIC`, ns; changes when the wall clock is set.
pub fn realtime_offset_ns() -> u64 {
    unix_ns().wrapping_sub(now().0)
}

/// How far `CLOCK_REALTIME` may be off, by what keeps it (`adjtimex(2)`).
pub fn quality() -> ClockQuality {
    // SAFETY: `timex` is a structure of numbers, for which zero is a value; with `modes` zero the call only reads.
    let (state, told) = unsafe {
        let mut told: libc::timex = std::mem::zeroed();
        (libc::adjtimex(&raw mut told), told)
    };
    let kept = state != libc::TIME_ERROR && state >= 0 && told.status & libc::STA_UNSYNC == 0;
    let error_ns = u64::try_from(told.maxerror).unwrap_or(0) * 1_000;
    judge(kept, error_ns)
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
    fn only_a_clock_that_is_kept_within_a_second_claims_to_be_in_step() {
        assert_eq!(judge(true, 5_000_000), ClockQuality { synchronized: true, error_ns: 5_000_000 });
        for (kept, error_ns) in [(false, 5_000_000), (true, 16_000_000_000), (true, 0)] {
            assert_eq!(judge(kept, error_ns), ClockQuality { synchronized: false, error_ns: UNKNOWN_ERROR_NS });
        }
    }
}
