//! Makes the maps what is desired, with the fewest writes, in an order that packets can live with.
//!
//! Content first, epochs last: whatever a packet decided from maps that were only half changed carries an old epoch and
//! is decided again (`sdwan_common::abi::PathSet`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use sdwan_common::abi::{
    self, ABI_VERSION, Candidate, Config, CopyNumbers, MAX_CANDIDATES, Path, PathLive, PathSet, PathStats, PrefixEntry,
    PrefixKey, RuleSet, SITE_LOCAL, Scope, SiteIdentity, TcpRtt, TunnelPathKey, Zone, ZoneKey, candidate_flag,
    path_state, prefix_flag,
};

use super::desired::{Change, Desired, PathDesired, SetDesired, WallClock};
use super::load::Capacities;
use super::read::path_key;
use super::shadow::{Dimension, Shadowed};
use super::tables::{BoxedTable, Tables};
use super::{Error, Numbers};
use crate::engine::Time;
use crate::engine::policy::{CompiledRules, address_bytes, prefix_key};
use crate::engine::types::{PathKey, SiteId};

/// Keeps the maps as the last [`Desired`] says.
pub struct Reconciler {
    capacities: Capacities,
    site_ids: Shadowed<u32, SiteIdentity>,
    prefixes: Shadowed<PrefixKey, PrefixEntry>,
    paths: Shadowed<u32, Path>,
    path_stats: BoxedTable<u32, PathStats>,
    path_live: BoxedTable<u32, PathLive>,
    tcp_rtt: BoxedTable<u32, TcpRtt>,
    copy_numbers: BoxedTable<u32, CopyNumbers>,
    tunnel_paths: Shadowed<TunnelPathKey, u32>,
    path_sets: Shadowed<u32, PathSet>,
    zones: Shadowed<ZoneKey, Zone>,
    rules: Shadowed<u32, abi::Rule>,
    classes: Shadowed<u32, abi::Class>,
    dimensions: [Dimension; 5],
    source: Shadowed<PrefixKey, RuleSet>,
    destination: Shadowed<PrefixKey, RuleSet>,
    config: Shadowed<u32, Config>,
    /// What the dimensions hold; `None` while unknown.
    compiled: Option<Arc<CompiledRules>>,
    /// The decision epoch must be raised: content was changed, or may have been by a daemon that died over it.
    epoch_due: bool,
    /// Somebody traces a flow. A daemon begins without.
    traced: bool,
    site_numbers: Numbers<SiteId>,
    path_numbers: Numbers<PathKey>,
}

impl Reconciler {
    /// Reads what the maps hold. Sites and paths that are there keep their numbers.
    pub fn new(tables: Tables, capacities: Capacities) -> Result<Self, Error> {
        let site_ids = Shadowed::read(tables.site_ids)?;
        let paths = Shadowed::read(tables.paths)?;
        let site_numbers =
            Numbers::new(capacities.sites, site_ids.content().iter().map(|(number, id)| (SiteId(id.id), *number)));
        let path_numbers = {
            let known = paths
                .content()
                .iter()
                .filter_map(|(number, path)| Some((path_key(path, site_ids.content().get(&path.site))?, *number)));
            Numbers::new(capacities.paths, known)
        };
        Ok(Self {
            capacities,
            site_ids,
            prefixes: Shadowed::read(tables.prefixes)?,
            paths,
            path_stats: tables.path_stats,
            path_live: tables.path_live,
            tcp_rtt: tables.tcp_rtt,
            copy_numbers: tables.copy_numbers,
            tunnel_paths: Shadowed::read(tables.tunnel_paths)?,
            path_sets: Shadowed::read(tables.path_sets)?,
            zones: Shadowed::read(tables.zones)?,
            rules: Shadowed::read(tables.rules)?,
            classes: Shadowed::read(tables.classes)?,
            dimensions: [
                Dimension::new(tables.protocol, |rules| &rules.protocol),
                Dimension::new(tables.source_port, |rules| &rules.source_port),
                Dimension::new(tables.destination_port, |rules| &rules.destination_port),
                Dimension::new(tables.dscp, |rules| &rules.dscp),
                Dimension::new(tables.zone, |rules| &rules.zone),
            ],
            source: Shadowed::read(tables.source)?,
            destination: Shadowed::read(tables.destination)?,
            config: Shadowed::read(tables.config)?,
            compiled: None,
            epoch_due: true,
            traced: false,
            site_numbers,
            path_numbers,
        })
    }

    /// The number of a path in the maps.
    pub fn path_number(&self, path: &PathKey) -> Option<u32> {
        self.path_numbers.get(path)
    }

