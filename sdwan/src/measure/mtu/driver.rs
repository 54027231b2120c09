//! The task that probes and answers.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};
use tracing::{debug, warn};

use super::answer::{Datagram, Judge, Verdict};
use super::keys::PeerKeys;
use super::socket::{Incoming, UnderlaySocket};
use super::wire::{Kind, Message};
use super::{MtuCounters, Targets, Uplink};
use crate::engine::Time;
use crate::engine::mtu::{Finished, Known, Probe, Report, Searches, Settings, headers};
use crate::engine::types::{PathKey, SiteId, UplinkIndex};
use crate::measure::clock;
use crate::net::marks::uplink_mark;

/// Messages that may wait.
const MESSAGES: usize = 1_024;
/// Orders that may wait.
const ORDERS: usize = 64;
/// Sockets that could not be opened are tried again this often; also the longest sleep.
const LOOK: Duration = Duration::from_secs(2);
/// A path whose source is not announced is probed where it was last heard from, for this long.
const HEARD: Duration = Duration::from_secs(180);
/// Who asks for a search gets an answer by then, even if the search goes on.
const ANSWER: Duration = Duration::from_secs(40);

/// The answer to an order: how the search went and where its probes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// How it went.
    pub report: Report,
    /// Whether it ended in time.
    pub finished: bool,
    /// Where probes go.
    pub endpoint: Option<SocketAddr>,
}

/// An order to search one path now. The answer is `None` when there is no way to probe it.
#[derive(Debug)]
pub struct Order {
    /// The path.
    pub path: PathKey,
    /// Where the answer goes.
    pub reply: oneshot::Sender<Option<Asked>>,
}

/// Probes and answers until dropped.
pub struct MtuTask {
    orders: mpsc::Sender<Order>,
    counters: Arc<MtuCounters>,
    task: JoinHandle<()>,
}

impl MtuTask {
    /// Starts. What becomes known goes to `results`.
    pub fn start(
        site: SiteId,
        settings: Settings,
        targets: watch::Receiver<Arc<Targets>>,
        results: mpsc::Sender<(PathKey, Known)>,
    ) -> Self {
        let (orders, queue) = mpsc::channel(ORDERS);
        let (sender, messages) = mpsc::channel(MESSAGES);
        let counters: Arc<MtuCounters> = Arc::default();
        let driver = Driver {
            site,
            // Newer than in any former life, as long as the clock isn't set back.
            searches: Searches::new(settings, clock::unix_ns()),
            judge: Judge::new(site),
            counters: counters.clone(),
            targets: Arc::default(),
            sockets: BTreeMap::new(),
            ways: BTreeMap::new(),
            heard: BTreeMap::new(),
            asked: Vec::new(),
            untold: BTreeMap::new(),
            sender,
            results,
            buffer: Vec::new(),
        };
        Self { orders, counters, task: tokio::spawn(driver.run(targets, queue, messages)) }
    }

    /// What happened so far.
    pub fn counters(&self) -> Arc<MtuCounters> {
        self.counters.clone()
    }

    /// Where orders go.
    pub fn orders(&self) -> mpsc::Sender<Order> {
        self.orders.clone()
    }
}

impl Drop for MtuTask {
    fn drop(&mut self) {
        self.task.abort();
    }
}

type SocketKey = (UplinkIndex, IpAddr);

struct Open {
    uplink: Uplink,
    port: u16,
    socket: Arc<UnderlaySocket>,
    reader: JoinHandle<()>,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

struct Driver {
    site: SiteId,
    searches: Searches,
    judge: Judge,
    counters: Arc<MtuCounters>,
    targets: Arc<Targets>,
    sockets: BTreeMap<SocketKey, Open>,
    /// Where the probes of each path go, and from which address.
    ways: BTreeMap<PathKey, (IpAddr, SocketAddr)>,
    /// Where authentic probes of each path came from.
    heard: BTreeMap<PathKey, (SocketAddr, Time)>,
    asked: Vec<(PathKey, Time, oneshot::Sender<Option<Asked>>)>,
    /// Results that found the core busy.
    untold: BTreeMap<PathKey, Known>,
    sender: mpsc::Sender<(SocketKey, Incoming)>,
    results: mpsc::Sender<(PathKey, Known)>,
    buffer: Vec<u8>,
}

impl Driver {
    async fn run(
        mut self,
        mut targets: watch::Receiver<Arc<Targets>>,
        mut orders: mpsc::Receiver<Order>,
        mut messages: mpsc::Receiver<(SocketKey, Incoming)>,
    ) {
        let mut look_at = Instant::now();
        loop {
            if Instant::now() >= look_at {
                self.refresh();
                look_at = Instant::now() + LOOK;
            }
            self.work();
            let now = clock::now();
            let wait = self.searches.next_deadline().map_or(LOOK, |at| at.since(now));
            let deadline = (Instant::now() + wait).min(look_at);
            tokio::select! {
                outcome = targets.changed() => {
                    if outcome.is_err() {
                        return;
                    }
                    let new = targets.borrow_and_update().clone();
                    self.set_targets(new);
                }
                Some((socket, incoming)) = messages.recv() => {
                    self.incoming(socket, incoming);
                    for _ in 1..MESSAGES {
                        let Ok((socket, incoming)) = messages.try_recv() else { break };
                        self.incoming(socket, incoming);
                    }
                }
                Some(order) = orders.recv() => self.order(order),
                () = sleep_until(deadline) => {}
            }
        }
    }

