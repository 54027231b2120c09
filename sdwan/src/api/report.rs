//! Makes a report of what the database keeps: the daemon does, and `sdwan report` itself while the daemon isn't running.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};
use utoipa::IntoParams;

use super::views::{
    AvailabilityView, ClassReport, ComplianceStepView, ComplianceView, FailoverView, MOST_FAILOVERS, MovesView,
    PathReport, ProviderReport, QualityView, ReportView, StepView, VERSION,
};
use crate::engine::events::EventKind;
use crate::engine::path::Cause;
use crate::engine::sets::MoveReason;
use crate::engine::types::{PathKey, SiteId, UplinkIndex};
use crate::store::{
    ClassSums, EventQuery, PathHistory, PathSums, Reader, Span, SpanHistory, StoreError, StoredEvent, UplinkSums,
};

/// What befell a path counts as the cause of a move that follows within this, ns: moves wait for their holds.
const CAUSE_WITHIN_NS: i64 = 90_000_000_000;
/// Events that are looked at for one report, the latest ones.
const MOST_EVENTS: usize = 200_000;
/// Longest span of a report, s: ten years.
const LONGEST_S: i64 = 10 * 366 * 86_400;

/// Query of `GET /v1/report`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ReportQuery {
    /// Begin, Unix time in s.
    pub since: i64,
    /// End, Unix time in s.
    pub until: i64,
}

impl ReportQuery {
    /// The span, if it is one.
    ///
    /// # Errors
    /// What is wrong with it, and what to write.
    pub fn span(&self) -> Result<Span, String> {
        if self.since < 0 || self.until <= self.since {
            return Err("the report ends before it begins: choose an earlier `since`, or a later `until`".into());
        }
        if self.until - self.since > LONGEST_S {
            return Err("a report spans at most ten years: choose a later `since`".into());
        }
        Ok(Span::new(self.since, self.until))
    }
}

/// Makes the report of a span.
pub fn report(reader: &Reader, span: Span) -> Result<ReportView, StoreError> {
    let history = reader.span_history(span)?;
    let events = reader.events(&EventQuery {
        since_unix_ns: Some(span.from.saturating_mul(1_000_000_000)),
        until_unix_ns: Some(span.to.saturating_mul(1_000_000_000)),
        kinds: vec![EventKind::ClassMoved, EventKind::PathDown, EventKind::PathDegraded, EventKind::PathSilent],
        limit: MOST_EVENTS,
        ..EventQuery::default()
    })?;
    Ok(of(history, &events))
}

/// Names of paths.
struct Names {
    local: HashMap<UplinkIndex, String>,
    sites: HashMap<SiteId, String>,
    /// Of the remote uplinks.
    remote: HashMap<PathKey, String>,
}

impl Names {
    fn new(history: &SpanHistory) -> Self {
        let local: HashMap<UplinkIndex, String> = history.uplink_names.iter().cloned().collect();
        let remote = |path: &PathHistory| Some((path.path, path.remote_name.clone()?));
        Self {
            local,
            sites: history.paths.iter().map(|path| (path.path.site, path.site_name.clone())).collect(),
            remote: history.paths.iter().filter_map(remote).collect(),
        }
    }

    fn local(&self, uplink: UplinkIndex) -> String {
        self.local.get(&uplink).cloned().unwrap_or_else(|| uplink.to_string())
    }

    fn site(&self, path: &PathKey) -> String {
        self.sites.get(&path.site).cloned().unwrap_or_else(|| path.site.to_string())
    }

    fn remote(&self, path: &PathKey) -> String {
        self.remote.get(path).cloned().unwrap_or_else(|| path.tunnel.remote.to_string())
    }

    fn uplinks(&self, path: &PathKey) -> String {
        format!("{}→{}", self.local(path.tunnel.local), self.remote(path))
    }
}

