//! The measurement against lines of known rates.

use std::time::Duration;

use sdwan::engine::capacity::Direction;
use sdwan::engine::capacity::search::{Ended, Outcome, Plan};
use sdwan_tests::needs_bed;
use sdwan_tests::pace::is_slow;
use sdwan_tests::traffic::{UdpReceiver, UdpSender, UdpSpec};
use sdwan_tests::wire::Wire;

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

/// Prints a result beside the truth; returns the error as a share and the bytes as a share of those of an interval.
pub fn judge(what: &str, outcome: &Outcome, truth: f64, interval: Duration) -> (f64, f64) {
    let capacity = outcome.capacity.unwrap_or(0) as f64;
    let error = capacity / truth - 1.0;
    let bytes = outcome.bytes as f64 * 8.0 / (truth * interval.as_secs_f64());
    println!(
        "{what}: {:.3} Mbit/s, truth {:.3}, error {:+.2} %, bytes {:.3} %, {} trains, {} readings ±{:.2} %, {:.1?}, {:?}",
        capacity / 1e6,
        truth / 1e6,
        error * 100.0,
        bytes * 100.0,
        outcome.trains,
        outcome.readings,
        outcome.spread * 100.0,
        outcome.took,
        outcome.ended,
    );
    (error.abs(), bytes)
}

#[test]
fn a_limited_line_is_measured_in_each_direction_with_a_hundredth_of_its_bytes() {
    needs_bed!();
    let mut wire = Wire::new().expect("the line is built");
    for (mbps, burst) in rates() {
        // The other direction carries another rate: neither may be taken for the other.
        wire.limit("b", mbps, burst).expect("the line is limited");
        wire.limit("a", mbps * 2, burst).expect("the line is limited");
        let outcome = wire.measure(0, Direction::Forward, Plan::default()).expect("a can").expect("a measures");
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
    let mut wire = Wire::new().expect("the line is built");
    for (mbps, burst) in rates().into_iter().filter(|(rate, _)| *rate <= 100) {
        wire.limit("b", mbps, burst).expect("the line is limited");
        let (from, to) = (wire.bed.site("a").namespace().clone(), wire.bed.site("b").namespace().clone());
        let receiver = UdpReceiver::start(&to, wire.address("b", 7_000)).expect("the receiver starts");
        let size = 1_000;
        let rate = mbps as f64 * 1e6 / 2.0 / (8.0 * (size as f64 + 14.0));
        let spec = UdpSpec { size, ..UdpSpec::new(receiver.local(), rate) };
        let sender = UdpSender::start(&from, spec).expect("the sender starts");
        std::thread::sleep(Duration::from_millis(500));
        let outcome = wire.measure(0, Direction::Forward, Plan::default()).expect("a can").expect("a measures");
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
    let mut wire = Wire::new().expect("the line is built");
    wire.limit("b", 10, 16_000).expect("the line is limited");
    let (from, to) = (wire.bed.site("a").namespace().clone(), wire.bed.site("b").namespace().clone());
    let receiver = UdpReceiver::start(&to, wire.address("b", 7_000)).expect("the receiver starts");
    // As a call: 50 packets a second.
    let sender = UdpSender::start(&from, UdpSpec::new(receiver.local(), 50.0)).expect("the sender starts");
    let outcome = wire.measure(0, Direction::Forward, Plan::default()).expect("a can").expect("a measures");
    let sent = sender.stop().expect("the sender ends");
    let report = receiver.finish(&sent, Duration::from_secs(1)).expect("the receiver ends");
    println!("a call during {:.1?}: lost {} of {}, {:?}", outcome.took, report.lost, report.sent, report.latency);
    assert_eq!(report.lost, 0, "{report:?}");
    assert!(report.latency.p50 < Duration::from_millis(10), "{:?}", report.latency);
    assert!(report.latency.most < Duration::from_millis(150), "{:?}", report.latency);
}
