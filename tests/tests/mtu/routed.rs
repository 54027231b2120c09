//! A router between with a smaller MTU: it answers one way with ICMP, and the other way packets vanish.

use std::net::SocketAddr;
use std::time::Duration;

use sdwan_tests::bed::{Bed, Families, Namespace, Provider};
use sdwan_tests::mesh::{Discovery, MeshOptions};
use sdwan_tests::needs_bed;
use sdwan_tests::traffic::{Answer, TcpSink, TcpSource, TcpSpec, UdpReceiver, UdpSender, UdpSpec, probe_mtu};

use crate::{carried_wireguard_follows, host, inner, measure, mesh_on, path, route_mtu, wait_for_mtu};

/// Fragments that a router made.
fn fragments_made(router: &Namespace) -> u64 {
    let of = |file: &str, name: &str| {
        let text = router.shell(&format!("cat /proc/net/{file}")).expect("it is readable");
        match file {
            "snmp" => {
                let lines: Vec<&str> = text.lines().filter(|line| line.starts_with("Ip:")).collect();
                let column = lines[0].split_whitespace().position(|word| word == name).expect("it is counted");
                lines[1].split_whitespace().nth(column).and_then(|word| word.parse::<u64>().ok()).expect("a number")
            }
            _ => {
                let line = text.lines().find(|line| line.starts_with(name)).expect("it is counted");
                line.split_whitespace().nth(1).and_then(|word| word.parse::<u64>().ok()).expect("a number")
            }
        }
    };
    of("snmp", "FragCreates") + of("snmp6", "Ip6FragCreates")
}

fn a_router_with_a_smaller_mtu(families: Families) {
    let bed = Bed::builder().sites(["a", "b"]).providers([("isp1", Provider::Routed)]).families(families);
    let options = MeshOptions { discovery: Discovery::Seed("a".into()), ..MeshOptions::default() };
    let mesh = mesh_on(bed.build().expect("the bed is built"), &options);
    let (gateway, a, b) = (mesh.gateway("a"), host(&mesh, "a"), host(&mesh, "b"));
    assert_eq!(path(gateway).underlay_mtu, Some(1500));
    for mtu in [1400, 1423, 1492, 1280, 1500, 1357] {
        mesh.bed().link("b", "isp1").set_provider_mtu(mtu).expect("the MTU is set");
        let view = measure(gateway, "b");
        println!(
            "{families:?}: {mtu}: {:?} bytes by {} probes in {:.0} ms",
            view.underlay_mtu, view.probes, view.took_ms
        );
        assert_eq!(view.underlay_mtu, Some(mtu));
        let inner = inner(mtu, families);
        wait_for_mtu(gateway, "the path follows", |path| path.mtu == inner);
        gateway
            .wait_for("the routes follow", Duration::from_secs(5), |gateway| {
                let seen = route_mtu(gateway, b.v4());
                Ok(if seen == Some(inner) { Ok(()) } else { Err(format!("{seen:?}")) })
            })
            .expect("the route has the path's MTU");
        carried_wireguard_follows();

        // Full packets with Don't Fragment pass, and nobody has to cut what is around them.
        let before = fragments_made(mesh.bed().provider("isp1")) + fragments_made(gateway.namespace());
        let receiver = UdpReceiver::start(b, SocketAddr::new(b.v4(), 7_000)).expect("the receiver starts");
        let mut spec = UdpSpec::new(receiver.local(), 200.0).packets(100);
        (spec.size, spec.dont_fragment) = (usize::from(inner), true);
        let sent = UdpSender::start(a, spec).expect("the sender starts").finish().expect("everything is sent");
        let report = receiver.finish(&sent, Duration::from_secs(1)).expect("the receiver ends");
        assert_eq!((report.sent, report.lost), (100, 0), "{mtu}: {report:?}");
        for to in [b.v4(), b.v6()] {
            let sink = TcpSink::start(b, SocketAddr::new(to, 5_001)).expect("the sink starts");
            let source = TcpSource::start(a, TcpSpec::new(sink.local(), Duration::from_millis(500)));
            let report = source.expect("the source starts").finish().expect("the transfer ends");
            assert!(report.acknowledged > 50_000, "{to}: {report:?}");
        }
        let after = fragments_made(mesh.bed().provider("isp1")) + fragments_made(gateway.namespace());
        assert_eq!(after, before, "{mtu}: tunnel packets were fragmented");

        // One byte more is refused by the gateway with the right MTU.
        let answer = probe_mtu(a, SocketAddr::new(b.v4(), 7_001), usize::from(inner) + 1, Duration::from_secs(2));
        match answer.expect("the probe is sent") {
            Answer::TooBig(error) => assert_eq!(error.mtu, u32::from(inner)),
            other => panic!("{mtu}: {other:?}"),
        }
        // Hosts remember what they were told; the next round shall begin without that.
        for host in [a, b] {
            host.shell("ip route flush cache; ip -6 route flush cache").expect("it is forgotten");
        }
    }
    // ICMP was followed, and packets on the way back got through all the while.
    let drops = gateway.status().expect("the status is shown").mtu_probes;
    assert!(drops["icmp_followed"] > 0, "{drops:?}");
    assert_eq!(drops["forged"] + drops["malformed"], 0, "{drops:?}");
}

#[test]
fn a_router_with_a_smaller_mtu_is_measured_to_the_byte_over_ipv4() {
    needs_bed!();
    a_router_with_a_smaller_mtu(Families::V4);
}

#[test]
fn a_router_with_a_smaller_mtu_is_measured_to_the_byte_over_ipv6() {
    needs_bed!();
    a_router_with_a_smaller_mtu(Families::V6);
}
