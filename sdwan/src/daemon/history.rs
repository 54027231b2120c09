//! Periodic records of how each path does.

use std::collections::BTreeMap;

use sdwan_common::abi::PathStats;

use super::core::Core;
use super::views::{milliseconds, percent, tcp_milliseconds};
use crate::dataplane::TcpRttSummary;
use crate::engine::Time;
use crate::engine::emodel::Codec;
use crate::engine::path::PathState;
use crate::engine::score::mean_opinion_score;
use crate::engine::types::PathKey;
use crate::measure::clock;
use crate::store::{PathMetrics, Record};

/// The counters at the last record, for the differences.
#[derive(Debug, Default)]
pub struct History {
    last: BTreeMap<PathKey, PathStats>,
}

impl Core {
    /// Records the state of each path.
    pub(super) fn record(&mut self) {
        let time_unix_s = (clock::unix_ns() / 1_000_000_000) as i64;
        let now = clock::now();
        let numbers: BTreeMap<PathKey, u32> = self.plane_status.numbers.iter().copied().collect();
        let count = numbers.values().map(|number| number + 1).max().unwrap_or(0);
        let counters = self.reader.all_path_stats(count).unwrap_or_default();
        let mut last = BTreeMap::new();
        for site in self.engine.sites() {
            for (tunnel, path) in site.paths() {
                let key = PathKey { site: site.remote().id, tunnel };
                let number = numbers.get(&key).copied();
                let stats = number.and_then(|number| counters.get(number as usize).copied()).unwrap_or_default();
                let tcp = self.tcp_rtt(number, now);
                let former = self.history.last.get(&key).copied().unwrap_or(stats);
                let quality = path.quality();
                let data = quality.data_loss;
                let up = path.state() == PathState::Up;
                self.store.record(Record::PathMetrics(Box::new(PathMetrics {
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
                    tcp_rtt_ms: tcp_milliseconds(tcp.median, &tcp),
                    tcp_rtt_min_ms: tcp_milliseconds(tcp.minimum, &tcp),
                    sent_packets: stats.sent_packets.saturating_sub(former.sent_packets),
                    sent_bytes: stats.sent_bytes.saturating_sub(former.sent_bytes),
                    received_packets: stats.received_packets.saturating_sub(former.received_packets),
                    received_bytes: stats.received_bytes.saturating_sub(former.received_bytes),
                })));
                last.insert(key, stats);
            }
        }
        self.history.last = last;
    }

    fn tcp_rtt(&self, number: Option<u32>, now: Time) -> TcpRttSummary {
        let Some(number) = number else { return TcpRttSummary::default() };
        self.reader.tcp_rtt(number, now).unwrap_or_default()
    }
}
