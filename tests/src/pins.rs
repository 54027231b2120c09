//! What a daemon left in the kernel, made into what a former release would have left.

use std::path::Path;

use anyhow::{Context, Result};
use aya::maps::{HashMap, Map, MapData};
use aya_obj::generated::bpf_map_type::BPF_MAP_TYPE_LRU_HASH;
use sdwan::dataplane::{FormerFlow, Layout};
use sdwan_common::abi::{Flow, FlowKey};

/// Maps that the former version did not have.
const NEW: [&str; 18] = [
    "copy_numbers",
    "copies_seen",
    "copy_stats",
    "early_drops",
    "lan_filter",
    "drop_proto",
    "drop_sport",
    "drop_dport",
    "drop_src",
    "drop_dst",
    "drop_hits",
    "guard",
    "guard_addresses",
    "guard_sessions",
    "guard_known",
    "guard_others",
    "guard_sources",
    "guard_totals",
];

/// Makes the pins in `directory`, which is that of [`Layout::new`], those of ABI version 1. No daemon may run. The programs
/// that are attached are this version's; they go on with the maps that they have.
///
/// # Errors
/// When the maps can't be read or made.
pub fn age(directory: &Path) -> Result<()> {
    let layout = Layout::new(directory);
    let pin = layout.map("flows");
    let map = MapData::from_pin(&pin).context("the flows are opened")?;
    let entries = map.info()?.max_entries();
    let flows: HashMap<MapData, FlowKey, Flow> = HashMap::try_from(Map::LruHashMap(map))?;
    let parameters = aya_obj::Map::new_from_params(
        BPF_MAP_TYPE_LRU_HASH as u32,
        size_of::<FlowKey>() as u32,
        size_of::<FormerFlow>() as u32,
        entries,
        0,
    );
    let former = MapData::create(parameters, "flows", None).context("a map of former flows is made")?;
    std::fs::remove_file(&pin)?;
    former.pin(&pin)?;
    let mut former: HashMap<MapData, FlowKey, FormerFlow> = HashMap::try_from(Map::LruHashMap(former))?;
    for (key, flow) in flows.iter().filter_map(Result::ok) {
        former.insert(key, as_former(&flow), 0)?;
    }
    for name in NEW {
        std::fs::remove_file(layout.map(name))?;
    }
    std::fs::rename(layout.root(), layout.root().with_file_name("v1"))?;
    Ok(())
}

fn as_former(flow: &Flow) -> FormerFlow {
    let Flow { path, set, epoch, set_epoch, class, rule, moves, created_ns, last_seen_ns, packets, bytes, .. } = *flow;
    FormerFlow { path, set, epoch, set_epoch, class, rule, moves, created_ns, last_seen_ns, packets, bytes }
}
