//! What goes wrong when, as a pure function of a seed.

use std::time::Duration;

use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use crate::bed::Cut;

/// The sites, each with the uplinks of [`UPLINKS`].
pub const SITES: [&str; 3] = ["a", "b", "c"];
/// The uplinks of each site.
pub const UPLINKS: [&str; 2] = ["isp1", "isp2"];
/// The site whose state is on a small disk of its own.
pub const SMALL_DISK: &str = "b";
/// The site whose lines are plain, so that their interfaces can be pulled; the others' are emulated.
pub const PLAIN: &str = "c";
/// The uplink that is behind a NAT.
pub const BEHIND_NAT: (&str, &str) = ("a", "isp2");

/// Before the first fault, and after the end of the last one.
const MARGINS: [Duration; 2] = [Duration::from_secs(2), Duration::from_secs(8)];
/// A site's lines are left alone for so long between two faults: what is back must have been taken into use.
const REST: Duration = Duration::from_secs(4);
/// The daemons are left alone for so long between two faults.
const DAEMON_REST: Duration = Duration::from_secs(3);
/// A day and a year, s.
const DAY: i64 = 86_400;
const YEAR: i64 = 365 * DAY;

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    /// A line is cut and mended.
    Cut(Cut),
    /// One of several short silent cuts.
    Flap,
    /// A line loses this share of the packets, each way.
    Loss(f64),
    /// A line takes longer by this much, each way.
    Latency(Duration),
    /// The uplink gets other addresses.
    Address,
    /// The uplink gets another gateway.
    Gateway,
    /// The NAT before the uplink maps its ports anew.
    Rebind,
    /// The uplink's interface is pulled out and put in again.
    Unplug,
    /// SIGKILL, and a new daemon later.
    Kill,
    /// SIGSTOP, and SIGCONT later.
    Pause,
    /// SIGTERM, and a new daemon at once.
    Restart,
    /// A policy is added to the configuration, and `sdwan reload`.
    Reload,
    /// Nothing more fits on the disk for a while.
    FullDisk,
    /// The daemon's wall clock is set by so many seconds, and back.
    Clock(i64),
}

impl Fault {
    /// Whether it happens to a line; to the site's daemon otherwise.
    pub const fn is_of_line(self) -> bool {
        matches!(
            self,
            Self::Cut(_)
                | Self::Flap
                | Self::Loss(_)
                | Self::Latency(_)
                | Self::Address
                | Self::Gateway
                | Self::Rebind
                | Self::Unplug
        )
    }

    /// For people.
    pub fn text(self) -> String {
        match self {
            Self::Cut(Cut::Silent) => "cut both ways".into(),
            Self::Cut(Cut::SilentUp) => "cut from the site".into(),
            Self::Cut(Cut::SilentDown) => "cut to the site".into(),
            Self::Cut(Cut::Portal) => "captive portal".into(),
            Self::Cut(Cut::Carrier) => "carrier lost".into(),
            Self::Flap => "flapping".into(),
            Self::Loss(share) => format!("loses {:.0} %", share * 100.0),
            Self::Latency(more) => format!("{} ms slower", more.as_millis()),
            Self::Address => "other addresses".into(),
            Self::Gateway => "other gateway".into(),
            Self::Rebind => "NAT rebinding".into(),
            Self::Unplug => "interface pulled".into(),
            Self::Kill => "daemon killed".into(),
            Self::Pause => "daemon stopped by SIGSTOP".into(),
            Self::Restart => "daemon restarted".into(),
            Self::Reload => "configuration reloaded".into(),
            Self::FullDisk => "disk full".into(),
            Self::Clock(by) => format!("clock set by {} days", by / DAY),
        }
    }
}

/// One fault at its place and time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// When it begins, from the start of the traffic.
    pub at: Duration,
    /// How long it lasts; zero for what happens at once.
    pub lasts: Duration,
    /// The site.
    pub site: &'static str,
    /// The uplink, for faults of lines.
    pub uplink: Option<&'static str>,
    /// The fault.
    pub fault: Fault,
}

impl Step {
    /// When it is over.
    pub fn end(&self) -> Duration {
        self.at + self.lasts
    }