    /// The numbers of all paths.
    pub fn path_numbers(&self) -> &Numbers<PathKey> {
        &self.path_numbers
    }

    /// The number of a site in the maps.
    pub fn site_number(&self, site: &SiteId) -> Option<u32> {
        self.site_numbers.get(site)
    }

    /// The record of `config` as last written.
    pub fn config(&self) -> Config {
        self.config.content().get(&0).copied().unwrap_or_default()
    }

    /// Makes the maps what is desired. After an error, the next call goes on where this one stopped.
    pub fn apply(&mut self, desired: &Desired) -> Result<(), Error> {
        self.check_room(desired)?;
        self.number(desired)?;
        let ingress = self.write_classifier(desired)?;
        let prefixes = self.wanted_prefixes(desired);
        self.write_paths(desired)?;
        self.write_all_sets(desired)?;
        // A site's prefixes come after its sets: a packet that finds the prefix must find a path.
        if self.prefixes.replace(prefixes)? || ingress {
            self.epoch_due = true;
        }
        self.write_config(desired)?;
        self.retire(desired)
    }

    /// Makes single changes, at once: of many, each map gets all of its entries together. What isn't in the maps yet is
    /// left out.
    ///
    /// The peer's probes slow down with ours, so that detection times are among what can't wait for the next whole state:
    /// flows of a daemon that dies meanwhile would change paths between its probes.
    pub fn change(&mut self, changes: &[Change]) -> Result<(), Error> {
        let mut paths = BTreeMap::new();
        let mut sets = Vec::new();
        for change in changes {
            match change {
                Change::PathState(path, up) => {
                    let state = if *up { path_state::UP } else { path_state::DOWN };
                    self.change_path(path, &mut paths, |record| record.state = state);
                }
                Change::PathDetection(path, detection) => self.change_path(path, &mut paths, |record| {
                    record.detection_ns = nanoseconds(*detection);
                    record.peer_detection_ns = nanoseconds(*detection);
                }),
                Change::PathSet(site, class, set) => {
                    sets.extend(self.site_numbers.get(site).and_then(|site| self.set_record(site, *class, set)));
                }
            }
        }
        self.paths.set_many(paths)?;
        self.write_sets(sets)
    }

    /// Shows that the daemon probes. Does nothing before the first [`Self::apply`].
    pub fn heartbeat(&mut self, now: Time, clock: WallClock) -> Result<(), Error> {
        let config = self.config();
        if config.abi_version != ABI_VERSION {
            return Ok(());
        }
        let WallClock { offset_ns: realtime_offset_ns, scale: clock_scale } = clock;
        self.config.set(0, Config { heartbeat_ns: now.0, realtime_offset_ns, clock_scale, ..config }).map(drop)
    }

    /// Has the programs look at `trace`, or not any more. Before the first [`Self::apply`] it is only remembered.
    pub fn set_traced(&mut self, traced: bool) -> Result<(), Error> {
        self.traced = traced;
        let config = self.config();
        if config.abi_version != ABI_VERSION {
            return Ok(());
        }
        let scope = Scope { traced: u8::from(traced), ..config.scope };
        self.config.set(0, Config { scope, ..config }).map(drop)
    }

    fn change_path(&self, path: &PathKey, changed: &mut BTreeMap<u32, Path>, change: impl FnOnce(&mut Path)) {
        let Some(number) = self.path_numbers.get(path) else { return };
        let Some(known) = changed.get(&number).or_else(|| self.paths.content().get(&number)) else { return };
        let mut record = *known;
        change(&mut record);
        changed.insert(number, record);
    }

    fn check_room(&self, desired: &Desired) -> Result<(), Error> {
        let prefixes = desired.sites.values().map(|site| site.prefixes.len() + 1).sum::<usize>();
        let checks = [
            ("sites", desired.sites.len(), self.capacities.sites, "sites"),
            ("classes", desired.classes.len(), self.capacities.classes, "classes"),
            ("paths", desired.paths.len(), self.capacities.paths, "paths"),
            ("prefixes", prefixes + desired.local_prefixes.len(), self.capacities.prefixes, "prefixes"),
        ];
        for (what, wanted, capacity, key) in checks {
            if wanted > capacity as usize {
                return Err(Error::Full { what, wanted, capacity, key });
            }
        }
        Ok(())
    }

