//! Passing on what others said.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use rand::Rng;
use rand::seq::{IndexedRandom, IteratorRandom, SliceRandom};

use super::sources::SourceKey;
use super::{Core, Route, StoreRequest};
use crate::discovery::types::DiscoveryEvent;
use crate::engine::types::SiteId;
use crate::trust::persist::StoredRevocations;
use crate::trust::revocation::{PAGES_MAX, RevocationPage};
use crate::trust::verifier::Now;

/// Targets of one round of anti-entropy, and announcements for each.
const ANTI_ENTROPY: usize = 4;
/// A newcomer is told at least this many sites (if that many are known), whoever else greets it.
const GREETING_MIN: usize = 16;
/// All neighbours together tell a newcomer about this many.
const GREETING_ALL: usize = 4_096;

/// To whom something is passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// A site with a tunnel.
    Neighbour(SiteId),
    /// A proven source on the underlay.
    Source(SourceKey),
}

/// What is passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Item {
    Own,
    Site(SiteId),
    Page(u8),
}

/// A piece of the queue for newcomers and anti-entropy.
pub(super) struct SyncItem(Target, Item);

impl Core {
    /// News of a site: at once to those who may not have it. `from`: where it came from.
    pub(super) fn pass_on(&mut self, now: Now, site: SiteId, bytes: &Arc<[u8]>, changed: bool, from: Route) {
        let mut targets: Vec<Route> = self
            .neighbours
            .iter()
            .filter(|(neighbour, _)| **neighbour != site)
            .map(|(_, address)| self.overlay_route(*address))
            .collect();
        let others = self.lone_sources().filter(|(_, owner)| *owner != Some(site));
        targets.extend(others.map(|(key, _)| Route::Unicast { link: key.link, to: key.address }));
        targets.retain(|route| *route != from);
        // A hash map's order differs from run to run; the choice must depend on the seed alone.
        targets.sort_unstable();
        let fanout = if changed { self.limits().fanout_changed } else { self.limits().fanout_unchanged };
        let chosen: Vec<Route> = targets.choose_multiple(&mut self.random, fanout).copied().collect();
        for route in chosen {
            if self.gossip_pace.take(now.monotonic) {
                self.transmit(route, bytes.clone());
            } else {
                self.counters.transmit_dropped += 1;
            }
        }
    }

    /// A page of revocations that is new here.
    pub(super) fn new_page(&mut self, now: Now, page: RevocationPage, from: Option<Route>) {
        let entries = self.verifier.revocations().entries().count();
        self.outbox.event(DiscoveryEvent::RevocationsUpdated { page: page.page, number: page.number, entries });
        self.outbox.request(StoreRequest::Revocations(StoredRevocations {
            page: page.page,
            number: page.number,
            bytes: page.bytes().clone(),
        }));
        if self.gossip_pace.take(now.monotonic) {
            self.send_everywhere(page.bytes(), from.as_slice());
        }
        if self.own_certificate_revoked() {
            self.outbox.event(DiscoveryEvent::OwnCertificateRevoked);
        }
    }

    /// With each announcement one page of the revocation list goes out, so that all of it comes around.
    pub(super) fn send_page_in_turn(&mut self) {
        let next = (0..PAGES_MAX)
            .map(|step| (self.page_turn + step) % PAGES_MAX)
            .find_map(|index| self.verifier.revocations().page(index).map(|page| (index, page.bytes().clone())));
        if let Some((index, bytes)) = next {
            self.page_turn = (index + 1) % PAGES_MAX;
            self.send_everywhere(&bytes, &[]);
        }
    }

    /// A tunnel to this site is new: it is told about us, and what we know.
    pub(super) fn greet_neighbour(&mut self, now: Now, site: SiteId) {
        self.greet(Target::Neighbour(site));
        // The first packets may be lost while the tunnel settles.
        self.repeat_soon(now.monotonic);
        self.drain_sync(now);
    }

    /// A source is new: it is told about us, and what we know.
    pub(super) fn greet_source(&mut self, now: Now, key: SourceKey) {
        self.greet(Target::Source(key));
        self.drain_sync(now);
    }

