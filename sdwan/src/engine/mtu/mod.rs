//! Path MTU by probing: Datagram Packetization Layer Path MTU Discovery (RFC 8899) on the underlay, from this site's uplink
//! to the remote one. Sizes are those of whole IP packets, bytes.
//!
//! [`Search`] is the state machine of one path; [`Searches`] paces those of all paths. Neither owns a socket or a clock.

mod pace;
mod search;
mod state;
#[cfg(test)]
mod tests;

pub use pace::{Finished, Probe, Searches};
pub use search::Search;
pub use state::{Conditions, Report, State};

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// UDP port that a site with this base port takes probes on: the one after those of its tunnels. `None` where there is none.
pub const fn port(base: u16) -> Option<u16> {
    base.checked_add(sdwan_common::abi::TUNNEL_PORTS)
}

/// Length of a probe's and of an acknowledgement's header, bytes; without padding it is the whole UDP payload.
pub const HEADER_LENGTH: usize = 68;
/// Headers of IPv4 and UDP, bytes.
const HEADERS_V4: u16 = 28;
/// Headers of IPv6 and UDP, bytes.
const HEADERS_V6: u16 = 48;

/// Size of what every path is expected to carry (`BASE_PLPMTU`, RFC 8899 section 5.1.2): where a search begins and where
/// a path falls to that turned into a black hole.
pub const fn base(ipv6: bool) -> u16 {
    if ipv6 { 1280 } else { 1200 }
}

/// Smallest size that a search may end with (`MIN_PLPMTU`): IPv6's minimum, and for IPv4 what every host takes
/// (RFC 1122 section 3.3.2). The 68 bytes of RFC 791 wouldn't hold a tunnel packet.
pub const fn minimum(ipv6: bool) -> u16 {
    if ipv6 { 1280 } else { 576 }
}

/// Size of a probe without padding: it asks whether anybody answers.
pub const fn contact(ipv6: bool) -> u16 {
    HEADER_LENGTH as u16 + headers(ipv6)
}

/// IP and UDP headers, bytes.
pub const fn headers(ipv6: bool) -> u16 {
    if ipv6 { HEADERS_V6 } else { HEADERS_V4 }
}

/// Pace of the searches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How often the size in use is confirmed, while the budget lasts (`CONFIRMATION_TIMER`).
    pub confirm: Duration,
    /// How often a larger size is tried (`PMTU_RAISE_TIMER`).
    pub raise: Duration,
    /// Most probes per second over all paths.
    pub budget: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self { confirm: Duration::from_secs(3), raise: Duration::from_secs(600), budget: 200 }
    }
}

/// How the MTU of a path is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
#[schema(as = MtuHow)]
pub enum How {
    /// From the interfaces and the configuration: nothing was measured yet, or nobody answers probes.
    #[default]
    Configured,
    /// In use by the daemon before this one; a search goes on.
    Remembered,
    /// A search ended with it.
    Searched,
    /// What was in use before doesn't get through any more (or never did); this does, and a search goes on.
    Base,
}

impl How {
    /// For people and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Configured => "configured",
            Self::Remembered => "remembered",
            Self::Searched => "searched",
            Self::Base => "base",
        }
    }
}

impl fmt::Display for How {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What is known of a path's MTU on the underlay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// Largest IP packet, bytes.
    pub size: u16,
    /// How.
    pub how: How,
    /// Whether the underlay is IPv6.
    pub ipv6: bool,
}
