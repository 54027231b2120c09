//! Sums over a span of time, in steps: what `sdwan report` is made of.
//!
//! History is kept at three resolutions. A span takes the one that fits its length, the coarser one for what is too old
//! for that, and the finer ones for what has not been rolled up yet, so that no moment counts twice.

use rusqlite::types::FromSql;
use rusqlite::{Params, params};

use super::StoreError;
use super::query::{Reader, Resolution};
use crate::engine::types::{PathKey, SiteId, TunnelKey, UplinkIndex};

/// Steps of a series, s: the first that makes few enough of them.
const STEPS: [i64; 10] = [60, 300, 900, 1_800, 3_600, 3 * 3_600, 6 * 3_600, 86_400, 3 * 86_400, 7 * 86_400];
/// Most steps of a series.
const MOST_STEPS: i64 = 180;
/// Up to so long, s, a span is made of records as they were written …
pub(super) const RAW_UP_TO: i64 = 2 * 3_600;
/// … and up to so long of those by the minute.
pub(super) const MINUTE_UP_TO: i64 = 8 * 86_400;

/// A span of time, in steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Begin, Unix time in s.
    pub from: i64,
    /// End, Unix time in s.
    pub to: i64,
    /// Length of a step, s.
    pub step: i64,
    pub(super) base: Resolution,
}

impl Span {
    /// The span from `from` to before `to`, begun with a whole interval of the resolution that it is made of.
    pub fn new(from: i64, to: i64) -> Self {
        let length = to.saturating_sub(from).max(1);
        let base = if length <= RAW_UP_TO {
            Resolution::Raw
        } else if length <= MINUTE_UP_TO {
            Resolution::Minute
        } else {
            Resolution::Hour
        };
        let least = base.seconds().max(STEPS[0]);
        let fits = |step: &&i64| **step >= least && length / **step < MOST_STEPS;
        let step = STEPS.iter().find(fits).copied().unwrap_or(length / MOST_STEPS + 1);
        let from = from.div_euclid(least) * least;
        Self { from, to, step, base }
    }
}

/// A resolution, and the part of the span that it stands for.
pub(super) type Segment = (Resolution, i64, i64);

/// Sums over one step. Means are weighted by how often the path was found up.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PathSums {
    /// Number of the step.
    pub step: i64,
    /// For how long the path was watched, ms.
    pub known_ms: i64,
    /// For how long it was up, ms.
    pub up_ms: i64,
    /// Round-trip time, ms, towards its weight.
    pub rtt: Mean,
    /// Smallest round-trip time, ms.
    pub rtt_min_ms: Option<f64>,
    /// Largest round-trip time, ms.
    pub rtt_max_ms: Option<f64>,
    /// Jitter towards the peer, ms.
    pub jitter_forward: Mean,
    /// Jitter from the peer, ms.
    pub jitter_backward: Mean,
    /// Loss towards the peer, percent.
    pub loss_forward: Mean,
    /// Loss from the peer, percent.
    pub loss_backward: Mean,
    /// Mean opinion score.
    pub mos: Mean,
    /// Capacity towards the peer, bit/s.
    pub capacity: Mean,
    /// Capacity from the peer, bit/s.
    pub capacity_backward: Mean,
    /// Bytes sent.
    pub sent_bytes: i64,
    /// Bytes received.
    pub received_bytes: i64,
}

/// A mean that is still to be divided.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Mean {
    /// Sum of values times weights.
    pub sum: f64,
    /// Sum of the weights.
    pub weight: f64,
}

impl Mean {
    /// The mean; `None` of nothing.
    pub fn value(self) -> Option<f64> {
        (self.weight > 0.0).then(|| self.sum / self.weight)
    }

    /// Takes another one in.
    pub fn add(&mut self, other: Self) {
        self.sum += other.sum;
        self.weight += other.weight;
    }
}

impl PathSums {
    /// Takes other sums in; the step stays.
    pub fn add(&mut self, other: &Self) {
        let least = |a: Option<f64>, b: Option<f64>| a.into_iter().chain(b).reduce(f64::min);
        let most = |a: Option<f64>, b: Option<f64>| a.into_iter().chain(b).reduce(f64::max);
        self.known_ms += other.known_ms;
        self.up_ms += other.up_ms;
        self.rtt.add(other.rtt);
        self.rtt_min_ms = least(self.rtt_min_ms, other.rtt_min_ms);
        self.rtt_max_ms = most(self.rtt_max_ms, other.rtt_max_ms);
        self.jitter_forward.add(other.jitter_forward);
        self.jitter_backward.add(other.jitter_backward);
        self.loss_forward.add(other.loss_forward);
        self.loss_backward.add(other.loss_backward);
        self.mos.add(other.mos);
        self.capacity.add(other.capacity);
        self.capacity_backward.add(other.capacity_backward);
        self.sent_bytes += other.sent_bytes;
        self.received_bytes += other.received_bytes;
    }
}

