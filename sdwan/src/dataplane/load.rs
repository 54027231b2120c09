//! Loads the object onto pinned maps: those that are there and fit are adopted, the rest are made.

use std::io;
use std::mem::size_of;
use std::path::{Path, PathBuf};

use aya::maps::{MapData, MapError};
use aya::programs::{SchedClassifier, Xdp};
use aya::{Ebpf, EbpfLoader};
use aya_obj::Map;
use aya_obj::generated::bpf_map_type;
use sdwan_common::abi::{
    self, ABI_VERSION, Address, Class, ClassStats, Config, CopyNumbers, CopyStats, Flow, FlowKey, FragmentKey,
    FragmentPorts, Guard, LanFilter, MAX_DROP_RULES, MAX_RULES, MAX_ZONES, MoveKey, OtherKey, PathLive, PathSet,
    PathStats, PrefixEntry, PrefixKey, Rule, RuleSet, SessionKey, SiteIdentity, SiteLive, SourceKey, TcpRtt, TcpSample,
    TraceFilter, TunnelPathKey, Zone, ZoneKey, capacity, guard_limit,
};
use sdwan_common::counters::{DropReason, EarlyDropReason, PassReason};
use tracing::info;

use super::Error;
use super::attach::{Direction, detach_filters};
use super::inherit;

/// The programs, as the build made them.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/sdwan-ebpf"));

/// Arrays that the daemon keeps for itself beside the programs' maps.
const DAEMON_MAPS: [&str; 1] = ["site_ids"];

/// Magic number of a BPF file system (`statfs(2)`).
const BPF_FS_MAGIC: i64 = 0xcafe_4a11;

/// How many things the maps have room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacities {
    /// Flows.
    pub flows: u32,
    /// Remote sites.
    pub sites: u32,
    /// Classes.
    pub classes: u32,
    /// Paths.
    pub paths: u32,
    /// Prefixes of all sites, and prefixes in policies.
    pub prefixes: u32,
}

impl Default for Capacities {
    fn default() -> Self {
        Self {
            flows: capacity::FLOWS,
            sites: capacity::SITES,
            classes: capacity::CLASSES,
            paths: capacity::PATHS,
            prefixes: capacity::PREFIXES,
        }
    }
}

/// Where the pins are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    root: PathBuf,
}

impl Layout {
    /// In `directory`, which is on a BPF file system, with a directory of its own per ABI version.
    pub fn new(directory: &Path) -> Self {
        Self::of_version(directory, ABI_VERSION)
    }

    /// The same for another version.
    pub(super) fn of_version(directory: &Path, version: u32) -> Self {
        Self { root: directory.join(format!("v{version}")) }
    }

    /// Directory of this version's pins.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Pin of a map.
    pub fn map(&self, name: &str) -> PathBuf {
        self.root.join("maps").join(name)
    }

    /// Directory of the links' pins.
    pub fn links(&self) -> PathBuf {
        Self::links_in(&self.root)
    }

    /// The same in the directory of any version.
    pub(super) fn links_in(version: &Path) -> PathBuf {
        version.join("links")
    }

    /// Whether pins can be made here: the place is on a BPF file system. Changes nothing.
    pub fn check(&self) -> Result<(), Error> {
        // The first directory that exists tells the file system: nothing is made where the pins can't go.
        let existing = self.root.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
        let kind = nix::sys::statfs::statfs(existing).map_err(|error| Error::Pin {
            action: "look at",
            path: existing.to_owned(),
            source: error.into(),
        })?;
        match kind.filesystem_type().0 as i64 {
            BPF_FS_MAGIC => Ok(()),
            _ => Err(Error::NoBpffs { path: self.root.parent().unwrap_or(&self.root).to_owned() }),
        }
    }

    /// Makes the directories.
    pub(super) fn create(&self) -> Result<(), Error> {
        self.check()?;
        for directory in [self.root.join("maps"), self.links()] {
            std::fs::create_dir_all(&directory).map_err(|source| match source.kind() {
                io::ErrorKind::PermissionDenied => {
                    Error::Privilege { action: format!("create {}", directory.display()) }
                }
                _ => Error::Pin { action: "create", path: directory.clone(), source },
            })?;
        }
        Ok(())
    }
}

