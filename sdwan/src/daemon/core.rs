//! The core task: owns the engine and the prober, takes everything that comes in, and publishes what follows.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tracing::{debug, info, warn};

use super::adoption::Phase;
use super::capacity::{CapacityFound, CapacityHandle};
use super::desired::{self, Identity, heartbeat_stale};
use super::mtu::Mtu;
use super::plane::{Order, Plane, PlaneStatus};
use super::policies::Policies;
use super::routes::RouteInput;
use super::storage::StorageWatch;
use super::views::SiteFacts;
use crate::api::request::{Reply, Request};
use crate::api::views::DoneView;
use crate::config::Config;
use crate::dataplane::desired::LanIngress;
use crate::dataplane::{PlaneEvent, Reader};
use crate::discovery::{DiscoveryEvent, DiscoveryHandle};
use crate::engine::Time;
use crate::engine::events::{EngineEvent, EventKind};
use crate::engine::input::{Changes, Gone, Input};
use crate::engine::mtu::Known;
use crate::engine::path::PathState;
use crate::engine::types::{PathKey, SiteId, TunnelKey};
use crate::measure::notice::Noticed;
use crate::measure::{ProbeCounters, Prober, Received, clock};
use crate::net::{NetSnapshot, UplinkSpec};
use crate::recording::RecordedEngine;
use crate::store::{FlowSample, Record, SiteRecord, Store};
use crate::trust::clock::ClockChange;
use crate::tunnel::{BackendKind, DesiredTunnels, TunnelReport};

/// How often everything is put before the reconcilers again, so that detection times follow the jitter and what was
/// refused by a full queue arrives after all.
const REFRESH: Duration = Duration::from_secs(5);
/// How often the state of each path is recorded; what the store's retention is made for.
pub const RECORD: Duration = Duration::from_secs(10);
/// How often the engine is told which sites have live traffic.
const TRAFFIC: Duration = Duration::from_secs(1);
/// After a pause the heartbeat waits for answers by the longest path, and no longer than this.
const LONG_WAY: Duration = Duration::from_secs(1);
/// Replies taken between two looks at the clock.
const REPLIES_AT_ONCE: usize = 256;

/// Everything that comes in.
pub struct Inbox {
    /// Answers to probes.
    pub replies: mpsc::Receiver<Received>,
    /// What peers say of their uplinks.
    pub notices: mpsc::Receiver<Noticed>,
    /// Capacities that were found.
    pub capacities: mpsc::Receiver<CapacityFound>,
    /// Questions of the API.
    pub requests: mpsc::Receiver<Request>,
    /// What discovery tells.
    pub discovery: mpsc::Receiver<DiscoveryEvent>,
    /// What becomes known of path MTUs.
    pub mtus: mpsc::Receiver<(PathKey, Known)>,
    /// What the programs tell.
    pub plane_events: mpsc::Receiver<PlaneEvent>,
    /// The kernel's network.
    pub snapshots: watch::Receiver<Arc<NetSnapshot>>,
    /// The tunnels.
    pub tunnels: watch::Receiver<Arc<TunnelReport>>,
    /// The data path.
    pub plane: watch::Receiver<PlaneStatus>,
    /// The order to stop.
    pub stop: oneshot::Receiver<()>,
}

/// Where the core publishes what should be.
pub struct Outbox {
    /// The tunnels.
    pub tunnels: watch::Sender<Option<Arc<DesiredTunnels>>>,
    /// Rules and routes.
    pub routes: watch::Sender<Option<Arc<RouteInput>>>,
    /// The maps.
    pub plane: Plane,
    /// Discovery.
    pub discovery: DiscoveryHandle,
    /// The search for path MTUs.
    pub mtu: Mtu,
    /// Capacity measurements.
    pub capacity: CapacityHandle,
    /// Who wants a reload.
    pub reloads: mpsc::Sender<Reply<DoneView>>,
}

/// How the core ended.
pub enum Exit {
    /// Everything stays in the kernel and goes on.
    Stop,
    /// Everything is to be removed; the asker waits.
    Down(Reply<DoneView>),
}

