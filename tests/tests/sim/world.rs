//! A mesh under virtual time: every site's engine, its maps, and the lines between them.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::Arc;
use std::time::Duration;

use crate::case::{Case, Fault, FaultKind};
use crate::laws::{Broken, Laws};
use crate::lines::{End, Lines};
use crate::node::{Daemon, Node, prefix, site_number};
use sdwan::config::Config;
use sdwan::engine::Time;
use sdwan::engine::estimate::{Counters, ProbeReply};
use sdwan::engine::input::{Input, Probe};
use sdwan::engine::policy::compile;
use sdwan::engine::types::{PathKey, RemoteSite, TunnelKey};
use sdwan::recording::Record;

const MS: u64 = 1_000_000;
/// How often a site announces itself, ms. A tenth of the real thing would be too rare to see in a minute.
pub const ANNOUNCE_MS: u64 = 5_000;
/// After so long without an announcement a site is gone, ms.
const SILENT_MS: u64 = 24_000;

#[derive(Clone, Debug)]
enum Event {
    Wake(usize),
    Probe { to: usize, path: PathKey, probe: Sent },
    Reply { to: usize, path: PathKey, reply: ProbeReply, counters: Option<Counters> },
    Announcement { to: usize, number: u64, remote: Arc<RemoteSite> },
    Announce,
    Traffic,
    Fault { number: usize, begins: bool },
    Flap { number: usize },
    Check,
}

/// A probe on its way; `path` is the receiver's name of the path.
#[derive(Clone, Copy, Debug)]
struct Sent {
    sequence: u32,
    hears: bool,
    /// What the peer is told to bear.
    detection_ns: u64,
    unix_ns: u64,
    /// Data sent before it, and how much of that had got lost.
    data: (u32, u32),
}

/// Data that went by a path one way.
#[derive(Clone, Copy, Debug, Default)]
struct Stream {
    sent: u32,
    lost: u32,
    counted: Time,
}

pub struct World {
    pub case: Arc<Case>,
    pub now: Time,
    pub start: Time,
    pub nodes: Vec<Node>,
    pub lines: Lines,
    /// For each fault: whether it is on, and of a flapping line, whether it is in its bad half.
    pub active: Vec<(bool, bool)>,
    queue: BinaryHeap<Reverse<(Time, u64, usize)>>,
    events: Vec<Option<Event>>,
    free: Vec<usize>,
    order: u64,
    lost_in_row: BTreeMap<(usize, usize), u32>,
    /// Packets of data per second on the path that each busy pair's first class takes.
    pub data_pps: u32,
    streams: BTreeMap<(usize, PathKey), Stream>,
    check: Duration,
    pub probes: u64,
}

impl World {
    pub fn new(case: Case) -> Self {
        let start = Time(1_000_000 * MS);
        let case = Arc::new(case);
        let config = Arc::new(Config::default());
        let policies = case.policies.policies();
        let compilation = Arc::new(compile(&policies, &["lan".into()], 8).expect("the case's policies compile"));
        let nodes = (0..case.sites.len()).map(|number| Node::new(&case, number, &config, &compilation)).collect();
        let mut world = Self {
            lines: Lines::new(&case, start),
            now: start,
            start,
            nodes,
            active: vec![(false, false); case.faults.len()],
            queue: BinaryHeap::new(),
            events: Vec::new(),
            free: Vec::new(),
            order: 0,
            lost_in_row: BTreeMap::new(),
            data_pps: 0,
            streams: BTreeMap::new(),
            check: Duration::from_millis(if case.sites.len() <= 16 { 25 } else { 250 }),
            probes: 0,
            case,
        };
        for (number, fault) in world.case.clone().faults.iter().enumerate() {
            world.at(world.ms(fault.at_ms), Event::Fault { number, begins: true });
            world.at(world.ms(fault.at_ms + fault.for_ms), Event::Fault { number, begins: false });
        }
        world.at(start, Event::Announce);
        world.at(start + Duration::from_secs(1), Event::Traffic);
        world.at(start + world.check, Event::Check);
        world
    }

    /// So many ms after the start.
    pub fn ms(&self, ms: u64) -> Time {
        Time(self.start.0 + ms * MS)
    }

