//! How a path did, for plots.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::QualityView;
use crate::engine::types::{SiteId, TunnelKey};
use crate::store::{PathSeries, PathSums};

/// `GET /v1/history`: how a path did over a span of time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct HistoryView {
    /// [`super::VERSION`].
    pub version: u32,
    /// The remote site.
    pub site: SiteId,
    /// The uplink pair.
    pub tunnel: TunnelKey,
    /// Begin, Unix time in s; up to a step before what was asked for.
    pub since_unix_s: i64,
    /// End, Unix time in s.
    pub until_unix_s: i64,
    /// Length of a step, s.
    pub step_s: i64,
    /// The steps of which something is known, in their order.
    pub points: Vec<HistoryPointView>,
}

/// How a path did in one step; means are over the time that it was up.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct HistoryPointView {
    /// Begin of the step, Unix time in s.
    pub time_unix_s: i64,
    /// Part of the time that it was up, 0–1.
    pub up_share: Option<f64>,
    /// How good it was.
    #[serde(flatten)]
    pub quality: QualityView,
    /// Mean of the known capacity towards the peer, bit/s of outer IP packets.
    pub capacity_bps: Option<f64>,
    /// The same from the peer.
    pub capacity_backward_bps: Option<f64>,
    /// User traffic sent, bit/s, over the time that the path was watched.
    pub sent_bps: Option<f64>,
    /// User traffic received, likewise.
    pub received_bps: Option<f64>,
}

impl HistoryView {
    /// What the store found.
    pub fn new(site: SiteId, tunnel: TunnelKey, series: &PathSeries) -> Self {
        let point = |sums: &PathSums| HistoryPointView::new(series.from + sums.step * series.step, sums);
        Self {
            version: super::VERSION,
            site,
            tunnel,
            since_unix_s: series.from,
            until_unix_s: series.to,
            step_s: series.step,
            points: series.points.iter().map(point).collect(),
        }
    }
}

impl HistoryPointView {
    fn new(time_unix_s: i64, sums: &PathSums) -> Self {
        let known = (sums.known_ms > 0).then_some(sums.known_ms as f64);
        let rate = |bytes: i64| known.map(|known| bytes.max(0) as f64 * 8_000.0 / known);
        Self {
            time_unix_s,
            up_share: known.map(|known| (sums.up_ms as f64 / known).min(1.0)),
            quality: QualityView::of(sums),
            capacity_bps: sums.capacity.value(),
            capacity_backward_bps: sums.capacity_backward.value(),
            sent_bps: rate(sums.sent_bytes),
            received_bps: rate(sums.received_bytes),
        }
    }
}
