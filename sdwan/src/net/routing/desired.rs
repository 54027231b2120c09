//! What our rules and routes should be.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::{RouteKey, RouteTarget, RoutingState, Rule};
use crate::engine::types::{LocalUplink, SiteId, TunnelKey};
use crate::net::{NetSnapshot, marks};

/// Every IPv6 link takes packets of this size, bytes (RFC 8200 section 5).
const IPV6_MINIMUM_MTU: u16 = 1280;
/// Next hop of IPv6 routes into tunnels, where it has no meaning: without one the kernel keeps a neighbour for every address
/// in the tunnel, makes it anew for each packet when it has too many, and drops packets in the end. IPv4 keeps one for each
/// tunnel by itself.
const NEXT_HOP: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1));

/// Everything that the rules and routes follow from.
#[derive(Clone, Copy, Debug)]
pub struct RoutingRequest<'a> {
    /// The network as it is.
    pub snapshot: &'a NetSnapshot,
    /// This site's uplinks.
    pub uplinks: &'a [LocalUplink],
    /// This site's overlay address.
    pub overlay: Option<IpAddr>,
    /// This site's LAN prefixes: they say which of the machine's addresses is its LAN address.
    pub prefixes: &'a [IpNet],
    /// Interface index of each tunnel that exists.
    pub tunnels: &'a BTreeMap<TunnelKey, u32>,
    /// The remote sites. Where two have the same prefix, the first one gets it.
    pub remotes: &'a [RemoteRoutes],
}

/// A remote site, as the routes see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteRoutes {
    /// The site.
    pub site: SiteId,
    /// LAN prefixes behind it.
    pub prefixes: Vec<IpNet>,
    /// Its overlay address.
    pub overlay: IpAddr,
    /// Its paths, best first.
    pub paths: Vec<PathRoute>,
}

/// One path of a remote site.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathRoute {
    /// The tunnel.
    pub tunnel: TunnelKey,
    /// Largest IP packet that fits, bytes; 0 if not known.
    pub mtu: u16,
}

/// The rules and routes that should be there.
pub fn desired_routing(request: &RoutingRequest<'_>) -> RoutingState {
    let mut state = RoutingState::default();
    for uplink in request.uplinks {
        add_uplink(&mut state, request.snapshot, uplink);
    }
    for tunnel in request.tunnels.keys() {
        let (priority, mark) = (marks::tunnel_priority(*tunnel), marks::tunnel_mark(*tunnel));
        let table = marks::tunnel_table(*tunnel);
        state.rules.extend([false, true].map(|ipv6| Rule { ipv6, priority, mark, table }));
    }
    let sources = Sources::of(request);
    for remote in request.remotes {
        add_remote(&mut state, request, &sources, remote);
    }
    state
}

/// Rule and table of an uplink.
fn add_uplink(state: &mut RoutingState, snapshot: &NetSnapshot, uplink: &LocalUplink) {
    let table = marks::uplink_table(uplink.index);
    let (priority, mark) = (marks::uplink_priority(uplink.index), marks::uplink_mark(uplink.index));
    for ipv6 in [false, true] {
        state.rules.insert(Rule { ipv6, priority, mark, table });
        let last = RouteKey { table, destination: default_of(ipv6), metric: marks::UNREACHABLE_METRIC };
        state.routes.insert(last, RouteTarget::Unreachable);
    }
    if !uplink.carrier || uplink.ifindex == 0 {
        return;
    }
    let subnets: Vec<IpNet> = snapshot.usable_addresses(uplink.ifindex).collect();
    for subnet in &subnets {
        let key = RouteKey { table, destination: subnet.trunc(), metric: marks::CONNECTED_METRIC };
        state.routes.entry(key).or_insert_with(|| device(uplink.ifindex, None));
    }
    for ipv6 in [false, true] {
        if !subnets.iter().any(|subnet| is_ipv6(subnet) == ipv6) {
            continue;
        }
        let gateway = uplink.gateways.iter().find(|gateway| gateway.is_ipv6() == ipv6).copied();
        let key = RouteKey { table, destination: default_of(ipv6), metric: marks::TABLE_METRIC };
        let mut target = device(uplink.ifindex, gateway);
        if let (RouteTarget::Device { onlink, .. }, Some(gateway)) = (&mut target, gateway) {
            *onlink = !is_link_local(gateway) && !subnets.iter().any(|subnet| subnet.contains(&gateway));
        }
        state.routes.insert(key, target);
    }
}

