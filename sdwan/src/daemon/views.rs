//! The engine's state as the API shows it.

use std::collections::BTreeMap;
use std::time::Duration;

use sdwan_common::abi::PathStats;

use super::desired::{local_uplink_name, remote_uplink_name};
use crate::api::views::{DecisionsView, OneWayView, PathView, SiteView, SpanView, UplinkView};
use crate::config::Config;
use crate::dataplane::{Reader, TcpRttSummary};
use crate::engine::capacity::{Direction, Estimate, How as CapacityHow};
use crate::engine::emodel::Codec;
use crate::engine::estimate::SpanQuality;
use crate::engine::mtu::How;
use crate::engine::path::{Path, PathState};
use crate::engine::score::mean_opinion_score;
use crate::engine::types::{LocalUplink, PathKey, SiteId, TunnelKey};
use crate::engine::{Engine, Site, Time, uplink_usable};

/// A duration in ms.
pub fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// A loss ratio in percent; `None` before there was a probe, or a packet, that it could rest on.
pub fn percent(ratio: f64, count: impl Into<u64>) -> Option<f64> {
    (count.into() > 0).then_some(ratio * 100.0)
}

/// A time of TCP in ms; `None` before there was a measurement.
pub fn tcp_milliseconds(time: Duration, tcp: &TcpRttSummary) -> Option<f64> {
    (tcp.samples > 0).then(|| milliseconds(time))
}

/// Name of a path's state, as counted in the status.
pub fn state_name(state: PathState) -> &'static str {
    match state {
        PathState::Starting => "starting",
        PathState::Up => "up",
        PathState::Down => "down",
        PathState::Recovering => "recovering",
    }
}

/// What the engine doesn't keep about a remote site.
#[derive(Clone, Debug, Default)]
pub struct SiteFacts {
    /// Its name, for when it is inactive.
    pub name: String,
    /// End of its certificate, Unix time in s.
    pub certificate_expires_unix: Option<u64>,
    /// When its last announcement came in.
    pub announced: Option<Time>,
    /// When it became inactive.
    pub inactive_since: Option<Time>,
}

/// Active and inactive sites.
pub fn sites(engine: &Engine, facts: &BTreeMap<SiteId, SiteFacts>, now: Time) -> Vec<SiteView> {
    let mut views: Vec<SiteView> = engine
        .sites()
        .map(|site| {
            let remote = site.remote();
            let known = facts.get(&remote.id);
            let up: Vec<&Path> =
                site.paths().map(|(_, path)| path).filter(|path| path.state() == PathState::Up).collect();
            SiteView {
                id: remote.id,
                name: remote.name.clone(),
                state: "active".into(),
                since_s: now.since(site.since()).as_secs(),
                overlay: Some(remote.overlay),
                prefixes: remote.prefixes.clone(),
                uplinks: remote.uplinks.iter().map(|uplink| uplink.name.clone()).collect(),
                paths_up: up.len() as u32,
                paths: site.paths().len() as u32,
                best_score: up.iter().map(|path| path.score()).max_by(f64::total_cmp),
                last_announcement_s: known.and_then(|known| known.announced).map(|at| now.since(at).as_secs()),
                certificate_expires_unix: known.and_then(|known| known.certificate_expires_unix),
            }
        })
        .collect();
    let inactive = facts.iter().filter(|(id, _)| engine.site(id).is_none());
    views.extend(inactive.filter_map(|(id, known)| {
        let since = known.inactive_since?;
        Some(SiteView {
            id: *id,
            name: known.name.clone(),
            state: "inactive".into(),
            since_s: now.since(since).as_secs(),
            overlay: None,
            prefixes: Vec::new(),
            uplinks: Vec::new(),
            paths_up: 0,
            paths: 0,
            best_score: None,
            last_announcement_s: known.announced.map(|at| now.since(at).as_secs()),
            certificate_expires_unix: known.certificate_expires_unix,
        })
    }));
    views.sort_by(|a, b| (&a.name, a.id).cmp(&(&b.name, b.id)));
    views
}

