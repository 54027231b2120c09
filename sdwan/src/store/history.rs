//! How one path did, in steps that are few enough to be plotted.

use rusqlite::params;

use super::StoreError;
use super::query::{Reader, Resolution};
use super::report::{MINUTE_UP_TO, PathSums, RAW_UP_TO, Span};
use crate::engine::types::PathKey;

/// Steps of a series, s: the first that makes few enough of them. Records come every 10 s.
const STEPS: [i64; 16] =
    [10, 20, 30, 60, 120, 300, 600, 900, 1_800, 3_600, 2 * 3_600, 3 * 3_600, 6 * 3_600, 43_200, 86_400, 7 * 86_400];

/// How a path did in each step of a span in which something is known of it, in the order of time.
#[derive(Clone, Debug, PartialEq)]
pub struct PathSeries {
    /// Where the span begins, Unix time in s.
    pub from: i64,
    /// Where it ends, Unix time in s.
    pub to: i64,
    /// Length of a step, s.
    pub step: i64,
    /// Sums over the steps.
    pub points: Vec<PathSums>,
}

/// The span in at most `most` steps.
fn span(from: i64, to: i64, most: i64) -> Span {
    let length = to.saturating_sub(from).max(1);
    let (base, least) = if length <= RAW_UP_TO {
        (Resolution::Raw, STEPS[0])
    } else if length <= MINUTE_UP_TO {
        (Resolution::Minute, 60)
    } else {
        (Resolution::Hour, 3_600)
    };
    let most = most.max(2);
    // Begun with a whole interval, the span is up to one longer.
    let fits = |step: &&i64| **step >= least && length / **step + 2 <= most;
    let step = STEPS.iter().find(fits).copied().unwrap_or_else(|| (length / (most - 1)).max(least) + 1);
    let whole = step.max(60);
    Span { from: from.div_euclid(whole) * whole, to, step, base }
}

impl Reader {
    /// How a path did from `from` until before `to`, Unix times in s, in about `most` steps at most. Nothing of a path
    /// that was never recorded.
    pub fn path_series(&self, path: &PathKey, from: i64, to: i64, most: i64) -> Result<PathSeries, StoreError> {
        let span = span(from, to, most);
        let sql = "SELECT id FROM paths WHERE site = ?1 AND local_uplink = ?2 AND remote_uplink = ?3";
        let key = params![path.site.0, path.tunnel.local.get(), path.tunnel.remote.get()];
        let id: Option<i64> = self.rows(sql, key, |row| row.get(0))?.into_iter().next();
        let mut points: Vec<PathSums> = Vec::new();
        let segments = if id.is_some() { self.segments(&span)? } else { Vec::new() };
        for segment in id.iter().flat_map(|id| segments.iter().map(move |segment| (*id, segment))) {
            for sums in self.path_segment(segment.0, &span, segment.1)? {
                // A step may lie across two segments.
                match points.last_mut().filter(|last| last.step == sums.step) {
                    Some(last) => last.add(&sums),
                    None => points.push(sums),
                }
            }
        }
        Ok(PathSeries { from: span.from, to: span.to, step: span.step, points })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_has_no_more_steps_than_are_wanted_and_none_finer_than_what_is_recorded() {
        let now = 1_700_000_000;
        for length in [1, 60, 900, 3_600, 7_200, 7_201, 86_400, 8 * 86_400, 30 * 86_400, 3_000 * 86_400] {
            for most in [10, 400, 1_000] {
                let span = span(now - length, now, most);
                let steps = (span.to - span.from + span.step - 1) / span.step;
                assert!(steps <= most + 6, "{length} s in {most}: {span:?}");
                assert!(span.from <= now - length && span.step >= span.base.seconds().max(10), "{span:?}");
            }
        }
        assert_eq!(span(now - 900, now, 400).step, 10);
        assert_eq!(span(now - 86_400, now, 1_000).step, 120);
    }
}
