//! Several sites on a simulated network in virtual time.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::discovery::core::{Core, Identity, Link, Origin, RESERVATION, Route, StoreRequest};
use crate::discovery::types::{DiscoveryConfig, DiscoveryEvent, PORT};
use crate::engine::types::SiteId;
use crate::trust::fixtures::{self, Site, at};
use crate::trust::keys::{IdentityKey, Secret};
use crate::trust::persist::{MemoryStore, SequenceStore};
use crate::trust::revocation::RevocationList;
use crate::trust::verifier::{Now, Refusal};

/// The only interface of each site.
pub const LINK: u32 = 1;
/// How often the simulated daemon looks whose tunnels are up.
const CONTROL: Duration = Duration::from_millis(100);

pub struct Node {
    pub site: Site,
    pub core: Core,
    pub store: MemoryStore,
    pub up: bool,
    pub seeds: Vec<SocketAddr>,
    pub multicast: bool,
    underlay: SocketAddr,
    overlay: SocketAddr,
    pub events: Vec<(Duration, DiscoveryEvent)>,
    /// Sites active according to the events.
    pub active: BTreeSet<SiteId>,
    pub neighbours: BTreeSet<usize>,
    pub sent: u64,
    pub sent_bytes: u64,
}

/// A datagram under way.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Flying {
    arrives: Duration,
    order: u64,
    to: usize,
    by_tunnel: bool,
    by_multicast: bool,
    source: SocketAddr,
    bytes: Arc<[u8]>,
}

pub struct Net {
    pub nodes: Vec<Node>,
    pub now: Duration,
    pub loss: f64,
    /// Sites of different islands don't hear each other.
    pub islands: BTreeMap<usize, u8>,
    /// Tunnels come up between sites that know each other.
    pub tunnels: bool,
    /// Every datagram sent: from, bytes.
    pub wire: Vec<(usize, Arc<[u8]>)>,
    flying: BinaryHeap<Reverse<Flying>>,
    order: u64,
    control: Duration,
    random: SmallRng,
}

impl Net {
    pub fn new() -> Self {
        Self {
            nodes: Vec::new(),
            now: Duration::ZERO,
            loss: 0.0,
            islands: BTreeMap::new(),
            tunnels: true,
            wire: Vec::new(),
            flying: BinaryHeap::new(),
            order: 0,
            control: CONTROL,
            random: SmallRng::seed_from_u64(1),
        }
    }

    /// Sites 1, 2, … that hear each other by multicast.
    pub fn by_multicast(count: u8) -> Self {
        let mut net = Self::new();
        for number in 1..=count {
            net.add(number, true, &[]);
        }
        net
    }

    /// Site 1, and further ones that know its address only.
    pub fn by_seed(count: u8) -> Self {
        let mut net = Self::new();
        for number in 1..=count {
            net.add(number, false, if number == 1 { &[] } else { &[1] });
        }
        net
    }

    pub fn add(&mut self, number: u8, multicast: bool, seeds: &[u8]) -> usize {
        let site = Site::new(number);
        let seeds: Vec<SocketAddr> = seeds.iter().map(|seed| SocketAddr::new(Site::underlay_of(*seed), PORT)).collect();
        let store = MemoryStore::default();
        let core = self.start(&site, &store, multicast, &seeds);
        let underlay = SocketAddr::new(site.underlay(), PORT);
        let overlay = SocketAddr::new(fixtures::mesh().overlay_address(site.id()), PORT);
        self.nodes.push(Node {
            underlay,
            overlay,
            site,
            core,
            store,
            up: true,
            seeds,
            multicast,
            events: Vec::new(),
            active: BTreeSet::new(),
            neighbours: BTreeSet::new(),
            sent: 0,
            sent_bytes: 0,
        });
        let index = self.nodes.len() - 1;
        self.settle(index);
        index
    }

    /// The process dies without a word.
    pub fn kill(&mut self, index: usize) {
        self.nodes[index].up = false;
        self.nodes[index].active.clear();
        self.nodes[index].neighbours.clear();
    }