/// The core's state.
pub struct Core {
    pub(super) config: Config,
    pub(super) identity: Identity,
    pub(super) engine: RecordedEngine,
    pub(super) policies: Policies,
    pub(super) store: Store,
    pub(super) prober: Prober,
    pub(super) reader: Reader,
    /// For scans of the flow table, in threads of their own.
    pub(super) scanner: Arc<Mutex<Reader>>,
    pub(super) facts: BTreeMap<SiteId, SiteFacts>,
    pub(super) started: Time,
    pub(super) started_unix_ms: u64,
    pub(super) certificate_expires_unix: u64,
    pub(super) mesh: crate::engine::types::MeshId,
    pub(super) tunnel_report: Arc<TunnelReport>,
    pub(super) tunnel_backend: BackendKind,
    pub(super) plane_status: PlaneStatus,
    pub(super) outbox: Outbox,
    specs: Vec<UplinkSpec>,
    wireguard: crate::trust::keys::WireGuardKey,
    pub(super) snapshot: Arc<NetSnapshot>,
    /// The tunnels that exist, by interface index.
    pub(super) interfaces: BTreeMap<TunnelKey, u32>,
    lan: Vec<LanIngress>,
    overlays: HashMap<IpAddr, SiteId>,
    /// A full state is due: an order found the queue full.
    plane_due: bool,
    pub(super) phase: Phase,
    pub(super) history: super::history::History,
    pub(super) traffic: super::traffic::Traffic,
    pub(super) moves: super::moves::Moves,
    /// Why the wall clock is doubted, if it is.
    pub(super) clock_doubt: Option<String>,
}

/// What a core is made from.
pub struct Parts {
    /// The configuration.
    pub config: Config,
    /// Who this site is.
    pub identity: Identity,
    /// The mesh.
    pub mesh: crate::engine::types::MeshId,
    /// End of the certificate, Unix time in s.
    pub certificate_expires_unix: u64,
    /// The engine.
    pub engine: RecordedEngine,
    /// The policies.
    pub policies: Policies,
    /// The store.
    pub store: Store,
    /// The prober.
    pub prober: Prober,
    /// Read access to the maps.
    pub reader: Reader,
    /// The same for what takes long.
    pub scanner: Reader,
    /// The uplinks as configured or found.
    pub specs: Vec<UplinkSpec>,
    /// This site's WireGuard key.
    pub wireguard: crate::trust::keys::WireGuardKey,
    /// Which WireGuard carries the tunnels.
    pub tunnel_backend: BackendKind,
    /// Where to publish.
    pub outbox: Outbox,
}

impl Core {
    /// A core that has seen nothing yet.
    pub fn new(parts: Parts) -> Self {
        Self {
            config: parts.config,
            identity: parts.identity,
            engine: parts.engine,
            policies: parts.policies,
            store: parts.store,
            prober: parts.prober,
            reader: parts.reader,
            scanner: Arc::new(Mutex::new(parts.scanner)),
            facts: BTreeMap::new(),
            started: clock::now(),
            started_unix_ms: clock::unix_ns() / 1_000_000,
            certificate_expires_unix: parts.certificate_expires_unix,
            mesh: parts.mesh,
            tunnel_report: Arc::default(),
            tunnel_backend: parts.tunnel_backend,
            plane_status: PlaneStatus::default(),
            outbox: parts.outbox,
            specs: parts.specs,
            wireguard: parts.wireguard,
            snapshot: Arc::default(),
            interfaces: BTreeMap::new(),
            lan: Vec::new(),
            overlays: HashMap::new(),
            plane_due: false,
            phase: Phase::Recalling,
            history: super::history::History::default(),
            traffic: super::traffic::Traffic::default(),
            moves: super::moves::Moves::default(),
            clock_doubt: None,
        }
    }