    /// Starts every daemon; what the first one's engine is told goes to `recorder`.
    pub fn begin(&mut self, mut recorder: Option<Box<dyn Record>>) {
        for number in 0..self.nodes.len() {
            let recorder = if number == 0 { recorder.take() } else { None };
            self.nodes[number].start(recorder, self.now);
            self.drive(number);
        }
    }

    /// Runs until then, and holds `laws` against every moment.
    pub fn run(&mut self, until: Time, laws: &mut Laws) -> Result<(), Broken> {
        while let Some(Reverse((at, _, slot))) = self.queue.peek().copied() {
            if at > until {
                break;
            }
            self.queue.pop();
            self.now = at;
            self.free.push(slot);
            let Some(event) = self.events[slot].take() else { continue };
            self.happen(event, laws)?;
        }
        self.now = until;
        Ok(())
    }

    fn at(&mut self, at: Time, event: Event) {
        let slot = match self.free.pop() {
            Some(slot) => {
                self.events[slot] = Some(event);
                slot
            }
            None => {
                self.events.push(Some(event));
                self.events.len() - 1
            }
        };
        self.order += 1;
        self.queue.push(Reverse((at, self.order, slot)));
    }

    fn happen(&mut self, event: Event, laws: &mut Laws) -> Result<(), Broken> {
        match event {
            Event::Wake(number) => {
                if self.nodes[number].wake == Some(self.now) {
                    self.nodes[number].wake = None;
                    self.drive(number);
                }
            }
            Event::Probe { to, path, probe } => self.reflect(to, path, probe),
            Event::Reply { to, path, reply, counters } => self.answered(to, path, reply, counters),
            Event::Announcement { to, number, remote } => {
                self.nodes[to].announced(number, &remote, self.now);
                self.drive(to);
            }
            Event::Announce => {
                for number in 0..self.nodes.len() {
                    self.nodes[number].forget(Duration::from_millis(SILENT_MS), self.now);
                    self.announce(number);
                    // As often as the daemon puts everything before the reconcilers again.
                    if self.nodes[number].published() {
                        self.nodes[number].publish();
                    }
                    self.drive(number);
                }
                self.at(self.now + Duration::from_millis(ANNOUNCE_MS), Event::Announce);
            }
            Event::Traffic => self.traffic(),
            Event::Fault { number, begins } => {
                self.fault(number, begins);
                laws.edge(self, number);
            }
            Event::Flap { number } => self.flap(number),
            Event::Check => {
                laws.check(self)?;
                self.at(self.now + self.check, Event::Check);
            }
        }
        Ok(())
    }

    /// Lets a daemon work, and plans when it is to be woken.
    pub fn drive(&mut self, number: usize) {
        let node = &mut self.nodes[number];
        if node.daemon != Daemon::Running {
            return;
        }
        for probe in node.work(self.now) {
            self.send(number, &probe);
        }
        let node = &mut self.nodes[number];
        if let Some(deadline) = node.engine.next_deadline()
            && node.wake.is_none_or(|wake| deadline < wake)
        {
            let wake = deadline.max(self.now);
            node.wake = Some(wake);
            self.at(wake, Event::Wake(number));
        }
    }

    fn send(&mut self, from: usize, probe: &Probe) {
        self.probes += 1;
        let path = probe.path;
        let to = site_number(&path.site);
        let (here, there) = ends(from, &path);
        if self.nodes[from].uplinks.get(here.1).is_none_or(|uplink| !uplink.carrier) {
            return;
        }
        let data = self.count(from, path);
        let unix_ns = self.nodes[from].unix_ns(self.now);
        let reversed = PathKey { site: self.nodes[from].id, tunnel: reverse(path.tunnel) };
        for delay in self.lines.send(here, there) {
            let detection_ns = probe.detection.as_nanos() as u64;
            let probe = Sent { sequence: probe.sequence, hears: probe.hears, detection_ns, unix_ns, data };
            self.at(self.now + Duration::from_micros(delay), Event::Probe { to, path: reversed, probe });
        }
    }

