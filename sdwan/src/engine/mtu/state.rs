//! What a search rests on, where it is, and how it went.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Known;
use crate::engine::time::Time;

/// What a search rests on, besides its probes.
#[derive(Clone, Debug, PartialEq)]
pub struct Conditions {
    /// Whether the underlay is IPv6.
    pub ipv6: bool,
    /// Largest size that both ends' interfaces take (`MAX_PLPMTU`), bytes.
    pub max: u16,
    /// Round-trip time, if known.
    pub rtt: Option<Duration>,
    /// Its variation (RFC 6298 RTTVAR).
    pub variation: Duration,
    /// Share of round trips that are lost, 0.0..=1.0.
    pub loss: f64,
    /// Bytes cost money.
    pub metered: bool,
    /// Since when the path is up; it may have come back by another route.
    pub up_since: Option<Time>,
}

/// Where a search is (RFC 8899 section 5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
#[schema(as = MtuState)]
pub enum State {
    /// Nobody has answered, or nobody does any more.
    Base,
    /// Larger sizes are tried.
    Searching,
    /// The largest size is known.
    Complete,
    /// Not even the base size gets through; smaller ones are tried.
    Error,
}

/// How a search went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// What is known.
    pub known: Known,
    /// Where the search is.
    pub state: State,
    /// Whether anybody answers.
    pub contact: bool,
    /// Probes sent since the search began.
    pub sent: u32,
    /// Those of them that stayed without an answer in time.
    pub unanswered: u32,
    /// How long it took so far.
    pub took: Duration,
}
