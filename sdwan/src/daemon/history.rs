//! Periodic records of how each path does.

use std::collections::BTreeMap;

use sdwan_common::abi::PathStats;

use super::core::Core;
use super::views::{milliseconds, percent, tcp_milliseconds};
use crate::dataplane::TcpRttSummary;
use crate::engine::Time;
use crate::engine::emodel::Codec;
use crate::engine::path::{Path, PathState};
use crate::engine::score::mean_opinion_score;
use crate::engine::types::{PathKey, SiteId};
use crate::measure::clock;
use crate::store::{PathMetrics, Record};

/// Sites recorded at a time: no answer waits for more.
const AT_ONCE: usize = 16;

/// The counters at the last record, for the differences, and the record that is being made.
#[derive(Debug, Default)]
pub struct History {
    last: BTreeMap<PathKey, PathStats>,
    round: Option<Round>,
}

impl History {
    /// Whether a record is being made.
    pub fn in_work(&self) -> bool {
        self.round.is_some()
    }
}

/// A record of all paths in the making.
#[derive(Debug)]
struct Round {
    time_unix_s: i64,
    sites: std::vec::IntoIter<SiteId>,
    numbers: BTreeMap<PathKey, u32>,
    counters: Vec<PathStats>,
    /// The counters of those that are recorded.
    seen: BTreeMap<PathKey, PathStats>,
}

impl Core {
    /// Begins to record the state of each path.
    pub(super) fn record(&mut self) {
        let numbers: BTreeMap<PathKey, u32> = self.plane_status.numbers.iter().copied().collect();
        let count = numbers.values().map(|number| number + 1).max().unwrap_or(0);
        let sites: Vec<SiteId> = self.engine.sites().map(|site| site.remote().id).collect();
        self.history.round = Some(Round {
            time_unix_s: (clock::unix_ns() / 1_000_000_000) as i64,
            sites: sites.into_iter(),
            counters: self.reader.all_path_stats(count).unwrap_or_default(),
            numbers,
            seen: BTreeMap::new(),
        });
    }

    /// Records the next few sites' paths, if a record is being made.
    pub(super) fn record_some(&mut self) {
        let Some(mut round) = self.history.round.take() else { return };
        let now = clock::now();
        for id in round.sites.by_ref().take(AT_ONCE) {
            // One that is gone meanwhile has no paths.
            let Some(site) = self.engine.site(&id) else { continue };
            for (tunnel, path) in site.paths() {
                let key = PathKey { site: id, tunnel };
                let number = round.numbers.get(&key).copied();
                let stats = number.and_then(|number| round.counters.get(number as usize).copied()).unwrap_or_default();
                let former = self.history.last.get(&key).copied().unwrap_or(stats);
                let tcp = self.tcp_rtt(number, now);
                let metrics = metrics(round.time_unix_s, key, path, &Counted { stats, former, tcp });
                self.store.record(Record::PathMetrics(Box::new(metrics)));
                round.seen.insert(key, stats);
            }
        }
        if round.sites.len() > 0 {
            self.history.round = Some(round);
        } else {
            self.history.last = round.seen;
        }
    }

    fn tcp_rtt(&self, number: Option<u32>, now: Time) -> TcpRttSummary {
        let Some(number) = number else { return TcpRttSummary::default() };
        self.reader.tcp_rtt(number, now).unwrap_or_default()
    }
}

/// What the data path counted on a path.
struct Counted {
    stats: PathStats,
    /// At the last record.
    former: PathStats,
    tcp: TcpRttSummary,
}

fn metrics(time_unix_s: i64, key: PathKey, path: &Path, counted: &Counted) -> PathMetrics {
    let Counted { stats, former, tcp } = counted;
    let quality = path.quality();
    let data = quality.data_loss;
    let up = path.state() == PathState::Up;
    PathMetrics {
        time_unix_s,
        path: key,
        up,
        score: if up { path.score() } else { 0.0 },
        rtt_ms: quality.rtt.map(milliseconds),
        jitter_forward_ms: milliseconds(quality.jitter_forward),
        jitter_backward_ms: milliseconds(quality.jitter_backward),
        loss_forward_pct: percent(quality.loss.forward, quality.loss.probes),
        loss_backward_pct: percent(quality.loss.backward, quality.loss.probes),
        mos: mean_opinion_score(Codec::G711, quality).filter(|_| up),
        data_loss_forward_pct: percent(data.forward, data.forward_packets),
        data_loss_forward_packets: data.forward_packets,
        data_loss_backward_pct: percent(data.backward, data.backward_packets),
        data_loss_backward_packets: data.backward_packets,
        tcp_rtt_ms: tcp_milliseconds(tcp.median, tcp),
        tcp_rtt_min_ms: tcp_milliseconds(tcp.minimum, tcp),
        sent_packets: stats.sent_packets.saturating_sub(former.sent_packets),
        sent_bytes: stats.sent_bytes.saturating_sub(former.sent_bytes),
        received_packets: stats.received_packets.saturating_sub(former.received_packets),
        received_bytes: stats.received_bytes.saturating_sub(former.received_bytes),
    }
}