    /// Works until told to stop.
    pub async fn run(mut self, mut inbox: Inbox) -> (Self, Exit) {
        let mut heartbeat = interval(heartbeat_stale(self.engine.settings()) / 4);
        let mut refresh = interval(REFRESH);
        let mut record = interval(RECORD);
        let mut traffic = interval(TRAFFIC);
        let mut moves = interval(super::moves::LOOK);
        let (counts, mut counted) = mpsc::channel(1);
        let mut storage = StorageWatch::new(&self.store);
        for timer in [&mut heartbeat, &mut refresh, &mut record, &mut traffic, &mut moves] {
            timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        }
        let snapshot = inbox.snapshots.borrow_and_update().clone();
        self.network_changed(snapshot);
        self.recall(&mut inbox).await;
        self.publish();
        loop {
            // Answers before deadlines: after a pause of this task both are there.
            for _ in 0..REPLIES_AT_ONCE {
                let Ok(received) = inbox.replies.try_recv() else { break };
                self.reply(received);
            }
            self.work();
            self.settle();
            let deadline = self.until_deadline();
            tokio::select! {
                biased;
                _ = &mut inbox.stop => return (self, Exit::Stop),
                Some(noticed) = inbox.notices.recv() => self.noticed(noticed),
                Some(received) = inbox.replies.recv() => self.reply(received),
                () = sleep_until(deadline) => {}
                _ = heartbeat.tick() => self.heartbeat(),
                Ok(()) = inbox.snapshots.changed() => {
                    let snapshot = inbox.snapshots.borrow_and_update().clone();
                    self.network_changed(snapshot);
                }
                Ok(()) = inbox.tunnels.changed() => {
                    let report = inbox.tunnels.borrow_and_update().clone();
                    self.tunnels_changed(report);
                }
                Ok(()) = inbox.plane.changed() => {
                    let status = inbox.plane.borrow_and_update().clone();
                    self.plane_changed(status);
                }
                Some((path, known)) = inbox.mtus.recv() => {
                    self.engine.handle(Input::PathMtu { path, known }, clock::now());
                }
                Some(event) = inbox.discovery.recv() => self.discovered(event),
                Some((path, direction, estimate)) = inbox.capacities.recv() => {
                    self.engine.handle(Input::Capacity { path, direction, estimate }, clock::now());
                }
                Some(event) = inbox.plane_events.recv() => self.plane_event(event),
                Some(request) = inbox.requests.recv() => {
                    if let Request::Down(reply) = request {
                        return (self, Exit::Down(reply));
                    }
                    self.answer(request);
                }
                event = storage.next() => self.event(event),
                _ = refresh.tick() => self.publish(),
                _ = record.tick() => self.record(),
                _ = traffic.tick() => self.look_for_traffic(),
                Some(found) = counted.recv() => self.moves_counted(&found),
                _ = moves.tick() => self.look_for_moves(&counts),
            }
        }
    }

    fn until_deadline(&self) -> Instant {
        let now = clock::now();
        let mut wait = self.engine.next_deadline().map_or(REFRESH, |deadline| deadline.since(now));
        if let Some(until) = self.phase.until() {
            wait = wait.min(until.since(now));
        }
        Instant::now() + wait
    }

    /// Tells the data path that a daemon watches the paths; without that it goes by the peers' probes. Not right after
    /// this process did not get to run: the probes that it did not send are not answered, and no path is to blame.
    pub(super) fn heartbeat(&mut self) {
        let now = clock::now();
        let in_time = self.engine.in_time_for(now);
        let stale = heartbeat_stale(self.engine.settings());
        // How long answers take is asked for only after a pause: there may be thousands of paths.
        let settled = in_time >= stale + LONG_WAY || in_time >= stale + self.engine.longest_way().min(LONG_WAY);
        if self.phase == Phase::Running && settled {
            self.order(Order::Heartbeat(now));
        }
    }

    /// Lets the engine do what is due and carries out what follows.
    fn work(&mut self) {
        let now = clock::now();
        self.engine.poll(now);
        while let Some(probe) = self.engine.next_probe(now) {
            if let Some(site) = self.engine.site(&probe.path.site) {
                self.prober.send(&probe, site.remote().overlay);
            }
        }
        let changes = self.engine.take_changes(now);
        if !changes.is_empty() {
            self.apply(changes);
        }
    }

    fn apply(&mut self, changes: Changes) {
        for path in &changes.states {
            if self.phase == Phase::Running {
                let up = self.engine.path(path).is_some_and(|record| record.state() == PathState::Up);
                self.order(Order::PathState(*path, up));
            }
        }
        for notice in &changes.notices {
            if let Some(site) = self.engine.site(&notice.path.site) {
                self.prober.tell(notice, site.remote().overlay);
            }
        }
        for path in &changes.detections {
            if self.phase == Phase::Running
                && let Some(record) = self.engine.path(path)
            {
                self.order(Order::PathDetection(*path, desired::detection(record, self.engine.settings())));
            }
        }
        for event in changes.events {
            self.event(event);
        }
        if changes.topology || changes.rules || !changes.sets.is_empty() || !changes.states.is_empty() {
            self.publish();
        }
    }