    /// It starts again on what its store has.
    pub fn restart(&mut self, index: usize) {
        let node = &self.nodes[index];
        let core = self.start(&node.site, &node.store, node.multicast, &node.seeds);
        let node = &mut self.nodes[index];
        node.core = core;
        node.up = true;
        node.active.clear();
        node.neighbours.clear();
        self.settle(index);
    }

    fn start(&self, site: &Site, store: &MemoryStore, multicast: bool, seeds: &[SocketAddr]) -> Core {
        let mut store = store.clone();
        let now = self.moment();
        let first = store.reserve_own(RESERVATION, 1).unwrap();
        let identity = Identity {
            mesh: fixtures::mesh(),
            key: IdentityKey::from_secret(&Secret::new([site.number; 32])),
            certificate: site.certificate.clone(),
            revocations: RevocationList::default(),
        };
        let seed = u64::from(site.number) + now.monotonic.as_nanos() as u64;
        let mut core = Core::new(identity, DiscoveryConfig::default(), first..first + RESERVATION, seed, now);
        core.load(now, store.load().unwrap(), &store.load_revocations().unwrap());
        core.set_links(now, [Link { ifindex: LINK, multicast, seeds: true }]);
        core.set_seeds(now, seeds.to_vec());
        core.set_local(now, site.local.clone());
        core
    }

    pub fn moment(&self) -> Now {
        Now { monotonic: self.now, unix_ms: at(self.now.as_millis() as u64).unix_ms }
    }

    /// Runs for this long.
    pub fn run(&mut self, time: Duration) {
        self.run_until(time, |_| false);
    }

    /// Runs until the condition holds, at most this long. Returns how long it took.
    #[track_caller]
    pub fn run_until(&mut self, at_most: Duration, done: impl Fn(&Self) -> bool) -> Option<Duration> {
        let begin = self.now;
        let end = self.now + at_most;
        let mut turns = 0u64;
        loop {
            if done(self) {
                return Some(self.now - begin);
            }
            turns += 1;
            assert!(turns < 20_000_000, "the simulation does not come to rest");
            let arrival = self.flying.peek().map(|Reverse(flying)| flying.arrives);
            let deadline = self.nodes.iter().filter(|node| node.up).map(|node| node.core.next_deadline()).min();
            let next = [arrival, deadline, Some(self.control)].into_iter().flatten().min().unwrap();
            if next > end {
                self.now = end;
                return None;
            }
            self.now = self.now.max(next);
            self.turn();
        }
    }

    fn turn(&mut self) {
        while let Some(Reverse(flying)) = self.flying.peek()
            && flying.arrives <= self.now
        {
            let Some(Reverse(flying)) = self.flying.pop() else { break };
            if !self.nodes[flying.to].up {
                continue;
            }
            let origin = match (flying.by_tunnel, flying.by_multicast) {
                (true, _) => Origin::Overlay,
                (_, true) => Origin::Multicast(LINK),
                (_, false) => Origin::Unicast(LINK),
            };
            let now = self.moment();
            self.nodes[flying.to].core.receive(now, origin, flying.source, &flying.bytes);
            self.settle(flying.to);
        }
        for index in 0..self.nodes.len() {
            if self.nodes[index].up && self.nodes[index].core.next_deadline() <= self.now {
                let now = self.moment();
                self.nodes[index].core.handle_timeout(now);
                self.settle(index);
            }
        }
        if self.now >= self.control {
            self.control = self.now + CONTROL;
            self.control();
        }
    }

    /// What the daemon would do: a tunnel is up when both ends know each other and hear each other.
    fn control(&mut self) {
        for index in 0..self.nodes.len() {
            let wanted: BTreeSet<usize> = (0..self.nodes.len())
                .filter(|other| *other != index && self.tunnels && self.connected(index, *other))
                .filter(|other| self.knows(index, *other) && self.knows(*other, index))
                .collect();
            if self.nodes[index].up && wanted != self.nodes[index].neighbours {
                let neighbours: Vec<_> = wanted
                    .iter()
                    .map(|other| (self.nodes[*other].site.id(), self.nodes[*other].overlay.ip()))
                    .collect();
                let now = self.moment();
                self.nodes[index].core.set_neighbours(now, neighbours);
                self.nodes[index].neighbours = wanted;
                self.settle(index);
            }
        }
    }

