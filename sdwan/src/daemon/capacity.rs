//! The capacity task: keeps the schedule and the meter, and tells the core what was found.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use sdwan_common::abi::PathStats;
use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval};
use tracing::{debug, info};

use super::core::Core;
use super::desired::remote_uplink_name;
use crate::api::request::{Refusal, Reply};
use crate::api::views::{CapacityOrder, CapacityOutcomeView, CapacityRunView, VERSION};
use crate::config::CapacityConfig;
use crate::dataplane::Reader;
use crate::engine::Time;
use crate::engine::capacity::passive::Passive;
use crate::engine::capacity::schedule::{Facts, Reason, Schedule, Settings};
use crate::engine::capacity::search::{Ended, Plan};
use crate::engine::capacity::{Direction, Estimate, Framing, How};
use crate::engine::path::PathState;
use crate::engine::types::{PathKey, TunnelKey, wireguard_overhead};
use crate::measure::capacity::{Counters, Event, Failure, Found, Meter, MeterCounters, Progress, Rule, Verdict, Way};
use crate::measure::clock;

/// What live traffic shows is looked at this often.
const TICK: Duration = Duration::from_secs(1);
/// What it showed is told this often, in ticks.
const TELL: u64 = 10;
/// No measurement uses more than the share of this time, however rare measurements are.
const MOST_EARNED: Duration = Duration::from_secs(60);
/// Events of the meter that may wait.
const EVENTS: usize = 256;
/// Orders that are remembered.
const RUNS: usize = 32;
/// Bytes of an Ethernet header.
const ETHERNET: u64 = 14;
/// Nobody is believed to carry more, bit/s.
const CEILING: u64 = 1_000_000_000_000;

/// A path as the task must know it.
#[derive(Clone, Debug, PartialEq)]
pub struct CapacityPath {
    /// The path.
    pub key: PathKey,
    /// Name of the remote site.
    pub site: String,
    /// Names of the local and the remote uplink.
    pub uplinks: [String; 2],
    /// Interface of the local uplink.
    pub interface: String,
    /// Overlay address of the peer.
    pub peer: IpAddr,
    /// It is up.
    pub up: bool,
    /// The local uplink is metered.
    pub metered: bool,
    /// What the tunnel adds, and the path's MTU.
    pub framing: Framing,
    /// Number in the data path.
    pub number: Option<u32>,
    /// Capacity towards the peer as far as known, bit/s, and how.
    pub known: Option<(u64, How)>,
}

impl CapacityPath {
    fn name(&self) -> String {
        format!("{}/{}/{}", self.site, self.uplinks[0], self.uplinks[1])
    }

    fn way(&self) -> Way {
        Way { tunnel: self.key.tunnel, peer: self.peer, framing: self.framing, inner: self.framing.mtu }
    }

    fn is(&self, text: &str) -> bool {
        let mut parts = text.splitn(2, '/');
        let site = parts.next().unwrap_or_default();
        let [local, remote] = &self.uplinks;
        let rest = |rest: &str| rest == self.key.tunnel.to_string() || rest == format!("{local}/{remote}");
        (site == self.site || site == self.key.site.to_string()) && parts.next().is_none_or(rest)
    }
}

/// What the core knows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CapacityInput {
    /// The tunnels that exist, by interface index.
    pub tunnels: BTreeMap<TunnelKey, u32>,
    /// All paths.
    pub paths: Vec<CapacityPath>,
}

/// What was found about a path.
pub type CapacityFound = (PathKey, Direction, Estimate);

/// A question or an order of the API.
#[derive(Debug)]
pub enum CapacityRequest {
    /// Measure now.
    Measure(CapacityOrder, Reply<CapacityRunView>),
    /// How is it?
    Run(u64, Reply<CapacityRunView>),
}

/// The core's end of the task.
pub struct CapacityHandle {
    /// What the core knows.
    pub input: watch::Sender<Arc<CapacityInput>>,
    /// Orders.
    pub requests: mpsc::Sender<CapacityRequest>,
    /// What happened to messages.
    pub counters: Arc<MeterCounters>,
}

/// Why a measurement was begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    Due,
    Order(u64),
    Solicited(u64),
}

struct Running {
    key: PathKey,
    direction: Direction,
    cause: Cause,
}

