//! The maps that the daemon writes, behind one small trait, so that the reconciler can be tested without a kernel.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};

use aya::Pod;
use aya::maps::lpm_trie::Key;
use aya::maps::{Array, HashMap, LpmTrie, MapData, MapError, PerCpuArray, PerCpuValues};
use sdwan_common::abi::{
    self, Class, Config, CopyNumbers, Path, PathLive, PathSet, PathStats, PrefixEntry, PrefixKey, Rule, RuleSet,
    SiteIdentity, TcpRtt, TunnelPathKey, Zone, ZoneKey,
};

use super::Error;

pub(super) mod batch;

/// A map. In an array every key exists: `remove` writes zeros, and `entries` leaves zeros out.
pub trait Table<K, V>: Send {
    /// Every entry.
    fn entries(&self) -> Result<BTreeMap<K, V>, Error>;
    /// Writes an entry.
    fn set(&mut self, key: &K, value: &V) -> Result<(), Error>;
    /// Writes many entries; after an error, some of them may be written.
    fn set_many(&mut self, entries: &[(K, V)]) -> Result<(), Error> {
        entries.iter().try_for_each(|(key, value)| self.set(key, value))
    }
    /// Removes an entry that exists.
    fn remove(&mut self, key: &K) -> Result<(), Error>;
}

/// A boxed [`Table`].
pub type BoxedTable<K, V> = Box<dyn Table<K, V>>;

/// Every map that the reconciler writes.
pub struct Tables {
    /// `site_ids`: who each site number is.
    pub site_ids: BoxedTable<u32, SiteIdentity>,
    /// `prefixes`.
    pub prefixes: BoxedTable<PrefixKey, PrefixEntry>,
    /// `paths`.
    pub paths: BoxedTable<u32, Path>,
    /// `path_stats`: zeroed when a number is given to another path.
    pub path_stats: BoxedTable<u32, PathStats>,
    /// `path_live`: the programs'. A path that is new in the maps begins with what the daemon heard of it.
    pub path_live: BoxedTable<u32, PathLive>,
    /// `tcp_rtt`: zeroed likewise.
    pub tcp_rtt: BoxedTable<u32, TcpRtt>,
    /// `copy_numbers`: begins at random for a site that is new in the maps.
    pub copy_numbers: BoxedTable<u32, CopyNumbers>,
    /// `tunnel_paths`.
    pub tunnel_paths: BoxedTable<TunnelPathKey, u32>,
    /// `path_sets`.
    pub path_sets: BoxedTable<u32, PathSet>,
    /// `zones`.
    pub zones: BoxedTable<ZoneKey, Zone>,
    /// `rules`.
    pub rules: BoxedTable<u32, Rule>,
    /// `classes`.
    pub classes: BoxedTable<u32, Class>,
    /// `match_proto`.
    pub protocol: BoxedTable<u32, RuleSet>,
    /// `match_sport`.
    pub source_port: BoxedTable<u32, RuleSet>,
    /// `match_dport`.
    pub destination_port: BoxedTable<u32, RuleSet>,
    /// `match_dscp`.
    pub dscp: BoxedTable<u32, RuleSet>,
    /// `match_zone`.
    pub zone: BoxedTable<u32, RuleSet>,
    /// `match_src`.
    pub source: BoxedTable<PrefixKey, RuleSet>,
    /// `match_dst`.
    pub destination: BoxedTable<PrefixKey, RuleSet>,
    /// `config`.
    pub config: BoxedTable<u32, Config>,
}

pub(super) fn fail(action: &'static str, map: &'static str) -> impl Fn(MapError) -> Error {
    move |source| Error::Map { action, map, source }
}

/// An array map.
pub(super) struct KernelArray<V: Pod> {
    name: &'static str,
    map: Array<MapData, V>,
    descriptor: OwnedFd,
}

impl<V: Pod> KernelArray<V> {
    pub(super) fn open(name: &'static str, data: MapData) -> Result<Self, Error> {
        let descriptor = data.fd().as_fd().try_clone_to_owned();
        let descriptor = descriptor.map_err(|error| fail("open", name)(MapError::IoError(error)))?;
        let map = Array::try_from(aya::maps::Map::Array(data)).map_err(fail("open", name))?;
        Ok(Self { name, map, descriptor })
    }
}

impl<V: Pod + Default + PartialEq + Send> Table<u32, V> for KernelArray<V> {
    fn entries(&self) -> Result<BTreeMap<u32, V>, Error> {
        let values = match batch::lookup(self.descriptor.as_fd(), self.map.len()) {
            Ok(values) => values,
            Err(error) if batch::unsupported(&error) => {
                self.map.iter().collect::<Result<_, _>>().map_err(fail("read", self.name))?
            }
            Err(error) => return Err(fail("read", self.name)(MapError::IoError(error))),
        };
        let zero = V::default();
        Ok((0..).zip(values).filter(|(_, value)| *value != zero).collect())
    }

