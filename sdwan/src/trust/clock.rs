//! How far the wall clock may be believed. Certificates have dates, and a clock that is set by a year, by a broken time
//! server or by hand, must not end a mesh that works.
//!
//! While the daemon runs, the monotonic clock tells what time it should be. A wall clock that departs from that is doubted
//! for a day, and then believed: meanwhile a certificate counts as in date when either of the two times says so.

use std::time::Duration;

use serde::Serialize;

use super::verifier::Now;

/// A clock that is set by up to this much at once is followed: time servers do that.
const JUMP_MS: u64 = 3_600_000;
/// A clock that was set by more is believed after this time.
const DOUBTED_FOR: Duration = Duration::from_secs(86_400);

/// The two times that it may be, Unix time in ms; equal unless the wall clock is doubted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// By the wall clock.
    pub wall_ms: u64,
    /// By the monotonic clock, from when both agreed.
    pub reckoned_ms: u64,
}

impl Times {
    /// Whether a certificate with these dates (Unix time, s) is in date by at least one of the times. It is
    /// over when one of them says so and the other doesn't know better.
    pub fn dates(self, not_before: u64, not_after: u64) -> Dates {
        let judge = |ms: u64| match ms / 1_000 {
            now if now < not_before => Dates::NotYet,
            now if now >= not_after => Dates::Over,
            _ => Dates::Valid,
        };
        match (judge(self.wall_ms), judge(self.reckoned_ms)) {
            (Dates::Valid, _) | (_, Dates::Valid) => Dates::Valid,
            (Dates::NotYet, Dates::NotYet) => Dates::NotYet,
            _ => Dates::Over,
        }
    }

    /// How far another clock's time (Unix, ms) is from the nearer of the two, ms.
    pub fn distance_ms(self, other: u64) -> u64 {
        self.wall_ms.abs_diff(other).min(self.reckoned_ms.abs_diff(other))
    }
}

/// What a certificate's dates say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dates {
    /// It is in date.
    Valid,
    /// It isn't yet.
    NotYet,
    /// It isn't any more.
    Over,
}

/// A change of what is thought of the wall clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClockChange {
    /// It was set by so many ms, forward if positive, and is doubted from now on.
    Doubted(i64),
    /// It is where it should be again.
    Agrees,
    /// It has stayed where it was set for a day, and is believed.
    Believed,
}

impl ClockChange {
    /// For people: what happened, and what to do.
    pub fn text(self) -> String {
        match self {
            Self::Doubted(by_ms) => {
                let direction = if by_ms > 0 { "forward" } else { "back" };
                let hours = by_ms.unsigned_abs() as f64 / 3_600_000.0;
                let by = if hours < 48.0 { format!("{hours:.1} hours") } else { format!("{:.0} days", hours / 24.0) };
                format!(
                    "the wall clock was set {direction} by {by} and is doubted for a day: certificates that were in date \
                     stay so. If it is wrong now, set it right, and don't restart the daemon before that"
                )
            }
            Self::Agrees => "the wall clock is right again".into(),
            Self::Believed => "the wall clock has stayed where it was set for a day, and is believed".into(),
        }
    }
}

/// Compares the wall clock with the monotonic one.
#[derive(Clone, Copy, Debug, Default)]
pub struct ClockWatch {
    /// When the wall clock was last believed.
    agreed: Option<Now>,
    doubted_since: Option<Duration>,
}

impl ClockWatch {
    /// Looks at both clocks. The first look believes the wall clock: there is nothing to hold against it.
    pub fn look(&mut self, now: Now) -> Option<ClockChange> {
        let by_ms = now.unix_ms.cast_signed().wrapping_sub(self.reckoned_ms(now).cast_signed());
        if by_ms.unsigned_abs() <= JUMP_MS {
            self.agreed = Some(now);
            return self.doubted_since.take().map(|_| ClockChange::Agrees);
        }
        match self.doubted_since {
            None => {
                self.doubted_since = Some(now.monotonic);
                Some(ClockChange::Doubted(by_ms))
            }
            Some(since) if now.monotonic.saturating_sub(since) >= DOUBTED_FOR => {
                (self.agreed, self.doubted_since) = (Some(now), None);
                Some(ClockChange::Believed)
            }
            Some(_) => None,
        }
    }

