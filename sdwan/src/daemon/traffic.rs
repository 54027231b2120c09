//! Which sites have live traffic: those that packets go to or come from. Both ends see the same, and so
//! probe at the same pace.

use std::collections::{BTreeMap, BTreeSet};

use super::core::Core;
use crate::engine::Time;
use crate::engine::input::Input;
use crate::engine::policy::Mode;
use crate::engine::types::PathKey;
use crate::measure::clock;

/// Packets on a path between two looks, a second, from which on it is live traffic: the gateways' own announcements
/// are not.
const LIVE: u64 = 8;

/// Bytes that a packet of a tunnel has on the line beside the inner packet, about.
const OUTER: u64 = 64;

/// What each path had carried when it was last looked, by its number: a number may be another path's by now.
#[derive(Debug, Default)]
pub struct Traffic {
    seen: Vec<Option<(PathKey, Carried)>>,
    at: Time,
}

#[derive(Clone, Copy, Debug)]
struct Carried {
    /// Both ways.
    packets: u64,
    /// Bytes on the line towards the peer; `None` when the counters can't be read.
    sent: Option<u64>,
}

impl Traffic {
    /// What each path carried towards the peer since an earlier look, bit/s on the line.
    fn loads_since(&self, former: &Self) -> BTreeMap<PathKey, u64> {
        let span_ns = self.at.since(former.at).as_nanos().max(1);
        let load = |(number, seen): (usize, &Option<(PathKey, Carried)>)| {
            let (path, carried) = (*seen)?;
            let bytes = carried.sent?.checked_sub(former.carried(number, path)?.sent?)?;
            Some((path, (u128::from(bytes) * 8_000_000_000 / span_ns) as u64))
        };
        self.seen.iter().enumerate().filter_map(load).collect()
    }

    fn carried(&self, number: usize, path: PathKey) -> Option<Carried> {
        let (known, carried) = (*self.seen.get(number)?)?;
        (known == path).then_some(carried)
    }
}

impl Core {
    /// Tells the engine which sites packets went to or came from since the last look, and, where copies need room, what the
    /// paths carried.
    pub(super) fn look_for_traffic(&mut self) {
        let mut sites = BTreeSet::new();
        let count = self.plane_status.numbers.iter().map(|(_, number)| number + 1).max().unwrap_or(0);
        let mut seen = vec![None; count as usize];
        let all = self.reader.all_path_stats(count).unwrap_or_default();
        for (path, number) in &self.plane_status.numbers {
            let number = *number as usize;
            // A path whose counters can't be read counts as one with traffic: it is probed fast.
            let stats = all.get(number);
            let sent = stats.map(|stats| stats.sent_bytes + stats.sent_packets * OUTER);
            let packets = stats.map_or(u64::MAX, |stats| stats.sent_packets + stats.received_packets);
            let former = self.traffic.carried(number, *path).map_or(packets, |former| former.packets);
            if packets.saturating_sub(former) >= LIVE || packets == u64::MAX {
                sites.insert(path.site);
            }
            seen[number] = Some((*path, Carried { packets, sent }));
        }
        let now = clock::now();
        let former = std::mem::replace(&mut self.traffic, Traffic { seen, at: now });
        self.engine.handle(Input::Traffic(sites), now);
        if self.engine.compilation().classes.iter().any(|class| class.mode == Mode::Duplicate) {
            self.engine.handle(Input::Load(self.traffic.loads_since(&former)), now);
        }
    }
}
