//! How many messages of one source are looked at.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use crate::engine::Time;
use crate::trust::verifier::limits::{Bucket, Rate};

/// Messages of one source.
const RATE: Rate = Rate { per_second: 100.0, burst: 200.0 };
/// Sources that are told apart; those beyond share one bucket.
const SOURCES: usize = 4_096;
/// A source that was quiet for so long is forgotten.
const FORGET: Duration = Duration::from_secs(10);

/// The buckets of all sources.
#[derive(Debug, Default)]
pub struct Limits {
    /// With the time of the last message.
    sources: HashMap<IpAddr, (Bucket, Time)>,
    others: Option<Bucket>,
}

impl Limits {
    /// Whether one more message of this source is to be looked at.
    pub fn take(&mut self, source: IpAddr, now: Time) -> bool {
        let at = Duration::from_nanos(now.0);
        let known = self.sources.contains_key(&source);
        if !known && self.sources.len() >= SOURCES {
            self.sources.retain(|_, (_, last)| now.since(*last) < FORGET);
        }
        if !known && self.sources.len() >= SOURCES {
            return self.others.get_or_insert_with(|| Bucket::new(RATE, at)).take(at);
        }
        let (bucket, last) = self.sources.entry(source).or_insert_with(|| (Bucket::new(RATE, at), now));
        *last = now;
        bucket.take(at)
    }
}