/// All paths. `reader` is asked for the counters where there is a data path.
pub fn paths(engine: &Engine, numbers: &BTreeMap<PathKey, u32>, reader: Option<&Reader>, now: Time) -> Vec<PathView> {
    let of_site = |site: &Site| {
        let paths: Vec<PathView> = site
            .paths()
            .map(|(tunnel, path)| {
                let number = numbers.get(&PathKey { site: site.remote().id, tunnel }).copied();
                let stats = number.and_then(|number| reader?.path_counters(number).ok()).map(|counters| counters.stats);
                let tcp = number.and_then(|number| reader?.tcp_rtt(number, now).ok()).unwrap_or_default();
                path_view(engine, site, tunnel, path, number, (stats.unwrap_or_default(), tcp), now)
            })
            .collect();
        paths
    };
    let mut views: Vec<PathView> = engine.sites().flat_map(of_site).collect();
    views.sort_by(|a, b| (&a.site_name, a.tunnel).cmp(&(&b.site_name, b.tunnel)));
    views
}

fn path_view(
    engine: &Engine,
    site: &Site,
    tunnel: TunnelKey,
    path: &Path,
    number: Option<u32>,
    (stats, tcp): (PathStats, TcpRttSummary),
    now: Time,
) -> PathView {
    let remote = site.remote();
    let quality = path.quality();
    let local = engine.uplinks().iter().find(|uplink| uplink.index == tunnel.local);
    let endpoint = local.and_then(|uplink| remote.endpoint(tunnel, &uplink.addresses));
    let loss = quality.loss;
    let data = quality.data_loss;
    let up = path.state() == PathState::Up;
    let capacity = path.known_capacity();
    let age = |estimate: Estimate| now.since(estimate.at).as_secs();
    let how = capacity.forward().map(|(_, how)| how);
    let backward = capacity.found(Direction::Backward);
    PathView {
        number,
        site: remote.id,
        site_name: remote.name.clone(),
        tunnel,
        local_uplink: local_uplink_name(engine.uplinks(), tunnel),
        remote_uplink: remote_uplink_name(remote, tunnel),
        interface: tunnel.interface(),
        endpoint: endpoint.map(|endpoint| endpoint.to_string()),
        state: path.state(),
        degraded: path.degraded(),
        since_s: now.since(path.since()).as_secs(),
        score: if up { path.score() } else { 0.0 },
        rtt_ms: quality.rtt.map(milliseconds),
        rtt_min_ms: quality.rtt_min.map(milliseconds),
        rtt_variation_ms: milliseconds(quality.rtt_variation),
        jitter_forward_ms: milliseconds(quality.jitter_forward),
        jitter_backward_ms: milliseconds(quality.jitter_backward),
        loss_forward_pct: percent(loss.forward, loss.probes),
        loss_backward_pct: percent(loss.backward, loss.probes),
        data_loss_forward_pct: percent(data.forward, data.forward_packets),
        data_loss_forward_packets: data.forward_packets,
        data_loss_backward_pct: percent(data.backward, data.backward_packets),
        data_loss_backward_packets: data.backward_packets,
        tcp_rtt_ms: tcp_milliseconds(tcp.median, &tcp),
        tcp_rtt_min_ms: tcp_milliseconds(tcp.minimum, &tcp),
        tcp_rtt_samples: tcp.samples,
        mos: mean_opinion_score(Codec::G711, quality).filter(|_| up),
        mos_by_codec: Codec::ALL
            .into_iter()
            .filter_map(|codec| Some((codec.name().to_owned(), mean_opinion_score(codec, quality).filter(|_| up)?)))
            .collect(),
        one_way: quality.one_way.map(|one_way| OneWayView {
            forward_ms: one_way.forward_ns as f64 / 1e6,
            backward_ms: one_way.backward_ns as f64 / 1e6,
            synchronized: one_way.synchronized,
            error_ms: one_way.synchronized.then_some(one_way.error_ns as f64 / 1e6),
        }),
        spans: path.spans(now).iter().map(span_view).collect(),
        capacity_bps: path.capacity(),
        capacity_how: how,
        capacity_age_s: capacity.found(Direction::Forward).filter(|_| how != Some(CapacityHow::Declared)).map(age),
        capacity_backward_bps: backward.map(|estimate| estimate.bits_per_second),
        capacity_backward_how: backward.map(|estimate| estimate.how),
        capacity_backward_age_s: backward.map(age),
        mtu: path.mtu(),
        mtu_by: path.underlay().map_or(How::Configured, |known| known.how),
        underlay_mtu: path.underlay().filter(|known| known.how != How::Configured).map(|known| known.size),
        sent_packets: stats.sent_packets,
        sent_bytes: stats.sent_bytes,
        received_packets: stats.received_packets,
        received_bytes: stats.received_bytes,
        probe_interval_ms: milliseconds(path.pace()),
        detection_ms: milliseconds(path.told_detection(engine.settings())),
    }
}

