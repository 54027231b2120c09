//! Sources on the underlay that proved themselves by a fresh announcement: they are answered, and sent what is new.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use crate::engine::types::SiteId;

/// A source is answered again within this time of its first proof, in case an answer was lost.
const NEWCOMER: Duration = Duration::from_secs(6);
/// Shortest time between two answers to a newcomer.
const ANSWER_NEWCOMER: Duration = Duration::from_millis(400);
/// Shortest time between two answers to anybody else, who may have restarted.
const ANSWER: Duration = Duration::from_secs(10);

/// An address, seen through a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct SourceKey {
    /// Interface index.
    pub link: u32,
    /// Where the datagram came from.
    pub address: SocketAddr,
}

struct Source {
    first: Duration,
    last: Duration,
    answered: Duration,
    site: Option<SiteId>,
}

/// What a proof asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// Nothing.
    No,
    /// Our own announcement.
    Own,
    /// Our own announcement and all we know: the source is new.
    All,
}

/// The sources.
pub(super) struct ProvenSources {
    capacity: usize,
    lifetime: Duration,
    table: HashMap<SourceKey, Source>,
    /// Sources that had to make room.
    pub evicted: u64,
}

impl ProvenSources {
    pub fn new(capacity: usize, lifetime: Duration) -> Self {
        Self { capacity, lifetime, table: HashMap::new(), evicted: 0 }
    }

    /// A fresh announcement came from here. `site`: whose address it is, if that is known. `unicast`: it was meant for
    /// us alone, so the source may know nobody else.
    pub fn prove(&mut self, key: SourceKey, site: Option<SiteId>, unicast: bool, now: Duration) -> Answer {
        if let Some(source) = self.table.get_mut(&key) {
            source.last = now;
            source.site = site.or(source.site);
            let newcomer = now < source.first + NEWCOMER;
            let due = source.answered + if newcomer { ANSWER_NEWCOMER } else { ANSWER };
            if now < due || !(newcomer || unicast) {
                return Answer::No;
            }
            source.answered = now;
            return Answer::Own;
        }
        if self.table.len() >= self.capacity {
            let oldest = self.table.iter().min_by_key(|(_, source)| source.last).map(|(key, _)| *key);
            if let Some(oldest) = oldest {
                self.table.remove(&oldest);
                self.evicted += 1;
            }
        }
        self.table.insert(key, Source { first: now, last: now, answered: now, site });
        if unicast { Answer::All } else { Answer::Own }
    }

    /// The sources and whose address each is, if that is known.
    pub fn iter(&self) -> impl Iterator<Item = (SourceKey, Option<SiteId>)> + '_ {
        self.table.iter().map(|(key, source)| (*key, source.site))
    }

    pub fn contains(&self, key: &SourceKey) -> bool {
        self.table.contains_key(key)
    }

    /// Forgets a source: it is new when it proves itself again.
    pub fn forget(&mut self, key: &SourceKey) {
        self.table.remove(key);
    }

    /// Forgets the sources of a site.
    pub fn forget_site(&mut self, site: SiteId) {
        self.table.retain(|_, source| source.site != Some(site));
    }

    /// Forgets sources not heard for long, and those of links that are gone.
    pub fn retain(&mut self, now: Duration, is_link: impl Fn(u32) -> bool) {
        self.table.retain(|key, source| now < source.last + self.lifetime && is_link(key.link));
    }

    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }
}
