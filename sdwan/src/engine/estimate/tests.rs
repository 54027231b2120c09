use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;

const PACE: Duration = Duration::from_millis(50);
const TIMEOUT: Duration = Duration::from_millis(500);
/// Our wall clock is this far ahead of the engine's clock, the peer's farther.
const OUR_EPOCH_NS: u64 = 1_700_000_000_000_000_000;
const PEER_EPOCH_NS: u64 = OUR_EPOCH_NS + 3_000_000_000;

/// A path whose truth is known: what each probe meets.
struct Link {
    estimator: Estimator,
    now: Time,
    reflected: u32,
    answers: Vec<(Time, ProbeReply)>,
}

impl Link {
    fn new() -> Self {
        Self {
            estimator: Estimator::new(Duration::from_secs(10)),
            now: Time(1_000_000_000),
            reflected: 0,
            answers: Vec::new(),
        }
    }

    /// Sends one probe; `there` and `back` are the delays, `None` for a loss.
    fn probe(&mut self, there: Option<Duration>, dwell: Duration, back: Option<Duration>) {
        self.deliver();
        let sequence = self.estimator.probe_sent(self.now, TIMEOUT);
        if let Some(there) = there {
            self.reflected += 1;
            let received = self.now + there;
            let sent = received + dwell;
            if let Some(back) = back {
                let arrival = sent + back;
                let reply = ProbeReply {
                    sequence,
                    reflector_sequence: self.reflected,
                    sent_ns: OUR_EPOCH_NS + self.now.0,
                    reflector_received_ns: PEER_EPOCH_NS + received.0,
                    reflector_sent_ns: PEER_EPOCH_NS + sent.0,
                    received_ns: OUR_EPOCH_NS + arrival.0,
                    synchronized: false,
                    clock_error_ns: 0,
                };
                self.answers.push((arrival, reply));
            }
        }
        self.now = self.now + PACE;
    }

    fn deliver(&mut self) {
        self.answers.sort_by_key(|(arrival, _)| *arrival);
        while self.answers.first().is_some_and(|(arrival, _)| *arrival <= self.now) {
            let (arrival, reply) = self.answers.remove(0);
            self.estimator.reply(&reply, arrival).expect("each answer is new and in time");
        }
    }

    fn quality(&mut self) -> Quality {
        self.now = self.now + TIMEOUT;
        self.deliver();
        self.estimator.expire(self.now, TIMEOUT);
        self.estimator.quality(self.now)
    }
}

fn ms(milliseconds: f64) -> Duration {
    Duration::from_secs_f64(milliseconds / 1e3)
}

#[test]
fn the_round_trip_leaves_out_the_reflectors_dwell_time_and_the_clocks_offset() {
    let mut link = Link::new();
    for _ in 0..100 {
        link.probe(Some(ms(12.0)), ms(7.0), Some(ms(8.0)));
    }
    let quality = link.quality();
    assert_eq!(quality.rtt.map(|rtt| rtt.as_micros()), Some(20_000));
    assert_eq!(quality.rtt_min, Some(ms(20.0)));
    assert_eq!((quality.jitter_forward, quality.jitter_backward), (Duration::ZERO, Duration::ZERO));
    assert_eq!(quality.loss.worst(), 0.0);
}

#[test]
fn jitter_is_told_apart_by_direction() {
    let mut link = Link::new();
    for number in 0..400 {
        let there = if number % 2 == 0 { 10.0 } else { 14.0 };
        link.probe(Some(ms(there)), Duration::ZERO, Some(ms(10.0)));
    }
    let quality = link.quality();
    let forward = quality.jitter_forward.as_secs_f64() * 1e3;
    assert!((3.9..=4.1).contains(&forward), "alternating by 4 ms gave {forward} ms");
    assert_eq!(quality.jitter_backward, Duration::ZERO);
}

#[test]
fn loss_is_told_apart_by_direction() {
    let mut link = Link::new();
    for number in 0..200 {
        let there = (number % 10 != 3).then_some(ms(5.0));
        let back = (number % 5 != 1).then_some(ms(5.0));
        link.probe(there, Duration::ZERO, back);
    }
    let loss = link.quality().loss;
    assert!((loss.forward - 0.10).abs() < 0.01, "{loss:?}");
    assert!((loss.backward - 20.0 * 2.0 / 180.0).abs() < 0.015, "{loss:?}");
    assert!((loss.round_trip - 0.30).abs() < 0.02, "{loss:?}");
}

