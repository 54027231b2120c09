//! Rolls fine metrics up into coarse ones and removes what is old, a little at a time: durable changes wait for one
//! step at most.

use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};

use crate::config::StoreConfig;

/// Rows removed per step.
const CHUNK: i64 = 4_096;
/// Intervals rolled up per step.
const INTERVALS: i64 = 10;
/// Records come late by up to this, seconds: an interval is rolled up when it is older.
const LATENESS_S: i64 = 120;

/// A table of metrics: its name, and what its rows are of.
struct Table(&'static str, &'static str);

/// All of them. Each is rolled up and expires alike.
const METRICS: [Table; 3] =
    [Table("path_metrics", "path"), Table("uplink_metrics", "uplink"), Table("class_metrics", "site_class")];

/// The work on old history.
pub(super) struct Housekeeping {
    retention: StoreConfig,
}

/// What a step left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Step {
    /// There is more to do right away.
    pub more: bool,
    /// Bytes in use.
    pub size_bytes: u64,
}

impl Housekeeping {
    pub fn new(retention: StoreConfig) -> Self {
        Self { retention }
    }

    /// One step. `now_s` is Unix time in seconds.
    pub fn step(&self, connection: &mut Connection, now_s: i64) -> rusqlite::Result<Step> {
        let mut more = roll_up(connection, 0, 60, now_s)?;
        more |= roll_up(connection, 60, 3_600, now_s)?;
        more |= self.expire(connection, now_s)?;
        let mut size_bytes = size(connection)?;
        if size_bytes > self.retention.max_size.0 {
            more |= remove_oldest(connection)?;
            size_bytes = size(connection)?;
        }
        connection.execute_batch("PRAGMA incremental_vacuum(1024);")?;
        Ok(Step { more, size_bytes })
    }

    fn expire(&self, connection: &Connection, now_s: i64) -> rusqlite::Result<bool> {
        let retention = &self.retention;
        let before =
            |keep: std::time::Duration| now_s.saturating_sub(i64::try_from(keep.as_secs()).unwrap_or(i64::MAX));
        let mut more = false;
        // Raw and minute metrics stay until they are rolled up, however old they are.
        for (resolution, keep, coarser) in [
            (0, retention.raw_metrics, Some(60)),
            (60, retention.minute_metrics, Some(3_600)),
            (3_600, retention.hour_metrics, None),
        ] {
            let rolled = match coarser {
                Some(coarser) => rolled_until(connection, coarser)?.unwrap_or(i64::MIN),
                None => i64::MAX,
            };
            for table in METRICS {
                more |= remove_metrics(connection, table, resolution, before(keep).min(rolled))? == CHUNK as usize;
            }
        }
        for (table, keep) in
            [("events", retention.events), ("flow_samples", retention.flow_samples), ("audit", retention.audit)]
        {
            let limit = before(keep).saturating_mul(1_000_000_000);
            more |= remove_rows(connection, table, limit)? == CHUNK as usize;
        }
        Ok(more)
    }
}

/// Bytes of the pages that hold something.
fn size(connection: &Connection) -> rusqlite::Result<u64> {
    let pragma = |name: &str| connection.query_row(&format!("PRAGMA {name}"), [], |row| row.get::<_, i64>(0));
    let used = pragma("page_count")? - pragma("freelist_count")?;
    Ok(u64::try_from(used * pragma("page_size")?).unwrap_or(0))
}

fn rolled_until(connection: &Connection, resolution: i64) -> rusqlite::Result<Option<i64>> {
    connection
        .query_row("SELECT until_s FROM rollups WHERE resolution_s = ?1", [resolution], |row| row.get(0))
        .optional()
}

