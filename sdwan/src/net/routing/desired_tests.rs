use super::*;
use crate::engine::types::UplinkIndex;
use crate::net::snapshot::{InterfaceAddress, Link};

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn net(text: &str) -> IpNet {
    text.parse().expect("a prefix")
}

fn index(number: u8) -> UplinkIndex {
    UplinkIndex::new(number).expect("an index")
}

fn tunnel(local: u8, remote: u8) -> TunnelKey {
    TunnelKey { local: index(local), remote: index(remote) }
}

fn uplink(number: u8, ifindex: u32, addresses: &[&str], gateways: &[&str]) -> LocalUplink {
    LocalUplink {
        index: index(number),
        name: format!("uplink{number}"),
        interface: format!("eth{number}"),
        ifindex,
        carrier: true,
        addresses: addresses.iter().map(|text| net(text).addr()).collect(),
        gateways: gateways.iter().map(|text| ip(text)).collect(),
        mtu: 1500,
        public_addresses: Vec::new(),
        cost: 0,
        rate_up: None,
        rate_down: None,
    }
}

fn address(ifindex: u32, text: &str) -> InterfaceAddress {
    InterfaceAddress { ifindex, address: net(text), usable: true, temporary: false }
}

struct Scene {
    snapshot: NetSnapshot,
    uplinks: Vec<LocalUplink>,
    prefixes: Vec<IpNet>,
    tunnels: BTreeMap<TunnelKey, u32>,
    remotes: Vec<RemoteRoutes>,
}

impl Scene {
    fn new() -> Self {
        let link = |ifindex| (ifindex, Link { ifindex, up: true, carrier: true, ..Link::default() });
        let remote = RemoteRoutes {
            site: SiteId([2; 16]),
            prefixes: vec![net("10.2.0.0/24"), net("fd02::/64")],
            overlay: ip("100.64.0.2"),
            paths: vec![PathRoute { tunnel: tunnel(1, 0), mtu: 1400 }, PathRoute { tunnel: tunnel(0, 0), mtu: 1420 }],
        };
        Self {
            snapshot: NetSnapshot {
                links: [link(2), link(3), link(4)].into(),
                addresses: vec![address(2, "192.0.2.7/24"), address(3, "2001:db8::7/64"), address(4, "10.1.0.1/24")],
                default_routes: Vec::new(),
            },
            uplinks: vec![
                uplink(0, 2, &["192.0.2.7/24"], &["192.0.2.1"]),
                uplink(1, 3, &["2001:db8::7/64"], &["fe80::1"]),
            ],
            prefixes: vec![net("10.1.0.0/24")],
            tunnels: [(tunnel(0, 0), 10), (tunnel(1, 0), 11)].into(),
            remotes: vec![remote],
        }
    }

    fn desired(&self) -> RoutingState {
        desired_routing(&RoutingRequest {
            snapshot: &self.snapshot,
            uplinks: &self.uplinks,
            overlay: Some(ip("100.64.0.1")),
            prefixes: &self.prefixes,
            tunnels: &self.tunnels,
            remotes: &self.remotes,
        })
    }
}

fn route(state: &RoutingState, table: u32, destination: &str, metric: u32) -> Option<RouteTarget> {
    state.routes.get(&RouteKey { table, destination: net(destination), metric }).copied()
}

fn via(ifindex: u32, gateway: Option<&str>, onlink: bool) -> Option<RouteTarget> {
    Some(RouteTarget::Device { ifindex, gateway: gateway.map(ip), onlink, source: None, mtu: None })
}

#[test]
fn an_uplinks_table_has_its_subnets_its_gateway_and_ends_in_unreachable() {
    let state = Scene::new().desired();
    let table = marks::uplink_table(index(0));
    assert_eq!(route(&state, table, "192.0.2.0/24", marks::CONNECTED_METRIC), via(2, None, false));
    assert_eq!(route(&state, table, "0.0.0.0/0", marks::TABLE_METRIC), via(2, Some("192.0.2.1"), false));
    for family in ["0.0.0.0/0", "::/0"] {
        assert_eq!(route(&state, table, family, marks::UNREACHABLE_METRIC), Some(RouteTarget::Unreachable));
    }
    assert_eq!(route(&state, table, "::/0", marks::TABLE_METRIC), None, "no IPv6 on this uplink");
    let table = marks::uplink_table(index(1));
    assert_eq!(route(&state, table, "::/0", marks::TABLE_METRIC), via(3, Some("fe80::1"), false));
}

