//! Dense numbers for sites and paths. They stay while the thing exists, and survive a restart by way of the maps.

use std::collections::{BTreeMap, BTreeSet};

/// Gives each key the smallest free number below a bound.
#[derive(Clone, Debug)]
pub struct Numbers<K> {
    capacity: u32,
    by_key: BTreeMap<K, u32>,
    /// All numbers from here on are free, …
    unused: u32,
    /// … and these below.
    free: BTreeSet<u32>,
}

impl<K: Ord + Copy> Numbers<K> {
    /// Numbers `0..capacity`, those of `known` taken. A number that two keys claim belongs to the first.
    pub fn new(capacity: u32, known: impl IntoIterator<Item = (K, u32)>) -> Self {
        let mut by_key = BTreeMap::new();
        let mut used = BTreeSet::new();
        for (key, number) in known {
            if number < capacity && !by_key.contains_key(&key) && used.insert(number) {
                by_key.insert(key, number);
            }
        }
        let unused = used.last().map_or(0, |last| last + 1);
        let free = (0..unused).filter(|number| !used.contains(number)).collect();
        Self { capacity, by_key, unused, free }
    }

    /// How many are taken.
    pub fn len(&self) -> usize {
        self.by_key.len()
    }

    /// Whether none is taken.
    pub fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }

    /// The number of a key, if it has one.
    pub fn get(&self, key: &K) -> Option<u32> {
        self.by_key.get(key).copied()
    }

    /// Every key with its number.
    pub fn iter(&self) -> impl Iterator<Item = (K, u32)> + '_ {
        self.by_key.iter().map(|(key, number)| (*key, *number))
    }

    /// The number of a key and whether it is new; `None` when all are taken.
    pub fn assign(&mut self, key: K) -> Option<(u32, bool)> {
        if let Some(number) = self.get(&key) {
            return Some((number, false));
        }
        let number = match self.free.pop_first() {
            Some(number) => number,
            None if self.unused < self.capacity => {
                self.unused += 1;
                self.unused - 1
            }
            None => return None,
        };
        self.by_key.insert(key, number);
        Some((number, true))
    }

    /// Gives the numbers of all keys that `keep` refuses back, and returns them.
    pub fn release(&mut self, keep: impl Fn(&K) -> bool) -> Vec<(K, u32)> {
        let gone: Vec<(K, u32)> = self.iter().filter(|(key, _)| !keep(key)).collect();
        for (key, number) in &gone {
            self.by_key.remove(key);
            self.free.insert(*number);
        }
        gone
    }
}
