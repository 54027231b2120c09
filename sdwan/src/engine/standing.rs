//! How a class sees one path: its tier, and what keeps that from flapping.
//!
//! A tier that gets worse counts after `violation_hold`; one that gets better after `switch_hold`, which doubles with each
//! time that the path became worse lately. A path that is down, or comes up, counts as such at once: it has holds of its
//! own. A class comes back to a path that became worse, or that it left for a better one, only after sixteen times the hold
//! for each time: a minute or so after it was left, and longer if it is left again. The penalties decay exponentially (the
//! idea of RFC 2439).

use std::time::Duration;

use super::penalty::Penalty;
use super::sets::Tier;
use super::settings::Settings;
use super::time::Time;
use super::types::TunnelKey;

/// Penalties above this lengthen no hold any more.
const MOST: f64 = 16.0;
/// How many times longer, as a power of two, each penalty makes the hold before a return.
const RETURN_DOUBLINGS: f64 = 4.0;

/// What a set remembers of one path.
#[derive(Clone, Copy, Debug)]
pub struct Standing {
    tunnel: TunnelKey,
    tier: Tier,
    /// As it was rated last, without holds.
    rated: Tier,
    /// Since when it was rated otherwise, and whether worse.
    otherwise: Option<(bool, Time)>,
    penalty: Penalty,
}

impl Standing {
    /// A path that is new to the class.
    pub fn new(tunnel: TunnelKey, tier: Tier, now: Time) -> Self {
        Self { tunnel, tier, rated: tier, otherwise: None, penalty: Penalty::new(0.0, now) }
    }

    /// The uplink pair.
    pub fn tunnel(&self) -> TunnelKey {
        self.tunnel
    }

    /// The tier that counts.
    pub fn tier(&self) -> Tier {
        self.tier
    }

    /// The tier of the moment, without holds.
    pub fn rated(&self) -> Tier {
        self.rated
    }

    /// Takes how it is rated now. `at_once`: without holds.
    pub fn rate(&mut self, rated: Tier, at_once: bool, now: Time, settings: &Settings) {
        self.rated = rated;
        let worse = rated > self.tier;
        if rated == self.tier {
            self.otherwise = None;
            return;
        }
        if !at_once && rated != Tier::Down && self.tier != Tier::Down {
            let since = match self.otherwise {
                Some((was_worse, since)) if was_worse == worse => since,
                _ => now,
            };
            self.otherwise = Some((worse, since));
            if now.since(since) < self.hold(worse, since, settings) {
                return;
            }
            if worse {
                self.punish(now, settings);
            }
        }
        self.otherwise = None;
        self.tier = rated;
    }

    /// The class found it worse than another.
    pub fn punish(&mut self, now: Time, settings: &Settings) {
        self.penalty = Penalty::new(self.penalty(now, settings) + 1.0, now);
    }

    /// For how long it must be better than the class's path, from `since` on, before the class moves to it.
    pub fn return_hold(&self, since: Time, settings: &Settings) -> Duration {
        let longer = settings.switch_hold.mul_f64((RETURN_DOUBLINGS * self.penalty(since, settings)).exp2());
        longer.min(settings.hold_down_max.max(settings.switch_hold))
    }

    /// When another tier counts, should it stay rated as it is now.
    pub fn deadline(&self, settings: &Settings) -> Option<Time> {
        self.otherwise.map(|(worse, since)| since + self.hold(worse, since, settings))
    }

    fn hold(&self, worse: bool, since: Time, settings: &Settings) -> Duration {
        if worse {
            return settings.violation_hold;
        }
        let exponent = (self.penalty(since, settings) - 1.0).max(0.0);
        settings.switch_hold.mul_f64(exponent.exp2()).min(settings.hold_down_max.max(settings.switch_hold))
    }

    /// How often it became worse lately.
    fn penalty(&self, now: Time, settings: &Settings) -> f64 {
        self.penalty.left(now, settings).min(MOST)
    }
}

#[cfg(test)]
mod tests {
    use super::super::types::UplinkIndex;
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn standing() -> (Standing, Time) {
        let first = UplinkIndex::new(0).expect("a small number");
        let now = Time(1_000_000_000_000);
        (Standing::new(TunnelKey { local: first, remote: first }, Tier::Good, now), now)
    }

    #[test]
    fn a_path_is_worse_after_a_second_and_better_after_five() {
        let (mut path, start) = standing();
        let settings = Settings::default();
        let mut rate = |at: u32, tier| {
            path.rate(tier, false, start + SECOND * at / 2, &settings);
            path.tier()
        };
        assert_eq!(rate(0, Tier::Violating), Tier::Good);
        assert_eq!(rate(1, Tier::Good), Tier::Good);
        assert_eq!(rate(2, Tier::Violating), Tier::Good, "the second begins anew");
        assert_eq!(rate(4, Tier::Violating), Tier::Violating);
        assert_eq!(rate(5, Tier::Good), Tier::Violating);
        assert_eq!(rate(14, Tier::Good), Tier::Violating);
        assert_eq!(rate(15, Tier::Good), Tier::Good);
    }

    #[test]
    fn a_path_that_is_down_or_comes_up_is_so_at_once() {
        let (mut path, now) = standing();
        let settings = Settings::default();
        for tier in [Tier::Down, Tier::Violating, Tier::Down, Tier::Good] {
            path.rate(tier, false, now, &settings);
            assert_eq!(path.tier(), tier);
        }
        assert_eq!(path.return_hold(now, &settings), settings.switch_hold, "the path's own hold is enough");
    }

    #[test]
    fn a_path_that_sways_over_its_bounds_is_good_ever_more_seldom() {
        let (mut path, start) = standing();
        let settings = Settings::default();
        let (mut falls, mut former) = (Vec::new(), Tier::Good);
        for quarter in 0..1_200u32 {
            let now = start + SECOND * quarter / 4;
            // What is the worst for it: it breaks its bounds as soon as it counts as good, and keeps them as soon as not.
            let tier = if path.tier() == Tier::Good { Tier::Violating } else { Tier::Good };
            path.rate(tier, false, now, &settings);
            if path.tier() > former {
                falls.push(now);
            }
            former = path.tier();
        }
        let minute = Duration::from_secs(60);
        let within = |from: &Time| falls.iter().filter(|at| **at >= *from && at.since(*from) < minute).count();
        let most = falls.iter().map(within).max().unwrap_or(0);
        assert!((3..=5).contains(&most), "{most} times in a minute");
        let last = falls.iter().filter(|at| at.since(start) > minute * 3).count();
        assert!(last <= 5, "{last} times in the last two minutes");
        assert!(path.return_hold(start + minute * 5, &settings) > minute);
        assert!(path.return_hold(start + minute * 15, &settings) < minute / 10, "it is forgotten");
    }
}
