//! A histogram of durations with a bounded relative error and little memory: buckets as wide as 1/64 of their octave,
//! kept only over the range that was seen (the idea of HdrHistogram and DDSketch).

use std::time::Duration;

/// Buckets in an octave, as a power of two.
const BITS: u32 = 6;
/// What is shorter counts as this: 1.024 µs.
const SHORTEST: u64 = 1 << 10;
/// What is longer counts as this: about 17 s.
const LONGEST: u64 = (1 << 34) - 1;

/// The histogram. A quantile is off by at most 1/128 of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Histogram {
    /// Number of the first bucket in `counts`.
    first: u16,
    counts: Vec<u32>,
}

fn bucket(duration: Duration) -> u16 {
    let nanoseconds = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX).clamp(SHORTEST, LONGEST);
    let octave = nanoseconds.ilog2();
    let within = (nanoseconds >> (octave - BITS)) - (1 << BITS);
    ((octave << BITS) as u64 + within) as u16
}

/// The middle of a bucket.
fn middle(bucket: u16) -> Duration {
    let octave = u32::from(bucket) >> BITS;
    let within = u64::from(bucket) & ((1 << BITS) - 1);
    let width = 1u64 << (octave - BITS);
    Duration::from_nanos(((1 << BITS) + within) * width + width / 2)
}

impl Histogram {
    /// Counts one.
    pub fn add(&mut self, duration: Duration) {
        self.count_in(bucket(duration), 1);
    }

    /// Adds all of another one.
    pub fn merge(&mut self, other: &Self) {
        for (bucket, &count) in (other.first..).zip(&other.counts).filter(|(_, count)| **count > 0) {
            self.count_in(bucket, count);
        }
    }

    /// How many were counted.
    pub fn count(&self) -> u64 {
        self.counts.iter().map(|count| u64::from(*count)).sum()
    }

    /// The duration that the share `quantile`, 0.0..=1.0, doesn't exceed (nearest rank); `None` when there is none.
    pub fn quantile(&self, quantile: f64) -> Option<Duration> {
        let rank = (quantile.clamp(0.0, 1.0) * self.count() as f64).ceil().max(1.0) as u64;
        let mut seen = 0;
        let at = self.counts.iter().position(|count| {
            seen += u64::from(*count);
            seen >= rank
        })?;
        Some(middle(self.first + at as u16))
    }

    fn count_in(&mut self, bucket: u16, count: u32) {
        if self.counts.is_empty() {
            self.first = bucket;
        }
        if bucket < self.first {
            self.counts.splice(0..0, std::iter::repeat_n(0, usize::from(self.first - bucket)));
            self.first = bucket;
        }
        let at = usize::from(bucket - self.first);
        if at >= self.counts.len() {
            self.counts.resize(at + 1, 0);
        }
        self.counts[at] = self.counts[at].saturating_add(count);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn quantiles_are_those_of_the_sorted_samples_within_one_part_in_a_hundred(
            mut samples in prop::collection::vec(2_000u64..15_000_000_000, 1..200),
            quantile in 0.0f64..=1.0,
            split in 0usize..200,
        ) {
            let (mut left, mut right) = (Histogram::default(), Histogram::default());
            for (number, sample) in samples.iter().enumerate() {
                let half = if number < split { &mut left } else { &mut right };
                half.add(Duration::from_nanos(*sample));
            }
            left.merge(&right);
            samples.sort_unstable();
            prop_assert_eq!(left.count(), samples.len() as u64);
            let rank = ((quantile * samples.len() as f64).ceil() as usize).max(1);
            let truth = samples[rank - 1] as f64;
            let found = left.quantile(quantile).expect("there are samples").as_nanos() as f64;
            prop_assert!((found - truth).abs() <= truth / 127.0, "{} for {}", found, truth);
        }
    }

    #[test]
    fn extremes_are_clamped_and_an_empty_one_has_no_quantile() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.quantile(0.5), None);
        histogram.add(Duration::ZERO);
        histogram.add(Duration::from_secs(3_600));
        assert!(histogram.quantile(0.0).expect("a sample") < Duration::from_micros(2));
        let longest = histogram.quantile(1.0).expect("a sample");
        assert!(longest > Duration::from_secs(16) && longest < Duration::from_secs(18), "{longest:?}");
        assert!(histogram.counts.len() <= 24 << BITS);
    }
}
