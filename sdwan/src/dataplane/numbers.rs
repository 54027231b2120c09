//! Dense numbers for sites and paths. They stay while the thing exists, and survive a restart by way of the maps.

use std::collections::{BTreeMap, BTreeSet};

/// Gives each key the smallest free number below a bound.
#[derive(Clone, Debug)]
pub struct Numbers<K> {
    capacity: u32,
    by_key: BTreeMap<K, u32>,
    used: BTreeSet<u32>,
}

impl<K: Ord + Copy> Numbers<K> {
    /// Numbers `0..capacity`, those of `known` taken. A number that two keys claim belongs to the first.
    pub fn new(capacity: u32, known: impl IntoIterator<Item = (K, u32)>) -> Self {
        let mut numbers = Self { capacity, by_key: BTreeMap::new(), used: BTreeSet::new() };
        for (key, number) in known {
            if number < capacity && !numbers.by_key.contains_key(&key) && numbers.used.insert(number) {
                numbers.by_key.insert(key, number);
            }
        }
        numbers
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
        let mut free = 0;
        for number in &self.used {
            if *number != free {
                break;
            }
            free += 1;
        }
        if free >= self.capacity {
            return None;
        }
        self.used.insert(free);
        self.by_key.insert(key, free);
        Some((free, true))
    }

    /// Gives the numbers of all keys that `keep` refuses back, and returns them.
    pub fn release(&mut self, keep: impl Fn(&K) -> bool) -> Vec<(K, u32)> {
        let gone: Vec<(K, u32)> = self.iter().filter(|(key, _)| !keep(key)).collect();
        for (key, number) in &gone {
            self.by_key.remove(key);
            self.used.remove(number);
        }
        gone
    }
}
