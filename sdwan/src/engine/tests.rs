//! The engine under virtual time, against links whose truth is known.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::estimate::ProbeReply;
use super::events::{EngineEvent, EventKind};
use super::input::{Gone, Input};
use super::path::PathState;
use super::policy::{Mode, Policy, compile, default_policies};
use super::settings::Settings;
use super::types::{LocalUplink, PathKey, RemoteSite, RemoteUplink, SiteId, TunnelKey, UplinkIndex};
use super::{Engine, Local, Time};

mod copies;
mod detection;
mod notices;

const VOICE: u16 = 0;

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

fn index(number: u8) -> UplinkIndex {
    UplinkIndex::new(number).expect("a small number")
}

fn tunnel(local: u8, remote: u8) -> TunnelKey {
    TunnelKey { local: index(local), remote: index(remote) }
}

fn site_id(number: u16) -> SiteId {
    let mut id = [0; 16];
    id[..2].copy_from_slice(&number.to_be_bytes());
    SiteId(id)
}

fn remote_site(number: u16, uplinks: u8) -> RemoteSite {
    let [high, low] = number.to_be_bytes();
    RemoteSite {
        id: site_id(number),
        name: format!("site{number}"),
        wireguard_key: [low; 32],
        next_wireguard_key: None,
        base_port: 51820,
        overlay: std::net::IpAddr::from([100, 64, high, low]),
        prefixes: vec![format!("10.{high}.{low}.0/24").parse().expect("a prefix")],
        uplinks: (0..uplinks)
            .map(|uplink| RemoteUplink {
                index: index(uplink),
                name: format!("isp{uplink}"),
                addresses: vec![std::net::IpAddr::from([198, 51, 100 + 10 * uplink + high, low])],
                mtu: 1500,
                rate_down_kbps: None,
            })
            .collect(),
    }
}

fn local_uplink(number: u8) -> LocalUplink {
    LocalUplink {
        index: index(number),
        name: format!("isp{number}"),
        interface: format!("wan{number}"),
        ifindex: 10 + u32::from(number),
        carrier: true,
        addresses: vec![std::net::IpAddr::from([198, 51, 100 + number, 1])],
        gateways: Vec::new(),
        mtu: 1500,
        public_addresses: Vec::new(),
        cost: 0,
        rate_up: None,
        rate_down: None,
    }
}

/// What a path does to probes.
#[derive(Clone, Copy)]
struct Truth {
    rtt: Duration,
    alive: bool,
    /// One probe in so many is lost; 0 for none.
    lose_every: u32,
}

struct World {
    engine: Engine,
    now: Time,
    links: BTreeMap<PathKey, Truth>,
    reflected: BTreeMap<PathKey, u32>,
    in_flight: BTreeSet<(Time, PathKey, u32, u32, Time)>,
    events: Vec<(Time, EngineEvent)>,
    detections: BTreeSet<PathKey>,
    /// When the probes of each path left, and what detection time they told.
    told: BTreeMap<PathKey, Vec<(Time, Duration)>>,
    probes_sent: u64,
}

impl World {
    /// A gateway with two uplinks, `sites` remote sites with two uplinks each, links that answer after 20 ms.
    fn new(sites: u16, policies: Vec<Policy>) -> Self {
        Self::of(SiteId([0; 16]), sites, policies)
    }

    /// The same with an id of its own.
    fn of(id: SiteId, sites: u16, policies: Vec<Policy>) -> Self {
        Self::with(Settings::default(), id, sites, policies)
    }

