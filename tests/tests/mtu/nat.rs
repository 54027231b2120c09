//! A site whose announced address isn't where it can be reached.

use sdwan::engine::mtu::How;
use sdwan_tests::bed::{Bed, Families, Provider};
use sdwan_tests::mesh::{Mesh, MeshOptions};
use sdwan_tests::needs_bed;
use sdwan_tests::pace::patience;

use crate::{PATIENCE, path, wait_for_mtu};

#[test]
fn a_site_that_only_dials_out_is_probed_where_its_probes_come_from() {
    needs_bed!();
    let bed = Bed::builder().sites(["a", "b"]).providers([("isp1", Provider::Bridge)]).families(Families::V4);
    let mesh = Mesh::prepare(bed.build().expect("the bed is built"), &MeshOptions::default()).expect("it is prepared");
    let b = mesh.gateway("b");
    let text = std::fs::read_to_string(b.config()).expect("it is readable");
    let text = text.replace("interface = \"isp1\"", "interface = \"isp1\"\npublic_address = [\"203.0.113.77\"]");
    std::fs::write(b.config(), text).expect("it is written");
    mesh.start_daemons().expect("the daemons start");
    mesh.wait_until_up(patience(PATIENCE)).expect("all paths come up");
    for gateway in mesh.gateways() {
        wait_for_mtu(gateway, "every path is searched", |path| path.mtu_by == How::Searched);
        assert_eq!(path(gateway).underlay_mtu, Some(1500));
    }
}
