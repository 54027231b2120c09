//! Real daemons on a bed.

use std::time::Duration;

use sdwan_tests::bed::{Bed, Provider};
use sdwan_tests::mesh::{self, Discovery, Mesh, MeshOptions};
use sdwan_tests::traffic::{PingSpec, ping};

#[test]
fn daemons_find_each_other_by_multicast_or_one_seed_and_carry_packets_of_hosts() {
    if !mesh::ready("daemons_find_each_other_by_multicast_or_one_seed_and_carry_packets_of_hosts") {
        return;
    }
    for (kind, discovery) in [(Provider::Bridge, Discovery::Multicast), (Provider::Routed, Discovery::Seed("a".into()))]
    {
        let bed = Bed::builder().providers([("isp1", kind), ("isp2", kind)]).build().expect("bed");
        let options = MeshOptions { discovery, ..MeshOptions::default() };
        let mesh = Mesh::prepare(bed, &options).expect("mesh");
        mesh.start_daemons().expect("daemons");
        let took = mesh.wait_until_up(Duration::from_secs(20)).expect("all paths come up");
        println!("{kind:?}: all paths up after {took:?}");
        for (from, to) in [("a", "b"), ("b", "c"), ("c", "a")] {
            let (from, to) = (mesh.bed().site(from).host(0), mesh.bed().site(to).host(0));
            for to in [to.v4(), to.v6()] {
                let report = ping(from, &PingSpec::new(to, 5)).expect("ping");
                assert_eq!(report.answered, 5, "to {to}");
            }
        }
        let explained = mesh.gateway("a").explain("10.1.0.2:40000", "10.2.0.2:5060", "udp").expect("explain");
        assert_eq!(explained.site_name.as_deref(), Some("b"));
        mesh.gateways().iter().for_each(|gateway| gateway.stop().expect("it ends"));
    }
}
