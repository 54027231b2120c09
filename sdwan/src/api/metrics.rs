//! The views in the words of Prometheus. Names carry their units; labels are those of configured things (sites, uplinks,
//! classes, reasons), so that their number is bounded by the configuration and never by traffic.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::encoding::prometheus_text::encode;
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

pub use prometheus_client::encoding::prometheus_text::CONTENT_TYPE;

use super::views::{Health, PathView, PolicyView, SiteView, StatusView};
use crate::engine::path::PathState;

/// What a scrape shows, all of about the same moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The gateway.
    pub status: StatusView,
    /// Remote sites.
    pub sites: Vec<SiteView>,
    /// Paths.
    pub paths: Vec<PathView>,
    /// Policies, with their classes' counters.
    pub policies: Vec<PolicyView>,
}

/// The page of a scrape, in Prometheus' text format.
///
/// # Errors
/// Never: memory takes any text.
pub fn page(snapshot: Snapshot) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("sdwan");
    registry.register_collector(Box::new(snapshot));
    let mut page = String::new();
    encode(&mut page, &registry)?;
    Ok(page)
}

type Labels = Vec<(&'static str, String)>;

/// A metric of each path.
struct PathGauge {
    name: &'static str,
    help: &'static str,
    unit: &'static str,
    value: fn(&PathView) -> Option<f64>,
}

/// A metric of both directions of each path: towards the peer, and from it.
struct PathPair {
    name: &'static str,
    help: &'static str,
    unit: &'static str,
    values: fn(&PathView) -> [Option<f64>; 2],
}

const DIRECTIONS: [&str; 2] = ["forward", "backward"];
/// A metric without a unit.
const PLAIN: &str = "";

fn seconds(ms: f64) -> f64 {
    ms / 1e3
}

fn ratio(percent: f64) -> f64 {
    percent / 100.0
}

const PATH_GAUGES: [PathGauge; 12] = [
    PathGauge {
        name: "path_up",
        help: "1 if flows may use the path",
        unit: PLAIN,
        value: |path| Some(f64::from(path.state == PathState::Up)),
    },
    PathGauge {
        name: "path_degraded",
        help: "1 if the path is up with a score below 50",
        unit: PLAIN,
        value: |path| Some(f64::from(path.degraded)),
    },
    PathGauge {
        name: "path_score",
        help: "Quality of the path, 0 to 100",
        unit: PLAIN,
        value: |path| Some(path.score),
    },
    PathGauge {
        name: "path_mos",
        help: "Mean opinion score of a G.711 call (ITU-T G.107), 1 to 4.5",
        unit: PLAIN,
        value: |path| path.mos,
    },
    PathGauge {
        name: "path_rtt",
        help: "Smoothed round-trip time",
        unit: "seconds",
        value: |path| path.rtt_ms.map(seconds),
    },
    PathGauge {
        name: "path_rtt_min",
        help: "Smallest round-trip time of the last minute or two",
        unit: "seconds",
        value: |path| path.rtt_min_ms.map(seconds),
    },
    PathGauge {
        name: "path_rtt_variation",
        help: "Variation of the round-trip time (RFC 6298)",
        unit: "seconds",
        value: |path| Some(seconds(path.rtt_variation_ms)),
    },
    PathGauge {
        name: "path_tcp_rtt",
        help: "Median round-trip time of TCP's own packets, hosts included",
        unit: "seconds",
        value: |path| path.tcp_rtt_ms.map(seconds),
    },
    PathGauge {
        name: "path_mtu",
        help: "Largest IP packet inside the tunnel",
        unit: "bytes",
        value: |path| Some(f64::from(path.mtu)),
    },
    PathGauge {
        name: "path_probe_interval",
        help: "Time between probes",
        unit: "seconds",
        value: |path| Some(seconds(path.probe_interval_ms)),
    },
    PathGauge {
        name: "path_detection",
        help: "Time without an answer after which the path is left",
        unit: "seconds",
        value: |path| Some(seconds(path.detection_ms)),
    },
    PathGauge {
        name: "path_state_age",
        help: "Time that the path is in its state",
        unit: "seconds",
        value: |path| Some(path.since_s as f64),
    },
];

const PATH_PAIRS: [PathPair; 4] = [
    PathPair {
        name: "path_jitter",
        help: "Jitter of the probes (RFC 3550)",
        unit: "seconds",
        values: |path| [Some(seconds(path.jitter_forward_ms)), Some(seconds(path.jitter_backward_ms))],
    },
    PathPair {
        name: "path_loss",
        help: "Share of the probes that was lost lately",
        unit: "ratio",
        values: |path| [path.loss_forward_pct.map(ratio), path.loss_backward_pct.map(ratio)],
    },
    PathPair {
        name: "path_data_loss",
        help: "Share of the data itself that was lost lately",
        unit: "ratio",
        values: |path| [path.data_loss_forward_pct.map(ratio), path.data_loss_backward_pct.map(ratio)],
    },
    PathPair {
        name: "path_capacity",
        help: "Capacity of the line in outer IP packets",
        unit: "bytes_per_second",
        values: |path| {
            [path.capacity_bps, path.capacity_backward_bps].map(|capacity| capacity.map(|bps| bps as f64 / 8.0))
        },
    },
];

/// Writes families of metrics.
struct Page<'a>(DescriptorEncoder<'a>);

