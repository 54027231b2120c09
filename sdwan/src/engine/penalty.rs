//! A penalty that decays exponentially: what damps a path that flaps (the idea of RFC 2439).

use super::settings::Settings;
use super::time::Time;

/// A penalty as it was at some time.
#[derive(Clone, Copy, Debug)]
pub struct Penalty {
    value: f64,
    at: Time,
}

impl Penalty {
    /// Of this size at this time.
    pub fn new(value: f64, at: Time) -> Self {
        Self { value, at }
    }

    /// What is left of it: half after each `damping_half_life`.
    pub fn left(self, now: Time, settings: &Settings) -> f64 {
        let half_lives = now.since(self.at).as_secs_f64() / settings.damping_half_life.as_secs_f64().max(1e-3);
        self.value * (-half_lives).exp2()
    }
}