    /// `a/isp1`, or the site alone.
    pub fn place(&self) -> String {
        self.uplink.map_or_else(|| self.site.to_owned(), |uplink| format!("{}/{uplink}", self.site))
    }
}

/// What of the faults this machine can't do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Abilities {
    /// Ports can be mapped as a NAT does.
    pub nat: bool,
    /// The daemons' wall clocks can be set.
    pub clock: bool,
}

/// Everything that goes wrong in a run of this length, in the order of its beginning.
///
/// At any time each site keeps one line that nothing is wrong with, and at most one daemon has trouble: what then is
/// promised has bounds.
pub fn plan(seed: u64, length: Duration, abilities: Abilities) -> Vec<Step> {
    let mut random = SmallRng::seed_from_u64(seed);
    let mut steps = Vec::new();
    let mut lines_free = [MARGINS[0]; SITES.len()];
    let mut daemons_free = MARGINS[0];
    let end = length.saturating_sub(MARGINS[1]);
    let mut now = MARGINS[0];
    while now < end {
        let of_line = random.random_bool(0.65);
        let site = random.random_range(0..SITES.len());
        let made = if of_line && lines_free[site] <= now {
            let made = line_fault(&mut random, now, SITES[site], abilities);
            lines_free[site] = made.last().map_or(now, Step::end) + REST;
            made
        } else if !of_line && daemons_free <= now {
            let made = daemon_fault(&mut random, now, SITES[site], abilities);
            daemons_free = made.last().map_or(now, Step::end) + DAEMON_REST;
            made
        } else {
            Vec::new()
        };
        if made.iter().all(|step| step.end() <= end) {
            steps.extend(made);
        }
        now += milliseconds(&mut random, 200..=1_500);
    }
    steps.sort_by_key(|step| step.at);
    steps
}

fn line_fault(random: &mut SmallRng, at: Duration, site: &'static str, abilities: Abilities) -> Vec<Step> {
    let uplink = *UPLINKS.choose(random).unwrap_or(&UPLINKS[0]);
    let one = |fault, lasts| vec![Step { at, lasts, site, uplink: Some(uplink), fault }];
    match random.random_range(0..100) {
        0..15 => one(Fault::Cut(Cut::Silent), milliseconds(random, 500..=5_000)),
        15..25 => one(Fault::Cut(Cut::SilentUp), milliseconds(random, 500..=5_000)),
        25..35 => one(Fault::Cut(Cut::SilentDown), milliseconds(random, 500..=5_000)),
        35..40 => one(Fault::Cut(Cut::Portal), milliseconds(random, 500..=5_000)),
        40..55 => one(Fault::Cut(Cut::Carrier), milliseconds(random, 300..=4_000)),
        55..65 => {
            let mut flaps = Vec::new();
            let mut at = at;
            for _ in 0..random.random_range(2..=5) {
                let lasts = milliseconds(random, 200..=1_200);
                flaps.push(Step { at, lasts, site, uplink: Some(uplink), fault: Fault::Flap });
                at += lasts + milliseconds(random, 500..=2_000);
            }
            flaps
        }
        65..80 if site == PLAIN => one(Fault::Unplug, milliseconds(random, 500..=4_000)),
        65..73 => one(Fault::Loss(random.random_range(0.03..0.3)), milliseconds(random, 3_000..=9_000)),
        73..80 => one(Fault::Latency(milliseconds(random, 30..=400)), milliseconds(random, 3_000..=9_000)),
        80..86 if (site, uplink) == BEHIND_NAT && abilities.nat => one(Fault::Rebind, Duration::ZERO),
        80..93 => one(Fault::Address, Duration::ZERO),
        _ => one(Fault::Gateway, Duration::ZERO),
    }
}

