//! The engine itself: takes inputs, keeps sites and paths, says when to probe and what changed.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::estimate::{Ignored, ProbeReply};
use super::events::{EngineEvent, EventKind};
use super::input::{Changes, Gone, Input, Notice, Probe};
use super::pace::{Limiter, Paces, next_probe};
use super::path::{Cause, Path, PathState};
use super::policy::Compilation;
use super::settings::Settings;
use super::site::Site;
use super::time::Time;
use super::types::{LocalUplink, PathKey, RemoteSite, SiteId, TunnelKey, UplinkIndex, wireguard_overhead};

/// Smallest MTU that a path may have: IPv6's minimum (RFC 8200 section 5).
const MINIMUM_MTU: u16 = 1280;

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

/// The first probe makes WireGuard shake hands, and two handshakes that cross both fail, for 5 s. Sites mostly hear of each
/// other at the same moment: the one with the smaller id begins, and the other waits for longer than that takes.
const HANDSHAKE_LEAD: Duration = Duration::from_millis(300);

/// Paths that a peer is told by that an uplink is lost: one of the copies should arrive.
const NOTICES: usize = 4;

/// The sans-IO core of a gateway.
#[derive(Debug)]
pub struct Engine {
    settings: Settings,
    local: Local,
    uplinks: Vec<LocalUplink>,
    tunnels: BTreeSet<TunnelKey>,
    sites: BTreeMap<SiteId, Site>,
    /// Paths that classes took before, of sites that aren't active yet.
    taken: BTreeMap<SiteId, Vec<(u16, TunnelKey)>>,
    compilation: Arc<Compilation>,
    probes: BinaryHeap<Reverse<(Time, PathKey)>>,
    wakes: BinaryHeap<Reverse<(Time, SiteId)>>,
    changes: Changes,
    ignored: IgnoredReplies,
    stalls: u64,
    stalled_at: Option<Time>,
    paces: Paces,
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
                self.tunnels = tunnels;
                self.refresh_paths(now);
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
                    self.fit_mtus();
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

