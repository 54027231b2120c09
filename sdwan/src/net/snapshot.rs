//! What the kernel's network looks like, as plain data, and what follows from it for the uplinks.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use super::Error;
use crate::engine::types::{LocalUplink, UplinkIndex};
use crate::tunnel::tunnel_of_interface;

/// An interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Interface index, never 0.
    pub ifindex: u32,
    /// Name.
    pub name: String,
    /// Administratively up.
    pub up: bool,
    /// The lower layer is up too.
    pub carrier: bool,
    /// The loopback interface.
    pub loopback: bool,
    /// Has no link layer addresses to resolve (PPP, TUN).
    pub point_to_point: bool,
    /// MTU, bytes.
    pub mtu: u32,
    /// Kind as `ip -d link` names it: `veth`, `vlan`, `wireguard`, `tun`; none for hardware.
    pub kind: Option<String>,
}

/// An address on an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterfaceAddress {
    /// Interface index.
    pub ifindex: u32,
    /// The address with the length of its subnet.
    pub address: IpNet,
    /// Of global scope, not tentative, failed or deprecated: can be announced.
    pub usable: bool,
    /// An IPv6 privacy address, which will be gone tomorrow.
    pub temporary: bool,
}

/// A default route of the main table, one per next hop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DefaultRoute {
    /// Interface index.
    pub ifindex: u32,
    /// Next hop; none when the whole internet is on the link.
    pub gateway: Option<IpAddr>,
    /// Family of the route.
    pub ipv6: bool,
    /// Metric, lower is preferred.
    pub metric: u32,
}

/// The network at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetSnapshot {
    /// Interfaces by index.
    pub links: BTreeMap<u32, Link>,
    /// Addresses in the kernel's order.
    pub addresses: Vec<InterfaceAddress>,
    /// Default routes of the main table that are not ours.
    pub default_routes: Vec<DefaultRoute>,
}

/// An uplink as the configuration describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UplinkSpec {
    /// Index at this site, stable per name.
    pub index: UplinkIndex,
    /// Name in the configuration.
    pub name: String,
    /// Interface name.
    pub interface: String,
    /// Gateways to use instead of those of the main table's default routes, at most one per family.
    pub gateways: Vec<IpAddr>,
    /// Addresses to announce instead of the interface's own (static NAT).
    pub public_addresses: Vec<IpAddr>,
    /// Relative cost, 0 is free.
    pub cost: u32,
    /// Declared upstream rate, bit/s.
    pub rate_up: Option<u64>,
    /// Declared downstream rate, bit/s.
    pub rate_down: Option<u64>,
}

impl NetSnapshot {
    /// The interface of this name.
    pub fn link(&self, name: &str) -> Option<&Link> {
        self.links.values().find(|link| link.name == name)
    }

    /// Addresses of an interface that can be announced: lasting ones first, otherwise in the kernel's order.
    pub fn usable_addresses(&self, ifindex: u32) -> impl Iterator<Item = IpNet> + '_ {
        let of = move |temporary| {
            self.addresses
                .iter()
                .filter(move |address| address.ifindex == ifindex && address.usable && address.temporary == temporary)
        };
        of(false).chain(of(true)).map(|address| address.address)
    }

    /// Next hop of the best default route on an interface: `None` without such a route, `Some(None)` when it is
    /// on-link.
    fn default_gateway(&self, ifindex: u32, ipv6: bool) -> Option<Option<IpAddr>> {
        let routes = self.default_routes.iter().filter(|route| route.ifindex == ifindex && route.ipv6 == ipv6);
        routes.min_by_key(|route| route.metric).map(|route| route.gateway)
    }

    /// State of the uplinks. One whose interface is missing is there too, with `ifindex` 0 and no carrier.
    pub fn local_uplinks(&self, specs: &[UplinkSpec]) -> Vec<LocalUplink> {
        specs.iter().map(|spec| self.local_uplink(spec)).collect()
    }

    fn local_uplink(&self, spec: &UplinkSpec) -> LocalUplink {
        let missing = Link::default();
        let link = self.link(&spec.interface).unwrap_or(&missing);
        let gateway = |ipv6| {
            let configured = spec.gateways.iter().find(|gateway| gateway.is_ipv6() == ipv6).copied();
            configured.or_else(|| self.default_gateway(link.ifindex, ipv6).flatten())
        };
        LocalUplink {
            index: spec.index,
            name: spec.name.clone(),
            interface: spec.interface.clone(),
            ifindex: link.ifindex,
            carrier: link.up && link.carrier,
            addresses: self.usable_addresses(link.ifindex).map(|address| address.addr()).collect(),
            gateways: [false, true].into_iter().filter_map(gateway).collect(),
            mtu: u16::try_from(link.mtu).unwrap_or(u16::MAX),
            public_addresses: spec.public_addresses.clone(),
            cost: spec.cost,
            rate_up: spec.rate_up,
            rate_down: spec.rate_down,
        }
    }
}

/// Uplinks read off the machine's default routes, for running without a configuration file: one per interface that
/// has a default route, named after it, indexed in order of metric.
pub fn uplinks_from_default_routes(snapshot: &NetSnapshot) -> Result<Vec<UplinkSpec>, Error> {
    let mut best: BTreeMap<u32, (u32, bool)> = BTreeMap::new();
    for route in &snapshot.default_routes {
        let rank = (route.metric, route.ipv6);
        best.entry(route.ifindex).and_modify(|known| *known = rank.min(*known)).or_insert(rank);
    }
    let mut links: Vec<_> = best
        .into_iter()
        .filter_map(|(ifindex, rank)| Some((rank, ifindex, snapshot.links.get(&ifindex)?)))
        .filter(|(_, _, link)| !link.loopback && tunnel_of_interface(&link.name).is_none())
        .collect();
    links.sort_by_key(|(rank, ifindex, _)| (*rank, *ifindex));
    if links.is_empty() {
        return Err(Error::NoDefaultRoute);
    }
    let count = links.len();
    let too_many = Error::TooManyUplinks { count, most: UplinkIndex::COUNT.into() };
    let specs = links.into_iter().enumerate().map(|(position, (_, _, link))| {
        let index = u8::try_from(position).ok().and_then(UplinkIndex::new)?;
        Some(UplinkSpec {
            index,
            name: link.name.clone(),
            interface: link.name.clone(),
            gateways: Vec::new(),
            public_addresses: Vec::new(),
            cost: 0,
            rate_up: None,
            rate_down: None,
        })
    });
    specs.collect::<Option<Vec<_>>>().ok_or(too_many)
}

#[cfg(test)]
#[path = "snapshot_tests.rs"]
mod tests;
