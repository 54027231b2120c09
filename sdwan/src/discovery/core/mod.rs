//! The sans-IO core of discovery: what to send to whom, when a site is active, what to tell.
//!
//! It owns no clock, no socket and no thread. The driver feeds it datagrams and changes with `now`, calls
//! [`Core::handle_timeout`] at [`Core::next_deadline`], and takes what comes out of [`Core::poll_transmit`],
//! [`Core::poll_event`] and [`Core::store_requests`].
//!
//! A site's state as seen from here:
//!
//! ```text
//!            announcement            silent 120 s              announcement (newer)
//! unknown ------------------> active --------------> inactive ----------------------> active
//!                               | leave, revoked, expired, overlay address lost
//!                               v
//!                             gone  (its last sequence number is remembered) --announcement (newer)--> active
//! ```

mod announce;
mod gossip;
mod outbox;
mod receive;
mod refusals;
mod sources;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::SmallRng;

pub use self::announce::RESERVATION;
use self::gossip::SyncItem;
use self::outbox::Outbox;
pub use self::outbox::{Route, StoreRequest, Transmit};
use self::refusals::RefusalLog;
use self::sources::ProvenSources;
use super::types::{
    AnnouncementInfo, DiscoveryConfig, DiscoveryCounters, DiscoveryEvent, DiscoveryLimits, Removal, Timers,
};
use crate::engine::types::{RemoteSite, SiteId};
use crate::trust::announcement::LocalAnnouncement;
use crate::trust::certificate::Certificate;
use crate::trust::keys::IdentityKey;
use crate::trust::mesh::Mesh;
use crate::trust::persist::{StoredAnnouncement, StoredRevocations};
use crate::trust::revocation::{RevocationList, RevocationPage, Revoked};
use crate::trust::verifier::limits::{Bucket, Rate};
use crate::trust::verifier::{Now, Verified, Verifier};

/// Sites, refusals and sources are looked through this often.
const HOUSEKEEPING: Duration = Duration::from_secs(1);
/// How long a silent site is still spoken to at its last addresses.
const REMEMBERED: Duration = Duration::from_secs(86_400);
/// Answers to datagrams with old numbers, for all sources together.
const CORRECTIONS: Rate = Rate { per_second: 10.0, burst: 20.0 };

/// How a datagram arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// To the multicast group, through this interface (index).
    Multicast(u32),
    /// To an address of this interface (index).
    Unicast(u32),
    /// To the overlay address, through a tunnel.
    Overlay,
}

/// An interface, as far as the core cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Interface index.
    pub ifindex: u32,
    /// Speaks multicast.
    pub multicast: bool,
    /// Leads to seeds.
    pub seeds: bool,
}

/// Who this site is.
pub struct Identity {
    /// The mesh.
    pub mesh: Mesh,
    /// The site's key.
    pub key: IdentityKey,
    /// The site's certificate.
    pub certificate: Certificate,
    /// Revocations known from files.
    pub revocations: RevocationList,
}

/// A site that was heard.
struct Heard {
    /// When an announcement was last accepted.
    last: Duration,
    /// Whether it counts as active.
    active: bool,
    /// Its addresses on the underlay.
    addresses: Vec<IpAddr>,
    /// Sources that the last announcement proved by being repeated.
    proofs: u8,
    /// An older announcement than the last came from its addresses: it may have lost its store.
    behind: bool,
    /// It was behind before the last announcement, so that it may know nobody.
    forgetful: bool,
}

/// The core.
pub struct Core {
    config: DiscoveryConfig,
    verifier: Verifier,
    key: IdentityKey,
    certificate: Certificate,

    local: Option<LocalAnnouncement>,
    numbers: Range<u64>,
    /// Largest number used with this site's identity, here or elsewhere.
    spoken: u64,
    reserving: bool,
    current: Option<Arc<[u8]>>,
    changed_at: Option<Duration>,
    announce_at: Option<Duration>,
    repeats: BTreeSet<Duration>,
    overtaken_at: Option<Duration>,
    gone: bool,

    links: BTreeMap<u32, Link>,
    seeds: Vec<SocketAddr>,
    neighbours: BTreeMap<SiteId, IpAddr>,
    neighbour_addresses: HashSet<IpAddr>,
    sites: HashMap<SiteId, Heard>,
    sources: ProvenSources,

    sync: VecDeque<SyncItem>,
    sync_pace: Bucket,
    gossip_pace: Bucket,
    correction_pace: Bucket,
    anti_entropy_at: Duration,
    page_turn: u8,

    housekeeping_at: Duration,
    refusals: RefusalLog,
    outbox: Outbox,
    counters: DiscoveryCounters,
    random: SmallRng,
}

