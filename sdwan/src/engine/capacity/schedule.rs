//! Which path is measured when: one at a time on each local uplink, each no more often than every interval, and no
//! uplink for more than its share of bytes, however many paths it has.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::engine::time::Time;
use crate::engine::types::{PathKey, UplinkIndex};

/// An uplink rests this long at most after a measurement: a wrong idea of its capacity must not silence it for good.
const LONGEST_REST: Duration = Duration::from_secs(3_600);
/// A peer may have a path measured this often at most.
const LEAST_BETWEEN: Duration = Duration::from_secs(10);
/// A path that was refused or didn't answer is tried again after this at first, then twice as long each time …
const RETRY: Duration = Duration::from_secs(5);
/// … up to so many doublings.
const MOST_DOUBLINGS: u32 = 9;

/// What the operator may tune.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Paths are measured unasked, and peers may measure.
    pub enabled: bool,
    /// Time between measurements of a path.
    pub interval: Duration,
    /// Share of the bytes that a path could carry in that time, 0..=1.
    pub share: f64,
    /// Metered uplinks take part.
    pub metered: bool,
}

/// What the schedule must know of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// It is up.
    pub up: bool,
    /// The local uplink's bytes cost money.
    pub metered: bool,
}

/// Why something isn't measured. The numbers are those of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[repr(u8)]
pub enum Reason {
    /// Something else is being measured there.
    Busy = 1,
    /// The uplink's bytes cost money.
    Metered = 2,
    /// Measuring is switched off.
    Unwilling = 3,
    /// Too soon after the last one.
    Budget = 4,
    /// There is no such path, or it isn't up.
    NotUp = 5,
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Busy, Self::Metered, Self::Unwilling, Self::Budget, Self::NotUp];

    /// For people.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Busy => "another measurement is going on there: try again in some seconds",
            Self::Metered => {
                "the uplink is metered (`metered` in [[uplink]]): allow it with `metered = true` in [capacity]"
            }
            Self::Unwilling => "measuring is switched off (`enabled` in [capacity])",
            Self::Budget => "the last measurement was just now, and its bytes must be earned first: try again later",
            Self::NotUp => "the path is not up",
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    facts: Facts,
    due: Time,
    failures: u32,
    /// When the peer last had it measured.
    asked: Option<Time>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Uplink {
    running: Option<PathKey>,
    rests_until: Time,
}

/// The schedule.
#[derive(Clone, Debug)]
pub struct Schedule {
    settings: Settings,
    paths: BTreeMap<PathKey, Entry>,
    uplinks: BTreeMap<UplinkIndex, Uplink>,
}

impl Schedule {
    /// A schedule without paths.
    pub fn new(settings: Settings) -> Self {
        Self { settings, paths: BTreeMap::new(), uplinks: BTreeMap::new() }
    }

    /// Makes the paths these. A new one is measured in the second half of the interval, each at its own time: what has
    /// just come up has other things to do.
    pub fn set_paths(&mut self, paths: impl IntoIterator<Item = (PathKey, Facts)>, now: Time) {
        let mut former = std::mem::take(&mut self.paths);
        for (key, facts) in paths {
            let new = || {
                let mut hasher = DefaultHasher::new();
                key.hash(&mut hasher);
                let part = (hasher.finish() % 1_024) as f64 / 1_024.0;
                Entry { facts, due: now + self.settings.interval.mul_f64(0.5 + 0.5 * part), failures: 0, asked: None }
            };
            let entry = former.remove(&key).unwrap_or_else(new);
            self.paths.insert(key, Entry { facts, ..entry });
        }
    }

    /// A path whose measurement is due; it counts as begun.
    pub fn due(&mut self, now: Time) -> Option<PathKey> {
        // Who has waited longest comes first, however long the uplink rested.
        let waited = |key: &PathKey| self.paths.get(key).map(|entry| entry.due);
        let due = self.candidates().filter(|(_, at)| *at <= now).map(|(key, _)| key);
        let due = due.min_by_key(|key| (waited(key), *key))?;
        self.uplinks.entry(due.tunnel.local).or_default().running = Some(due);
        Some(due)
    }