    fn reckon_paces(&mut self, now: Time) {
        let (mut active, mut idle) = (0, 0);
        for site in self.sites.values() {
            let count = if site.active(now) { &mut active } else { &mut idle };
            *count += site.paths().len();
        }
        self.paces = Paces::new(&self.settings, active, idle);
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
            site.traffic(now, &self.settings);
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

    /// Whether the tunnel packets of a path are IPv6; taken for so where the peer dials in, for that is the larger header.
    pub fn outer_ipv6(&self, path: &PathKey) -> Option<bool> {
        let remote = self.sites.get(&path.site)?.remote();
        let local = self.uplinks.iter().find(|uplink| uplink.index == path.tunnel.local)?;
        Some(remote.endpoint(path.tunnel, &local.addresses).is_none_or(|endpoint| endpoint.is_ipv6()))
    }

    /// MTU of each tunnel's interface, bytes: what its widest path takes, and no less than IPv6 needs.
    pub fn tunnel_mtus(&self) -> BTreeMap<TunnelKey, u16> {
        let mut interfaces = BTreeMap::new();
        for (tunnel, room) in self.sites.values().flat_map(Site::rooms) {
            let widest = interfaces.entry(tunnel).or_insert(MINIMUM_MTU);
            *widest = room.max(*widest);
        }
        interfaces
    }

    /// The widest path of a tunnel bears on the others, by the padding.
    fn fit_mtus(&mut self) {
        let interfaces = self.tunnel_mtus();
        for site in self.sites.values_mut() {
            self.changes.topology |= site.fit_mtus(&interfaces);
        }
    }

    fn site_announced(&mut self, remote: RemoteSite, now: Time) {
        let id = remote.id;
        match self.sites.get_mut(&id) {
            Some(site) if *site.remote() == remote => return,
            Some(site) => site.set_remote(remote),
            None => {
                let message = format!("site {} is active, with {} uplinks", remote.name, remote.uplinks.len());
                self.changes.events.push(EngineEvent::new(EventKind::SiteUp, message).with_site(id));
                let mut site = Site::new(remote, now);
                for (class, tunnel) in self.taken.remove(&id).unwrap_or_default() {
                    site.adopt(class, tunnel);
                }
                self.sites.insert(id, site);
            }
        }
        self.refresh_paths(now);
    }

    fn site_gone(&mut self, id: &SiteId, gone: &Gone) {
        let Some(site) = self.sites.remove(id) else { return };
        let name = &site.remote().name;
        let (kind, message) = match gone {
            Gone::Left => (EventKind::SiteLeft, format!("site {name} left the mesh")),
            Gone::Inactive => (EventKind::SiteInactive, format!("site {name} has been silent for too long")),
            Gone::Removed(why) => (EventKind::SiteRemoved, format!("site {name} was removed: {why}")),
        };
        self.changes.events.push(EngineEvent::new(kind, message).with_site(*id));
        self.changes.topology = true;
        self.fit_mtus();
    }

    fn uplinks_changed(&mut self, uplinks: Vec<LocalUplink>, now: Time) {
        if uplinks == self.uplinks {
            return;
        }
        for uplink in &uplinks {
            let former = self.uplinks.iter().find(|former| former.index == uplink.index);
            if let Some(event) = uplink_event(former, uplink) {
                self.changes.events.push(event);
            }
        }
        let usable = |uplinks: &[LocalUplink]| -> BTreeSet<_> {
            uplinks.iter().filter(|uplink| uplink_usable(uplink)).map(|uplink| uplink.index).collect()
        };
        let lost: BTreeSet<UplinkIndex> = &usable(&self.uplinks) - &usable(&uplinks);
        self.uplinks = uplinks;
        self.refresh_paths(now);
        self.tell_of(&lost, now);
    }

    /// The peers can't know yet that uplinks are lost here: what they send there is lost until they miss answers.
    fn tell_of(&mut self, lost: &BTreeSet<UplinkIndex>, now: Time) {
        if lost.is_empty() {
            return;
        }
        for site in self.sites.values() {
            let up = site.paths().filter(|(_, path)| path.state() == PathState::Up);
            self.changes.notices.extend(up.take(NOTICES).map(|(tunnel, _)| Notice {
                path: PathKey { site: site.remote().id, tunnel },
                lost: lost.clone(),
                number: now.0,
            }));
        }
    }

    /// Makes the paths of all sites fit the uplinks of both ends, and tells them what their uplink can do.
    fn refresh_paths(&mut self, now: Time) {
        self.changes.topology = true;
        for site in self.sites.values_mut() {
            let mut wanted = BTreeMap::new();
            for local in &self.uplinks {
                for remote in &site.remote().uplinks {
                    let tunnel = TunnelKey { local: local.index, remote: remote.index };
                    let mtu = path_mtu(local, remote.mtu, site.remote(), tunnel, self.local.mtu);
                    let usable = if !uplink_usable(local) {
                        Err(Cause::UplinkDown)
                    } else if !self.tunnels.contains(&tunnel) {
                        Err(Cause::NoTunnel)
                    } else {
                        Ok(())
                    };
                    let rate_down = remote.rate_down_kbps.map(|rate| u64::from(rate) * 1_000);
                    let rate = local.rate_up.into_iter().chain(rate_down).min();
                    wanted.insert(tunnel, (mtu, rate, local.cost, usable));
                }
            }
            let id = site.remote().id;
            for tunnel in site.refresh(&wanted, &self.settings, now, &mut self.changes) {
                let key = PathKey { site: id, tunnel };
                let lead = if self.local.id > id { HANDSHAKE_LEAD } else { Duration::ZERO };
                let at = next_probe(&key, now + lead, self.paces.active);
                site.set_probe_at(tunnel, at);
                self.probes.push(Reverse((at, key)));
            }
            site.decide(&self.compilation, &self.settings, now, &mut self.changes);
            site.plan(&self.settings, now);
            self.wakes.push(Reverse((site.wake_at(), id)));
        }
        self.reckon_paces(now);
        self.fit_mtus();
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

/// Can packets leave by this uplink at all?
pub fn uplink_usable(uplink: &LocalUplink) -> bool {
    uplink.ifindex != 0 && uplink.carrier && !uplink.addresses.is_empty()
}

fn uplink_event(former: Option<&LocalUplink>, now: &LocalUplink) -> Option<EngineEvent> {
    let was = former.is_some_and(uplink_usable);
    let is = uplink_usable(now);
    let (kind, message) = match (was, is) {
        (false, true) => (EventKind::UplinkUp, format!("uplink {} ({}) is up", now.name, now.interface)),
        (true, false) => {
            let why = match () {
                () if now.ifindex == 0 => "its interface is gone",
                () if !now.carrier => "it has no carrier",
                () => "it has no address",
            };
            (EventKind::UplinkDown, format!("uplink {} ({}) is down: {why}", now.name, now.interface))
        }
        (true, true) => {
            let former = former?;
            if former.addresses == now.addresses && former.gateways == now.gateways && former.ifindex == now.ifindex {
                return None;
            }
            let list = |addresses: &[IpAddr]| addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            let message = format!(
                "uplink {} ({}) changed: addresses {} by gateway {}",
                now.name,
                now.interface,
                list(&now.addresses),
                list(&now.gateways)
            );
            (EventKind::UplinkChanged, message)
        }
        (false, false) => return None,
    };
    Some(EngineEvent::new(kind, message))
}

/// The smaller of the two uplinks' MTUs less what the tunnel adds.
fn path_mtu(local: &LocalUplink, remote_mtu: u16, remote: &RemoteSite, tunnel: TunnelKey, bound: Option<u16>) -> u16 {
    // Without an endpoint the peer dials in, and the family isn't known: leave room for the larger header.
    let outer = remote.endpoint(tunnel, &local.addresses).map_or(IpAddr::from([0u16; 8]), |endpoint| endpoint.ip());
    let mtu = local.mtu.min(remote_mtu).saturating_sub(wireguard_overhead(outer));
    mtu.min(bound.unwrap_or(u16::MAX)).max(MINIMUM_MTU)
}
