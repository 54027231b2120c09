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

/// What each path had carried when it was last looked.
#[derive(Debug, Default)]
pub struct Traffic {
    /// Packets, both ways.
    seen: BTreeMap<PathKey, u64>,
    /// Bytes on the line towards the peer.
    sent: BTreeMap<PathKey, u64>,
    at: Time,
}

impl Core {
    /// Tells the engine which sites packets went to or came from since the last look, and, where copies need room, what the
    /// paths carried.
    pub(super) fn look_for_traffic(&mut self) {
        let mut sites = BTreeSet::new();
        let (mut seen, mut sent) = (BTreeMap::new(), BTreeMap::new());
        for (path, number) in &self.plane_status.numbers {
            // A path whose counters can't be read counts as one with traffic: it is probed fast.
            let stats = self.reader.path_counters(*number).map(|counters| counters.stats);
            if let Ok(stats) = &stats {
                sent.insert(*path, stats.sent_bytes + stats.sent_packets * OUTER);
            }
            let packets = stats.map_or(u64::MAX, |stats| stats.sent_packets + stats.received_packets);
            let former = self.traffic.seen.get(path).copied().unwrap_or(packets);
            if packets.saturating_sub(former) >= LIVE || packets == u64::MAX {
                sites.insert(path.site);
            }
            seen.insert(*path, packets);
        }
        let now = clock::now();
        let span_ns = now.since(self.traffic.at).as_nanos().max(1);
        let rate = |(path, bytes): (&PathKey, &u64)| {
            let former = self.traffic.sent.get(path).filter(|former| *former <= bytes)?;
            Some((*path, (u128::from(bytes - former) * 8_000_000_000 / span_ns) as u64))
        };
        let loads: BTreeMap<PathKey, u64> = sent.iter().filter_map(rate).collect();
        self.traffic = Traffic { seen, sent, at: now };
        self.engine.handle(Input::Traffic(sites), now);
        if self.engine.compilation().classes.iter().any(|class| class.mode == Mode::Duplicate) {
            self.engine.handle(Input::Load(loads), now);
        }
    }
}
