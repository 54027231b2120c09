//! Our rules and routes: what they should be ([`desired_routing`]), and making them so ([`RoutingReconciler`]).
//!
//! - Per uplink: a table with its default routes and subnets, which ends in `unreachable`, and a rule that sends the
//!   outer packets of the uplink's tunnels there. A packet marked for one uplink never leaves by another.
//! - Per tunnel: a table with everything that is behind it, and a rule that sends marked packets there.
//! - In the main table: the fallback for when the eBPF programs are detached. Its metrics lose to the operator's
//!   routes for the same prefix, its prefixes win over the default route.

mod desired;
mod kernel;
mod plan;

pub use desired::{PathRoute, RemoteRoutes, RoutingRequest, desired_routing};
pub use kernel::{ForeignRule, RoutingReconciler, RoutingReport};
pub use plan::{Plan, plan};

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

/// Every rule and route that should be there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RoutingState {
    /// The rules.
    pub rules: BTreeSet<Rule>,
    /// The routes.
    pub routes: BTreeMap<RouteKey, RouteTarget>,
}

/// A rule: packets with this mark look into this table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Rule {
    /// Family.
    pub ipv6: bool,
    /// Priority, lower first.
    pub priority: u32,
    /// Firewall mark, compared as a whole.
    pub mark: u32,
    /// Table to look into.
    pub table: u32,
}

/// What tells a route from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RouteKey {
    /// Table.
    pub table: u32,
    /// Destination.
    pub destination: IpNet,
    /// Metric, lower first; never 0.
    pub metric: u32,
}

/// Where a route leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RouteTarget {
    /// Nowhere: the sender is told so.
    Unreachable,
    /// Out of an interface.
    Device {
        /// Interface index.
        ifindex: u32,
        /// Next hop; none when the destination is on the link.
        gateway: Option<IpAddr>,
        /// The next hop is on the link although no subnet says so.
        onlink: bool,
        /// Source address that local programs should use.
        source: Option<IpAddr>,
        /// Largest packet, bytes.
        mtu: Option<u32>,
    },
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let family = if self.ipv6 { "IPv6" } else { "IPv4" };
        write!(f, "{family} rule {}: fwmark {:#x} lookup {}", self.priority, self.mark, self.table)
    }
}

impl fmt::Display for RouteKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "route to {} (table {}, metric {})", self.destination, self.table, self.metric)
    }
}
