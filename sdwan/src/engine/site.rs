//! A remote site: its paths, and one path set per class.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::capacity::{Direction, Estimate};
use super::estimate::{Ignored, ProbeReply};
use super::events::{EngineEvent, EventKind};
use super::input::Changes;
use super::mtu::{How, Known};
use super::path::{Cause, GRACE, Path, PathState, Transition};
use super::policy::{ClassSpec, Compilation};
use super::score::{Surroundings, class_score, complies};
use super::sets::{MoveReason, Moved, Rated, Set, Tier};
use super::settings::Settings;
use super::time::Time;
use super::topology::TunnelMtus;
use super::types::{PathKey, RemoteSite, TunnelKey, UplinkIndex};

/// After its first path came up, a site's classes settle without holds for this long: the other paths come up only
/// moments later.
const SETTLE: Duration = Duration::from_secs(2);

/// For so long a new site counts as one with live traffic.
const NEW: Duration = Duration::from_secs(30);

/// What the ends of a path can do: MTU in bytes, declared rate in bit/s, cost, and whether it can carry packets.
pub type PathFacts = (u16, Option<u64>, u32, Result<(), Cause>);

#[derive(Clone, Debug)]
struct Entry {
    path: Path,
    cost: u32,
    probe_at: Time,
}

/// A remote site.
#[derive(Clone, Debug)]
pub struct Site {
    remote: RemoteSite,
    /// Each by itself on the heap: the map makes room for eleven at once.
    paths: BTreeMap<TunnelKey, Box<Entry>>,
    sets: Vec<Set>,
    since: Time,
    settled_at: Option<Time>,
    rate_at: Time,
    wake_at: Time,
    active_until: Time,
    /// Number of the last notice from it.
    noticed: Option<u64>,
}

impl Site {
    /// A site without paths.
    pub fn new(remote: RemoteSite, now: Time) -> Self {
        Self {
            remote,
            paths: BTreeMap::new(),
            sets: Vec::new(),
            since: now,
            settled_at: None,
            rate_at: now,
            wake_at: now,
            // Until it is known better: the paths of a new site are to come up soon.
            active_until: now + NEW,
            noticed: None,
        }
    }

    /// What it announced.
    pub fn remote(&self) -> &RemoteSite {
        &self.remote
    }

    /// Active since.
    pub fn since(&self) -> Time {
        self.since
    }

    /// Its paths.
    pub fn paths(&self) -> impl ExactSizeIterator<Item = (TunnelKey, &Path)> {
        self.paths.iter().map(|(tunnel, entry)| (*tunnel, &entry.path))
    }

    /// One of its paths.
    pub fn path(&self, tunnel: TunnelKey) -> Option<&Path> {
        self.paths.get(&tunnel).map(|entry| &entry.path)
    }

    pub(super) fn path_mut(&mut self, tunnel: TunnelKey) -> Option<&mut Path> {
        self.paths.get_mut(&tunnel).map(|entry| &mut entry.path)
    }

    /// Its path sets, by class.
    pub fn sets(&self) -> &[Set] {
        &self.sets
    }

    /// How a class, by its number, sees the paths: what its decision rests on, as `explain` shows it.
    pub fn rated(&self, number: u16, class: &ClassSpec) -> Vec<Rated> {
        let set = self.sets.get(usize::from(number));
        let mut rated = self.rate(class, set);
        for path in &mut rated {
            path.tier = set.and_then(|set| set.tier(path.tunnel)).unwrap_or(path.tier);
        }
        rated
    }

    /// How a class would see the paths at this moment, if it did so for the first time.
    fn rate(&self, class: &ClassSpec, set: Option<&Set>) -> Vec<Rated> {
        let best_capacity = self.paths.values().filter_map(|entry| entry.path.capacity()).max();
        let rated = self.paths.iter().map(|(tunnel, entry)| {
            let path = &entry.path;
            let broken = set.and_then(|set| set.tier(*tunnel)) == Some(Tier::Violating);
            let surroundings = Surroundings { capacity: path.capacity(), best_capacity, cost: entry.cost };
            let tier = match path.state() {
                PathState::Up if !complies(&class.sla, path.quality(), path.capacity(), broken) => Tier::Violating,
                PathState::Up if path.degraded() => Tier::Degraded,
                PathState::Up => Tier::Good,
                PathState::Starting | PathState::Down | PathState::Recovering => Tier::Down,
            };
            let score = class_score(class.preference, path.quality(), &surroundings);
            let (capacity, full) = (path.capacity(), path.is_full());
            Rated { tunnel: *tunnel, tier, score, capacity, full, doubtful: false }
        });
        rated.collect()
    }

