//! What the API shows. Every answer that lists something is a [`Listing`] and carries a version; [`StatusView`],
//! [`ExplainView`] and the others carry it themselves. Fields are added without raising it; one that goes or changes
//! its meaning raises it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::engine::capacity::search::Ended;
use crate::engine::capacity::{Direction, How as CapacityHow};
use crate::engine::events::EngineEvent;
use crate::engine::mtu::{How, State};
use crate::engine::path::PathState;
use crate::engine::types::{MeshId, SiteId, TunnelKey};
use crate::store::StoreHealth;

mod access;
mod history;
mod report;
mod steering;
mod traced;

pub use access::*;
pub use history::*;
pub use report::*;
pub use steering::*;
pub use traced::*;

/// Version of every JSON document of the API.
pub const VERSION: u32 = 1;

/// A list with its version.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Listing<T> {
    /// [`VERSION`].
    pub version: u32,
    /// The entries.
    pub items: Vec<T>,
    /// Whether there are more than the limit allowed.
    #[serde(default)]
    pub truncated: bool,
}

impl<T> Listing<T> {
    /// All there is.
    pub fn complete(items: Vec<T>) -> Self {
        Self { version: VERSION, items, truncated: false }
    }

    /// At most `limit` of the items; give one more than that to let it see that there are more.
    pub fn limited(mut items: Vec<T>, limit: usize) -> Self {
        let truncated = items.len() > limit;
        items.truncate(limit);
        Self { version: VERSION, items, truncated }
    }

    /// The same of items of which the latest, the last ones, were asked for: the one too many is the oldest.
    pub fn latest(mut items: Vec<T>, limit: usize) -> Self {
        let more = items.len().saturating_sub(limit);
        items.drain(..more);
        Self { version: VERSION, items, truncated: more > 0 }
    }
}

/// How the gateway does as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Health {
    /// Everything works.
    Ok,
    /// Traffic flows, and something needs attention: [`StatusView::problems`] says what.
    Degraded,
    /// Traffic to a site or the data path fails.
    Failing,
}

/// `GET /v1/status`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct StatusView {
    /// [`VERSION`].
    pub version: u32,
    /// How it does.
    pub health: Health,
    /// One sentence each with its remedy; empty when the health is [`Health::Ok`].
    pub problems: Vec<String>,
    /// Version of the running daemon.
    pub daemon_version: String,
    /// Process id of the daemon.
    pub pid: u32,
    /// Seconds since the daemon started.
    pub uptime_s: u64,
    /// Unix time at which it started, milliseconds: another one after a restart or a reload.
    #[serde(default)]
    pub started_unix_ms: u64,
    /// Mesh.
    pub mesh: MeshId,
    /// This site's id.
    pub site: SiteId,
    /// This site's name.
    pub site_name: String,
    /// This site's overlay address.
    #[schema(value_type = Option<String>)]
    pub overlay: Option<IpAddr>,
    /// Prefixes that this site announces.
    #[schema(value_type = Vec<String>)]
    pub prefixes: Vec<IpNet>,
    /// Unix time at which this site's certificate expires, seconds.
    pub certificate_expires_unix: Option<u64>,
    /// Which WireGuard carries the tunnels: `kernel` or `userspace`.
    pub tunnel_backend: String,
    /// `both`, `to-tunnel` or `off`.
    pub fast_path: String,
    /// How the programs are attached: `tcx`, `clsact`, or `detached`.
    pub attach_mode: String,
    /// Interfaces that the programs are attached to.
    pub attached: Vec<String>,
    /// Local uplinks.
    pub uplinks: Vec<UplinkView>,
    /// Number of remote sites by state (`active`, `inactive`).
    pub sites: BTreeMap<String, u64>,
    /// Number of paths by state (`up`, `down`, `starting`, `recovering`), and `degraded` among those that are up.
    pub paths: BTreeMap<String, u64>,
    /// How often the daemon came late to its probes, because the machine let it wait.
    #[serde(default)]
    pub stalls: u64,
    /// How long it took, in the last minute, until what a decision changed was in the data path: of decisions by an answer to
    /// a probe (`answer`), and by a time that came, as when silence was borne for long enough (`due`).
    #[serde(default)]
    pub decisions: BTreeMap<String, DecisionsView>,
    /// Number of policies that apply.
    pub policies: u64,
    /// Packets dropped by the programs, by reason.
    pub drops: BTreeMap<String, u64>,
    /// Packets that each drop rule dropped, since the rules were last changed.
    #[serde(default)]
    pub drop_rules: BTreeMap<String, u64>,
    /// Interfaces that shall have an XDP program: `native`, or `off: ` and why.
    #[serde(default)]
    pub xdp: BTreeMap<String, String>,
    /// Packets left to the stack by the programs, by reason.
    pub passes: BTreeMap<String, u64>,
    /// Connections and requests that the API refused since the start, by reason.
    #[serde(default)]
    pub api_refused: BTreeMap<String, u64>,
    /// Announcements refused since the start, by reason.
    pub refused_announcements: BTreeMap<String, u64>,
    /// Other losses of the daemon's own since the start, such as events that found their queue full, by name.
    pub internal_drops: BTreeMap<String, u64>,
    /// Packets that the STAMP reflector outside the tunnels answered (`answered`), and those that it refused, by reason;
    /// empty when `[stamp]` lists no address.
    #[serde(default)]
    pub stamp_reflector: BTreeMap<String, u64>,
    /// What happened to path MTU probes since the start, by name.
    #[serde(default)]
    pub mtu_probes: BTreeMap<String, u64>,
    /// The database.
    pub store: StoreHealth,
}