    /// The same with settings of its own.
    fn with(settings: Settings, id: SiteId, sites: u16, policies: Vec<Policy>) -> Self {
        let compilation = compile(&policies, &["lan".into()], 64).expect("the policies compile");
        let local = Local { id, prefixes: Vec::new(), mtu: None };
        let mut world = Self {
            engine: Engine::new(settings, local, Arc::new(compilation)),
            now: Time(1_000_000_000_000),
            links: BTreeMap::new(),
            reflected: BTreeMap::new(),
            in_flight: BTreeSet::new(),
            events: Vec::new(),
            detections: BTreeSet::new(),
            told: BTreeMap::new(),
            probes_sent: 0,
        };
        let tunnels: Vec<TunnelKey> = (0..4).map(|number| tunnel(number / 2, number % 2)).collect();
        world.engine.handle(Input::Tunnels(tunnels.iter().copied().collect()), world.now);
        world.engine.handle(Input::Uplinks(vec![local_uplink(0), local_uplink(1)]), world.now);
        for number in 1..=sites {
            for &tunnel in &tunnels {
                let key = PathKey { site: site_id(number), tunnel };
                world.links.insert(key, Truth { rtt: ms(20), alive: true, lose_every: 0 });
            }
            world.engine.handle(Input::Site(remote_site(number, 2)), world.now);
        }
        world
    }

    fn key(&self, site: u16, local: u8, remote: u8) -> PathKey {
        PathKey { site: site_id(site), tunnel: tunnel(local, remote) }
    }

    fn link(&mut self, key: PathKey) -> &mut Truth {
        self.links.get_mut(&key).expect("the link exists")
    }

    fn run(&mut self, duration: Duration) {
        let end = self.now + duration;
        loop {
            let answer = self.in_flight.first().map(|(at, ..)| *at);
            let engine = self.engine.next_deadline();
            let next = answer.into_iter().chain(engine).min().unwrap_or(end);
            if next > end {
                self.now = end;
                return;
            }
            self.now = self.now.max(next);
            while self.in_flight.first().is_some_and(|(at, ..)| *at <= self.now) {
                let (at, path, sequence, reflector_sequence, sent) = self.in_flight.pop_first().expect("there is one");
                let half = at.since(sent).as_nanos() as u64 / 2;
                let reply = ProbeReply {
                    sequence,
                    reflector_sequence,
                    sent_ns: sent.0,
                    reflector_received_ns: sent.0 + half,
                    reflector_sent_ns: sent.0 + half,
                    received_ns: at.0,
                    synchronized: false,
                    clock_error_ns: 0,
                };
                self.engine.handle(Input::ProbeReply { path, reply }, at);
            }
            self.engine.poll(self.now);
            while let Some(probe) = self.engine.next_probe(self.now) {
                self.probes_sent += 1;
                self.told.entry(probe.path).or_default().push((self.now, probe.detection));
                let truth = self.links[&probe.path];
                if !truth.alive || truth.lose_every != 0 && probe.sequence % truth.lose_every == 0 {
                    continue;
                }
                let reflected = self.reflected.entry(probe.path).or_default();
                *reflected += 1;
                self.in_flight.insert((self.now + truth.rtt, probe.path, probe.sequence, *reflected, self.now));
            }
            let changes = self.engine.take_changes();
            self.events.extend(changes.events.into_iter().map(|event| (self.now, event)));
            self.detections.extend(changes.detections);
        }
    }

    fn first(&self, site: u16, class: u16) -> Option<TunnelKey> {
        self.engine.site(&site_id(site))?.sets()[usize::from(class)].first()
    }

    fn state(&self, key: PathKey) -> PathState {
        self.engine.path(&key).expect("the path exists").state()
    }

    fn moves_since(&self, since: Time) -> Vec<&EngineEvent> {
        let moved = |(at, event): &&(Time, EngineEvent)| *at >= since && event.kind == EventKind::ClassMoved;
        self.events.iter().filter(moved).map(|(_, event)| event).collect()
    }
}

#[test]
fn every_path_of_every_site_comes_up_within_a_second() {
    let mut world = World::new(3, default_policies());
    world.run(ms(1000));
    for site in world.engine.sites() {
        assert_eq!(site.paths().len(), 4);
        for (tunnel, path) in site.paths() {
            assert_eq!(path.state(), PathState::Up, "{tunnel}");
            assert_eq!(path.mtu(), 1440);
        }
    }
}

