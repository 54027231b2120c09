//! The engine itself: takes inputs, keeps sites and paths, says when to probe and what changed.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::estimate::{Ignored, ProbeReply};
use super::input::{Changes, Input, Probe};
use super::pace::{Limiter, Paces, next_probe};
use super::path::{Path, PathState};
use super::policy::Compilation;
use super::settings::Settings;
use super::site::Site;
use super::time::Time;
use super::topology::TunnelMtus;
use super::types::{LocalUplink, PathKey, SiteId, TunnelKey, UplinkIndex};

/// What is fixed while the engine lives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Local {
    /// Its id.
    pub id: SiteId,
    /// Prefixes of this site.
    pub prefixes: Vec<IpNet>,
    /// Upper bound for the MTU of every path, bytes, if the operator set one.
    pub mtu: Option<u16>,
}

/// Counts of answers to probes that changed nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IgnoredReplies {
    /// No such probe in flight.
    pub unknown: u64,
    /// Answered before.
    pub duplicate: u64,
    /// Times contradict each other.
    pub implausible: u64,
}

/// The sans-IO core of a gateway.
#[derive(Debug)]
pub struct Engine {
    pub(super) settings: Settings,
    pub(super) local: Local,
    pub(super) uplinks: Vec<LocalUplink>,
    pub(super) tunnels: BTreeSet<TunnelKey>,
    pub(super) sites: BTreeMap<SiteId, Site>,
    /// Paths that classes took before, of sites that aren't active yet.
    pub(super) taken: BTreeMap<SiteId, Vec<(u16, TunnelKey)>>,
    pub(super) compilation: Arc<Compilation>,
    pub(super) probes: BinaryHeap<Reverse<(Time, PathKey)>>,
    pub(super) wakes: BinaryHeap<Reverse<(Time, SiteId)>>,
    pub(super) changes: Changes,
    /// As of the last time that paths were fitted.
    pub(super) interface_mtus: TunnelMtus,
    ignored: IgnoredReplies,
    stalls: u64,
    stalled_at: Option<Time>,
    pub(super) paces: Paces,
    limiter: Limiter,
}

impl Engine {
    /// An engine without sites.
    pub fn new(settings: Settings, local: Local, compilation: Arc<Compilation>) -> Self {
        Self {
            paces: Paces::new(&settings, 0, 0),
            limiter: Limiter::new(settings.probe_budget),
            settings,
            local,
            uplinks: Vec::new(),
            tunnels: BTreeSet::new(),
            sites: BTreeMap::new(),
            taken: BTreeMap::new(),
            compilation,
            probes: BinaryHeap::new(),
            wakes: BinaryHeap::new(),
            changes: Changes { topology: true, rules: true, ..Changes::default() },
            interface_mtus: TunnelMtus::default(),
            ignored: IgnoredReplies::default(),
            stalls: 0,
            stalled_at: None,
        }
    }

    /// The settings.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The uplinks of this site.
    pub fn uplinks(&self) -> &[LocalUplink] {
        &self.uplinks
    }

    /// The active remote sites.
    pub fn sites(&self) -> impl Iterator<Item = &Site> {
        self.sites.values()
    }

    /// One active remote site.
    pub fn site(&self, id: &SiteId) -> Option<&Site> {
        self.sites.get(id)
    }

    /// One path.
    pub fn path(&self, key: &PathKey) -> Option<&Path> {
        self.sites.get(&key.site)?.path(key.tunnel)
    }

    /// The policies in force.
    pub fn compilation(&self) -> &Arc<Compilation> {
        &self.compilation
    }

    /// Answers to probes that changed nothing.
    pub fn ignored_replies(&self) -> IgnoredReplies {
        self.ignored
    }

    /// How often the driver came later than a probe's interval.
    pub fn stalls(&self) -> u64 {
        self.stalls
    }