fn of(history: SpanHistory, events: &[StoredEvent]) -> ReportView {
    let span = history.span;
    let names = Names::new(&history);
    let (failovers, mut falls) = read(events, &names);
    let paths: Vec<PathReport> =
        history.paths.iter().map(|path| path_report(&span, path, &names, falls.remove(&path.path))).collect();
    let moves = moves(&failovers);
    let listed = failovers.len().saturating_sub(MOST_FAILOVERS);
    ReportView {
        version: VERSION,
        site_name: None,
        since_unix_s: span.from,
        until_unix_s: span.to,
        step_s: span.step,
        history_begins_unix_s: history.begins,
        events_begin_unix_s: history.events_begin_ns.map(|ns| ns.div_euclid(1_000_000_000)),
        providers: providers(&span, &history, &names),
        paths,
        classes: classes(&span, &history.classes),
        moves,
        failovers: failovers.into_iter().skip(listed).collect(),
    }
}

/// How long a step of the span is: the last one may be cut short.
fn length(span: &Span, step: i64) -> i64 {
    (span.to - span.from - step * span.step).min(span.step)
}

fn step_view(span: &Span, sums: &PathSums) -> StepView {
    StepView {
        time_unix_s: span.from + sums.step * span.step,
        availability: AvailabilityView::new(length(span, sums.step), sums.known_ms, sums.up_ms),
        quality: QualityView::of(sums),
    }
}

fn total<'a>(steps: impl IntoIterator<Item = &'a PathSums>) -> PathSums {
    let mut total = PathSums::default();
    steps.into_iter().for_each(|sums| total.add(sums));
    total
}

fn bytes(sum: i64) -> u64 {
    u64::try_from(sum).unwrap_or(0)
}

fn path_report(span: &Span, history: &PathHistory, names: &Names, falls: Option<BTreeMap<String, u64>>) -> PathReport {
    let PathKey { site, tunnel } = history.path;
    let sums = total(&history.steps);
    PathReport {
        site,
        site_name: history.site_name.clone(),
        tunnel,
        local_uplink: names.local(tunnel.local),
        remote_uplink: names.remote(&history.path),
        availability: AvailabilityView::new(span.to - span.from, sums.known_ms, sums.up_ms),
        quality: QualityView::of(&sums),
        sent_bytes: bytes(sums.sent_bytes),
        received_bytes: bytes(sums.received_bytes),
        falls: falls.unwrap_or_default(),
        series: history.steps.iter().map(|sums| step_view(span, sums)).collect(),
    }
}

fn providers(span: &Span, history: &SpanHistory, names: &Names) -> Vec<ProviderReport> {
    let mut uplinks: BTreeMap<UplinkIndex, BTreeMap<i64, UplinkSums>> = BTreeMap::new();
    for sums in &history.uplinks {
        uplinks.entry(sums.uplink).or_default().insert(sums.step, *sums);
    }
    let report = |(uplink, known): (UplinkIndex, BTreeMap<i64, UplinkSums>)| {
        // Quality is that of the paths; whether it is up was recorded by itself, for what its paths have in common can't be
        // told from sums over an hour.
        let mut steps: BTreeMap<i64, PathSums> = BTreeMap::new();
        let paths = history.paths.iter().filter(|path| path.path.tunnel.local == uplink);
        for sums in paths.flat_map(|path| &path.steps) {
            let new = || PathSums { step: sums.step, ..PathSums::default() };
            steps.entry(sums.step).or_insert_with(new).add(sums);
        }
        for sums in steps.values_mut() {
            let up = known.get(&sums.step);
            sums.known_ms = up.map_or(0, |up| up.known_ms);
            sums.up_ms = up.map_or(0, |up| up.up_ms);
        }
        let sums = total(steps.values());
        ProviderReport {
            uplink,
            name: names.local(uplink),
            availability: AvailabilityView::new(span.to - span.from, sums.known_ms, sums.up_ms),
            quality: QualityView::of(&sums),
            sent_bytes: bytes(sums.sent_bytes),
            received_bytes: bytes(sums.received_bytes),
            series: steps.values().map(|sums| step_view(span, sums)).collect(),
        }
    };
    uplinks.into_iter().map(report).collect()
}