fn span_view(quality: &SpanQuality) -> SpanView {
    let (rtt, loss) = (&quality.rtt, &quality.loss);
    SpanView {
        span_s: quality.span.as_secs(),
        samples: quality.samples,
        rtt_min_ms: milliseconds(rtt.minimum),
        rtt_p50_ms: milliseconds(rtt.p50),
        rtt_p95_ms: milliseconds(rtt.p95),
        rtt_p99_ms: milliseconds(rtt.p99),
        rtt_max_ms: milliseconds(rtt.maximum),
        jitter_forward_ms: milliseconds(quality.jitter_forward),
        jitter_backward_ms: milliseconds(quality.jitter_backward),
        loss_forward_pct: percent(loss.forward, loss.probes),
        loss_backward_pct: percent(loss.backward, loss.probes),
        loss_round_trip_pct: percent(loss.round_trip, loss.probes),
    }
}

/// How long decisions took: those by an answer, and those by a time that came.
pub fn decisions(delays: &[Option<SpanQuality>; 2]) -> BTreeMap<String, DecisionsView> {
    let view = |delays: &SpanQuality| DecisionsView {
        count: delays.samples,
        p50_ms: milliseconds(delays.rtt.p50),
        p99_ms: milliseconds(delays.rtt.p99),
        longest_ms: milliseconds(delays.rtt.maximum),
    };
    let known = ["answer", "due"].into_iter().zip(delays);
    known.filter_map(|(cause, delays)| Some((cause.to_owned(), view(delays.as_ref()?)))).collect()
}

/// The local uplinks.
pub fn uplinks(engine: &Engine, config: &Config) -> Vec<UplinkView> {
    let view = |uplink: &LocalUplink| UplinkView {
        index: uplink.index.get(),
        name: uplink.name.clone(),
        interface: uplink.interface.clone(),
        usable: uplink_usable(uplink),
        reason: match () {
            () if uplink_usable(uplink) => None,
            () if uplink.ifindex == 0 => Some("the interface doesn't exist".into()),
            () if !uplink.carrier => Some("the interface has no carrier".into()),
            () => Some("the interface has no address".into()),
        },
        addresses: uplink.addresses.clone(),
        gateways: uplink.gateways.clone(),
        mtu: uplink.mtu,
        metered: config.is_metered(&uplink.name),
    };
    engine.uplinks().iter().map(view).collect()
}

/// Number of paths by state, `degraded` counted beside `up`.
pub fn path_states(engine: &Engine) -> BTreeMap<String, u64> {
    let mut states = BTreeMap::new();
    for (_, path) in engine.sites().flat_map(Site::paths) {
        *states.entry(state_name(path.state()).to_owned()).or_default() += 1;
        if path.degraded() {
            *states.entry("degraded".to_owned()).or_default() += 1;
        }
    }
    states
}
