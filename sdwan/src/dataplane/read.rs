//! Reads the maps for people: flows, counters, liveness.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use aya::maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray};
use aya::util::nr_cpus;
use sdwan_common::abi::{
    ClassStats, Config, CopyStats, Flow, FlowKey, LanFilter, MAX_DROP_RULES, MoveKey, Path, PathLive, PathSet,
    PathStats, SiteIdentity, SiteLive, TcpRtt, ZoneKey, capacity, path_state,
};
use sdwan_common::counters::{DropReason, EarlyDropReason, PassReason};

use super::Error;
use super::load::{Layout, open};
use super::tables::{batch, fail};
use crate::engine::Time;
use crate::engine::types::{PathKey, SiteId, TunnelKey, UplinkIndex};

/// Older measurements say nothing about now.
const TCP_RTT_AGE_MS: u32 = 60_000;

/// A flow as the data path has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowRecord {
    /// The 5-tuple.
    pub key: FlowKey,
    /// Its path and what it counts.
    pub flow: Flow,
}

/// Counters and liveness of one path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PathCounters {
    /// User packets, over all CPUs.
    pub stats: PathStats,
    /// What the programs stamped.
    pub live: PathLive,
}

/// What the flows' own timestamps say about the round-trip time by a path, from this gateway to the remote hosts and back:
/// the last measurements, of the last minute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpRttSummary {
    /// The smallest.
    pub minimum: Duration,
    /// The median.
    pub median: Duration,
    /// Measurements that these rest on; with none, both are zero.
    pub samples: u32,
}

impl TcpRttSummary {
    /// Of the entries that are at most a minute old.
    fn new(record: &TcpRtt, now: Time) -> Self {
        let now_ms = (now.0 / 1_000_000) as u32;
        let fresh = |entry: &&u64| {
            let age_ms = now_ms.wrapping_sub((**entry >> 32) as u32);
            // One that was measured since `now` was read is ahead of it.
            **entry != 0 && (age_ms <= TCP_RTT_AGE_MS || age_ms > u32::MAX - TCP_RTT_AGE_MS)
        };
        let mut times: Vec<u32> = record.entries.iter().filter(fresh).map(|entry| *entry as u32).collect();
        times.sort_unstable();
        let time = |at: usize| Duration::from_micros(times.get(at).copied().unwrap_or(0).into());
        Self { minimum: time(0), median: time(times.len() / 2), samples: times.len() as u32 }
    }
}

/// Read access to the pinned maps, independent of the writer.
pub struct Reader {
    flows: HashMap<MapData, FlowKey, Flow>,
    moves: HashMap<MapData, MoveKey, u32>,
    paths: Array<MapData, Path>,
    path_live: Array<MapData, PathLive>,
    site_live: Array<MapData, SiteLive>,
    site_ids: Array<MapData, SiteIdentity>,
    path_sets: Array<MapData, PathSet>,
    path_stats: PerCpuArray<MapData, PathStats>,
    path_stats_descriptor: OwnedFd,
    cpus: usize,
    tcp_rtt: Array<MapData, TcpRtt>,
    class_stats: PerCpuArray<MapData, ClassStats>,
    copy_stats: PerCpuArray<MapData, CopyStats>,
    drops: PerCpuArray<MapData, u64>,
    early_drops: PerCpuArray<MapData, u64>,
    drop_hits: PerCpuArray<MapData, u64>,
    lan_filter: HashMap<MapData, ZoneKey, LanFilter>,
    passes: PerCpuArray<MapData, u64>,
    config: Array<MapData, Config>,
}