    /// The reflector, in the data path: it answers whatever the daemon does.
    fn reflect(&mut self, at: usize, path: PathKey, probe: Sent) {
        let now = self.now;
        let node = &mut self.nodes[at];
        node.maps.probed.entry(path.site).or_default().probed(probe.detection_ns, now.0);
        node.maps.stamp(&path, |live| {
            live.last_peer_probe_ns = now.0;
            live.peer_flags = u32::from(probe.hears);
            live.peer_detection_ns = probe.detection_ns;
        });
        let reflected = node.reflected.entry(path).or_default();
        *reflected += 1;
        let reflector_sequence = *reflected;
        let unix_ns = node.unix_ns(now);
        let reply = ProbeReply {
            sequence: probe.sequence,
            reflector_sequence,
            sent_ns: probe.unix_ns,
            reflector_received_ns: unix_ns,
            reflector_sent_ns: unix_ns,
            received_ns: 0,
            synchronized: false,
            clock_error_ns: 0,
        };
        let back = self.count(at, path);
        let counters = (self.data_pps > 0).then_some(Counters {
            sent: probe.data.0,
            peer_received: probe.data.0 - probe.data.1,
            peer_sent: back.0,
            received: back.0 - back.1,
        });
        let (here, there) = ends(at, &path);
        let reversed = PathKey { site: self.nodes[at].id, tunnel: reverse(path.tunnel) };
        for delay in self.lines.send(here, there) {
            let to = site_number(&path.site);
            self.at(self.now + Duration::from_micros(delay), Event::Reply { to, path: reversed, reply, counters });
        }
    }

    fn answered(&mut self, at: usize, path: PathKey, mut reply: ProbeReply, counters: Option<Counters>) {
        let now = self.now;
        let node = &mut self.nodes[at];
        reply.received_ns = node.unix_ns(now);
        node.maps.stamp(&path, |live| live.last_reply_ns = now.0);
        match node.daemon {
            Daemon::Running => {
                node.reply(path, reply, counters, now);
                self.drive(at);
            }
            Daemon::Stalled => node.waiting.push((now, path, reply, counters)),
            Daemon::Away => {}
        }
    }

    /// Brings the count of the data by a path up to date.
    fn count(&mut self, from: usize, path: PathKey) -> (u32, u32) {
        if self.data_pps == 0 {
            return (0, 0);
        }
        let carries = self.nodes[from].engine.site(&path.site).and_then(|site| site.sets().first()?.first());
        let (here, there) = ends(from, &path);
        let stream = self.streams.entry((from, path)).or_insert(Stream { counted: self.now, ..Stream::default() });
        let packets = self.now.since(stream.counted).as_secs_f64() * f64::from(self.data_pps);
        if packets >= 1.0 {
            stream.counted = self.now;
            if carries == Some(path.tunnel) {
                stream.sent += packets as u32;
                stream.lost += self.lines.lost(here, there, packets as u32);
            }
        }
        (stream.sent, stream.lost)
    }

    fn announce(&mut self, from: usize) {
        if self.nodes[from].daemon != Daemon::Running {
            return;
        }
        self.nodes[from].announced += 1;
        let number = self.nodes[from].announced;
        let remote = Arc::new(self.nodes[from].announcement());
        for to in 0..self.nodes.len() {
            if !self.case.knows(from, to) {
                continue;
            }
            let reachable = (0..self.case.sites[from].uplinks.len()).any(|here| {
                (0..self.case.sites[to].uplinks.len())
                    .any(|there| self.lines.dead_since((from, here), (to, there)).is_none())
            });
            let in_row = self.lost_in_row.entry((from, to)).or_default();
            if !reachable || *in_row < 2 && self.lines.random().chance(self.case.messages.lost_ppm) {
                *in_row += 1;
                continue;
            }
            *in_row = 0;
            let delay = Duration::from_millis(self.lines.random().between(1, 200));
            self.at(self.now + delay, Event::Announcement { to, number, remote: remote.clone() });
        }
    }

    fn traffic(&mut self) {
        for number in 0..self.nodes.len() {
            let node = &mut self.nodes[number];
            if node.daemon == Daemon::Running {
                let busy = |other: usize| self.case.sites[other].busy || self.case.sites[number].busy;
                let sites = node.sites().into_iter().filter(|site| busy(site_number(site))).collect();
                node.engine.handle(Input::Traffic(sites), self.now);
                self.drive(number);
            }
        }
        self.at(self.now + Duration::from_secs(1), Event::Traffic);
    }

