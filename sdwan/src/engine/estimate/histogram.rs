//! A histogram of durations with a bounded relative error and a bounded size: buckets as wide as 1/64 of their octave, of
//! which only those are kept that something fell into (the idea of HdrHistogram and DDSketch). Where that are too many,
//! neighbours are put together, and the buckets become twice as wide.

use std::time::Duration;

/// Buckets in an octave at first, as a power of two.
const BITS: u8 = 6;
/// What is shorter counts as this: 1.024 µs.
const SHORTEST: u64 = 1 << 10;
/// What is longer counts as this: about 17 s.
const LONGEST: u64 = (1 << 34) - 1;
/// Buckets that are kept; 48 of the narrowest take durations that differ by a factor of 1.7.
const MOST: usize = 48;
/// Room is made for so many buckets at a time.
const STEP: usize = 8;

/// A bucket, or a part of one: counts beyond 65,535 go on in another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Bucket {
    number: u16,
    count: u16,
}

/// The histogram. A quantile is off by at most 1/128 of itself; of durations that are spread over more than 48 buckets by
/// twice as much, and so on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Histogram {
    /// In the order of their numbers.
    buckets: Vec<Bucket>,
    bits: u8,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: Vec::new(), bits: BITS }
    }
}

fn bucket(duration: Duration, bits: u8) -> u16 {
    let nanoseconds = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX).clamp(SHORTEST, LONGEST);
    let octave = nanoseconds.ilog2();
    let within = (nanoseconds >> (octave - u32::from(bits))) - (1 << bits);
    ((octave << bits) as u64 + within) as u16
}

/// The middle of a bucket.
fn middle(bucket: u16, bits: u8) -> Duration {
    let octave = u32::from(bucket) >> bits;
    let within = u64::from(bucket) & ((1 << bits) - 1);
    let width = 1u64 << (octave - u32::from(bits));
    Duration::from_nanos(((1 << bits) + within) * width + width / 2)
}

impl Histogram {
    /// Counts one.
    pub fn add(&mut self, duration: Duration) {
        self.count_in(bucket(duration, self.bits), 1);
    }

    /// Adds all of another one.
    pub fn merge(&mut self, other: &Self) {
        while self.bits > other.bits {
            self.coarsen();
        }
        for Bucket { number, count } in &other.buckets {
            // It may become coarser on the way.
            self.count_in(number >> (other.bits - self.bits), *count);
        }
    }