    /// Publishes everything that should be; the reconcilers find the differences.
    pub(super) fn publish(&mut self) {
        self.overlays = self.engine.sites().map(|site| (site.remote().overlay, site.remote().id)).collect();
        if !self.phase.knows_sites() {
            return;
        }
        let tunnels = desired::tunnels(&self.engine, self.config.tunnel.listen_port, *self.wireguard.secret());
        self.outbox.tunnels.send_if_modified(|current| {
            let changed = current.as_deref() != Some(&tunnels);
            if changed {
                *current = Some(Arc::new(tunnels));
            }
            changed
        });
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
        if self.phase != Phase::Running {
            return;
        }
        let outer_dscp = self.marks_outer();
        let (lan, clock) = (&self.lan, clock::wall_clock());
        let maps = desired::maps(&self.engine, &self.identity, &self.config, lan, &self.interfaces, outer_dscp, clock);
        let marked = if outer_dscp { self.engine.uplinks() } else { &[] };
        let attachments = desired::attachments(&self.lan, &self.interfaces, marked, &self.snapshot);
        self.plane_due = false;
        self.order(Order::Apply(Arc::new(maps), Arc::new(attachments)));
    }

    /// Whether encrypted packets get the DSCP of their class: another WireGuard than the kernel's keeps nothing of the
    /// packet inside.
    pub(super) fn marks_outer(&self) -> bool {
        self.config.tunnel.outer_dscp && self.tunnel_backend == BackendKind::Kernel
    }

    fn order(&mut self, order: Order) {
        if !self.outbox.plane.order(order) && !self.plane_due {
            warn!("the kernel takes orders too slowly: the data path will be brought up to date later");
            self.plane_due = true;
        }
    }

    fn reply(&mut self, received: Received) {
        let Some(&site) = self.overlays.get(&received.source) else {
            debug!(source = %received.source, "an answer to a probe from no known site");
            ProbeCounters::count(&self.prober.counters().foreign);
            return;
        };
        let path = PathKey { site, tunnel: received.tunnel };
        let Received { reply, counters, at, .. } = received;
        self.engine.handle(Input::ProbeReply { path, reply }, at);
        self.engine.handle(Input::Counted { path, sequence: reply.sequence, counters }, at);
    }

    fn noticed(&mut self, noticed: Noticed) {
        let Noticed { source, lost, number } = noticed;
        match self.overlays.get(&source) {
            Some(&site) => self.engine.handle(Input::UplinksLost { site, uplinks: lost, number }, clock::now()),
            None => ProbeCounters::count(&self.prober.counters().foreign),
        }
    }

    fn network_changed(&mut self, snapshot: Arc<NetSnapshot>) {
        self.snapshot = snapshot;
        let uplinks = self.snapshot.local_uplinks(&self.specs);
        let lan = desired::lan_ingresses(&self.config, &self.identity, &uplinks, &self.snapshot);
        let lan_changed = lan != self.lan;
        self.lan = lan;
        if uplinks != self.engine.uplinks() {
            self.engine.handle(Input::Uplinks(uplinks), clock::now());
        }
        let multicast = self.config.discovery.multicast_interfaces.as_deref();
        let interfaces = desired::discovery_interfaces(multicast, self.engine.uplinks(), &self.snapshot);
        self.outbox.discovery.set_interfaces(interfaces);
        let base_port = self.config.tunnel.listen_port;
        let announcement =
            desired::announcement(&self.identity, base_port, self.wireguard.public(), self.engine.uplinks());
        if let Err(error) = self.outbox.discovery.set_local(announcement) {
            warn!("what this site has to announce can't be announced: {error}");
        }
        if lan_changed {
            self.publish();
        }
    }

    fn tunnels_changed(&mut self, report: Arc<TunnelReport>) {
        let troubles: Vec<String> = {
            let error = |report: &TunnelReport, tunnel: &TunnelKey| {
                report.tunnels.get(tunnel).and_then(|status| status.error.clone())
            };
            let failed = report.tunnels.keys().filter_map(|tunnel| {
                let now = error(&report, tunnel)?;
                (error(&self.tunnel_report, tunnel).as_ref() != Some(&now)).then_some(now)
            });
            failed.collect()
        };
        for trouble in troubles {
            self.event(EngineEvent::new(EventKind::TunnelTrouble, trouble));
        }
        let interfaces = report.interfaces();
        let changed = interfaces != self.interfaces;
        self.interfaces = interfaces;
        self.tunnel_report = report;
        let ready: BTreeSet<TunnelKey> = self.prober.reconcile(&self.interfaces);
        self.engine.handle(Input::Tunnels(ready), clock::now());
        if changed {
            self.publish();
        }
    }

