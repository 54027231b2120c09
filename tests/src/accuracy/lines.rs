//! The lines of the bench, and what is true of each.

use std::time::Duration;

use crate::bed::{Impairment, Loss};

/// A line of site a, and so a path to site b.
#[derive(Clone, Debug)]
pub struct Line {
    /// Name of the uplink.
    pub name: &'static str,
    /// What it is like, for people.
    pub what: &'static str,
    /// From site a.
    pub up: Impairment,
    /// To site a.
    pub down: Impairment,
}

const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// The line that shows what the stage itself adds.
pub const CLEAN: &str = "clean";
/// The line whose delay makes a step at the end.
pub const STEP: &str = "even";

/// All lines.
pub fn lines() -> Vec<Line> {
    let line = |name, what, up, down| Line { name, what, up, down };
    let delay = |milliseconds| Impairment::delay(ms(milliseconds));
    let bursts = Loss::GilbertElliott { to_bad: 0.01, to_good: 0.25, loss_good: 0.0, loss_bad: 0.8 };
    vec![
        line(CLEAN, "nothing", Impairment::default(), Impairment::default()),
        line(STEP, "20 ms each way", delay(20), delay(20)),
        line("skewed", "10 ms there, 40 ms back", delay(10), delay(40)),
        line("jittery", "20 ms ± 10 ms there, ± 4 ms back", delay(20).jitter(ms(10)), delay(20).jitter(ms(4))),
        line("lossy", "15 ms, loss 3 % there, 1 % back", delay(15).loss(0.03), delay(15).loss(0.01)),
        line("bursty", "15 ms, loss in bursts there", Impairment { loss: bursts, ..delay(15) }, delay(15)),
    ]
}

impl Line {
    /// Round-trip time that the line makes, ms; jitter has no mean.
    pub fn rtt_ms(&self) -> f64 {
        (self.up.delay + self.down.delay).as_secs_f64() * 1e3
    }

    /// Mean difference of successive packets' delays there and back, ms: two draws from an interval of width 2·j are a
    /// third of it apart on average.
    pub fn jitter_ms(&self) -> [f64; 2] {
        [&self.up, &self.down].map(|direction| direction.jitter.as_secs_f64() * 1e3 * 2.0 / 3.0)
    }
}
