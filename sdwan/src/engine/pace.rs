//! How fast to probe: fast where live traffic is, slower elsewhere, and never more in all than the budget.

use std::time::Duration;

use sdwan_common::select::mix;

use super::settings::Settings;
use super::time::Time;
use super::types::PathKey;

/// Part of the budget that paths without traffic get even when the others need it all.
const IDLE_SHARE: f64 = 0.2;
/// Part of the budget that paces are made for; the rest takes up what comes together by chance and when paces change.
const PLANNED_SHARE: f64 = 0.9;
/// A pace is kept while the one that would be right is this part of it.
const KEPT: std::ops::RangeInclusive<f64> = 0.85..=1.05;
/// Part of the budget at which probes leave when more are due, and the time's worth of it that may leave at once: together
/// the budget of a second.
const STEADY_SHARE: f64 = 0.95;
const BURST: Duration = Duration::from_millis(50);

/// Time between the probes of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Paces {
    /// To sites with live traffic: all their paths, since each may have to take over.
    pub active: Duration,
    /// To other sites.
    pub idle: Duration,
}

impl Paces {
    /// For so many paths to sites with live traffic, and so many others.
    pub fn new(settings: &Settings, active: usize, idle: usize) -> Self {
        let budget = f64::from(settings.probe_budget.max(1)) * PLANNED_SHARE;
        let wanted = active as f64 / settings.probe_interval.as_secs_f64().max(1e-3);
        let idle_interval = settings.idle_interval.max(settings.probe_interval);
        let idle_pace = spread(idle, (budget - wanted).max(budget * IDLE_SHARE)).max(idle_interval);
        let taken = idle as f64 / idle_pace.as_secs_f64();
        Self { active: spread(active, budget - taken).max(settings.probe_interval), idle: idle_pace }
    }

    /// The paces after these, when `wanted` are those that the sites need now: as they were where little would change, for
    /// each change has every path told of anew. Probes are no more than [`STEADY_SHARE`] of the budget even so.
    #[must_use]
    pub fn follow(self, wanted: Self) -> Self {
        let follow = |now: Duration, wanted: Duration| {
            let ratio = wanted.as_secs_f64() / now.as_secs_f64();
            if KEPT.contains(&ratio) { now } else { wanted }
        };
        Self { active: follow(self.active, wanted.active), idle: follow(self.idle, wanted.idle) }
    }
}

/// Keeps probes to the budget in every second, whatever paths come and however paces change: a leaky bucket (the generic
/// cell rate algorithm of ITU-T I.371).
#[derive(Clone, Debug)]
pub struct Limiter {
    cost: Duration,
    /// When the bucket will have leaked empty.
    empty_at: Time,
}

impl Limiter {
    /// For this budget, probes per second.
    pub fn new(budget: u32) -> Self {
        let cost = Duration::from_secs_f64(1.0 / (f64::from(budget.max(1)) * STEADY_SHARE));
        Self { cost, empty_at: Time::default() }
    }

    /// When the next probe may leave. Those of paths without traffic leave half of the bucket to the others.
    pub fn ready_at(&self, active: bool) -> Time {
        self.empty_at - if active { BURST } else { BURST / 2 }
    }

    /// A probe leaves.
    pub fn take(&mut self, now: Time) {
        self.empty_at = self.empty_at.max(now) + self.cost;
    }
}

/// When to probe a path after `last`: each path has a phase of its own in the interval, so that probes don't leave in
/// bursts, whatever their pace was before. Half an interval later at the least, and less than one and a half.
pub fn next_probe(path: &PathKey, last: Time, interval: Duration) -> Time {
    let interval = u64::try_from(interval.as_nanos()).unwrap_or(u64::MAX).max(1);
    let phase = ((u128::from(hash(path)) * u128::from(interval)) >> 32) as u64;
    let earliest = last.0.saturating_add(interval / 2);
    let behind = earliest.saturating_sub(phase).div_ceil(interval);
    Time(behind.saturating_mul(interval).saturating_add(phase))
}

/// Not the standard library's, which may be another one in the next version: a recording replays with the same phases.
fn hash(path: &PathKey) -> u32 {
    let words = path.site.0.chunks_exact(4).map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]]));
    words.fold(mix(0x5d00 | u32::from(path.tunnel.code())), |hash, word| mix(hash.rotate_left(13) ^ word))
}

