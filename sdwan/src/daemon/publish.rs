//! What follows from the engine's decisions: what can't wait goes to the data path at once, change by change; everything
//! that should be goes to the reconcilers, which find the differences.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tracing::warn;

use super::adoption::Phase;
use super::core::Core;
use super::desired;
use super::early;
use super::plane::{Cause, Order};
use super::routes::RouteInput;
use crate::dataplane::Attachment;
use crate::dataplane::early::EarlyDesired;
use crate::engine::Time;
use crate::engine::input::Changes;
use crate::engine::path::PathState;
use crate::measure::clock;
use crate::tunnel::{BackendKind, tunnel_of_interface};

/// Making a whole state takes at most one part of so many of the core's time: in a large mesh, changes that follow each other
/// share one, and hardly an answer comes while one is made.
const SHARE: u32 = 200;
/// … and, where nothing is known to have changed, one of so many.
const REFRESH_SHARE: u32 = 1_000;

/// How much is to be published.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Extent {
    /// What follows from the states of paths and from path sets, but for the maps: they have the changes already.
    States,
    /// Everything.
    Everything,
}

/// When the next whole state is due, and how much of it.
#[derive(Debug, Default)]
pub(super) struct Publishing {
    due: Option<(Time, Extent)>,
    /// The last one was made then, …
    ended: Time,
    /// … and took so long.
    took: Duration,
    /// The last one of everything ended then, …
    whole_ended: Time,
    /// … and took so long.
    whole_took: Duration,
    /// An order found the queue full.
    refused: bool,
}

impl Publishing {
    /// When it is due.
    pub(super) fn at(&self) -> Option<Time> {
        self.due.map(|(at, _)| at)
    }

    fn request(&mut self, extent: Extent, now: Time) {
        let earliest = now.max(self.ended + self.took * (SHARE - 1));
        self.due = Some(self.due.map_or((earliest, extent), |(at, known)| (at, known.max(extent))));
    }

    fn take(&mut self, now: Time) -> Option<Extent> {
        let (_, extent) = self.due.take_if(|(at, _)| *at <= now)?;
        Some(extent)
    }

    fn done(&mut self, extent: Extent, began: Time, now: Time) {
        (self.ended, self.took) = (now, now.since(began));
        if extent == Extent::Everything {
            (self.whole_ended, self.whole_took) = (self.ended, self.took);
        }
    }

    /// Whether it is time for everything once more, although nothing is known to have changed.
    fn stale(&self, now: Time) -> bool {
        self.refused || now.since(self.whole_ended) >= self.whole_took * (REFRESH_SHARE - 1)
    }
}

impl Core {
    /// Carries out what the engine decided.
    pub(super) fn apply(&mut self, changes: Changes, cause: Cause) {
        if self.phase == Phase::Running {
            let urgent = desired::urgent(&self.engine, &self.interfaces, &changes);
            if !urgent.is_empty() {
                self.order(Order::Change(urgent, cause));
            }
        }
        for notice in &changes.notices {
            if let Some(site) = self.engine.site(&notice.path.site) {
                self.prober.tell(notice, site.remote().overlay);
            }
        }
        for event in changes.events {
            self.event(event);
        }
        if changes.topology || changes.rules {
            self.publish_soon(Extent::Everything);
        } else if !changes.sets.is_empty() || !changes.states.is_empty() {
            self.publish_soon(Extent::States);
        }
    }

    /// Has what should be published as soon as that doesn't take too much of the core's time.
    pub(super) fn publish_soon(&mut self, extent: Extent) {
        self.publishing.request(extent, clock::now());
    }

    /// Has everything published once more, in a large mesh not each time that this is called.
    pub(super) fn refresh(&mut self) {
        if self.publishing.stale(clock::now()) {
            self.publish_soon(Extent::Everything);
        }
    }

    /// Publishes what is due.
    pub(super) fn publish_due(&mut self) {
        if let Some(extent) = self.publishing.take(clock::now()) {
            self.publish_extent(extent);
        }
    }

    /// Publishes everything that should be; the reconcilers find the differences.
    pub(super) fn publish(&mut self) {
        self.publish_extent(Extent::Everything);
    }

    fn publish_extent(&mut self, extent: Extent) {
        let began = clock::now();
        self.overlays = self.engine.sites().map(|site| (site.remote().overlay, site.remote().id)).collect();
        if self.phase.knows_sites() {
            self.publish_network(extent);
        }
        if self.phase == Phase::Running && extent == Extent::Everything {
            self.publish_maps();
        }
        self.publishing.done(extent, began, clock::now());
    }

