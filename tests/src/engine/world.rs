//! A gateway among many sites, in virtual time: the real engine, and lines that answer its probes.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::net::IpAddr;
use std::time::Duration;

use anyhow::Result;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sdwan::config::Config;
use sdwan::daemon::desired::{self, Identity};
use sdwan::dataplane::desired::{Change, Desired, WallClock};
use sdwan::engine::estimate::{Counters, ProbeReply};
use sdwan::engine::input::{Changes, Input, Probe};
use sdwan::engine::policy::{compile, default_policies};
use sdwan::engine::settings::Settings;
use sdwan::engine::types::{LocalUplink, PathKey, RemoteSite, RemoteUplink, SiteId, TunnelKey, UplinkIndex};
use sdwan::engine::{Engine, Local, Time};

/// Uplinks of each site: paths are their pairs.
const UPLINKS: u8 = 2;
/// Paths of each site.
pub const PATHS: usize = (UPLINKS * UPLINKS) as usize;
/// Room for classes in the maps.
pub const CLASSES: u32 = 64;
/// One probe in so many is lost, …
const LOST: u32 = 300;
/// … and one in so many is answered late.
const LATE: u32 = 500;

/// What a line does to probes.
struct Line {
    rtt: Duration,
    reflected: u32,
    counters: Counters,
}

/// The gateway and its lines.
pub struct World {
    /// The engine.
    pub engine: Engine,
    /// The time.
    pub now: Time,
    lines: BTreeMap<PathKey, Line>,
    answers: BinaryHeap<Reverse<(Time, PathKey, u32, u64)>>,
    random: StdRng,
    identity: Identity,
}

fn index(number: u8) -> UplinkIndex {
    UplinkIndex::new(number).expect("a small number")
}

/// The id of a site by number.
pub fn site_id(number: u32) -> SiteId {
    let mut id = [0x5d; 16];
    // As scattered as real ones, which are hashes.
    id[..4].copy_from_slice(&number.wrapping_mul(0x9e37_79b1).to_be_bytes());
    id[4..8].copy_from_slice(&number.to_be_bytes());
    SiteId(id)
}

/// The paths of a site by number.
pub fn paths_of(number: u32) -> impl Iterator<Item = PathKey> {
    tunnels().map(move |tunnel| PathKey { site: site_id(number), tunnel })
}

fn tunnels() -> impl Iterator<Item = TunnelKey> {
    (0..UPLINKS)
        .flat_map(|local| (0..UPLINKS).map(move |remote| TunnelKey { local: index(local), remote: index(remote) }))
}

/// The tunnels as interfaces, all by one index.
pub fn interfaces(ifindex: u32) -> BTreeMap<TunnelKey, u32> {
    tunnels().map(|tunnel| (tunnel, ifindex)).collect()
}

/// A site by number, as it announces itself.
pub fn remote(number: u32) -> RemoteSite {
    let [_, high, middle, low] = number.to_be_bytes();
    let uplinks = (0..UPLINKS).map(|uplink| RemoteUplink {
        index: index(uplink),
        name: format!("uplink-{uplink}"),
        addresses: vec![IpAddr::from([172, 16 + uplink * 4 + high, middle, low])],
        mtu: 1_500,
        rate_down_kbps: None,
    });
    let mut wireguard_key = [7; 32];
    wireguard_key[..4].copy_from_slice(&number.to_be_bytes());
    let overlay = (0xfd5d_u128 << 112) | u128::from(number + 1);
    let prefixes = [0, 128].map(|part| {
        let network = IpAddr::from([20 + high, middle, low, part]);
        ipnet::IpNet::new(network, 25).expect("a short prefix")
    });
    RemoteSite {
        id: site_id(number),
        name: format!("site-{number}"),
        wireguard_key,
        next_wireguard_key: None,
        base_port: 51_820,
        overlay: IpAddr::from(std::net::Ipv6Addr::from_bits(overlay)),
        prefixes: prefixes.into(),
        uplinks: uplinks.collect(),
    }
}

fn local(number: u8) -> LocalUplink {
    LocalUplink {
        index: index(number),
        name: format!("uplink-{number}"),
        interface: format!("wan{number}"),
        ifindex: 10 + u32::from(number),
        carrier: true,
        addresses: vec![IpAddr::from([172, 31, number, 1])],
        gateways: vec![IpAddr::from([172, 31, number, 2])],
        mtu: 1_500,
        public_addresses: Vec::new(),
        cost: 0,
        rate_up: None,
        rate_down: None,
    }
}