struct Run {
    view: CapacityRunView,
    progress: Arc<Progress>,
}

struct Task {
    config: CapacityConfig,
    schedule: Schedule,
    meter: Meter,
    sources: Arc<Sources>,
    input: Arc<CapacityInput>,
    passive: BTreeMap<PathKey, Passive>,
    running: BTreeMap<TunnelKey, Running>,
    runs: VecDeque<Run>,
    last_run: u64,
    found: mpsc::Sender<CapacityFound>,
}

/// Starts the task; it ends with the handle. What is found goes to `found`.
pub fn start(
    config: CapacityConfig,
    overlay: IpAddr,
    reader: Reader,
    found: mpsc::Sender<CapacityFound>,
) -> CapacityHandle {
    let (events_sender, events) = mpsc::channel(EVENTS);
    let sources = Arc::new(Sources { reader: Mutex::new(reader), paths: RwLock::default() });
    let meter = Meter::new(overlay, events_sender, sources.clone());
    let counters = meter.counters();
    let settings = Settings {
        enabled: config.enabled,
        interval: config.interval,
        share: config.share_pct / 100.0,
        metered: config.metered,
    };
    let (input, inputs) = watch::channel(Arc::default());
    let (requests, orders) = mpsc::channel(16);
    let task = Task {
        config,
        schedule: Schedule::new(settings),
        meter,
        sources,
        input: Arc::default(),
        passive: BTreeMap::new(),
        running: BTreeMap::new(),
        runs: VecDeque::new(),
        last_run: 0,
        found,
    };
    tokio::spawn(task.work(inputs, orders, events));
    CapacityHandle { input, requests, counters }
}