/// A local uplink.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct UplinkView {
    /// Index, 0..=7.
    pub index: u8,
    /// Name.
    pub name: String,
    /// Interface.
    pub interface: String,
    /// Whether it can carry tunnels.
    pub usable: bool,
    /// Why it can't, if so.
    pub reason: Option<String>,
    /// Addresses.
    #[schema(value_type = Vec<String>)]
    pub addresses: Vec<IpAddr>,
    /// Gateways.
    #[schema(value_type = Vec<String>)]
    pub gateways: Vec<IpAddr>,
    /// MTU, bytes.
    pub mtu: u16,
    /// Whether its bytes cost money.
    pub metered: bool,
}

/// An element of `GET /v1/sites`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SiteView {
    /// Identity.
    pub id: SiteId,
    /// Name in its certificate.
    pub name: String,
    /// `active` or `inactive`.
    pub state: String,
    /// Seconds since it is in this state.
    pub since_s: u64,
    /// Overlay address.
    #[schema(value_type = Option<String>)]
    pub overlay: Option<IpAddr>,
    /// Prefixes behind it.
    #[schema(value_type = Vec<String>)]
    pub prefixes: Vec<IpNet>,
    /// Names of its uplinks.
    pub uplinks: Vec<String>,
    /// Paths to it that are up.
    pub paths_up: u32,
    /// Paths to it.
    pub paths: u32,
    /// Score of its best path, 0–100.
    pub best_score: Option<f64>,
    /// Seconds since its last announcement.
    pub last_announcement_s: Option<u64>,
    /// Unix time at which its certificate expires, seconds.
    pub certificate_expires_unix: Option<u64>,
}

