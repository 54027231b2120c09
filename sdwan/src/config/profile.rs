//! Pace and detection in one word.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::engine::settings::Settings;

/// How fast a path that breaks is left, and what that costs in probes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProbeProfile {
    /// A probe every 50 ms, 3 missed.
    #[default]
    Default,
    /// A probe every 10 ms, 3 missed: 280 kbit/s per path and direction, with the peer's probes and all answers.
    Fast,
}

impl ProbeProfile {
    /// Time between probes where there is traffic.
    pub fn interval(self) -> Duration {
        match self {
            Self::Default => Settings::default().probe_interval,
            Self::Fast => Duration::from_millis(10),
        }
    }

    /// Probes without an answer after which a path is down.
    pub fn missed(self) -> u32 {
        match self {
            Self::Default | Self::Fast => Settings::default().missed,
        }
    }
}
