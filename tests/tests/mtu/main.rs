//! Path MTUs on real packets: routers that say that a packet is too large, lines that drop it without a word, larger
//! frames, and packets that must not be believed.

mod black_hole;
mod forged;
mod jumbo;
mod nat;
mod routed;

use std::net::IpAddr;
use std::time::Duration;

use sdwan::api::views::{MtuView, PathView};
use sdwan::engine::mtu::How;
use sdwan_tests::bed::{Bed, Host};
use sdwan_tests::mesh::{Gateway, Mesh, MeshOptions};
use sdwan_tests::mtu::{self, PATIENCE, inner};
use sdwan_tests::pace::patience;

/// A mesh that is up and whose paths have all been searched.
fn mesh_on(bed: Bed, options: &MeshOptions) -> Mesh {
    let mesh = Mesh::prepare(bed, options).expect("the mesh is prepared");
    mesh.start_daemons().expect("the daemons start");
    mesh.wait_until_up(patience(PATIENCE)).expect("all paths come up");
    for gateway in mesh.gateways() {
        wait_for_mtu(gateway, "every path is searched", |path| path.mtu_by == How::Searched);
    }
    mesh
}

fn host<'a>(mesh: &'a Mesh, site: &str) -> &'a Host {
    mesh.bed().site(site).host(0)
}

/// The carried WireGuard looks at its interface's MTU twice a second: its padding and its buffers follow by then.
fn carried_wireguard_follows() {
    std::thread::sleep(Duration::from_millis(700));
}

/// Waits until all paths of a gateway are as wanted; returns how long that took.
fn wait_for_mtu(gateway: &Gateway, what: &str, wanted: impl Fn(&PathView) -> bool) -> Duration {
    mtu::wait_for_mtu(gateway, what, wanted).expect("the MTU is found")
}

/// `sdwan measure mtu` on the only path of a gateway.
fn measure(gateway: &Gateway, peer: &str) -> MtuView {
    mtu::measure_mtu(gateway, peer).expect("the search ends")
}

/// The only path of a gateway.
fn path(gateway: &Gateway) -> PathView {
    mtu::only_path(gateway).expect("there is one path")
}

/// MTU of the kernel's route from a gateway to an address.
fn route_mtu(gateway: &Gateway, to: IpAddr) -> Option<u16> {
    let route = gateway.namespace().shell(&format!("ip route get {to}")).expect("there is a route");
    let mut words = route.split_whitespace().skip_while(|word| *word != "mtu");
    words.nth(1)?.parse().ok()
}
