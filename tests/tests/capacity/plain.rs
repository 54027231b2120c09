//! The measurement against lines of known rates.

use std::time::Duration;

use sdwan::engine::capacity::Direction;
use sdwan::engine::capacity::search::{Ended, Plan};
use sdwan_tests::needs_bed;
use sdwan_tests::pace::is_slow;
use sdwan_tests::traffic::{UdpReceiver, UdpSender, UdpSpec};

use crate::wire::{Wire, judge};

/// Wide, for machines that are noisy; the figures are printed.
const BOUND: f64 = 0.15;
/// As share of what the line carries in the interval. The measurement is to keep to 0.01: what a noisy machine reads too
/// large at first earns it a few bytes more.
const BYTES: f64 = 0.0125;
/// From this rate on, Mbit/s, a busy machine may not send fast enough for long enough.
const FAST: u64 = 500;
const INTERVAL: Duration = Duration::from_secs(60);

/// Rates that this machine can carry, Mbit/s, with the bucket of each, bytes.
fn rates() -> Vec<(u64, u32)> {
    let all = [(10, 16_000), (10, 64_000), (100, 64_000), (500, 256_000)];
    all.into_iter().filter(|(rate, _)| !is_slow() || *rate <= 10).collect()
}

#[test]
fn a_limited_line_is_measured_in_each_direction_with_a_hundredth_of_its_bytes() {
    needs_bed!();
    let mut wire = Wire::new();
    for (mbps, burst) in rates() {
        // The other direction carries another rate: neither may be taken for the other.
        wire.limit("b", mbps, burst);
        wire.limit("a", mbps * 2, burst);
        let outcome = wire.measure(0, Direction::Forward, Plan::default()).expect("a measures");
        let (error, bytes) = judge(&format!("{mbps} Mbit/s, bucket {burst}"), &outcome, Wire::truth(mbps), INTERVAL);
        if mbps >= FAST && outcome.ended == Ended::SenderLimited {
            eprintln!("skipped: {mbps} Mbit/s: this machine didn't send that fast");
        } else {
            assert_eq!(outcome.ended, Ended::Found);
            assert!(error <= BOUND, "{outcome:?}");
        }
        assert!(bytes <= BYTES, "{outcome:?}");
        // The peer rests between two measurements of the same site.
        std::thread::sleep(Duration::from_secs(5));
    }
}

#[test]
fn other_traffic_at_half_the_rate_is_part_of_the_capacity() {
    needs_bed!();
    let mut wire = Wire::new();
    for (mbps, burst) in rates().into_iter().filter(|(rate, _)| *rate <= 100) {
        wire.limit("b", mbps, burst);
        let (from, to) = (wire.bed.site("a").namespace().clone(), wire.bed.site("b").namespace().clone());
        let receiver = UdpReceiver::start(&to, wire.address("b", 7_000)).expect("the receiver starts");
        let size = 1_000;
        let rate = mbps as f64 * 1e6 / 2.0 / (8.0 * (size as f64 + 14.0));
        let spec = UdpSpec { size, ..UdpSpec::new(receiver.local(), rate) };
        let sender = UdpSender::start(&from, spec).expect("the sender starts");
        std::thread::sleep(Duration::from_millis(500));
        let outcome = wire.measure(0, Direction::Forward, Plan::default()).expect("a measures");
        let sent = sender.stop().expect("the sender ends");
        let report = receiver.finish(&sent, Duration::from_secs(1)).expect("the receiver ends");
        let (error, bytes) = judge(&format!("{mbps} Mbit/s, half used"), &outcome, Wire::truth(mbps), INTERVAL);
        println!("  the other traffic lost {} of {}, latency {:?}", report.lost, report.sent, report.latency);
        assert_eq!(outcome.ended, Ended::Found);
        assert!(error <= BOUND, "{outcome:?}");
        assert!(bytes <= BYTES, "{outcome:?}");
        std::thread::sleep(Duration::from_secs(5));
    }
}

#[test]
fn live_traffic_is_delayed_a_little_and_not_lost() {
    needs_bed!();
    let mut wire = Wire::new();
    wire.limit("b", 10, 16_000);
    let (from, to) = (wire.bed.site("a").namespace().clone(), wire.bed.site("b").namespace().clone());
    let receiver = UdpReceiver::start(&to, wire.address("b", 7_000)).expect("the receiver starts");
    // As a call: 50 packets a second.
    let sender = UdpSender::start(&from, UdpSpec::new(receiver.local(), 50.0)).expect("the sender starts");
    let outcome = wire.measure(0, Direction::Forward, Plan::default()).expect("a measures");
    let sent = sender.stop().expect("the sender ends");
    let report = receiver.finish(&sent, Duration::from_secs(1)).expect("the receiver ends");
    println!("a call during {:.1?}: lost {} of {}, {:?}", outcome.took, report.lost, report.sent, report.latency);
    assert_eq!(report.lost, 0, "{report:?}");
    assert!(report.latency.p50 < Duration::from_millis(10), "{:?}", report.latency);
    assert!(report.latency.most < Duration::from_millis(150), "{:?}", report.latency);
}
