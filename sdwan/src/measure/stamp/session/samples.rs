//! Quantiles of any number of samples in bounded memory.

use serde::Serialize;

/// Samples that are kept. Up to this many, every figure is exact.
const KEPT: usize = 65_536;

/// Samples of one quantity. Beyond [`KEPT`] every second, fourth, … one is kept; the extremes and the mean stay exact.
#[derive(Clone, Debug)]
pub struct Samples {
    kept: Vec<i64>,
    stride: u64,
    count: u64,
    minimum: i64,
    maximum: i64,
    sum: i128,
}

/// The figures of some samples, in their unit.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Figures {
    /// Smallest.
    pub min: f64,
    /// Half are not above.
    pub median: f64,
    /// 95 % are not above.
    pub p95: f64,
    /// 99 % are not above.
    pub p99: f64,
    /// Largest.
    pub max: f64,
    /// Mean.
    pub mean: f64,
}

impl Default for Samples {
    fn default() -> Self {
        Self { kept: Vec::new(), stride: 1, count: 0, minimum: i64::MAX, maximum: i64::MIN, sum: 0 }
    }
}

impl Samples {
    /// Adds one.
    pub fn push(&mut self, value: i64) {
        if self.count.is_multiple_of(self.stride) {
            if self.kept.len() == KEPT {
                let mut index = 0;
                self.kept.retain(|_| {
                    index += 1;
                    index % 2 == 1
                });
                self.stride *= 2;
            }
            if self.count.is_multiple_of(self.stride) {
                self.kept.push(value);
            }
        }
        self.count += 1;
        self.minimum = self.minimum.min(value);
        self.maximum = self.maximum.max(value);
        self.sum += i128::from(value);
    }

    /// The figures, each divided by `unit`; `None` without a sample. Quantiles are of the nearest rank.
    pub fn figures(&self, unit: f64) -> Option<Figures> {
        if self.kept.is_empty() {
            return None;
        }
        let mut sorted = self.kept.clone();
        sorted.sort_unstable();
        let rank = |quantile: f64| {
            let rank = (quantile * sorted.len() as f64).ceil() as usize;
            sorted[rank.clamp(1, sorted.len()) - 1] as f64 / unit
        };
        Some(Figures {
            min: self.minimum as f64 / unit,
            median: rank(0.5),
            p95: rank(0.95),
            p99: rank(0.99),
            max: self.maximum as f64 / unit,
            mean: self.sum as f64 / self.count as f64 / unit,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(values: impl IntoIterator<Item = i64>) -> Samples {
        let mut samples = Samples::default();
        values.into_iter().for_each(|value| samples.push(value));
        samples
    }

    #[test]
    fn figures_of_a_hundred_samples_are_those_of_the_nearest_rank() {
        let figures = of((1..=100).rev()).figures(1.0).expect("figures");
        assert_eq!(figures, Figures { min: 1.0, median: 50.0, p95: 95.0, p99: 99.0, max: 100.0, mean: 50.5 });
        assert_eq!(Samples::default().figures(1.0), None);
    }

    #[test]
    fn a_million_samples_take_bounded_memory_and_keep_their_quantiles() {
        let samples = of((0..1_000_000i64).map(|n| n * 7_919 % 1_000_003));
        assert!(samples.kept.len() <= KEPT);
        let figures = samples.figures(1_000_003.0).expect("figures");
        assert!((figures.median - 0.5).abs() < 0.01 && (figures.p99 - 0.99).abs() < 0.01, "{figures:?}");
    }

    proptest! {
        #[test]
        fn figures_are_in_order(values in prop::collection::vec(any::<i32>(), 1..200)) {
            let figures = of(values.iter().map(|value| i64::from(*value))).figures(1e6).expect("figures");
            let order = [figures.min, figures.median, figures.p95, figures.p99, figures.max];
            prop_assert!(order.is_sorted(), "{order:?}");
            prop_assert!((figures.min..=figures.max).contains(&figures.mean));
        }
    }
}