    /// Why flows of a class, by its number, leave a path for another, as far as the state of the moment tells.
    pub fn why_left(&self, class: u16, from: TunnelKey, to: TunnelKey) -> Option<MoveReason> {
        if self.path(from).is_none_or(|path| path.state() != PathState::Up) {
            return Some(MoveReason::Down);
        }
        let set = self.sets.get(usize::from(class))?;
        if set.tier(from)? > set.tier(to)? {
            return Some(MoveReason::Worse);
        }
        (set.first() == Some(to)).then_some(MoveReason::Better)
    }

    /// User packets went to it or came from it lately.
    pub fn active(&self, now: Time) -> bool {
        now < self.active_until
    }

    /// User packets go to it or come from it. Returns whether it must be woken earlier than planned: from now on it is rated
    /// as often as one with traffic.
    pub(super) fn traffic(&mut self, now: Time, settings: &Settings) -> bool {
        self.active_until = self.active_until.max(now + settings.active_hold);
        let rate_at = now + settings.rate_interval;
        let sooner = rate_at < self.rate_at;
        if sooner {
            self.rate_at = rate_at;
            self.plan(settings, now);
        }
        sooner
    }

    pub(super) fn set_remote(&mut self, remote: RemoteSite) {
        self.remote = remote;
    }

    pub(super) fn set_capacity(&mut self, tunnel: TunnelKey, direction: Direction, estimate: Estimate) {
        if let Some(entry) = self.paths.get_mut(&tunnel) {
            entry.path.set_capacity(direction, estimate);
        }
    }

    /// Takes what is known of a path's underlay; told when it isn't what the path was used with.
    pub(super) fn set_underlay(&mut self, tunnel: TunnelKey, known: Known, changes: &mut Changes) {
        let Some(entry) = self.paths.get_mut(&tunnel) else { return };
        let before = entry.path.underlay();
        entry.path.set_underlay(known);
        let old_news = matches!(known.how, How::Configured | How::Remembered);
        if before.map_or(old_news, |before| before.size == known.size) {
            return;
        }
        let why = match known.how {
            How::Configured => "as configured",
            How::Remembered => "as before",
            How::Searched => "found by a search",
            How::Base => "larger ones don't get through, a search goes on",
        };
        let from = before.map(|before| format!(" from {}", before.size)).unwrap_or_default();
        let message =
            format!("path {} {tunnel}: its path MTU changed{from} to {} bytes: {why}", self.remote.name, known.size);
        let key = PathKey { site: self.remote.id, tunnel };
        let mut event = EngineEvent::new(EventKind::PathMtuChanged, message).with_path(key);
        event.details = serde_json::json!({ "mtu": known.size, "former": before.map(|before| before.size), "by": known.how.name() });
        changes.events.push(event);
    }

    /// Bytes of room inside the tunnel packets of each path.
    pub(super) fn rooms(&self) -> impl Iterator<Item = (TunnelKey, u16)> {
        self.paths.iter().map(|(tunnel, entry)| (*tunnel, entry.path.room()))
    }

    /// Makes the paths' MTUs fit their tunnels' interfaces. Returns whether one changed.
    pub(super) fn fit_mtus(&mut self, interfaces: &TunnelMtus) -> bool {
        let mut changed = false;
        for (tunnel, entry) in &mut self.paths {
            let before = entry.path.mtu();
            entry.path.fit_mtu(interfaces.get(*tunnel).unwrap_or(u16::MAX));
            changed |= entry.path.mtu() != before;
        }
        changed
    }

    /// Takes the path that a class, by its number, took before this daemon started.
    pub(super) fn adopt(&mut self, class: u16, tunnel: TunnelKey) {
        let class = usize::from(class);
        if self.sets.len() <= class {
            self.sets.resize_with(class + 1, Set::default);
        }
        self.sets[class].adopt(tunnel);
    }

    pub(super) fn reset_sets(&mut self) {
        self.sets.clear();
    }

    pub(super) fn wake_at(&self) -> Time {
        self.wake_at
    }

    /// The path whose probe is due at `at`; `None` when that appointment was replaced.
    pub(super) fn probe_path(&mut self, tunnel: TunnelKey, at: Time) -> Option<&mut Path> {
        self.paths.get_mut(&tunnel).filter(|entry| entry.probe_at == at).map(|entry| &mut entry.path)
    }

    /// Brings the next probe forward; `false` when it is due before `at` anyway.
    pub(super) fn advance_probe(&mut self, tunnel: TunnelKey, at: Time) -> bool {
        let entry = self.paths.get_mut(&tunnel).filter(|entry| entry.probe_at > at);
        entry.map(|entry| entry.probe_at = at).is_some()
    }

