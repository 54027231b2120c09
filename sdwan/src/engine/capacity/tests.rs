use std::time::Duration;

use proptest::prelude::*;

use super::passive::Passive;
use super::reading::{Sent, read};
use super::schedule::{Facts, Reason, Schedule, Settings};
use super::search::{Ended, Outcome, Plan, Search, Step};
use super::simulation::{Line, run};
use super::train::{Bin, Gathering, MOST_BINS, Taken, TrainReport};
use super::*;
use crate::engine::types::{PathKey, SiteId, TunnelKey, UplinkIndex};

const RATES: [f64; 5] = [2e6, 10e6, 100e6, 500e6, 2e9];

fn error(outcome: &Outcome, truth: f64) -> f64 {
    outcome.capacity.map_or(1.0, |capacity| (capacity as f64 / truth - 1.0).abs())
}

/// Share of the bytes that the path could carry in the interval.
fn used(outcome: &Outcome, truth: f64) -> f64 {
    outcome.bytes as f64 * 8.0 / (truth * 60.0)
}

/// Runs a search with several seeds; the worst error and the largest use.
fn worst(line: &Line, plan: &Plan) -> (f64, f64) {
    let runs = (1..=10).map(|seed| run(line.clone(), plan.clone(), seed).outcome);
    let figures: Vec<(f64, f64)> = runs
        .map(|outcome| {
            assert_eq!(outcome.ended, Ended::Found, "{line:?}: {outcome:?}");
            (error(&outcome, line.rate), used(&outcome, line.rate))
        })
        .collect();
    figures.into_iter().fold((0.0, 0.0), |worst, one| (f64::max(worst.0, one.0), f64::max(worst.1, one.1)))
}

fn check(name: &str, line: Line, bound: f64) {
    if name.starts_with("others") {
        for seed in 1..=10 {
            println!("XX {:?}", run(line.clone(), Plan::default(), seed).outcome);
        }
    }
    let (wrong, bytes) = worst(&line, &Plan::default());
    println!("{name} at {} Mbit/s: error {:.2} %, bytes {:.2} %", line.rate / 1e6, wrong * 100.0, bytes * 100.0);
    assert!(wrong <= bound, "{name}: {wrong} at {line:?}");
    assert!(bytes <= 0.01, "{name}: {bytes} of the bytes at {line:?}");
}

#[test]
fn a_plain_bottleneck_is_measured_within_its_bytes() {
    for rate in RATES {
        check("plain", Line::of(rate), 0.03);
    }
}

#[test]
fn a_token_bucket_does_not_pass_for_a_faster_line() {
    for rate in [10e6, 100e6, 500e6] {
        for burst in [16e3, 64e3, 128e3] {
            check(&format!("bucket of {burst}"), Line { burst, ..Line::of(rate) }, 0.05);
        }
    }
}

#[test]
fn other_traffic_on_the_path_is_part_of_what_it_carries() {
    for rate in RATES {
        check("own traffic", Line { own: rate / 2.0, ..Line::of(rate) }, 0.10);
    }
}

#[test]
fn other_traffic_of_the_uplink_counts_where_it_shares_the_bottleneck_only() {
    for rate in [10e6, 100e6, 500e6] {
        check("others, shared", Line { others: rate / 2.0, ..Line::of(rate) }, 0.10);
        check("others, elsewhere", Line { others: rate / 2.0, shared: false, ..Line::of(rate) }, 0.10);
    }
}

#[test]
fn jitter_loss_and_aggregation_blur_it_a_little() {
    for rate in [10e6, 100e6, 500e6] {
        check("jitter of 5 ms", Line { jitter: 0.005, ..Line::of(rate) }, 0.10);
        check("loss of 1 %", Line { loss: 0.01, ..Line::of(rate) }, 0.05);
        check("clumps of 4 ms", Line { clump: 0.004, ..Line::of(rate) }, 0.10);
    }
}

#[test]
fn a_machine_that_stands_still_now_and_then_is_no_other_line() {
    for rate in [10e6, 100e6, 500e6] {
        for stall in [0.003, 0.006] {
            check(&format!("stalls of {stall} s"), Line { stall, ..Line::of(rate) }, 0.05);
        }
    }
}