impl Reader {
    /// Opens the pins.
    pub fn open(layout: &Layout) -> Result<Self, Error> {
        fn array<V: aya::Pod>(layout: &Layout, name: &'static str) -> Result<Array<MapData, V>, Error> {
            Array::try_from(Map::Array(open(layout, name)?)).map_err(fail("open", name))
        }
        fn per_cpu<V: aya::Pod>(layout: &Layout, name: &'static str) -> Result<PerCpuArray<MapData, V>, Error> {
            PerCpuArray::try_from(Map::PerCpuArray(open(layout, name)?)).map_err(fail("open", name))
        }
        let path_stats = open(layout, "path_stats")?;
        let io = |error| fail("open", "path_stats")(MapError::IoError(error));
        Ok(Self {
            path_stats_descriptor: path_stats.fd().as_fd().try_clone_to_owned().map_err(io)?,
            path_stats: PerCpuArray::try_from(Map::PerCpuArray(path_stats)).map_err(fail("open", "path_stats"))?,
            cpus: nr_cpus().map_err(|(_, error)| io(error))?,
            flows: HashMap::try_from(Map::LruHashMap(open(layout, "flows")?)).map_err(fail("open", "flows"))?,
            moves: HashMap::try_from(Map::LruHashMap(open(layout, "moves")?)).map_err(fail("open", "moves"))?,
            paths: array(layout, "paths")?,
            path_live: array(layout, "path_live")?,
            site_live: array(layout, "site_live")?,
            site_ids: array(layout, "site_ids")?,
            path_sets: array(layout, "path_sets")?,
            tcp_rtt: array(layout, "tcp_rtt")?,
            class_stats: per_cpu(layout, "class_stats")?,
            copy_stats: per_cpu(layout, "copy_stats")?,
            drops: per_cpu(layout, "drops")?,
            early_drops: per_cpu(layout, "early_drops")?,
            drop_hits: per_cpu(layout, "drop_hits")?,
            lan_filter: HashMap::try_from(Map::HashMap(open(layout, "lan_filter")?))
                .map_err(fail("open", "lan_filter"))?,
            passes: per_cpu(layout, "passes")?,
            config: array(layout, "config")?,
        })
    }

    /// At most `limit` flows that `keep` accepts, and at most `scan` looked at. Entries that vanish while they are read
    /// are left out: the table belongs to the packets.
    pub fn flows(&self, scan: usize, limit: usize, mut keep: impl FnMut(&FlowRecord) -> bool) -> Vec<FlowRecord> {
        let records = self.flows.iter().take(scan).filter_map(Result::ok).map(|(key, flow)| FlowRecord { key, flow });
        records.filter(|record| keep(record)).take(limit).collect()
    }

    /// How many flows left one path for another, modulo 2³², for each pair of paths of a set that any did lately. Entries
    /// that vanish while they are read are left out.
    pub fn moves(&self) -> Vec<(MoveKey, u32)> {
        self.moves.iter().take(capacity::MOVES as usize).filter_map(Result::ok).collect()
    }

    /// Flows in the table, up to `scan`.
    pub fn flow_count(&self, scan: usize) -> usize {
        self.flows.keys().take(scan).filter(Result::is_ok).count()
    }

    /// The entry of one flow.
    pub fn flow(&self, key: &FlowKey) -> Result<Option<Flow>, Error> {
        match self.flows.get(key, 0) {
            Ok(flow) => Ok(Some(flow)),
            Err(aya::maps::MapError::KeyNotFound) => Ok(None),
            Err(source) => Err(Error::Map { action: "read", map: "flows", source }),
        }
    }

    /// The record of a path as the programs see it.
    pub fn path(&self, number: u32) -> Result<Path, Error> {
        self.paths.get(&number, 0).map_err(fail("read", "paths"))
    }

    /// The largest packet of each path that is in the maps, bytes.
    pub fn mtus(&self) -> Result<Vec<(PathKey, u16)>, Error> {
        let sites = self.sites()?;
        let mut mtus = Vec::new();
        for path in self.paths.iter() {
            let path = path.map_err(fail("read", "paths"))?;
            mtus.extend(path_key(&path, sites.get(path.site as usize)).map(|key| (key, path.mtu)));
        }
        Ok(mtus)
    }

