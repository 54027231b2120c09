//! A site: its daemon, as far as that decides, and its data path.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use crate::case::Case;
use crate::maps::{Flow, Maps};
use sdwan::config::Config;
use sdwan::daemon::desired::{self, Identity, heartbeat_stale};
use sdwan::dataplane::desired::{Desired, WallClock};
use sdwan::engine::estimate::{Counters, ProbeReply};
use sdwan::engine::events::EngineEvent;
use sdwan::engine::input::{Gone, Input, Probe};
use sdwan::engine::path::PathState;
use sdwan::engine::policy::Compilation;
use sdwan::engine::types::{LocalUplink, PathKey, RemoteSite, RemoteUplink, SiteId, TunnelKey, UplinkIndex};
use sdwan::engine::{Engine, Local, Time};
use sdwan::recording::{Header, PolicySet, Record, RecordedEngine, VERSION};

/// A daemon that starts waits for its paths so long before it takes the maps over.
const SETTLE: Duration = Duration::from_secs(1);
/// After a pause its heartbeat waits for answers by the longest path, and no longer than this.
const LONG_WAY: Duration = Duration::from_secs(1);

/// What the daemon is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Daemon {
    Running,
    /// It doesn't get to run; what comes in waits.
    Stalled,
    /// Not there.
    Away,
}

pub struct Node {
    pub id: SiteId,
    pub uplinks: Vec<LocalUplink>,
    pub prefixes: Vec<IpNet>,
    pub engine: RecordedEngine,
    pub daemon: Daemon,
    /// Until then a daemon that has started leaves the maps alone.
    adopts_until: Option<Time>,
    /// When the daemon last showed that it lives; counts while it doesn't run.
    last_heartbeat: Time,
    pub maps: Maps,
    /// Wall clock less the engine's clock, ns.
    pub wall: i64,
    pub reflected: BTreeMap<PathKey, u32>,
    pub waiting: Vec<(Time, PathKey, ProbeReply, Option<Counters>)>,
    /// The announcements it has, with their numbers, and when each came.
    pub known: BTreeMap<SiteId, (u64, RemoteSite, Time)>,
    pub announced: u64,
    pub flows: Vec<Flow>,
    /// When it is to be woken, if that is planned.
    pub wake: Option<Time>,
    pub events: Vec<(Time, EngineEvent)>,
    /// Times that the second of two equal orders changed the maps.
    pub restless: u64,
    config: Arc<Config>,
    compilation: Arc<Compilation>,
    case: Arc<Case>,
}

pub fn site_id(number: usize) -> SiteId {
    let mut id = [0; 16];
    // Not in the order of the numbers.
    id[0] = (number as u8).wrapping_mul(0x9d);
    id[1..3].copy_from_slice(&(number as u16).to_be_bytes());
    SiteId(id)
}

pub fn site_number(id: &SiteId) -> usize {
    usize::from(u16::from_be_bytes([id.0[1], id.0[2]]))
}

pub fn prefix(number: usize) -> IpNet {
    format!("10.{}.{}.0/24", number / 256, number % 256).parse().expect("a prefix")
}

fn index(number: usize) -> UplinkIndex {
    UplinkIndex::new(number as u8).expect("a case has at most eight uplinks per site")
}

fn uplinks(case: &Case, number: usize) -> Vec<LocalUplink> {
    let uplink = |(at, uplink): (usize, &crate::case::UplinkCase)| LocalUplink {
        index: index(at),
        name: format!("isp{at}"),
        interface: format!("wan{at}"),
        ifindex: 10 + at as u32,
        carrier: true,
        addresses: vec![IpAddr::from([198, 18 + at as u8, (number / 256) as u8, (number % 256) as u8])],
        gateways: Vec::new(),
        mtu: 1500,
        public_addresses: Vec::new(),
        cost: uplink.cost,
        rate_up: uplink.rate_mbps.map(|rate| rate * 1_000_000),
        rate_down: uplink.rate_mbps.map(|rate| rate * 1_000_000),
    };
    case.sites[number].uplinks.iter().enumerate().map(uplink).collect()
}