#[test]
fn random_loss_stays_within_five_standard_deviations_of_the_truth() {
    let mut random = StdRng::seed_from_u64(7);
    for (forward, backward) in [(0.05, 0.0), (0.0, 0.05), (0.2, 0.1), (0.01, 0.3)] {
        let mut link = Link::new();
        for _ in 0..180 {
            let there = (!random.random_bool(forward)).then_some(ms(30.0));
            let back = (!random.random_bool(backward)).then_some(ms(30.0));
            link.probe(there, Duration::ZERO, back);
        }
        let loss = link.quality().loss;
        let bound = |p: f64| 5.0 * (p * (1.0 - p) / 150.0).sqrt() + 0.01;
        assert!((loss.forward - forward).abs() <= bound(forward), "{forward}: {loss:?}");
        assert!((loss.backward - backward).abs() <= bound(backward), "{backward}: {loss:?}");
    }
}

#[test]
fn reordering_in_either_direction_is_no_loss() {
    for late_there in [true, false] {
        let mut link = Link::new();
        let mut reflected_late = Vec::new();
        for number in 0..100u32 {
            let sequence = link.estimator.probe_sent(link.now, TIMEOUT);
            let reflector_sequence = if late_there {
                // Pairs reach the reflector swapped.
                if number % 2 == 0 { number + 2 } else { number }
            } else {
                number + 1
            };
            let at = link.now.0;
            reflected_late.push(ProbeReply {
                sequence,
                reflector_sequence,
                sent_ns: at,
                reflector_received_ns: at + 1,
                reflector_sent_ns: at + 2,
                received_ns: at + 3,
                synchronized: false,
                clock_error_ns: 0,
            });
            if number % 2 == 1 {
                for reply in reflected_late.drain(..).rev() {
                    link.estimator.reply(&reply, link.now + ms(60.0)).expect("both are in time");
                }
            }
            link.now = link.now + PACE;
        }
        assert_eq!(link.quality().loss.worst(), 0.0, "late on the way there: {late_there}");
    }
}

#[test]
fn the_loss_window_forgets_an_outage() {
    let mut link = Link::new();
    for number in 0..600 {
        let alive = !(100..150).contains(&number);
        link.probe(alive.then_some(ms(5.0)), Duration::ZERO, Some(ms(5.0)));
        if number == 190 {
            let loss = link.estimator.quality(link.now).loss;
            assert!(loss.round_trip > 0.2, "the outage is in the window: {loss:?}");
        }
    }
    assert_eq!(link.quality().loss.worst(), 0.0);
}

#[test]
fn silence_counts_as_loss_before_any_answer_tells_the_direction() {
    let mut link = Link::new();
    for number in 0..150 {
        link.probe((number < 100).then_some(ms(5.0)), Duration::ZERO, Some(ms(5.0)));
    }
    let loss = link.quality().loss;
    assert!((0.28..=0.38).contains(&loss.worst()), "50 of 150 are lost: {loss:?}");
}

#[test]
fn foreign_duplicate_and_implausible_answers_change_nothing() {
    let mut link = Link::new();
    for _ in 0..50 {
        link.probe(Some(ms(10.0)), Duration::ZERO, Some(ms(10.0)));
    }
    link.deliver();
    let before = link.estimator.quality(link.now);
    let now = link.now;
    let reply = ProbeReply {
        sequence: 9_999,
        reflector_sequence: 1,
        sent_ns: 0,
        reflector_received_ns: 0,
        reflector_sent_ns: 0,
        received_ns: 0,
        synchronized: false,
        clock_error_ns: 0,
    };
    assert_eq!(link.estimator.reply(&reply, now), Err(Ignored::Unknown));
    assert_eq!(link.estimator.reply(&ProbeReply { sequence: 48, ..reply }, now), Err(Ignored::Duplicate));
    let sequence = link.estimator.probe_sent(now, TIMEOUT);
    let dwells_too_long = ProbeReply { sequence, reflector_sent_ns: u64::MAX, ..reply };
    assert_eq!(link.estimator.reply(&dwells_too_long, now + ms(5.0)), Err(Ignored::Implausible));
    let back_in_time = ProbeReply { sequence, reflector_received_ns: 5, reflector_sent_ns: 4, ..reply };
    assert_eq!(link.estimator.reply(&back_in_time, now + ms(5.0)), Err(Ignored::Implausible));
    assert_eq!(link.estimator.quality(now), before);
}

#[test]
fn a_restarted_reflector_is_no_loss() {
    let mut link = Link::new();
    for number in 0..100 {
        if number == 50 {
            link.deliver();
            link.reflected = 0;
        }
        link.probe(Some(ms(5.0)), Duration::ZERO, Some(ms(5.0)));
    }
    assert_eq!(link.quality().loss.worst(), 0.0);
}