    /// When [`Self::due`] has something next, if nothing else happens.
    pub fn next_at(&self) -> Option<Time> {
        self.candidates().map(|(_, at)| at).min()
    }

    /// Somebody at this site wants a path measured now; it counts as begun. `insist`: on a metered uplink as well.
    pub fn demand(&mut self, key: PathKey, insist: bool) -> Result<(), Reason> {
        let entry = self.paths.get(&key).filter(|entry| entry.facts.up).ok_or(Reason::NotUp)?;
        if entry.facts.metered && !self.settings.metered && !insist {
            return Err(Reason::Metered);
        }
        let uplink = self.uplinks.entry(key.tunnel.local).or_default();
        if uplink.running.is_some() {
            return Err(Reason::Busy);
        }
        uplink.running = Some(key);
        Ok(())
    }

    /// The peer wants us to measure a path towards it; it counts as begun.
    pub fn solicited(&mut self, key: PathKey, now: Time) -> Result<(), Reason> {
        self.consent(key)?;
        let uplink = self.uplinks.entry(key.tunnel.local).or_default();
        if uplink.running.is_some() {
            return Err(Reason::Busy);
        }
        let entry = self.paths.get_mut(&key).ok_or(Reason::NotUp)?;
        let soon = entry.asked.is_some_and(|asked| now.since(asked) < LEAST_BETWEEN);
        // The uplink's own share holds for what others want as well.
        if soon || now < uplink.rests_until {
            return Err(Reason::Budget);
        }
        entry.asked = Some(now);
        uplink.running = Some(key);
        Ok(())
    }

    /// Whether the peer may send trains by this path.
    pub fn consent(&self, key: PathKey) -> Result<(), Reason> {
        let entry = self.paths.get(&key).ok_or(Reason::NotUp)?;
        match () {
            () if !self.settings.enabled => Err(Reason::Unwilling),
            () if entry.facts.metered && !self.settings.metered => Err(Reason::Metered),
            () => Ok(()),
        }
    }

    /// A measurement ended: it took so many outer bytes, on a path that carries so many bit/s.
    pub fn finished(&mut self, key: PathKey, bytes: u64, capacity: u64, now: Time) {
        let rest = bytes as f64 * 8.0 / (capacity.max(1) as f64 * self.settings.share.max(1e-6));
        let rest = Duration::from_secs_f64(rest.min(LONGEST_REST.as_secs_f64()));
        self.release(key, now + rest);
        if let Some(entry) = self.paths.get_mut(&key) {
            entry.failures = 0;
            entry.due = now + self.settings.interval.max(rest);
        }
    }

    /// A measurement failed or was refused, after so many outer bytes.
    pub fn failed(&mut self, key: PathKey, bytes: u64, now: Time) {
        // What the path carries isn't known: as if it were 1 Mbit/s, when anything was sent at all.
        let rest = Duration::from_secs_f64((bytes as f64 * 8e-6 / self.settings.share.max(1e-6)).min(600.0));
        self.release(key, now + rest);
        if let Some(entry) = self.paths.get_mut(&key) {
            let again = RETRY * (1 << entry.failures.min(MOST_DOUBLINGS));
            entry.failures = entry.failures.saturating_add(1);
            entry.due = now + again.max(rest).min(self.settings.interval.max(Duration::from_secs(1_800)));
        }
    }

    fn release(&mut self, key: PathKey, until: Time) {
        let uplink = self.uplinks.entry(key.tunnel.local).or_default();
        if uplink.running == Some(key) {
            uplink.running = None;
        }
        uplink.rests_until = uplink.rests_until.max(until);
    }

    fn candidates(&self) -> impl Iterator<Item = (PathKey, Time)> + '_ {
        let wanted =
            |entry: &Entry| self.settings.enabled && entry.facts.up && (self.settings.metered || !entry.facts.metered);
        self.paths.iter().filter(move |(_, entry)| wanted(entry)).filter_map(|(key, entry)| {
            match self.uplinks.get(&key.tunnel.local) {
                Some(uplink) if uplink.running.is_some() => None,
                Some(uplink) => Some((*key, entry.due.max(uplink.rests_until))),
                None => Some((*key, entry.due)),
            }
        })
    }
}