    pub(super) fn set_probe_at(&mut self, tunnel: TunnelKey, at: Time) {
        if let Some(entry) = self.paths.get_mut(&tunnel) {
            entry.probe_at = at;
        }
    }

    /// Makes the paths those that are wanted. Returns the new ones.
    pub(super) fn refresh(
        &mut self,
        wanted: &BTreeMap<TunnelKey, PathFacts>,
        settings: &Settings,
        now: Time,
        changes: &mut Changes,
    ) -> Vec<TunnelKey> {
        self.paths.retain(|tunnel, _| wanted.contains_key(tunnel));
        let mut new = Vec::new();
        for (&tunnel, &(mtu, rate, cost, usable)) in wanted {
            let entry = self.paths.entry(tunnel).or_insert_with(|| {
                new.push(tunnel);
                Box::new(Entry { path: Path::new(now, settings, mtu, rate), cost, probe_at: now })
            });
            entry.cost = cost;
            entry.path.set_configured_mtu(mtu);
            entry.path.set_declared(rate);
            if let Some(transition) = entry.path.set_uplink(usable, now, settings) {
                report(&self.remote, tunnel, &entry.path, transition, settings, now, changes);
            }
        }
        new
    }

    /// An answer to a probe. Returns when to wake the site, if that is earlier than planned.
    pub(super) fn reply(
        &mut self,
        tunnel: TunnelKey,
        reply: &ProbeReply,
        compilation: &Compilation,
        settings: &Settings,
        now: Time,
        changes: &mut Changes,
    ) -> Result<Option<Time>, Ignored> {
        let entry = self.paths.get_mut(&tunnel).ok_or(Ignored::Unknown)?;
        let Some(transition) = entry.path.reply(reply, now, settings)? else { return Ok(None) };
        entry.path.rate(now, settings);
        report(&self.remote, tunnel, &entry.path, transition, settings, now, changes);
        if transition.to == PathState::Up && self.settled_at.is_none() {
            self.settled_at = Some(now + SETTLE);
        }
        self.decide(compilation, settings, now, changes);
        let before = self.wake_at;
        self.plan(settings, now);
        Ok((self.wake_at != before).then_some(self.wake_at))
    }

    /// The driver came `late` by so much.
    pub(super) fn stalled(&mut self, late: Duration, now: Time) {
        self.paths.values_mut().for_each(|entry| entry.path.stalled(late, now));
        self.sets.iter_mut().for_each(|set| set.stalled(late, now));
    }

    /// The data path found a path silent.
    pub(super) fn silent(
        &mut self,
        tunnel: TunnelKey,
        compilation: &Compilation,
        settings: &Settings,
        now: Time,
        changes: &mut Changes,
    ) {
        let Some(entry) = self.paths.get_mut(&tunnel) else { return };
        let Some(transition) = entry.path.silent(now, settings) else { return };
        report(&self.remote, tunnel, &entry.path, transition, settings, now, changes);
        self.decide(compilation, settings, now, changes);
        self.plan(settings, now);
    }

    /// The site says that it lost uplinks. A notice comes by several paths: later copies mean nothing.
    pub(super) fn far_uplinks_lost(
        &mut self,
        uplinks: &BTreeSet<UplinkIndex>,
        number: u64,
        compilation: &Compilation,
        settings: &Settings,
        now: Time,
        changes: &mut Changes,
    ) {
        if self.noticed.replace(number) == Some(number) {
            return;
        }
        for (tunnel, entry) in self.paths.iter_mut().filter(|(tunnel, _)| uplinks.contains(&tunnel.remote)) {
            if let Some(transition) = entry.path.far_uplink_lost(now, settings) {
                report(&self.remote, *tunnel, &entry.path, transition, settings, now, changes);
            }
        }
        self.decide(compilation, settings, now, changes);
        self.plan(settings, now);
    }

    /// Detection, holds, ratings.
    pub(super) fn poll(&mut self, compilation: &Compilation, settings: &Settings, now: Time, changes: &mut Changes) {
        let rate = now >= self.rate_at;
        for (tunnel, entry) in &mut self.paths {
            if rate && entry.path.rate(now, settings) {
                report_quality(&self.remote, *tunnel, &entry.path, changes);
            }
            if rate && entry.path.follow_detection(settings) {
                changes.detections.insert(PathKey { site: self.remote.id, tunnel: *tunnel });
            }
            if let Some(transition) = entry.path.poll(now, settings) {
                report(&self.remote, *tunnel, &entry.path, transition, settings, now, changes);
            }
        }
        if rate {
            self.rate_at = now + self.rate_interval(settings);
        }
        self.decide(compilation, settings, now, changes);
        self.plan(settings, now);
    }

