use super::*;

fn link(ifindex: u32, name: &str) -> Link {
    Link { ifindex, name: name.into(), up: true, carrier: true, mtu: 1500, ..Link::default() }
}

fn address(ifindex: u32, text: &str) -> InterfaceAddress {
    InterfaceAddress { ifindex, address: text.parse().expect("an address"), usable: true, temporary: false }
}

fn route(ifindex: u32, gateway: Option<&str>, ipv6: bool, metric: u32) -> DefaultRoute {
    DefaultRoute { ifindex, gateway: gateway.map(|text| text.parse().expect("a gateway")), ipv6, metric }
}

fn spec(interface: &str) -> UplinkSpec {
    UplinkSpec {
        index: UplinkIndex::new(3).expect("an index"),
        name: "fibre".into(),
        interface: interface.into(),
        gateways: Vec::new(),
        public_addresses: Vec::new(),
        cost: 2,
        rate_up: None,
        rate_down: None,
    }
}

fn snapshot() -> NetSnapshot {
    NetSnapshot {
        links: [link(2, "eth0"), link(3, "eth1"), link(9, "sdw0-0")].map(|link| (link.ifindex, link)).into(),
        addresses: vec![address(2, "192.0.2.7/24"), address(2, "2001:db8::7/64"), address(3, "198.51.100.7/24")],
        default_routes: vec![
            route(2, Some("192.0.2.1"), false, 200),
            route(3, Some("198.51.100.1"), false, 100),
            route(2, Some("fe80::1"), true, 1024),
        ],
    }
}

#[test]
fn an_uplink_takes_its_gateways_from_the_default_routes_of_its_interface() {
    let uplink = snapshot().local_uplinks(&[spec("eth0")]).remove(0);
    assert_eq!((uplink.ifindex, uplink.carrier, uplink.mtu, uplink.cost), (2, true, 1500, 2));
    assert_eq!(uplink.addresses, ["192.0.2.7", "2001:db8::7"].map(|text| text.parse::<IpAddr>().expect("an address")));
    assert_eq!(uplink.gateways, ["192.0.2.1", "fe80::1"].map(|text| text.parse::<IpAddr>().expect("an address")));
}

#[test]
fn a_configured_gateway_wins_over_the_default_route_of_its_family_only() {
    let mut spec = spec("eth0");
    spec.gateways = vec!["192.0.2.254".parse().expect("an address")];
    let uplink = snapshot().local_uplinks(&[spec]).remove(0);
    assert_eq!(uplink.gateways, ["192.0.2.254", "fe80::1"].map(|text| text.parse::<IpAddr>().expect("an address")));
}

#[test]
fn an_uplink_without_its_interface_is_there_without_carrier() {
    let uplink = snapshot().local_uplinks(&[spec("ppp0")]).remove(0);
    assert_eq!((uplink.ifindex, uplink.carrier, uplink.name.as_str()), (0, false, "fibre"));
    assert!(uplink.addresses.is_empty() && uplink.gateways.is_empty());
}

#[test]
fn addresses_that_cannot_be_announced_are_left_out_and_temporary_ones_come_last() {
    let mut snapshot = snapshot();
    snapshot.addresses[1].temporary = true;
    snapshot.addresses.push(address(2, "2001:db8::8/64"));
    snapshot.addresses.push(InterfaceAddress { usable: false, ..address(2, "fe80::7/64") });
    let found: Vec<_> = snapshot.usable_addresses(2).map(|address| address.to_string()).collect();
    assert_eq!(found, ["192.0.2.7/24", "2001:db8::8/64", "2001:db8::7/64"]);
}

#[test]
fn uplinks_are_read_off_the_default_routes_in_order_of_metric() {
    let specs = uplinks_from_default_routes(&snapshot()).expect("uplinks");
    let found: Vec<_> = specs.iter().map(|spec| (spec.index.get(), spec.interface.as_str())).collect();
    assert_eq!(found, [(0, "eth1"), (1, "eth0")]);
}

#[test]
fn default_routes_into_tunnels_and_loopback_are_no_uplinks() {
    let mut snapshot = snapshot();
    snapshot.default_routes = vec![route(9, None, false, 0)];
    let error = uplinks_from_default_routes(&snapshot).expect_err("no uplink");
    assert!(matches!(error, Error::NoDefaultRoute), "{error}");
    assert!(error.to_string().contains("ip route add default"), "{error}");
}

#[test]
fn more_uplinks_than_a_site_can_have_are_refused() {
    let mut snapshot = NetSnapshot::default();
    for ifindex in 2..11 {
        snapshot.links.insert(ifindex, link(ifindex, &format!("eth{ifindex}")));
        snapshot.default_routes.push(route(ifindex, None, false, ifindex));
    }
    let error = uplinks_from_default_routes(&snapshot).expect_err("too many");
    assert!(matches!(error, Error::TooManyUplinks { count: 9, most: 8 }), "{error}");
}