    /// How many were counted.
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|bucket| u64::from(bucket.count)).sum()
    }

    /// The duration that the share `quantile`, 0.0..=1.0, doesn't exceed (nearest rank); `None` when there is none.
    pub fn quantile(&self, quantile: f64) -> Option<Duration> {
        let rank = (quantile.clamp(0.0, 1.0) * self.count() as f64).ceil().max(1.0) as u64;
        let mut seen = 0;
        let found = self.buckets.iter().find(|bucket| {
            seen += u64::from(bucket.count);
            seen >= rank
        })?;
        Some(middle(found.number, self.bits))
    }

    fn count_in(&mut self, number: u16, count: u16) {
        let behind = self.buckets.partition_point(|bucket| bucket.number <= number);
        let part = behind.checked_sub(1).and_then(|at| self.buckets.get_mut(at)).filter(|part| part.number == number);
        let known = part.is_some();
        let left = match part {
            Some(part) => {
                let (sum, over) = part.count.overflowing_add(count);
                part.count = if over { u16::MAX } else { sum };
                if over { sum + 1 } else { 0 }
            }
            None => count,
        };
        if left == 0 {
            return;
        }
        if self.buckets.len() == self.buckets.capacity() {
            self.buckets.reserve_exact(STEP);
        }
        self.buckets.insert(behind, Bucket { number, count: left });
        // Parts of one bucket are as few as there are counts by the ten thousand.
        if !known && self.buckets.len() > MOST && self.bits > 0 && self.distinct() > MOST {
            self.coarsen();
        }
    }

    fn distinct(&self) -> usize {
        self.buckets.chunk_by(|one, next| one.number == next.number).count()
    }

    /// Puts each two buckets together.
    fn coarsen(&mut self) {
        let mut coarse = Self { buckets: Vec::with_capacity(MOST / 2 + STEP), bits: self.bits - 1 };
        for Bucket { number, count } in &self.buckets {
            coarse.count_in(number >> 1, *count);
        }
        *self = coarse;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// How far off a quantile may be, as a share of itself.
    fn bound(histogram: &Histogram) -> f64 {
        1.0 / (f64::from(2u32 << histogram.bits) - 1.0)
    }

    proptest! {
        #[test]
        fn quantiles_are_those_of_the_sorted_samples_within_half_a_bucket(
            shortest in 2_000u64..1_000_000_000,
            spread in 1u64..=15,
            samples in prop::collection::vec(0.0f64..=1.0, 1..200),
            quantile in 0.0f64..=1.0,
            split in 0usize..200,
        ) {
            let sample = |share: &f64| shortest + (share * ((spread - 1) * shortest) as f64) as u64;
            let mut samples: Vec<u64> = samples.iter().map(sample).collect();
            let (mut left, mut right) = (Histogram::default(), Histogram::default());
            for (number, sample) in samples.iter().enumerate() {
                let half = if number < split { &mut left } else { &mut right };
                half.add(Duration::from_nanos(*sample));
            }
            left.merge(&right);
            samples.sort_unstable();
            prop_assert_eq!(left.count(), samples.len() as u64);
            prop_assert!(left.bits == BITS || spread > 1, "buckets are only put together where they are many");
            prop_assert!(left.bits + 3 >= BITS, "{} bits for a factor of {}", left.bits, spread);
            let rank = ((quantile * samples.len() as f64).ceil() as usize).max(1);
            let truth = samples[rank - 1] as f64;
            let found = left.quantile(quantile).expect("there are samples").as_nanos() as f64;
            prop_assert!((found - truth).abs() <= truth * bound(&left), "{} for {}", found, truth);
        }

        #[test]
        fn whatever_comes_in_it_stays_small(samples in prop::collection::vec(0u64..1 << 40, 1..2_000)) {
            let mut histogram = Histogram::default();
            for sample in &samples {
                histogram.add(Duration::from_nanos(*sample));
                prop_assert!(histogram.buckets.capacity() <= MOST + STEP);
            }
            prop_assert_eq!(histogram.count(), samples.len() as u64);
        }
    }

    #[test]
    fn a_day_of_equal_durations_is_counted_in_full() {
        let mut histogram = Histogram::default();
        let day = 20 * 60 * 60 * 12;
        for number in 0..day {
            histogram.add(Duration::from_millis(if number % 10 == 0 { 40 } else { 20 }));
        }
        assert_eq!(histogram.count(), day);
        assert!(histogram.buckets.len() <= 2 + day as usize / 65_535, "{}", histogram.buckets.len());
        let mut both = histogram.clone();
        both.merge(&histogram);
        assert_eq!(both.count(), 2 * day);
        let near = |quantile, truth: f64| {
            let found = both.quantile(quantile).expect("there are samples").as_secs_f64() * 1e3;
            assert!((found / truth - 1.0).abs() < 1.0 / 127.0, "{found} ms instead of {truth} ms");
        };
        near(0.89, 20.0);
        near(0.91, 40.0);
    }

    #[test]
    fn a_few_outliers_cost_the_rest_no_precision() {
        let mut histogram = Histogram::default();
        for number in 0..1_000u64 {
            histogram.add(Duration::from_micros(20_000 + number % 100 * 50));
        }
        [1, 90, 400, 3_000].into_iter().for_each(|ms| histogram.add(Duration::from_millis(ms)));
        assert_eq!(histogram.bits, BITS);
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
    }
}
