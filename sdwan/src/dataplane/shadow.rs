//! Maps together with what is known to be in them.

use std::collections::BTreeMap;

use sdwan_common::abi::RuleSet;

use super::Error;
use super::tables::BoxedTable;
use crate::engine::policy::CompiledRules;

/// A table together with what is known to be in it.
pub(super) struct Shadowed<K, V> {
    table: BoxedTable<K, V>,
    content: BTreeMap<K, V>,
}

impl<K: Ord + Clone, V: PartialEq + Clone> Shadowed<K, V> {
    /// Reads what the table holds.
    pub(super) fn read(table: BoxedTable<K, V>) -> Result<Self, Error> {
        let content = table.entries()?;
        Ok(Self { table, content })
    }

    /// What is in the table.
    pub(super) fn content(&self) -> &BTreeMap<K, V> {
        &self.content
    }

    /// Returns whether it was a change.
    pub(super) fn set(&mut self, key: K, value: V) -> Result<bool, Error> {
        if self.content.get(&key) == Some(&value) {
            return Ok(false);
        }
        self.table.set(&key, &value)?;
        self.content.insert(key, value);
        Ok(true)
    }

    /// Writes what is new or different, together.
    pub(super) fn set_many(&mut self, entries: impl IntoIterator<Item = (K, V)>) -> Result<(), Error> {
        self.add(entries).map(drop)
    }

    /// Makes the table equal `wanted`: additions first, so that nothing is missing in between. Returns whether anything
    /// changed.
    pub(super) fn replace(&mut self, wanted: BTreeMap<K, V>) -> Result<bool, Error> {
        let stale: Vec<K> = self.content.keys().filter(|key| !wanted.contains_key(key)).cloned().collect();
        let mut changed = self.add(wanted)?;
        for key in stale {
            changed |= self.remove(&key)?;
        }
        Ok(changed)
    }

    /// Returns whether it was there.
    pub(super) fn remove(&mut self, key: &K) -> Result<bool, Error> {
        if !self.content.contains_key(key) {
            return Ok(false);
        }
        self.table.remove(key)?;
        self.content.remove(key);
        Ok(true)
    }

    fn add(&mut self, entries: impl IntoIterator<Item = (K, V)>) -> Result<bool, Error> {
        let changed = |(key, value): &(K, V)| self.content.get(key) != Some(value);
        let entries: Vec<(K, V)> = entries.into_iter().filter(changed).collect();
        if let Err(error) = self.table.set_many(&entries) {
            // Some may be written. Where they can't be read either, the error says that nothing works any more.
            self.content = self.table.entries()?;
            return Err(error);
        }
        let any = !entries.is_empty();
        if entries.len() > self.content.len() {
            // Made anew, the map's nodes are full; grown in order, they would be half empty.
            self.content.append(&mut entries.into_iter().collect());
        } else {
            self.content.extend(entries);
        }
        Ok(any)
    }
}

/// The rule sets by value of one dimension: too many to shadow twice, so the former [`CompiledRules`] is the shadow.
pub(super) struct Dimension {
    table: BoxedTable<u32, RuleSet>,
    of: fn(&CompiledRules) -> &[RuleSet],
}

impl Dimension {
    /// The table of what `of` says.
    pub(super) fn new(table: BoxedTable<u32, RuleSet>, of: fn(&CompiledRules) -> &[RuleSet]) -> Self {
        Self { table, of }
    }

    /// Writes what differs from `former`; everything without it.
    pub(super) fn write(&mut self, former: Option<&CompiledRules>, rules: &CompiledRules) -> Result<(), Error> {
        let known = former.map(self.of);
        let changed = |(index, set): &(u32, RuleSet)| known.is_none_or(|known| known[*index as usize] != *set);
        let entries: Vec<(u32, RuleSet)> = (0..).zip((self.of)(rules).iter().copied()).filter(changed).collect();
        self.table.set_many(&entries)
    }
}
