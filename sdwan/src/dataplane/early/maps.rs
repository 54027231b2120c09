//! Makes the maps of the XDP programs what is desired.
//!
//! Rules that change are written beside those in force, into the other half of every set, and come into force at each ingress
//! by one write: no packet meets half of them, nor none.

use std::collections::{BTreeMap, BTreeSet};

use sdwan_common::abi::{
    Address, DROP_PREFIXES, GUARD_ADDRESSES, Guard, LanFilter, MAX_DROP_RULES, PrefixKey, ZoneKey, lan_filter_flag,
};

use super::rules::CompiledDrops;
use super::{EarlyDesired, GuardDesired, LanFilterDesired};
use crate::dataplane::Error;
use crate::dataplane::load::{Layout, open};
use crate::dataplane::tables::{BoxedTable, KernelArray, KernelHash, KernelPerCpu, KernelTrie};
use crate::engine::Time;
use crate::engine::policy::{address_bytes, contains};

/// The bits of one half of a set of rules.
const HALF: u64 = (1 << MAX_DROP_RULES) - 1;

/// The maps that the daemon writes.
pub struct EarlyTables {
    /// `lan_filter`.
    pub filter: BoxedTable<ZoneKey, LanFilter>,
    /// `drop_proto`.
    pub protocol: BoxedTable<u32, u64>,
    /// `drop_sport`.
    pub source_port: BoxedTable<u32, u64>,
    /// `drop_dport`.
    pub destination_port: BoxedTable<u32, u64>,
    /// `drop_src`.
    pub source: BoxedTable<PrefixKey, u64>,
    /// `drop_dst`.
    pub destination: BoxedTable<PrefixKey, u64>,
    /// `drop_hits`: zeroed for rules that are new.
    pub hits: BoxedTable<u32, u64>,
    /// `guard`.
    pub guard: BoxedTable<u32, Guard>,
    /// `guard_addresses`.
    pub addresses: BoxedTable<Address, u32>,
}

/// Keeps them.
pub struct EarlyMaps {
    tables: EarlyTables,
    /// What was applied last; the maps are not read again for the same.
    applied: Option<EarlyDesired>,
}

impl EarlyTables {
    fn open(layout: &Layout) -> Result<Self, Error> {
        fn array<V: aya::Pod + Default + PartialEq + Send>(
            layout: &Layout,
            name: &'static str,
        ) -> Result<Box<KernelArray<V>>, Error> {
            Ok(Box::new(KernelArray::open(name, open(layout, name)?)?))
        }
        Ok(Self {
            filter: Box::new(KernelHash::open("lan_filter", open(layout, "lan_filter")?)?),
            protocol: array(layout, "drop_proto")?,
            source_port: array(layout, "drop_sport")?,
            destination_port: array(layout, "drop_dport")?,
            source: Box::new(KernelTrie::open("drop_src", open(layout, "drop_src")?)?),
            destination: Box::new(KernelTrie::open("drop_dst", open(layout, "drop_dst")?)?),
            hits: Box::new(KernelPerCpu::open("drop_hits", open(layout, "drop_hits")?)?),
            guard: array(layout, "guard")?,
            addresses: Box::new(KernelHash::open("guard_addresses", open(layout, "guard_addresses")?)?),
        })
    }
}

impl EarlyMaps {
    pub(in crate::dataplane) fn open(layout: &Layout) -> Result<Self, Error> {
        Ok(Self::new(EarlyTables::open(layout)?))
    }

    /// Around tables whose content is not known yet.
    pub fn new(tables: EarlyTables) -> Self {
        Self { tables, applied: None }
    }

    /// Makes the maps so. After an error the next call begins anew.
    pub fn apply(&mut self, desired: &EarlyDesired, now: Time) -> Result<(), Error> {
        if self.applied.as_ref() == Some(desired) {
            return Ok(());
        }
        self.applied = None;
        let drops = CompiledDrops::new(&desired.rules);
        let shift = self.write_rules(&drops)?;
        self.write_filters(desired, &drops, shift)?;
        self.settle(&drops, shift)?;
        self.write_guard(desired.guard.as_ref(), now)?;
        self.applied = Some(desired.clone());
        Ok(())
    }

