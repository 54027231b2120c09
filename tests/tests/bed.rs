//! The test-bed keeps its promises: topology, cuts, changes.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use sdwan_tests::bed::{Bed, Cut, Families, Namespace, Provider};
use sdwan_tests::needs_bed;
use sdwan_tests::traffic::{Answer, PingSpec, UdpReceiver, UdpSender, UdpSpec, ping, probe_mtu, traceroute};

/// Share of 20 pings that are answered.
fn answered(from: &Namespace, source: IpAddr, to: IpAddr) -> f64 {
    let spec = PingSpec { source: Some(source), patience: Duration::from_millis(200), ..PingSpec::new(to, 20) };
    let report = ping(from, &spec).expect("ping");
    report.answered as f64 / 20.0
}

/// Sends from the address of an uplink out of this uplink, as a gateway's rules do.
fn route_by_source(bed: &Bed) {
    for link in bed.links() {
        let site = bed.site(link.site());
        let table = if link.uplink() == "isp1" { 101 } else { 102 };
        for one in link.attachments() {
            let family = if one.gateway.is_ipv4() { "-4" } else { "-6" };
            let (own, gateway, uplink) = (one.address.addr(), one.gateway, link.uplink());
            site.shell(&format!("ip {family} rule add from {own} lookup {table}")).expect("rule");
            site.shell(&format!("ip route add default via {gateway} dev {uplink} table {table}")).expect("route");
        }
    }
}

#[test]
fn sites_reach_each_other_over_each_pair_of_uplinks_in_both_families() {
    needs_bed!();
    for kinds in [[Provider::Bridge, Provider::Bridge], [Provider::Routed, Provider::Bridge]] {
        let bed = Bed::builder().providers([("isp1", kinds[0]), ("isp2", kinds[1])]).build().expect("bed");
        route_by_source(&bed);
        for own in ["isp1", "isp2"] {
            for other in ["isp1", "isp2"] {
                let targets = bed.link("b", other).attachments();
                for (source, target) in bed.link("a", own).attachments().iter().zip(targets) {
                    let (source, target) = (source.address.addr(), target.address.addr());
                    assert_eq!(answered(bed.site("a"), source, target), 1.0, "{kinds:?}: {source} to {target}");
                }
            }
        }
        for site in bed.sites() {
            let host = site.host(0);
            for (own, prefix) in [host.v4(), host.v6()].into_iter().zip(site.prefixes()) {
                let gateway = prefix.hosts().next().expect("a prefix has hosts");
                let gateway = if own.is_ipv4() {
                    gateway
                } else {
                    format!("fd00:{}::1", site.number()).parse().expect("address")
                };
                assert_eq!(answered(host, own, gateway), 1.0);
            }
        }
    }
}

#[test]
fn a_wan_of_one_family_has_no_addresses_of_the_other() {
    needs_bed!();
    for (families, v4) in [(Families::V4, true), (Families::V6, false)] {
        let bed = Bed::builder().sites(["a", "b"]).families(families).build().expect("bed");
        let attachments = bed.link("a", "isp1").attachments();
        assert_eq!(attachments.len(), 1);
        assert_eq!(attachments[0].gateway.is_ipv4(), v4);
        let shown = bed.site("a").shell("ip -o address show dev isp1 scope global").expect("ip");
        assert_eq!((shown.contains("inet "), shown.contains("inet6 ")), (v4, !v4), "{shown}");
        let target = bed.link("b", "isp1").attachments()[0].address.addr();
        assert_eq!(answered(bed.site("a"), attachments[0].address.addr(), target), 1.0);
    }
}

#[test]
fn multicast_passes_a_bridge_and_not_a_router() {
    needs_bed!();
    let providers = [("isp1", Provider::Bridge), ("isp2", Provider::Routed)];
    let bed = Bed::builder().sites(["a", "b"]).providers(providers).build().expect("bed");
    let group: SocketAddr = "239.255.42.1:51821".parse().expect("address");
    for (uplink, arrive) in [("isp1", 10), ("isp2", 0)] {
        let receiver = UdpReceiver::start(bed.site("b"), "0.0.0.0:51821".parse().expect("address")).expect("receiver");
        bed.site("b").ip(&format!("address add 239.255.42.1 dev {uplink} autojoin\n")).expect("join");
        bed.site("a").ip(&format!("route replace 239.255.42.1 dev {uplink}\n")).expect("route");
        let spec = UdpSpec::new(group, 200.0).packets(10);
        let sent = UdpSender::start(bed.site("a"), spec).expect("sender").finish().expect("sent");
        assert_eq!(sent.packets(), 10, "{sent:?}");
        let report = receiver.finish(&sent, Duration::from_millis(300)).expect("report");
        assert_eq!(report.received, arrive, "{uplink}");
        bed.site("b").ip(&format!("address delete 239.255.42.1 dev {uplink}\n")).expect("leave");
    }
}