/// Routes to a remote site: in the table of each of its tunnels, and in the main table.
fn add_remote(state: &mut RoutingState, request: &RoutingRequest<'_>, sources: &Sources, remote: &RemoteRoutes) {
    let overlay = IpNet::from(remote.overlay);
    let paths = remote.paths.iter().filter_map(|path| Some((path, *request.tunnels.get(&path.tunnel)?)));
    let mut best = true;
    for (path, ifindex) in paths {
        let destinations = remote.prefixes.iter().map(|prefix| (prefix.trunc(), sources.lan(is_ipv6(prefix))));
        let own_overlay = request.overlay.filter(|own| own.is_ipv6() == remote.overlay.is_ipv6());
        for (destination, source) in destinations.chain([(overlay, own_overlay)]) {
            // IPv6 knows no smaller link; what is larger than the path then goes in fragments of the tunnel packets.
            let least = if is_ipv6(&destination) { IPV6_MINIMUM_MTU } else { 0 };
            let mtu = (path.mtu != 0).then_some(u32::from(path.mtu.max(least)));
            let gateway = is_ipv6(&destination).then_some(NEXT_HOP);
            let target = RouteTarget::Device { ifindex, gateway, onlink: false, source, mtu };
            let mut add = |table, metric| {
                state.routes.entry(RouteKey { table, destination, metric }).or_insert(target);
            };
            add(marks::tunnel_table(path.tunnel), marks::TABLE_METRIC);
            if best {
                add(marks::MAIN_TABLE, marks::FALLBACK_METRIC);
            }
            if destination == overlay {
                add(marks::MAIN_TABLE, marks::overlay_metric(path.tunnel));
            }
        }
        best = false;
    }
}

/// Source addresses for packets of the gateway's own programs to remote LANs.
struct Sources {
    ipv4: Option<IpAddr>,
    ipv6: Option<IpAddr>,
}

impl Sources {
    /// The gateway's address in one of its LAN prefixes, else its overlay address.
    fn of(request: &RoutingRequest<'_>) -> Self {
        let find = |ipv6: bool| {
            let lan = request.snapshot.addresses.iter().find(|known| {
                known.usable
                    && is_ipv6(&known.address) == ipv6
                    && request.prefixes.iter().any(|prefix| prefix.contains(&known.address.addr()))
                    && !request.uplinks.iter().any(|uplink| uplink.ifindex == known.ifindex)
            });
            let overlay = request.overlay.filter(|overlay| overlay.is_ipv6() == ipv6);
            lan.map(|known| known.address.addr()).or(overlay)
        };
        Self { ipv4: find(false), ipv6: find(true) }
    }

    fn lan(&self, ipv6: bool) -> Option<IpAddr> {
        if ipv6 { self.ipv6 } else { self.ipv4 }
    }
}

fn device(ifindex: u32, gateway: Option<IpAddr>) -> RouteTarget {
    RouteTarget::Device { ifindex, gateway, onlink: false, source: None, mtu: None }
}

fn is_ipv6(net: &IpNet) -> bool {
    net.addr().is_ipv6()
}

fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())
}

fn default_of(ipv6: bool) -> IpNet {
    if ipv6 {
        IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 0))
    } else {
        IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0))
    }
}

#[cfg(test)]
#[path = "desired_tests.rs"]
mod tests;
