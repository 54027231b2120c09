//! Lines that take more than 1,500 bytes.

use std::net::SocketAddr;
use std::time::Duration;

use sdwan_tests::bed::{Bed, Families, Provider};
use sdwan_tests::mesh::MeshOptions;
use sdwan_tests::needs_bed;
use sdwan_tests::traffic::{Answer, probe_mtu};

use crate::{carried_wireguard_follows, host, mesh_on, path};

#[test]
fn jumbo_frames_are_used_where_the_lines_and_the_lans_take_them() {
    needs_bed!();
    let bed = Bed::builder().sites(["a", "b"]).providers([("isp1", Provider::Bridge)]).families(Families::V4);
    let bed = bed.mtu("a", "isp1", 9_000).mtu("b", "isp1", 9_000).build().expect("the bed is built");
    for site in ["a", "b"] {
        let site = bed.site(site);
        site.ip("link set lan0 mtu 9000\n").expect("the MTU is set");
        site.host(0).ip("link set eth0 mtu 9000\n").expect("the MTU is set");
    }
    let mesh = mesh_on(bed, &MeshOptions::default());
    let (a, b) = (host(&mesh, "a"), host(&mesh, "b"));
    let path = path(mesh.gateway("a"));
    assert_eq!((path.underlay_mtu, path.mtu), (Some(9_000), 8_940));
    carried_wireguard_follows();
    // Nobody listens there: the answer says that the packet arrived.
    let probe = |size| probe_mtu(a, SocketAddr::new(b.v4(), 7_001), size, Duration::from_secs(2)).expect("it is sent");
    match probe(8_940) {
        Answer::Other(error) => assert_eq!((error.from, error.kind, error.code), (b.v4(), 3, 3)),
        other => panic!("{other:?}"),
    }
    match probe(8_941) {
        Answer::TooBig(error) => assert_eq!(error.mtu, 8_940),
        other => panic!("{other:?}"),
    }
}