impl Core {
    /// A core that knows nothing yet. `numbers`: sequence numbers reserved for this site. `seed` of the random numbers
    /// for jitter and the choice of gossip targets; not used for secrets.
    pub fn new(identity: Identity, config: DiscoveryConfig, numbers: Range<u64>, seed: u64, now: Now) -> Self {
        let Identity { mesh, key, certificate, revocations } = identity;
        let limits = config.limits;
        let mut verifier = Verifier::new(mesh, key.site(), revocations, limits.verifier);
        // The first look has nothing to tell: the clock is believed.
        verifier.look_at_clocks(now);
        verifier.set_own_sequence(numbers.start.saturating_sub(1));
        let monotonic = now.monotonic;
        Self {
            verifier,
            key,
            certificate,
            local: None,
            spoken: numbers.start.saturating_sub(1),
            reserving: false,
            current: None,
            changed_at: None,
            announce_at: None,
            repeats: BTreeSet::new(),
            overtaken_at: None,
            gone: false,
            links: BTreeMap::new(),
            seeds: Vec::new(),
            neighbours: BTreeMap::new(),
            neighbour_addresses: HashSet::new(),
            sites: HashMap::new(),
            sources: ProvenSources::new(limits.proven_sources, config.timers.proven),
            sync: VecDeque::new(),
            sync_pace: Bucket::new(limits.sync, monotonic),
            gossip_pace: Bucket::new(limits.gossip, monotonic),
            correction_pace: Bucket::new(CORRECTIONS, monotonic),
            anti_entropy_at: monotonic + config.timers.anti_entropy,
            page_turn: 0,
            housekeeping_at: monotonic + HOUSEKEEPING,
            refusals: RefusalLog::default(),
            outbox: Outbox::default(),
            counters: DiscoveryCounters::default(),
            random: SmallRng::seed_from_u64(seed),
            numbers,
            config,
        }
    }

    /// Takes what was stored before a restart: sites that are still good become active at once.
    pub fn load(&mut self, now: Now, announcements: Vec<StoredAnnouncement>, pages: &[StoredRevocations]) {
        let mut list = RevocationList::default();
        for stored in pages {
            if let Ok(page) = RevocationPage::decode_datagram(&stored.bytes) {
                list.insert(page);
            }
        }
        self.verifier.add_revocations(&list);
        let recalled = self.verifier.load(now, announcements);
        for verified in recalled.active {
            self.note_site(now, &verified, None, false);
        }
        for (site, name, why) in recalled.ended {
            let why = if why == crate::trust::Refusal::Revoked { Removal::Revoked } else { Removal::Expired };
            self.outbox.request(StoreRequest::Forget(site));
            self.outbox.event(DiscoveryEvent::NotRecalled { site, name, why });
        }
    }

    /// Sets the interfaces. New ones are spoken on at once.
    pub fn set_links(&mut self, now: Now, links: impl IntoIterator<Item = Link>) {
        let links: BTreeMap<u32, Link> = links.into_iter().map(|link| (link.ifindex, link)).collect();
        let new = links.values().any(|link| self.links.get(&link.ifindex) != Some(link));
        self.links = links;
        self.sources.retain(now.monotonic, |link| self.links.contains_key(&link));
        if new {
            self.repeat_soon(now.monotonic);
        }
    }

    /// Sets the seeds. New ones are spoken to at once.
    pub fn set_seeds(&mut self, now: Now, mut seeds: Vec<SocketAddr>) {
        seeds.sort_unstable();
        seeds.dedup();
        let new = seeds.iter().any(|seed| !self.seeds.contains(seed));
        self.seeds = seeds;
        if new {
            self.repeat_soon(now.monotonic);
        }
    }

    /// Sets the sites that tunnels lead to, with their overlay addresses. New ones are told what is known.
    pub fn set_neighbours(&mut self, now: Now, neighbours: impl IntoIterator<Item = (SiteId, IpAddr)>) {
        let neighbours: BTreeMap<SiteId, IpAddr> = neighbours.into_iter().collect();
        let new: Vec<SiteId> = neighbours
            .iter()
            .filter(|(site, at)| self.neighbours.get(site) != Some(at))
            .map(|(site, _)| *site)
            .collect();
        self.neighbours = neighbours;
        self.neighbour_addresses = self.neighbours.values().copied().collect();
        for site in new {
            self.greet_neighbour(now, site);
        }
    }

    /// Adds revocations that the operator installed.
    pub fn add_revocations(&mut self, now: Now, list: &RevocationList) {
        let (pages, removed) = self.verifier.add_revocations(list);
        for page in pages {
            self.new_page(now, page, None);
        }
        self.remove_sites(&removed, Removal::Revoked);
    }

    /// When [`Self::handle_timeout`] is due next, on the monotonic clock.
    pub fn next_deadline(&self) -> Duration {
        let idle = self.sites.is_empty() && self.refusals.is_empty() && self.sources.is_empty();
        let sync = (!self.sync.is_empty()).then(|| self.sync_pace.ready_at());
        [
            self.changed_at.map(|at| at + self.config.timers.debounce),
            self.announce_at,
            self.repeats.first().copied(),
            sync,
            (!idle).then_some(self.housekeeping_at),
            Some(self.anti_entropy_at),
        ]
        .into_iter()
        .flatten()
        .min()
        .unwrap_or(self.anti_entropy_at)
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Now) {
        self.announce_if_due(now);
        self.drain_sync(now);
        if now.monotonic >= self.anti_entropy_at {
            self.anti_entropy(now);
        }
        if now.monotonic >= self.housekeeping_at {
            self.housekeeping_at = now.monotonic + HOUSEKEEPING;
            self.housekeeping(now);
        }
    }

