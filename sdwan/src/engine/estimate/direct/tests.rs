use std::collections::VecDeque;

use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;

const PACE: Duration = Duration::from_millis(50);
const WINDOW: Duration = Duration::from_secs(10);

/// Both ends of one path, packet by packet, with counters that start anywhere.
struct Path {
    loss: DirectLoss,
    random: StdRng,
    counters: Counters,
    sequence: u32,
    now: Time,
}

impl Path {
    fn new(first: Counters) -> Self {
        Self {
            loss: DirectLoss::new(WINDOW),
            random: StdRng::seed_from_u64(11),
            counters: first,
            sequence: 0,
            now: Time(5_000_000_000),
        }
    }

    /// Some packets each way, of which a share is lost.
    fn carry(&mut self, packets: [u32; 2], lost: [f64; 2]) {
        let random = &mut self.random;
        let mut arrived = |packets: u32, lost: f64| (0..packets).filter(|_| !random.random_bool(lost)).count() as u32;
        let [forward, backward] = [0, 1].map(|way| arrived(packets[way], lost[way]));
        let counters = &mut self.counters;
        counters.sent = counters.sent.wrapping_add(packets[0]);
        counters.peer_received = counters.peer_received.wrapping_add(forward);
        counters.peer_sent = counters.peer_sent.wrapping_add(packets[1]);
        counters.received = counters.received.wrapping_add(backward);
    }

    fn probe(&mut self) {
        self.probe_with(Some(self.counters));
    }

    fn probe_with(&mut self, counters: Option<Counters>) {
        self.sequence = self.sequence.wrapping_add(1);
        self.loss.accept(self.sequence);
        self.loss.sample(self.sequence, counters.as_ref(), self.now);
        self.now = self.now + PACE;
    }

    fn loss(&mut self) -> DataLoss {
        self.loss.loss(self.now)
    }
}

fn counters() -> Counters {
    Counters { sent: 1_000, peer_received: 900, peer_sent: 77, received: 70 }
}

/// Within five standard deviations of what so many packets with this loss show.
fn is_near(loss: f64, packets: u64, truth: f64) -> bool {
    (loss - truth).abs() <= 5.0 * (truth * (1.0 - truth) / packets.max(1) as f64).sqrt() + 1e-9
}

#[test]
fn loss_of_each_direction_is_told_apart_and_rests_on_the_packets_of_the_window() {
    for (forward, backward) in [(0.0, 0.0), (0.01, 0.0), (0.0, 0.03), (0.2, 0.1), (1.0, 0.0)] {
        let mut path = Path::new(counters());
        for _ in 0..400 {
            path.carry([500, 100], [forward, backward]);
            path.probe();
        }
        let loss = path.loss();
        assert!((90_000..=100_500).contains(&loss.forward_packets), "{loss:?}");
        assert!((18_000..=20_100).contains(&loss.backward_packets), "{loss:?}");
        assert!(is_near(loss.forward, loss.forward_packets, forward), "{forward}: {loss:?}");
        assert!(is_near(loss.backward, loss.backward_packets, backward), "{backward}: {loss:?}");
    }
}

#[test]
fn the_window_forgets_a_loss() {
    let mut path = Path::new(counters());
    for round in 0..600 {
        path.carry([100, 100], if round == 100 { [0.5, 0.5] } else { [0.0, 0.0] });
        path.probe();
        if round == 200 {
            let loss = path.loss();
            assert!(loss.forward > 0.0 && loss.backward > 0.0, "{loss:?}");
        }
    }
    let loss = path.loss();
    assert_eq!((loss.forward, loss.backward), (0.0, 0.0));
    for _ in 0..600 {
        path.probe();
    }
    assert_eq!(path.loss(), DataLoss::default(), "nothing was carried for a whole window");
}