/// An element of `GET /v1/paths`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PathView {
    /// Number in the data path, index into the map `paths`.
    pub number: Option<u32>,
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
    /// Tunnel interface.
    pub interface: String,
    /// Underlay endpoint of the other end.
    pub endpoint: Option<String>,
    /// State.
    pub state: PathState,
    /// Up, and its score below what is good enough.
    pub degraded: bool,
    /// Seconds since it is in this state.
    pub since_s: u64,
    /// Quality score, 0–100.
    pub score: f64,
    /// Smoothed round-trip time, ms.
    pub rtt_ms: Option<f64>,
    /// Smallest round-trip time of the last minute or two, ms.
    pub rtt_min_ms: Option<f64>,
    /// Variation of the round-trip time (RFC 6298 RTTVAR), ms.
    pub rtt_variation_ms: f64,
    /// Jitter towards the peer (RFC 3550), ms.
    pub jitter_forward_ms: f64,
    /// Jitter from the peer, ms.
    pub jitter_backward_ms: f64,
    /// Loss towards the peer over the window, percent.
    pub loss_forward_pct: Option<f64>,
    /// Loss from the peer over the window, percent.
    pub loss_backward_pct: Option<f64>,
    /// Loss of the data itself towards the peer over the window, percent; none without data, or where an end doesn't
    /// count.
    #[serde(default)]
    pub data_loss_forward_pct: Option<f64>,
    /// Packets that it rests on.
    #[serde(default)]
    pub data_loss_forward_packets: u64,
    /// Loss of the data itself from the peer over the window, percent, likewise.
    #[serde(default)]
    pub data_loss_backward_pct: Option<f64>,
    /// Packets that it rests on.
    #[serde(default)]
    pub data_loss_backward_packets: u64,
    /// Round-trip time of TCP by this path, from this gateway to the remote hosts and back, by the timestamps of the
    /// flows' own packets (RFC 7323): median of the last measurements of the last minute, ms. The remote LAN and the
    /// hosts' delayed acknowledgements are in it.
    #[serde(default)]
    pub tcp_rtt_ms: Option<f64>,
    /// The smallest of them, ms.
    #[serde(default)]
    pub tcp_rtt_min_ms: Option<f64>,
    /// How many they are, at most 64.
    #[serde(default)]
    pub tcp_rtt_samples: u32,
    /// Mean opinion score of a G.711 call (ITU-T G.107), 1.0–4.5.
    pub mos: Option<f64>,
    /// The same by codec: `g711`, `g729`, `opus`.
    #[serde(default)]
    pub mos_by_codec: BTreeMap<String, f64>,
    /// Delay of each direction.
    #[serde(default)]
    pub one_way: Option<OneWayView>,
    /// What the path did over the last minute, quarter of an hour, and day, where there was an answer.
    #[serde(default)]
    pub spans: Vec<SpanView>,
    /// Capacity towards the peer, bit/s of outer IP packets.
    pub capacity_bps: Option<u64>,
    /// How it is known.
    #[serde(default)]
    pub capacity_how: Option<CapacityHow>,
    /// Seconds since it was found; `None` for a declared one.
    #[serde(default)]
    pub capacity_age_s: Option<u64>,
    /// Capacity from the peer, bit/s of outer IP packets, as the peer measured it or traffic showed it.
    #[serde(default)]
    pub capacity_backward_bps: Option<u64>,
    /// How it is known.
    #[serde(default)]
    pub capacity_backward_how: Option<CapacityHow>,
    /// Seconds since it was found.
    #[serde(default)]
    pub capacity_backward_age_s: Option<u64>,
    /// Largest IP packet that fits, bytes.
    pub mtu: u16,
    /// How that is known: `configured`, `searched`, or `base` when a search goes on after packets vanished.
    #[serde(default)]
    pub mtu_by: How,
    /// Largest IP packet on the underlay, bytes, if probes told.
    #[serde(default)]
    pub underlay_mtu: Option<u16>,
    /// Packets sent, probes apart.
    pub sent_packets: u64,
    /// Bytes of them.
    pub sent_bytes: u64,
    /// Packets received, probes apart.
    pub received_packets: u64,
    /// Bytes of them.
    pub received_bytes: u64,
    /// Time between probes, ms.
    pub probe_interval_ms: f64,
    /// After so long without an answer the path is left, ms: the missed probes, and room for the delay variation.
    #[serde(default)]
    pub detection_ms: f64,
}

/// Delay of each direction: the smallest of the last 10 to 20 s.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct OneWayView {
    /// Towards the peer, ms.
    pub forward_ms: f64,
    /// From the peer, ms.
    pub backward_ms: f64,
    /// Both clocks are synchronised to UTC. If not, each delay is off by their difference and may be negative.
    pub synchronized: bool,
    /// How far off each delay may be, by what both ends say of their clocks, ms; `None` unless both are synchronised.
    #[serde(default)]
    pub error_ms: Option<f64>,
}

/// What a path did over a span of time.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SpanView {
    /// The span, s. What is shown covers it and at most half of it more.
    pub span_s: u64,
    /// Answered probes.
    pub samples: u64,
    /// Smallest round-trip time, ms.
    pub rtt_min_ms: f64,
    /// Median round-trip time, ms; it and the quantiles are off by 0.8 % at most where the times stay within a factor of 1.5.
    pub rtt_p50_ms: f64,
    /// 95 % quantile, ms.
    pub rtt_p95_ms: f64,
    /// 99 % quantile, ms.
    pub rtt_p99_ms: f64,
    /// Largest round-trip time, ms.
    pub rtt_max_ms: f64,
    /// Mean delay variation of successive probes towards the peer, ms.
    pub jitter_forward_ms: f64,
    /// The same from the peer, ms.
    pub jitter_backward_ms: f64,
    /// Loss towards the peer, percent.
    pub loss_forward_pct: Option<f64>,
    /// Loss from the peer, percent.
    pub loss_backward_pct: Option<f64>,
    /// Probes without an answer, whichever way they were lost, percent.
    pub loss_round_trip_pct: Option<f64>,
}

