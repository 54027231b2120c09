//! Token buckets: how many signatures are checked for whom.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

/// A rate and a burst.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// Tokens per second.
    pub per_second: f64,
    /// Most tokens saved up.
    pub burst: f64,
}

/// A token bucket.
#[derive(Clone, Copy, Debug)]
pub struct Bucket {
    rate: Rate,
    tokens: f64,
    filled: Duration,
}

impl Bucket {
    /// A full bucket.
    pub fn new(rate: Rate, now: Duration) -> Self {
        Self { rate, tokens: rate.burst, filled: now }
    }

    /// Takes a token if there is one.
    pub fn take(&mut self, now: Duration) -> bool {
        self.fill(now);
        let some = self.tokens >= 1.0;
        if some {
            self.tokens -= 1.0;
        }
        some
    }

    /// Puts a token back.
    pub fn put_back(&mut self) {
        self.tokens = (self.tokens + 1.0).min(self.rate.burst);
    }

    /// When there will be a token.
    pub fn ready_at(&self) -> Duration {
        let missing = (1.0 - self.tokens).max(0.0);
        // Rounded up: at this time a token is there whatever the fractions did.
        self.filled + Duration::from_secs_f64(missing / self.rate.per_second) + Duration::from_micros(1)
    }

    fn fill(&mut self, now: Duration) {
        let elapsed = now.saturating_sub(self.filled).as_secs_f64();
        self.tokens = (self.tokens + elapsed * self.rate.per_second).min(self.rate.burst);
        self.filled = self.filled.max(now);
    }
}

/// Limits of the verifier.
#[derive(Clone, Copy, Debug)]
pub struct VerifierLimits {
    /// Most sites.
    pub sites: usize,
    /// Most verified certificates kept.
    pub certificates: usize,
    /// Most sources with a bucket of their own.
    pub sources: usize,
    /// Verifications for one source on the underlay.
    pub source: Rate,
    /// Verifications for one neighbour inside the mesh's tunnels, which passes on what others say.
    pub neighbour: Rate,
    /// Verifications for all sources together from which nothing good ever came.
    pub strangers: Rate,
    /// Verifications for all others together.
    pub acquaintances: Rate,
    /// On first contact, how far the sender's clock may be off.
    pub first_contact_skew: Duration,
}

impl Default for VerifierLimits {
    fn default() -> Self {
        Self {
            sites: 4_096,
            certificates: 4_096,
            sources: 1_024,
            source: Rate { per_second: 20.0, burst: 100.0 },
            neighbour: Rate { per_second: 200.0, burst: 2_000.0 },
            strangers: Rate { per_second: 500.0, burst: 1_000.0 },
            acquaintances: Rate { per_second: 2_000.0, burst: 4_000.0 },
            first_contact_skew: Duration::from_secs(86_400),
        }
    }
}

struct Source {
    bucket: Bucket,
    known_good: bool,
    last_used: Duration,
}

/// The buckets of all sources.
pub(super) struct Sources {
    limits: VerifierLimits,
    table: HashMap<IpAddr, Source>,
    strangers: Bucket,
    acquaintances: Bucket,
    /// Sources that had to make room.
    pub evicted: u64,
}

impl Sources {
    pub fn new(limits: VerifierLimits) -> Self {
        let zero = Duration::ZERO;
        Self {
            limits,
            table: HashMap::new(),
            strangers: Bucket::new(limits.strangers, zero),
            acquaintances: Bucket::new(limits.acquaintances, zero),
            evicted: 0,
        }
    }

    /// Whether a verification may be made for this source now.
    pub fn allow(&mut self, source: IpAddr, neighbour: bool, now: Duration) -> bool {
        let key = aggregate(source);
        if !self.table.contains_key(&key) && self.table.len() >= self.limits.sources {
            self.evict();
        }
        let rate = if neighbour { self.limits.neighbour } else { self.limits.source };
        let entry = self.table.entry(key).or_insert_with(|| Source {
            bucket: Bucket::new(rate, now),
            known_good: neighbour,
            last_used: now,
        });
        entry.last_used = now;
        if !entry.bucket.take(now) {
            return false;
        }
        let all = if entry.known_good { &mut self.acquaintances } else { &mut self.strangers };
        all.take(now)
    }

    /// A verification for this source turned out well: it wasn't waste, so the token comes back.
    pub fn good(&mut self, source: IpAddr) {
        if let Some(entry) = self.table.get_mut(&aggregate(source)) {
            entry.bucket.put_back();
            entry.known_good = true;
        }
    }

    /// The longest unused source goes, strangers first.
    fn evict(&mut self) {
        let oldest = self.table.iter().min_by_key(|(_, source)| (source.known_good, source.last_used));
        if let Some(key) = oldest.map(|(key, _)| *key) {
            self.table.remove(&key);
            self.evicted += 1;
        }
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.table.len()
    }
}

/// One IPv6 host has a /64 of addresses, so that counts as one source.
pub fn aggregate(source: IpAddr) -> IpAddr {
    match source.to_canonical() {
        IpAddr::V6(address) => {
            let mut segments = address.segments();
            segments[4..].fill(0);
            IpAddr::V6(segments.into())
        }
        v4 => v4,
    }
}