    /// Gives a guard that is on the time to learn again.
    pub fn relearn(&mut self, now: Time) -> Result<(), Error> {
        let Some(guard) = self.applied.as_ref().and_then(|applied| applied.guard.as_ref()) else { return Ok(()) };
        let mut record = self.tables.guard.entries()?.remove(&0).unwrap_or_default();
        record.strict_from_ns = record.strict_from_ns.max((now + guard.learn).0);
        self.tables.guard.set(&0, &record)
    }

    /// Which half the rules in force are in: how far it is shifted.
    fn half(&self) -> Result<u32, Error> {
        let rules = self.tables.filter.entries()?.values().fold(0, |rules, filter| rules | filter.rules);
        Ok(if rules & !HALF != 0 { MAX_DROP_RULES as u32 } else { 0 })
    }

    /// Writes the rules where those in force aren't, unless they are those. Returns which half they are in.
    fn write_rules(&mut self, drops: &CompiledDrops) -> Result<u32, Error> {
        let (used, tables) = (self.half()?, &mut self.tables);
        let unused = MAX_DROP_RULES as u32 - used;
        let source = (tables.source.entries()?, &drops.source);
        let destination = (tables.destination.entries()?, &drops.destination);
        let mut arrays = Vec::new();
        for (table, sets) in [
            (&mut tables.protocol, &drops.protocol),
            (&mut tables.source_port, &drops.source_port),
            (&mut tables.destination_port, &drops.destination_port),
        ] {
            arrays.push((table.entries()?, sets, table));
        }
        let same_tree = |(content, wanted): &(BTreeMap<PrefixKey, u64>, &BTreeMap<PrefixKey, u64>)| {
            let same =
                |(key, set): (&PrefixKey, &u64)| content.get(key).is_some_and(|found| found >> used & HALF == *set);
            content.len() == wanted.len() && wanted.iter().all(same)
        };
        let found = |content: &BTreeMap<u32, u64>, at: usize| content.get(&(at as u32)).copied().unwrap_or(0);
        let same_array = |content: &BTreeMap<u32, u64>, sets: &[u64]| {
            sets.iter().enumerate().all(|(at, set)| found(content, at) >> used & HALF == *set)
        };
        if same_tree(&source)
            && same_tree(&destination)
            && arrays.iter().all(|(content, sets, _)| same_array(content, sets))
        {
            return Ok(used);
        }
        for (content, sets, table) in arrays {
            let entries = sets
                .iter()
                .enumerate()
                .map(|(at, set)| (at as u32, found(&content, at) & HALF << used | set << unused));
            table.set_many(&entries.collect::<Vec<_>>())?;
        }
        for ((content, wanted), table) in [(source, &mut tables.source), (destination, &mut tables.destination)] {
            let keys: BTreeSet<PrefixKey> = content.keys().chain(wanted.keys()).copied().collect();
            if keys.len() > DROP_PREFIXES as usize {
                return Err(Error::DropPrefixes { wanted: keys.len(), capacity: DROP_PREFIXES });
            }
            for key in keys {
                let set = covering(&content, &key) & HALF << used | covering(wanted, &key) << unused;
                table.set(&key, &set)?;
            }
        }
        for bit in unused..unused + MAX_DROP_RULES as u32 {
            tables.hits.set(&bit, &0)?;
        }
        Ok(unused)
    }

