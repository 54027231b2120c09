//! The data path as one thing: programs, attachments, maps.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use aya::Ebpf;
use sdwan_common::abi::TraceFilter;

use super::attach::{AttachMode, Attacher, Attachment, XdpState};
use super::desired::{Change, Desired, WallClock};
use super::early::{EarlyDesired, EarlyMaps, XdpMode};
use super::load::{Capacities, Layout, load, open};
use super::tables::{KernelArray, KernelHash, KernelPerCpu, KernelTrie, Table, Tables};
use super::{Error, Reconciler};
use crate::engine::Time;
use crate::engine::types::PathKey;

/// How to set up the data path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Directory of the pins, on a BPF file system; usually `/sys/fs/bpf/sdwan`.
    pub directory: PathBuf,
    /// Room in the maps.
    pub capacities: Capacities,
    /// Most measurements of TCP's round-trip time per path and second; 0 for none.
    pub tcp_rtt_per_second: u32,
}

/// The data path of this gateway. Dropping it leaves packets flowing.
pub struct Dataplane {
    object: Ebpf,
    attacher: Attacher,
    reconciler: Reconciler,
    early: EarlyMaps,
    trace: KernelArray<TraceFilter>,
    layout: Layout,
}

impl Dataplane {
    /// Loads the programs onto the pinned maps, adopting what an earlier daemon left.
    ///
    /// # Errors
    /// Missing privileges, no BPF file system, or a kernel that refuses the object; the text says what to do.
    pub fn open(settings: &Settings) -> Result<Self, Error> {
        Self::open_with(settings, AttachMode::of_this_kernel())
    }

    /// The same with a way of attaching that the caller chooses.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_with(settings: &Settings, mode: AttachMode) -> Result<Self, Error> {
        let layout = Layout::new(&settings.directory);
        let object = load(&layout, &settings.capacities, settings.tcp_rtt_per_second)?;
        let reconciler = Reconciler::new(tables(&layout)?, settings.capacities)?;
        let early = EarlyMaps::open(&layout)?;
        let trace = KernelArray::open("trace", open(&layout, "trace")?)?;
        let attacher = Attacher::new(layout.clone(), mode);
        Ok(Self { object, attacher, reconciler, early, trace, layout })
    }

    /// Where the pins are.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// How programs are attached.
    pub fn mode(&self) -> AttachMode {
        self.attacher.mode()
    }

    /// The number of a path in the maps.
    pub fn path_number(&self, path: &PathKey) -> Option<u32> {
        self.reconciler.path_number(path)
    }

    /// Every path with its number in the maps.
    pub fn path_numbers(&self) -> Vec<(PathKey, u32)> {
        self.reconciler.path_numbers().iter().collect()
    }

    /// Makes the maps what is desired.
    pub fn apply(&mut self, desired: &Desired) -> Result<(), Error> {
        self.reconciler.apply(desired)
    }

    /// Makes the maps of the XDP programs what is desired.
    pub fn apply_early(&mut self, desired: &EarlyDesired, now: Time) -> Result<(), Error> {
        self.early.apply(desired, now)
    }

    /// Whether an interface without native XDP is an error. Before the first [`Self::attach`] it is none.
    pub fn set_xdp_mode(&mut self, mode: XdpMode) {
        self.attacher.set_xdp_mode(mode);
    }

    /// How XDP does on each interface that shall have it.
    pub fn xdp(&self) -> &BTreeMap<String, XdpState> {
        self.attacher.xdp()
    }

    /// Attaches to these interfaces and no others; the errors of those that failed.
    pub fn attach(&mut self, wanted: &BTreeSet<Attachment>) -> Vec<Error> {
        self.attacher.reconcile(&mut self.object, wanted)
    }

    /// Whether `uplink_egress` came to an interface where it wasn't before, since this was last asked.
    pub fn take_new_uplink(&self) -> bool {
        self.attacher.take_new_uplink()
    }

    /// The guard may have missed how sessions began: it learns anew.
    pub fn relearn(&mut self, now: Time) -> Result<(), Error> {
        self.early.relearn(now)
    }

    /// Makes single changes.
    pub fn change(&mut self, changes: &[Change]) -> Result<(), Error> {
        self.reconciler.change(changes)
    }

    /// Has the programs tell of a flow's packets, or of none.
    pub fn trace(&mut self, filter: Option<&TraceFilter>) -> Result<(), Error> {
        match filter {
            // The filter before the order to look at it.
            Some(filter) => {
                self.trace.set(&0, filter)?;
                self.reconciler.set_traced(true)
            }
            None => self.reconciler.set_traced(false),
        }
    }

    /// Shows that the daemon probes.
    pub fn heartbeat(&mut self, now: Time, clock: WallClock) -> Result<(), Error> {
        self.reconciler.heartbeat(now, clock)
    }
}

fn tables(layout: &Layout) -> Result<Tables, Error> {
    fn array<V: aya::Pod + Default + PartialEq + Send>(
        layout: &Layout,
        name: &'static str,
    ) -> Result<Box<KernelArray<V>>, Error> {
        Ok(Box::new(KernelArray::open(name, open(layout, name)?)?))
    }
    Ok(Tables {
        site_ids: array(layout, "site_ids")?,
        prefixes: Box::new(KernelTrie::open("prefixes", open(layout, "prefixes")?)?),
        paths: array(layout, "paths")?,
        path_stats: Box::new(KernelPerCpu::open("path_stats", open(layout, "path_stats")?)?),
        path_live: array(layout, "path_live")?,
        tcp_rtt: array(layout, "tcp_rtt")?,
        copy_numbers: array(layout, "copy_numbers")?,
        tunnel_paths: Box::new(KernelHash::open("tunnel_paths", open(layout, "tunnel_paths")?)?),
        path_sets: array(layout, "path_sets")?,
        zones: Box::new(KernelHash::open("zones", open(layout, "zones")?)?),
        rules: array(layout, "rules")?,
        classes: array(layout, "classes")?,
        protocol: array(layout, "match_proto")?,
        source_port: array(layout, "match_sport")?,
        destination_port: array(layout, "match_dport")?,
        dscp: array(layout, "match_dscp")?,
        zone: array(layout, "match_zone")?,
        source: Box::new(KernelTrie::open("match_src", open(layout, "match_src")?)?),
        destination: Box::new(KernelTrie::open("match_dst", open(layout, "match_dst")?)?),
        config: array(layout, "config")?,
    })
}