    fn number(&mut self, desired: &Desired) -> Result<(), Error> {
        let mut identities = BTreeMap::new();
        // Numbers that others still hold are given back first only when there is no room: packets may be using them.
        for site in desired.sites.keys() {
            if self.site_numbers.get(site).is_none() && self.site_numbers.len() >= self.capacities.sites as usize {
                self.retire(desired)?;
            }
            let full = Error::Full {
                what: "sites",
                wanted: desired.sites.len(),
                capacity: self.capacities.sites,
                key: "sites",
            };
            let (number, new) = self.site_numbers.assign(*site).ok_or(full)?;
            if new {
                // The other end may remember numbers from before the maps were made.
                let numbers = CopyNumbers { next: rand::random(), ..CopyNumbers::default() };
                self.copy_numbers.set(&number, &numbers)?;
            }
            identities.insert(number, SiteIdentity { id: site.0 });
        }
        self.site_ids.set_many(identities)?;
        let (mut live, mut round_trips) = (Vec::new(), Vec::new());
        for (path, facts) in &desired.paths {
            if self.path_numbers.get(path).is_none() && self.path_numbers.len() >= self.capacities.paths as usize {
                self.retire(desired)?;
            }
            let full = Error::Full {
                what: "paths",
                wanted: desired.paths.len(),
                capacity: self.capacities.paths,
                key: "paths",
            };
            let (number, new) = self.path_numbers.assign(*path).ok_or(full)?;
            if new {
                self.path_stats.set(&number, &PathStats::default())?;
                // Until an answer passes by the programs, the path is as alive as the daemon knows it to be.
                live.push((number, PathLive { last_reply_ns: facts.last_answer.0, ..PathLive::default() }));
                round_trips.push((number, TcpRtt::default()));
            }
        }
        self.path_live.set_many(&live)?;
        self.tcp_rtt.set_many(&round_trips)
    }

    /// Returns whether anything changed that flows were classified by.
    fn write_classifier(&mut self, desired: &Desired) -> Result<bool, Error> {
        let zones = desired.lan.iter().map(|lan| {
            let key = ZoneKey { ifindex: lan.ifindex, vlan: lan.vlan.map_or(0, u32::from) };
            (key, Zone { zone: lan.zone })
        });
        let mut changed = self.zones.replace(zones.collect())?;
        let classes = (0..).zip(desired.classes.iter().copied());
        changed |= self.classes.replace(classes.collect())?;
        let rules = &desired.rules;
        if self.compiled.as_ref() != Some(rules) {
            // While this goes on, the dimensions may contradict each other: forget what was known, so that an error
            // leads to a complete rewrite.
            let former = self.compiled.take();
            self.epoch_due = true;
            for dimension in &mut self.dimensions {
                dimension.write(former.as_deref(), rules)?;
            }
            self.source.replace(rules.source.iter().copied().collect())?;
            self.destination.replace(rules.destination.iter().copied().collect())?;
            self.rules.replace((0..).zip(rules.rules.iter().copied()).collect())?;
            self.compiled = Some(rules.clone());
            changed = true;
        }
        Ok(changed)
    }

    fn wanted_prefixes(&self, desired: &Desired) -> BTreeMap<PrefixKey, PrefixEntry> {
        let mut prefixes = BTreeMap::new();
        for (id, site) in &desired.sites {
            let Some(number) = self.site_numbers.get(id) else { continue };
            for prefix in &site.prefixes {
                prefixes.insert(prefix_key(prefix), PrefixEntry { site: number, flags: 0 });
            }
            let overlay = PrefixKey { length: 128, address: address_bytes(site.overlay) };
            prefixes.insert(overlay, PrefixEntry { site: number, flags: prefix_flag::OVERLAY });
        }
        // `::/0` of a site must not catch IPv4, which is mapped into it.
        let ipv4 = PrefixKey { length: 96, address: address_bytes(std::net::Ipv4Addr::UNSPECIFIED.into()) };
        if prefixes.keys().any(|prefix| prefix.length < ipv4.length) {
            prefixes.entry(ipv4).or_insert(PrefixEntry { site: SITE_LOCAL, flags: 0 });
        }
        for prefix in &desired.local_prefixes {
            prefixes.insert(prefix_key(prefix), PrefixEntry { site: SITE_LOCAL, flags: 0 });
        }
        let own = PrefixKey { length: 128, address: address_bytes(desired.overlay) };
        prefixes.insert(own, PrefixEntry { site: SITE_LOCAL, flags: prefix_flag::OVERLAY });
        prefixes
    }

    fn write_paths(&mut self, desired: &Desired) -> Result<(), Error> {
        let (mut paths, mut tunnel_paths) = (BTreeMap::new(), BTreeMap::new());
        for (key, path) in &desired.paths {
            let (Some(number), Some(site)) = (self.path_numbers.get(key), self.site_numbers.get(&key.site)) else {
                continue;
            };
            paths.insert(number, path_record(key, path, site));
            tunnel_paths.insert(TunnelPathKey { ifindex: path.ifindex, site }, number);
        }
        self.paths.set_many(paths)?;
        self.tunnel_paths.replace(tunnel_paths).map(drop)
    }