impl Page<'_> {
    fn family(
        &mut self,
        kind: MetricType,
        (name, help, unit): (&str, &str, &str),
        values: impl IntoIterator<Item = (Labels, f64)>,
    ) -> fmt::Result {
        let unit = (!unit.is_empty()).then(|| Unit::Other(unit.into()));
        let mut encoder = self.0.encode_descriptor(name, help, unit.as_ref(), kind)?;
        for (labels, value) in values {
            let mut metric = encoder.encode_family(&labels)?;
            match kind {
                MetricType::Counter => metric.encode_counter::<Labels, _, f64>(&value, None)?,
                _ => metric.encode_gauge(&value)?,
            }
        }
        Ok(())
    }

    fn gauges(
        &mut self,
        name: &str,
        help: &str,
        unit: &str,
        values: impl IntoIterator<Item = (Labels, f64)>,
    ) -> fmt::Result {
        self.family(MetricType::Gauge, (name, help, unit), values)
    }

    fn gauge(&mut self, name: &str, help: &str, unit: &str, value: f64) -> fmt::Result {
        self.gauges(name, help, unit, [(Labels::new(), value)])
    }

    /// `_total` is added to the name.
    fn counters(&mut self, name: &str, help: &str, values: impl IntoIterator<Item = (Labels, f64)>) -> fmt::Result {
        self.family(MetricType::Counter, (name, help, PLAIN), values)
    }

    /// One counter for each entry of a table.
    fn table(&mut self, name: &str, help: &str, label: &'static str, table: &BTreeMap<String, u64>) -> fmt::Result {
        self.counters(name, help, table.iter().map(|(key, count)| (vec![(label, key.clone())], *count as f64)))
    }
}

impl Collector for Snapshot {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut page = Page(encoder);
        self.gateway(&mut page)?;
        self.remote_sites(&mut page)?;
        self.every_path(&mut page)?;
        self.classes(&mut page)?;
        self.losses(&mut page)
    }
}

impl Snapshot {
    fn gateway(&self, page: &mut Page<'_>) -> fmt::Result {
        let status = &self.status;
        let build = vec![
            ("version", status.daemon_version.clone()),
            ("site", status.site_name.clone()),
            ("tunnels", status.tunnel_backend.clone()),
            ("attach_mode", status.attach_mode.clone()),
            ("fast_path", status.fast_path.clone()),
        ];
        page.gauges("build_info", "1; the labels say what runs", PLAIN, [(build, 1.0)])?;
        let health = match status.health {
            Health::Ok => 0.0,
            Health::Degraded => 1.0,
            Health::Failing => 2.0,
        };
        page.gauge("health", "0: everything works, 1: something needs attention, 2: traffic fails", PLAIN, health)?;
        page.gauge("problems", "Things that need attention", PLAIN, status.problems.len() as f64)?;
        page.gauge("start_time", "When the daemon started", "seconds", status.started_unix_ms as f64 / 1e3)?;
        if let Some(expires) = status.certificate_expires_unix {
            page.gauge("certificate_expiry_time", "When this site's certificate ends", "seconds", expires as f64)?;
        }
        page.counters(
            "stalls",
            "How often the daemon came late to its probes",
            [(Labels::new(), status.stalls as f64)],
        )?;
        let uplinks = || status.uplinks.iter().map(|uplink| vec![("uplink", uplink.name.clone())]);
        let usable = status.uplinks.iter().map(|uplink| f64::from(uplink.usable));
        page.gauges("uplink_usable", "1 if the uplink can carry tunnels", PLAIN, uplinks().zip(usable))?;
        let store = &status.store;
        page.gauge("store_ok", "1 if the database can be written", PLAIN, f64::from(store.ok))?;
        page.gauge("store_size", "Bytes in use in the database", "bytes", store.size_bytes as f64)?;
        page.gauge("store_queue", "Records that wait to be written", PLAIN, store.queued as f64)?;
        let counts = [("written", store.written), ("dropped", store.dropped), ("rejected", store.rejected)];
        let counts = counts.map(|(outcome, count)| (vec![("outcome", outcome.to_owned())], count as f64));
        page.counters("store_records", "Records by what became of them", counts)
    }