impl Node {
    pub fn new(case: &Arc<Case>, number: usize, config: &Arc<Config>, compilation: &Arc<Compilation>) -> Self {
        let prefixes = vec![prefix(number)];
        let local = Local { id: site_id(number), prefixes: prefixes.clone(), mtu: None };
        let engine = RecordedEngine::new(Engine::new(case.settings(), local, compilation.clone()), None);
        Self {
            id: site_id(number),
            uplinks: uplinks(case, number),
            prefixes,
            engine,
            daemon: Daemon::Running,
            adopts_until: None,
            last_heartbeat: Time(0),
            maps: Maps::new(),
            wall: 1_700_000_000_000_000_000 + number as i64 * 1_234_567,
            reflected: BTreeMap::new(),
            waiting: Vec::new(),
            known: BTreeMap::new(),
            announced: 0,
            flows: Vec::new(),
            wake: None,
            events: Vec::new(),
            restless: 0,
            config: config.clone(),
            compilation: compilation.clone(),
            case: case.clone(),
        }
    }

    /// What a recording of this node, begun now, starts with.
    pub fn header(&self, now: Time) -> Header {
        Header {
            sdwan_recording: VERSION,
            program: "simulation".into(),
            site: self.id,
            name: "simulated".into(),
            started: now,
            started_unix_ns: self.unix_ns(now),
            settings: self.case.settings(),
            local: Local { id: self.id, prefixes: self.prefixes.clone(), mtu: None },
            policies: PolicySet::of(&self.compilation),
        }
    }

    /// The wall clock.
    pub fn unix_ns(&self, now: Time) -> u64 {
        now.0.saturating_add_signed(self.wall)
    }

    /// When the daemon last showed that it lives: now, unless it doesn't run, starts, or has just been stalled.
    pub fn heartbeat(&self, now: Time) -> Time {
        let settled = self.heartbeat_stale() + self.engine.longest_way().min(LONG_WAY);
        match (self.daemon, self.adopts_until) {
            (Daemon::Running, None) if self.engine.in_time_for(now) >= settled => now,
            _ => self.last_heartbeat,
        }
    }

    /// The daemon starts, with what it remembers.
    pub fn start(&mut self, recorder: Option<Box<dyn Record>>, now: Time) {
        let local = Local { id: self.id, prefixes: self.prefixes.clone(), mtu: None };
        let engine = Engine::new(self.case.settings(), local, self.compilation.clone());
        self.engine = RecordedEngine::new(engine, recorder);
        self.daemon = Daemon::Running;
        self.adopts_until = self.maps.used().then_some(now + SETTLE);
        self.waiting.clear();
        let tunnels = self.interfaces().into_keys().collect();
        let known =
            self.known.keys().flat_map(|site| (0..self.compilation.classes.len()).map(|class| (*site, class as u16)));
        let taken: Vec<_> = known.filter_map(|(site, class)| Some((self.maps.taken(&site, class)?, class))).collect();
        self.engine.handle(Input::Taken(taken), now);
        self.engine.handle(Input::Uplinks(self.uplinks.clone()), now);
        for (_, remote, _) in self.known.values() {
            self.engine.handle(Input::Site(remote.clone()), now);
        }
        self.engine.handle(Input::Tunnels(tunnels), now);
    }

    /// The daemon stops to do anything.
    pub fn pause(&mut self, daemon: Daemon, now: Time) {
        self.last_heartbeat = self.heartbeat(now);
        self.daemon = daemon;
        if daemon == Daemon::Away {
            self.waiting.clear();
        }
    }

    /// A daemon that was stalled takes what has waited: answers before deadlines.
    pub fn resume(&mut self, now: Time) {
        self.daemon = Daemon::Running;
        for (at, path, reply, counters) in std::mem::take(&mut self.waiting) {
            self.reply(path, reply, counters, at);
        }
        self.engine.handle(Input::Uplinks(self.uplinks.clone()), now);
        for (_, remote, _) in self.known.values() {
            self.engine.handle(Input::Site(remote.clone()), now);
        }
    }

    pub fn reply(&mut self, path: PathKey, reply: ProbeReply, counters: Option<Counters>, at: Time) {
        self.engine.handle(Input::ProbeReply { path, reply }, at);
        self.engine.handle(Input::Counted { path, sequence: reply.sequence, counters }, at);
    }

    /// An announcement, unless a later one was there before.
    pub fn announced(&mut self, number: u64, remote: &RemoteSite, now: Time) {
        if self.known.get(&remote.id).is_some_and(|(known, ..)| *known >= number) {
            return;
        }
        self.known.insert(remote.id, (number, remote.clone(), now));
        if self.daemon == Daemon::Running {
            self.engine.handle(Input::Site(remote.clone()), now);
        }
    }

