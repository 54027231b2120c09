//! `[stamp]` of the configuration: the daemon answers strangers beside its tunnels.

use std::net::SocketAddr;

use sdwan_tests::mesh::{Mesh, MeshOptions};
use sdwan_tests::needs_bed;
use sdwan_tests::pace::patience;

use crate::{PATIENCE, addresses, answered, bed};

#[test]
fn the_daemon_answers_on_all_addresses_beside_its_tunnels_and_shows_what_it_refused() {
    needs_bed!();
    let extra = "[stamp]\nlisten = [\"0.0.0.0\", \"::\"]\n".to_owned();
    let mesh = Mesh::prepare(bed(), &MeshOptions { extra, ..MeshOptions::default() }).expect("the mesh is prepared");
    mesh.start_daemons().expect("the daemons start");
    // Probes are answered on the same port, on the tunnels' interfaces.
    mesh.wait_until_up(patience(PATIENCE)).expect("all paths are up");
    let gateway = mesh.gateway("b");
    let count = |name: &str| gateway.status().expect("status").stamp_reflector.get(name).copied().unwrap_or(0);
    // Probes that came before the tunnel's own socket was there.
    let before = count("answered");
    for address in addresses(mesh.bed(), "b") {
        let report = answered(mesh.bed(), SocketAddr::new(address, 862), &["-n", "5", "-i", "10ms"]);
        assert_eq!((&report["answered"], &report["numbering"]), (&5.into(), &"stateful".into()), "{report:#}");
    }
    let to = addresses(mesh.bed(), "b")[0].to_string();
    let short = format!("printf short | timeout 1 bash -c 'cat > /dev/udp/{to}/862'");
    mesh.bed().site("a").shell(&short).expect("sent");
    crate::wait_for("the packet is counted", || count("truncated") == 1);
    assert_eq!(count("answered"), before + 10);
    assert!(gateway.text(&["status"]).expect("status").contains("reflector:"));
}