    fn plane_changed(&mut self, status: PlaneStatus) {
        let new: Vec<String> =
            status.errors.iter().filter(|error| !self.plane_status.errors.contains(error)).cloned().collect();
        self.plane_status = status;
        for error in new {
            self.event(EngineEvent::new(EventKind::DataplaneTrouble, error));
        }
    }

    pub(super) fn discovered(&mut self, event: DiscoveryEvent) {
        let now = clock::now();
        match event {
            DiscoveryEvent::Site { site, announcement } => {
                let facts = self.facts.entry(site.id).or_default();
                facts.name.clone_from(&site.name);
                facts.certificate_expires_unix = Some(announcement.not_after);
                facts.announced = Some(now);
                facts.inactive_since = None;
                self.record_site(site.id, &site.name, "active", site.prefixes.clone());
                self.engine.handle(Input::Site(*site), now);
            }
            DiscoveryEvent::Heard { site } => {
                self.facts.entry(site).or_default().announced = Some(now);
            }
            DiscoveryEvent::Left { site } => self.site_gone(site, Gone::Left, now),
            DiscoveryEvent::Inactive { site } => self.site_gone(site, Gone::Inactive, now),
            DiscoveryEvent::Removed { site, why } => {
                self.site_gone(site, Gone::Removed(why.text().into()), now);
            }
            other => {
                if let DiscoveryEvent::Clock(change) = &other {
                    self.clock_doubt = matches!(change, ClockChange::Doubted(_)).then(|| change.text());
                }
                if let Some(event) = super::refused::event_of(&other) {
                    self.event(event);
                }
            }
        }
    }

    fn site_gone(&mut self, site: SiteId, gone: Gone, now: Time) {
        let facts = self.facts.entry(site).or_default();
        facts.inactive_since = Some(now);
        let name = facts.name.clone();
        let prefixes = self.engine.site(&site).map(|site| site.remote().prefixes.clone()).unwrap_or_default();
        self.record_site(site, &name, "inactive", prefixes);
        self.engine.handle(Input::SiteGone { site, gone }, now);
    }

    fn record_site(&self, id: SiteId, name: &str, state: &str, prefixes: Vec<ipnet::IpNet>) {
        self.store.record(Record::Site(Box::new(SiteRecord {
            time_unix_s: (clock::unix_ns() / 1_000_000_000) as i64,
            id,
            name: name.into(),
            state: state.into(),
            prefixes,
        })));
    }

    fn plane_event(&mut self, event: PlaneEvent) {
        let path_of = |number: u32| {
            let found = self.plane_status.numbers.iter().find(|(_, known)| *known == number);
            found.map(|(path, _)| *path)
        };
        match event {
            PlaneEvent::NewFlow(record) | PlaneEvent::MovedFlow(record) => {
                let class = self.engine.compilation().classes.get(usize::from(record.class));
                self.store.record(Record::FlowSample(Box::new(FlowSample {
                    time_unix_ns: clock::unix_ns() as i64,
                    key: record.flow,
                    class: class.map_or_else(|| record.class.to_string(), |class| class.name.clone()),
                    path: path_of(record.path),
                    moved: matches!(event, PlaneEvent::MovedFlow(_)),
                })));
            }
            PlaneEvent::PathSilent(record) => {
                if let Some(path) = path_of(record.path) {
                    let name = self.engine.site(&path.site).map(|site| site.remote().name.clone());
                    let message = format!(
                        "the data path left path {} {} by itself: its last answer is too old",
                        name.unwrap_or_default(),
                        path.tunnel
                    );
                    self.event(EngineEvent::new(EventKind::PathSilent, message).with_path(path));
                    self.engine.handle(Input::Silent { path }, clock::now());
                }
            }
        }
    }

    /// Logs and stores an event.
    pub(super) fn event(&self, event: EngineEvent) {
        record_event(&self.store, event);
    }
}

/// Logs and stores an event.
pub(super) fn record_event(store: &Store, event: EngineEvent) {
    info!(kind = event.kind.name(), "{}", event.message);
    store.record(Record::Event { time_unix_ns: clock::unix_ns() as i64, event: Box::new(event) });
}
