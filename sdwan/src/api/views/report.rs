//! What paths, providers and classes did over a span of time.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::engine::sets::MoveReason;
use crate::engine::types::{SiteId, TunnelKey, UplinkIndex};
use crate::store::PathSums;

/// `GET /v1/report`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ReportView {
    /// [`super::VERSION`].
    pub version: u32,
    /// Name of this site, where it is known.
    #[serde(default)]
    pub site_name: Option<String>,
    /// Begin, Unix time in s.
    pub since_unix_s: i64,
    /// End, Unix time in s.
    pub until_unix_s: i64,
    /// Length of the steps of every series, s.
    pub step_s: i64,
    /// When the history that is kept begins, Unix time in s; what was before is unknown. `None`: there is none.
    pub history_begins_unix_s: Option<i64>,
    /// When the events that are kept begin, Unix time in s; earlier failovers aren't listed.
    pub events_begin_unix_s: Option<i64>,
    /// Paths of which something is known, by site and tunnel.
    pub paths: Vec<PathReport>,
    /// Local uplinks, likewise, by index.
    pub providers: Vec<ProviderReport>,
    /// Classes at remote sites, by site and class.
    pub classes: Vec<ClassReport>,
    /// How often classes were moved, by what moved them; the most frequent first.
    pub moves: Vec<MovesView>,
    /// Each of these moves, the latest [`MOST_FAILOVERS`], oldest first.
    pub failovers: Vec<FailoverView>,
}

/// Most failovers that a report lists one by one.
pub const MOST_FAILOVERS: usize = 1_000;

/// For how long something was up, down, and not watched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AvailabilityView {
    /// Share of the time that is known of in which it was up, percent; `None`: nothing is known.
    pub availability_pct: Option<f64>,
    /// For how long it was up, s.
    pub up_s: f64,
    /// For how long it was down, s.
    pub down_s: f64,
    /// For how long nobody watched, s: the daemon did not run, or there was no such path.
    pub unknown_s: f64,
}

impl AvailabilityView {
    /// Of a span of `length_s` seconds, of which `known_ms` are known, and `up_ms` of them up.
    pub fn new(length_s: i64, known_ms: i64, up_ms: i64) -> Self {
        let (known, up) = (known_ms as f64 / 1e3, up_ms.min(known_ms) as f64 / 1e3);
        Self {
            availability_pct: (known_ms > 0).then(|| 100.0 * up / known),
            up_s: up,
            down_s: known - up,
            unknown_s: (length_s as f64 - known).max(0.0),
        }
    }
}

/// How good a path was while it was up; means over time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct QualityView {
    /// Round-trip time, ms.
    pub rtt_ms: Option<f64>,
    /// The smallest, ms.
    pub rtt_min_ms: Option<f64>,
    /// The largest, ms.
    pub rtt_max_ms: Option<f64>,
    /// Jitter towards the peer, ms.
    pub jitter_forward_ms: Option<f64>,
    /// Jitter from the peer, ms.
    pub jitter_backward_ms: Option<f64>,
    /// Loss towards the peer, percent.
    pub loss_forward_pct: Option<f64>,
    /// Loss from the peer, percent.
    pub loss_backward_pct: Option<f64>,
    /// Mean opinion score of a G.711 call (ITU-T G.107), 1.0–4.5.
    pub mos: Option<f64>,
}

impl QualityView {
    /// Of what the store has summed up.
    pub(in crate::api) fn of(sums: &PathSums) -> Self {
        Self {
            rtt_ms: sums.rtt.value(),
            rtt_min_ms: sums.rtt_min_ms,
            rtt_max_ms: sums.rtt_max_ms,
            jitter_forward_ms: sums.jitter_forward.value(),
            jitter_backward_ms: sums.jitter_backward.value(),
            loss_forward_pct: sums.loss_forward.value(),
            loss_backward_pct: sums.loss_backward.value(),
            mos: sums.mos.value(),
        }
    }

    /// The larger jitter of the two directions, ms.
    pub fn jitter_ms(&self) -> Option<f64> {
        self.jitter_forward_ms.into_iter().chain(self.jitter_backward_ms).reduce(f64::max)
    }

    /// The larger loss of the two directions, percent.
    pub fn loss_pct(&self) -> Option<f64> {
        self.loss_forward_pct.into_iter().chain(self.loss_backward_pct).reduce(f64::max)
    }
}

