//! What live traffic shows: a path carries at least what it delivered.

use std::collections::VecDeque;
use std::time::Duration;

use crate::engine::time::Time;

/// A rate counts when it lasted this long: what a bucket lets pass at once is no capacity.
const SPAN: Duration = Duration::from_secs(2);
/// For how long a rate counts.
const MEMORY: Duration = Duration::from_secs(600);
/// Most values kept; more frequent samples replace the latest one.
const MOST: usize = 64;

/// The largest rate at which a path delivered, over the last minutes.
#[derive(Clone, Debug, Default)]
pub struct Passive {
    samples: VecDeque<(Time, u64)>,
    /// (time, bit/s), falling: the first is the largest.
    maxima: VecDeque<(Time, u64)>,
}

impl Passive {
    /// Bytes of outer packets that came out of the path so far. A counter that falls starts anew.
    pub fn sample(&mut self, at: Time, bytes: u64) {
        if self.samples.back().is_some_and(|(last, before)| bytes < *before || at <= *last) {
            self.samples.clear();
        }
        self.samples.push_back((at, bytes));
        while self.samples.len() > MOST || self.samples.get(1).is_some_and(|(second, _)| at.since(*second) >= SPAN) {
            self.samples.pop_front();
        }
        let Some(&(from, before)) = self.samples.front() else { return };
        let span = at.since(from);
        // After a stall of the sampler the span says nothing about a rate that lasted.
        if span < SPAN || span > SPAN * 3 {
            return;
        }
        let rate = (u128::from(bytes - before) * 8_000_000_000 / span.as_nanos().max(1)) as u64;
        while self.maxima.back().is_some_and(|(_, smaller)| *smaller <= rate) {
            self.maxima.pop_back();
        }
        if self.maxima.len() == MOST {
            self.maxima.pop_back();
        }
        self.maxima.push_back((at, rate));
    }

    /// The largest rate, bit/s; `None` without one.
    pub fn maximum(&mut self, now: Time) -> Option<u64> {
        while self.maxima.front().is_some_and(|(at, _)| now.since(*at) > MEMORY) {
            self.maxima.pop_front();
        }
        self.maxima.front().map(|(_, rate)| *rate).filter(|rate| *rate > 0)
    }
}
