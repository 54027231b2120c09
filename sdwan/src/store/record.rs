//! What is recorded, and how it goes into the tables.

use ipnet::IpNet;
use rusqlite::{Transaction, params};
use sdwan_common::abi::FlowKey;

use super::AuditEntry;
use crate::engine::account::Times;
use crate::engine::events::EngineEvent;
use crate::engine::types::{PathKey, SiteId, TunnelKey, UplinkIndex};

/// History: may be lost by seconds.
#[derive(Clone, Debug, PartialEq)]
pub enum Record {
    /// Something happened.
    Event {
        /// When, Unix time in nanoseconds.
        time_unix_ns: i64,
        /// What.
        event: Box<EngineEvent>,
    },
    /// How a path did over an interval.
    PathMetrics(Box<PathMetrics>),
    /// How a local uplink did over an interval.
    UplinkMetrics(UplinkMetrics),
    /// How a class did at a site over an interval.
    ClassMetrics(Box<ClassMetrics>),
    /// A flow was decided or moved.
    FlowSample(Box<FlowSample>),
    /// A remote site was seen or changed its state.
    Site(Box<SiteRecord>),
    /// Somebody changed something, or tried to.
    Audit(Box<AuditEntry>),
}

/// How a path did since the previous record of it; one every 10 seconds is what the retention's defaults are made for.
#[derive(Clone, Debug, PartialEq)]
pub struct PathMetrics {
    /// When, Unix time in seconds.
    pub time_unix_s: i64,
    /// The path.
    pub path: PathKey,
    /// Whether it is up.
    pub up: bool,
    /// For how long it has been watched since the previous record, ms.
    pub known_ms: u64,
    /// For how long it was up in that time, ms.
    pub up_ms: u64,
    /// Quality score, 0–100.
    pub score: f64,
    /// Smoothed round-trip time, ms.
    pub rtt_ms: Option<f64>,
    /// Jitter towards the peer, ms.
    pub jitter_forward_ms: f64,
    /// Jitter from the peer, ms.
    pub jitter_backward_ms: f64,
    /// Loss towards the peer, percent.
    pub loss_forward_pct: Option<f64>,
    /// Loss from the peer, percent.
    pub loss_backward_pct: Option<f64>,
    /// Mean opinion score, 1.0–4.5.
    pub mos: Option<f64>,
    /// Loss of the data itself towards the peer, percent.
    pub data_loss_forward_pct: Option<f64>,
    /// Packets that it rests on.
    pub data_loss_forward_packets: u64,
    /// Loss of the data itself from the peer, percent.
    pub data_loss_backward_pct: Option<f64>,
    /// Packets that it rests on.
    pub data_loss_backward_packets: u64,
    /// Median round-trip time of TCP over the last minute, ms.
    pub tcp_rtt_ms: Option<f64>,
    /// The smallest, ms.
    pub tcp_rtt_min_ms: Option<f64>,
    /// Capacity towards the peer as it is known, bit/s of outer IP packets.
    pub capacity_bps: Option<u64>,
    /// Capacity from the peer, likewise.
    pub capacity_backward_bps: Option<u64>,
    /// User packets sent since the previous record.
    pub sent_packets: u64,
    /// Bytes of them.
    pub sent_bytes: u64,
    /// User packets received since the previous record.
    pub received_packets: u64,
    /// Bytes of them.
    pub received_bytes: u64,
}

impl PathMetrics {
    /// Of a path that is down, and that nothing else is known of: not even for how long.
    pub fn unmeasured(path: PathKey, time_unix_s: i64) -> Self {
        Self {
            time_unix_s,
            path,
            up: false,
            known_ms: 0,
            up_ms: 0,
            score: 0.0,
            rtt_ms: None,
            jitter_forward_ms: 0.0,
            jitter_backward_ms: 0.0,
            loss_forward_pct: None,
            loss_backward_pct: None,
            mos: None,
            data_loss_forward_pct: None,
            data_loss_forward_packets: 0,
            data_loss_backward_pct: None,
            data_loss_backward_packets: 0,
            tcp_rtt_ms: None,
            tcp_rtt_min_ms: None,
            capacity_bps: None,
            capacity_backward_bps: None,
            sent_packets: 0,
            sent_bytes: 0,
            received_packets: 0,
            received_bytes: 0,
        }
    }
}

/// How a local uplink did since the previous record of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UplinkMetrics {
    /// When, Unix time in seconds.
    pub time_unix_s: i64,
    /// The uplink.
    pub uplink: UplinkIndex,
    /// For how long paths by it were watched, ms.
    pub known_ms: u64,
    /// For how long one of them was up, ms.
    pub up_ms: u64,
}