/// Name, bytes of key, bytes of value, entries.
pub(super) struct Shape(pub(super) &'static str, usize, usize, u32);

impl Shape {
    /// Has the map with this pin this shape?
    pub(super) fn fits(&self, pin: &Path) -> Result<bool, Error> {
        Ok(self.found(pin)? == (self.1, self.2, self.3))
    }

    /// What the map with this pin has: bytes of key and value, entries.
    fn found(&self, pin: &Path) -> Result<(usize, usize, u32), Error> {
        let fail = |source| Error::Map { action: "look at the pinned", map: self.0, source };
        let map = MapData::from_pin(pin).map_err(fail)?;
        let info = map.info().map_err(fail)?;
        Ok((info.key_size() as usize, info.value_size() as usize, info.max_entries()))
    }
}

/// The shape of every map that is pinned.
fn shapes(capacities: &Capacities) -> Vec<Shape> {
    fn shape<K, V>(name: &'static str, entries: u32) -> Shape {
        Shape(name, size_of::<K>(), size_of::<V>(), entries)
    }
    let sets = capacities.sites.saturating_mul(capacities.classes);
    vec![
        shape::<FlowKey, Flow>("flows", capacities.flows),
        shape::<PrefixKey, PrefixEntry>("prefixes", capacities.prefixes),
        shape::<u32, abi::Path>("paths", capacities.paths),
        shape::<u32, PathLive>("path_live", capacities.paths),
        shape::<u32, SiteLive>("site_live", capacities.sites),
        shape::<u32, SiteIdentity>("site_ids", capacities.sites),
        shape::<u32, PathSet>("path_sets", sets),
        shape::<u32, RuleSet>("match_proto", 256),
        shape::<u32, RuleSet>("match_sport", 65_536),
        shape::<u32, RuleSet>("match_dport", 65_536),
        shape::<u32, RuleSet>("match_dscp", 64),
        shape::<u32, RuleSet>("match_zone", MAX_ZONES as u32),
        shape::<PrefixKey, RuleSet>("match_src", capacities.prefixes),
        shape::<PrefixKey, RuleSet>("match_dst", capacities.prefixes),
        shape::<u32, Rule>("rules", MAX_RULES as u32),
        shape::<u32, Class>("classes", capacities.classes),
        shape::<ZoneKey, Zone>("zones", 1_024),
        shape::<TunnelPathKey, u32>("tunnel_paths", capacities.paths),
        shape::<MoveKey, u32>("moves", capacity::MOVES),
        shape::<FragmentKey, FragmentPorts>("fragments", capacity::FRAGMENTS),
        shape::<u32, PathStats>("path_stats", capacities.paths),
        shape::<u32, ClassStats>("class_stats", capacities.classes),
        shape::<u32, CopyNumbers>("copy_numbers", capacities.sites),
        shape::<u32, u64>("copies_seen", capacity::COPIES_SEEN),
        shape::<u32, CopyStats>("copy_stats", capacities.classes),
        shape::<u32, TcpSample>("tcp_samples", capacity::TCP_SAMPLES),
        shape::<u32, TcpRtt>("tcp_rtt", capacities.paths),
        shape::<u32, u64>("drops", DropReason::ALL.len() as u32),
        shape::<u32, u64>("passes", PassReason::ALL.len() as u32),
        Shape("events", 0, 0, capacity::EVENTS_BYTES),
        shape::<u32, TraceFilter>("trace", 1),
        Shape("traces", 0, 0, abi::TRACES_BYTES),
        shape::<u32, Config>("config", 1),
        shape::<u32, u64>("early_drops", EarlyDropReason::ALL.len() as u32),
        shape::<ZoneKey, LanFilter>("lan_filter", 1_024),
        shape::<u32, u64>("drop_proto", 256),
        shape::<u32, u64>("drop_sport", 65_536),
        shape::<u32, u64>("drop_dport", 65_536),
        shape::<PrefixKey, u64>("drop_src", abi::DROP_PREFIXES),
        shape::<PrefixKey, u64>("drop_dst", abi::DROP_PREFIXES),
        shape::<u32, u64>("drop_hits", 2 * MAX_DROP_RULES as u32),
        shape::<u32, Guard>("guard", 1),
        shape::<Address, u32>("guard_addresses", abi::GUARD_ADDRESSES),
        shape::<SessionKey, u64>("guard_sessions", abi::GUARD_SESSIONS),
        shape::<Address, u64>("guard_known", abi::GUARD_SESSIONS),
        shape::<OtherKey, u64>("guard_others", abi::GUARD_SOURCES),
        shape::<SourceKey, u64>("guard_sources", abi::GUARD_SOURCES),
        shape::<u32, u64>("guard_totals", guard_limit::COUNT as u32),
    ]
}

/// Loads maps and programs. Pinned maps of another shape are replaced; the log says which.
pub(super) fn load(layout: &Layout, capacities: &Capacities, tcp_rtt_per_second: u32) -> Result<Ebpf, Error> {
    layout.create()?;
    let mut loader = EbpfLoader::new();
    let shapes = shapes(capacities);
    inherit::share(layout, &shapes)?;
    for shape in &shapes {
        discard_misfit(layout, shape)?;
    }
    for Shape(name, _, _, entries) in &shapes {
        loader.map_pin_path(name, layout.map(name)).map_max_entries(name, *entries);
    }
    loader.override_global("CLASS_CAPACITY", &capacities.classes, true);
    let tcp_rtt_interval_ns = 1_000_000_000_u64.checked_div(u64::from(tcp_rtt_per_second)).unwrap_or(0);
    loader.override_global("TCP_RTT_INTERVAL_NS", &tcp_rtt_interval_ns, true);
    let mut object = loader.load(OBJECT).map_err(|error| {
        if is_denied(&error) { Error::Privilege { action: "create BPF maps".into() } } else { Error::Object(error) }
    })?;
    make_daemon_maps(layout, &shapes)?;
    inherit::copy(layout)?;
    for direction in Direction::ALL {
        let name = direction.program();
        let loaded = match direction.tc() {
            Some(_) => program(&mut object, name)?.load(),
            None => xdp(&mut object, name)?.load(),
        };
        loaded.map_err(|source| Error::Program { action: "load", program: name, source })?;
    }
    Ok(object)
}

/// Makes the maps that no program reads, and that the object therefore doesn't have.
fn make_daemon_maps(layout: &Layout, shapes: &[Shape]) -> Result<(), Error> {
    for Shape(name, key, value, entries) in shapes {
        let pin = layout.map(name);
        if !DAEMON_MAPS.contains(name) || pin.exists() {
            continue;
        }
        let parameters =
            Map::new_from_params(bpf_map_type::BPF_MAP_TYPE_ARRAY as u32, *key as u32, *value as u32, *entries, 0);
        let map = MapData::create(parameters, name, None).map_err(|source| Error::Map {
            action: "create",
            map: name,
            source,
        })?;
        map.pin(&pin).map_err(|source| Error::Map {
            action: "pin",
            map: name,
            source: MapError::PinError { name: Some((*name).to_owned()), error: source },
        })?;
    }
    Ok(())
}

/// One of the XDP programs.
pub(super) fn xdp<'a>(object: &'a mut Ebpf, name: &'static str) -> Result<&'a mut Xdp, Error> {
    let program = object.program_mut(name).ok_or_else(|| Error::Missing(format!("program {name}")))?;
    program.try_into().map_err(|source| Error::Program { action: "use", program: name, source })
}

/// One of the tc programs.
pub(super) fn program<'a>(object: &'a mut Ebpf, name: &'static str) -> Result<&'a mut SchedClassifier, Error> {
    let program = object.program_mut(name).ok_or_else(|| Error::Missing(format!("program {name}")))?;
    program.try_into().map_err(|source| Error::Program { action: "use", program: name, source })
}

/// A pinned map.
pub(super) fn open(layout: &Layout, name: &'static str) -> Result<MapData, Error> {
    MapData::from_pin(layout.map(name)).map_err(|source| Error::Map { action: "open the pin of", map: name, source })
}

fn is_denied(error: &aya::EbpfError) -> bool {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = source {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return error.kind() == io::ErrorKind::PermissionDenied;
        }
        source = error.source();
    }
    false
}

