//! Taking over what an earlier daemon left in the kernel, without a packet noticing.
//!
//! Programs, maps, tunnels and routes go on working while there is no daemon, with the data path's own liveness
//! detection. A new daemon leaves the maps alone until it knows as much as the old one did: which sites there are, which
//! tunnels exist, and which paths answer. A state published before would take away what carries packets.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};
use tracing::warn;

use super::core::{Core, Inbox};
use crate::engine::Time;
use crate::engine::input::Input;
use crate::engine::mtu::{How, Known};
use crate::engine::path::PathState;
use crate::engine::types::overhead;
use crate::measure::clock;
use crate::tunnel::tunnel_of_interface;

/// Remembered sites follow each other faster than this.
const RECALL: Duration = Duration::from_millis(100);
/// A large mesh never falls silent: what comes later than this is news.
const RECALL_MAX: Duration = Duration::from_secs(1);
/// When they were lost with the database, the others have introduced themselves again once nobody new was heard for so
/// long.
const REGAIN: Duration = Duration::from_secs(5);
/// By then a path that works has answered a few times.
const SETTLE: Duration = Duration::from_secs(1);

/// How far the take-over is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Sites and tunnels aren't known again yet: nothing is published.
    Recalling,
    /// There are tunnels, but no full memory of the sites that they lead to. Nothing is published; the data path goes by
    /// the others' probes.
    Regaining(Regain),
    /// Paths are probed; the maps stay as they are until all paths are up, or until this time.
    Settling(Time),
    /// Everything is published.
    Running,
}

/// What the sites are waited for by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Regain {
    /// Sites that are known.
    sites: usize,
    /// These are all, unless another one is heard before.
    complete: Time,
    /// By now a site that hasn't been heard isn't there.
    over: Time,
}

impl Regain {
    fn until(self) -> Time {
        // An empty state takes away every tunnel: that nobody was heard yet is no reason to publish one.
        if self.sites == 0 { self.over } else { self.complete.min(self.over) }
    }
}

impl Phase {
    /// What follows on [`Self::Recalling`]. `remembered`: the memory is whole. `patience`: a site that is silent for so
    /// long isn't there.
    fn after_recall(tunnels: bool, remembered: bool, sites: usize, patience: Duration, now: Time) -> Self {
        match (tunnels, remembered && sites > 0) {
            (false, _) => Self::Running,
            (true, true) => Self::Settling(now + SETTLE),
            (true, false) => Self::Regaining(Regain { sites, complete: now + REGAIN, over: now + patience }),
        }
    }

    /// What follows with so many sites known, and all paths up or not.
    fn next(self, sites: usize, all_up: bool, now: Time) -> Self {
        match self {
            Self::Regaining(mut regain) => {
                if sites > regain.sites {
                    regain.complete = now + REGAIN;
                }
                regain.sites = sites;
                match (now < regain.until(), sites) {
                    (true, _) => Self::Regaining(regain),
                    (false, 0) => Self::Running,
                    (false, _) => Self::Settling(now + SETTLE),
                }
            }
            Self::Settling(until) if all_up || now >= until => Self::Running,
            Self::Recalling | Self::Settling(_) | Self::Running => self,
        }
    }

    /// When it ends at the latest.
    pub(super) fn until(self) -> Option<Time> {
        match self {
            Self::Regaining(regain) => Some(regain.until()),
            Self::Settling(until) => Some(until),
            Self::Recalling | Self::Running => None,
        }
    }

    /// Whether tunnels and routes can be told what they should be.
    pub(super) fn knows_sites(self) -> bool {
        matches!(self, Self::Settling(_) | Self::Running)
    }
}

impl Core {
    /// Takes the sites that are remembered from before, and the tunnels that exist.
    pub(super) async fn recall(&mut self, inbox: &mut Inbox) {
        let end = Instant::now() + RECALL_MAX;
        while let Ok(Some(event)) = timeout_at(end.min(Instant::now() + RECALL), inbox.discovery.recv()).await {
            self.discovered(event);
        }
        let links = self.snapshot.links.values();
        let tunnels = links.filter_map(|link| Some((tunnel_of_interface(&link.name)?, link.ifindex)));
        self.interfaces = tunnels.collect();
        let ready = self.prober.reconcile(&self.interfaces);
        let now = clock::now();
        self.recall_choices(now);
        self.engine.handle(Input::Tunnels(ready), now);
        self.recall_mtus(now);
        let remembered = self.store.health().moved_aside.is_none();
        let patience = self.config.discovery.inactive_after;
        let sites = self.engine.sites().count();
        self.phase = Phase::after_recall(!self.interfaces.is_empty(), remembered, sites, patience, now);
    }

    /// Takes the path that each class is on: a daemon that starts knows too little to choose another.
    fn recall_choices(&mut self, now: Time) {
        let classes = self.engine.compilation().classes.len() as u32;
        match self.reader.taken(classes, self.config.dataplane.classes) {
            Ok(taken) if !taken.is_empty() => self.engine.handle(Input::Taken(taken), now),
            Ok(_) => {}
            Err(error) => warn!("the paths of the classes are chosen anew: {error}"),
        }
    }

    /// Takes the MTU of each path that is narrower than its interfaces: large packets shall not vanish again until the
    /// first search ends.
    fn recall_mtus(&mut self, now: Time) {
        if !self.config.mtu.enabled {
            return;
        }
        let mtus = self.reader.mtus();
        let mtus = mtus.unwrap_or_else(|error| {
            warn!("the MTUs of the paths are found anew: {error}");
            Vec::new()
        });
        for (path, mtu) in mtus {
            let Some(ipv6) = self.engine.outer_ipv6(&path) else { continue };
            if self.engine.path(&path).is_some_and(|known| mtu < known.mtu()) {
                let known = Known { size: mtu.saturating_add(overhead(ipv6)), how: How::Remembered, ipv6 };
                self.engine.handle(Input::PathMtu { path, known }, now);
            }
        }
    }

    /// Ends the take-over, or a phase of it, when it is time.
    pub(super) fn settle(&mut self) {
        if self.phase.until().is_none() {
            return;
        }
        let sites = self.engine.sites().count();
        let mut paths = self.engine.sites().flat_map(|site| site.paths());
        let all_up = paths.all(|(_, path)| path.state() == PathState::Up);
        drop(paths);
        let next = self.phase.next(sites, all_up, clock::now());
        let publish = next.knows_sites() && next != self.phase;
        self.phase = next;
        if publish {
            self.heartbeat();
            self.publish();
        }
    }
}

#[cfg(test)]
mod tests;