/// How a class did at a site since the previous record of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassMetrics {
    /// When, Unix time in seconds.
    pub time_unix_s: i64,
    /// The remote site.
    pub site: SiteId,
    /// Name of the class.
    pub class: String,
    /// Its bounds, for people; empty: none.
    pub sla: String,
    /// For how long its path kept them, broke them, and there was none.
    pub times: Times,
}

/// A sampled flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowSample {
    /// When, Unix time in nanoseconds.
    pub time_unix_ns: i64,
    /// The 5-tuple.
    pub key: FlowKey,
    /// Name of its class.
    pub class: String,
    /// Its path, if it still exists.
    pub path: Option<PathKey>,
    /// Whether it moved there from another path.
    pub moved: bool,
}

/// A remote site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SiteRecord {
    /// When, Unix time in seconds.
    pub time_unix_s: i64,
    /// Identity.
    pub id: SiteId,
    /// Name in its certificate.
    pub name: String,
    /// `active` or `inactive`.
    pub state: String,
    /// Prefixes behind it.
    pub prefixes: Vec<IpNet>,
    /// Names of its uplinks; those that aren't listed keep the name that they had.
    pub uplinks: Vec<(UplinkIndex, String)>,
}

/// Inserts one record. An error of the kind "constraint" concerns this record alone; any other the whole transaction.
pub(super) fn insert(transaction: &Transaction<'_>, record: &Record) -> rusqlite::Result<()> {
    match record {
        Record::Event { time_unix_ns, event } => insert_event(transaction, *time_unix_ns, event),
        Record::PathMetrics(metrics) => insert_metrics(transaction, metrics),
        Record::UplinkMetrics(metrics) => insert_uplink(transaction, metrics),
        Record::ClassMetrics(metrics) => insert_class(transaction, metrics),
        Record::FlowSample(sample) => insert_sample(transaction, sample),
        Record::Site(site) => insert_site(transaction, site),
        Record::Audit(entry) => super::api::insert_audit(transaction, entry),
    }
}

fn json(value: &impl serde::Serialize) -> rusqlite::Result<String> {
    serde_json::to_string(value).map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))
}