    /// Answers a source with our announcement.
    pub(super) fn answer(&mut self, key: SourceKey) {
        if let Some(bytes) = self.current.clone() {
            self.transmit(Route::Unicast { link: key.link, to: key.address }, bytes);
        }
    }

    /// Sends from the queue as fast as its pace allows.
    pub(super) fn drain_sync(&mut self, now: Now) {
        while let Some(SyncItem(target, item)) = self.sync.front() {
            let (target, item) = (*target, *item);
            let ready = self.route_to(target).zip(self.bytes_of(item, target));
            if let Some((route, bytes)) = ready {
                if !self.sync_pace.take(now.monotonic) {
                    return;
                }
                self.transmit(route, bytes);
            }
            self.sync.pop_front();
        }
    }

    /// A few known announcements and a page of revocations to a few others, chosen at random.
    pub(super) fn anti_entropy(&mut self, now: Now) {
        let interval = self.timers().anti_entropy;
        self.anti_entropy_at = now.monotonic + interval.mul_f64(self.random.random_range(0.8..=1.2));
        let mut targets: Vec<Target> = self.neighbours.keys().copied().map(Target::Neighbour).collect();
        let mut sources: Vec<SourceKey> = self.lone_sources().map(|(key, _)| key).collect();
        sources.sort_unstable();
        targets.extend(sources.into_iter().map(Target::Source));
        let chosen: Vec<Target> = targets.choose_multiple(&mut self.random, ANTI_ENTROPY).copied().collect();
        for target in chosen {
            let mut known: Vec<SiteId> = self.active_sites().collect();
            known.sort_unstable();
            let some: Vec<SiteId> = known.choose_multiple(&mut self.random, ANTI_ENTROPY).copied().collect();
            let page = self.verifier.revocations().pages().map(|page| page.page).choose(&mut self.random);
            let items = some.into_iter().map(Item::Site).chain(page.map(Item::Page));
            self.queue(target, items.collect());
        }
        self.drain_sync(now);
    }

    /// Proven sources, and whose each is, without those of sites that are reached through a tunnel anyway.
    pub(super) fn lone_sources(&self) -> impl Iterator<Item = (SourceKey, Option<SiteId>)> + '_ {
        let has_tunnel = |site: Option<SiteId>| site.is_some_and(|site| self.neighbours.contains_key(&site));
        self.sources.iter().filter(move |(_, site)| !has_tunnel(*site))
    }

    pub(super) fn overlay_route(&self, address: IpAddr) -> Route {
        Route::Overlay { to: SocketAddr::new(address, self.config.port) }
    }

    fn greet(&mut self, target: Target) {
        let mut known: Vec<SiteId> = self.active_sites().collect();
        known.sort_unstable();
        known.shuffle(&mut self.random);
        known.truncate(GREETING_MIN.max(GREETING_ALL / (self.neighbours.len() + 1)));
        let pages = self.verifier.revocations().pages().map(|page| Item::Page(page.page));
        let items = std::iter::once(Item::Own).chain(pages).chain(known.into_iter().map(Item::Site)).collect();
        self.queue(target, items);
    }

    fn queue(&mut self, target: Target, items: Vec<Item>) {
        for item in items {
            if self.sync.len() >= self.limits().sync_queue {
                self.counters.transmit_dropped += 1;
            } else {
                self.sync.push_back(SyncItem(target, item));
            }
        }
    }

    fn route_to(&self, target: Target) -> Option<Route> {
        match target {
            Target::Neighbour(site) => self.neighbours.get(&site).map(|address| self.overlay_route(*address)),
            Target::Source(key) => {
                self.sources.contains(&key).then_some(Route::Unicast { link: key.link, to: key.address })
            }
        }
    }

    fn bytes_of(&self, item: Item, target: Target) -> Option<Arc<[u8]>> {
        match item {
            Item::Own => self.current.clone(),
            // Nobody needs to be told about itself.
            Item::Site(site) if target == Target::Neighbour(site) => None,
            Item::Site(site) if !self.sites.get(&site).is_some_and(|heard| heard.active) => None,
            Item::Site(site) => self.verifier.last_datagram(site).cloned(),
            Item::Page(page) => self.verifier.revocations().page(page).map(|page| page.bytes().clone()),
        }
    }
}