#[test]
fn a_sender_that_is_busy_and_hardly_faster_than_the_line_earns_no_bytes_for_itself() {
    let mut most = 0.0;
    for (rate, burst) in [(100e6, 64e3), (500e6, 256e3), (500e6, 1e6)] {
        for ahead in [1.02, 1.05, 1.1, 1.2, 1.3, 1.6, 2.2] {
            for (held, stall) in [(0.001, 0.0), (0.004, 0.0), (0.012, 0.0), (0.004, 0.003), (0.0, 0.0)] {
                for seed in 1..=4 {
                    let line = Line { burst, sender: rate * ahead, held, stall, ..Line::of(rate) };
                    let outcome = run(line.clone(), Plan::default(), seed).outcome;
                    let (wrong, bytes) = (error(&outcome, rate), used(&outcome, rate));
                    assert!(bytes <= 0.01, "{bytes} of the bytes at {line:?}: {outcome:?}");
                    // What is hardly faster than the line may not fill it; what does isn't taken for more than it is.
                    let found = outcome.ended == Ended::Found;
                    assert!(!found || wrong <= 0.05, "{wrong} at {line:?}: {outcome:?}");
                    most = f64::max(most, bytes);
                }
            }
        }
    }
    println!("at most {:.3} % of the bytes", most * 100.0);
}

#[test]
fn a_policer_without_a_queue_is_found() {
    for rate in [10e6, 100e6] {
        let line = Line { polices: true, burst: rate / 8.0 * 0.01, ..Line::of(rate) };
        check("policer", line, 0.15);
    }
}

#[test]
fn a_shallow_queue_that_overflows_is_measured_as_well() {
    for rate in [10e6, 100e6] {
        check("shallow queue", Line { queue: rate / 8.0 * 0.015, ..Line::of(rate) }, 0.05);
    }
}

#[test]
fn trains_delay_others_no_longer_than_told() {
    for rate in [2e6, 10e6, 100e6, 500e6] {
        for own in [0.0, 0.1, 0.5] {
            let outcome = run(Line { own: rate * own, ..Line::of(rate) }, Plan::default(), 3);
            // The climb doubles its rate: what it queues at most is one train's length, or few packets.
            let bound = 0.06_f64.max(10.0 * 1_480.0 * 8.0 / rate);
            assert!(outcome.longest <= bound, "{} s at {rate} with {own}", outcome.longest);
        }
    }
}

#[test]
fn a_known_path_takes_fewer_trains() {
    let anew = run(Line::of(500e6), Plan::default(), 1);
    let known = run(Line::of(500e6), Plan { prior: Some((480_000_000, false)), ..Plan::default() }, 1);
    assert!(known.trains.len() + 4 <= anew.trains.len(), "{} and {}", known.trains.len(), anew.trains.len());
    assert!(error(&known.outcome, 500e6) < 0.03, "{:?}", known.outcome);
}

#[test]
fn a_path_that_became_slower_or_faster_than_known_is_found() {
    for (prior, rate) in [(100e6, 10e6), (10e6, 100e6)] {
        let outcome = run(Line::of(rate), Plan { prior: Some((prior as u64, false)), ..Plan::default() }, 1).outcome;
        assert!(error(&outcome, rate) < 0.1, "{prior} to {rate}: {outcome:?}");
    }
}

#[test]
fn a_sender_that_is_too_slow_says_that_it_is_a_lower_bound() {
    let outcome = run(Line { sender: 300e6, ..Line::of(1e9) }, Plan::default(), 1).outcome;
    assert_eq!(outcome.ended, Ended::SenderLimited, "{outcome:?}");
    let capacity = outcome.capacity.expect("something was delivered") as f64;
    assert!((200e6..=310e6).contains(&capacity), "{outcome:?}");
}

#[test]
fn a_bucket_that_a_slow_sender_never_empties_in_short_trains_is_no_lower_bound() {
    let outcome = run(Line { sender: 25e6, burst: 64e3, ..Line::of(10e6) }, Plan::default(), 1).outcome;
    assert!(error(&outcome, 10e6) < 0.05, "{outcome:?}");
}

#[test]
fn without_reports_it_ends_and_says_so() {
    let mut search = Search::new(Plan::default(), Time(0));
    let mut now = Time(0);
    loop {
        match search.step(now) {
            Step::Wait(until) => now = until,
            Step::Send(train) => {
                search.silent(&Sent { packets: train.packets, size: train.size, span_ns: 1_000, others: None }, now)
            }
            Step::Done(outcome) => {
                assert_eq!((outcome.ended, outcome.capacity), (Ended::Silent, None));
                assert!(outcome.trains <= 3 && outcome.bytes < 60_000, "{outcome:?}");
                return;
            }
        }
    }
}

#[test]
fn a_packet_counts_once_and_a_foreign_one_never() {
    let mut gathering = Gathering::new(7, 10, 0);
    assert_eq!(gathering.packet(3, 1_000, 2_000), Taken::Fresh);
    assert_eq!(gathering.packet(3, 1_000, 9_000), Taken::Surplus);
    assert_eq!(gathering.packet(10, 1_000, 9_000), Taken::Surplus);
    let report = gathering.report();
    assert_eq!((report.received, report.surplus, report.bins.len()), (1, 2, 1));
    assert_eq!(report.bins[0], Bin { received: 1, at_us: 0, delay_us: 1, other: 0 });
}

