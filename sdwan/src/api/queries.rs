//! What requests have in their URL and in their body.

use std::fmt::Display;

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::views::{AuditView, EventView, Listing};
use crate::engine::events::EventKind;
use crate::store::{AuditEntry, AuditQuery, EventQuery, StoredEvent};

/// Most events, or changes, in one answer.
const MAX_EVENTS: usize = 10_000;

/// Query of `POST /v1/policies`.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct AddQuery {
    /// Stored policies of these names are replaced.
    #[serde(default)]
    pub replace: bool,
}

/// Query of `GET /v1/trace/ID`.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct TracedQuery {
    /// Number of the last packet that is known already.
    #[serde(default)]
    pub after: u64,
}

/// Body of `POST /v1/measure/mtu`.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct MeasureMtu {
    /// The path, as people write it: `SITE`, `SITE/0-1` or `SITE/LOCAL/REMOTE`.
    pub path: String,
}

/// Query of `GET /v1/audit`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct AuditListQuery {
    /// Only changes at or after this, Unix time in nanoseconds.
    pub since: Option<i64>,
    /// Most changes, 1..=10000: the latest ones.
    pub limit: usize,
}

impl Default for AuditListQuery {
    fn default() -> Self {
        Self { since: None, limit: 100 }
    }
}

impl AuditListQuery {
    /// As a question to the store, for one change more than the limit. The error says what is wrong.
    pub fn to_store(&self) -> Result<AuditQuery, String> {
        in_range("limit", self.limit, MAX_EVENTS)?;
        Ok(AuditQuery { since_unix_ns: self.since, limit: self.limit + 1 })
    }

    /// Changes as the API lists them.
    pub fn listing(&self, entries: Vec<(i64, AuditEntry)>) -> Listing<AuditView> {
        Listing::latest(entries.into_iter().map(|(id, entry)| AuditView { id, entry }).collect(), self.limit)
    }
}

/// A number of a request is at least 1 and no larger than this. The error says what to write.
pub(super) fn in_range<T: Copy + PartialOrd + From<u8> + Display>(
    name: &str,
    number: T,
    most: T,
) -> Result<(), String> {
    match (T::from(1)..=most).contains(&number) {
        true => Ok(()),
        false => Err(format!("{name} {number} is out of range: write a number in 1..={most}")),
    }
}

/// Query of `GET /v1/events`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct EventsQuery {
    /// Only events at or after this, Unix time in nanoseconds.
    pub since: Option<i64>,
    /// Only events with a larger number, the first of them.
    pub after: Option<i64>,
    /// Kinds with commas between them; empty: all.
    pub kind: String,
    /// Only events about this site.
    #[param(value_type = Option<String>)]
    pub site: Option<crate::engine::types::SiteId>,
    /// Most events, 1..=10000.
    pub limit: usize,
}

impl Default for EventsQuery {
    fn default() -> Self {
        Self { since: None, after: None, kind: String::new(), site: None, limit: 100 }
    }
}

impl EventsQuery {
    /// As a question to the store, for one event more than the limit. The error says what is wrong.
    pub fn to_store(&self) -> Result<EventQuery, String> {
        in_range("limit", self.limit, MAX_EVENTS)?;
        let kinds = self.kind.split(',').filter(|kind| !kind.is_empty()).map(|kind| kind.trim().parse::<EventKind>());
        Ok(EventQuery {
            since_unix_ns: self.since,
            until_unix_ns: None,
            after_id: self.after,
            kinds: kinds.collect::<Result<_, _>>().map_err(|error| error.to_string())?,
            site: self.site,
            limit: self.limit + 1,
        })
    }

    /// Events as the API lists them, cut to the limit at the right end.
    pub fn listing(&self, events: Vec<StoredEvent>) -> Listing<EventView> {
        let view =
            |event: StoredEvent| EventView { id: event.id, time_unix_ns: event.time_unix_ns, event: event.event };
        let items = events.into_iter().map(view).collect();
        match self.after {
            None => Listing::latest(items, self.limit),
            Some(_) => Listing::limited(items, self.limit),
        }
    }
}

/// Query of `POST /v1/policies/dry-run`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct DryRunQuery {
    /// Stored policies of these names would be replaced.
    pub replace: bool,
    /// The stored policy of this name would be removed; the body then has no policy.
    pub remove: Option<String>,
    /// Most flows that are listed, 1..=1000.
    pub limit: usize,
}

impl DryRunQuery {
    /// Largest `limit`.
    pub const MAX_LIMIT: usize = 1_000;
}

impl Default for DryRunQuery {
    fn default() -> Self {
        Self { replace: false, remove: None, limit: 200 }
    }
}

/// Query of `GET /v1/history`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct HistoryQuery {
    /// The remote site's id.
    #[param(value_type = String)]
    pub site: crate::engine::types::SiteId,
    /// Index of the local uplink, 0..=7.
    #[param(value_type = u8)]
    pub local: crate::engine::types::UplinkIndex,
    /// Index of the remote uplink, 0..=7.
    #[param(value_type = u8)]
    pub remote: crate::engine::types::UplinkIndex,
    /// Begin, Unix time in s.
    pub since: i64,
    /// End, Unix time in s.
    pub until: i64,
    /// Most points, 10..=1000.
    #[serde(default = "HistoryQuery::default_points")]
    pub points: i64,
}

impl HistoryQuery {
    const fn default_points() -> i64 {
        400
    }

    /// The error says what is wrong with it.
    pub fn check(&self) -> Result<(), String> {
        let span = super::report::ReportQuery { since: self.since, until: self.until };
        span.span()?;
        match (10..=1_000).contains(&self.points) {
            true => Ok(()),
            false => Err(format!("points {} is out of range: write a number in 10..=1000", self.points)),
        }
    }
}