impl Task {
    async fn work(
        mut self,
        mut inputs: watch::Receiver<Arc<CapacityInput>>,
        mut orders: mpsc::Receiver<CapacityRequest>,
        mut events: mpsc::Receiver<Event>,
    ) {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut ticks = 0;
        loop {
            tokio::select! {
                changed = inputs.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let input = inputs.borrow_and_update().clone();
                    self.take(input);
                }
                Some(order) = orders.recv() => self.request(order),
                Some(event) = events.recv() => self.event(event),
                _ = tick.tick() => {
                    ticks += 1;
                    self.tick(ticks % TELL == 0);
                }
            }
        }
    }

    fn take(&mut self, input: Arc<CapacityInput>) {
        let now = clock::now();
        self.input = input;
        self.meter.reconcile(&self.input.tunnels);
        let facts = |path: &CapacityPath| (path.key, Facts { up: path.up, metered: path.metered });
        self.schedule.set_paths(self.input.paths.iter().map(facts), now);
        let known: HashSet<PathKey> = self.input.paths.iter().map(|path| path.key).collect();
        self.passive.retain(|key, _| known.contains(key));
        self.sources.set(&self.input);
        self.set_rules(now);
    }

    fn set_rules(&mut self, now: Time) {
        let mut rules = HashMap::new();
        for path in &self.input.paths {
            // Somebody at this site wants it: the peer's trains are ours.
            let wanted = self
                .running
                .get(&path.key.tunnel)
                .is_some_and(|running| running.key == path.key && running.direction == Direction::Backward);
            let consent = if wanted { Ok(()) } else { self.schedule.consent(path.key) };
            let passive = self.passive.get_mut(&path.key).and_then(|passive| passive.maximum(now)).unwrap_or(0);
            rules.insert((path.key.tunnel, path.peer), Rule { consent, framing: path.framing, passive });
        }
        self.meter.set_rules(rules);
    }

    fn tick(&mut self, tell: bool) {
        let now = clock::now();
        let count = self.input.paths.iter().filter_map(|path| Some(path.number? + 1)).max().unwrap_or(0);
        let stats = self.sources.all(count);
        for path in &self.input.paths {
            let Some(stats) = path.number.and_then(|number| stats.get(number as usize)) else { continue };
            let passive = self.passive.entry(path.key).or_default();
            passive.sample(now, path.framing.outer_total(stats.received_packets, stats.received_bytes));
        }
        if tell {
            let maxima = self.passive.iter_mut().filter_map(|(key, passive)| Some((*key, passive.maximum(now)?)));
            let maxima: Vec<(PathKey, u64)> = maxima.collect();
            for (key, rate) in maxima {
                self.tell(key, Direction::Backward, rate, How::Passive);
            }
            self.set_rules(now);
        }
        while let Some(key) = self.schedule.due(now) {
            if let Err(failure) = self.begin(key, Direction::Forward, Cause::Due) {
                debug!(?key, "no capacity measurement: {failure}");
                self.schedule.failed(key, 0, now);
            }
        }
    }

    fn tell(&self, path: PathKey, direction: Direction, rate: u64, how: How) {
        let estimate = Estimate { bits_per_second: rate.min(CEILING), at: clock::now(), how };
        // A full queue means that the core is busy: the next measurement tells again.
        let _ = self.found.try_send((path, direction, estimate));
    }

    fn path(&self, key: PathKey) -> Option<&CapacityPath> {
        self.input.paths.iter().find(|path| path.key == key)
    }

    fn begin(&mut self, key: PathKey, direction: Direction, cause: Cause) -> Result<Arc<Progress>, Failure> {
        let path = self.path(key).ok_or(Failure::Cancelled)?;
        let (way, known) = (path.way(), path.known);
        let plan = Plan {
            prior: known.map(|(rate, how)| (rate, matches!(how, How::Passive | How::AtLeast))),
            share: self.config.share_pct / 100.0,
            interval: self.config.interval.min(MOST_EARNED),
            most_delay: self.config.most_delay,
            ..Plan::default()
        };
        let solicited = if let Cause::Solicited(session) = cause { session } else { 0 };
        self.running.insert(key.tunnel, Running { key, direction, cause });
        if direction == Direction::Backward {
            self.set_rules(clock::now());
        }
        let begun = match direction {
            Direction::Forward => self.meter.forward(way, plan, solicited),
            Direction::Backward => self.meter.backward(way),
        };
        if begun.is_err() {
            self.running.remove(&key.tunnel);
        }
        begun
    }

    fn event(&mut self, event: Event) {
        let now = clock::now();
        let key_of = |tunnel: TunnelKey, peer: IpAddr| {
            let found = self.input.paths.iter().find(|path| path.key.tunnel == tunnel && path.peer == peer);
            found.map(|path| path.key)
        };
        match event {
            Event::Solicited { tunnel, peer, session } => {
                let again = self.running.get(&tunnel).is_some_and(|running| running.cause == Cause::Solicited(session));
                let outcome = match key_of(tunnel, peer) {
                    // Its answer was lost.
                    _ if again => Ok(()),
                    Some(key) => self.schedule.solicited(key, now).and_then(|()| {
                        self.begin(key, Direction::Forward, Cause::Solicited(session)).map(drop).map_err(|failure| {
                            self.schedule.failed(key, 0, now);
                            if let Failure::Refused(reason) = failure { reason } else { Reason::NotUp }
                        })
                    }),
                    None => Err(Reason::NotUp),
                };
                self.meter.answer(tunnel, peer, session, outcome);
            }
            Event::Told { tunnel, peer, verdict: Verdict { capacity, found, .. } } => {
                if let Some(key) = key_of(tunnel, peer).filter(|_| capacity > 0) {
                    let how = if found { How::Measured } else { How::AtLeast };
                    self.tell(key, Direction::Backward, capacity, how);
                }
            }
            Event::Ended { way, direction, bytes, result } => self.ended(way, direction, bytes, result, now),
        }
    }

    fn ended(&mut self, way: Way, direction: Direction, bytes: u64, result: Result<Found, Failure>, now: Time) {
        let Some(running) = self.running.remove(&way.tunnel) else { return };
        let key = running.key;
        match &result {
            Ok(found) => {
                let capacity = found.outcome.capacity.unwrap_or(0);
                self.schedule.finished(key, bytes, capacity.max(1_000_000), now);
                if direction == Direction::Forward {
                    let how = if found.outcome.ended == Ended::Found { How::Measured } else { How::AtLeast };
                    if capacity > 0 {
                        self.tell(key, direction, capacity, how);
                    }
                    if let Some(passive) = found.passive.filter(|passive| *passive > capacity) {
                        self.tell(key, direction, passive, How::Passive);
                    }
                }
                let name = self.path(key).map(CapacityPath::name).unwrap_or_default();
                info!(
                    path = name,
                    ?direction,
                    capacity,
                    bytes,
                    "a capacity was measured: {}",
                    found.outcome.ended.text()
                );
            }
            Err(failure) => {
                debug!(?key, ?direction, bytes, "a capacity measurement failed: {failure}");
                self.schedule.failed(key, bytes, now);
                if let Cause::Solicited(session) = running.cause {
                    let reason = if let Failure::Refused(reason) = failure { *reason } else { Reason::NotUp };
                    self.meter.answer(way.tunnel, way.peer, session, Err(reason));
                }
            }
        }
        if let Cause::Order(id) = running.cause
            && let Some(run) = self.runs.iter_mut().find(|run| run.view.id == id)
        {
            run.view.done = true;
            match result {
                Ok(found) => run.view.outcome = Some(outcome_view(&way, &found)),
                Err(failure) => run.view.error = Some(failure.to_string()),
            }
        }
        self.set_rules(now);
    }

    fn request(&mut self, request: CapacityRequest) {
        match request {
            CapacityRequest::Measure(order, reply) => drop(reply.send(self.order(&order))),
            CapacityRequest::Run(id, reply) => {
                let run = self.runs.iter().find(|run| run.view.id == id).map(shown);
                let missing = || Refusal::NotFound(format!("there is no measurement {id}: the last {RUNS} are kept"));
                drop(reply.send(run.ok_or_else(missing)));
            }
        }
    }

    fn order(&mut self, order: &CapacityOrder) -> Result<CapacityRunView, Refusal> {
        let matching: Vec<&CapacityPath> = self.input.paths.iter().filter(|path| path.is(&order.path)).collect();
        let path = match matching[..] {
            [path] => path,
            [] => {
                let message =
                    format!("there is no path {:?}: `sdwan paths` lists them, as SITE/LOCAL/REMOTE", order.path);
                return Err(Refusal::NotFound(message));
            }
            _ => {
                let names: Vec<String> = matching.iter().map(|path| path.name()).collect();
                return Err(Refusal::Invalid(format!("{:?} is several paths: {}", order.path, names.join(", "))));
            }
        };
        let (key, name) = (path.key, path.name());
        self.schedule.demand(key, order.metered).map_err(|reason| match reason {
            Reason::Metered => Refusal::Conflict(format!(
                "path {name} leaves by a metered uplink: measure it nevertheless with `--metered`"
            )),
            reason => Refusal::Conflict(format!("path {name} can't be measured now: {}", reason.text())),
        })?;
        let id = self.last_run + 1;
        let progress = self.begin(key, order.direction, Cause::Order(id)).map_err(|failure| {
            self.schedule.failed(key, 0, clock::now());
            Refusal::Conflict(format!("path {name} can't be measured now: {failure}"))
        })?;
        self.last_run = id;
        let view = CapacityRunView {
            version: VERSION,
            id,
            path: name,
            direction: order.direction,
            done: false,
            progress_pct: 0.0,
            estimate_bps: None,
            sent_bytes: 0,
            outcome: None,
            error: None,
        };
        let run = Run { view, progress };
        let view = shown(&run);
        if self.runs.len() == RUNS {
            self.runs.pop_front();
        }
        self.runs.push_back(run);
        Ok(view)
    }
}