#[test]
fn a_rising_delay_ends_a_train_once() {
    let mut gathering = Gathering::new(0, 100, 0);
    gathering.packet(0, 0, 1_000);
    assert!(!gathering.should_stop(10_000, 12_000, 50_000));
    assert!(gathering.should_stop(20_000, 80_000, 50_000));
    assert!(!gathering.should_stop(30_000, 90_000, 50_000), "told already");
}

#[test]
fn what_live_traffic_shows_is_the_largest_rate_that_lasted() {
    let mut passive = Passive::default();
    let second = |second: u64| Time(second * 1_000_000_000);
    let mut bytes = 0;
    for (at, rate) in [(1, 0), (2, 1_000_000), (3, 0), (4, 500_000), (5, 500_000), (6, 500_000), (7, 0)] {
        bytes += rate;
        passive.sample(second(at), bytes);
    }
    // One second at 8 Mbit/s is a burst; three at 4 Mbit/s lasted.
    assert_eq!(passive.maximum(second(8)), Some(4_000_000));
    assert_eq!(passive.maximum(second(700)), None, "too long ago");
    passive.sample(second(701), 5);
    assert_eq!(passive.maximum(second(701)), None, "a counter that fell");
}

#[test]
fn a_lower_bound_raises_and_never_lowers() {
    let estimate = |bits_per_second, how| Estimate { bits_per_second, at: Time(0), how };
    let mut known = Known::declared(Some(50));
    assert_eq!(known.forward(), Some((50, How::Declared)));
    known.set(Direction::Forward, estimate(40, How::Passive));
    assert_eq!(known.forward(), Some((50, How::Declared)), "declared is more");
    known.set(Direction::Forward, estimate(45, How::Measured));
    assert_eq!(known.forward(), Some((45, How::Measured)), "measured is the truth");
    known.set(Direction::Forward, estimate(44, How::AtLeast));
    assert_eq!(known.forward(), Some((45, How::Measured)));
    known.set(Direction::Forward, estimate(60, How::Passive));
    assert_eq!(known.forward(), Some((60, How::Passive)));
    assert_eq!(known.found(Direction::Backward), None);
}

#[test]
fn framing_fills_up_to_sixteen_bytes_and_not_beyond_the_mtu() {
    let framing = Framing::wireguard(60, 1_420);
    assert_eq!(framing.outer(1_420), 1_480, "no room to fill up");
    assert_eq!(framing.outer(1_408), 1_468);
    assert_eq!(framing.outer(100), 172);
    assert_eq!(Framing::none(1_500).outer(1_500), 1_500);
}

fn path(site: u8, local: u8, remote: u8) -> PathKey {
    let index = |number| UplinkIndex::new(number).unwrap();
    PathKey { site: SiteId([site; 16]), tunnel: TunnelKey { local: index(local), remote: index(remote) } }
}

const UP: Facts = Facts { up: true, metered: false };

fn settings() -> Settings {
    Settings { enabled: true, interval: Duration::from_secs(60), share: 0.01, metered: false }
}

/// Plays a schedule for a time with measurements of 5 s and the whole share; how often each path had its turn.
fn play(schedule: &mut Schedule, until: Time) -> Vec<(PathKey, Time)> {
    let mut now = Time(0);
    let mut turns = Vec::new();
    let mut running: Vec<(PathKey, Time)> = Vec::new();
    while now < until {
        while let Some(key) = schedule.due(now) {
            assert!(running.iter().all(|(other, _)| other.tunnel.local != key.tunnel.local), "two at once");
            running.push((key, now + Duration::from_secs(5)));
            turns.push((key, now));
        }
        running.retain(|(key, end)| {
            if *end <= now {
                schedule.finished(*key, 7_500_000, 100_000_000, now);
            }
            *end > now
        });
        now = now + Duration::from_millis(500);
    }
    turns
}

#[test]
fn each_path_has_its_turn_and_each_uplink_keeps_its_share() {
    let mut schedule = Schedule::new(settings());
    let paths: Vec<PathKey> = (0..5).flat_map(|site| [path(site, 0, 0), path(site, 1, 0)]).collect();
    schedule.set_paths(paths.iter().map(|key| (*key, UP)), Time(0));
    let turns = play(&mut schedule, Time(3_600_000_000_000));
    for key in &paths {
        let count = turns.iter().filter(|(other, _)| other == key).count();
        // 60 s of share each, five paths on the uplink: one turn in 5 min or a little more.
        assert!((9..=13).contains(&count), "{key:?} had {count} turns in an hour");
    }
}

