//! What a path did over the last minute, quarter of an hour, and day: quantiles of the round-trip time, mean delay
//! variation and loss per direction.

use std::time::Duration;

use super::histogram::Histogram;
use super::loss::{Loss, LossWindow};
use crate::engine::time::Time;

/// The spans that are kept.
pub const SPANS: [Duration; 3] =
    [Duration::from_secs(60), Duration::from_secs(15 * 60), Duration::from_secs(24 * 60 * 60)];
/// Slices of a span: what is shown covers at least the span and at most half of it more.
const SLICES: usize = 3;

/// The numbers of one span.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SpanQuality {
    /// Which span.
    pub span: Duration,
    /// Answered probes that the numbers rest on.
    pub samples: u64,
    /// Round-trip time without the reflector's dwell time, off by 0.8 % at most where it stays within a factor of 1.5, and
    /// by twice as much for each octave more.
    pub rtt: Quantiles,
    /// Mean difference of the transit times of successive probes towards the peer, which is what RFC 3550's jitter
    /// estimates.
    pub jitter_forward: Duration,
    /// The same from the peer.
    pub jitter_backward: Duration,
    /// Loss.
    pub loss: Loss,
}

/// Quantiles of a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quantiles {
    /// The smallest, exactly.
    pub minimum: Duration,
    /// The median.
    pub p50: Duration,
    /// 95 of 100 are not longer.
    pub p95: Duration,
    /// 99 of 100 are not longer.
    pub p99: Duration,
    /// The largest, exactly.
    pub maximum: Duration,
}

/// Means of both directions, towards the peer and from it, that can be added to.
#[derive(Clone, Copy, Debug, Default)]
struct Means {
    sums_ns: [u64; 2],
    counts: [u32; 2],
}

impl Means {
    fn add(&mut self, values: [Option<Duration>; 2]) {
        for (way, value) in values.into_iter().enumerate().filter_map(|(way, value)| Some((way, value?))) {
            let value_ns = u64::try_from(value.as_nanos()).unwrap_or(u64::MAX);
            self.sums_ns[way] = self.sums_ns[way].saturating_add(value_ns);
            self.counts[way] = self.counts[way].saturating_add(1);
        }
    }

    fn merge(&mut self, other: Self) {
        for way in [0, 1] {
            self.sums_ns[way] = self.sums_ns[way].saturating_add(other.sums_ns[way]);
            self.counts[way] = self.counts[way].saturating_add(other.counts[way]);
        }
    }

    fn values(self) -> [Duration; 2] {
        [0, 1].map(|way| Duration::from_nanos(self.sums_ns[way].checked_div(self.counts[way].into()).unwrap_or(0)))
    }
}

#[derive(Clone, Debug)]
struct Slice {
    rtt: Histogram,
    /// The smallest is larger than the largest while there is none.
    smallest_ns: u64,
    largest_ns: u64,
    jitter: Means,
}

impl Default for Slice {
    fn default() -> Self {
        Self { rtt: Histogram::default(), smallest_ns: u64::MAX, largest_ns: 0, jitter: Means::default() }
    }
}

impl Slice {
    fn merge(&mut self, other: &Self) {
        self.rtt.merge(&other.rtt);
        self.smallest_ns = self.smallest_ns.min(other.smallest_ns);
        self.largest_ns = self.largest_ns.max(other.largest_ns);
        self.jitter.merge(other.jitter);
    }
}

/// One span, sliding.
#[derive(Clone, Debug)]
pub struct Span {
    span: Duration,
    slices: [Slice; SLICES],
    start: Time,
    /// Loss has its own way with what turns out later.
    loss: LossWindow<SLICES, i32>,
}

impl Span {
    /// An empty one.
    pub fn new(span: Duration) -> Self {
        let slices = Default::default();
        Self { span, slices, start: Time(0), loss: LossWindow::new(span * SLICES as u32 / (SLICES as u32 - 1)) }
    }