    /// What time it may be. Looked at or not: a jump that [`Self::look`] has not seen yet is doubted as well.
    pub fn times(&self, now: Now) -> Times {
        let reckoned_ms = self.reckoned_ms(now);
        let agrees = now.unix_ms.abs_diff(reckoned_ms) <= JUMP_MS;
        Times { wall_ms: now.unix_ms, reckoned_ms: if agrees { now.unix_ms } else { reckoned_ms } }
    }

    fn reckoned_ms(&self, now: Now) -> u64 {
        self.agreed.map_or(now.unix_ms, |agreed| {
            let since = now.monotonic.saturating_sub(agreed.monotonic).as_millis();
            agreed.unix_ms.saturating_add(u64::try_from(since).unwrap_or(u64::MAX))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const YEAR_MS: i64 = 365 * 86_400_000;
    const START_MS: u64 = 1_800_000_000_000;

    fn now(seconds: u64, set_by_ms: i64) -> Now {
        let unix_ms = (START_MS + seconds * 1_000).saturating_add_signed(set_by_ms);
        Now { monotonic: Duration::from_secs(seconds), unix_ms }
    }

    #[test]
    fn a_clock_that_is_set_by_minutes_is_followed_however_often() {
        let mut watch = ClockWatch::default();
        for step in 0..100 {
            let now = now(step, 3_000_000 * step.cast_signed());
            assert_eq!(watch.look(now), None, "step {step}");
            assert_eq!(watch.times(now), Times { wall_ms: now.unix_ms, reckoned_ms: now.unix_ms });
        }
    }

    #[test]
    fn a_clock_that_is_set_by_a_year_is_doubted_until_it_is_right_again_or_has_been_so_for_a_day() {
        for by in [YEAR_MS, -YEAR_MS] {
            let mut watch = ClockWatch::default();
            assert_eq!(watch.look(now(0, 0)), None);
            // Before anybody looked.
            assert_eq!(watch.times(now(10, by)).reckoned_ms, now(10, 0).unix_ms);
            assert_eq!(watch.look(now(10, by)), Some(ClockChange::Doubted(by)));
            assert_eq!(watch.look(now(11, by)), None);
            assert_eq!(watch.look(now(5_000, 7)), Some(ClockChange::Agrees));
            assert_eq!(watch.look(now(5_001, by)), Some(ClockChange::Doubted(by - 7)));
            assert_eq!(watch.times(now(50_000, by)).reckoned_ms, now(50_000, 7).unix_ms);
            assert_eq!(watch.look(now(5_001 + 86_399, by)), None);
            assert_eq!(watch.look(now(5_001 + 86_400, by)), Some(ClockChange::Believed));
            let later = now(100_000, by);
            assert_eq!(watch.times(later), Times { wall_ms: later.unix_ms, reckoned_ms: later.unix_ms });
        }
    }

    #[test]
    fn dates_are_kept_if_either_time_keeps_them() {
        let times = |wall: u64, reckoned: u64| Times { wall_ms: wall * 1_000, reckoned_ms: reckoned * 1_000 };
        for (wall, reckoned, dates) in [
            (150, 150, Dates::Valid),
            (300, 150, Dates::Valid),
            (50, 150, Dates::Valid),
            (150, 300, Dates::Valid),
            (50, 300, Dates::Over),
            (300, 50, Dates::Over),
            (99, 99, Dates::NotYet),
            (200, 200, Dates::Over),
        ] {
            assert_eq!(times(wall, reckoned).dates(100, 200), dates, "{wall}, {reckoned}");
        }
        assert_eq!(times(50, 300).distance_ms(290_000), 10_000);
    }
}
