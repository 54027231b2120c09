//! Questions to the database.

use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use rusqlite::{Connection, OpenFlags, Row, params};

use super::{Store, StoreError};
use crate::engine::events::{EngineEvent, EventKind};
use crate::engine::policy::Policy;
use crate::engine::types::{PathKey, SiteId};

/// A read-only connection.
#[derive(Debug)]
pub struct Reader {
    path: PathBuf,
    connection: Connection,
}

/// Which events to show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventQuery {
    /// Only events at or after this, Unix time in nanoseconds.
    pub since_unix_ns: Option<i64>,
    /// Only events before this, Unix time in nanoseconds.
    pub until_unix_ns: Option<i64>,
    /// Only events with a larger number: what came since that one.
    pub after_id: Option<i64>,
    /// Only events of these kinds; empty: of all.
    pub kinds: Vec<EventKind>,
    /// Only events about this site.
    pub site: Option<SiteId>,
    /// Most events: the latest ones, or with `after_id` the ones that follow it.
    pub limit: usize,
}

impl Default for EventQuery {
    fn default() -> Self {
        Self { since_unix_ns: None, until_unix_ns: None, after_id: None, kinds: Vec::new(), site: None, limit: 100 }
    }
}

/// An event as it is stored.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredEvent {
    /// Number; later events have larger ones.
    pub id: i64,
    /// When, Unix time in nanoseconds.
    pub time_unix_ns: i64,
    /// What happened.
    pub event: EngineEvent,
}

/// How fine metrics are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolution {
    /// As recorded.
    Raw,
    /// By the minute.
    Minute,
    /// By the hour.
    Hour,
}

impl Resolution {
    pub(super) const fn seconds(self) -> i64 {
        match self {
            Self::Raw => 0,
            Self::Minute => 60,
            Self::Hour => 3_600,
        }
    }
}

/// How a path did in one interval.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct MetricPoint {
    /// Beginning of the interval, Unix time in seconds.
    pub time_unix_s: i64,
    /// Records in it.
    pub samples: u64,
    /// Share of them that found the path up, 0–1.
    pub up_share: f64,
    /// Mean score, 0–100.
    pub score: f64,
    /// Mean round-trip time, ms.
    pub rtt_ms: Option<f64>,
    /// Smallest round-trip time, ms.
    pub rtt_min_ms: Option<f64>,
    /// Largest round-trip time, ms.
    pub rtt_max_ms: Option<f64>,
    /// Mean jitter towards the peer, ms.
    pub jitter_forward_ms: f64,
    /// Mean jitter from the peer, ms.
    pub jitter_backward_ms: f64,
    /// Mean loss towards the peer, percent.
    pub loss_forward_pct: Option<f64>,
    /// Mean loss from the peer, percent.
    pub loss_backward_pct: Option<f64>,
    /// Mean opinion score.
    pub mos: Option<f64>,
    /// Loss of the data itself towards the peer, percent of its packets.
    pub data_loss_forward_pct: Option<f64>,
    /// Packets that it rests on.
    pub data_loss_forward_packets: u64,
    /// Loss of the data itself from the peer, percent of its packets.
    pub data_loss_backward_pct: Option<f64>,
    /// Packets that it rests on.
    pub data_loss_backward_packets: u64,
    /// Mean of the median round-trip times of TCP, ms.
    pub tcp_rtt_ms: Option<f64>,
    /// Smallest round-trip time of TCP, ms.
    pub tcp_rtt_min_ms: Option<f64>,
    /// Bytes sent.
    pub sent_bytes: u64,
    /// Bytes received.
    pub received_bytes: u64,
}

/// A site that was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredSite {
    /// Identity.
    pub id: SiteId,
    /// Name.
    pub name: String,
    /// When first, Unix time in seconds.
    pub first_seen_unix_s: i64,
    /// When last, Unix time in seconds.
    pub last_seen_unix_s: i64,
    /// `active` or `inactive` at that time.
    pub state: String,
    /// Its prefixes.
    pub prefixes: Vec<IpNet>,
}

