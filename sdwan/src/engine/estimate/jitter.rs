//! Interarrival jitter of one direction by RFC 3550 section 6.4.1.

use std::time::Duration;

/// A difference of transit times beyond this is a step of a clock, not jitter.
const CLOCK_STEP_NS: u64 = 10_000_000_000;

/// Estimator of the delay variation. It compares transit times, so the clocks' offset cancels out.
#[derive(Clone, Debug, Default)]
pub struct Jitter {
    previous: Option<(u32, i64)>,
    jitter_ns: f64,
}

impl Jitter {
    /// Takes the stamps of one packet: sender's clock, receiver's clock, ns. Packets that were overtaken are left out:
    /// the RFC compares packets in the order of their sequence. Returns the difference of the transit times to the
    /// packet before.
    pub fn sample(&mut self, sequence: u32, sent_ns: u64, received_ns: u64) -> Option<Duration> {
        // Modulo 2^64, as is their difference: what the clocks differ by cancels out.
        let transit = received_ns.wrapping_sub(sent_ns).cast_signed();
        let mut found = None;
        if let Some((previous_sequence, previous_transit)) = self.previous {
            if (sequence.wrapping_sub(previous_sequence) as i32) <= 0 {
                return None;
            }
            let difference = transit.wrapping_sub(previous_transit).unsigned_abs();
            if difference < CLOCK_STEP_NS {
                self.jitter_ns += (difference as f64 - self.jitter_ns) / 16.0;
                found = Some(Duration::from_nanos(difference));
            }
        }
        self.previous = Some((sequence, transit));
        found
    }

    /// The jitter; zero before the second sample.
    pub fn jitter(&self) -> Duration {
        Duration::from_nanos(self.jitter_ns as u64)
    }
}