    fn publish_network(&self, extent: Extent) {
        if extent == Extent::Everything {
            let tunnels = desired::tunnels(&self.engine, self.config.tunnel.listen_port, *self.wireguard.secret());
            self.outbox.tunnels.send_if_modified(|current| {
                let changed = current.as_deref() != Some(&tunnels);
                if changed {
                    *current = Some(Arc::new(tunnels));
                }
                changed
            });
        }
        let routes = RouteInput {
            uplinks: self.engine.uplinks().to_vec(),
            tunnels: self.interfaces.clone(),
            remotes: desired::remote_routes(&self.engine),
        };
        self.outbox.routes.send_if_modified(|current| {
            let changed = current.as_deref() != Some(&routes);
            if changed {
                *current = Some(Arc::new(routes));
            }
            changed
        });
        let neighbours = self.engine.sites().filter(|site| {
            let mut paths = site.paths();
            paths.any(|(_, path)| path.state() == PathState::Up)
        });
        let neighbours = neighbours.map(|site| (site.remote().id, site.remote().overlay)).collect();
        self.outbox.discovery.set_neighbours(neighbours);
        self.outbox.mtu.publish(super::mtu::targets(&self.engine, &self.config, &self.wireguard));
        self.publish_capacity();
    }

    fn publish_maps(&mut self) {
        let outer_dscp = self.marks_outer();
        let (lan, clock) = (&self.lan, clock::wall_clock());
        let maps = desired::maps(&self.engine, &self.identity, &self.config, lan, &self.interfaces, outer_dscp, clock);
        let early = self.early();
        let attachments = self.attachments(&early);
        self.publishing.refused = false;
        self.order(Order::Apply(Arc::new(maps), Arc::new(early), Arc::new(attachments)));
    }

    /// Without a tunnel there is no session that the guard could have missed the beginning of: attached before the first one
    /// is made, it recognises all of them, and needs no time to learn.
    pub(super) async fn guard_first(&mut self) {
        if self.snapshot.links.values().any(|link| tunnel_of_interface(&link.name).is_some()) {
            return;
        }
        let mut early = self.early();
        early.guard.iter_mut().for_each(|guard| guard.learn = Duration::ZERO);
        let attachments = self.attachments(&early);
        let (done, guarded) = oneshot::channel();
        self.order(Order::Guard(Arc::new(early), Arc::new(attachments), done));
        // An error means that the thread has ended; what follows will show it.
        let _ = guarded.await;
    }

    /// What the XDP programs should know.
    fn early(&self) -> EarlyDesired {
        let wanted = self.engine.sites().flat_map(|site| site.paths().map(|(tunnel, _)| tunnel));
        let tunnels = self.interfaces.keys().copied().chain(wanted).collect();
        early::desired(&self.config, &self.lan, tunnels, &self.snapshot)
    }

    /// Which programs hang where.
    fn attachments(&self, early: &EarlyDesired) -> BTreeSet<Attachment> {
        let uplinks = self.engine.uplinks();
        let marked = if self.marks_outer() { uplinks } else { &[] };
        let mut attachments = desired::attachments(&self.lan, &self.interfaces, marked, &self.snapshot);
        attachments.extend(early::attachments(&self.config, early, uplinks, &self.snapshot));
        attachments
    }

    /// Whether encrypted packets get the DSCP of their class: another WireGuard than the kernel's keeps nothing of the
    /// packet inside.
    pub(super) fn marks_outer(&self) -> bool {
        self.config.tunnel.outer_dscp && self.tunnel_backend == BackendKind::Kernel
    }

    pub(super) fn order(&mut self, order: Order) {
        if !self.outbox.plane.order(order) && !self.publishing.refused {
            warn!("the kernel takes orders too slowly: the data path will be brought up to date later");
            self.publishing.refused = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn what_takes_long_to_make_is_made_seldom_and_changes_meanwhile_share_it() {
        let mut publishing = Publishing::default();
        let mut now = Time(1_000_000_000);
        publishing.request(Extent::States, now);
        assert_eq!(publishing.take(now), Some(Extent::States), "the first one at once");
        assert_eq!(publishing.take(now), None);
        publishing.done(Extent::States, now, now + MS * 5);
        now = now + MS * 6;
        for extent in [Extent::States, Extent::Everything, Extent::States] {
            publishing.request(extent, now);
        }
        assert_eq!(publishing.at(), Some(Time(1_000_000_000) + MS * 1_000));
        assert_eq!(publishing.take(now + MS * 993), None);
        assert_eq!(publishing.take(now + MS * 994), Some(Extent::Everything));
        publishing.request(Extent::States, now + MS * 9_000);
        assert_eq!(publishing.take(now + MS * 9_000), Some(Extent::States), "none was made for long");
    }

    #[test]
    fn everything_is_made_anew_seldom_where_that_takes_long_and_soon_where_an_order_was_refused() {
        let began = Time(1_000_000_000);
        let mut publishing = Publishing::default();
        publishing.done(Extent::Everything, began, began + MS * 20);
        publishing.done(Extent::States, began + MS * 100, began + MS * 101);
        let due = began + MS * 20 * REFRESH_SHARE;
        assert!(!publishing.stale(due - MS) && publishing.stale(due));
        publishing.refused = true;
        assert!(publishing.stale(began + MS * 200));
    }
}