    /// A site that wasn't heard for too long is gone.
    pub fn forget(&mut self, silent: Duration, now: Time) {
        if self.daemon != Daemon::Running {
            return;
        }
        let gone = self.known.values().filter(|(.., at)| now.since(*at) > silent).map(|(_, remote, _)| remote.id);
        for site in gone.collect::<Vec<_>>() {
            // Its number stays: an older announcement isn't taken later.
            self.engine.handle(Input::SiteGone { site, gone: Gone::Inactive }, now);
        }
    }

    pub fn announcement(&self) -> RemoteSite {
        let number = site_number(&self.id);
        let uplinks = self.uplinks.iter().map(|uplink| RemoteUplink {
            index: uplink.index,
            name: uplink.name.clone(),
            addresses: uplink.addresses.clone(),
            mtu: uplink.mtu,
            rate_down_kbps: uplink.rate_down.map(|rate| (rate / 1_000) as u32),
        });
        RemoteSite {
            id: self.id,
            name: format!("site{number}"),
            wireguard_key: [number as u8; 32],
            next_wireguard_key: None,
            base_port: 51820,
            overlay: IpAddr::from([100, 64, (number / 256) as u8, (number % 256) as u8]),
            prefixes: self.prefixes.clone(),
            uplinks: uplinks.collect(),
        }
    }

    /// Lets the daemon do what is due; returns the probes that it sends.
    pub fn work(&mut self, now: Time) -> Vec<Probe> {
        self.engine.poll(now);
        let probes = self.engine.due_probes(now);
        let changes = self.engine.take_changes(now);
        if self.adopts_until.is_some_and(|until| now >= until || self.all_up()) {
            self.adopts_until = None;
            self.publish();
        } else if self.adopts_until.is_none() && !changes.is_empty() {
            let urgent = desired::urgent(&self.engine, &self.interfaces(), &changes);
            self.maps.reconciler.change(&urgent).expect("memory takes everything");
            if changes.topology || changes.rules {
                self.publish();
            }
        }
        self.events.extend(changes.events.into_iter().map(|event| (now, event)));
        probes
    }

    fn all_up(&self) -> bool {
        let mut paths = self.engine.sites().flat_map(|site| site.paths());
        paths.all(|(_, path)| path.state() == PathState::Up)
    }

    /// Whether the maps are what the daemon wants.
    pub fn published(&self) -> bool {
        self.daemon == Daemon::Running && self.adopts_until.is_none()
    }

    pub fn desired(&self) -> Desired {
        let identity = Identity {
            site: self.id,
            name: "simulated".into(),
            overlay: self.announcement().overlay,
            prefixes: self.prefixes.clone(),
        };
        let clock = WallClock { offset_ns: 0, scale: 0 };
        desired::maps(&self.engine, &identity, &self.config, &[], &self.interfaces(), false, clock)
    }

    pub fn publish(&mut self) {
        let desired = self.desired();
        self.maps.apply(&desired);
        // In a large mesh this costs more than it can find.
        if self.case.sites.len() <= 16 && self.maps.apply(&desired) != 0 {
            self.restless += 1;
        }
        // New sites get flows; the epoch of a set moves on while the site is away, so flows outlive it.
        for (site, class) in desired.sets.keys() {
            if !self.flows.iter().any(|flow| (flow.site, flow.class) == (*site, *class)) {
                let count = if self.case.sites.len() <= 16 { 3 } else { 1 };
                self.flows.extend((0..count).map(|number| Flow::new(*site, *class, number)));
            }
        }
    }

    /// Every tunnel that any neighbour's uplink needs.
    pub fn interfaces(&self) -> BTreeMap<TunnelKey, u32> {
        let most = self.case.sites.iter().map(|site| site.uplinks.len()).max().unwrap_or(0);
        let tunnels = self.uplinks.iter().flat_map(|local| {
            (0..most).map(|remote| TunnelKey { local: local.index, remote: index(remote) }).collect::<Vec<_>>()
        });
        tunnels.map(|tunnel| (tunnel, 100 + u32::from(tunnel.code()))).collect()
    }

    /// After how long without a heartbeat the programs rely on themselves.
    pub fn heartbeat_stale(&self) -> Duration {
        heartbeat_stale(self.engine.settings())
    }

    pub fn sites(&self) -> BTreeSet<SiteId> {
        self.engine.sites().map(|site| site.remote().id).collect()
    }
}