/// Makes metrics of resolution `to` out of those of `from`; `true` when more intervals wait.
fn roll_up(connection: &mut Connection, from: i64, to: i64, now_s: i64) -> rusqlite::Result<bool> {
    // Whole intervals only, all of whose metrics have come in and are rolled up themselves.
    let complete = match from {
        0 => now_s - LATENESS_S,
        _ => rolled_until(connection, from)?.unwrap_or(i64::MIN),
    };
    let complete = complete.div_euclid(to) * to;
    // A clock that was set back must not keep us from rolling up until it has caught up.
    let until = rolled_until(connection, to)?.filter(|until| *until <= now_s);
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let mut first: Option<i64> = None;
    for Table(table, _) in METRICS {
        let earliest: Option<i64> = transaction.query_row(
            &format!("SELECT min(time_s) FROM {table} WHERE resolution_s = ?1 AND time_s >= ?2"),
            params![from, until.unwrap_or(i64::MIN)],
            |row| row.get(0),
        )?;
        first = first.into_iter().chain(earliest).min();
    }
    // Intervals without any metric are passed over at once.
    let start = first.map_or(complete, |first| (first.div_euclid(to) * to).min(complete));
    let end = complete.min(start + INTERVALS * to);
    if until.is_some_and(|until| end <= until) {
        return Ok(false);
    }
    transaction.execute(
        "INSERT OR REPLACE INTO path_metrics (path, resolution_s, time_s, samples, up_samples, score, rtt_ms, rtt_min_ms,
                rtt_max_ms, jitter_forward_ms, jitter_backward_ms, loss_forward_pct, loss_backward_pct, mos,
                sent_packets, sent_bytes, received_packets, received_bytes, data_loss_forward_pct,
                data_loss_forward_packets, data_loss_backward_pct, data_loss_backward_packets, tcp_rtt_ms,
                tcp_rtt_min_ms, known_ms, up_ms, capacity_bps, capacity_backward_bps)
         SELECT path, ?2, time_s / ?2 * ?2, sum(samples), sum(up_samples), sum(score * samples) / sum(samples),
                avg(rtt_ms), min(rtt_min_ms), max(rtt_max_ms),
                sum(jitter_forward_ms * samples) / sum(samples), sum(jitter_backward_ms * samples) / sum(samples),
                avg(loss_forward_pct), avg(loss_backward_pct), avg(mos),
                sum(sent_packets), sum(sent_bytes), sum(received_packets), sum(received_bytes),
                sum(data_loss_forward_pct * data_loss_forward_packets) / sum(data_loss_forward_packets),
                sum(data_loss_forward_packets),
                sum(data_loss_backward_pct * data_loss_backward_packets) / sum(data_loss_backward_packets),
                sum(data_loss_backward_packets), avg(tcp_rtt_ms), min(tcp_rtt_min_ms),
                sum(coalesce(known_ms, samples * 10000)), sum(coalesce(up_ms, up_samples * 10000)),
                CAST(avg(capacity_bps) AS INTEGER), CAST(avg(capacity_backward_bps) AS INTEGER)
         FROM path_metrics WHERE resolution_s = ?1 AND time_s >= ?3 AND time_s < ?4
         GROUP BY path, time_s / ?2",
        params![from, to, start, end],
    )?;
    transaction.execute(
        "INSERT OR REPLACE INTO uplink_metrics (resolution_s, time_s, uplink, known_ms, up_ms)
         SELECT ?2, time_s / ?2 * ?2, uplink, sum(known_ms), sum(up_ms)
         FROM uplink_metrics WHERE resolution_s = ?1 AND time_s >= ?3 AND time_s < ?4
         GROUP BY uplink, time_s / ?2",
        params![from, to, start, end],
    )?;
    transaction.execute(
        "INSERT OR REPLACE INTO class_metrics (resolution_s, time_s, site_class, kept_ms, broken_ms, without_ms)
         SELECT ?2, time_s / ?2 * ?2, site_class, sum(kept_ms), sum(broken_ms), sum(without_ms)
         FROM class_metrics WHERE resolution_s = ?1 AND time_s >= ?3 AND time_s < ?4
         GROUP BY site_class, time_s / ?2",
        params![from, to, start, end],
    )?;
    transaction.execute("INSERT OR REPLACE INTO rollups (resolution_s, until_s) VALUES (?1, ?2)", params![to, end])?;
    transaction.commit()?;
    Ok(end < complete)
}

/// Removes the oldest rows, at most [`CHUNK`]. Each table has an index, or its key, in the order of their age.
fn remove_metrics(
    connection: &Connection,
    Table(table, of): Table,
    resolution: i64,
    before_s: i64,
) -> rusqlite::Result<usize> {
    connection.execute(
        &format!(
            "DELETE FROM {table} WHERE ({of}, resolution_s, time_s) IN (
                 SELECT {of}, resolution_s, time_s FROM {table}
                 WHERE resolution_s = ?1 AND time_s < ?2 ORDER BY time_s LIMIT ?3)"
        ),
        params![resolution, before_s, CHUNK],
    )
}

fn remove_rows(connection: &Connection, table: &str, before_ns: i64) -> rusqlite::Result<usize> {
    connection.execute(
        &format!(
            "DELETE FROM {table} WHERE id IN (SELECT id FROM {table} WHERE time_ns < ?1 ORDER BY time_ns LIMIT ?2)"
        ),
        params![before_ns, CHUNK],
    )
}

/// Makes room: the least valuable history that there is goes first. `true` when something went.
fn remove_oldest(connection: &Connection) -> rusqlite::Result<bool> {
    for resolution in [0, 60] {
        if remove_all_kinds(connection, resolution)? {
            return Ok(true);
        }
    }
    for table in ["flow_samples", "events"] {
        if remove_rows(connection, table, i64::MAX)? > 0 {
            return Ok(true);
        }
    }
    // Who changed what goes last.
    Ok(remove_all_kinds(connection, 3_600)? || remove_rows(connection, "audit", i64::MAX)? > 0)
}

/// Removes the oldest metrics of one resolution from every table. `true` when something went.
fn remove_all_kinds(connection: &Connection, resolution: i64) -> rusqlite::Result<bool> {
    let mut removed = 0;
    for table in METRICS {
        removed += remove_metrics(connection, table, resolution, i64::MAX)?;
    }
    Ok(removed > 0)
}