    fn fault(&mut self, number: usize, begins: bool) {
        let fault = self.case.faults[number];
        self.active[number] = (begins, begins);
        let site = fault.site;
        let another = |kind: FaultKind| {
            let faults = self.case.faults.iter().zip(&self.active).enumerate();
            let same = faults.filter(|(other, (fault, (on, _)))| *other != number && *on && fault.site == site);
            same.into_iter().any(|(_, (fault, _))| fault.kind == kind)
        };
        match fault.kind {
            FaultKind::Flap { period_ms } if begins => {
                self.at(self.now + Duration::from_millis(period_ms / 2), Event::Flap { number });
                self.set_lines(site);
            }
            kind if kind.breaks_line() => self.set_lines(site),
            FaultKind::Restart | FaultKind::Stall => {
                let away = another(FaultKind::Restart) || begins && fault.kind == FaultKind::Restart;
                let stalled = another(FaultKind::Stall) || begins && fault.kind == FaultKind::Stall;
                let next = match (away, stalled) {
                    (true, _) => Daemon::Away,
                    (false, true) => Daemon::Stalled,
                    (false, false) => Daemon::Running,
                };
                self.become_daemon(site, next);
            }
            FaultKind::Clock { jump_s } => {
                let jump = jump_s * 1_000_000_000;
                self.nodes[site].wall += if begins { jump } else { -jump };
            }
            _ => self.give_prefix(site, begins),
        }
    }

    fn become_daemon(&mut self, site: usize, next: Daemon) {
        let node = &mut self.nodes[site];
        match (node.daemon, next) {
            (former, next) if former == next => {}
            (Daemon::Away, Daemon::Running) => {
                node.start(None, self.now);
                node.wake = None;
                self.announce(site);
                self.drive(site);
            }
            (Daemon::Away, Daemon::Stalled) => {}
            (_, Daemon::Running) => {
                node.resume(self.now);
                node.wake = None;
                self.drive(site);
            }
            (_, next) => node.pause(next, self.now),
        }
    }

    /// A prefix moves to the next site, or back: both daemons start anew with what they have then.
    fn give_prefix(&mut self, site: usize, begins: bool) {
        let next = (site + 1) % self.nodes.len();
        let (from, to) = if begins { (site, next) } else { (next, site) };
        let moving = prefix(site);
        self.nodes[from].prefixes.retain(|known| *known != moving);
        if !self.nodes[to].prefixes.contains(&moving) {
            self.nodes[to].prefixes.push(moving);
        }
        for number in [from, to] {
            if self.nodes[number].daemon == Daemon::Running {
                self.nodes[number].pause(Daemon::Away, self.now);
                self.become_daemon(number, Daemon::Running);
            }
        }
    }

    fn flap(&mut self, number: usize) {
        if !self.active[number].0 {
            return;
        }
        self.active[number].1 = !self.active[number].1;
        self.set_lines(self.case.faults[number].site);
        if let FaultKind::Flap { period_ms } = self.case.faults[number].kind {
            self.at(self.now + Duration::from_millis((period_ms / 2).max(1)), Event::Flap { number });
        }
    }

    fn set_lines(&mut self, site: usize) {
        let case = self.case.clone();
        let active: Vec<(&Fault, bool)> = case
            .faults
            .iter()
            .zip(&self.active)
            .filter(|(_, (on, _))| *on)
            .map(|(fault, (_, bad))| (fault, *bad))
            .collect();
        self.lines.set(site, active.iter().copied(), self.now);
        let node = &mut self.nodes[site];
        for (number, uplink) in node.uplinks.iter_mut().enumerate() {
            let lost = |(fault, _): &(&Fault, bool)| {
                fault.site == site && fault.uplink == number && fault.kind == FaultKind::Carrier
            };
            uplink.carrier = !active.iter().any(lost);
        }
        if node.daemon == Daemon::Running {
            node.engine.handle(Input::Uplinks(node.uplinks.clone()), self.now);
            self.drive(site);
        }
    }
}

fn reverse(tunnel: TunnelKey) -> TunnelKey {
    TunnelKey { local: tunnel.remote, remote: tunnel.local }
}

/// Both ends of a path of a site.
pub fn ends(from: usize, path: &PathKey) -> (End, End) {
    let (local, remote) = (path.tunnel.local.get(), path.tunnel.remote.get());
    ((from, usize::from(local)), (site_number(&path.site), usize::from(remote)))
}