    /// For how long the driver has been in time: missing answers prove nothing before the probes that it missed to send
    /// could be answered.
    pub fn in_time_for(&self, now: Time) -> Duration {
        self.stalled_at.map_or(Duration::MAX, |at| now.since(at))
    }

    /// The longest round-trip time of the paths that are up.
    pub fn longest_way(&self) -> Duration {
        let up = self.sites.values().flat_map(Site::paths).filter(|(_, path)| path.state() == PathState::Up);
        up.filter_map(|(_, path)| path.quality().rtt).max().unwrap_or_default()
    }

    /// Which site each remote prefix belongs to. A prefix of this site is nobody else's; one that several sites
    /// announce belongs to the smallest id.
    pub fn prefix_owners(&self) -> BTreeMap<IpNet, SiteId> {
        let mut owners = BTreeMap::new();
        for site in self.sites.values() {
            for prefix in &site.remote().prefixes {
                if !self.local.prefixes.contains(prefix) {
                    owners.entry(prefix.trunc()).or_insert(site.remote().id);
                }
            }
        }
        owners
    }

    /// The prefixes that each remote site owns by [`Self::prefix_owners`]; a site without any is left out.
    pub fn owned_prefixes(&self) -> BTreeMap<SiteId, Vec<IpNet>> {
        let mut owned: BTreeMap<SiteId, Vec<IpNet>> = BTreeMap::new();
        for (prefix, owner) in self.prefix_owners() {
            owned.entry(owner).or_default().push(prefix);
        }
        owned
    }

    /// Whether an address is in a prefix of this site.
    pub fn is_local(&self, address: IpAddr) -> bool {
        self.local.prefixes.iter().any(|prefix| prefix.contains(&address))
    }

    /// Number of the class that takes what no other policy matches: its path is the kernel's fallback route.
    pub fn fallback_class(&self) -> u16 {
        self.compilation.rules.rules.last().map_or(0, |rule| rule.class)
    }

    /// Takes what changed since the last call.
    pub fn take_changes(&mut self) -> Changes {
        std::mem::take(&mut self.changes)
    }

    /// Takes an input.
    pub fn handle(&mut self, input: Input, now: Time) {
        match input {
            Input::Site(remote) => self.site_announced(remote, now),
            Input::SiteGone { site, gone } => self.site_gone(&site, &gone),
            Input::Taken(paths) => {
                for (path, class) in paths {
                    match self.sites.get_mut(&path.site) {
                        Some(site) => site.adopt(class, path.tunnel),
                        None => self.taken.entry(path.site).or_default().push((class, path.tunnel)),
                    }
                }
            }
            Input::Uplinks(uplinks) => self.uplinks_changed(uplinks, now),
            Input::Tunnels(tunnels) => {
                if tunnels != self.tunnels {
                    self.tunnels = tunnels;
                    self.refresh_paths(now);
                }
            }
            Input::ProbeReply { path, reply } => self.probe_reply(&path, &reply, now),
            Input::Counted { path, sequence, counters } => {
                if let Some(path) = self.sites.get_mut(&path.site).and_then(|site| site.path_mut(path.tunnel)) {
                    path.counted(sequence, counters.as_ref(), now);
                }
            }
            Input::Silent { path } => self.path_silent(&path, now),
            Input::UplinksLost { site, uplinks, number } => {
                if let Some(known) = self.sites.get_mut(&site) {
                    known.far_uplinks_lost(&uplinks, number, &self.compilation, &self.settings, now, &mut self.changes);
                    self.wakes.push(Reverse((known.wake_at(), site)));
                }
            }
            Input::Traffic(sites) => self.traffic(&sites, now),
            Input::Load(loads) => self.loaded(&loads, now),
            Input::Capacity { path, direction, estimate } => {
                if let Some(site) = self.sites.get_mut(&path.site) {
                    site.set_capacity(path.tunnel, direction, estimate);
                }
            }
            Input::PathMtu { path, known } => {
                if let Some(site) = self.sites.get_mut(&path.site) {
                    site.set_underlay(path.tunnel, known, &mut self.changes);
                    self.fit_mtus(Some(&path.site));
                }
            }
        }
    }