#[test]
fn a_metered_uplink_is_left_alone_unless_somebody_insists() {
    let mut schedule = Schedule::new(settings());
    let key = path(1, 0, 0);
    schedule.set_paths([(key, Facts { metered: true, ..UP })], Time(0));
    assert_eq!(schedule.next_at(), None);
    assert_eq!(schedule.demand(key, false), Err(Reason::Metered));
    assert_eq!(schedule.consent(key), Err(Reason::Metered));
    assert_eq!(schedule.solicited(key, Time(0)), Err(Reason::Metered));
    assert_eq!(schedule.demand(key, true), Ok(()));
    assert_eq!(schedule.demand(key, true), Err(Reason::Busy));
}

#[test]
fn who_asks_too_often_is_refused() {
    let mut schedule = Schedule::new(settings());
    let key = path(1, 0, 0);
    schedule.set_paths([(key, UP)], Time(0));
    let second = |second: u64| Time(second * 1_000_000_000);
    assert_eq!(schedule.solicited(key, second(100)), Ok(()));
    assert_eq!(schedule.solicited(key, second(101)), Err(Reason::Busy));
    schedule.finished(key, 750_000, 10_000_000, second(105));
    assert_eq!(schedule.solicited(key, second(120)), Err(Reason::Budget), "60 s of share were used");
    assert_eq!(schedule.solicited(key, second(166)), Ok(()));
    assert_eq!(schedule.solicited(path(9, 0, 0), second(400)), Err(Reason::NotUp));
    let mut off = Schedule::new(Settings { enabled: false, ..settings() });
    off.set_paths([(key, UP)], Time(0));
    assert_eq!((off.consent(key), off.next_at()), (Err(Reason::Unwilling), None));
}

#[test]
fn a_path_that_fails_is_tried_more_and_more_rarely() {
    let mut schedule = Schedule::new(settings());
    let key = path(1, 0, 0);
    schedule.set_paths([(key, UP)], Time(0));
    let mut gaps = Vec::new();
    let mut last = Time(0);
    for _ in 0..6 {
        let at = schedule.next_at().expect("it is tried again");
        assert_eq!(schedule.due(at), Some(key));
        gaps.push(at.since(last));
        schedule.failed(key, 0, at);
        last = at;
    }
    assert!(gaps[1..].windows(2).all(|pair| pair[1] == pair[0] * 2), "{gaps:?}");
}

proptest! {
    /// Whatever a peer reports, nothing panics, and the search ends.
    #[test]
    fn any_reports_lead_to_an_end(
        reports in proptest::collection::vec(
            (any::<u16>(), proptest::collection::vec((any::<u16>(), any::<u32>(), any::<i32>(), any::<u32>()), 0..MOST_BINS)),
            1..80,
        )
    ) {
        let mut search = Search::new(Plan::default(), Time(0));
        let mut now = Time(0);
        let mut turn = 0;
        for _ in 0..1_000 {
            match search.step(now) {
                Step::Wait(until) => now = until,
                Step::Done(_) => return Ok(()),
                Step::Send(train) => {
                    let (received, bins) = &reports[turn % reports.len()];
                    turn += 1;
                    let bins = bins.iter().map(|&(received, at_us, delay_us, other)| Bin { received, at_us, delay_us, other });
                    let report = TrainReport { train: train.number, received: *received, bins: bins.collect(), ..TrainReport::default() };
                    let span_ns = train.duration().as_nanos() as u64;
                    search.reported(&Sent { packets: train.packets, size: train.size, span_ns, others: None }, &report, now);
                    now = now + Duration::from_millis(30);
                }
            }
        }
        prop_assert!(false, "the search does not end");
    }

    /// The sum of a report's sections is what was received, in whatever order packets come.
    #[test]
    fn a_report_adds_up(count in 1u16..2_000, packets in proptest::collection::vec((any::<u16>(), 0u64..1 << 40, 0u64..1 << 40), 0..500)) {
        let mut gathering = Gathering::new(0, count, 0);
        for (index, sent, received) in packets {
            gathering.packet(index, sent, received);
        }
        let report = gathering.report();
        prop_assert!(report.bins.len() <= MOST_BINS);
        prop_assert_eq!(report.bins.iter().map(|bin| u32::from(bin.received)).sum::<u32>(), u32::from(report.received));
        let sent = Sent { packets: count, size: 1_480, span_ns: 1_000_000, others: None };
        let reading = read(&sent, &report, 0.0, 0.0);
        prop_assert!(reading.is_none_or(|reading| (0.0..=1.0).contains(&reading.lost)));
    }
}
