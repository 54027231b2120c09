//! IPv4 and IPv6, inside and outside; packets that are too large.

use std::net::SocketAddr;
use std::time::Duration;

use sdwan_tests::bed::{Bed, Families};
use sdwan_tests::mesh::{Mesh, MeshOptions};
use sdwan_tests::needs_bed;
use sdwan_tests::traffic::{Answer, PingSpec, TcpSink, TcpSource, TcpSpec, ping, probe_mtu, traceroute};

use crate::{host, mesh_on};

fn on(families: Families) -> Mesh {
    let bed = Bed::builder().sites(["a", "b"]).families(families).build().expect("the bed is built");
    mesh_on(bed, &MeshOptions::default())
}

fn everything_passes(mesh: &Mesh) {
    let (a, b) = (host(mesh, "a"), host(mesh, "b"));
    let mtu = usize::from(mesh.gateway("a").paths().expect("the paths are listed")[0].mtu);
    for address in [b.v4(), b.v6()] {
        let report = ping(a, &PingSpec::new(address, 20)).expect("pings are sent");
        assert_eq!(report.answered, 20, "{address}: {report:?}");

        let patience = Duration::from_secs(2);
        match probe_mtu(a, SocketAddr::new(address, 9_000), 1_500, patience).expect("the probe is sent") {
            Answer::TooBig(error) => assert_eq!(error.mtu as usize, mtu, "{address}"),
            other => panic!("{address}: a 1,500-byte packet got {other:?}"),
        }
        // Fragments of a large datagram that may be fragmented arrive.
        // An IPv6 host learns the path's MTU by its first one.
        let large = PingSpec { size: 3_000, ..PingSpec::new(address, 5) };
        ping(a, &PingSpec { count: 1, ..large }).expect("pings are sent");
        assert_eq!(ping(a, &large).expect("pings are sent").answered, 5, "{address}: fragments");

        let sink = TcpSink::start(b, SocketAddr::new(address, 5_001)).expect("the sink starts");
        let spec = TcpSpec::new(sink.local(), Duration::from_secs(1));
        let report = TcpSource::start(a, spec).expect("the source starts").finish().expect("the transfer ends");
        assert!(report.acknowledged > 100_000, "{address}: {report:?}");
        let headers = if address.is_ipv4() { 40 } else { 60 };
        assert!(report.segment as usize + headers <= mtu, "{address}: the MSS is not clamped: {report:?}");

        let hops = traceroute(a, SocketAddr::new(address, 33_434), 8, patience).expect("the route is traced");
        assert!(hops.len() >= 2, "{address}: {hops:?}");
    }
}

#[test]
fn everything_passes_over_an_ipv4_underlay() {
    needs_bed!();
    everything_passes(&on(Families::V4));
}

#[test]
fn everything_passes_over_an_ipv6_underlay() {
    needs_bed!();
    everything_passes(&on(Families::V6));
}