    /// Carries away everything that a core put out.
    pub fn settle(&mut self, index: usize) {
        let now = self.moment();
        loop {
            let requests = self.nodes[index].core.store_requests();
            if requests.is_empty() {
                break;
            }
            for request in requests {
                let node = &mut self.nodes[index];
                match request {
                    StoreRequest::Record(records) => node.store.record(&records).unwrap(),
                    StoreRequest::Revocations(page) => node.store.record_revocations(&page).unwrap(),
                    StoreRequest::Forget(site) => node.store.forget(site).unwrap(),
                    StoreRequest::Reserve { at_least } => {
                        let first = node.store.reserve_own(RESERVATION, at_least).unwrap();
                        node.core.add_numbers(now, first, RESERVATION);
                    }
                }
            }
        }
        while let Some(event) = self.nodes[index].core.poll_event() {
            let node = &mut self.nodes[index];
            match &event {
                DiscoveryEvent::Site { site, .. } => {
                    node.active.insert(site.id);
                }
                other => {
                    if let Some(site) = other.sets_state_of() {
                        node.active.remove(&site);
                    }
                }
            }
            node.events.push((now.monotonic, event));
        }
        while let Some(transmit) = self.nodes[index].core.poll_transmit() {
            self.nodes[index].sent += 1;
            self.nodes[index].sent_bytes += transmit.bytes.len() as u64;
            self.wire.push((index, transmit.bytes.clone()));
            let Node { underlay, overlay, .. } = self.nodes[index];
            let others = (0..self.nodes.len()).filter(|other| *other != index && self.connected(index, *other));
            let receivers: Vec<usize> = match transmit.route {
                Route::Multicast { .. } => others.filter(|other| self.nodes[*other].multicast).collect(),
                Route::Unicast { to, .. } => others.filter(|other| self.nodes[*other].underlay == to).collect(),
                Route::Overlay { to } => others
                    .filter(|other| self.nodes[index].neighbours.contains(other))
                    .filter(|other| self.nodes[*other].overlay == to)
                    .collect(),
            };
            let by_tunnel = matches!(transmit.route, Route::Overlay { .. });
            let by_multicast = matches!(transmit.route, Route::Multicast { .. });
            for to in receivers {
                if self.random.random_bool(self.loss) {
                    continue;
                }
                self.order += 1;
                let delay = Duration::from_micros(self.random.random_range(4_000..6_000));
                let source = if by_tunnel { overlay } else { underlay };
                let bytes = transmit.bytes.clone();
                let arrives = self.now + delay;
                self.flying.push(Reverse(Flying {
                    arrives,
                    order: self.order,
                    to,
                    by_tunnel,
                    by_multicast,
                    source,
                    bytes,
                }));
            }
        }
    }

    /// A datagram from anywhere.
    pub fn inject(&mut self, to: usize, source: &str, bytes: &[u8]) {
        let now = self.moment();
        self.nodes[to].core.receive(now, Origin::Unicast(LINK), source.parse().unwrap(), bytes);
        self.settle(to);
    }

    fn connected(&self, a: usize, b: usize) -> bool {
        self.islands.get(&a).unwrap_or(&0) == self.islands.get(&b).unwrap_or(&0)
    }

    pub fn knows(&self, who: usize, whom: usize) -> bool {
        self.nodes[who].up && self.nodes[who].active.contains(&self.nodes[whom].site.id())
    }

    /// Every site that runs knows every other one that runs, and no other.
    pub fn is_complete(&self) -> bool {
        let up: BTreeSet<SiteId> = self.nodes.iter().filter(|node| node.up).map(|node| node.site.id()).collect();
        self.nodes.iter().filter(|node| node.up).all(|node| {
            let mut expected = up.clone();
            expected.remove(&node.site.id());
            node.active == expected
        })
    }

    pub fn refused(&self, index: usize, reason: Refusal) -> u64 {
        self.nodes[index].core.counters().refused_for(reason)
    }

    /// Every refusal so far, of all sites.
    pub fn all_refused(&self) -> u64 {
        self.nodes.iter().map(|node| node.core.counters().refused.iter().sum::<u64>()).sum()
    }
}
