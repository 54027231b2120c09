//! What a daemon of the ABI version before this one left becomes this one's: maps whose records are the same are shared by
//! pinning them once more, flows are copied into their new shape. Flows then keep their paths, and paths and sites their
//! numbers, while the old programs go on with the old maps until the new ones are swapped in.

use std::path::{Path, PathBuf};

use aya::Pod;
use aya::maps::{Array, HashMap, Map, MapData, MapError};
use sdwan_common::abi::{ABI_VERSION, Config, Flow, FlowKey, NO_PATH};
use tracing::{info, warn};

use super::Error;
use super::load::{Layout, Shape, open};
use super::tables::fail;

/// The version whose maps are understood here.
const FORMER: u32 = 1;
/// Maps of that version that aren't shared: flows have another shape, and each version's programs go by a `config` of their
/// own.
const NOT_SHARED: [&str; 2] = ["flows", "config"];

/// A flow as version 1 had it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FormerFlow {
    /// As in [`Flow`], and so on.
    pub path: u32,
    /// Index of the path set.
    pub set: u32,
    /// Epoch of the configuration at the decision.
    pub epoch: u32,
    /// Epoch of the path set at the decision.
    pub set_epoch: u32,
    /// Class.
    pub class: u16,
    /// Rule.
    pub rule: u16,
    /// Changes of the path.
    pub moves: u32,
    /// First packet, ns.
    pub created_ns: u64,
    /// Last packet, ns.
    pub last_seen_ns: u64,
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

const _: () = assert!(size_of::<FormerFlow>() == 56);

// SAFETY: `repr(C)`, of integers only, and without padding: the size above is the sum of its fields.
unsafe impl Pod for FormerFlow {}

impl From<FormerFlow> for Flow {
    fn from(former: FormerFlow) -> Self {
        let FormerFlow { path, set, epoch, set_epoch, class, rule, moves, created_ns, last_seen_ns, packets, bytes } =
            former;
        Self {
            path,
            set,
            epoch,
            set_epoch,
            class,
            rule,
            moves,
            created_ns,
            last_seen_ns,
            packets,
            bytes,
            second: NO_PATH,
            padding: 0,
        }
    }
}

/// The directory of the former version, if there is something to take from it: none of this version has run since.
fn former(layout: &Layout) -> Option<Layout> {
    let former = Layout::of_version(layout.root().parent()?, FORMER);
    let set_up = layout.map("config").exists() && config(layout).is_ok_and(|config| config.abi_version == ABI_VERSION);
    (former.map("config").exists() && !set_up).then_some(former)
}

fn config(layout: &Layout) -> Result<Config, Error> {
    let map = Map::Array(open(layout, "config")?);
    let config: Array<MapData, Config> = Array::try_from(map).map_err(fail("open", "config"))?;
    config.get(&0, 0).map_err(fail("read", "config"))
}

/// Before the object is loaded: shares the maps that can be shared. Those of another size are made anew, as ever.
pub(super) fn share(layout: &Layout, shapes: &[Shape]) -> Result<(), Error> {
    let Some(former) = former(layout) else { return Ok(()) };
    info!(from = %former.root().display(), "taking over what a former version of the data path left");
    for shape in shapes {
        let (theirs, ours) = (former.map(shape.0), layout.map(shape.0));
        if NOT_SHARED.contains(&shape.0) || ours.exists() || !theirs.exists() || !shape.fits(&theirs)? {
            continue;
        }
        pin(&theirs, &ours, shape.0)?;
    }
    Ok(())
}

fn pin(theirs: &PathBuf, ours: &Path, name: &'static str) -> Result<(), Error> {
    let fail = |source| Error::Map { action: "share the former", map: name, source };
    let map = MapData::from_pin(theirs).map_err(fail)?;
    map.pin(ours).map_err(|error| fail(MapError::PinError { name: Some(name.to_owned()), error }))
}

/// After the object is loaded: copies the flows, and the epoch that they rest on. A flow that can't be copied is decided
/// anew.
pub(super) fn copy(layout: &Layout) -> Result<(), Error> {
    let Some(former) = former(layout) else { return Ok(()) };
    let (copied, left) = flows(&former, layout)?;
    info!(copied, left, "flows of the former version keep their paths");
    let theirs = config(&former)?;
    let map = Map::Array(open(layout, "config")?);
    let mut ours: Array<MapData, Config> = Array::try_from(map).map_err(fail("open", "config"))?;
    // Without a version: the programs wait for the first whole state.
    ours.set(0, Config { epoch: theirs.epoch, ..Config::default() }, 0).map_err(fail("write", "config"))
}

/// How many flows were copied, and how many were not.
fn flows(former: &Layout, layout: &Layout) -> Result<(usize, usize), Error> {
    let map = open(former, "flows")?;
    let size = map.info().map_err(fail("look at", "flows"))?.value_size() as usize;
    if size != size_of::<FormerFlow>() {
        warn!("the flows of the former version have {size} bytes, which no release had: they are decided anew");
        return Ok((0, 0));
    }
    let map = Map::LruHashMap(map);
    let theirs: HashMap<MapData, FlowKey, FormerFlow> = HashMap::try_from(map).map_err(fail("open", "flows"))?;
    let map = Map::LruHashMap(open(layout, "flows")?);
    let mut ours: HashMap<MapData, FlowKey, Flow> = HashMap::try_from(map).map_err(fail("open", "flows"))?;
    let (mut copied, mut left) = (0, 0);
    // Entries that vanish meanwhile belong to flows that have ended.
    for (key, flow) in theirs.iter().filter_map(Result::ok) {
        match ours.insert(key, Flow::from(flow), 0) {
            Ok(()) => copied += 1,
            Err(_) => left += 1,
        }
    }
    Ok((copied, left))
}
