//! Round-trip time: smoothed and its variation by RFC 6298 section 2, and a windowed minimum.

use std::time::Duration;

use crate::engine::time::Time;

/// The minimum covers between one and two of these.
const MINIMUM_WINDOW: Duration = Duration::from_secs(60);

/// Estimator of the round-trip time.
#[derive(Clone, Debug, Default)]
pub struct RoundTrip {
    smoothed: Option<f64>,
    variation: f64,
    window_start: Time,
    current_minimum: Option<Duration>,
    previous_minimum: Option<Duration>,
}

impl RoundTrip {
    /// Takes a sample: alpha 1/8, beta 1/4.
    pub fn sample(&mut self, rtt: Duration, now: Time) {
        let sample = rtt.as_secs_f64();
        match self.smoothed {
            None => {
                self.smoothed = Some(sample);
                self.variation = sample / 2.0;
            }
            Some(smoothed) => {
                self.variation += ((smoothed - sample).abs() - self.variation) / 4.0;
                self.smoothed = Some(smoothed + (sample - smoothed) / 8.0);
            }
        }
        self.turn_window(now);
        self.current_minimum = Some(self.current_minimum.map_or(rtt, |minimum| minimum.min(rtt)));
    }

    /// SRTT, once there was a sample.
    pub fn smoothed(&self) -> Option<Duration> {
        self.smoothed.map(Duration::from_secs_f64)
    }

    /// RTTVAR; zero before the first sample.
    pub fn variation(&self) -> Duration {
        Duration::from_secs_f64(self.variation)
    }

    /// Smallest sample of the current and the previous window.
    pub fn minimum(&mut self, now: Time) -> Option<Duration> {
        self.turn_window(now);
        match (self.current_minimum, self.previous_minimum) {
            (Some(current), Some(previous)) => Some(current.min(previous)),
            (current, previous) => current.or(previous),
        }
    }

    fn turn_window(&mut self, now: Time) {
        if now.since(self.window_start) >= MINIMUM_WINDOW {
            // With no sample in a whole window the last known minimum stands.
            self.previous_minimum = self.current_minimum.take().or(self.previous_minimum);
            self.window_start = now;
        }
    }
}