impl Reader {
    /// Opens an existing database for reading. Works beside a running daemon and without one.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let error = |source| StoreError::Sqlite { action: "open for reading the database", path: path.into(), source };
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags).map_err(error)?;
        connection.busy_timeout(Duration::from_secs(2)).map_err(error)?;
        Ok(Self { path: path.into(), connection })
    }

    /// Writes the database as it is at this moment to a file, which must be empty; its writer works on meanwhile.
    ///
    /// # Errors
    /// When it can't be read, or the file can't be written.
    pub fn copy_to(&self, file: &Path) -> Result<(), StoreError> {
        let error = |source| StoreError::Sqlite { action: "copy the database", path: self.path.clone(), source };
        let name = file.to_str().ok_or_else(|| error(rusqlite::Error::InvalidPath(file.into())))?;
        self.connection.execute("VACUUM INTO ?1", [name]).map(drop).map_err(error)
    }

    /// Events in the order in which they happened.
    pub fn events(&self, query: &EventQuery) -> Result<Vec<StoredEvent>, StoreError> {
        let kinds: Vec<&str> = query.kinds.iter().map(|kind| kind.name()).collect();
        let kinds = serde_json::to_string(&kinds).map_err(|error| self.content("kinds", error))?;
        let order = if query.after_id.is_some() { "ASC" } else { "DESC" };
        let sql = format!(
            "SELECT id, time_ns, event FROM events
             WHERE time_ns >= ?1 AND time_ns < ?6 AND id > ?2 AND (?3 = '[]' OR kind IN (SELECT value FROM json_each(?3)))
               AND (?4 IS NULL OR site = ?4)
             ORDER BY id {order} LIMIT ?5"
        );
        let parameters = params![
            query.since_unix_ns.unwrap_or(i64::MIN),
            query.after_id.unwrap_or(i64::MIN),
            kinds,
            query.site.map(|site| site.0),
            i64::try_from(query.limit).unwrap_or(i64::MAX),
            query.until_unix_ns.unwrap_or(i64::MAX),
        ];
        let rows = self.rows(&sql, parameters, |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, row.get::<_, String>(2)?))
        })?;
        let mut events = rows
            .into_iter()
            .map(|(id, time_unix_ns, text)| {
                let event = serde_json::from_str(&text).map_err(|error| self.content(&format!("event {id}"), error))?;
                Ok(StoredEvent { id, time_unix_ns, event })
            })
            .collect::<Result<Vec<_>, StoreError>>()?;
        if query.after_id.is_none() {
            events.reverse();
        }
        Ok(events)
    }

    /// How a path did from `from_unix_s` on, until before `to_unix_s`; at most `limit` intervals.
    pub fn path_history(
        &self,
        path: &PathKey,
        resolution: Resolution,
        from_unix_s: i64,
        to_unix_s: i64,
        limit: usize,
    ) -> Result<Vec<MetricPoint>, StoreError> {
        let sql = "SELECT time_s, samples, up_samples, score, rtt_ms, rtt_min_ms, rtt_max_ms, jitter_forward_ms,
                          jitter_backward_ms, loss_forward_pct, loss_backward_pct, mos, sent_bytes, received_bytes,
                          data_loss_forward_pct, data_loss_forward_packets, data_loss_backward_pct,
                          data_loss_backward_packets, tcp_rtt_ms, tcp_rtt_min_ms
                   FROM path_metrics JOIN paths ON paths.id = path_metrics.path
                   WHERE site = ?1 AND local_uplink = ?2 AND remote_uplink = ?3 AND resolution_s = ?4
                     AND time_s >= ?5 AND time_s < ?6
                   ORDER BY time_s LIMIT ?7";
        let (local, remote) = (path.tunnel.local.get(), path.tunnel.remote.get());
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let parameters = params![path.site.0, local, remote, resolution.seconds(), from_unix_s, to_unix_s, limit];
        self.rows(sql, parameters, |row| {
            let count = |column: usize| row.get::<_, i64>(column).map(|value| u64::try_from(value).unwrap_or(0));
            let samples = count(1)?;
            Ok(MetricPoint {
                time_unix_s: row.get(0)?,
                samples,
                up_share: count(2)? as f64 / samples.max(1) as f64,
                score: row.get(3)?,
                rtt_ms: row.get(4)?,
                rtt_min_ms: row.get(5)?,
                rtt_max_ms: row.get(6)?,
                jitter_forward_ms: row.get(7)?,
                jitter_backward_ms: row.get(8)?,
                loss_forward_pct: row.get(9)?,
                loss_backward_pct: row.get(10)?,
                mos: row.get(11)?,
                sent_bytes: count(12)?,
                received_bytes: count(13)?,
                data_loss_forward_pct: row.get(14)?,
                data_loss_forward_packets: count(15)?,
                data_loss_backward_pct: row.get(16)?,
                data_loss_backward_packets: count(17)?,
                tcp_rtt_ms: row.get(18)?,
                tcp_rtt_min_ms: row.get(19)?,
            })
        })
    }

    /// The operator's policies, by name.
    pub fn policies(&self) -> Result<Vec<Policy>, StoreError> {
        let rows = self.rows("SELECT name, definition FROM policies ORDER BY name", [], |row| {
            Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?))
        })?;
        rows.into_iter()
            .map(|(name, text)| {
                serde_json::from_str(&text).map_err(|error| self.content(&format!("policy {name:?}"), error))
            })
            .collect()
    }

    /// Every site ever seen, by name.
    pub fn sites(&self) -> Result<Vec<StoredSite>, StoreError> {
        let sql = "SELECT id, name, first_seen_s, last_seen_s, state, prefixes FROM sites ORDER BY name, id";
        let rows = self.rows(sql, [], |row| {
            let site = StoredSite {
                id: SiteId(row.get(0)?),
                name: row.get(1)?,
                first_seen_unix_s: row.get(2)?,
                last_seen_unix_s: row.get(3)?,
                state: row.get(4)?,
                prefixes: Vec::new(),
            };
            Ok((site, row.get::<_, String>(5)?))
        })?;
        rows.into_iter()
            .map(|(site, text)| {
                let prefixes = serde_json::from_str(&text)
                    .map_err(|error| self.content(&format!("prefixes of site {:?}", site.name), error))?;
                Ok(StoredSite { prefixes, ..site })
            })
            .collect()
    }

    pub(super) fn rows<T>(
        &self,
        sql: &str,
        parameters: impl rusqlite::Params,
        map: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>, StoreError> {
        let error = |source| StoreError::Sqlite { action: "read the database", path: self.path.clone(), source };
        let mut statement = self.connection.prepare_cached(sql).map_err(error)?;
        let rows = statement.query_map(parameters, map).map_err(error)?;
        rows.collect::<rusqlite::Result<_>>().map_err(error)
    }

    fn content(&self, what: &str, reason: impl std::fmt::Display) -> StoreError {
        StoreError::Content { what: what.into(), path: self.path.clone(), reason: reason.to_string() }
    }
}

impl Store {
    /// See [`Reader::events`].
    pub fn events(&self, query: &EventQuery) -> Result<Vec<StoredEvent>, StoreError> {
        self.read(|reader| reader.events(query))
    }

    /// See [`Reader::policies`].
    pub fn policies(&self) -> Result<Vec<Policy>, StoreError> {
        self.read(Reader::policies)
    }

    /// See [`Reader::sites`].
    pub fn sites(&self) -> Result<Vec<StoredSite>, StoreError> {
        self.read(Reader::sites)
    }

    /// See [`Reader::path_history`].
    pub fn path_history(
        &self,
        path: &PathKey,
        resolution: Resolution,
        from_unix_s: i64,
        to_unix_s: i64,
        limit: usize,
    ) -> Result<Vec<MetricPoint>, StoreError> {
        self.read(|reader| reader.path_history(path, resolution, from_unix_s, to_unix_s, limit))
    }
}
