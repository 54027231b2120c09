//! The core task: owns the engine and the prober, takes everything that comes in, and publishes what follows.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sdwan_common::abi::TraceRecord;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tracing::info;

use super::adoption::Phase;
use super::capacity::{CapacityFound, CapacityHandle};
use super::desired::{Identity, heartbeat_stale};
use super::mtu::Mtu;
use super::plane::{Cause, Order, Plane, PlaneStatus};
use super::policies::Policies;
use super::publish::Publishing;
use super::routes::RouteInput;
use super::storage::StorageWatch;
use super::supervisor::Watchdog;
use super::views::SiteFacts;
use crate::api::request::{Changed, Reply, Request};
use crate::api::views::DoneView;
use crate::config::Config;
use crate::dataplane::desired::LanIngress;
use crate::dataplane::{PlaneEvent, Reader};
use crate::discovery::{DiscoveryEvent, DiscoveryHandle};
use crate::engine::Time;
use crate::engine::events::EngineEvent;
use crate::engine::input::{Input, Probe};
use crate::engine::mtu::Known;
use crate::engine::types::{PathKey, SiteId, TunnelKey};
use crate::measure::notice::Noticed;
use crate::measure::{Prober, Received, clock};
use crate::net::{NetSnapshot, UplinkSpec};
use crate::recording::RecordedEngine;
use crate::store::{Record, Store};
use crate::tunnel::{BackendKind, DesiredTunnels, TunnelReport};

/// How often everything is put before the reconcilers again at most, so that what was refused by a full queue arrives after
/// all.
const REFRESH: Duration = Duration::from_secs(5);
/// How often the state of each path is recorded; what the store's retention is made for.
pub const RECORD: Duration = Duration::from_secs(10);
/// How often the engine is told which sites have live traffic.
const TRAFFIC: Duration = Duration::from_secs(1);
/// After a pause the heartbeat waits for answers by the longest path, and no longer than this.
const LONG_WAY: Duration = Duration::from_secs(1);
/// Replies taken between two looks at the clock.
const REPLIES_AT_ONCE: usize = 256;
/// Probes that are due leave together, at most so many times in the time between two of one path, and so often: each batch
/// wakes whoever carries the tunnels, and its answers come together, too.
const BATCHES: u32 = 20;
const BATCH_PAUSE: std::ops::RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_millis(2);

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
    /// What they tell of the flow that is traced.
    pub traced: mpsc::Receiver<TraceRecord>,
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
    pub reloads: mpsc::Sender<Reply<Changed>>,
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
    pub(super) specs: Vec<UplinkSpec>,
    pub(super) wireguard: crate::trust::keys::WireGuardKey,
    pub(super) snapshot: Arc<NetSnapshot>,
    /// The tunnels that exist, by interface index.
    pub(super) interfaces: BTreeMap<TunnelKey, u32>,
    pub(super) lan: Vec<LanIngress>,
    pub(super) overlays: HashMap<IpAddr, SiteId>,
    pub(super) publishing: Publishing,
    /// When the first answer came in that the engine took since it was last let work.
    pub(super) answered: Option<Time>,
    /// When probes last were asked for.
    probed: Time,
    pub(super) phase: Phase,
    pub(super) history: super::history::History,
    pub(super) traffic: super::traffic::Traffic,
    pub(super) moves: super::moves::Moves,
    pub(super) tracing: super::trace::Tracing,
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
            publishing: Publishing::default(),
            answered: None,
            probed: Time::default(),
            phase: Phase::Recalling,
            history: super::history::History::default(),
            traffic: super::traffic::Traffic::default(),
            moves: super::moves::Moves::default(),
            tracing: super::trace::Tracing::default(),
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
        let mut watchdog = Watchdog::from_environment();
        for timer in [&mut heartbeat, &mut refresh, &mut record, &mut traffic, &mut moves] {
            timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        }
        let snapshot = inbox.snapshots.borrow_and_update().clone();
        self.network_changed(snapshot);
        self.guard_first().await;
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
            self.publish_due();
            self.record_some();
            watchdog.alive();
            let deadline = self.until_deadline();
            tokio::select! {
                biased;
                _ = &mut inbox.stop => {
                    self.end_trace();
                    return (self, Exit::Stop);
                }
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
                Some(record) = inbox.traced.recv() => self.tracing.told(record),
                Some(request) = inbox.requests.recv() => {
                    if let Request::Down(reply) = request {
                        return (self, Exit::Down(reply));
                    }
                    self.answer(request);
                }
                event = storage.next() => self.event(event),
                _ = refresh.tick() => self.refresh(),
                _ = record.tick() => self.record(),
                _ = traffic.tick() => {
                    self.look_for_traffic();
                    self.expire_trace();
                }
                Some(found) = counted.recv() => self.moves_counted(&found),
                _ = moves.tick() => self.look_for_moves(&counts),
            }
        }
    }

    fn until_deadline(&self) -> Instant {
        let now = clock::now();
        if self.history.in_work() {
            return Instant::now();
        }
        let mut wait =
            self.engine.next_deadline().map_or(REFRESH, |at| at.max(self.probed + self.batch_pause()).since(now));
        for at in self.phase.until().into_iter().chain(self.publishing.at()) {
            wait = wait.min(at.since(now));
        }
        Instant::now() + wait
    }

    /// How long probes that are due wait for others.
    fn batch_pause(&self) -> Duration {
        let share = self.engine.settings().probe_interval / BATCHES;
        share.clamp(*BATCH_PAUSE.start(), *BATCH_PAUSE.end())
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

    /// Carries out what follows from the answers that came in, lets the engine do what is due, and carries out that.
    fn work(&mut self) {
        let now = clock::now();
        if let Some(at) = self.answered.take() {
            self.carry_out(Cause::Answer(at), now);
        }
        let due = self.engine.next_deadline().unwrap_or(now).min(now);
        self.engine.poll(now);
        let mut probes: Vec<Probe> = Vec::new();
        if now.since(self.probed) >= self.batch_pause() {
            self.probed = now;
            probes = self.engine.due_probes(now);
        }
        self.carry_out(Cause::Due(due), now);
        for probe in probes {
            if let Some(site) = self.engine.site(&probe.path.site) {
                self.prober.send(&probe, site.remote().overlay);
            }
        }
    }

    fn carry_out(&mut self, cause: Cause, now: Time) {
        let changes = self.engine.take_changes(now);
        if !changes.is_empty() {
            self.apply(changes, cause);
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