impl World {
    /// A gateway with so many remote sites of [`PATHS`] paths each, all as yet without an answer.
    ///
    /// # Errors
    /// When the default policies don't compile.
    pub fn new(sites: u32, settings: Settings) -> Result<Self> {
        let own = SiteId([1; 16]);
        let prefixes = vec!["192.168.0.0/16".parse()?];
        let compilation = compile(&default_policies(), &["lan".into()], CLASSES as usize)?;
        let facts = Local { id: own, prefixes: prefixes.clone(), mtu: None };
        let mut engine = Engine::new(settings, facts, compilation.into());
        let now = Time(1_000_000_000_000);
        engine.handle(Input::Uplinks((0..UPLINKS).map(local).collect()), now);
        engine.handle(Input::Tunnels(tunnels().collect()), now);
        let mut random = StdRng::seed_from_u64(u64::from(sites));
        let mut lines = BTreeMap::new();
        for number in 0..sites {
            engine.handle(Input::Site(remote(number)), now);
            for path in paths_of(number) {
                let rtt = Duration::from_micros(random.random_range(4_000..180_000));
                lines.insert(path, Line { rtt, reflected: 0, counters: Counters::default() });
            }
        }
        let overlay = "fd5d::".parse()?;
        let identity = Identity { site: own, name: "here".into(), overlay, prefixes };
        Ok(Self { engine, now, lines, answers: BinaryHeap::new(), random, identity })
    }

    /// Lets time pass: probes leave and are answered, mostly. Returns the probes.
    pub fn run(&mut self, span: Duration) -> u64 {
        let end = self.now + span;
        let mut probes = 0;
        while self.now < end {
            while let Some(Reverse((at, ..))) = self.answers.peek()
                && *at <= self.now
            {
                self.take_answer();
            }
            self.engine.poll(self.now);
            while let Some(probe) = self.engine.next_probe(self.now) {
                probes += 1;
                self.send(&probe);
            }
            self.engine.take_changes();
            let answer = self.answers.peek().map(|Reverse((at, ..))| *at);
            let next = self.engine.next_deadline().into_iter().chain(answer).min().unwrap_or(end);
            self.now = next.max(self.now + Duration::from_nanos(1)).min(end);
        }
        probes
    }

    /// Lets all paths come up, which takes three probes of each.
    pub fn settle(&mut self) {
        let pace = self.engine.paces().idle.max(self.engine.paces().active);
        self.run(Duration::from_secs(10) + pace * 6);
    }

    /// All sites are rated, and their classes decide.
    pub fn rate(&mut self) {
        self.now = self.now + self.engine.settings().rate_interval * 2;
        self.engine.poll(self.now);
        self.engine.take_changes();
    }

    /// The data path left a path; returns what follows.
    pub fn silent(&mut self, path: PathKey) -> Changes {
        self.engine.handle(Input::Silent { path }, self.now);
        self.engine.take_changes()
    }

    /// One probe leaves and is answered, as the driver does it; whatever else is due waits.
    pub fn one_probe(&mut self) -> Changes {
        let probe = loop {
            if let Some(probe) = self.engine.next_probe(self.now) {
                break probe;
            }
            // As finely as a driver comes: of what is due at once, most would wait for the budget, and be put off.
            self.now = self.now + Duration::from_micros(250);
        };
        self.send(&probe);
        self.take_answer();
        self.engine.take_changes()
    }

    fn send(&mut self, probe: &Probe) {
        let Some(line) = self.lines.get(&probe.path) else { return };
        if self.random.random_ratio(1, LOST) {
            return;
        }
        // The sum of four is about normal: three in a hundred are off by more than a tenth.
        let sway: f64 = (0..4).map(|_| self.random.random_range(-0.045..0.045)).sum();
        let late = if self.random.random_ratio(1, LATE) { self.random.random_range(1.5..8.0) } else { 1.0 };
        let at = self.now + line.rtt.mul_f64((1.0 + sway) * late);
        self.answers.push(Reverse((at, probe.path, probe.sequence, self.now.0)));
    }

    /// The next answer comes in, whenever that is.
    fn take_answer(&mut self) {
        let Some(Reverse((at, path, sequence, sent))) = self.answers.pop() else { return };
        let Some(line) = self.lines.get_mut(&path) else { return };
        line.reflected += 1;
        let half = (at.0 - sent) / 2;
        let reply = ProbeReply {
            sequence,
            reflector_sequence: line.reflected,
            sent_ns: sent,
            reflector_received_ns: sent + half,
            reflector_sent_ns: sent + half + 10_000,
            received_ns: at.0 + 10_000,
            synchronized: true,
            clock_error_ns: 1_000_000,
        };
        for counter in [
            &mut line.counters.sent,
            &mut line.counters.peer_received,
            &mut line.counters.peer_sent,
            &mut line.counters.received,
        ] {
            *counter = counter.wrapping_add(100);
        }
        self.engine.handle(Input::ProbeReply { path, reply }, Time(reply.received_ns));
        self.engine.handle(Input::Counted { path, sequence, counters: Some(line.counters) }, Time(reply.received_ns));
    }

    /// All that the maps should hold; `ifindex` is that of every tunnel.
    pub fn desired(&self, ifindex: u32) -> Desired {
        let clock = WallClock { offset_ns: 0, scale: 0 };
        let config = Config::default();
        desired::maps(&self.engine, &self.identity, &config, &[], &interfaces(ifindex), false, clock)
    }

    /// What the data path must hear of at once.
    pub fn urgent(&self, changes: &Changes, ifindex: u32) -> Vec<Change> {
        desired::urgent(&self.engine, &interfaces(ifindex), changes)
    }
}
