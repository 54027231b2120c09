//! Several readings as one capacity.

use super::reading::Reading;

/// Others on the uplink count when they are this share of the train's rate at least.
const NOTABLE: f64 = 0.05;

/// What came out of the path while it was full, bit/s.
pub fn total(reading: Reading) -> Option<f64> {
    reading.queued.map(|queued| queued.rate + queued.other)
}

/// Rate at which other traffic enters the bottleneck, as a share of what it carries.
pub fn crowd(reading: &Reading) -> f64 {
    let Some(queued) = reading.queued else { return 0.0 };
    let enters = queued.other * reading.sent / queued.rate.max(1.0);
    ((enters + reading.others) / (queued.rate + queued.other).max(1.0)).clamp(0.0, 1.0)
}

/// The capacity by each reading, bit/s.
///
/// What else came out of the same path shares the bottleneck for sure, and is added. What left by the same uplink for
/// other sites does so only when the bottleneck is the uplink. In a first-in-first-out bottleneck of capacity C a train
/// at rate s among others at rate x gets C·s / (s + x); only with the right x do trains of different rates agree on C.
pub fn capacities(readings: &[Reading]) -> Vec<f64> {
    let with = |others: bool| -> Vec<(f64, f64)> {
        let capacity = |reading: &Reading| {
            let queued = reading.queued?;
            let more = if others { queued.rate * reading.others / reading.sent.max(1.0) } else { 0.0 };
            Some((reading.sent, queued.rate + queued.other + more))
        };
        readings.iter().filter_map(capacity).collect()
    };
    let own = with(false);
    let notable = readings.iter().filter(|reading| reading.others > NOTABLE * reading.received).count();
    let chosen = if notable * 2 > readings.len() {
        let all = with(true);
        match (disagreement(&own), disagreement(&all)) {
            (Some(own_spread), Some(all_spread)) if all_spread < own_spread => all,
            _ => own,
        }
    } else {
        own
    };
    chosen.into_iter().map(|(_, capacity)| capacity).collect()
}

/// By how much the slower and the faster trains disagree, as a share; `None` when all are about equally fast.
fn disagreement(points: &[(f64, f64)]) -> Option<f64> {
    let middle = median(points.iter().map(|(rate, _)| *rate).collect())?;
    let mean = |points: Vec<f64>| {
        let count = points.len();
        (count > 0).then(|| points.into_iter().sum::<f64>() / count as f64)
    };
    let slow = mean(points.iter().filter(|(rate, _)| *rate < 0.97 * middle).map(|point| point.1).collect());
    let fast = mean(points.iter().filter(|(rate, _)| *rate > 1.03 * middle).map(|point| point.1).collect());
    let centre = mean(points.iter().map(|point| point.1).collect())?;
    let (low, high) = (slow.unwrap_or(centre), fast.unwrap_or(centre));
    (slow.is_some() || fast.is_some()).then(|| (high - low).abs() / centre.max(1.0))
}

/// Median distance from the median, as a share of it.
pub fn spread(values: &[f64]) -> f64 {
    let Some(centre) = median(values.to_vec()) else { return 0.0 };
    median(values.iter().map(|value| (value - centre).abs() / centre.max(1.0)).collect()).unwrap_or(0.0)
}

/// The median of those that are numbers.
pub fn median(mut values: Vec<f64>) -> Option<f64> {
    values.retain(|value| value.is_finite());
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        count if count % 2 == 1 => Some(values[middle]),
        _ => Some((values[middle - 1] + values[middle]) / 2.0),
    }
}
