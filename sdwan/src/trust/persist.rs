//! What trust keeps over a restart: the sequence numbers of the others, of this site, and the revocations.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::engine::types::SiteId;

/// Largest sequence number: it fits the signed integer of a database.
pub const SEQUENCE_MAX: u64 = i64::MAX as u64;

/// The last message accepted from a site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredAnnouncement {
    /// The site.
    pub site: SiteId,
    /// Its sequence number, 1..=[`SEQUENCE_MAX`].
    pub sequence: u64,
    /// When it was accepted, Unix time in seconds.
    pub accepted_unix: u64,
    /// The whole datagram, announcement or leave message, at most 1,200 bytes.
    pub bytes: Arc<[u8]>,
}

/// A page of the revocation list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredRevocations {
    /// Index of the page.
    pub page: u8,
    /// Its number; a page is replaced only by one with a larger number.
    pub number: u64,
    /// The whole datagram, at most 1,200 bytes.
    pub bytes: Arc<[u8]>,
}

/// The store failed. Discovery goes on with what it holds in memory and tries again.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} the discovery state: {source}")]
pub struct StoreError {
    /// What was tried, such as `record announcements in`.
    pub action: &'static str,
    /// Why it failed.
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

/// Where sequence numbers outlive the daemon.
///
/// Calls may block: discovery makes them from a thread of its own, in batches.
pub trait SequenceStore: Send {
    /// Everything recorded, at most one entry per site.
    fn load(&mut self) -> Result<Vec<StoredAnnouncement>, StoreError>;

    /// Records accepted messages; all of them or none. An entry with a smaller sequence number than the recorded one
    /// of its site leaves that one as it is.
    fn record(&mut self, accepted: &[StoredAnnouncement]) -> Result<(), StoreError>;

    /// Drops the announcement of a site but keeps its sequence number, so that nothing old is accepted again.
    /// [`Self::load`] returns such an entry with empty `bytes`.
    fn forget(&mut self, site: SiteId) -> Result<(), StoreError>;

    /// Reserves `count` numbers for this site's own messages and returns the first. None of them was ever returned
    /// before, and none is below `at_least` or 1. The reservation is durable when this returns.
    fn reserve_own(&mut self, count: u64, at_least: u64) -> Result<u64, StoreError>;

    /// Every page of the revocation list recorded.
    fn load_revocations(&mut self) -> Result<Vec<StoredRevocations>, StoreError>;

    /// Records a page of the revocation list, unless the recorded one has a larger number.
    fn record_revocations(&mut self, page: &StoredRevocations) -> Result<(), StoreError>;
}

/// A store in memory. Clones share their content, so a test can restart a site on the same store.
#[derive(Clone, Debug, Default)]
pub struct MemoryStore(Arc<Mutex<Memory>>);

#[derive(Debug, Default)]
struct Memory {
    announcements: BTreeMap<SiteId, StoredAnnouncement>,
    next_own: u64,
    revocations: BTreeMap<u8, StoredRevocations>,
}

impl MemoryStore {
    /// The number that the next reservation would start with.
    pub fn next_own(&self) -> u64 {
        self.lock().next_own.max(1)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Memory> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SequenceStore for MemoryStore {
    fn load(&mut self) -> Result<Vec<StoredAnnouncement>, StoreError> {
        Ok(self.lock().announcements.values().cloned().collect())
    }

    fn record(&mut self, accepted: &[StoredAnnouncement]) -> Result<(), StoreError> {
        let mut memory = self.lock();
        for entry in accepted {
            let newer = memory.announcements.get(&entry.site).is_none_or(|held| held.sequence <= entry.sequence);
            if newer {
                memory.announcements.insert(entry.site, entry.clone());
            }
        }
        Ok(())
    }

    fn forget(&mut self, site: SiteId) -> Result<(), StoreError> {
        if let Some(entry) = self.lock().announcements.get_mut(&site) {
            entry.bytes = Arc::from([]);
        }
        Ok(())
    }

    fn reserve_own(&mut self, count: u64, at_least: u64) -> Result<u64, StoreError> {
        let mut memory = self.lock();
        let first = memory.next_own.max(at_least).max(1);
        memory.next_own = first.checked_add(count).filter(|end| *end <= SEQUENCE_MAX).ok_or_else(|| StoreError {
            action: "reserve sequence numbers in",
            source: "the sequence numbers are used up; make a new identity with `sdwan site init`".into(),
        })?;
        Ok(first)
    }

    fn load_revocations(&mut self) -> Result<Vec<StoredRevocations>, StoreError> {
        Ok(self.lock().revocations.values().cloned().collect())
    }

    fn record_revocations(&mut self, page: &StoredRevocations) -> Result<(), StoreError> {
        let mut memory = self.lock();
        if memory.revocations.get(&page.page).is_none_or(|held| held.number <= page.number) {
            memory.revocations.insert(page.page, page.clone());
        }
        Ok(())
    }
}
