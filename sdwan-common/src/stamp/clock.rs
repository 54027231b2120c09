//! Timestamps in both formats: truncated PTPv2 (Z = 1) and NTP (Z = 0, RFC 5905 section 6), and what an error estimate
//! is worth in nanoseconds.
//!
//! Either format counts seconds in 32 bits. Which of its eras is meant follows from a time nearby, so the NTP wrap of
//! 2036 and the PTP wrap of 2106 pass unnoticed.

use super::{ErrorEstimate, Timestamp};

/// Seconds from 1900, where NTP counts from, to 1970.
const NTP_TO_UNIX: u64 = 2_208_988_800;
const SECOND: u64 = 1_000_000_000;
/// Seconds of an era.
const ERA: u64 = 1 << 32;

impl Timestamp {
    /// Nanoseconds since 1970 UTC in one of the formats, rounded to the nearest; exact in PTPv2.
    #[inline]
    pub const fn in_format(unix_ns: u64, ptp: bool) -> Self {
        if ptp {
            return Self::from_unix_ns(unix_ns);
        }
        let seconds = unix_ns / SECOND + NTP_TO_UNIX;
        // Half of 2⁻³² s is added, so that reading it back, which cuts, gives the same nanosecond.
        let fraction = ((unix_ns % SECOND) << 32).div_ceil(SECOND);
        Self { seconds: seconds as u32, nanoseconds: fraction as u32 }
    }

    /// Nanoseconds since 1970 UTC of a timestamp in one of the formats, within half an era (68 years) of `near_unix_ns`.
    /// `None` when it is no time: a PTPv2 timestamp with 10⁹ nanoseconds or more, or a time before 1970.
    #[inline]
    pub fn as_unix_ns_near(self, ptp: bool, near_unix_ns: u64) -> Option<u64> {
        let (nanoseconds, epoch) = if ptp {
            if u64::from(self.nanoseconds) >= SECOND {
                return None;
            }
            (u64::from(self.nanoseconds), 0)
        } else {
            ((u64::from(self.nanoseconds) * SECOND) >> 32, NTP_TO_UNIX)
        };
        let near = near_unix_ns / SECOND + epoch;
        let ahead = self.seconds.wrapping_sub(near as u32) as i32;
        let seconds = near.checked_add_signed(i64::from(ahead))?.checked_sub(epoch)?;
        if seconds > u64::MAX / SECOND - ERA {
            return None;
        }
        Some(seconds * SECOND + nanoseconds)
    }

    /// All 64 bits as one number, which grows with time within an era in either format.
    #[inline]
    pub const fn to_bits(self) -> u64 {
        (self.seconds as u64) << 32 | self.nanoseconds as u64
    }
}

impl ErrorEstimate {
    /// The smallest estimate that is not below `error_ns`.
    #[inline]
    pub fn of(error_ns: u64, synchronized: bool, ptp: bool) -> Self {
        // In units of 2⁻³² s.
        let units = ((u128::from(error_ns) << 32) / u128::from(SECOND)).max(1);
        let mut scale = 0;
        let mut multiplier = units;
        while multiplier > 255 && scale < 63 {
            scale += 1;
            multiplier = units.div_ceil(1 << scale);
        }
        Self { synchronized, ptp, scale, multiplier: multiplier.min(255) as u8 }
    }

    /// The smallest scale that says no less with a multiplier of 1, for [`Self::of_scale`]; 0 without a claim of
    /// synchronisation.
    #[inline]
    pub fn to_scale(self) -> u8 {
        let shift = (u16::from(self.multiplier.max(1)) * 2 - 1).ilog2() as u8;
        if self.synchronized { (self.scale + shift).clamp(1, 63) } else { 0 }
    }

    /// What it says, ns; saturates.
    #[inline]
    pub fn error_ns(self) -> u64 {
        let units = u128::from(self.multiplier) << self.scale;
        u64::try_from((units * u128::from(SECOND)) >> 32).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: u64 = 1_800_000_000 * SECOND;

    #[test]
    fn ntp_timestamps_are_those_of_the_rfc() {
        assert_eq!(Timestamp::in_format(0, false), Timestamp { seconds: 0x83aa_7e80, nanoseconds: 0 });
        let half = Timestamp::in_format(NOW + SECOND / 2, false);
        assert_eq!(half.nanoseconds, 1 << 31);
        // The era of 2036 begins.
        let wrap = ((1u64 << 32) - NTP_TO_UNIX) * SECOND;
        assert_eq!(Timestamp::in_format(wrap, false), Timestamp { seconds: 0, nanoseconds: 0 });
        let before = Timestamp::in_format(wrap - 1, false);
        assert_eq!(before.as_unix_ns_near(false, wrap + 5), Some(wrap - 1));
    }

    #[test]
    fn a_ptp_timestamp_with_too_many_nanoseconds_is_no_time() {
        assert_eq!(Timestamp { seconds: 1, nanoseconds: 1_000_000_000 }.as_unix_ns_near(true, NOW), None);
    }

    #[test]
    fn error_estimates_are_those_of_rfc_4656() {
        assert_eq!(ErrorEstimate::of(0, false, true).error_ns(), 0, "2⁻³² s is less than a nanosecond");
        assert_eq!(ErrorEstimate { scale: 32, multiplier: 3, ..ErrorEstimate::OURS }.error_ns(), 3 * SECOND);
        assert_eq!(ErrorEstimate { scale: 63, multiplier: 255, ..ErrorEstimate::OURS }.error_ns(), u64::MAX);
    }

    proptest! {
        #[test]
        fn a_time_reads_back_in_either_format(unix_ns in 0..u64::MAX / 2, off in -2_000_000_000i64..2_000_000_000, ptp: bool) {
            let near = unix_ns.saturating_add_signed(off * 1_000_000_000);
            prop_assert_eq!(Timestamp::in_format(unix_ns, ptp).as_unix_ns_near(ptp, near), Some(unix_ns));
        }

        #[test]
        fn any_timestamp_and_any_time_nearby_are_read_without_a_panic(seconds: u32, nanoseconds: u32, near: u64, ptp: bool) {
            let _ = Timestamp { seconds, nanoseconds }.as_unix_ns_near(ptp, near);
        }

        #[test]
        fn a_scale_alone_says_no_less_and_at_most_twice_as_much(error_ns in 10u64..1 << 50) {
            let exact = ErrorEstimate::of(error_ns, true, true);
            let coarse = ErrorEstimate::of_scale(exact.to_scale());
            prop_assert!(coarse.synchronized && coarse.ptp && coarse.multiplier == 1);
            prop_assert!(coarse.error_ns() >= exact.error_ns() && coarse.error_ns() <= 2 * exact.error_ns() + 1);
            let unkept = ErrorEstimate::of(error_ns, false, true).to_scale();
            prop_assert_eq!(ErrorEstimate::of_scale(unkept), ErrorEstimate::OURS);
        }

        #[test]
        fn an_estimate_is_not_below_the_error_and_at_most_a_hundredth_above(error_ns in 0u64..1 << 62) {
            let estimate = ErrorEstimate::of(error_ns, true, true);
            prop_assert!(estimate.multiplier > 0);
            let said = estimate.error_ns();
            prop_assert!(said + 1 >= error_ns, "{said} for {error_ns}");
            prop_assert!(said <= error_ns + error_ns / 100 + 1, "{said} for {error_ns}");
        }
    }
}
