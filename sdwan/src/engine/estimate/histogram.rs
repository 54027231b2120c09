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
/// Buckets that are kept; 40 of the narrowest take durations that differ by a factor of 1.5.
const MOST: usize = 40;

/// The histogram. A quantile is off by at most 1/128 of itself; of durations that are spread over more than 40 buckets by
/// twice as much, and so on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Histogram {
    /// For each bucket in the order of their numbers: how much larger its number is than the one before's, and its count,
    /// as [`put`] writes them. Most take two or three bytes.
    bytes: Vec<u8>,
    bits: u8,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { bytes: Vec::new(), bits: BITS }
    }
}

/// A bucket's number and count.
type Bucket = (u16, u32);

/// Writes a number in groups of seven bits, the lowest first; all but the last have the highest bit set (LEB128).
fn put(mut number: u32, bytes: &mut Vec<u8>) {
    while number >= 1 << 7 {
        bytes.push(number as u8 | 1 << 7);
        number >>= 7;
    }
    bytes.push(number as u8);
}

/// Reads what [`put`] wrote.
fn take(bytes: &mut &[u8]) -> Option<u32> {
    let mut number = 0;
    for shift in (0..u32::BITS).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u32::from(byte & 0x7f) << shift;
        if byte >> 7 == 0 {
            return Some(number);
        }
    }
    None
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
        for (number, count) in other.buckets() {
            // It may become coarser on the way.
            self.count_in(number >> (other.bits - self.bits), count);
        }
    }

    /// How many were counted.
    pub fn count(&self) -> u64 {
        self.buckets().map(|(_, count)| u64::from(count)).sum()
    }

    /// The duration that the share `quantile`, 0.0..=1.0, doesn't exceed (nearest rank); `None` when there is none.
    pub fn quantile(&self, quantile: f64) -> Option<Duration> {
        let rank = (quantile.clamp(0.0, 1.0) * self.count() as f64).ceil().max(1.0) as u64;
        let mut seen = 0;
        let (number, _) = self.buckets().find(|(_, count)| {
            seen += u64::from(*count);
            seen >= rank
        })?;
        Some(middle(number, self.bits))
    }

    fn buckets(&self) -> impl Iterator<Item = Bucket> {
        let (mut bytes, mut number) = (&self.bytes[..], 0);
        std::iter::from_fn(move || {
            number += take(&mut bytes)? as u16;
            Some((number, take(&mut bytes)?))
        })
    }

    fn count_in(&mut self, number: u16, count: u32) {
        if self.count_in_place(number, count) {
            return;
        }
        let mut buckets: Vec<Bucket> = self.buckets().collect();
        match buckets.binary_search_by_key(&number, |(known, _)| *known) {
            Ok(at) => buckets[at].1 = buckets[at].1.saturating_add(count),
            Err(at) => buckets.insert(at, (number, count)),
        }
        self.write(&buckets);
        if buckets.len() > MOST && self.bits > 0 {
            self.coarsen();
        }
    }

    /// Counts in a bucket that is there, if the count needs no more bytes than before.
    fn count_in_place(&mut self, wanted: u16, count: u32) -> bool {
        let (mut rest, mut number) = (&self.bytes[..], 0);
        while let Some(gap) = take(&mut rest) {
            number += gap as u16;
            let from = self.bytes.len() - rest.len();
            let Some(known) = take(&mut rest) else { return false };
            if number < wanted {
                continue;
            }
            let last = self.bytes.len() - rest.len() - 1;
            let mut sum = known.saturating_add(count);
            if number > wanted || sum >> (7 * (last + 1 - from)).min(31) > 0 {
                return false;
            }
            for byte in &mut self.bytes[from..last] {
                *byte = sum as u8 | 1 << 7;
                sum >>= 7;
            }
            self.bytes[last] = sum as u8;
            return true;
        }
        false
    }

    fn write(&mut self, buckets: &[Bucket]) {
        let (mut bytes, mut former) = (Vec::with_capacity(4 * buckets.len()), 0);
        for (number, count) in buckets {
            put(u32::from(number - former), &mut bytes);
            put(*count, &mut bytes);
            former = *number;
        }
        bytes.shrink_to_fit();
        self.bytes = bytes;
    }

    /// Puts each two buckets together.
    fn coarsen(&mut self) {
        let mut coarse: Vec<Bucket> = Vec::with_capacity(MOST);
        for (number, count) in self.buckets() {
            match coarse.last_mut().filter(|(last, _)| *last == number >> 1) {
                Some((_, known)) => *known = known.saturating_add(count),
                None => coarse.push((number >> 1, count)),
            }
        }
        self.bits -= 1;
        self.write(&coarse);
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
                prop_assert!(histogram.bytes.capacity() <= 4 * MOST, "{} bytes", histogram.bytes.capacity());
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
        assert!(histogram.bytes.len() <= 10, "{} bytes", histogram.bytes.len());
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
    fn a_number_is_read_as_it_was_written() {
        for number in [0, 1, 127, 128, 16_383, 16_384, 2_097_151, 2_097_152, u32::MAX] {
            let mut bytes = Vec::new();
            put(number, &mut bytes);
            assert_eq!(take(&mut &bytes[..]), Some(number));
            assert_eq!(take(&mut &bytes[..bytes.len() - 1]), None);
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
    }
}