/// A path with its names, and what it did in each step in which something is known of it.
#[derive(Clone, Debug, PartialEq)]
pub struct PathHistory {
    /// The path.
    pub path: PathKey,
    /// Name of the site.
    pub site_name: String,
    /// Name of the remote uplink, if it was ever announced.
    pub remote_name: Option<String>,
    /// In the order of time.
    pub steps: Vec<PathSums>,
}

/// How a local uplink did in a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UplinkSums {
    /// The uplink.
    pub uplink: UplinkIndex,
    /// Number of the step.
    pub step: i64,
    /// For how long paths by it were watched, ms.
    pub known_ms: i64,
    /// For how long one of them was up, ms.
    pub up_ms: i64,
}

/// How a class did at a site in a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassSums {
    /// The remote site.
    pub site: SiteId,
    /// Its name.
    pub site_name: String,
    /// Name of the class.
    pub class: String,
    /// Its bounds, for people.
    pub sla: String,
    /// Number of the step.
    pub step: i64,
    /// For how long its path kept the bounds, ms.
    pub kept_ms: i64,
    /// For how long it broke them, ms.
    pub broken_ms: i64,
    /// For how long there was no path, ms.
    pub without_ms: i64,
}

/// Everything that is known of a span.
#[derive(Clone, Debug, PartialEq)]
pub struct SpanHistory {
    /// The span.
    pub span: Span,
    /// Paths of which something is known, by site and tunnel.
    pub paths: Vec<PathHistory>,
    /// Local uplinks, likewise, by index and step.
    pub uplinks: Vec<UplinkSums>,
    /// Classes at sites, by site, class and step.
    pub classes: Vec<ClassSums>,
    /// Names of the local uplinks.
    pub uplink_names: Vec<(UplinkIndex, String)>,
    /// When the history that is still kept begins, Unix time in s; `None`: there is none.
    pub begins: Option<i64>,
    /// When the events that are still kept begin, Unix time in ns.
    pub events_begin_ns: Option<i64>,
}