#[test]
fn probes_that_stand_out_of_order_among_the_data_show_no_loss() {
    let mut path = Path::new(counters());
    for round in 0..1_000_u32 {
        path.carry([500, 500], [0.0, 0.0]);
        let mut seen = path.counters;
        // Every third probe overtakes up to a burst of packets, every fifth is overtaken by some.
        if round % 3 == 0 {
            seen.peer_received -= path.random.random_range(0..64);
            seen.received -= path.random.random_range(0..64);
        }
        if round % 5 == 0 {
            seen.sent -= path.random.random_range(0..4);
            seen.peer_sent -= path.random.random_range(0..4);
        }
        path.probe_with(Some(seen));
        let loss = path.loss();
        assert_eq!((loss.forward, loss.backward), (0.0, 0.0), "round {round}");
    }
}

#[test]
fn what_is_on_its_way_longer_than_a_probe_is_no_loss_once_it_arrives() {
    let mut path = Path::new(counters());
    let mut late = VecDeque::from([0_u32; 30]);
    for round in 0..400 {
        path.carry([200, 0], [0.0, 0.0]);
        // For a while, a tenth takes a second and a half more than its probe.
        let held = if (50..100).contains(&round) { 20 } else { 0 };
        late.push_back(held);
        let arrived = late.pop_front().expect("thirty");
        path.counters.peer_received = path.counters.peer_received - held + arrived;
        path.probe();
    }
    assert_eq!(path.loss().forward, 0.0);
}

#[test]
fn a_restart_of_either_end_is_no_loss() {
    let restarts: [fn(&mut Counters); 4] = [
        |counters| (counters.sent, counters.received) = (5, 5),
        |counters| (counters.peer_sent, counters.peer_received) = (0, 0),
        |counters| (counters.peer_sent, counters.peer_received) = (1, 1),
        |counters| *counters = Counters { sent: 3, peer_received: 1, peer_sent: 4, received: 1 },
    ];
    for (number, restart) in restarts.into_iter().enumerate() {
        let mut path = Path::new(counters());
        for round in 0..300 {
            if round == 150 {
                restart(&mut path.counters);
            }
            path.carry([40, 40], [0.0, 0.0]);
            path.probe();
            let loss = path.loss();
            assert_eq!((loss.forward, loss.backward), (0.0, 0.0), "restart {number}, round {round}");
        }
        assert!(path.loss().forward_packets > 5_000, "restart {number}: it goes on counting");
    }
}

#[test]
fn packets_that_only_one_end_counted_while_programs_were_missing_are_no_loss() {
    let mut path = Path::new(counters());
    for round in 0..400 {
        path.carry([100, 100], [0.0, 0.0]);
        match round {
            // Our programs are detached: nobody writes our numbers, and we don't count.
            100..150 => {
                path.counters.sent -= 100;
                path.counters.received -= 100;
                let bare = Counters { sent: 0, received: 0, ..path.counters };
                path.probe_with(Some(bare));
            }
            // The peer's are.
            200..250 => {
                path.counters.peer_sent -= 100;
                path.counters.peer_received -= 100;
                path.probe_with(None);
            }
            _ => path.probe(),
        }
        let loss = path.loss();
        assert_eq!((loss.forward, loss.backward), (0.0, 0.0), "round {round}");
    }
}

#[test]
fn counters_of_answers_that_were_not_accepted_change_nothing() {
    let mut path = Path::new(counters());
    for _ in 0..100 {
        path.carry([100, 100], [0.0, 0.0]);
        path.probe();
    }
    let before = path.loss();
    let forged = Counters { sent: 9_000_000, peer_received: 1, peer_sent: 9_000_000, received: 1 };
    for sequence in [path.sequence, path.sequence + 1, 0] {
        path.loss.sample(sequence, Some(&forged), path.now);
    }
    path.loss.accept(path.sequence - 3);
    path.loss.sample(path.sequence - 3, Some(&forged), path.now);
    assert_eq!(path.loss(), before, "not accepted, or overtaken");
}