/// An element of `GET /v1/events`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct EventView {
    /// Number; later events have larger ones.
    pub id: i64,
    /// When, Unix time in nanoseconds.
    pub time_unix_ns: i64,
    /// What happened.
    #[serde(flatten)]
    pub event: EngineEvent,
}

/// `POST /v1/capacity`: measure a path now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CapacityOrder {
    /// The path: `SITE`, `SITE/0-1` or `SITE/LOCAL/REMOTE`, with a site's name or id and uplinks' names.
    pub path: String,
    /// The direction.
    pub direction: Direction,
    /// On a metered uplink as well.
    #[serde(default)]
    pub metered: bool,
}

/// `POST /v1/capacity` and `GET /v1/capacity/ID`: a measurement that was ordered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CapacityRunView {
    /// [`VERSION`].
    pub version: u32,
    /// Its number.
    pub id: u64,
    /// The path, as `SITE/LOCAL/REMOTE`.
    pub path: String,
    /// The direction.
    pub direction: Direction,
    /// It is over: there is an outcome or an error.
    pub done: bool,
    /// How far it is, 0–100, by guess.
    pub progress_pct: f64,
    /// What it looks like so far, bit/s.
    pub estimate_bps: Option<u64>,
    /// Outer bytes that this site sent for it.
    pub sent_bytes: u64,
    /// What was found.
    pub outcome: Option<CapacityOutcomeView>,
    /// Why nothing was found.
    pub error: Option<String>,
}

/// What a capacity measurement found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CapacityOutcomeView {
    /// IP-layer capacity of the underlay: bits of outer IP packets per second, with WireGuard's overhead.
    pub capacity_bps: Option<u64>,
    /// The same as bits of full-size IP packets inside the tunnel per second.
    pub inner_bps: Option<u64>,
    /// What the trains got beside other traffic, bit/s of outer IP packets; unknown backward.
    pub available_bps: Option<u64>,
    /// Largest rate at which live traffic was delivered lately, bit/s of outer IP packets.
    pub passive_bps: Option<u64>,
    /// Why it ended; anything but `found` means that the capacity is a lower bound.
    pub ended: Ended,
    /// The same for people.
    pub note: String,
    /// Median distance of the readings from their median, percent.
    pub spread_pct: f64,
    /// Readings of the full bottleneck.
    pub readings: usize,
    /// Trains sent.
    pub trains: u16,
    /// Time that it took, s.
    pub took_s: f64,
}

/// `POST /v1/down` and other requests whose only answer is that it was done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DoneView {
    /// [`VERSION`].
    pub version: u32,
    /// One sentence: what was done.
    pub message: String,
}

impl DoneView {
    /// Something was done.
    pub fn new(message: impl Into<String>) -> Self {
        Self { version: VERSION, message: message.into() }
    }
}

/// A request that failed, with its HTTP status.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ErrorView {
    /// [`VERSION`].
    pub version: u32,
    /// What is wrong and what to do.
    pub error: String,
}

/// Answer to `POST /v1/measure/mtu`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct MtuView {
    /// [`VERSION`].
    pub version: u32,
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
    /// Where probes go.
    pub endpoint: Option<String>,
    /// Largest IP packet on the underlay, bytes; `None` when nothing was measured.
    pub underlay_mtu: Option<u16>,
    /// What is left of that inside a tunnel packet, bytes, WireGuard's padding included.
    pub room: Option<u16>,
    /// How it is known: `configured`, `searched`, or `base` while a search goes on.
    pub by: How,
    /// Where the search is (RFC 8899 section 5.2).
    pub state: State,
    /// Whether the search ended in time.
    pub finished: bool,
    /// Whether anybody answers.
    pub contact: bool,
    /// Probes sent.
    pub probes: u32,
    /// Those of them that stayed without an answer.
    pub unanswered: u32,
    /// How long the search took, ms.
    pub took_ms: f64,
}