fn daemon_fault(random: &mut SmallRng, at: Duration, site: &'static str, abilities: Abilities) -> Vec<Step> {
    let (fault, lasts) = match random.random_range(0..100) {
        0..25 => (Fault::Kill, milliseconds(random, 500..=4_000)),
        25..50 => (Fault::Pause, milliseconds(random, 100..=4_000)),
        50..65 => (Fault::Restart, Duration::ZERO),
        65..80 => (Fault::Reload, Duration::ZERO),
        80..90 if site == SMALL_DISK => (Fault::FullDisk, milliseconds(random, 3_000..=8_000)),
        80..100 if abilities.clock => {
            let by = *[YEAR, -YEAR, 2 * DAY, -2 * DAY].choose(random).unwrap_or(&YEAR);
            (Fault::Clock(by), milliseconds(random, 3_000..=8_000))
        }
        _ => (Fault::Restart, Duration::ZERO),
    };
    vec![Step { at, lasts, site, uplink: None, fault }]
}

fn milliseconds(random: &mut SmallRng, range: std::ops::RangeInclusive<u64>) -> Duration {
    Duration::from_millis(random.random_range(range))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENGTH: Duration = Duration::from_secs(600);
    const ALL: Abilities = Abilities { nat: true, clock: true };

    fn plans() -> impl Iterator<Item = Vec<Step>> {
        (0..200).map(|seed| plan(seed, LENGTH, ALL))
    }

    #[test]
    fn a_seed_always_makes_the_same_plan_and_another_seed_another_one() {
        assert_eq!(plan(7, LENGTH, ALL), plan(7, LENGTH, ALL));
        assert_ne!(plan(7, LENGTH, ALL), plan(8, LENGTH, ALL));
    }

    #[test]
    fn each_site_keeps_a_clean_line_and_one_daemon_has_trouble_at_most() {
        for steps in plans() {
            for (number, step) in steps.iter().enumerate() {
                for other in &steps[number + 1..] {
                    let apart = other.at >= step.end() || step.at >= other.end();
                    let lines = step.fault.is_of_line() && other.fault.is_of_line();
                    if lines && step.site == other.site && step.uplink != other.uplink {
                        assert!(other.at >= step.end() + REST, "{step:?}, {other:?}");
                    }
                    if !step.fault.is_of_line() && !other.fault.is_of_line() {
                        assert!(apart, "{step:?}, {other:?}");
                    }
                }
                assert_eq!(step.fault.is_of_line(), step.uplink.is_some(), "{step:?}");
            }
        }
    }

    #[test]
    fn faults_begin_in_order_and_end_before_the_run_does() {
        for steps in plans() {
            assert!(steps.is_sorted_by_key(|step| step.at));
            assert!(steps.iter().all(|step| step.at >= MARGINS[0] && step.end() + MARGINS[1] <= LENGTH));
            // A fault each 4 s or so, some of them at the same time.
            assert!(steps.len() > 100, "{} faults", steps.len());
            let together = steps.windows(2).filter(|pair| pair[1].at < pair[0].end()).count();
            assert!(together > 10, "{together} faults begin during another");
        }
    }

    #[test]
    fn every_fault_occurs_where_it_can_and_none_that_the_machine_can_not_do() {
        let all: Vec<Step> = plans().flatten().collect();
        let names: std::collections::BTreeSet<_> = all
            .iter()
            .map(|step| match step.fault {
                Fault::Loss(_) => "loss".into(),
                Fault::Latency(_) => "latency".into(),
                Fault::Clock(_) => "clock".into(),
                other => other.text(),
            })
            .collect();
        assert_eq!(names.len(), 18, "{names:?}");
        let of = |fault: fn(&Fault) -> bool| all.iter().filter(move |step| fault(&step.fault));
        assert!(of(|fault| *fault == Fault::Unplug).all(|step| step.site == PLAIN));
        assert!(of(|fault| matches!(fault, Fault::Loss(_) | Fault::Latency(_))).all(|step| step.site != PLAIN));
        assert!(of(|fault| *fault == Fault::FullDisk).all(|step| step.site == SMALL_DISK));
        assert!(
            of(|fault| *fault == Fault::Rebind)
                .all(|step| (step.site, step.uplink) == (BEHIND_NAT.0, Some(BEHIND_NAT.1)))
        );
        let unable = (0..200).flat_map(|seed| plan(seed, LENGTH, Abilities::default()));
        let impossible = |fault: &Fault| matches!(fault, Fault::Rebind | Fault::Clock(_));
        assert_eq!(unable.filter(|step| impossible(&step.fault)).count(), 0);
    }
}