impl Reader {
    /// All that is known of a span.
    pub fn span_history(&self, span: Span) -> Result<SpanHistory, StoreError> {
        let segments = self.segments(&span)?;
        Ok(SpanHistory {
            span,
            paths: self.path_sums(&span, &segments)?,
            uplinks: self.uplink_sums(&span, &segments)?,
            classes: self.class_sums(&span, &segments)?,
            uplink_names: self.uplink_names()?,
            begins: self.first(
                "SELECT min(begin) FROM (SELECT min(time_s) AS begin FROM path_metrics WHERE resolution_s = 0
                 UNION ALL SELECT min(time_s) FROM path_metrics WHERE resolution_s = 60
                 UNION ALL SELECT min(time_s) FROM path_metrics WHERE resolution_s = 3600)",
                [],
            )?,
            events_begin_ns: self.first("SELECT min(time_ns) FROM events", [])?,
        })
    }

    /// The only value of the only row; `None` without a row, and for NULL.
    fn first<T: FromSql>(&self, sql: &str, parameters: impl Params) -> Result<Option<T>, StoreError> {
        Ok(self.rows(sql, parameters, |row| row.get::<_, Option<T>>(0))?.into_iter().flatten().next())
    }

    /// Which resolution stands for which part of the span, oldest first.
    pub(super) fn segments(&self, span: &Span) -> Result<Vec<Segment>, StoreError> {
        use Resolution::{Hour, Minute, Raw};
        // Begin and end of what there is, in whole intervals of the next coarser resolution. What has expired at the beginning
        // is in the interval of the coarser one; where there is none, nothing has.
        let begin = |resolution: Resolution, coarser: i64| -> Result<i64, StoreError> {
            let sql = "SELECT min(time_s) FROM path_metrics WHERE resolution_s = ?1";
            let Some(first) = self.first::<i64>(sql, [resolution.seconds()])? else { return Ok(i64::MAX) };
            let interval = first.div_euclid(coarser) * coarser;
            let sql = "SELECT EXISTS (SELECT 1 FROM path_metrics WHERE resolution_s = ?1 AND time_s = ?2)";
            let covered = interval < first && self.first(sql, [coarser, interval])?.unwrap_or(false);
            Ok(if covered { interval + coarser } else { interval })
        };
        let end = |resolution: Resolution| -> Result<i64, StoreError> {
            let sql = "SELECT until_s FROM rollups WHERE resolution_s = ?1";
            Ok(self.first(sql, [resolution.seconds()])?.unwrap_or(i64::MIN))
        };
        let (hours, minutes) = match span.base {
            Hour => (end(Hour)?, end(Minute)?),
            Minute => (begin(Minute, 3_600)?.min(end(Hour)?), end(Minute)?),
            Raw => (begin(Minute, 3_600)?.min(end(Hour)?), begin(Raw, 60)?.min(end(Minute)?)),
        };
        let minutes = minutes.clamp(span.from, span.to);
        let hours = hours.clamp(span.from, minutes);
        let all = [(Hour, span.from, hours), (Minute, hours, minutes), (Raw, minutes, span.to)];
        Ok(all.into_iter().filter(|(_, from, to)| from < to).collect())
    }

    fn path_sums(&self, span: &Span, segments: &[Segment]) -> Result<Vec<PathHistory>, StoreError> {
        let sql = "SELECT paths.id, paths.site, local_uplink, remote_uplink, sites.name, remote_uplinks.name
                   FROM paths JOIN sites ON sites.id = paths.site
                   LEFT JOIN remote_uplinks ON remote_uplinks.site = paths.site AND idx = remote_uplink
                   ORDER BY sites.name, paths.site, local_uplink, remote_uplink";
        let known = self.rows(sql, [], |row| {
            Ok((row.get::<_, i64>(0)?, SiteId(row.get(1)?), [row.get(2)?, row.get(3)?], row.get(4)?, row.get(5)?))
        })?;
        let mut paths = Vec::new();
        for (id, site, [local, remote], site_name, remote_name) in known {
            let (Some(local), Some(remote)) = (UplinkIndex::new(local), UplinkIndex::new(remote)) else { continue };
            let mut steps: Vec<PathSums> = Vec::new();
            for segment in segments {
                for sums in self.path_segment(id, span, segment)? {
                    // A step may lie across two segments.
                    match steps.last_mut().filter(|last| last.step == sums.step) {
                        Some(last) => last.add(&sums),
                        None => steps.push(sums),
                    }
                }
            }
            if !steps.is_empty() {
                let path = PathKey { site, tunnel: TunnelKey { local, remote } };
                paths.push(PathHistory { path, site_name, remote_name, steps });
            }
        }
        Ok(paths)
    }

    pub(super) fn path_segment(&self, path: i64, span: &Span, segment: &Segment) -> Result<Vec<PathSums>, StoreError> {
        let (resolution, from, to) = *segment;
        let sql = "SELECT (time_s - ?1) / ?2 AS step, sum(coalesce(known_ms, samples * 10000)),
                          sum(coalesce(up_ms, up_samples * 10000)),
                          sum(rtt_ms * up_samples), sum(up_samples) FILTER (WHERE rtt_ms IS NOT NULL),
                          min(rtt_min_ms), max(rtt_max_ms),
                          sum(jitter_forward_ms * up_samples), sum(jitter_backward_ms * up_samples), sum(up_samples),
                          sum(loss_forward_pct * up_samples),
                          sum(up_samples) FILTER (WHERE loss_forward_pct IS NOT NULL),
                          sum(loss_backward_pct * up_samples),
                          sum(up_samples) FILTER (WHERE loss_backward_pct IS NOT NULL),
                          sum(mos * up_samples), sum(up_samples) FILTER (WHERE mos IS NOT NULL),
                          sum(sent_bytes), sum(received_bytes),
                          sum(capacity_bps * samples), sum(samples) FILTER (WHERE capacity_bps IS NOT NULL),
                          sum(capacity_backward_bps * samples),
                          sum(samples) FILTER (WHERE capacity_backward_bps IS NOT NULL)
                   FROM path_metrics WHERE path = ?3 AND resolution_s = ?4 AND time_s >= ?5 AND time_s < ?6
                   GROUP BY step ORDER BY step";
        self.rows(sql, params![span.from, span.step, path, resolution.seconds(), from, to], |row| {
            let number = |column: usize| row.get::<_, Option<f64>>(column).map(|value| value.unwrap_or(0.0));
            let mean = |sum, weight| Ok::<_, rusqlite::Error>(Mean { sum: number(sum)?, weight: number(weight)? });
            Ok(PathSums {
                step: row.get(0)?,
                known_ms: row.get(1)?,
                up_ms: row.get(2)?,
                rtt: mean(3, 4)?,
                rtt_min_ms: row.get(5)?,
                rtt_max_ms: row.get(6)?,
                jitter_forward: mean(7, 9)?,
                jitter_backward: mean(8, 9)?,
                loss_forward: mean(10, 11)?,
                loss_backward: mean(12, 13)?,
                mos: mean(14, 15)?,
                sent_bytes: row.get(16)?,
                received_bytes: row.get(17)?,
                capacity: mean(18, 19)?,
                capacity_backward: mean(20, 21)?,
            })
        })
    }

    fn uplink_sums(&self, span: &Span, segments: &[Segment]) -> Result<Vec<UplinkSums>, StoreError> {
        let sql = "SELECT uplink, (time_s - ?1) / ?2 AS step, sum(known_ms), sum(up_ms) FROM uplink_metrics
                   WHERE resolution_s = ?3 AND time_s >= ?4 AND time_s < ?5 GROUP BY uplink, step";
        let mut all: Vec<UplinkSums> = Vec::new();
        for (resolution, from, to) in segments {
            let parameters = params![span.from, span.step, resolution.seconds(), from, to];
            let rows = self.rows(sql, parameters, |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))?;
            for (uplink, step, known_ms, up_ms) in rows {
                let Some(uplink) = UplinkIndex::new(uplink) else { continue };
                all.push(UplinkSums { uplink, step, known_ms, up_ms });
            }
        }
        all.sort_by_key(|sums| (sums.uplink, sums.step));
        all.dedup_by(|later, earlier| {
            let same = (later.uplink, later.step) == (earlier.uplink, earlier.step);
            if same {
                earlier.known_ms += later.known_ms;
                earlier.up_ms += later.up_ms;
            }
            same
        });
        Ok(all)
    }

    fn class_sums(&self, span: &Span, segments: &[Segment]) -> Result<Vec<ClassSums>, StoreError> {
        let sql = "SELECT site_classes.site, sites.name, class, sla, (time_s - ?1) / ?2 AS step, sum(kept_ms),
                          sum(broken_ms), sum(without_ms)
                   FROM class_metrics JOIN site_classes ON site_classes.id = site_class
                   JOIN sites ON sites.id = site_classes.site
                   WHERE resolution_s = ?3 AND time_s >= ?4 AND time_s < ?5 GROUP BY site_class, step";
        let mut all: Vec<ClassSums> = Vec::new();
        for (resolution, from, to) in segments {
            let parameters = params![span.from, span.step, resolution.seconds(), from, to];
            all.extend(self.rows(sql, parameters, |row| {
                Ok(ClassSums {
                    site: SiteId(row.get(0)?),
                    site_name: row.get(1)?,
                    class: row.get(2)?,
                    sla: row.get(3)?,
                    step: row.get(4)?,
                    kept_ms: row.get(5)?,
                    broken_ms: row.get(6)?,
                    without_ms: row.get(7)?,
                })
            })?);
        }
        let place = |sums: &ClassSums| (sums.site_name.clone(), sums.site, sums.class.clone(), sums.step);
        all.sort_by_cached_key(place);
        all.dedup_by(|later, earlier| {
            let same = later.site == earlier.site && later.class == earlier.class && later.step == earlier.step;
            if same {
                earlier.kept_ms += later.kept_ms;
                earlier.broken_ms += later.broken_ms;
                earlier.without_ms += later.without_ms;
            }
            same
        });
        Ok(all)
    }

    fn uplink_names(&self) -> Result<Vec<(UplinkIndex, String)>, StoreError> {
        let rows = self.rows("SELECT idx, name FROM uplinks ORDER BY idx", [], |row| Ok((row.get(0)?, row.get(1)?)))?;
        Ok(rows.into_iter().filter_map(|(index, name)| Some((UplinkIndex::new(index)?, name))).collect())
    }
}

#[cfg(test)]
#[path = "report_tests.rs"]
mod tests;
