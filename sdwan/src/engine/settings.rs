//! What the operator may tune in the engine.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Pace, detection and hysteresis.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// Pace of probes on the paths to sites with live traffic, while the budget lasts.
    pub probe_interval: Duration,
    /// Pace on the paths to other sites, while the budget lasts.
    pub idle_interval: Duration,
    /// For how long after its last packet a site counts as one with live traffic.
    pub active_hold: Duration,
    /// Probes without an answer after which a path is down.
    pub missed: u32,
    /// Pace on a path that has not answered for a while: enough to notice that it came to life.
    pub dead_interval: Duration,
    /// Most probes per second over all paths; the pace slows when they are too many.
    pub probe_budget: u32,
    /// Span of the sliding loss window.
    pub loss_window: Duration,
    /// Answers in a row after which a path that never was up comes up.
    pub first_answers: u32,
    /// How long a path that was down must answer before it is up again.
    pub hold_down: Duration,
    /// Longest hold of a path that flaps.
    pub hold_down_max: Duration,
    /// Half-life of the flap penalty that lengthens the hold.
    pub damping_half_life: Duration,
    /// Points by which another path must be better before a class moves to it.
    pub switch_margin: f64,
    /// For how long it must be better.
    pub switch_hold: Duration,
    /// How long a path must break its class's SLA, or be degraded, before the class leaves it.
    pub violation_hold: Duration,
    /// How often the paths of a site are rated when nothing urgent happens, if they are probed as often.
    pub rate_interval: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            probe_interval: Duration::from_millis(50),
            idle_interval: Duration::from_millis(250),
            active_hold: Duration::from_secs(15),
            missed: 3,
            dead_interval: Duration::from_secs(1),
            probe_budget: 4_000,
            loss_window: Duration::from_secs(10),
            first_answers: 3,
            hold_down: Duration::from_secs(3),
            hold_down_max: Duration::from_secs(120),
            damping_half_life: Duration::from_secs(60),
            switch_margin: 5.0,
            switch_hold: Duration::from_secs(5),
            violation_hold: Duration::from_secs(1),
            rate_interval: Duration::from_millis(250),
        }
    }
}
