//! Path MTU probes on the underlay: sockets, keys and clocks around [`crate::engine::mtu`].
//!
//! A probe goes from an uplink's address to the remote uplink's, on the port after those of the tunnels
//! ([`crate::engine::mtu::port`]), outside the tunnel and by the uplink's routing table. The other end answers authentic
//! and new ones with a header, which is never longer than what it answers.

mod answer;
mod driver;
pub mod keys;
mod limit;
mod socket;
#[cfg(test)]
mod tests;
pub mod wire;

pub use driver::{Asked, MtuTask, Order};

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use crate::engine::mtu::Conditions;
use crate::engine::types::{PathKey, SiteId, UplinkIndex};
use crate::trust::keys::WireGuardKey;

/// Everything that probing rests on; computed whole by the core.
#[derive(Clone, Debug, Default)]
pub struct Targets {
    /// UDP port of probes at this site; `None` where the base port leaves no room for one.
    pub port: Option<u16>,
    /// The uplinks with an interface.
    pub uplinks: Vec<Uplink>,
    /// This site's WireGuard keys, the one in use first.
    pub own_keys: Vec<WireGuardKey>,
    /// Public WireGuard keys of the remote sites, the one in use first.
    pub peers: BTreeMap<SiteId, Vec<[u8; 32]>>,
    /// The paths to search; empty when searching is switched off.
    pub paths: BTreeMap<PathKey, Target>,
}

/// An uplink of this site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uplink {
    /// Index.
    pub index: UplinkIndex,
    /// Interface name.
    pub interface: String,
    /// Interface index.
    pub ifindex: u32,
    /// Addresses of the interface.
    pub addresses: Vec<IpAddr>,
}

/// One path.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    /// Where the remote uplink takes probes, as far as it is announced.
    pub endpoint: Option<SocketAddr>,
    /// What the search rests on; the family is that of the endpoint.
    pub conditions: Conditions,
}

/// Counters of what comes in and goes out, and their names.
macro_rules! counters {
    ($($(#[$doc:meta])* $field:ident: $name:literal,)*) => {
        /// What happened to probes since the start.
        #[derive(Debug, Default)]
        pub struct MtuCounters { $($(#[$doc])* pub $field: std::sync::atomic::AtomicU64,)* }

        impl MtuCounters {
            /// All of them by name.
            pub fn all(&self) -> Vec<(&'static str, u64)> {
                vec![$(($name, self.$field.load(std::sync::atomic::Ordering::Relaxed)),)*]
            }
        }
    };
}

counters! {
    /// Probes handed to the kernel.
    sent: "sent",
    /// Probes that the kernel refused.
    send_failed: "refused_by_kernel",
    /// Probes of ours that were acknowledged.
    acknowledged: "acknowledged",
    /// Probes of others that were answered.
    answered: "answered",
    /// Datagrams that are no message: too short, another version, a length that isn't the announced one.
    malformed: "malformed",
    /// Messages from or for somebody else.
    foreign: "foreign",
    /// Messages whose authentication code is wrong.
    forged: "forged",
    /// Probes that are not newer than the last one, acknowledgements of what was not asked.
    replayed: "replayed",
    /// Probes that came in fragments: they say nothing.
    fragmented: "fragmented",
    /// Messages beyond the allowance of their source.
    limited: "limited",
    /// Messages that found the queue full.
    overrun: "overrun",
    /// ICMP messages that caused a verification.
    hints: "icmp_followed",
    /// ICMP messages that did not.
    hints_ignored: "icmp_ignored",
}

impl MtuCounters {
    fn count(counter: &std::sync::atomic::AtomicU64) {
        counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }
}