    /// Replaces the policies; flows decide anew.
    pub fn set_policies(&mut self, compilation: Arc<Compilation>, now: Time) {
        self.compilation = compilation;
        self.changes.rules = true;
        for site in self.sites.values_mut() {
            site.reset_sets();
            site.decide(&self.compilation, &self.settings, now, &mut self.changes);
        }
    }

    /// Lets time pass: detection, holds, ratings. Comes it much later than [`Self::next_deadline`] said, the driver did
    /// not get to run: nothing was probed and nothing read, and the silence of that time counts against no path.
    pub fn poll(&mut self, now: Time) {
        let late = self.next_deadline().map_or(Duration::ZERO, |deadline| now.since(deadline));
        if late > self.settings.probe_interval {
            self.stalls += 1;
            self.stalled_at = Some(now);
            self.sites.values_mut().for_each(|site| site.stalled(late, now));
        }
        while let Some(Reverse((at, id))) = self.wakes.peek().copied() {
            if at > now {
                break;
            }
            self.wakes.pop();
            let Some(site) = self.sites.get_mut(&id).filter(|site| site.wake_at() == at) else { continue };
            site.poll(&self.compilation, &self.settings, now, &mut self.changes);
            self.wakes.push(Reverse((site.wake_at(), id)));
        }
    }

    /// A probe that is due, if any; call until there is none.
    pub fn next_probe(&mut self, now: Time) -> Option<Probe> {
        loop {
            let Reverse((at, key)) = self.probes.peek().copied()?;
            if at > now {
                return None;
            }
            let active = self.sites.get(&key.site).is_some_and(|site| site.active(now));
            let ready = self.limiter.ready_at(active) <= now;
            if !ready && active {
                return None;
            }
            self.probes.pop();
            let Some(site) = self.sites.get_mut(&key.site) else { continue };
            let pace = if active { self.paces.active } else { self.paces.idle };
            let Some(path) = site.probe_path(key.tunnel, at) else { continue };
            if !ready {
                // Spread out anew, and soon enough that nobody misses it.
                let next = next_probe(&key, now, pace / 4);
                site.set_probe_at(key.tunnel, next);
                self.probes.push(Reverse((next, key)));
                continue;
            }
            self.limiter.take(now);
            let patience = path.patience();
            let pace = path.set_pace(pace, now, &self.settings);
            if path.patience() != patience {
                self.changes.detections.insert(key);
            }
            // After a stall the missed probes are not made up for: a burst would only add to the trouble.
            let next = next_probe(&key, if now.since(at) > pace { now } else { at }, pace);
            let probe = Probe {
                path: key,
                sequence: path.probe_sent(now, &self.settings),
                hears: path.hears(now, &self.settings),
                detection: path.detection(&self.settings),
            };
            if let Some(site) = self.sites.get_mut(&key.site) {
                site.set_probe_at(key.tunnel, next);
            }
            self.probes.push(Reverse((next, key)));
            return Some(probe);
        }
    }

    /// Whether [`Self::next_probe`] may do anything: what waits for the budget is spread out anew by it, too.
    pub fn probes_wait(&self, now: Time) -> bool {
        self.probes.peek().is_some_and(|Reverse((at, _))| *at <= now)
    }

    /// When [`Self::poll`] or [`Self::next_probe`] has something to do next.
    pub fn next_deadline(&self) -> Option<Time> {
        // What waits for the budget is not late.
        let probe = self.probes.peek().map(|Reverse((at, _))| (*at).max(self.limiter.ready_at(true)));
        let wake = self.wakes.peek().map(|Reverse((at, _))| *at);
        match (probe, wake) {
            (Some(probe), Some(wake)) => Some(probe.min(wake)),
            (probe, wake) => probe.or(wake),
        }
    }