#[test]
fn voice_takes_the_path_with_the_least_delay_and_leaves_it_when_it_is_cut() {
    let mut world = World::new(1, default_policies());
    let fast = world.key(1, 1, 0);
    world.link(fast).rtt = ms(5);
    world.run(ms(10_000));
    assert_eq!(world.first(1, VOICE), Some(fast.tunnel));

    let cut = world.now;
    world.link(fast).alive = false;
    world.run(ms(400));
    assert_ne!(world.first(1, VOICE), Some(fast.tunnel));
    let (down, _) = world.events.iter().find(|(_, event)| event.kind == EventKind::PathDown).expect("an event");
    let detection = down.since(cut);
    assert!((ms(100)..=ms(180)).contains(&detection), "detected after {detection:?}");
}

#[test]
fn a_line_that_is_cut_is_left_in_one_step() {
    const SITES: u16 = 60;
    let mut world = World::new(SITES, default_policies());
    let busy: BTreeSet<SiteId> = (1..=SITES).map(site_id).collect();
    for _ in 0..10 {
        world.engine.handle(Input::Traffic(busy.clone()), world.now);
        world.run(ms(1_000));
    }
    let cut = world.now;
    for (key, truth) in &mut world.links {
        truth.alive = key.tunnel.local != index(0);
    }
    world.run(ms(1_000));
    let moves = world.moves_since(cut);
    assert!(moves.len() > usize::from(SITES), "{} classes left the line", moves.len());
    for moved in moves {
        assert_eq!(moved.path.map(|path| path.tunnel.local), Some(index(1)), "{moved:?}");
    }
}

#[test]
fn a_path_comes_back_only_after_its_hold_and_traffic_after_the_switch_hold() {
    let mut world = World::new(1, default_policies());
    let fast = world.key(1, 1, 0);
    world.link(fast).rtt = ms(5);
    world.run(ms(10_000));
    world.link(fast).alive = false;
    world.run(ms(5_000));
    world.link(fast).alive = true;
    let restored = world.now;
    world.run(ms(2_500));
    assert_eq!(world.state(fast), PathState::Recovering);
    assert!(world.moves_since(restored).is_empty());
    world.run(ms(1_000));
    assert_eq!(world.state(fast), PathState::Up);
    assert_ne!(world.first(1, VOICE), Some(fast.tunnel));
    world.run(ms(6_000));
    assert_eq!(world.first(1, VOICE), Some(fast.tunnel));
}

#[test]
fn a_flapping_path_is_damped() {
    let mut world = World::new(1, default_policies());
    let fast = world.key(1, 1, 0);
    world.link(fast).rtt = ms(5);
    world.run(ms(10_000));
    let start = world.now;
    for _ in 0..30 {
        world.link(fast).alive = false;
        world.run(ms(4_000));
        world.link(fast).alive = true;
        world.run(ms(4_000));
    }
    let moves = world.moves_since(start).iter().filter(|event| event.class.as_deref() == Some("voip-video")).count();
    assert!(moves <= 8, "{moves} moves in four minutes of flapping");
}

#[test]
fn similar_paths_make_no_class_move() {
    let mut world = World::new(1, default_policies());
    world.run(ms(5_000));
    let settled = world.now;
    for round in 0..60u64 {
        for (number, tunnel) in [(0, (0, 0)), (1, (0, 1)), (2, (1, 0)), (3, (1, 1))] {
            let key = world.key(1, tunnel.0, tunnel.1);
            world.link(key).rtt = Duration::from_micros(20_000 + (round * 7 + number * 13) % 17 * 200);
        }
        world.run(ms(1_000));
    }
    assert_eq!(world.moves_since(settled), Vec::<&EngineEvent>::new());
}

#[test]
fn an_uplink_without_carrier_takes_its_paths_down_at_once() {
    let mut world = World::new(1, default_policies());
    let fast = world.key(1, 0, 0);
    world.link(fast).rtt = ms(5);
    world.run(ms(10_000));
    assert_eq!(world.first(1, VOICE), Some(fast.tunnel));
    world
        .engine
        .handle(Input::Uplinks(vec![LocalUplink { carrier: false, ..local_uplink(0) }, local_uplink(1)]), world.now);
    assert_eq!(world.state(fast), PathState::Down);
    assert_eq!(world.first(1, VOICE).map(|tunnel| tunnel.local), Some(index(1)));
    let changes = world.engine.take_changes();
    assert!(changes.states.contains(&fast));
    assert!(changes.sets.contains(&(site_id(1), VOICE)));
}