    fn remote_sites(&self, page: &mut Page<'_>) -> fmt::Result {
        let labels = |site: &SiteView| vec![("site", site.name.clone())];
        let of_each = |value: fn(&SiteView) -> Option<f64>| {
            self.sites.iter().filter_map(move |site| Some((labels(site), value(site)?))).collect::<Vec<_>>()
        };
        let active = of_each(|site| Some(f64::from(site.state == "active")));
        page.gauges("site_active", "1 if the site announces itself", PLAIN, active)?;
        page.gauges("site_paths_up", "Paths to the site that are up", PLAIN, of_each(|s| Some(s.paths_up.into())))?;
        page.gauges("site_paths", "Paths to the site", PLAIN, of_each(|site| Some(site.paths.into())))?;
        page.gauges(
            "site_certificate_expiry_time",
            "When the site's certificate ends",
            "seconds",
            of_each(|site| site.certificate_expires_unix.map(|time| time as f64)),
        )
    }

    fn every_path(&self, page: &mut Page<'_>) -> fmt::Result {
        let labels = |path: &PathView| -> Labels {
            vec![
                ("site", path.site_name.clone()),
                ("local_uplink", path.local_uplink.clone()),
                ("remote_uplink", path.remote_uplink.clone()),
            ]
        };
        let directed = |path: &PathView, direction: &str| {
            let mut labels = labels(path);
            labels.push(("direction", direction.to_owned()));
            labels
        };
        for PathGauge { name, help, unit, value } in PATH_GAUGES {
            let values = self.paths.iter().filter_map(|path| Some((labels(path), value(path)?)));
            page.gauges(name, help, unit, values)?;
        }
        for PathPair { name, help, unit, values } in PATH_PAIRS {
            let pairs = self.paths.iter().flat_map(|path| {
                let pair = DIRECTIONS.into_iter().zip(values(path));
                pair.filter_map(|(direction, value)| Some((directed(path, direction), value?))).collect::<Vec<_>>()
            });
            page.gauges(name, help, unit, pairs)?;
        }
        type Counts = fn(&PathView) -> [u64; 2];
        let counted: [(&str, &str, Counts); 2] = [
            ("path_packets", "Packets by the path, probes apart", |path| [path.sent_packets, path.received_packets]),
            ("path_bytes", "Bytes by the path, probes apart", |path| [path.sent_bytes, path.received_bytes]),
        ];
        for (name, help, counts) in counted {
            let values = self.paths.iter().flat_map(|path| {
                let counts = DIRECTIONS.into_iter().zip(counts(path));
                counts.map(|(direction, count)| (directed(path, direction), count as f64)).collect::<Vec<_>>()
            });
            page.counters(name, help, values)?;
        }
        Ok(())
    }

    /// Several policies may assign one class, and each shows the counters of all of it.
    fn classes(&self, page: &mut Page<'_>) -> fmt::Result {
        let mut known = BTreeSet::new();
        let classes: Vec<&PolicyView> =
            self.policies.iter().filter(|view| known.insert(view.policy.class_name().to_owned())).collect();
        let of_each = |value: fn(&PolicyView) -> Option<u64>| {
            let labels = |view: &PolicyView| vec![("class", view.policy.class_name().to_owned())];
            classes.iter().filter_map(|view| Some((labels(view), value(view)? as f64))).collect::<Vec<_>>()
        };
        page.counters("class_packets", "Packets of the class from the LAN", of_each(|view| view.packets))?;
        page.counters("class_bytes", "Bytes of the class from the LAN", of_each(|view| view.bytes))?;
        page.counters(
            "class_copied_packets",
            "Packets that went by two paths",
            of_each(|view| view.copies.map(|copies| copies.packets)),
        )?;
        page.counters(
            "class_uncopied_packets",
            "Packets of a class in duplicate mode that went once",
            of_each(|view| view.copies.map(|copies| copies.alone + copies.unmarked)),
        )
    }

    fn losses(&self, page: &mut Page<'_>) -> fmt::Result {
        let status = &self.status;
        page.table("dropped_packets", "Packets dropped by the programs", "reason", &status.drops)?;
        page.table("stack_packets", "Packets left to the kernel's stack", "reason", &status.passes)?;
        page.table("refused_announcements", "Announcements refused", "reason", &status.refused_announcements)?;
        page.table("api_refused", "Connections and requests that the API refused", "reason", &status.api_refused)?;
        page.table("internal_drops", "Losses of the daemon's own", "what", &status.internal_drops)?;
        page.table("mtu_probes", "Path MTU probes by what became of them", "outcome", &status.mtu_probes)?;
        page.table("stamp_reflector_packets", "STAMP packets outside the tunnels", "outcome", &status.stamp_reflector)
    }
}