    /// The next datagram to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.outbox.next_transmit()
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<DiscoveryEvent> {
        self.outbox.next_event()
    }

    /// Whether [`Self::poll_event`] has one.
    pub fn has_events(&self) -> bool {
        self.outbox.has_events()
    }

    /// Queues an event of the driver's.
    pub fn tell(&mut self, event: DiscoveryEvent) {
        self.outbox.event(event);
    }

    /// What is to be stored since the last call, in order.
    pub fn store_requests(&mut self) -> Vec<StoreRequest> {
        self.outbox.drain_requests()
    }

    /// Whether [`Self::store_requests`] has any.
    pub fn has_store_requests(&self) -> bool {
        self.outbox.has_requests()
    }

    /// Counters.
    pub fn counters(&self) -> DiscoveryCounters {
        let verifier = self.verifier.counters();
        DiscoveryCounters {
            transmit_dropped: self.counters.transmit_dropped + self.outbox.transmit_dropped,
            events_dropped: self.outbox.events_dropped,
            verifications: verifier.verifications,
            certificate_hits: verifier.certificate_hits,
            evicted: verifier.certificates_evicted
                + verifier.sources_evicted
                + verifier.sites_evicted
                + self.sources.evicted,
            ..self.counters.clone()
        }
    }

    /// Ids of the active sites.
    pub fn active_sites(&self) -> impl Iterator<Item = SiteId> + '_ {
        self.sites.iter().filter(|(_, heard)| heard.active).map(|(site, _)| *site)
    }

    /// An active site as it described itself last.
    pub fn site(&self, site: SiteId) -> Option<&RemoteSite> {
        self.verifier.site(site)
    }

    fn limits(&self) -> &DiscoveryLimits {
        &self.config.limits
    }

    fn timers(&self) -> &Timers {
        &self.config.timers
    }

    fn transmit(&mut self, route: Route, bytes: Arc<[u8]>) {
        self.outbox.transmit(self.config.limits.transmit_queue, route, bytes);
    }

    /// A site is active with what it says now.
    fn note_site(&mut self, now: Now, verified: &Verified, source: Option<IpAddr>, by_tunnel: bool) {
        let site = &verified.site;
        if let Some(loser) = verified.displaced {
            self.remove_sites(&[loser], Removal::OverlayCollision);
        }
        let addresses = site.uplinks.iter().flat_map(|uplink| uplink.addresses.iter().copied()).collect();
        let forgetful = self.sites.get(&site.id).is_some_and(|heard| heard.behind);
        let heard = Heard { last: now.monotonic, active: true, addresses, proofs: 0, behind: false, forgetful };
        self.sites.insert(site.id, heard);
        if verified.changed {
            let announcement = AnnouncementInfo {
                sequence: verified.sequence,
                made_unix_ms: verified.made_unix_ms,
                not_after: verified.admitted.certificate.content.not_after,
                source,
                by_tunnel,
            };
            self.outbox.event(DiscoveryEvent::Site { site: Box::new(site.clone()), announcement });
        } else {
            self.outbox.event(DiscoveryEvent::Heard { site: site.id });
        }
    }

    fn remove_sites(&mut self, sites: &[SiteId], why: Removal) {
        for site in sites {
            self.sites.remove(site);
            self.sources.forget_site(*site);
            if why != Removal::OverlayCollision {
                self.outbox.request(StoreRequest::Forget(*site));
            }
            self.outbox.event(DiscoveryEvent::Removed { site: *site, why });
        }
    }

    fn housekeeping(&mut self, now: Now) {
        for event in self.refusals.tick(now.monotonic) {
            self.outbox.event(event);
        }
        if let Some(change) = self.verifier.look_at_clocks(now) {
            self.outbox.event(DiscoveryEvent::Clock(change));
        }
        let expired = self.verifier.expire(now);
        self.remove_sites(&expired, Removal::Expired);

        let silent = self.timers().silent;
        let is_silent = |heard: &Heard| heard.active && now.monotonic >= heard.last + silent;
        let fallen: Vec<SiteId> =
            self.sites.iter().filter(|(_, heard)| is_silent(heard)).map(|(site, _)| *site).collect();
        for site in fallen {
            if let Some(heard) = self.sites.get_mut(&site) {
                heard.active = false;
            }
            self.verifier.deactivate(site);
            self.outbox.event(DiscoveryEvent::Inactive { site });
        }
        self.sites.retain(|_, heard| heard.active || now.monotonic < heard.last + REMEMBERED);
        self.sources.retain(now.monotonic, |link| self.links.contains_key(&link));
    }

    fn own_certificate_revoked(&self) -> bool {
        let list = self.verifier.revocations();
        list.contains(Revoked::Site(self.certificate.site)) || list.revokes(&self.certificate)
    }
}

#[cfg(test)]
mod tests;
