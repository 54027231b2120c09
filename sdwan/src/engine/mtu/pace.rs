//! The searches of all paths under one budget of probes.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::time::Duration;

use super::search::Search;
use super::{Conditions, How, Known, Report, Settings};
use crate::engine::time::Time;
use crate::engine::types::PathKey;

/// Part of the budget that confirmations may take when there are many paths: the rest is for searches.
const CONFIRMATIONS: f64 = 0.25;
/// Probes of searches under way that go before one that begins something: what has begun shall end soon.
const TURNS: u32 = 3;

/// A probe to send now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// On the underlay of which path.
    pub path: PathKey,
    /// Strictly newer than that of every probe before.
    pub sequence: u64,
    /// Size of the IP packet, bytes.
    pub size: u16,
}

/// A search that came to an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finished {
    /// The path.
    pub path: PathKey,
    /// How it went.
    pub report: Report,
}

#[derive(Clone, Debug)]
struct Entry {
    search: Search,
    /// Its appointment in the heap.
    wake: Time,
    /// It waits for the budget.
    waiting: bool,
    told: Option<Known>,
}

/// The searches of all paths.
#[derive(Clone, Debug)]
pub struct Searches {
    settings: Settings,
    paths: BTreeMap<PathKey, Entry>,
    wakes: BinaryHeap<Reverse<(Time, PathKey)>>,
    /// Searches under way that have a probe to send.
    urgent: VecDeque<PathKey>,
    /// Confirmations, and searches that begin.
    later: VecDeque<PathKey>,
    turns: u32,
    free_at: Time,
    sequence: u64,
    changed: BTreeSet<PathKey>,
    finished: Vec<Finished>,
}

impl Searches {
    /// No path yet. Sequence numbers begin with this one, which must be newer than those of a former life.
    pub fn new(settings: Settings, first_sequence: u64) -> Self {
        Self {
            settings,
            paths: BTreeMap::new(),
            wakes: BinaryHeap::new(),
            urgent: VecDeque::new(),
            later: VecDeque::new(),
            turns: 0,
            free_at: Time::default(),
            sequence: first_sequence,
            changed: BTreeSet::new(),
            finished: Vec::new(),
        }
    }

    /// Number of paths.
    pub fn len(&self) -> usize {
        self.paths.len()
    }

    /// Whether there is no path.
    pub fn is_empty(&self) -> bool {
        self.paths.is_empty()
    }

    /// A path is there, under these conditions; its search begins or goes on.
    pub fn set(&mut self, path: PathKey, conditions: Conditions, now: Time) {
        match self.paths.get_mut(&path) {
            Some(entry) => entry.search.set_conditions(conditions, &self.settings, now),
            None => {
                let search = Search::new(conditions, now);
                self.paths.insert(path, Entry { search, wake: now, waiting: false, told: None });
                self.wakes.push(Reverse((now, path)));
            }
        }
        self.follow(path, now);
    }

    /// Paths that are not among these are gone.
    pub fn retain(&mut self, keep: impl Fn(&PathKey) -> bool) {
        self.paths.retain(|path, _| keep(path));
        self.changed.retain(|path| keep(path));
    }

    /// Begins anew on one path, now. `false`: there is no such path.
    pub fn restart(&mut self, path: PathKey, now: Time) -> bool {
        let Some(entry) = self.paths.get_mut(&path) else { return false };
        entry.search.restart(now);
        entry.search.take_finished();
        self.follow(path, now);
        true
    }

    /// How the search on one path goes.
    pub fn report(&self, path: &PathKey, now: Time) -> Option<Report> {
        self.paths.get(path).map(|entry| entry.search.report(now))
    }

    /// A probe that is due, if any; call until there is none.
    pub fn next_probe(&mut self, now: Time) -> Option<Probe> {
        self.wake(now);
        while self.free_at <= now {
            let path = self.next_ready()?;
            let Some(entry) = self.paths.get_mut(&path) else { continue };
            entry.waiting = false;
            let sent = entry.search.probe(self.sequence, now);
            let probe = sent.map(|size| Probe { path, sequence: self.sequence, size });
            self.follow(path, now);
            if probe.is_some() {
                self.sequence += 1;
                // Spread evenly: what wasn't used is not made up for.
                self.free_at = now + Duration::from_secs_f64(1.0 / f64::from(self.settings.budget.max(1)));
                return probe;
            }
        }
        None
    }