fn discard_misfit(layout: &Layout, shape: &Shape) -> Result<(), Error> {
    let Shape(name, key, value, entries) = *shape;
    let path = layout.map(name);
    if !path.exists() {
        return Ok(());
    }
    let (found_key, found_value, found_entries) = shape.found(&path)?;
    if (found_key, found_value, found_entries) == (key, value, entries) {
        return Ok(());
    }
    info!(
        map = name,
        "the pinned map has another size ({found_key}/{found_value} bytes, {found_entries} entries instead of \
         {key}/{value} and {entries}) and is made anew"
    );
    std::fs::remove_file(&path).map_err(|source| Error::Pin { action: "remove", path, source })
}

/// The directories that daemons of other ABI versions left.
pub(super) fn others(layout: &Layout) -> Result<Vec<PathBuf>, Error> {
    let Some(directory) = layout.root.parent() else { return Ok(Vec::new()) };
    Ok(versions(directory)?.into_iter().filter(|version| *version != layout.root).collect())
}

/// Whether a daemon, of this version or another, left pins in `directory`, which is that of [`Layout::new`].
pub fn anything_pinned(directory: &Path) -> Result<bool, Error> {
    versions(directory).map(|versions| !versions.is_empty())
}

/// Takes everything of ours out of the kernel: links, filters, maps. `directory` is that of [`Layout::new`]; what else
/// is in it stays. For `sdwan down`; safe to repeat.
pub fn detach_all(directory: &Path) -> Result<(), Error> {
    detach_filters(|_, _| false)?;
    for version in versions(directory)? {
        match std::fs::remove_dir_all(&version) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(Error::Pin { action: "remove", path: version, source });
            }
            _ => {}
        }
    }
    match std::fs::remove_dir(directory) {
        // The file system's own root, or a directory with somebody else's pins, stays.
        Err(source)
            if !matches!(
                source.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::ResourceBusy
            ) =>
        {
            Err(Error::Pin { action: "remove", path: directory.to_owned(), source })
        }
        _ => Ok(()),
    }
}

/// The directories of ours in `directory`: one per ABI version.
fn versions(directory: &Path) -> Result<Vec<PathBuf>, Error> {
    let fail = |source| Error::Pin { action: "list", path: directory.to_owned(), source };
    let entries = match std::fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(fail)?,
    };
    let ours = |name: &str| name.strip_prefix('v').is_some_and(|number| number.parse::<u32>().is_ok());
    let mut versions = Vec::new();
    for entry in entries {
        let entry = entry.map_err(fail)?;
        if entry.file_name().to_str().is_some_and(ours) {
            versions.push(entry.path());
        }
    }
    Ok(versions)
}