fn classes(span: &Span, sums: &[ClassSums]) -> Vec<ClassReport> {
    let of_one = |steps: &[ClassSums]| {
        let sum = |of: fn(&ClassSums) -> i64| steps.iter().map(of).sum::<i64>();
        let (kept, broken, without) = (sum(|s| s.kept_ms), sum(|s| s.broken_ms), sum(|s| s.without_ms));
        let step = |sums: &ClassSums| ComplianceStepView {
            time_unix_s: span.from + sums.step * span.step,
            compliance: ComplianceView::new(length(span, sums.step), sums.kept_ms, sums.broken_ms, sums.without_ms),
        };
        ClassReport {
            site: steps[0].site,
            site_name: steps[0].site_name.clone(),
            class: steps[0].class.clone(),
            sla: steps[0].sla.clone(),
            compliance: ComplianceView::new(span.to - span.from, kept, broken, without),
            series: steps.iter().map(step).collect(),
        }
    };
    sums.chunk_by(|a, b| a.site == b.site && a.class == b.class).map(of_one).collect()
}

/// The failovers with their causes, and how often each path went down, by cause.
fn read(events: &[StoredEvent], names: &Names) -> (Vec<FailoverView>, HashMap<PathKey, BTreeMap<String, u64>>) {
    let mut failovers = Vec::new();
    let mut falls: HashMap<PathKey, BTreeMap<String, u64>> = HashMap::new();
    // What befell each path last, and when.
    let mut down: HashMap<PathKey, (i64, String)> = HashMap::new();
    let mut degraded: HashMap<PathKey, (i64, String)> = HashMap::new();
    for StoredEvent { time_unix_ns, event, .. } in events {
        let Some(path) = event.path else { continue };
        let details = &event.details;
        match event.kind {
            EventKind::PathDown => {
                let cause = serde_json::from_value::<Cause>(details["cause"].clone()).map(Cause::text);
                let cause = cause.unwrap_or("the path went down").to_owned();
                *falls.entry(path).or_default().entry(cause.clone()).or_default() += 1;
                down.insert(path, (*time_unix_ns, cause));
            }
            EventKind::PathSilent => {
                down.insert(path, (*time_unix_ns, "the data path found it silent".into()));
            }
            EventKind::PathDegraded => {
                degraded.insert(path, (*time_unix_ns, "its quality fell below what is good enough".into()));
            }
            _ => {
                // The first path of a class is no failover.
                let Some(from) = event.from_path else { continue };
                let reason = serde_json::from_value::<MoveReason>(details["reason"].clone()).ok();
                let lately = |of: &HashMap<PathKey, (i64, String)>| {
                    of.get(&from).filter(|(at, _)| time_unix_ns - at <= CAUSE_WITHIN_NS).map(|(_, cause)| cause.clone())
                };
                let cause = match reason {
                    Some(MoveReason::Down) => lately(&down).unwrap_or_else(|| "the path went down".into()),
                    Some(MoveReason::Worse) => lately(&degraded).unwrap_or_else(|| "it broke the class's SLA".into()),
                    Some(MoveReason::Better) => "the other path was better for long enough".into(),
                    Some(MoveReason::First) | None => reason.map_or("unknown", MoveReason::text).into(),
                };
                failovers.push(FailoverView {
                    time_unix_ns: *time_unix_ns,
                    site_name: names.site(&path),
                    class: event.class.clone().unwrap_or_default(),
                    from: names.uplinks(&from),
                    to: names.uplinks(&path),
                    reason,
                    cause,
                });
            }
        }
    }
    (failovers, falls)
}

/// How often each cause moved classes from each path.
fn moves(failovers: &[FailoverView]) -> Vec<MovesView> {
    let mut counts: BTreeMap<(&str, &str, &str), MovesView> = BTreeMap::new();
    for failover in failovers {
        let key = (failover.site_name.as_str(), failover.from.as_str(), failover.cause.as_str());
        let entry = counts.entry(key).or_insert_with(|| MovesView {
            site_name: failover.site_name.clone(),
            from: failover.from.clone(),
            cause: failover.cause.clone(),
            count: 0,
            classes: Vec::new(),
        });
        entry.count += 1;
        if !entry.classes.contains(&failover.class) {
            entry.classes.push(failover.class.clone());
        }
    }
    let mut moves: Vec<MovesView> = counts.into_values().collect();
    moves.sort_by_key(|moves| std::cmp::Reverse(moves.count));
    moves
}

#[cfg(test)]
#[path = "report_tests.rs"]
mod tests;