    /// Time between two ratings: there is nothing to rate before a probe was answered or lost.
    fn rate_interval(&self, settings: &Settings) -> Duration {
        let pace = self.paths.values().map(|entry| entry.path.pace()).min();
        pace.unwrap_or_default().max(settings.rate_interval)
    }

    /// Decides about every class.
    pub(super) fn decide(&mut self, compilation: &Compilation, settings: &Settings, now: Time, changes: &mut Changes) {
        self.sets.resize_with(compilation.classes.len(), Set::default);
        let settling = self.settled_at.is_none_or(|settled| now < settled);
        let known = self.settled_at.is_some() || now.since(self.since) >= GRACE;
        let mut sets = std::mem::take(&mut self.sets);
        for (number, (class, set)) in compilation.classes.iter().zip(&mut sets).enumerate() {
            let mut rated = self.rate(class, Some(set));
            for path in &mut rated {
                path.doubtful = self.path(path.tunnel).is_some_and(|path| path.doubtful(now, settings));
            }
            let (changed, moved) = set.decide(class, rated, settling, now, settings);
            set.judge(known, now);
            if changed {
                changes.sets.insert((self.remote.id, number as u16));
            }
            if let Some(moved) = moved {
                changes.events.push(moved_event(&self.remote, class, moved));
            }
        }
        self.sets = sets;
    }

    /// Says when [`Self::poll`] has something to do next.
    pub(super) fn plan(&mut self, settings: &Settings, now: Time) {
        let paths = self.paths.values().filter_map(|entry| entry.path.deadline(now, settings));
        let sets = self.sets.iter().filter_map(|set| set.deadline(settings));
        // Never earlier than the next nanosecond: a deadline that has passed must not make the driver spin.
        self.wake_at = paths.chain(sets).fold(self.rate_at, Time::min).max(now + Duration::from_micros(100));
    }
}

/// `berlin 0-1`: a path for people.
fn path_name(remote: &RemoteSite, tunnel: TunnelKey) -> String {
    format!("{} {tunnel}", remote.name)
}

fn report(
    remote: &RemoteSite,
    tunnel: TunnelKey,
    path: &Path,
    transition: Transition,
    settings: &Settings,
    now: Time,
    changes: &mut Changes,
) {
    let key = PathKey { site: remote.id, tunnel };
    changes.states.insert(key);
    let (kind, what) = match transition.to {
        PathState::Up => (EventKind::PathUp, "is up".to_owned()),
        PathState::Down => (EventKind::PathDown, "is down".to_owned()),
        PathState::Recovering => {
            let hold = path.hold(now, settings).as_secs_f64();
            (EventKind::PathRecovering, format!("answers again and is held for {hold:.0} s"))
        }
        PathState::Starting => return,
    };
    let message = format!("path {} {what}: {}", path_name(remote, tunnel), transition.cause.text());
    let mut event = EngineEvent::new(kind, message).with_path(key);
    event.details = serde_json::json!({ "cause": transition.cause });
    changes.events.push(event);
}

fn report_quality(remote: &RemoteSite, tunnel: TunnelKey, path: &Path, changes: &mut Changes) {
    let quality = path.quality();
    let numbers = format!(
        "score {:.0}, RTT {:.1} ms, jitter {:.1} ms, loss {:.1} %",
        path.score(),
        quality.rtt.unwrap_or_default().as_secs_f64() * 1e3,
        quality.jitter().as_secs_f64() * 1e3,
        quality.worst_loss() * 100.0
    );
    let (kind, what) = match path.degraded() {
        true => (EventKind::PathDegraded, "is degraded"),
        false if path.state() == PathState::Up => (EventKind::PathImproved, "is good enough again"),
        false => return,
    };
    let message = format!("path {} {what}: {numbers}", path_name(remote, tunnel));
    changes.events.push(EngineEvent::new(kind, message).with_path(PathKey { site: remote.id, tunnel }));
}

fn moved_event(remote: &RemoteSite, class: &ClassSpec, moved: Moved) -> EngineEvent {
    let key = |tunnel| PathKey { site: remote.id, tunnel };
    let from = moved.from.map(|from| format!(" from path {from}")).unwrap_or_default();
    let message =
        format!("class {} to {} moved{from} to path {}: {}", class.name, remote.name, moved.to, moved.reason.text());
    let mut event = EngineEvent::new(EventKind::ClassMoved, message).with_path(key(moved.to));
    event.from_path = moved.from.map(key);
    event.class = Some(class.name.clone());
    event.details = serde_json::json!({ "reason": moved.reason });
    event
}