    fn set_targets(&mut self, targets: Arc<Targets>) {
        let same_keys = targets.peers == self.targets.peers
            && targets.own_keys.iter().map(|key| key.public()).eq(self.targets.own_keys.iter().map(|key| key.public()));
        if !same_keys {
            let derive = |remote: &Vec<[u8; 32]>| PeerKeys::derive(&targets.own_keys, remote.iter().copied());
            let peers = targets.peers.iter().map(|(site, remote)| (*site, derive(remote)));
            self.judge.set_peers(peers.collect());
        }
        self.targets = targets;
        self.refresh();
    }

    /// Makes sockets and searches those of the targets.
    fn refresh(&mut self) {
        let targets = self.targets.clone();
        self.open_sockets(&targets);
        let now = clock::now();
        self.heard.retain(|path, (_, at)| targets.peers.contains_key(&path.site) && now.since(*at) < HEARD);
        for (path, target) in &targets.paths {
            let heard = self.heard.get(path).map(|(source, _)| *source);
            let old = self.ways.get(path).copied();
            // The announced address first; one that was heard from where that is missing or doesn't answer.
            let keep = old.map(|(_, to)| to).filter(|to| Some(*to) == target.endpoint || Some(*to) == heard);
            let Some(way) = keep.or(target.endpoint).or(heard).and_then(|to| self.way(path, to)) else {
                self.ways.remove(path);
                continue;
            };
            self.set_way(*path, way, now);
        }
        self.ways.retain(|path, _| targets.paths.contains_key(path));
        let ways = &self.ways;
        self.searches.retain(|path| ways.contains_key(path));
    }

    /// Probes of a path go this way from now on.
    fn set_way(&mut self, path: PathKey, way: (IpAddr, SocketAddr), now: Time) {
        let Some(target) = self.targets.paths.get(&path) else { return };
        let mut conditions = target.conditions.clone();
        conditions.ipv6 = way.1.is_ipv6();
        let old = self.ways.insert(path, way);
        self.searches.set(path, conditions, now);
        if old.is_some_and(|old| old != way) {
            self.searches.restart(path, now);
        }
    }

    /// From which of our addresses a destination is reached on a path.
    fn way(&self, path: &PathKey, to: SocketAddr) -> Option<(IpAddr, SocketAddr)> {
        let uplink = self.targets.uplinks.iter().find(|uplink| uplink.index == path.tunnel.local)?;
        let open = |address: &&IpAddr| self.sockets.contains_key(&(uplink.index, **address));
        let from = uplink.addresses.iter().filter(|from| from.is_ipv4() == to.is_ipv4()).find(open)?;
        Some((*from, to))
    }

    fn open_sockets(&mut self, targets: &Targets) {
        let wanted: BTreeMap<SocketKey, &Uplink> = match targets.port {
            Some(_) => {
                let uplinks = targets.uplinks.iter();
                uplinks
                    .flat_map(|uplink| uplink.addresses.iter().map(move |at| ((uplink.index, *at), uplink)))
                    .collect()
            }
            None => BTreeMap::new(),
        };
        self.sockets.retain(|key, open| {
            let same =
                |uplink: &&Uplink| uplink.ifindex == open.uplink.ifindex && uplink.interface == open.uplink.interface;
            wanted.get(key).is_some_and(same) && Some(open.port) == targets.port && !open.reader.is_finished()
        });
        let Some(port) = targets.port else { return };
        for (key, uplink) in wanted {
            if self.sockets.contains_key(&key) {
                continue;
            }
            let local = SocketAddr::new(key.1, port);
            match UnderlaySocket::open(&uplink.interface, local, uplink_mark(key.0)) {
                Ok(socket) => {
                    let socket = Arc::new(socket);
                    let reader = tokio::spawn(read(socket.clone(), key, self.sender.clone(), self.counters.clone()));
                    self.sockets.insert(key, Open { uplink: uplink.clone(), port, socket, reader });
                }
                // An IPv6 address that is still being checked can't be bound yet.
                Err(error) => {
                    debug!(%local, interface = uplink.interface, "cannot open a socket for MTU probes: {error}")
                }
            }
        }
    }

    /// Sends what is due and tells what became known.
    fn work(&mut self) {
        let now = clock::now();
        while let Some(probe) = self.searches.next_probe(now) {
            if !self.send(&probe) {
                MtuCounters::count(&self.counters.send_failed);
                self.searches.refused(&probe, now);
            }
        }
        self.untold.extend(self.searches.take_changes());
        while let Some((path, known)) = self.untold.pop_first() {
            if self.results.try_send((path, known)).is_err() {
                self.untold.insert(path, known);
                break;
            }
        }
        for Finished { path, report } in self.searches.take_finished() {
            debug!(site = %path.site, tunnel = %path.tunnel, ?report, "a search ended");
            if !report.contact {
                self.try_other_way(path, now);
            }
            self.tell(&path, Some(report), now);
        }
        let overdue = self.asked.iter().find(|(_, until, _)| *until <= now).map(|(path, ..)| *path);
        if let Some(path) = overdue {
            self.tell(&path, None, now);
        }
    }