#[test]
fn the_whole_set_stays_when_every_path_is_down() {
    let mut world = World::new(1, default_policies());
    world.run(ms(5_000));
    for key in world.links.keys().copied().collect::<Vec<_>>() {
        world.link(key).alive = false;
    }
    world.run(ms(5_000));
    let site = world.engine.site(&site_id(1)).expect("the site is active");
    assert_eq!(site.sets()[0].candidates().len(), 4);
    assert!(site.paths().all(|(_, path)| path.state() == PathState::Down));
}

#[test]
fn a_change_of_one_site_touches_only_its_sets() {
    let mut world = World::new(20, default_policies());
    world.run(ms(5_000));
    let lost = world.key(7, 0, 0);
    world.link(lost).alive = false;
    let mut touched = BTreeSet::new();
    for _ in 0..100 {
        let step = world.now + ms(5);
        world.engine.take_changes();
        world.run(step.since(world.now));
        touched.extend(world.engine.take_changes().sets.iter().map(|(site, _)| *site));
    }
    assert!(touched.is_subset(&BTreeSet::from([site_id(7)])), "{touched:?}");
}

#[test]
fn balance_spreads_by_capacity() {
    let mut policies = default_policies();
    policies[3].mode = Mode::Balance;
    let mut world = World::new(1, policies);
    let declared = |number, rate| LocalUplink { rate_up: Some(rate), ..local_uplink(number) };
    world.engine.handle(Input::Uplinks(vec![declared(0, 100_000_000), declared(1, 25_000_000)]), world.now);
    world.run(ms(5_000));
    let site = world.engine.site(&site_id(1)).expect("the site is active");
    let set = &site.sets()[3];
    assert_eq!(set.candidates().len(), 4);
    assert!(set.candidates().iter().all(|candidate| candidate.rank == 0));
    let weight = |local: u8| {
        let of = |candidate: &&super::sets::Ranked| candidate.tunnel.local == index(local);
        set.candidates().iter().filter(of).map(|candidate| f64::from(candidate.weight)).sum::<f64>()
    };
    let ratio = weight(0) / weight(1);
    assert!((4.0..=6.5).contains(&ratio), "four times the capacity, and a better score: {ratio}");
}

#[test]
fn the_probe_budget_holds_for_many_sites() {
    let mut world = World::new(250, default_policies());
    world.run(ms(2_000));
    let before = world.probes_sent;
    world.run(ms(5_000));
    let rate = (world.probes_sent - before) as f64 / 5.0;
    let budget = f64::from(world.engine.settings().probe_budget);
    assert!(rate <= budget && rate >= budget * 0.85, "{rate} probes a second with 1,000 paths");
}

#[test]
fn a_thousand_sites_stay_inside_the_budget_in_every_second_and_those_with_traffic_are_probed_at_full_pace() {
    let mut world = World::new(1_000, default_policies());
    let budget = world.engine.settings().probe_budget as usize;
    let few: BTreeSet<SiteId> = (1..=30).map(site_id).collect();
    let all: BTreeSet<SiteId> = (1..=1_000).map(site_id).collect();
    let none = BTreeSet::new();
    // All sites appear at once; then some get traffic, all of them, some, and none; paces change in between.
    let phases = [(&none, 8), (&few, 40), (&all, 20), (&few, 35), (&none, 30)];
    let mut boundaries = Vec::new();
    for (busy, seconds) in phases {
        for _ in 0..seconds {
            world.engine.handle(Input::Traffic(busy.clone()), world.now);
            world.run(ms(1_000));
        }
        boundaries.push(world.now);
        if busy != &few {
            continue;
        }
        for site in world.engine.sites() {
            let active = busy.contains(&site.remote().id);
            for (_, path) in site.paths() {
                assert_eq!(path.state(), PathState::Up);
                assert_eq!(path.pace() == ms(50), active, "{:?}", path.pace());
            }
        }
    }
    let mut times: Vec<Time> = world.told.values().flatten().map(|(at, _)| *at).collect();
    times.sort_unstable();
    // In every span of this length, wherever it begins.
    let busiest = |span: Duration, from: Time, to: Time| {
        let counts = (0..times.len()).filter(|first| times[*first] >= from && times[*first] < to).map(|first| {
            let end = times[first] + span;
            times[first..].partition_point(|at| *at < end)
        });
        counts.max().unwrap_or(0)
    };
    let mut from = times[0];
    for to in boundaries {
        if to.since(from) > 20 * ms(1_000) {
            let steady = busiest(ms(50), from + 18 * ms(1_000), to - ms(1_000));
            assert!(steady as f64 <= 1.3 * budget as f64 / 20.0, "{steady} probes in 50 ms");
        }
        from = to;
    }
    let most = busiest(ms(1_000), times[0], from);
    assert!(most <= budget && most >= budget * 8 / 10, "{most} probes in a second, {budget} allowed");
}

