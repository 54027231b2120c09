//! The reconciler in front of maps that keep nothing: what is left is the daemon's own.

use std::collections::BTreeMap;

use sdwan::dataplane::{Error, Table, Tables};

/// A map that takes everything and keeps nothing.
struct Nowhere;

impl<K, V> Table<K, V> for Nowhere {
    fn entries(&self) -> Result<BTreeMap<K, V>, Error> {
        Ok(BTreeMap::new())
    }
    fn set(&mut self, _: &K, _: &V) -> Result<(), Error> {
        Ok(())
    }
    fn set_many(&mut self, _: &[(K, V)]) -> Result<(), Error> {
        Ok(())
    }
    fn remove(&mut self, _: &K) -> Result<(), Error> {
        Ok(())
    }
}

/// All maps, none of which keeps anything.
pub fn nowhere() -> Tables {
    Tables {
        site_ids: Box::new(Nowhere),
        prefixes: Box::new(Nowhere),
        paths: Box::new(Nowhere),
        path_stats: Box::new(Nowhere),
        path_live: Box::new(Nowhere),
        tcp_rtt: Box::new(Nowhere),
        copy_numbers: Box::new(Nowhere),
        tunnel_paths: Box::new(Nowhere),
        path_sets: Box::new(Nowhere),
        zones: Box::new(Nowhere),
        rules: Box::new(Nowhere),
        classes: Box::new(Nowhere),
        protocol: Box::new(Nowhere),
        source_port: Box::new(Nowhere),
        destination_port: Box::new(Nowhere),
        dscp: Box::new(Nowhere),
        zone: Box::new(Nowhere),
        source: Box::new(Nowhere),
        destination: Box::new(Nowhere),
        config: Box::new(Nowhere),
    }
}