    /// When [`Self::next_probe`] has something to do next.
    pub fn next_deadline(&self) -> Option<Time> {
        let wake = self.wakes.peek().map(|Reverse((at, _))| *at);
        let ready = (!self.urgent.is_empty() || !self.later.is_empty()).then_some(self.free_at);
        wake.into_iter().chain(ready).min()
    }

    /// An authentic acknowledgement. `false`: nothing of the kind was asked, and nothing changed.
    pub fn acknowledged(&mut self, path: PathKey, sequence: u64, size: u16, now: Time) -> bool {
        let settings = self.paced();
        let Some(entry) = self.paths.get_mut(&path) else { return false };
        let expected = entry.search.acknowledged(sequence, size, &settings, now);
        self.follow(path, now);
        expected
    }

    /// ICMP says that a packet was too large for a path. `false`: it is not followed.
    pub fn too_big(&mut self, path: PathKey, mtu: u16, now: Time) -> bool {
        let settings = self.paced();
        let Some(entry) = self.paths.get_mut(&path) else { return false };
        let followed = entry.search.too_big(mtu, &settings, now);
        self.follow(path, now);
        followed
    }

    /// The kernel refused to send a probe.
    pub fn refused(&mut self, probe: &Probe, now: Time) {
        if let Some(entry) = self.paths.get_mut(&probe.path) {
            entry.search.refused(probe.sequence, now);
            self.follow(probe.path, now);
        }
    }

    /// What became known since this was last asked.
    pub fn take_changes(&mut self) -> Vec<(PathKey, Known)> {
        let changed = std::mem::take(&mut self.changed);
        changed.into_iter().filter_map(|path| Some((path, self.paths.get(&path)?.search.known()))).collect()
    }

    /// Searches that ended since this was last asked.
    pub fn take_finished(&mut self) -> Vec<Finished> {
        std::mem::take(&mut self.finished)
    }

    /// Whose turn it is.
    fn next_ready(&mut self) -> Option<PathKey> {
        if self.turns < TURNS
            && let Some(path) = self.urgent.pop_front()
        {
            self.turns += 1;
            return Some(path);
        }
        self.turns = 0;
        self.later.pop_front().or_else(|| self.urgent.pop_front())
    }

    /// The settings, slowed down to what the budget allows for so many paths.
    fn paced(&self) -> Settings {
        let least = self.paths.len() as f64 / (f64::from(self.settings.budget.max(1)) * CONFIRMATIONS);
        let confirm = self.settings.confirm.max(Duration::from_secs_f64(least));
        Settings { confirm, ..self.settings.clone() }
    }

    /// Lets time pass for those whose appointment has come.
    fn wake(&mut self, now: Time) {
        let settings = self.paced();
        while let Some(Reverse((at, path))) = self.wakes.peek().copied() {
            if at > now {
                break;
            }
            self.wakes.pop();
            let Some(entry) = self.paths.get_mut(&path).filter(|entry| entry.wake == at && !entry.waiting) else {
                continue;
            };
            entry.search.poll(&settings, now);
            if entry.search.wants_probe(now) {
                entry.waiting = true;
                if entry.search.is_under_way() { self.urgent.push_back(path) } else { self.later.push_back(path) }
            }
            self.follow(path, now);
        }
    }

    /// After anything happened to a path: its next appointment, and what there is to tell.
    fn follow(&mut self, path: PathKey, now: Time) {
        let Some(entry) = self.paths.get_mut(&path) else { return };
        let known = entry.search.known();
        if entry.told != Some(known) {
            // What is configured is no news before anything else was.
            if entry.told.is_some() || known.how != How::Configured {
                self.changed.insert(path);
            }
            entry.told = Some(known);
        }
        if entry.search.take_finished() {
            self.finished.push(Finished { path, report: entry.search.report(now) });
        }
        if entry.waiting {
            return;
        }
        if entry.wake != entry.search.due() {
            entry.wake = entry.search.due();
            self.wakes.push(Reverse((entry.wake, path)));
        }
    }
}
