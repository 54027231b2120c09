//! Maps in memory, for tests of the reconciler.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use aya::maps::MapError;

use super::Error;
use super::tables::Table;

/// A table in memory, which can be told to fail. Clones share their content.
#[derive(Debug)]
pub struct MemoryTable<K, V>(Arc<Mutex<Memory<K, V>>>);

/// Content of a [`MemoryTable`].
#[derive(Debug)]
pub struct Memory<K, V> {
    /// The entries.
    pub entries: BTreeMap<K, V>,
    /// Operations shared by all tables of a set until one fails; negative: never.
    pub fuse: Arc<AtomicI64>,
}

impl<K, V> Clone for MemoryTable<K, V> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<K: Ord + Clone, V: Clone> MemoryTable<K, V> {
    /// An empty table; `fuse` operations from now the set fails.
    pub fn new(fuse: Arc<AtomicI64>) -> Self {
        Self(Arc::new(Mutex::new(Memory { entries: BTreeMap::new(), fuse })))
    }

    /// Its content.
    pub fn snapshot(&self) -> BTreeMap<K, V> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).entries.clone()
    }

    fn change(&self, change: impl FnOnce(&mut BTreeMap<K, V>)) -> Result<(), Error> {
        let mut memory = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let left = memory.fuse.load(Ordering::Relaxed);
        if left == 0 {
            let source = MapError::IoError(std::io::Error::other("the fuse blew"));
            return Err(Error::Map { action: "write", map: "memory", source });
        }
        memory.fuse.store(left - 1, Ordering::Relaxed);
        change(&mut memory.entries);
        Ok(())
    }
}

impl<K: Ord + Clone + Send, V: Clone + Send> Table<K, V> for MemoryTable<K, V> {
    fn entries(&self) -> Result<BTreeMap<K, V>, Error> {
        Ok(self.snapshot())
    }

    fn set(&mut self, key: &K, value: &V) -> Result<(), Error> {
        self.change(|entries| {
            entries.insert(key.clone(), value.clone());
        })
    }

    fn remove(&mut self, key: &K) -> Result<(), Error> {
        self.change(|entries| {
            entries.remove(key);
        })
    }
}