#[test]
fn a_pace_that_changes_makes_nobody_take_a_path_for_silent() {
    let mut world = World::new(1, default_policies());
    let settings = world.engine.settings().clone();
    let keys: Vec<PathKey> = world.links.keys().copied().collect();
    world.run(ms(5_000));
    // What the data path was told last, and when it last heard.
    let mut told: BTreeMap<PathKey, Duration> = keys.iter().map(|key| (*key, ms(150))).collect();
    let mut slowed = false;
    for step in 0..12_000 {
        // Busy, idle for a minute, busy again.
        if step % 100 == 0 && !(1_000..7_000).contains(&step) {
            world.engine.handle(Input::Traffic([site_id(1)].into()), world.now);
        }
        world.run(ms(10));
        for key in std::mem::take(&mut world.detections) {
            told.insert(key, world.engine.path(&key).expect("the path exists").told_detection(&settings));
        }
        for key in &keys {
            let path = world.engine.path(key).expect("the path exists");
            assert_eq!(path.state(), PathState::Up, "at step {step}");
            let silence = world.now.since(path.last_answer().expect("it answers"));
            assert!(silence <= told[key], "at step {step}: {silence:?}, told {:?}", told[key]);
            slowed |= path.pace() == settings.idle_interval;
        }
    }
    assert!(slowed);
    assert!(keys.iter().all(|key| told[key] < ms(250)), "{told:?}");
}

#[test]
fn a_probe_tells_a_detection_time_that_covers_the_gaps_behind_it() {
    let mut world = World::new(40, default_policies());
    let missed = world.engine.settings().missed as usize;
    // Busy sites come and go, so that paces change, and cut lines are probed slowly.
    for second in 0..120u64 {
        let busy = (1..=40).filter(|number| second / 20 % u64::from(number % 3 + 1) == 0).map(site_id).collect();
        world.engine.handle(Input::Traffic(busy), world.now);
        let cut = world.key(7, 0, 0);
        world.link(cut).alive = !(30..80).contains(&second);
        world.run(ms(1_000));
    }
    let (mut shortest, mut longest) = (Duration::MAX, Duration::ZERO);
    for (path, probes) in &world.told {
        for several in probes.windows(missed + 1) {
            let (first, detection) = several[0];
            let gap = |number: usize| several[number].0.since(first);
            // One probe may be lost even while the pace changes, all but the last of so many while it doesn't.
            assert!(gap(2) <= detection, "{path:?}: {:?} to the next but one, {detection:?} told", gap(2));
            let steady = (1..=missed).all(|number| gap(number) == gap(1) * number as u32);
            if steady && several.iter().all(|(_, told)| *told == detection) {
                assert!(gap(missed) <= detection, "{path:?}: {:?} to probe {missed}, {detection:?} told", gap(missed));
            }
            (shortest, longest) = (shortest.min(detection), longest.max(detection));
        }
    }
    assert!(shortest < ms(250) && longest >= ms(750), "{shortest:?} to {longest:?}: they follow the pace");
}