#[test]
fn each_kind_of_cut_stops_what_it_says_and_restoring_heals_it() {
    needs_bed!();
    for emulated in [false, true] {
        let mut builder = Bed::builder().sites(["a", "b"]);
        if emulated {
            builder = builder.impair("a", "isp1", sdwan_tests::bed::Impairment::delay_ms(1));
        }
        let bed = builder.build().expect("bed");
        let (link, site) = (bed.link("a", "isp1"), bed.site("a"));
        let [a, b] = ["a", "b"].map(|site| bed.link(site, "isp1").attachments()[0].address.addr());
        let carrier = || site.shell("cat /sys/class/net/isp1/carrier").expect("carrier").trim() == "1";
        let arrives = |from: &str, to: IpAddr| {
            let local = SocketAddr::new(to, 0);
            let receiver = UdpReceiver::start(bed.site(if from == "a" { "b" } else { "a" }), local).expect("receiver");
            let spec = UdpSpec::new(receiver.local(), 1_000.0).packets(20);
            let sent = UdpSender::start(bed.site(from), spec).expect("sender").finish().expect("sent");
            let report = receiver.finish(&sent, Duration::from_millis(100)).expect("report");
            report.received > 0
        };
        assert!(arrives("a", b) && arrives("b", a) && carrier());
        // (cut, carrier stays, up works, down works)
        let cuts = [
            (Cut::Silent, true, false, false),
            (Cut::SilentUp, true, false, true),
            (Cut::SilentDown, true, true, false),
            (Cut::Carrier, false, false, false),
        ];
        for (cut, stays, up, down) in cuts {
            link.cut(cut).expect("cut");
            assert_eq!(carrier(), stays, "{cut:?}, emulated: {emulated}");
            if stays {
                assert_eq!((arrives("a", b), arrives("b", a)), (up, down), "{cut:?}, emulated: {emulated}");
            }
            link.restore().expect("restore");
            assert_eq!(link.is_cut(), None);
            assert!(carrier(), "{cut:?}, emulated: {emulated}");
            // After a lost carrier the neighbours are looked for anew.
            let spec = PingSpec { source: Some(a), ..PingSpec::new(b, 20) };
            assert!(ping(site, &spec).expect("ping").answered > 0, "{cut:?}, emulated: {emulated}");
            assert!(arrives("a", b) && arrives("b", a), "{cut:?}, emulated: {emulated}");
        }
    }
}

#[test]
fn an_uplink_can_change_its_address_its_gateway_and_its_mtu() {
    needs_bed!();
    for kind in [Provider::Bridge, Provider::Routed] {
        let bed = Bed::builder().sites(["a", "b"]).providers([("isp1", kind)]).build().expect("bed");
        let link = bed.link("a", "isp1");
        let target = bed.link("b", "isp1").attachments();
        let works = || {
            let own = link.attachments();
            own.iter()
                .zip(&target)
                .all(|(own, target)| answered(bed.site("a"), own.address.addr(), target.address.addr()) == 1.0)
        };
        assert!(works());
        let before = link.attachments();
        let after = link.change_address().expect("change");
        assert!(before.iter().zip(&after).all(|(before, after)| before.address != after.address));
        assert!(works(), "{kind:?}: {after:?}");
        let after = link.change_gateway().expect("change");
        let routes = bed.site("a").shell("ip route; ip -6 route").expect("ip");
        assert!(after.iter().all(|one| routes.contains(&format!("default via {} ", one.gateway))), "{routes}");
        assert!(before.iter().all(|one| !routes.contains(&format!("via {} ", one.gateway))), "{routes}");
        assert!(works(), "{kind:?}: {after:?}");
        link.set_mtu(1_400).expect("mtu");
        let target = SocketAddr::new(target[0].address.addr(), 9);
        let patience = Duration::from_millis(300);
        assert_eq!(probe_mtu(bed.site("a"), target, 1_401, patience).expect("probe"), Answer::TooBigToLeave);
        assert!(matches!(probe_mtu(bed.site("a"), target, 1_400, patience).expect("probe"), Answer::Other(_)));
    }
}

#[test]
fn a_routed_provider_tells_what_is_too_big_and_shows_in_a_traceroute() {
    needs_bed!();
    let bed = Bed::builder().sites(["a", "b"]).providers([("isp1", Provider::Routed)]).build().expect("bed");
    let (own, target) = (bed.link("a", "isp1").attachments(), bed.link("b", "isp1").attachments());
    bed.link("b", "isp1").set_provider_mtu(1_300).expect("mtu");
    for (own, target) in own.iter().zip(&target) {
        let target = SocketAddr::new(target.address.addr(), 9);
        let patience = Duration::from_millis(500);
        match probe_mtu(bed.site("a"), target, 1_400, patience).expect("probe") {
            Answer::TooBig(error) => assert_eq!((error.mtu, error.from), (1_300, own.gateway)),
            other => panic!("{other:?}"),
        }
        let hops = traceroute(bed.site("a"), target, 5, patience).expect("traceroute");
        let from: Vec<_> = hops.iter().map(|hop| hop.answer.map(|answer| answer.from)).collect();
        assert_eq!(from, [Some(own.gateway), Some(target.ip())]);
    }
}
