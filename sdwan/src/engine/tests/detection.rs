//! Paths with long, varying and steady delays: left when they are dead, and only then.

use super::*;

fn fast() -> Settings {
    Settings { probe_interval: ms(10), ..Settings::default() }
}

/// Delays of 600 ms and up to 20 ms more or less each way, anew for each millisecond; the same in every run.
struct Satellite(u64);

impl Satellite {
    fn rtt(&mut self) -> Duration {
        let mut way = || {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            Duration::from_micros(280_000 + (self.0 >> 33) % 40_001)
        };
        way() + way()
    }
}

/// Lets time pass by a satellite, with live traffic.
fn run_by(world: &mut World, satellite: &mut Satellite, key: PathKey, time: Duration) {
    let end = world.now + time;
    while world.now < end {
        world.engine.handle(Input::Traffic(BTreeSet::from([key.site])), world.now);
        world.link(key).rtt = satellite.rtt();
        world.run(ms(1));
    }
}

fn downs(world: &World, key: PathKey, since: Time) -> usize {
    let is = |event: &EngineEvent| event.kind == EventKind::PathDown && event.path == Some(key);
    world.events.iter().filter(|(at, event)| *at >= since && is(event)).count()
}

#[test]
fn a_path_by_satellite_comes_up_stays_up_and_is_left_within_its_detection_time() {
    for settings in [Settings::default(), fast()] {
        let mut world = World::with(settings.clone(), SiteId([0; 16]), 1, default_policies());
        let (key, mut satellite) = (world.key(1, 1, 1), Satellite(7));
        let start = world.now;
        run_by(&mut world, &mut satellite, key, ms(2_000));
        assert_eq!(world.state(key), PathState::Up, "it comes up within 2 s");
        run_by(&mut world, &mut satellite, key, Duration::from_secs(60));
        assert_eq!(downs(&world, key, start), 0, "{:?}", settings.probe_interval);
        assert_eq!(world.engine.path(&key).expect("it exists").quality().loss.round_trip, 0.0);
        world.link(key).alive = false;
        // The last answers are on their way for a while.
        let last = world.in_flight.iter().filter(|entry| entry.1 == key).map(|entry| entry.0).max();
        let last = last.expect("answers are on their way");
        world.run(last.since(world.now));
        let detection = world.engine.path(&key).expect("it exists").detection(&settings);
        // A rating may find some more variation in the last answers.
        world.run(detection + ms(20));
        assert_eq!(world.state(key), PathState::Down, "{:?} after {detection:?}", settings.probe_interval);
        assert!(detection <= ms(300), "{detection:?}");
    }
}

#[test]
fn what_was_lost_before_the_first_answer_does_not_count_against_a_path_that_comes_up() {
    let mut world = World::with(fast(), SiteId([0; 16]), 1, default_policies());
    let key = world.key(1, 1, 1);
    *world.link(key) = Truth { rtt: ms(600), alive: false, lose_every: 0 };
    let start = world.now;
    world.run(ms(2_000));
    world.link(key).alive = true;
    world.run(ms(5_000));
    assert_eq!(world.state(key), PathState::Up);
    assert_eq!(downs(&world, key, start), 0);
}

#[test]
fn a_steady_path_is_left_fast_however_long_it_is() {
    for rtt in [2, 40, 600] {
        let mut world = World::with(fast(), SiteId([0; 16]), 1, default_policies());
        let key = world.key(1, 0, 0);
        world.link(key).rtt = ms(rtt);
        world.run(Duration::from_secs(20));
        let detection = world.engine.path(&key).expect("it exists").detection(&fast());
        assert!((ms(30)..=ms(32)).contains(&detection), "{rtt} ms: {detection:?}");
    }
}

#[test]
fn a_path_whose_delay_has_become_long_while_it_was_down_comes_back() {
    let mut world = World::new(1, default_policies());
    let key = world.key(1, 0, 0);
    world.run(ms(5_000));
    world.link(key).alive = false;
    world.run(ms(2_000));
    assert_eq!(world.state(key), PathState::Down);
    *world.link(key) = Truth { rtt: ms(700), alive: true, lose_every: 0 };
    world.run(ms(8_000));
    assert_eq!(world.state(key), PathState::Up);
}

#[test]
fn a_path_whose_delay_varies_more_from_now_on_gets_more_time_at_once() {
    let mut world = World::with(fast(), SiteId([0; 16]), 1, default_policies());
    let (key, mut satellite) = (world.key(1, 1, 1), Satellite(3));
    world.link(key).rtt = ms(600);
    world.run(Duration::from_secs(20));
    world.detections.clear();
    run_by(&mut world, &mut satellite, key, ms(1_500));
    assert!(world.detections.contains(&key), "the data path hears of it before the next full state");
}

#[test]
fn a_driver_that_did_not_get_to_run_takes_a_long_path_for_silent_neither_then_nor_a_round_trip_later() {
    let mut world = World::new(1, default_policies());
    let key = world.key(1, 0, 0);
    world.link(key).rtt = ms(300);
    world.run(ms(10_000));
    let before = world.now;
    // Answers that come in meanwhile are stamped by the kernel and read afterwards.
    world.now = world.now + ms(200);
    world.run(ms(2_000));
    assert_eq!(world.engine.stalls(), 1);
    assert_eq!(downs(&world, key, before), 0);
}

#[test]
fn voice_leaves_a_path_that_begins_to_lose_packets_within_three_seconds_and_nothing_else_moves() {
    let mut world = World::new(1, default_policies());
    let short = world.key(1, 0, 0);
    for (key, truth) in &mut world.links {
        truth.rtt = if *key == short { ms(10) } else { ms(110) };
    }
    world.run(ms(20_000));
    let before = world.now;
    assert_eq!(world.first(1, VOICE), Some(short.tunnel));
    world.link(short).lose_every = 6;
    world.run(ms(3_000));
    assert_ne!(world.first(1, VOICE), Some(short.tunnel));
    let moves = world.moves_since(before);
    assert!(moves.iter().all(|event| event.class.as_deref() == Some("voip-video")), "{moves:?}");
}