    /// The path that each of the first `classes` classes, by number, takes first to each site. `class_capacity` is the row
    /// length of `path_sets`.
    pub fn taken(&self, classes: u32, class_capacity: u32) -> Result<Vec<(PathKey, u16)>, Error> {
        let sites = self.sites()?;
        let mut taken = Vec::new();
        for (number, _) in (0..).zip(&sites).filter(|(_, site)| site.id != [0; 16]) {
            for class in 0..classes.min(class_capacity) {
                let set = self.path_set(number * class_capacity + class)?;
                if set.count == 0 {
                    continue;
                }
                let path = self.path(set.candidates[0].path)?;
                let key = path_key(&path, sites.get(path.site as usize)).filter(|_| path.site == number);
                taken.extend(key.map(|key| (key, class as u16)));
            }
        }
        Ok(taken)
    }

    fn sites(&self) -> Result<Vec<SiteIdentity>, Error> {
        let sites: Result<Vec<_>, _> = self.site_ids.iter().collect();
        sites.map_err(fail("read", "site_ids"))
    }

    /// Counters and liveness of a path.
    pub fn path_counters(&self, number: u32) -> Result<PathCounters, Error> {
        let values = self.path_stats.get(&number, 0).map_err(fail("read", "path_stats"))?;
        let stats = over_all_cpus(&values);
        let live = self.path_live.get(&number, 0).map_err(fail("read", "path_live"))?;
        Ok(PathCounters { stats, live })
    }

    /// What the first `count` paths by number carried, read in one system call where the kernel has it (5.13).
    pub fn all_path_stats(&self, count: u32) -> Result<Vec<PathStats>, Error> {
        let cpus = self.cpus;
        match batch::lookup_per_cpu(self.path_stats_descriptor.as_fd(), count, cpus) {
            Ok(values) => Ok(values.chunks_exact(cpus).map(over_all_cpus).collect()),
            Err(error) if batch::unsupported(&error) => {
                let one = |number| Ok(over_all_cpus(&self.path_stats.get(&number, 0)?));
                (0..count).map(one).collect::<Result<_, _>>().map_err(fail("read", "path_stats"))
            }
            Err(error) => Err(fail("read", "path_stats")(MapError::IoError(error))),
        }
    }

    /// Round-trip time of TCP by a path.
    pub fn tcp_rtt(&self, number: u32, now: Time) -> Result<TcpRttSummary, Error> {
        let record = self.tcp_rtt.get(&number, 0).map_err(fail("read", "tcp_rtt"))?;
        Ok(TcpRttSummary::new(&record, now))
    }

    /// Liveness of a site.
    pub fn site_live(&self, number: u32) -> Result<SiteLive, Error> {
        self.site_live.get(&number, 0).map_err(fail("read", "site_live"))
    }

    /// The number of a site in the maps, if it has one.
    pub fn site_number(&self, site: &SiteId) -> Result<Option<u32>, Error> {
        for (number, identity) in (0..).zip(self.site_ids.iter()) {
            if identity.map_err(fail("read", "site_ids"))?.id == site.0 {
                return Ok(Some(number));
            }
        }
        Ok(None)
    }

    /// A path set by its index.
    pub fn path_set(&self, index: u32) -> Result<PathSet, Error> {
        self.path_sets.get(&index, 0).map_err(fail("read", "path_sets"))
    }

    /// Counters of a class.
    pub fn class_counters(&self, class: u16) -> Result<ClassStats, Error> {
        let mut stats = ClassStats::default();
        let values = self.class_stats.get(&u32::from(class), 0).map_err(fail("read", "class_stats"))?;
        for value in values.iter() {
            stats.packets += value.packets;
            stats.bytes += value.bytes;
            stats.flows += value.flows;
            stats.moves += value.moves;
        }
        Ok(stats)
    }

    /// What became of the packets of a class in duplicate mode.
    pub fn copies(&self, class: u16) -> Result<CopyStats, Error> {
        let mut stats = CopyStats::default();
        let values = self.copy_stats.get(&u32::from(class), 0).map_err(fail("read", "copy_stats"))?;
        for value in values.iter() {
            stats.packets += value.packets;
            stats.bytes += value.bytes;
            stats.alone += value.alone;
            stats.unmarked += value.unmarked;
        }
        Ok(stats)
    }