/// One step of a series.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct StepView {
    /// Its begin, Unix time in s.
    pub time_unix_s: i64,
    /// Up, down and unknown.
    #[serde(flatten)]
    pub availability: AvailabilityView,
    /// How good it was.
    #[serde(flatten)]
    pub quality: QualityView,
}

/// A path.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PathReport {
    /// The remote site.
    pub site: SiteId,
    /// Its name.
    pub site_name: String,
    /// The uplink pair.
    pub tunnel: TunnelKey,
    /// Name of the local uplink.
    pub local_uplink: String,
    /// Name of the remote uplink.
    pub remote_uplink: String,
    /// Up, down and unknown.
    #[serde(flatten)]
    pub availability: AvailabilityView,
    /// How good it was.
    #[serde(flatten)]
    pub quality: QualityView,
    /// Bytes sent, probes apart.
    pub sent_bytes: u64,
    /// Bytes received, probes apart.
    pub received_bytes: u64,
    /// How often it went down, by cause, as far as events are kept.
    pub falls: BTreeMap<String, u64>,
    /// The steps of which something is known.
    pub series: Vec<StepView>,
}

/// A local uplink: up while any path by it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ProviderReport {
    /// Its index.
    pub uplink: UplinkIndex,
    /// Its name.
    pub name: String,
    /// Up, down and unknown.
    #[serde(flatten)]
    pub availability: AvailabilityView,
    /// How good the paths by it were, all together.
    #[serde(flatten)]
    pub quality: QualityView,
    /// Bytes sent, probes apart.
    pub sent_bytes: u64,
    /// Bytes received, probes apart.
    pub received_bytes: u64,
    /// The steps of which something is known.
    pub series: Vec<StepView>,
}

/// For how long a class was served as its SLA asks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ComplianceView {
    /// Share of the time that is known of in which the SLA was kept, percent; `None`: nothing is known.
    pub compliance_pct: Option<f64>,
    /// For how long the path of the class kept the SLA, s; of a class without bounds: for how long it had a path.
    pub kept_s: f64,
    /// For how long it broke it, s.
    pub broken_s: f64,
    /// For how long no path was up, s.
    pub without_path_s: f64,
    /// For how long nobody watched, s.
    pub unknown_s: f64,
}

impl ComplianceView {
    /// Of a span of `length_s` seconds, with what is known of it in ms.
    pub fn new(length_s: i64, kept_ms: i64, broken_ms: i64, without_ms: i64) -> Self {
        let seconds = |ms: i64| ms as f64 / 1e3;
        let known = seconds(kept_ms + broken_ms + without_ms);
        Self {
            compliance_pct: (known > 0.0).then(|| 100.0 * seconds(kept_ms) / known),
            kept_s: seconds(kept_ms),
            broken_s: seconds(broken_ms),
            without_path_s: seconds(without_ms),
            unknown_s: (length_s as f64 - known).max(0.0),
        }
    }
}

/// A class at a remote site.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ClassReport {
    /// The remote site.
    pub site: SiteId,
    /// Its name.
    pub site_name: String,
    /// Name of the class.
    pub class: String,
    /// Its bounds as they were last, for people; empty: none.
    pub sla: String,
    /// Kept, broken, and unknown.
    #[serde(flatten)]
    pub compliance: ComplianceView,
    /// The steps of which something is known.
    pub series: Vec<ComplianceStepView>,
}

/// One step of a class's series.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ComplianceStepView {
    /// Its begin, Unix time in s.
    pub time_unix_s: i64,
    /// Kept, broken, and unknown.
    #[serde(flatten)]
    pub compliance: ComplianceView,
}

/// How often a cause moved classes from a path.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct MovesView {
    /// Name of the remote site.
    pub site_name: String,
    /// The path that was left, as `local→remote`.
    pub from: String,
    /// Why it was left.
    pub cause: String,
    /// How often.
    pub count: u64,
    /// Names of the classes.
    pub classes: Vec<String>,
}

/// A class that left a path for another.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct FailoverView {
    /// When, Unix time in ns.
    pub time_unix_ns: i64,
    /// Name of the remote site.
    pub site_name: String,
    /// Name of the class.
    pub class: String,
    /// The path that was left, as `local→remote`.
    pub from: String,
    /// The path that it took.
    pub to: String,
    /// What moved it.
    pub reason: Option<MoveReason>,
    /// Why, as far as it is known: what befell the path that was left.
    pub cause: String,
}