impl Core {
    /// Tells the capacity task what paths there are.
    pub(super) fn publish_capacity(&self) {
        let numbers: BTreeMap<PathKey, u32> = self.plane_status.numbers.iter().copied().collect();
        let mut paths = Vec::new();
        for site in self.engine.sites() {
            let remote = site.remote();
            for (tunnel, path) in site.paths() {
                let uplink = self.engine.uplinks().iter().find(|uplink| uplink.index == tunnel.local);
                let Some(uplink) = uplink else { continue };
                let key = PathKey { site: remote.id, tunnel };
                let outer = remote.endpoint(tunnel, &uplink.addresses).map_or(IpAddr::from([0u16; 8]), |to| to.ip());
                paths.push(CapacityPath {
                    key,
                    site: remote.name.clone(),
                    uplinks: [uplink.name.clone(), remote_uplink_name(remote, tunnel)],
                    interface: uplink.interface.clone(),
                    peer: remote.overlay,
                    up: path.state() == PathState::Up,
                    metered: self.config.is_metered(&uplink.name),
                    framing: Framing::wireguard(wireguard_overhead(outer), path.mtu()),
                    number: numbers.get(&key).copied(),
                    known: path.known_capacity().forward(),
                });
            }
        }
        let input = CapacityInput { tunnels: self.interfaces.clone(), paths };
        self.outbox.capacity.input.send_if_modified(|current| {
            let changed = **current != input;
            if changed {
                *current = Arc::new(input);
            }
            changed
        });
    }

