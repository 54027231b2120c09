//! A site's data path: the maps in memory behind the real reconciler, and what the programs do with a packet.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sdwan_common::abi::{Config, FlowKey, NO_PATH, Path, PathLive, PathSet, SiteLive};
use sdwan_common::liveness::{Liveness, candidate_state, daemon_alive, path_liveness};
use sdwan_common::select::{Selection, flow_hash, select};

use sdwan::dataplane::desired::Desired;
use sdwan::dataplane::{Capacities, Error, Reconciler, Table, Tables};
use sdwan::engine::types::{PathKey, SiteId, TunnelKey, UplinkIndex};
use sdwan_tests::engine::maps::nowhere;

/// A map in memory, which counts what is written. Clones share it.
struct Memory<K, V> {
    entries: Arc<Mutex<BTreeMap<K, V>>>,
    writes: Arc<AtomicU64>,
}

impl<K, V> Clone for Memory<K, V> {
    fn clone(&self) -> Self {
        Self { entries: self.entries.clone(), writes: self.writes.clone() }
    }
}

impl<K: Ord + Clone, V: Clone> Memory<K, V> {
    fn new(writes: &Arc<AtomicU64>) -> Self {
        Self { entries: Arc::default(), writes: writes.clone() }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<K, V>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, key: &K) -> Option<V> {
        self.lock().get(key).cloned()
    }
}

impl<K: Ord + Clone + Send, V: Clone + Send> Table<K, V> for Memory<K, V> {
    fn entries(&self) -> Result<BTreeMap<K, V>, Error> {
        Ok(self.lock().clone())
    }
    fn set(&mut self, key: &K, value: &V) -> Result<(), Error> {
        self.writes.fetch_add(1, Ordering::Relaxed);
        self.lock().insert(key.clone(), value.clone());
        Ok(())
    }
    fn remove(&mut self, key: &K) -> Result<(), Error> {
        self.writes.fetch_add(1, Ordering::Relaxed);
        self.lock().remove(key);
        Ok(())
    }
}

/// Classes that there is room for.
const CLASSES: u32 = 8;

/// The maps and what the programs write.
pub struct Maps {
    paths: Memory<u32, Path>,
    sets: Memory<u32, PathSet>,
    config: Memory<u32, Config>,
    operations: Arc<AtomicU64>,
    pub reconciler: Reconciler,
    live: Memory<u32, PathLive>,
    /// When each site probed.
    pub probed: BTreeMap<SiteId, SiteLive>,
}

/// A flow as `flows` remembers it.
#[derive(Clone, Debug)]
pub struct Flow {
    pub site: SiteId,
    pub class: u16,
    pub hash: u32,
    pub path: u32,
    set_epoch: u32,
}

impl Flow {
    /// One of many flows of a class to a site.
    pub fn new(site: SiteId, class: u16, number: u16) -> Self {
        let key =
            FlowKey { source: site.0, source_port: number, destination_port: 5_000 + class, ..FlowKey::default() };
        Self { site, class, hash: flow_hash(&key), path: NO_PATH, set_epoch: 0 }
    }
}

impl Maps {
    pub fn new() -> Self {
        let operations = Arc::new(AtomicU64::new(0));
        let (paths, sets, config, live) =
            (Memory::new(&operations), Memory::new(&operations), Memory::new(&operations), Memory::new(&operations));
        let tables = Tables {
            site_ids: Box::new(Memory::new(&operations)),
            prefixes: Box::new(Memory::new(&operations)),
            paths: Box::new(paths.clone()),
            path_live: Box::new(live.clone()),
            tunnel_paths: Box::new(Memory::new(&operations)),
            path_sets: Box::new(sets.clone()),
            config: Box::new(config.clone()),
            // Nothing in the simulation reads the others.
            ..nowhere()
        };
        let capacities = Capacities { sites: 1_024, classes: CLASSES, paths: 8_192, ..Capacities::default() };
        let reconciler = Reconciler::new(tables, capacities).expect("memory can be read");
        Self { paths, sets, config, operations, reconciler, live, probed: BTreeMap::new() }
    }

    /// Makes the maps what is desired; returns how many writes that took.
    pub fn apply(&mut self, desired: &Desired) -> u64 {
        let before = self.operations.load(Ordering::Relaxed);
        self.reconciler.apply(desired).expect("memory takes everything");
        self.operations.load(Ordering::Relaxed) - before
    }

    /// Whether a daemon has been here before.
    pub fn used(&self) -> bool {
        !self.live.lock().is_empty()
    }

    pub fn path(&self, number: u32) -> Option<Path> {
        self.paths.get(&number)
    }

    pub fn set(&self, site: &SiteId, class: u16) -> Option<PathSet> {
        let site = self.reconciler.site_number(site)?;
        self.sets.get(&(site * CLASSES + u32::from(class)))
    }

    /// The path that a class takes first.
    pub fn taken(&self, site: &SiteId, class: u16) -> Option<PathKey> {
        let set = self.set(site, class).filter(|set| set.count > 0)?;
        let path = self.path(set.candidates[0].path)?;
        let index = |number| UplinkIndex::new(number);
        Some(PathKey {
            site: *site,
            tunnel: TunnelKey { local: index(path.local_uplink)?, remote: index(path.remote_uplink)? },
        })
    }

    fn config(&self) -> Config {
        self.config.get(&0).unwrap_or_default()
    }

    /// What is written on `key` when a packet of STAMP comes in.
    pub fn stamp(&mut self, key: &PathKey, change: impl FnOnce(&mut PathLive)) {
        if let Some(number) = self.reconciler.path_number(key) {
            change(self.live.lock().entry(number).or_default());
        }
    }

    /// Whether packets may use a path, at `now` ns, with the daemon last heard at `heartbeat` ns.
    pub fn liveness(&self, site: &SiteId, number: u32, heartbeat: u64, now: u64) -> Option<Liveness> {
        let config = Config { heartbeat_ns: heartbeat, ..self.config() };
        let live = self.live.get(&number).unwrap_or_default();
        let alive = daemon_alive(&config, now);
        let probed = self.probed.get(site).copied().filter(|_| !alive).unwrap_or_default();
        Some(path_liveness(&self.path(number)?, &live, &probed, &config, now))
    }

    /// A packet of a flow, as `lan_ingress` decides about it.
    pub fn packet(&self, flow: &mut Flow, heartbeat: u64, now: u64) -> Option<Selection> {
        let set = self.set(&flow.site, flow.class).filter(|set| set.count > 0)?;
        let usable = |number| self.liveness(&flow.site, number, heartbeat, now).is_some_and(Liveness::usable);
        if flow.path != NO_PATH && flow.set_epoch == set.epoch && usable(flow.path) {
            return None;
        }
        let selection = select(&set, flow.path, flow.hash, |number| {
            let live = self.live.get(&number).unwrap_or_default();
            candidate_state(&live, self.liveness(&flow.site, number, heartbeat, now)?)
        })?;
        flow.path = selection.path;
        flow.set_epoch = set.epoch;
        Some(selection)
    }
}
