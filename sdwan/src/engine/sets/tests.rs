use std::time::Duration;

use super::*;
use crate::engine::policy::{Preference, Sla};
use crate::engine::types::UplinkIndex;

const SECOND: Duration = Duration::from_secs(1);

fn tunnel(local: u8) -> TunnelKey {
    let index = |number| UplinkIndex::new(number).expect("a small number");
    TunnelKey { local: index(local), remote: index(0) }
}

fn rated(paths: &[(Tier, f64)]) -> Vec<Rated> {
    let path = |(number, &(tier, score))| Rated {
        tunnel: tunnel(number),
        tier,
        score,
        capacity: None,
        full: false,
        doubtful: false,
    };
    (0..).zip(paths).map(path).collect()
}

fn class(mode: Mode, sticky: Sticky, sla: Sla) -> ClassSpec {
    ClassSpec { name: "x".into(), preference: Preference::Latency, sla, mode, sticky, dscp: None, outer_dscp: None }
}

/// A class and its set, rated each quarter of a second.
struct Rounds {
    class: ClassSpec,
    set: Set,
    now: Time,
    moves: Vec<(Time, Moved)>,
}

impl Rounds {
    fn new(sticky: Sticky, sla: Sla) -> Self {
        let class = class(Mode::Best, sticky, sla);
        Self { class, set: Set::default(), now: Time(1_000_000_000_000), moves: Vec::new() }
    }

    fn settle(&mut self, paths: &[(Tier, f64)]) {
        let (_, moved) = self.set.decide(&self.class, rated(paths), true, self.now, &Settings::default());
        self.moves.extend(moved.map(|moved| (self.now, moved)));
    }

    fn run(&mut self, time: Duration, paths: &[(Tier, f64)]) {
        let end = self.now + time;
        while self.now < end {
            self.now = self.now + SECOND / 4;
            let (_, moved) = self.set.decide(&self.class, rated(paths), false, self.now, &Settings::default());
            self.moves.extend(moved.map(|moved| (self.now, moved)));
        }
    }

    /// Whether a flow on this path stays there.
    fn keeps(&self, local: u8) -> bool {
        let candidate = self.set.candidates().iter().find(|path| path.tunnel == tunnel(local));
        candidate.is_some_and(|path| path.rank <= self.set.keep_rank())
    }
}

const SLA: Sla = Sla { latency_ms: Some(100.0), jitter_ms: None, loss_pct: None, bandwidth_mbps: None, mos: None };

#[test]
fn flows_stay_until_their_end_on_a_path_that_works_and_others_follow_the_class() {
    use Tier::{Degraded, Down, Good, Violating};
    for (sticky, sla, other, stays) in [
        (Sticky::UntilEnd, Sla::default(), Good, true),
        (Sticky::UntilBetter, Sla::default(), Good, false),
        (Sticky::UntilEnd, SLA, Degraded, true),
        (Sticky::UntilEnd, Sla::default(), Degraded, false),
        (Sticky::UntilEnd, SLA, Violating, false),
        (Sticky::UntilEnd, SLA, Down, false),
    ] {
        let mut rounds = Rounds::new(sticky, sla);
        rounds.settle(&[(Good, 90.0), (Good, 60.0)]);
        rounds.run(SECOND, &[(Down, 0.0), (Good, 60.0)]);
        assert_eq!(rounds.set.first(), Some(tunnel(1)), "the preferred path is cut");
        rounds.run(6 * SECOND, &[(Good, 90.0), (other, 60.0)]);
        assert_eq!(rounds.set.first(), Some(tunnel(0)), "and mended: new flows take it");
        assert_eq!((rounds.keeps(0), rounds.keeps(1)), (true, stays), "{sticky:?}, {other:?}, {sla:?}");
    }
}

#[test]
fn flows_stay_until_their_end_when_every_path_breaks_the_sla() {
    let mut rounds = Rounds::new(Sticky::UntilEnd, SLA);
    rounds.settle(&[(Tier::Violating, 60.0), (Tier::Violating, 50.0)]);
    assert!(rounds.keeps(1));
    rounds.run(10 * SECOND, &[(Tier::Good, 60.0), (Tier::Violating, 50.0)]);
    assert!(!rounds.keeps(1), "one keeps it now");
}