    /// Packets that the programs dropped, by reason.
    pub fn drops(&self) -> Result<Vec<(&'static str, u64)>, Error> {
        let names = DropReason::ALL.iter().map(|reason| reason.name());
        let mut drops = counters(&self.drops, "drops", names)?;
        let names = EarlyDropReason::ALL.iter().map(|reason| reason.name());
        drops.extend(counters(&self.early_drops, "early_drops", names)?);
        Ok(drops)
    }

    /// Packets that each of the first `rules` drop rules dropped since the rules were last changed.
    pub fn drop_hits(&self, rules: usize) -> Result<Vec<u64>, Error> {
        let mut used = 0;
        for filter in self.lan_filter.iter() {
            used |= filter.map_err(fail("read", "lan_filter"))?.1.rules;
        }
        let first = if used >> MAX_DROP_RULES != 0 { MAX_DROP_RULES } else { 0 };
        let hits = |number: usize| {
            let values = self.drop_hits.get(&((first + number) as u32), 0).map_err(fail("read", "drop_hits"))?;
            Ok(values.iter().sum())
        };
        (0..rules.min(MAX_DROP_RULES)).map(hits).collect()
    }

    /// Packets that the programs left to the stack, by reason.
    pub fn passes(&self) -> Result<Vec<(&'static str, u64)>, Error> {
        let names = PassReason::ALL.iter().map(|reason| reason.name());
        counters(&self.passes, "passes", names)
    }

    /// The configuration that the programs run by.
    pub fn config(&self) -> Result<Config, Error> {
        self.config.get(&0, 0).map_err(fail("read", "config"))
    }
}

fn over_all_cpus(values: &[PathStats]) -> PathStats {
    values.iter().fold(PathStats::default(), |sum, value| PathStats {
        sent_packets: sum.sent_packets + value.sent_packets,
        sent_bytes: sum.sent_bytes + value.sent_bytes,
        received_packets: sum.received_packets + value.received_packets,
        received_bytes: sum.received_bytes + value.received_bytes,
    })
}

/// Which path a record is of, to a site with this identity; `None` for a free slot.
pub(super) fn path_key(path: &Path, site: Option<&SiteIdentity>) -> Option<PathKey> {
    let tunnel =
        TunnelKey { local: UplinkIndex::new(path.local_uplink)?, remote: UplinkIndex::new(path.remote_uplink)? };
    let site = SiteId(site?.id);
    (path.state != path_state::UNUSED).then_some(PathKey { site, tunnel })
}

fn counters(
    map: &PerCpuArray<MapData, u64>,
    name: &'static str,
    names: impl Iterator<Item = &'static str>,
) -> Result<Vec<(&'static str, u64)>, Error> {
    (0..)
        .zip(names)
        .map(|(index, reason)| {
            let values = map.get(&index, 0).map_err(fail("read", name))?;
            Ok((reason, values.iter().sum()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use sdwan_common::abi::tcp_rtt_entry;

    use super::*;

    #[test]
    fn tcps_round_trip_time_is_that_of_the_last_minute() {
        let now = Time(100_000_000_000);
        let mut record = TcpRtt::default();
        assert_eq!(TcpRttSummary::new(&record, now), TcpRttSummary::default());
        let ms = |ms: u64| ms * 1_000_000;
        // Too old, the oldest that counts, two more, and one that came while the clock was read.
        let measured = [(39_999, 1), (40_000, 50), (99_000, 42), (99_500, 44), (100_001, 41)];
        for (entry, (at, rtt)) in record.entries.iter_mut().zip(measured) {
            *entry = tcp_rtt_entry(ms(at), ms(rtt));
        }
        let millis = Duration::from_millis;
        let expected = TcpRttSummary { minimum: millis(41), median: millis(44), samples: 4 };
        assert_eq!(TcpRttSummary::new(&record, now), expected);
    }
}