    /// Nobody answers: perhaps at the other address that is known.
    fn try_other_way(&mut self, path: PathKey, now: Time) {
        let Some((_, current)) = self.ways.get(&path).copied() else { return };
        let announced = self.targets.paths.get(&path).and_then(|target| target.endpoint);
        let heard = self.heard.get(&path).map(|(source, _)| *source);
        let other = [heard, announced].into_iter().flatten().find(|other| *other != current);
        if let Some(way) = other.and_then(|other| self.way(&path, other)) {
            self.set_way(path, way, now);
        }
    }

    fn send(&mut self, probe: &Probe) -> bool {
        let Some((from, to)) = self.ways.get(&probe.path) else { return false };
        let Some(open) = self.sockets.get(&(probe.path.tunnel.local, *from)) else { return false };
        let message = Message {
            kind: Kind::Probe,
            from: self.site,
            to: probe.path.site,
            uplinks: probe.path.tunnel,
            sequence: probe.sequence,
            size: probe.size,
        };
        let Some(header) = self.judge.keys(&probe.path.site).and_then(|keys| message.encode(keys, None)) else {
            return false;
        };
        self.buffer.clear();
        self.buffer.extend_from_slice(&header);
        self.buffer.resize(usize::from(probe.size - headers(open.socket.is_ipv6())), 0);
        match open.socket.send(&self.buffer, *to) {
            Ok(()) => {
                MtuCounters::count(&self.counters.sent);
                true
            }
            Err(error) => {
                debug!(%to, size = probe.size, "cannot send an MTU probe: {error}");
                false
            }
        }
    }

    fn incoming(&mut self, (uplink, local): SocketKey, incoming: Incoming) {
        let now = clock::now();
        match incoming {
            Incoming::TooBig { destination, mtu } => {
                let way = (local, destination);
                let on_way = |(path, known): (&PathKey, &(IpAddr, SocketAddr))| {
                    (path.tunnel.local == uplink && *known == way).then_some(*path)
                };
                let path = self.ways.iter().find_map(on_way);
                let mtu = u16::try_from(mtu).unwrap_or(u16::MAX);
                let followed = path.is_some_and(|path| self.searches.too_big(path, mtu, now));
                MtuCounters::count(if followed { &self.counters.hints } else { &self.counters.hints_ignored });
            }
            Incoming::Datagram { source, header, length, fragmented } => {
                let datagram = Datagram { uplink, source, header, length, fragmented };
                match self.judge.judge(&datagram, &self.counters, now) {
                    Verdict::Refuse => {}
                    Verdict::Acknowledged(path, sequence, size) => {
                        let expected = self.searches.acknowledged(path, sequence, size, now);
                        let counter = if expected { &self.counters.acknowledged } else { &self.counters.replayed };
                        MtuCounters::count(counter);
                    }
                    Verdict::Answer(path, answer) => {
                        let Some(open) = self.sockets.get(&(uplink, local)) else { return };
                        let sent = open.socket.send(&answer, source);
                        let counter = if sent.is_ok() { &self.counters.answered } else { &self.counters.send_failed };
                        MtuCounters::count(counter);
                        let new = self.heard.insert(path, (source, now)).is_none();
                        if new && !self.ways.contains_key(&path) {
                            self.refresh();
                        }
                    }
                }
            }
        }
    }

    fn order(&mut self, order: Order) {
        let now = clock::now();
        if self.searches.restart(order.path, now) {
            self.asked.push((order.path, now + ANSWER, order.reply));
        } else {
            // An asker who gave up isn't waited for.
            let _ = order.reply.send(None);
        }
    }

    /// Answers those who asked for a search of this path; without a report, those whose time is over.
    fn tell(&mut self, path: &PathKey, report: Option<Report>, now: Time) {
        let (told, rest) = std::mem::take(&mut self.asked)
            .into_iter()
            .partition(|(of, until, _)| of == path && (report.is_some() || *until <= now));
        self.asked = rest;
        let told: Vec<(PathKey, Time, oneshot::Sender<Option<Asked>>)> = told;
        for (_, _, reply) in told {
            let endpoint = self.ways.get(path).map(|(_, to)| *to);
            let current = report.or_else(|| self.searches.report(path, now));
            let answer = current.map(|current| Asked { report: current, finished: report.is_some(), endpoint });
            let _ = reply.send(answer);
        }
    }
}

async fn read(
    socket: Arc<UnderlaySocket>,
    key: SocketKey,
    sender: mpsc::Sender<(SocketKey, Incoming)>,
    counters: Arc<MtuCounters>,
) {
    let error = socket
        .receive(|incoming| {
            if sender.try_send((key, incoming)).is_err() {
                MtuCounters::count(&counters.overrun);
            }
        })
        .await;
    warn!(address = %key.1, "the socket of MTU probes failed and will be opened again: {error}");
}
