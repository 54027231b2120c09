//! Which sites have live traffic: those that packets go to or come from. Both ends see the same, and so
//! probe at the same pace.

use std::collections::{BTreeMap, BTreeSet};

use super::core::Core;
use crate::engine::input::Input;
use crate::engine::types::PathKey;
use crate::measure::clock;

/// Packets on a path between two looks, a second, from which on it is live traffic: the gateways' own announcements
/// are not.
const LIVE: u64 = 8;

/// Packets of each path when it was last looked, both ways.
#[derive(Debug, Default)]
pub struct Traffic {
    seen: BTreeMap<PathKey, u64>,
}

impl Core {
    /// Tells the engine which sites packets went to or came from since the last look.
    pub(super) fn look_for_traffic(&mut self) {
        let mut sites = BTreeSet::new();
        let mut seen = BTreeMap::new();
        for (path, number) in &self.plane_status.numbers {
            // A path whose counters can't be read counts as one with traffic: it is probed fast.
            let packets = self.reader.path_counters(*number);
            let packets =
                packets.map_or(u64::MAX, |counters| counters.stats.sent_packets + counters.stats.received_packets);
            let former = self.traffic.seen.get(path).copied().unwrap_or(packets);
            if packets.saturating_sub(former) >= LIVE || packets == u64::MAX {
                sites.insert(path.site);
            }
            seen.insert(*path, packets);
        }
        self.traffic.seen = seen;
        self.engine.handle(Input::Traffic(sites), clock::now());
    }
}