    /// A probe was answered. `forward` and `backward` are the differences of the transit times to the probe before.
    pub fn answered(&mut self, rtt: Duration, forward: Option<Duration>, backward: Option<Duration>, now: Time) {
        self.slide(now);
        let slice = &mut self.slices[0];
        slice.rtt.add(rtt);
        let rtt_ns = u64::try_from(rtt.as_nanos()).unwrap_or(u64::MAX);
        slice.smallest_ns = slice.smallest_ns.min(rtt_ns);
        slice.largest_ns = slice.largest_ns.max(rtt_ns);
        slice.jitter.add([forward, backward]);
    }

    /// The loss of the span.
    pub fn loss_mut(&mut self) -> &mut LossWindow<SLICES, i32> {
        &mut self.loss
    }

    /// The numbers now; `None` before the first answer.
    pub fn quality(&self, now: Time) -> Option<SpanQuality> {
        let mut copy = self.clone();
        copy.slide(now);
        let mut whole = Slice::default();
        copy.slices.iter().for_each(|slice| whole.merge(slice));
        if whole.smallest_ns > whole.largest_ns {
            return None;
        }
        let [minimum, maximum] = [whole.smallest_ns, whole.largest_ns].map(Duration::from_nanos);
        // A bucket's middle may lie outside of what was seen.
        let quantile = |share| whole.rtt.quantile(share).map_or(minimum, |found| found.clamp(minimum, maximum));
        let [jitter_forward, jitter_backward] = whole.jitter.values();
        Some(SpanQuality {
            span: self.span,
            samples: whole.rtt.count(),
            rtt: Quantiles { minimum, p50: quantile(0.5), p95: quantile(0.95), p99: quantile(0.99), maximum },
            jitter_forward,
            jitter_backward,
            loss: copy.loss.loss(now),
        })
    }

    fn slide(&mut self, now: Time) {
        let length = self.span / (SLICES as u32 - 1);
        if self.start == Time(0) {
            self.start = now;
        }
        for _ in 0..SLICES {
            if now.since(self.start) < length {
                return;
            }
            self.slices.rotate_right(1);
            self.slices[0] = Slice::default();
            self.start = self.start + length;
        }
        if now.since(self.start) >= length {
            self.start = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn at(second: u32) -> Time {
        Time(1_000_000_000) + SECOND * second
    }

    #[test]
    fn a_span_covers_itself_and_at_most_half_more() {
        let mut span = Span::new(Duration::from_secs(60));
        assert_eq!(span.quality(at(0)), None);
        let ms = Duration::from_millis;
        for second in 0..300 {
            let rtt = if second == 100 { ms(500) } else { ms(20) };
            span.answered(rtt, Some(ms(2)), None, at(second));
            let quality = span.quality(at(second)).expect("there are answers");
            if (100..160).contains(&second) {
                assert_eq!(quality.rtt.maximum, ms(500), "{second}");
            }
            if second >= 191 {
                assert_eq!(quality.rtt.maximum, ms(20), "{second}");
            }
            assert!(quality.samples <= 91, "{second}: {}", quality.samples);
            assert!(second < 60 || quality.samples >= 60, "{second}: {}", quality.samples);
            assert!(quality.rtt.p50 >= ms(20) && quality.rtt.p50 < ms(21), "{:?}", quality.rtt);
            assert_eq!(quality.jitter_forward, ms(2));
            assert_eq!(quality.jitter_backward, Duration::ZERO);
        }
        assert_eq!(span.quality(at(10_000)), None, "an old answer says nothing");
    }

    #[test]
    fn quantiles_tell_the_tail_from_the_body() {
        let mut span = Span::new(Duration::from_secs(60));
        for number in 0..1_000 {
            let rtt = Duration::from_millis(if number % 100 < 4 { 100 } else { 10 });
            span.answered(rtt, None, None, at(number / 20));
        }
        let rtt = span.quality(at(50)).expect("there are answers").rtt;
        assert_eq!((rtt.minimum, rtt.maximum), (Duration::from_millis(10), Duration::from_millis(100)));
        let near = |found: Duration, truth: u64| (found.as_secs_f64() * 1e3 / truth as f64 - 1.0).abs() < 0.04;
        assert!(near(rtt.p50, 10) && near(rtt.p95, 10) && near(rtt.p99, 100), "{rtt:?}");
    }
}