/// SQLite's integers are signed.
fn integer(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn insert_event(transaction: &Transaction<'_>, time: i64, event: &EngineEvent) -> rusqlite::Result<()> {
    transaction
        .prepare_cached("INSERT INTO events (time_ns, kind, site, event) VALUES (?1, ?2, ?3, ?4)")?
        .execute(params![time, event.kind.name(), event.site.map(|site| site.0), json(event)?])
        .map(drop)
}

fn insert_site(transaction: &Transaction<'_>, site: &SiteRecord) -> rusqlite::Result<()> {
    transaction
        .prepare_cached(
            "INSERT INTO sites (id, name, first_seen_s, last_seen_s, state, prefixes) VALUES (?1, ?2, ?3, ?3, ?4, ?5)
             ON CONFLICT (id) DO UPDATE SET name = ?2, last_seen_s = ?3, state = ?4, prefixes = ?5",
        )?
        .execute(params![site.id.0, site.name, site.time_unix_s, site.state, json(&site.prefixes)?])?;
    for (index, name) in &site.uplinks {
        transaction
            .prepare_cached(
                "INSERT INTO remote_uplinks (site, idx, name) VALUES (?1, ?2, ?3)
                 ON CONFLICT (site, idx) DO UPDATE SET name = ?3",
            )?
            .execute(params![site.id.0, index.get(), name])?;
    }
    Ok(())
}

fn insert_uplink(transaction: &Transaction<'_>, metrics: &UplinkMetrics) -> rusqlite::Result<()> {
    transaction
        .prepare_cached(
            "INSERT OR REPLACE INTO uplink_metrics (resolution_s, time_s, uplink, known_ms, up_ms)
             VALUES (0, ?1, ?2, ?3, ?4)",
        )?
        .execute(params![metrics.time_unix_s, metrics.uplink.get(), integer(metrics.known_ms), integer(metrics.up_ms)])
        .map(drop)
}

fn insert_class(transaction: &Transaction<'_>, metrics: &ClassMetrics) -> rusqlite::Result<()> {
    let id = class_id(transaction, metrics)?;
    let milliseconds = |time: std::time::Duration| integer(u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
    let Times { kept, broken, without } = metrics.times;
    transaction
        .prepare_cached(
            "INSERT OR REPLACE INTO class_metrics (resolution_s, time_s, site_class, kept_ms, broken_ms, without_ms)
             VALUES (0, ?1, ?2, ?3, ?4, ?5)",
        )?
        .execute(params![metrics.time_unix_s, id, milliseconds(kept), milliseconds(broken), milliseconds(without)])
        .map(drop)
}

/// Row of a class at a site, with the bounds that it has now.
fn class_id(transaction: &Transaction<'_>, metrics: &ClassMetrics) -> rusqlite::Result<i64> {
    let mut select =
        transaction.prepare_cached("SELECT id FROM site_classes WHERE site = ?1 AND class = ?2 AND sla = ?3")?;
    match select.query_row(params![metrics.site.0, metrics.class, metrics.sla], |row| row.get(0)) {
        Err(rusqlite::Error::QueryReturnedNoRows) => {}
        found => return found,
    }
    add_site(transaction, &metrics.site, metrics.time_unix_s)?;
    transaction.query_row(
        "INSERT INTO site_classes (site, class, sla) VALUES (?1, ?2, ?3)
         ON CONFLICT (site, class) DO UPDATE SET sla = ?3 RETURNING id",
        params![metrics.site.0, metrics.class, metrics.sla],
        |row| row.get(0),
    )
}

fn insert_metrics(transaction: &Transaction<'_>, metrics: &PathMetrics) -> rusqlite::Result<()> {
    let path = path_id(transaction, &metrics.path, metrics.time_unix_s)?;
    transaction
        .prepare_cached(
            "INSERT OR REPLACE INTO path_metrics (path, resolution_s, time_s, samples, up_samples, score, rtt_ms,
             rtt_min_ms, rtt_max_ms, jitter_forward_ms, jitter_backward_ms, loss_forward_pct, loss_backward_pct, mos,
             sent_packets, sent_bytes, received_packets, received_bytes, data_loss_forward_pct,
             data_loss_forward_packets, data_loss_backward_pct, data_loss_backward_packets, tcp_rtt_ms, tcp_rtt_min_ms,
             known_ms, up_ms, capacity_bps, capacity_backward_bps)
             VALUES (?1, 0, ?2, 1, ?3, ?4, ?5, ?5, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19,
             ?20, ?21, ?22, ?23, ?24)",
        )?
        .execute(params![
            path,
            metrics.time_unix_s,
            i64::from(metrics.up),
            metrics.score,
            metrics.rtt_ms,
            metrics.jitter_forward_ms,
            metrics.jitter_backward_ms,
            metrics.loss_forward_pct,
            metrics.loss_backward_pct,
            metrics.mos,
            integer(metrics.sent_packets),
            integer(metrics.sent_bytes),
            integer(metrics.received_packets),
            integer(metrics.received_bytes),
            metrics.data_loss_forward_pct,
            integer(metrics.data_loss_forward_packets),
            metrics.data_loss_backward_pct,
            integer(metrics.data_loss_backward_packets),
            metrics.tcp_rtt_ms,
            metrics.tcp_rtt_min_ms,
            integer(metrics.known_ms),
            integer(metrics.up_ms),
            metrics.capacity_bps.map(integer),
            metrics.capacity_backward_bps.map(integer),
        ])
        .map(drop)
}

/// Row of a path; made, with its site's if need be, when there is none.
fn path_id(transaction: &Transaction<'_>, path: &PathKey, time: i64) -> rusqlite::Result<i64> {
    let key = params![path.site.0, path.tunnel.local.get(), path.tunnel.remote.get()];
    let mut select = transaction
        .prepare_cached("SELECT id FROM paths WHERE site = ?1 AND local_uplink = ?2 AND remote_uplink = ?3")?;
    match select.query_row(key, |row| row.get(0)) {
        Err(rusqlite::Error::QueryReturnedNoRows) => {}
        found => return found,
    }
    add_site(transaction, &path.site, time)?;
    transaction.execute("INSERT INTO paths (site, local_uplink, remote_uplink) VALUES (?1, ?2, ?3)", key)?;
    Ok(transaction.last_insert_rowid())
}

/// Makes a site's row, if nobody has recorded the site itself.
fn add_site(transaction: &Transaction<'_>, site: &SiteId, time: i64) -> rusqlite::Result<()> {
    transaction
        .execute(
            "INSERT OR IGNORE INTO sites (id, name, first_seen_s, last_seen_s, state, prefixes)
             VALUES (?1, ?2, ?3, ?3, 'active', '[]')",
            params![site.0, site.to_string(), time],
        )
        .map(drop)
}

fn insert_sample(transaction: &Transaction<'_>, sample: &FlowSample) -> rusqlite::Result<()> {
    let uplink = |choose: fn(TunnelKey) -> u8| sample.path.map(|path| choose(path.tunnel));
    transaction
        .prepare_cached(
            "INSERT INTO flow_samples (time_ns, source, destination, source_port, destination_port, protocol, class,
             site, local_uplink, remote_uplink, moved) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
        )?
        .execute(params![
            sample.time_unix_ns,
            sample.key.source,
            sample.key.destination,
            sample.key.source_port,
            sample.key.destination_port,
            sample.key.protocol,
            sample.class,
            sample.path.map(|path| path.site.0),
            uplink(|tunnel| tunnel.local.get()),
            uplink(|tunnel| tunnel.remote.get()),
            i64::from(sample.moved),
        ])
        .map(drop)
}