    /// Hands an order of the API to the capacity task.
    pub(super) fn order_capacity(&self, request: CapacityRequest) {
        if let Err(mpsc::error::TrySendError::Full(request) | mpsc::error::TrySendError::Closed(request)) =
            self.outbox.capacity.requests.try_send(request)
        {
            let (CapacityRequest::Measure(_, reply) | CapacityRequest::Run(_, reply)) = request;
            drop(reply.send(Err(Refusal::Unavailable("the daemon has too many requests: try again".into()))));
        }
    }
}

/// A measurement as it is now.
fn shown(run: &Run) -> CapacityRunView {
    let estimate = run.progress.estimate();
    CapacityRunView {
        progress_pct: if run.view.done { 100.0 } else { run.progress.permille() as f64 / 10.0 },
        estimate_bps: (estimate > 0).then_some(estimate),
        sent_bytes: run.progress.bytes(),
        ..run.view.clone()
    }
}

fn outcome_view(way: &Way, found: &Found) -> CapacityOutcomeView {
    let outcome = &found.outcome;
    let inner = |outer: u64| (u128::from(outer) * u128::from(way.inner) / u128::from(way.size().max(1))) as u64;
    let capacity = outcome.capacity.into_iter().chain(found.passive).max();
    CapacityOutcomeView {
        capacity_bps: capacity,
        inner_bps: capacity.map(inner),
        available_bps: outcome.share,
        passive_bps: found.passive,
        ended: outcome.ended,
        note: outcome.ended.text().into(),
        spread_pct: outcome.spread * 100.0,
        readings: outcome.readings,
        trains: outcome.trains,
        took_s: outcome.took.as_secs_f64(),
    }
}

/// The counters of the data path and of the uplinks' interfaces.
struct Sources {
    reader: Mutex<Reader>,
    paths: RwLock<HashMap<(TunnelKey, IpAddr), (u32, String)>>,
}

impl Sources {
    fn set(&self, input: &CapacityInput) {
        let known = input
            .paths
            .iter()
            .filter_map(|path| Some(((path.key.tunnel, path.peer), (path.number?, path.interface.clone()))));
        *self.paths.write().unwrap_or_else(PoisonError::into_inner) = known.collect();
    }

    /// Of the first `count` paths by number; none where they can't be read.
    fn all(&self, count: u32) -> Vec<PathStats> {
        let reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        reader.all_path_stats(count).unwrap_or_default()
    }

    fn stats(&self, tunnel: TunnelKey, peer: IpAddr) -> Option<(PathStats, String)> {
        let paths = self.paths.read().unwrap_or_else(PoisonError::into_inner);
        let (number, interface) = paths.get(&(tunnel, peer))?.clone();
        drop(paths);
        let reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        Some((reader.path_counters(number).ok()?.stats, interface))
    }
}

impl Counters for Sources {
    fn received(&self, tunnel: TunnelKey, peer: IpAddr) -> Option<(u64, u64)> {
        let (stats, _) = self.stats(tunnel, peer)?;
        Some((stats.received_packets, stats.received_bytes))
    }

    fn others_sent(&self, way: &Way) -> Option<u64> {
        let (stats, interface) = self.stats(way.tunnel, way.peer)?;
        let read = |counter: &str| -> Option<u64> {
            let path = format!("/sys/class/net/{interface}/statistics/{counter}");
            std::fs::read_to_string(path).ok()?.trim().parse().ok()
        };
        let uplink = read("tx_bytes")?.saturating_sub(read("tx_packets")? * ETHERNET);
        uplink.checked_sub(way.framing.outer_total(stats.sent_packets, stats.sent_bytes))
    }
}