/// The pace at which so many paths make `rate` probes per second.
fn spread(paths: usize, rate: f64) -> Duration {
    Duration::from_secs_f64(paths as f64 / rate.max(1.0))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn settings() -> Settings {
        Settings { probe_budget: 1_000, ..Settings::default() }
    }

    #[test]
    fn a_small_mesh_is_probed_as_configured() {
        let paces = Paces::new(&settings(), 8, 12);
        assert_eq!((paces.active, paces.idle), (Duration::from_millis(50), Duration::from_millis(250)));
        let paces = Paces::new(&settings(), 0, 0);
        assert_eq!((paces.active, paces.idle), (Duration::from_millis(50), Duration::from_millis(250)));
    }

    #[test]
    fn many_idle_paths_leave_most_of_the_budget_to_the_active_ones() {
        // 900 of the 1,000 are planned with, a fifth of them for the idle ones.
        let idle_at_least = Duration::from_nanos(22_222_222_222);
        let paces = Paces::new(&settings(), 36, 4_000);
        assert_eq!((paces.active, paces.idle), (Duration::from_millis(50), idle_at_least));
        // What the active ones don't need is the others'.
        let paces = Paces::new(&settings(), 18, 4_000);
        assert_eq!((paces.active, paces.idle), (Duration::from_millis(50), Duration::from_nanos(7_407_407_407)));
        assert_eq!(Paces::new(&settings(), 0, 4_000).idle, Duration::from_nanos(4_444_444_444));
        // Too many active ones share four fifths.
        let paces = Paces::new(&settings(), 360, 4_000);
        assert_eq!((paces.active, paces.idle), (Duration::from_millis(500), idle_at_least));
    }

    #[test]
    fn whoever_asks_as_often_as_can_be_gets_no_more_than_the_budget_in_a_second_and_not_much_less() {
        for (active, least) in [(true, 970), (false, 945)] {
            let mut limiter = Limiter::new(1_000);
            let mut now = Time(5_000_000_000);
            let mut taken = Vec::new();
            while now < Time(9_000_000_000) {
                now = now.max(limiter.ready_at(active));
                limiter.take(now);
                taken.push(now);
            }
            let seconds = (0..taken.len() - 1_100)
                .map(|first| taken[first..].partition_point(|at| *at < taken[first] + Duration::from_secs(1)));
            assert!(seconds.clone().all(|count| count <= 1_000), "{:?}", seconds.clone().max());
            assert!(seconds.max().is_some_and(|count| count >= least));
        }
    }

    proptest! {
        #[test]
        fn a_probe_comes_half_to_one_and_a_half_intervals_later_and_then_exactly_one(
            site in any::<[u8; 16]>(), last in 0u64..1 << 60, interval in 5u64..20_000,
        ) {
            let uplink = crate::engine::types::UplinkIndex::new(1).expect("small");
            let tunnel = crate::engine::types::TunnelKey { local: uplink, remote: uplink };
            let path = PathKey { site: crate::engine::types::SiteId(site), tunnel };
            let interval = Duration::from_millis(interval);
            let first = next_probe(&path, Time(last), interval);
            let gap = first.since(Time(last));
            prop_assert!(gap >= interval / 2 && gap < interval * 3 / 2, "{:?}", gap);
            prop_assert_eq!(next_probe(&path, first, interval), first + interval);
        }

        #[test]
        fn paces_that_are_kept_keep_the_budget_too(
            active in 1usize..5_000, idle in 1usize..50_000, steps in prop::collection::vec(-50isize..50, 1..30),
        ) {
            let settings = settings();
            let mut paces = Paces::new(&settings, active, idle);
            let mut now = active;
            for step in &steps {
                now = now.saturating_add_signed(*step);
                let wanted = Paces::new(&settings, now, idle);
                paces = paces.follow(wanted);
                let rate = now as f64 / paces.active.as_secs_f64() + idle as f64 / paces.idle.as_secs_f64();
                prop_assert!(rate <= f64::from(settings.probe_budget) * STEADY_SHARE * 1.001, "{}", rate);
                prop_assert!(paces.active >= settings.probe_interval && paces.idle >= settings.idle_interval);
                let slower = paces.active.as_secs_f64() / wanted.active.as_secs_f64();
                prop_assert!(slower <= 1.18, "{}", slower);
            }
        }

        #[test]
        fn the_budget_is_never_exceeded(active in 0usize..50_000, idle in 0usize..50_000, budget in 10u32..100_000) {
            let settings = Settings { probe_budget: budget, ..Settings::default() };
            let paces = Paces::new(&settings, active, idle);
            let rate = active as f64 / paces.active.as_secs_f64() + idle as f64 / paces.idle.as_secs_f64();
            prop_assert!(rate <= f64::from(budget) * 1.001, "{}", rate);
            prop_assert!(paces.active >= settings.probe_interval && paces.idle >= settings.idle_interval);
        }
    }
}