    /// What the probes' paces are at present.
    pub fn paces(&self) -> Paces {
        self.paces
    }

    pub(super) fn reckon_paces(&mut self, now: Time) {
        let (mut active, mut idle) = (0, 0);
        for site in self.sites.values() {
            let count = if site.active(now) { &mut active } else { &mut idle };
            *count += site.paths().len();
        }
        self.paces = self.paces.follow(Paces::new(&self.settings, active, idle));
    }

    /// Sees which paths have room for copies: each path by its own capacity, and those of an uplink together by its rate.
    fn loaded(&mut self, loads: &BTreeMap<PathKey, u64>, now: Time) {
        let share = |load: u64, capacity: Option<u64>| capacity.map_or(0.0, |rate| load as f64 / rate.max(1) as f64);
        let mut uplinks: BTreeMap<UplinkIndex, f64> = BTreeMap::new();
        for uplink in &self.uplinks {
            let load = loads.iter().filter(|(path, _)| path.tunnel.local == uplink.index).map(|(_, load)| load).sum();
            uplinks.insert(uplink.index, share(load, uplink.rate_up));
        }
        let mut changed = BTreeSet::new();
        for (key, load) in loads {
            let Some(path) = self.sites.get_mut(&key.site).and_then(|site| site.path_mut(key.tunnel)) else { continue };
            let uplink = uplinks.get(&key.tunnel.local).copied().unwrap_or_default();
            if path.load(share(*load, path.capacity()).max(uplink), now) {
                changed.insert(key.site);
            }
        }
        for id in changed {
            let Some(site) = self.sites.get_mut(&id) else { continue };
            site.decide(&self.compilation, &self.settings, now, &mut self.changes);
            site.plan(&self.settings, now);
            self.wakes.push(Reverse((site.wake_at(), id)));
        }
    }

    /// Sites that were idle are probed fast at once, each of their paths within one interval.
    fn traffic(&mut self, sites: &BTreeSet<SiteId>, now: Time) {
        let mut awoken = Vec::new();
        for id in sites {
            let Some(site) = self.sites.get_mut(id) else { continue };
            if !site.active(now) {
                awoken.extend(site.paths().map(|(tunnel, _)| PathKey { site: *id, tunnel }));
            }
            if site.traffic(now, &self.settings) {
                self.wakes.push(Reverse((site.wake_at(), *id)));
            }
        }
        self.reckon_paces(now);
        for key in awoken {
            let at = next_probe(&key, now, self.paces.active);
            if let Some(site) = self.sites.get_mut(&key.site)
                && site.advance_probe(key.tunnel, at)
            {
                self.probes.push(Reverse((at, key)));
            }
        }
    }

    /// Follows the data path: its flows return to the path only when their set changes, which it does when the path
    /// comes back through its hold.
    fn path_silent(&mut self, key: &PathKey, now: Time) {
        if let Some(site) = self.sites.get_mut(&key.site) {
            site.silent(key.tunnel, &self.compilation, &self.settings, now, &mut self.changes);
            self.wakes.push(Reverse((site.wake_at(), key.site)));
        }
    }

    fn probe_reply(&mut self, key: &PathKey, reply: &ProbeReply, now: Time) {
        let patience = self.path(key).map(Path::patience);
        let outcome = match self.sites.get_mut(&key.site) {
            Some(site) => site.reply(key.tunnel, reply, &self.compilation, &self.settings, now, &mut self.changes),
            None => Err(Ignored::Unknown),
        };
        match outcome {
            Ok(Some(wake)) => self.wakes.push(Reverse((wake, key.site))),
            Ok(None) => {}
            Err(Ignored::Unknown) => self.ignored.unknown += 1,
            Err(Ignored::Duplicate) => self.ignored.duplicate += 1,
            Err(Ignored::Implausible) => self.ignored.implausible += 1,
        }
        if self.path(key).map(Path::patience) != patience {
            self.changes.detections.insert(*key);
        }
    }
}
