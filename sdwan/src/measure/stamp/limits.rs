//! How often a reflector answers whom: token buckets by the generic cell rate algorithm (ITU-T I.371), which needs one
//! number per bucket.

use std::collections::HashMap;
use std::net::IpAddr;

use super::counters::Refusal;
use crate::trust::verifier::limits::aggregate;

/// Sources with a bucket of their own. Beyond it the ones that asked longest ago make room.
const SOURCES: usize = 4_096;
/// Seconds of the rate that a bucket saves up.
const BURST_S: u64 = 1;
const SECOND_NS: u64 = 1_000_000_000;

/// Most packets per second; `None`: any number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    /// From one source. An IPv6 source is a /64.
    pub per_source: Option<u32>,
    /// From all sources together.
    pub total: Option<u32>,
}

/// The buckets.
#[derive(Debug)]
pub struct Limits {
    rates: Rates,
    total: u64,
    sources: HashMap<IpAddr, u64>,
}

impl Limits {
    /// Full buckets.
    pub fn new(rates: Rates) -> Self {
        Self { rates, total: 0, sources: HashMap::new() }
    }

    /// Takes a packet of this source if it may come now; `now_ns` is monotonic. A source that asks too often takes
    /// nothing from the others.
    ///
    /// # Errors
    /// [`Refusal::SourceRateLimited`] and [`Refusal::RateLimited`].
    pub fn take(&mut self, source: IpAddr, now_ns: u64) -> Result<(), Refusal> {
        let total = match self.rates.total {
            Some(rate) => next(self.total, rate, now_ns).ok_or(Refusal::RateLimited)?,
            None => 0,
        };
        if let Some(rate) = self.rates.per_source {
            let source = aggregate(source);
            let bucket = self.sources.get(&source).copied();
            if bucket.is_none() && self.sources.len() >= SOURCES {
                self.make_room(now_ns);
            }
            let bucket = next(bucket.unwrap_or(0), rate, now_ns).ok_or(Refusal::SourceRateLimited)?;
            self.sources.insert(source, bucket);
        }
        self.total = total;
        Ok(())
    }

    /// Full buckets go; if there is none, the one that was used longest ago.
    fn make_room(&mut self, now_ns: u64) {
        self.sources.retain(|_, bucket| *bucket > now_ns);
        if self.sources.len() >= SOURCES
            && let Some(oldest) = self.sources.iter().min_by_key(|(_, bucket)| **bucket).map(|(source, _)| *source)
        {
            self.sources.remove(&oldest);
        }
    }
}

/// The bucket after one more packet, as the time at which it is full again; `None` when it is empty.
fn next(bucket: u64, rate: u32, now_ns: u64) -> Option<u64> {
    let interval = SECOND_NS / u64::from(rate.max(1));
    let full = bucket.max(now_ns) + interval;
    (full <= now_ns + interval.max(BURST_S * SECOND_NS)).then_some(full)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn source(number: u32) -> IpAddr {
        IpAddr::from((0x0a00_0000 + number).to_be_bytes())
    }

    #[test]
    fn a_source_gets_its_rate_and_leaves_the_others_theirs() {
        let mut limits = Limits::new(Rates { per_source: Some(10), total: Some(100) });
        let taken = (0..50).filter(|_| limits.take(source(1), 0).is_ok()).count();
        assert_eq!(taken, 10, "a second's worth at once");
        assert_eq!(limits.take(source(1), 0), Err(Refusal::SourceRateLimited));
        assert_eq!(limits.take(source(2), 0), Ok(()));
        assert_eq!(limits.take(source(1), SECOND_NS / 10), Ok(()));
        let taken = (3..200).filter(|number| limits.take(source(*number), 0).is_ok()).count();
        assert_eq!(taken, 100 - 12);
        assert_eq!(limits.take(source(500), 0), Err(Refusal::RateLimited));
    }

    #[test]
    fn addresses_of_one_ipv6_network_are_one_source() {
        let mut limits = Limits::new(Rates { per_source: Some(1), total: None });
        let address = |text: &str| text.parse::<IpAddr>().expect("an address");
        assert_eq!(limits.take(address("2001:db8::1"), 0), Ok(()));
        assert_eq!(limits.take(address("2001:db8::2"), 0), Err(Refusal::SourceRateLimited));
        assert_eq!(limits.take(address("2001:db8:0:1::2"), 0), Ok(()));
    }

    #[test]
    fn any_number_of_sources_takes_bounded_memory() {
        let mut limits = Limits::new(Rates { per_source: Some(1), total: None });
        for number in 0..3 * SOURCES as u32 {
            assert_eq!(limits.take(source(number), 0), Ok(()));
        }
        assert!(limits.sources.len() <= SOURCES);
    }

    proptest! {
        #[test]
        fn no_more_than_the_rate_and_the_burst_pass(rate in 1u32..1_000, gaps in prop::collection::vec(0u64..50_000_000, 1..500)) {
            let mut limits = Limits::new(Rates { per_source: None, total: Some(rate) });
            let (mut now, mut taken) = (0, 0u64);
            for gap in gaps {
                now += gap;
                taken += u64::from(limits.take(source(1), now).is_ok());
            }
            let most = u64::from(rate) + u64::from(rate) * now / SECOND_NS + 2;
            prop_assert!(taken <= most, "{taken} of at most {most} in {now} ns");
        }
    }
}