    fn write_filters(&mut self, desired: &EarlyDesired, drops: &CompiledDrops, shift: u32) -> Result<(), Error> {
        let filter = |ingress: &LanFilterDesired| {
            let numbered = desired.rules.iter().enumerate().take(MAX_DROP_RULES);
            let here = numbered.filter(|(_, rule)| rule.applies_at(ingress));
            let rules = here.fold(0, |rules, (number, _)| rules | 1 << number);
            let flag = |wanted, flag| if wanted { flag } else { 0 };
            let filter = LanFilter {
                rules: rules << shift,
                any_port: (rules & drops.any_port) << shift,
                any_protocol: (rules & drops.any_protocol) << shift,
                flags: flag(ingress.malformed, lan_filter_flag::MALFORMED)
                    | flag(ingress.martians, lan_filter_flag::MARTIANS),
                padding: 0,
            };
            (ZoneKey { ifindex: ingress.ifindex, vlan: ingress.vlan.unwrap_or(0).into() }, filter)
        };
        replace(&mut self.tables.filter, &desired.lan.iter().map(filter).collect())
    }

    /// Takes what only the rules before these needed out of the maps.
    fn settle(&mut self, drops: &CompiledDrops, shift: u32) -> Result<(), Error> {
        let tables = &mut self.tables;
        for (table, sets) in [
            (&mut tables.protocol, &drops.protocol),
            (&mut tables.source_port, &drops.source_port),
            (&mut tables.destination_port, &drops.destination_port),
        ] {
            let content = table.entries()?;
            let wanted = sets.iter().enumerate().map(|(at, set)| (at as u32, set << shift));
            let changed = wanted.filter(|(at, set)| content.get(at).copied().unwrap_or(0) != *set);
            table.set_many(&changed.collect::<Vec<_>>())?;
        }
        for (table, tree) in [(&mut tables.source, &drops.source), (&mut tables.destination, &drops.destination)] {
            replace(table, &tree.iter().map(|(key, set)| (*key, set << shift)).collect())?;
        }
        Ok(())
    }

    fn write_guard(&mut self, guard: Option<&GuardDesired>, now: Time) -> Result<(), Error> {
        let former = self.tables.guard.entries()?.remove(&0).unwrap_or_default();
        let mut record = Guard::default();
        let mut addresses = BTreeMap::new();
        if let Some(guard) = guard {
            record.tunnels = guard
                .tunnels
                .iter()
                .fold(0, |bits, tunnel| bits | 1 << (tunnel.listen_port(guard.base_port) - guard.base_port));
            record.base_port = guard.base_port;
            record.control_ports = guard.control_ports.map(|port| port.unwrap_or(0));
            record.limits = guard.limits.map(super::RateLimit::abi);
            // What was in force before knows the sessions already.
            let knows = former.base_port == guard.base_port;
            record.strict_from_ns = if knows { former.strict_from_ns } else { (now + guard.learn).0 };
            let known = guard.addresses.iter().take(GUARD_ADDRESSES as usize);
            addresses = known.map(|address| (address_bytes(*address), 1)).collect();
        }
        // An address before the guard that looks for it.
        replace(&mut self.tables.addresses, &addresses)?;
        if record != former {
            self.tables.guard.set(&0, &record)?;
        }
        Ok(())
    }
}

/// What a lookup in the trie gives for every address of this prefix.
pub(super) fn covering(content: &BTreeMap<PrefixKey, u64>, key: &PrefixKey) -> u64 {
    let around = content.iter().filter(|(other, _)| other.length <= key.length && contains(other, &key.address));
    around.max_by_key(|(other, _)| other.length).map_or(0, |(_, set)| *set)
}

/// Makes a table equal `wanted`, with the fewest writes.
fn replace<K: Ord + Clone, V: PartialEq>(table: &mut BoxedTable<K, V>, wanted: &BTreeMap<K, V>) -> Result<(), Error> {
    let content = table.entries()?;
    for (key, value) in wanted.iter().filter(|(key, value)| content.get(key) != Some(value)) {
        table.set(key, value)?;
    }
    content.keys().filter(|key| !wanted.contains_key(key)).try_for_each(|key| table.remove(key))
}