    fn set(&mut self, key: &u32, value: &V) -> Result<(), Error> {
        self.map.set(*key, value, 0).map_err(fail("write", self.name))
    }

    /// In one system call, where the kernel has it: 65,536 single ones take a second.
    fn set_many(&mut self, entries: &[(u32, V)]) -> Result<(), Error> {
        match batch::update(self.descriptor.as_fd(), entries) {
            Ok(()) => Ok(()),
            Err(error) if batch::unsupported(&error) => {
                entries.iter().try_for_each(|(key, value)| self.set(key, value))
            }
            Err(error) => Err(fail("write", self.name)(MapError::IoError(error))),
        }
    }

    fn remove(&mut self, key: &u32) -> Result<(), Error> {
        self.set(key, &V::default())
    }
}

/// A per-CPU array map: one value stands for all CPUs.
pub(super) struct KernelPerCpu<V: Pod> {
    name: &'static str,
    cpus: usize,
    map: PerCpuArray<MapData, V>,
}

impl<V: Pod> KernelPerCpu<V> {
    pub(super) fn open(name: &'static str, data: MapData) -> Result<Self, Error> {
        let map = PerCpuArray::try_from(aya::maps::Map::PerCpuArray(data)).map_err(fail("open", name))?;
        let cpus = aya::util::nr_cpus().map_err(|(_, error)| Error::Map {
            action: "count the CPUs for",
            map: name,
            source: MapError::IoError(error),
        })?;
        Ok(Self { name, cpus, map })
    }
}

impl<V: Pod + Default + PartialEq + Send> Table<u32, V> for KernelPerCpu<V> {
    /// Nothing: the programs write these, and only zeroing is done here.
    fn entries(&self) -> Result<BTreeMap<u32, V>, Error> {
        Ok(BTreeMap::new())
    }

    fn set(&mut self, key: &u32, value: &V) -> Result<(), Error> {
        let values = PerCpuValues::try_from(vec![*value; self.cpus]).map_err(|error| Error::Map {
            action: "write",
            map: self.name,
            source: MapError::IoError(error),
        })?;
        self.map.set(*key, values, 0).map_err(fail("write", self.name))
    }

    fn remove(&mut self, key: &u32) -> Result<(), Error> {
        self.set(key, &V::default())
    }
}

/// A hash map.
pub(super) struct KernelHash<K: Pod, V: Pod> {
    name: &'static str,
    map: HashMap<MapData, K, V>,
}

impl<K: Pod, V: Pod> KernelHash<K, V> {
    pub(super) fn open(name: &'static str, data: MapData) -> Result<Self, Error> {
        let map = HashMap::try_from(aya::maps::Map::HashMap(data)).map_err(fail("open", name))?;
        Ok(Self { name, map })
    }
}

impl<K: Pod + Ord + Send, V: Pod + Send> Table<K, V> for KernelHash<K, V> {
    fn entries(&self) -> Result<BTreeMap<K, V>, Error> {
        self.map.iter().collect::<Result<_, _>>().map_err(fail("read", self.name))
    }

    fn set(&mut self, key: &K, value: &V) -> Result<(), Error> {
        self.map.insert(key, value, 0).map_err(fail("write", self.name))
    }

    fn remove(&mut self, key: &K) -> Result<(), Error> {
        self.map.remove(key).map_err(fail("delete from", self.name))
    }
}

/// A longest-prefix-match trie.
pub(super) struct KernelTrie<V: Pod> {
    name: &'static str,
    map: LpmTrie<MapData, abi::Address, V>,
}

impl<V: Pod> KernelTrie<V> {
    pub(super) fn open(name: &'static str, data: MapData) -> Result<Self, Error> {
        let map = LpmTrie::try_from(aya::maps::Map::LpmTrie(data)).map_err(fail("open", name))?;
        Ok(Self { name, map })
    }
}

impl<V: Pod + Send> Table<PrefixKey, V> for KernelTrie<V> {
    fn entries(&self) -> Result<BTreeMap<PrefixKey, V>, Error> {
        let mut entries = BTreeMap::new();
        for entry in self.map.iter() {
            let (key, value) = entry.map_err(fail("read", self.name))?;
            entries.insert(PrefixKey { length: key.prefix_len(), address: key.data() }, value);
        }
        Ok(entries)
    }

    fn set(&mut self, key: &PrefixKey, value: &V) -> Result<(), Error> {
        self.map.insert(&Key::new(key.length, key.address), value, 0).map_err(fail("write", self.name))
    }

    fn remove(&mut self, key: &PrefixKey) -> Result<(), Error> {
        self.map.remove(&Key::new(key.length, key.address)).map_err(fail("delete from", self.name))
    }
}