#[test]
fn a_balanced_class_keeps_flows_on_a_degraded_path_until_their_end_only_within_its_sla() {
    for (sticky, stays) in [(Sticky::UntilEnd, true), (Sticky::UntilBetter, false)] {
        let class = class(Mode::Balance, sticky, SLA);
        let mut set = Set::default();
        let paths = rated(&[(Tier::Good, 90.0), (Tier::Degraded, 40.0), (Tier::Violating, 80.0)]);
        set.decide(&class, paths, true, Time(1), &Settings::default());
        let kept: Vec<u8> = set
            .candidates()
            .iter()
            .filter(|path| path.rank <= set.keep_rank())
            .map(|path| path.tunnel.local.get())
            .collect();
        assert_eq!(kept, if stays { vec![0, 1] } else { vec![0] });
    }
}

#[test]
fn a_class_that_was_taken_over_waits_for_its_path_and_moves_only_as_it_would_have() {
    use Tier::{Down, Good};
    let mut rounds = Rounds::new(Sticky::UntilBetter, Sla::default());
    rounds.set.adopt(tunnel(1));
    rounds.settle(&[(Good, 90.0), (Down, 0.0)]);
    rounds.settle(&[(Good, 90.0), (Good, 60.0)]);
    assert_eq!((rounds.set.first(), rounds.moves.len()), (Some(tunnel(1)), 0));
    rounds.run(4 * SECOND, &[(Good, 90.0), (Good, 60.0)]);
    assert_eq!(rounds.moves.len(), 0, "the hold counts");
    rounds.run(2 * SECOND, &[(Good, 90.0), (Good, 60.0)]);
    assert_eq!(rounds.moves[0].1.reason, MoveReason::Better);

    let mut rounds = Rounds::new(Sticky::UntilBetter, Sla::default());
    rounds.set.adopt(tunnel(1));
    rounds.settle(&[(Good, 90.0), (Down, 0.0)]);
    rounds.run(SECOND / 4, &[(Good, 90.0), (Down, 0.0)]);
    assert_eq!(rounds.moves[0].1.reason, MoveReason::Down, "it does not come up");
}

#[test]
fn a_path_that_breaks_the_sla_again_and_again_is_returned_to_ever_later() {
    use Tier::{Good, Violating};
    let mut rounds = Rounds::new(Sticky::UntilBetter, SLA);
    rounds.settle(&[(Good, 90.0), (Good, 60.0)]);
    let start = rounds.now;
    let left = |rounds: &Rounds| rounds.set.first() == Some(tunnel(1));
    let mut times = Vec::new();
    while rounds.now.since(start) < 300 * SECOND {
        rounds.run(2 * SECOND, &[(Violating, 90.0), (Good, 60.0)]);
        assert!(left(&rounds), "it is left within two seconds each time");
        let since = rounds.now;
        while left(&rounds) {
            rounds.run(SECOND / 4, &[(Good, 90.0), (Good, 60.0)]);
        }
        times.push(rounds.now.since(since));
    }
    println!("returned to after {times:?}");
    assert!(times[0] > 50 * SECOND && times[0] < 90 * SECOND);
    assert!(times[1] > times[0]);
    let minute = |from: &Time| {
        let within = rounds.moves.iter().filter(|(at, _)| at >= from && at.since(*from) < 60 * SECOND);
        within.count()
    };
    let most = rounds.moves[1..].iter().map(|(at, _)| minute(at)).max();
    assert!(most <= Some(2), "{most:?} moves in a minute");
}

#[test]
fn two_paths_that_are_better_in_turns_move_the_class_ever_more_seldom() {
    let mut rounds = Rounds::new(Sticky::UntilBetter, Sla::default());
    rounds.settle(&[(Tier::Good, 90.0), (Tier::Good, 60.0)]);
    // What is the worst for it: the other one is better as soon as it has moved.
    for _ in 0..1_200 {
        let scores = if rounds.set.first() == Some(tunnel(0)) { [60.0, 90.0] } else { [90.0, 60.0] };
        rounds.run(SECOND / 4, &scores.map(|score| (Tier::Good, score)));
    }
    let times: Vec<Duration> = rounds.moves[1..].iter().map(|(at, _)| at.since(rounds.moves[0].0)).collect();
    println!("moved at {times:?}");
    assert!(times.len() >= 3 && times[times.len() - 1] - times[times.len() - 2] > 60 * SECOND);
    let within = |from: &Duration| times.iter().filter(|at| *at >= from && **at < *from + 60 * SECOND).count();
    assert!(times.iter().map(within).max() <= Some(2));
}