#[test]
fn little_data_tells_nothing_about_a_path() {
    let few = DataLoss { forward: 0.5, forward_packets: 999, backward: 0.25, backward_packets: 1_000 };
    assert_eq!(few.worst(), 0.25);
    assert_eq!(DataLoss { forward_packets: 1_000, ..few }.worst(), 0.5);
}

proptest! {
    #[test]
    fn whatever_the_counters_say_a_ratio_is_between_none_and_all(
        samples in prop::collection::vec(prop::option::of(any::<[u32; 4]>()), 0..200),
        gap_ms in 0..20_000_u64,
    ) {
        let mut path = Path::new(Counters::default());
        for sample in samples {
            path.probe_with(sample.map(|[sent, peer_received, peer_sent, received]| Counters {
                sent, peer_received, peer_sent, received,
            }));
            path.now = path.now + Duration::from_millis(gap_ms);
            let loss = path.loss();
            prop_assert!((0.0..=1.0).contains(&loss.forward) && (0.0..=1.0).contains(&loss.backward));
        }
    }

    #[test]
    fn steady_traffic_without_loss_shows_none_wherever_the_counters_start_and_wrap(
        first: [u32; 4],
        packets in prop::collection::vec((0..2_000_u32, 0..2_000_u32), 60..260),
    ) {
        // Numbers that happen to be 0 count as absent for one probe; the estimator begins anew then.
        let [sent, peer_received, peer_sent, received] = first;
        let mut path = Path::new(Counters { sent, peer_received, peer_sent, received });
        for (forward, backward) in packets {
            path.carry([forward, backward], [0.0, 0.0]);
            path.probe();
            let loss = path.loss();
            prop_assert_eq!((loss.forward, loss.backward), (0.0, 0.0));
        }
    }

    #[test]
    fn every_loss_is_counted_once_the_probes_after_it_agree(
        lost in prop::collection::vec(0..50_u32, 1..100),
        wrap: bool,
    ) {
        let start = if wrap { u32::MAX - 3_000 } else { 10 };
        let mut path = Path::new(Counters { sent: start, peer_received: start, peer_sent: 5, received: 5 });
        for _ in 0..SETTLED_BY {
            path.probe();
        }
        for lost in &lost {
            path.carry([100, 0], [0.0, 0.0]);
            path.counters.peer_received = path.counters.peer_received.wrapping_sub(*lost);
            path.probe();
        }
        for _ in 0..SETTLED_BY {
            path.probe();
        }
        let loss = path.loss();
        let truth = f64::from(lost.iter().sum::<u32>());
        prop_assume!(path.counters.sent != 0);
        prop_assert_eq!(loss.forward_packets, 100 * lost.len() as u64);
        prop_assert!((loss.forward * loss.forward_packets as f64 - truth).abs() < 1e-6);
    }
}

#[test]
fn a_loss_that_begins_shows_within_a_second_long_before_the_window_is_full_of_it() {
    let mut path = Path::new(counters());
    for _ in 0..200 {
        path.carry([50, 50], [0.001, 0.0]);
        path.probe();
    }
    assert!(path.loss.recent_loss(path.now) < 0.01);
    for _ in 0..20 {
        path.carry([50, 50], [0.05, 0.0]);
        path.probe();
    }
    let (recent, window) = (path.loss.recent_loss(path.now), path.loss().forward);
    assert!(recent > 0.02 && window < 0.01, "{recent} and {window}");
}

#[test]
fn a_few_lost_packets_are_chance_and_no_recent_loss() {
    let mut path = Path::new(counters());
    for probe in 0..40 {
        // A call: three of some 30 packets in the last second or so.
        path.carry([1, 1], if (24..27).contains(&probe) { [1.0, 0.0] } else { [0.0; 2] });
        path.probe();
    }
    assert!(path.loss().forward > 0.05, "they are counted");
    assert_eq!(path.loss.recent_loss(path.now), 0.0);
}
