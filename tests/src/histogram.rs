//! Quantiles of durations without keeping them all: log-linear buckets, 64 to each power of two, so that every
//! quantile is right within 1.6 %.

use std::time::Duration;

use serde::{Deserialize, Serialize};

const SUB_BUCKETS_LOG2: u32 = 6;
const SUB_BUCKETS: u64 = 1 << SUB_BUCKETS_LOG2;

/// Counts of durations by magnitude.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Histogram {
    counts: Vec<u64>,
    total: u64,
    sum_ns: u128,
    least_ns: Option<u64>,
    most_ns: u64,
}

/// The usual quantiles of a [`Histogram`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Quantiles {
    /// Samples.
    pub count: u64,
    /// Smallest sample.
    pub least: Duration,
    /// Median.
    pub p50: Duration,
    /// 90th percentile.
    pub p90: Duration,
    /// 99th percentile.
    pub p99: Duration,
    /// Largest sample.
    pub most: Duration,
    /// Arithmetic mean.
    pub mean: Duration,
}

impl Histogram {
    /// Counts one duration.
    pub fn record(&mut self, duration: Duration) {
        self.record_ns(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX));
    }

    /// Counts one duration in ns.
    pub fn record_ns(&mut self, ns: u64) {
        let bucket = bucket_of(ns);
        if bucket >= self.counts.len() {
            self.counts.resize(bucket + 1, 0);
        }
        self.counts[bucket] += 1;
        self.total += 1;
        self.sum_ns += u128::from(ns);
        self.least_ns = Some(self.least_ns.map_or(ns, |least| least.min(ns)));
        self.most_ns = self.most_ns.max(ns);
    }

    /// Adds the samples of another histogram.
    pub fn merge(&mut self, other: &Self) {
        if other.counts.len() > self.counts.len() {
            self.counts.resize(other.counts.len(), 0);
        }
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
        self.total += other.total;
        self.sum_ns += other.sum_ns;
        self.least_ns = [self.least_ns, other.least_ns].into_iter().flatten().min();
        self.most_ns = self.most_ns.max(other.most_ns);
    }

    /// Samples so far.
    pub fn count(&self) -> u64 {
        self.total
    }

    /// The duration that a share of the samples (0.0..=1.0) doesn't exceed; zero without samples.
    pub fn quantile(&self, share: f64) -> Duration {
        let rank = ((self.total as f64 * share).ceil() as u64).clamp(1, self.total.max(1));
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                let least = self.least_ns.unwrap_or(0);
                return Duration::from_nanos(middle_of(bucket).clamp(least, self.most_ns));
            }
        }
        Duration::ZERO
    }

    /// The usual quantiles.
    pub fn quantiles(&self) -> Quantiles {
        Quantiles {
            count: self.total,
            least: Duration::from_nanos(self.least_ns.unwrap_or(0)),
            p50: self.quantile(0.5),
            p90: self.quantile(0.9),
            p99: self.quantile(0.99),
            most: Duration::from_nanos(self.most_ns),
            mean: Duration::from_nanos((self.sum_ns / u128::from(self.total.max(1))) as u64),
        }
    }
}

fn bucket_of(ns: u64) -> usize {
    if ns < SUB_BUCKETS {
        return ns as usize;
    }
    let exponent = 63 - ns.leading_zeros();
    let sub = (ns >> (exponent - SUB_BUCKETS_LOG2)) & (SUB_BUCKETS - 1);
    (u64::from(exponent - SUB_BUCKETS_LOG2 + 1) * SUB_BUCKETS + sub) as usize
}

fn middle_of(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < SUB_BUCKETS {
        return bucket;
    }
    let shift = bucket / SUB_BUCKETS - 1;
    let low = (SUB_BUCKETS + bucket % SUB_BUCKETS) << shift;
    low + (1 << shift) / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_quantile_is_within_two_percent() {
        let mut histogram = Histogram::default();
        for us in 1..=10_000 {
            histogram.record(Duration::from_micros(us));
        }
        for share in [0.01, 0.25, 0.5, 0.9, 0.99, 1.0] {
            let exact = 10_000.0 * share;
            let found = histogram.quantile(share).as_nanos() as f64 / 1_000.0;
            assert!((found - exact).abs() <= exact * 0.02, "{share}: {found} instead of {exact}");
        }
    }

    #[test]
    fn a_bucket_holds_its_own_middle() {
        for bucket in 0..3_000 {
            assert_eq!(bucket_of(middle_of(bucket)), bucket);
        }
    }

    #[test]
    fn merging_is_recording_all() {
        let (mut left, mut right, mut both) = (Histogram::default(), Histogram::default(), Histogram::default());
        for ns in [5, 70, 1_000_000] {
            left.record_ns(ns);
            both.record_ns(ns);
        }
        for ns in [3, u64::MAX] {
            right.record_ns(ns);
            both.record_ns(ns);
        }
        left.merge(&right);
        assert_eq!(left, both);
    }
}