#[test]
fn an_uplink_without_carrier_or_interface_keeps_only_unreachable() {
    let mut scene = Scene::new();
    scene.uplinks[0].carrier = false;
    scene.uplinks[1].ifindex = 0;
    let state = scene.desired();
    for uplink in &scene.uplinks {
        let table = marks::uplink_table(uplink.index);
        let targets: Vec<_> = state.routes.iter().filter(|(key, _)| key.table == table).map(|(_, to)| *to).collect();
        assert_eq!(targets, [RouteTarget::Unreachable; 2]);
        assert_eq!(state.rules.iter().filter(|rule| rule.table == table).count(), 2, "its rules stay");
    }
}

#[test]
fn a_gateway_outside_the_subnets_is_on_link_and_without_gateway_all_is() {
    let mut scene = Scene::new();
    scene.uplinks[0].gateways = vec![ip("203.0.113.1")];
    scene.uplinks[1].gateways = Vec::new();
    let state = scene.desired();
    let default = |uplink, family| route(&state, marks::uplink_table(index(uplink)), family, marks::TABLE_METRIC);
    assert_eq!(default(0, "0.0.0.0/0"), via(2, Some("203.0.113.1"), true));
    assert_eq!(default(1, "::/0"), via(3, None, false));
}

#[test]
fn remote_prefixes_fall_back_on_the_best_path_with_its_mtu_and_the_lan_address_as_source() {
    let state = Scene::new().desired();
    let by = |gateway, ifindex, source, mtu| {
        Some(RouteTarget::Device { ifindex, gateway, onlink: false, source, mtu: Some(mtu) })
    };
    let expected = |ifindex, source, mtu| by(None, ifindex, source, mtu);
    let main = |destination| route(&state, marks::MAIN_TABLE, destination, marks::FALLBACK_METRIC);
    assert_eq!(main("10.2.0.0/24"), expected(11, Some(ip("10.1.0.1")), 1400));
    assert_eq!(main("fd02::/64"), by(Some(ip("fe80::1")), 11, None, 1400), "no IPv6 address of the gateway in a LAN");
    assert_eq!(main("100.64.0.2/32"), expected(11, Some(ip("100.64.0.1")), 1400));
}

#[test]
fn the_overlay_is_routed_by_every_tunnel_and_each_tunnels_table_leads_to_all_behind_it() {
    let state = Scene::new().desired();
    for (key, ifindex) in [(tunnel(0, 0), 10), (tunnel(1, 0), 11)] {
        let out = |target: Option<RouteTarget>| match target {
            Some(RouteTarget::Device { ifindex, .. }) => Some(ifindex),
            _ => None,
        };
        let overlay = route(&state, marks::MAIN_TABLE, "100.64.0.2/32", marks::overlay_metric(key));
        assert_eq!(out(overlay), Some(ifindex));
        for destination in ["10.2.0.0/24", "fd02::/64", "100.64.0.2/32"] {
            let target = route(&state, marks::tunnel_table(key), destination, marks::TABLE_METRIC);
            assert_eq!(out(target), Some(ifindex), "{destination} by {key}");
        }
    }
}

#[test]
fn a_path_whose_tunnel_does_not_exist_yet_is_passed_over() {
    let mut scene = Scene::new();
    scene.tunnels.remove(&tunnel(1, 0));
    let state = scene.desired();
    let best = route(&state, marks::MAIN_TABLE, "10.2.0.0/24", marks::FALLBACK_METRIC);
    assert!(matches!(best, Some(RouteTarget::Device { ifindex: 10, .. })), "{best:?}");
}

#[test]
fn of_two_sites_with_the_same_prefix_the_first_gets_it() {
    let mut scene = Scene::new();
    let mut second = scene.remotes[0].clone();
    second.site = SiteId([3; 16]);
    second.overlay = ip("100.64.0.3");
    second.paths = vec![PathRoute { tunnel: tunnel(0, 0), mtu: 1420 }];
    scene.remotes.push(second);
    let best = route(&scene.desired(), marks::MAIN_TABLE, "10.2.0.0/24", marks::FALLBACK_METRIC);
    assert!(matches!(best, Some(RouteTarget::Device { ifindex: 11, .. })), "{best:?}");
}

#[test]
fn everything_desired_is_recognised_as_ours() {
    let state = Scene::new().desired();
    assert!(state.rules.iter().all(|rule| marks::is_our_rule(marks::PROTOCOL, rule.priority)));
    assert!(state.routes.keys().all(|key| marks::is_our_route(marks::PROTOCOL, key.table, key.metric)));
    assert!(!marks::is_our_route(4, marks::MAIN_TABLE, marks::FALLBACK_METRIC), "somebody else's");
    assert!(!marks::is_our_route(marks::PROTOCOL, marks::MAIN_TABLE, 0), "not our metric");
}