    fn write_all_sets(&mut self, desired: &Desired) -> Result<(), Error> {
        let changed = desired.sets.iter().filter_map(|((site, class), set)| {
            let site = self.site_numbers.get(site)?;
            self.set_record(site, *class, set)
        });
        let changed: Vec<(u32, PathSet)> = changed.collect();
        self.write_sets(changed)?;
        let stale: Vec<(u32, PathSet)> = self
            .path_sets
            .content()
            .iter()
            .filter(|(index, set)| set.count != 0 && !self.is_desired_set(**index, desired))
            .map(|(index, set)| (*index, *set))
            .collect();
        // The epoch lives on: a flow that remembers the set must not mistake a later one for it.
        let empty = |set: PathSet| PathSet { epoch: set.epoch.wrapping_add(1), class: set.class, ..PathSet::default() };
        self.path_sets.set_many(stale.into_iter().map(|(index, set)| (index, empty(set))))
    }

    fn is_desired_set(&self, index: u32, desired: &Desired) -> bool {
        let (site, class) = (index / self.capacities.classes, (index % self.capacities.classes) as u16);
        let id = self.site_ids.content().get(&site).map(|identity| SiteId(identity.id));
        id.is_some_and(|id| desired.sets.contains_key(&(id, class)))
    }

    /// What a set is to be, under the epoch that it has; `None` if it is so already.
    fn set_record(&self, site: u32, class: u16, set: &SetDesired) -> Option<(u32, PathSet)> {
        let index = site * self.capacities.classes + u32::from(class);
        let former = self.path_sets.content().get(&index).copied().unwrap_or_default();
        let mut record = PathSet { epoch: former.epoch, keep_rank: set.keep_rank, class, ..PathSet::default() };
        for candidate in set.candidates.iter().take(MAX_CANDIDATES) {
            let Some(path) = self.path_numbers.get(&candidate.path) else { continue };
            let flags = if candidate.full { candidate_flag::FULL } else { 0 };
            record.candidates[usize::from(record.count)] =
                Candidate { path, weight: candidate.weight, rank: candidate.rank, flags };
            record.count += 1;
        }
        (record != former).then_some((index, record))
    }

    /// Writes sets that changed, and raises their epochs then.
    fn write_sets(&mut self, changed: Vec<(u32, PathSet)>) -> Result<(), Error> {
        self.path_sets.set_many(changed.iter().copied())?;
        let raised = |(index, set): (u32, PathSet)| (index, PathSet { epoch: set.epoch.wrapping_add(1), ..set });
        self.path_sets.set_many(changed.into_iter().map(raised))
    }

    fn write_config(&mut self, desired: &Desired) -> Result<(), Error> {
        let former = self.config();
        let epoch = former.epoch.wrapping_add(u32::from(self.epoch_due));
        let config = Config {
            abi_version: ABI_VERSION,
            epoch,
            heartbeat_ns: former.heartbeat_ns,
            heartbeat_stale_ns: nanoseconds(desired.heartbeat_stale),
            realtime_offset_ns: desired.clock.offset_ns,
            overlay: address_bytes(desired.overlay),
            scope: Scope { traced: u8::from(self.traced), ..desired.rules.scope },
            flow_event_mask: desired.flow_event_mask,
            fast_path: desired.fast_path,
            clock_scale: desired.clock.scale,
            outer_port: desired.outer_port,
            events_per_second: desired.events_per_second,
        };
        self.config.set(0, config)?;
        self.epoch_due = false;
        Ok(())
    }

    /// Takes the numbers back that nothing uses any more: no set names such a path, no prefix such a site.
    fn retire(&mut self, desired: &Desired) -> Result<(), Error> {
        for (_, number) in self.path_numbers.release(|path| desired.paths.contains_key(path)) {
            self.paths.remove(&number)?;
        }
        for (_, number) in self.site_numbers.release(|site| desired.sites.contains_key(site)) {
            self.site_ids.remove(&number)?;
        }
        Ok(())
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn path_record(key: &PathKey, path: &PathDesired, site: u32) -> Path {
    Path {
        ifindex: path.ifindex,
        mark: path.mark,
        site,
        mtu: path.mtu,
        state: if path.up { path_state::UP } else { path_state::DOWN },
        local_uplink: key.tunnel.local.get(),
        remote_uplink: key.tunnel.remote.get(),
        padding: [0; 7],
        detection_ns: nanoseconds(path.detection),
        peer_detection_ns: nanoseconds(path.peer_detection),
    }
}