#[test]
fn a_site_that_leaves_takes_its_paths_along() {
    let mut world = World::new(2, default_policies());
    world.run(ms(2_000));
    world.engine.take_changes();
    world.engine.handle(Input::SiteGone { site: site_id(1), gone: Gone::Left }, world.now);
    let changes = world.engine.take_changes();
    assert!(changes.topology);
    assert!(changes.events.iter().any(|event| event.kind == EventKind::SiteLeft));
    assert_eq!(world.engine.sites().count(), 1);
    world.run(ms(1_000));
    assert!(world.engine.path(&world.key(1, 0, 0)).is_none());
}

#[test]
fn loss_makes_a_path_degraded_and_moves_voice_off_it() {
    let mut world = World::new(1, default_policies());
    let fast = world.key(1, 1, 0);
    world.link(fast).rtt = ms(5);
    world.run(ms(15_000));
    world.link(fast).lose_every = 5;
    world.run(ms(20_000));
    assert_ne!(world.first(1, VOICE), Some(fast.tunnel));
    assert_eq!(world.state(fast), PathState::Up);
}

#[test]
fn a_path_that_never_answers_is_probed_slowly_and_still_comes_up() {
    let mut world = World::new(1, default_policies());
    let dead = world.key(1, 0, 1);
    world.link(dead).alive = false;
    world.run(ms(40_000));
    assert_eq!(world.state(dead), PathState::Starting);
    assert_eq!(world.engine.path(&dead).map(super::path::Path::pace), Some(ms(1_000)));
    world.link(dead).alive = true;
    // The next slow probe and one that was planned before its answer came; then fast ones.
    world.run(ms(3_000));
    assert_eq!(world.state(dead), PathState::Up);
}

#[test]
fn a_path_that_the_data_path_left_comes_back_through_its_hold() {
    let mut world = World::new(1, default_policies());
    let fast = world.key(1, 1, 0);
    world.link(fast).rtt = ms(5);
    world.run(ms(10_000));
    world.engine.handle(Input::Silent { path: fast }, world.now);
    assert_eq!(world.state(fast), PathState::Down);
    assert_ne!(world.first(1, VOICE), Some(fast.tunnel));
    world.run(ms(10_000));
    assert_eq!(world.state(fast), PathState::Up);
    assert_eq!(world.first(1, VOICE), Some(fast.tunnel));
}

#[test]
fn a_driver_that_did_not_get_to_run_takes_no_path_for_silent_and_still_finds_the_one_that_is() {
    let mut world = World::new(1, default_policies());
    world.run(ms(3_000));
    let keys: Vec<PathKey> = world.links.keys().copied().collect();
    let cut = keys[0];
    world.link(cut).alive = false;
    // What was under way is answered, and nobody reads it.
    let before = world.now;
    world.now = world.now + ms(2_000);
    world.run(ms(60));
    for key in &keys {
        assert_eq!(world.state(*key), PathState::Up, "{key:?}");
    }
    assert_eq!(world.engine.stalls(), 1);
    assert!(world.engine.in_time_for(world.now) <= ms(60));
    world.run(ms(400));
    assert!(world.engine.in_time_for(world.now) >= ms(400));
    let down: Vec<&PathKey> = keys.iter().filter(|key| world.state(**key) != PathState::Up).collect();
    assert_eq!(down, [&cut]);
    let lost = world.engine.path(&keys[1]).expect("the path exists").quality().loss;
    assert_eq!(lost.round_trip, 0.0, "the answers waited to be read");
    assert!(world.moves_since(before).iter().all(|event| event.from_path == Some(cut)));
}

#[test]
fn of_two_sites_that_hear_of_each_other_the_one_with_the_smaller_id_begins_to_probe() {
    let sent = |id: SiteId| {
        let mut world = World::of(id, 1, default_policies());
        world.run(ms(200));
        let early = world.probes_sent;
        world.run(ms(400));
        (early, world.probes_sent)
    };
    let (early, later) = sent(SiteId([0; 16]));
    assert!(early >= 4 && later > early, "{early} and {later}");
    let (early, later) = sent(SiteId([255; 16]));
    assert!(early == 0 && later >= 4, "{early} and {later}");
}
