//! Path scores: the quality that operators see, what a class makes of a path, and the mean opinion score.

use std::time::Duration;

use super::emodel::{Call, Codec, opinion, rating};
use super::estimate::Quality;
use super::policy::{Preference, Sla};

/// Below this quality a path is degraded.
pub const DEGRADED_BELOW: f64 = 50.0;
/// Above this loss (0..=1) a path is down.
pub const DOWN_ABOVE_LOSS: f64 = 0.5;

/// Linear between the points `(x, y)`, in ascending `x`; constant outside.
fn interpolate(points: &[(f64, f64)], x: f64) -> f64 {
    let (first, last) = (points[0], points[points.len() - 1]);
    if x <= first.0 {
        return first.1;
    }
    for pair in points.windows(2) {
        let ((x0, y0), (x1, y1)) = (pair[0], pair[1]);
        if x <= x1 {
            return y0 + (y1 - y0) * (x - x0) / (x1 - x0);
        }
    }
    last.1
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// Quality of a path, 0..=100: 0.4 latency (100 up to 50 ms of RTT, 50 at 200 ms, 0 at 500 ms), 0.3 jitter (100 up to
/// 5 ms, 50 at 50 ms, 0 at 95 ms), 0.3 loss (100 at none, 50 at 10 %, 0 at 20 %). 0 without any answer.
pub fn path_score(quality: &Quality) -> f64 {
    let Some(rtt) = quality.rtt else { return 0.0 };
    let latency = interpolate(&[(50.0, 100.0), (200.0, 50.0), (500.0, 0.0)], milliseconds(rtt));
    let jitter = interpolate(&[(5.0, 100.0), (50.0, 50.0), (95.0, 0.0)], milliseconds(quality.jitter()));
    let loss = interpolate(&[(0.0, 100.0), (0.10, 50.0), (0.20, 0.0)], quality.worst_loss());
    0.4 * latency + 0.3 * jitter + 0.3 * loss
}

/// What a class looks at besides the measured quality.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Surroundings {
    /// Capacity of this path towards the peer, bit/s: measured, else declared.
    pub capacity: Option<u64>,
    /// Largest known capacity among the paths to the same site, bit/s.
    pub best_capacity: Option<u64>,
    /// Cost of the local uplink; 0 is free.
    pub cost: u32,
}

/// Weights over latency, jitter, loss, bandwidth, cost; they sum to 1.
const fn weights(preference: Preference) -> [f64; 5] {
    match preference {
        Preference::Latency => [0.55, 0.20, 0.25, 0.0, 0.0],
        Preference::Throughput => [0.05, 0.0, 0.25, 0.70, 0.0],
        Preference::Cost => [0.05, 0.0, 0.25, 0.0, 0.70],
        Preference::Balanced => [0.30, 0.10, 0.25, 0.25, 0.10],
    }
}

/// How good a path is for a preference, 0..=100.
///
/// Unlike [`path_score`] it tells a 10 ms path from a 30 ms one: latency counts `100 / (1 + RTT / 50 ms)`, jitter
/// `100 / (1 + jitter / 20 ms)`, loss falls to 0 at 10 %, bandwidth is the share of the best path's capacity (50 when
/// unknown), cost `100 / (1 + cost / 10)`.
pub fn class_score(preference: Preference, quality: &Quality, surroundings: &Surroundings) -> f64 {
    let Some(rtt) = quality.rtt else { return 0.0 };
    let bandwidth = match (surroundings.capacity, surroundings.best_capacity) {
        (Some(own), Some(best)) if best > 0 => 100.0 * (own as f64 / best as f64).min(1.0),
        _ => 50.0,
    };
    let parts = [
        100.0 / (1.0 + milliseconds(rtt) / 50.0),
        100.0 / (1.0 + milliseconds(quality.jitter()) / 20.0),
        interpolate(&[(0.0, 100.0), (0.10, 0.0)], quality.worst_loss()),
        bandwidth,
        100.0 / (1.0 + f64::from(surroundings.cost) / 10.0),
    ];
    weights(preference).iter().zip(parts).map(|(weight, part)| weight * part).sum()
}

/// Does the path keep the bounds? An unknown capacity breaks no bound: nothing was measured against it.
///
/// `broken`: it didn't so far. Of a path that kept them the loss must be proven; one that broke them keeps them again when
/// no more loss is seen than is allowed. Between the two lies what chance does to a count of probes.
pub fn complies(sla: &Sla, quality: &Quality, capacity: Option<u64>, broken: bool) -> bool {
    let Some(rtt) = quality.rtt else { return sla.is_empty() };
    let loss = if broken { quality.worst_loss().max(quality.recent_loss) } else { quality.proven_loss };
    let within = |bound: Option<f64>, value: f64| bound.is_none_or(|bound| value <= bound);
    within(sla.latency_ms, milliseconds(rtt))
        && within(sla.jitter_ms, milliseconds(quality.jitter()))
        && within(sla.loss_pct, loss * 100.0)
        && sla.mos.is_none_or(|least| opinion_at(Codec::G711, quality, loss).is_some_and(|mos| mos >= least))
        && match (sla.bandwidth_mbps, capacity) {
            (Some(least), Some(capacity)) => capacity as f64 >= least * 1e6,
            _ => true,
        }
}

/// Mean opinion score of a call over the path, 1.0..=4.5 ([`emodel`](super::emodel)): the worse direction's loss, half
/// the RTT, and a jitter buffer of twice the jitter. `None` before the first answer.
pub fn mean_opinion_score(codec: Codec, quality: &Quality) -> Option<f64> {
    opinion_at(codec, quality, quality.worst_loss())
}

fn opinion_at(codec: Codec, quality: &Quality, loss: f64) -> Option<f64> {
    let call = Call { delay: quality.rtt? / 2 + 2 * quality.jitter(), loss, burst_ratio: 1.0 };
    Some(opinion(rating(codec, &call)))
}
