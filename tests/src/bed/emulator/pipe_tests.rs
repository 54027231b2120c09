//! The pipe in virtual time.

use std::time::Duration;

use proptest::prelude::*;

use super::*;

const MS: u64 = 1_000_000;

/// Pushes a frame of `length` bytes every `interval_ns`, numbered in its first 8 bytes; returns (number, due, sent).
fn run(impairment: Impairment, frames: u64, interval_ns: u64, length: usize) -> (Vec<(u64, u64, u64)>, PipeStatistics) {
    let mut pipe = Pipe::new(impairment, 7);
    let mut out = Vec::new();
    let start = 1_000 * MS;
    for number in 0..frames {
        let mut frame = vec![0; length];
        frame[..8].copy_from_slice(&number.to_le_bytes());
        pipe.push(&frame, start + number * interval_ns);
    }
    while let Some(due) = pipe.next_due() {
        let frame = pipe.pop_due(due).expect("it is due");
        let number = u64::from_le_bytes(frame[..8].try_into().expect("8 bytes"));
        out.push((number, due, start + number * interval_ns));
    }
    (out, pipe.statistics())
}

/// Whether `found` of `of` is within 5 standard deviations of a binomial with `share`.
fn binomial(found: u64, of: u64, share: f64) -> bool {
    let (found, of) = (found as f64, of as f64);
    (found - of * share).abs() <= 5.0 * (of * share * (1.0 - share)).sqrt()
}

#[test]
fn a_pipe_without_impairment_changes_nothing() {
    let (out, statistics) = run(Impairment::default(), 100, MS, 100);
    assert!(out.iter().enumerate().all(|(at, &(number, due, sent))| number == at as u64 && due == sent));
    assert_eq!((statistics.received, statistics.forwarded), (100, 100));
}

#[test]
fn delay_is_added_to_each_packet() {
    let (out, _) = run(Impairment::delay_ms(20), 100, MS, 100);
    assert!(out.iter().all(|&(_, due, sent)| due == sent + 20 * MS));
}

#[test]
fn random_loss_is_binomial_and_bursts_keep_their_mean_and_length() {
    let (_, statistics) = run(Impairment::default().loss(0.03), 100_000, MS, 60);
    assert!(binomial(statistics.lost, 100_000, 0.03), "{}", statistics.lost);

    let loss = Loss::GilbertElliott { to_bad: 0.01, to_good: 0.2, loss_good: 0.0, loss_bad: 1.0 };
    let (out, statistics) = run(Impairment { loss, ..Impairment::default() }, 200_000, MS, 60);
    let mean = statistics.lost as f64 / 200_000.0;
    assert!((mean - loss.mean()).abs() < 0.006, "mean loss {mean} instead of {}", loss.mean());
    let bursts = out.windows(2).filter(|pair| pair[1].0 > pair[0].0 + 1).count() as f64;
    let length = statistics.lost as f64 / bursts;
    assert!((length - 5.0).abs() < 0.4, "mean burst length {length} instead of 5");
}

#[test]
fn jitter_spreads_as_told_and_keeps_the_order_unless_told() {
    let jittery = Impairment::delay_ms(50).jitter(Duration::from_millis(10));
    let (out, _) = run(jittery.clone(), 20_000, MS, 60);
    assert!(out.windows(2).all(|pair| pair[0].0 < pair[1].0));

    let normal = Impairment {
        distribution: Distribution::Normal,
        jitter_reorders: true,
        delay: Duration::from_millis(100),
        ..jittery
    };
    let (out, _) = run(normal, 50_000, MS, 60);
    let delays: Vec<f64> = out.iter().map(|&(_, due, sent)| (due - sent) as f64 / MS as f64).collect();
    let mean = delays.iter().sum::<f64>() / delays.len() as f64;
    let deviation = (delays.iter().map(|delay| (delay - mean).powi(2)).sum::<f64>() / delays.len() as f64).sqrt();
    assert!((mean - 100.0).abs() < 0.3 && (deviation - 10.0).abs() < 0.3, "{mean} ± {deviation}");
    assert!(out.windows(2).any(|pair| pair[0].0 > pair[1].0));
}

#[test]
fn the_bottleneck_serves_at_its_rate_and_drops_what_does_not_fit_its_queue() {
    let rate = Rate { bits_per_second: 10_000_000, burst_bytes: 1_000, queue_bytes: 20_000 };
    // 1,000 bytes every 0.4 ms: twice the rate.
    let (out, statistics) = run(Impairment { rate: Some(rate), ..Impairment::default() }, 5_000, MS * 2 / 5, 1_000);
    let span_ns = out[out.len() - 1].1 - out[0].1;
    let bits = (out.len() as f64 - 1.0) * 8_000.0;
    let measured = bits / (span_ns as f64 / 1e9);
    assert!((measured / 1e7 - 1.0).abs() < 0.005, "{measured} bit/s");
    assert_eq!(statistics.queue_dropped + statistics.forwarded, 5_000);
    let longest = out.iter().map(|&(_, due, sent)| due - sent).max().expect("packets came");
    assert!(longest <= 17 * MS, "a queue of 20,000 bytes is 16 ms, waited {longest} ns");
}

#[test]
fn held_back_and_doubled_packets_are_counted() {
    let impairment =
        Impairment { duplicate: 0.1, reorder: 0.05, reorder_by: Duration::from_millis(5), ..Impairment::delay_ms(10) };
    let (out, statistics) = run(impairment, 20_000, MS, 60);
    assert_eq!(out.len() as u64, 20_000 + statistics.duplicated);
    assert!(binomial(statistics.duplicated, 20_000, 0.1) && binomial(statistics.held_back, 20_000, 0.05));
    let mut seen = 0;
    let late = out.iter().filter(|&&(number, ..)| {
        let is_late = number < seen;
        seen = seen.max(number);
        is_late
    });
    assert!(late.count() as u64 >= statistics.held_back, "a packet held back by 5 ms comes after its successors");
}

#[test]
fn a_black_hole_takes_only_what_is_too_large() {
    let impairment = Impairment { drop_larger_than: Some(1_400), ..Impairment::default() };
    assert_eq!(run(impairment.clone(), 10, MS, 1_414).1.oversized, 0);
    assert_eq!(run(impairment, 10, MS, 1_415).1.oversized, 10);
}

proptest! {
    #[test]
    fn every_packet_is_forwarded_once_or_counted_as_gone(
        loss in 0.0..=1.0f64, duplicate in 0.0..=1.0f64, reorder in 0.0..=1.0f64,
        rate in proptest::option::of(1_000u64..1_000_000_000), jitter_ms in 0u64..50, length in 60usize..1_514,
    ) {
        let rate = rate.map(|bits_per_second| Rate { bits_per_second, burst_bytes: 2_000, queue_bytes: 30_000 });
        let impairment = Impairment {
            duplicate, reorder, rate, reorder_by: Duration::from_millis(3), jitter_reorders: jitter_ms % 2 == 0,
            ..Impairment::delay_ms(5).loss(loss).jitter(Duration::from_millis(jitter_ms))
        };
        let (out, statistics) = run(impairment, 200, MS / 10, length);
        let gone = statistics.lost + statistics.queue_dropped + statistics.oversized + statistics.failed;
        prop_assert_eq!(statistics.received, 200);
        prop_assert_eq!(out.len() as u64, statistics.forwarded);
        prop_assert_eq!(statistics.forwarded - statistics.duplicated + gone, 200);
    }
}
