//! Real daemons on real packets: what a mesh must hold.

mod api;
mod attacker;
mod backend;
mod chaos;
mod check;
mod data_loss;
mod detached;
mod discovery;
mod duplicate;
mod failover;
mod families;
mod fast_path;
mod faults;
mod guard;
mod hard_failures;
mod marking;
mod metrics;
mod moves;
mod recording;
mod refused;
mod reload;
mod report;
mod revoked;
mod steering;
mod sticky;
mod support;
mod tcp_rtt;
mod trace;
mod uplink_life;
mod uplinks;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use sdwan_tests::bed::{Bed, Host};
use sdwan_tests::mesh::{Mesh, MeshOptions};
use sdwan_tests::pace::patience;
use sdwan_tests::traffic::{PingSpec, Report, UdpReceiver, UdpSender, UdpSpec, ping};

/// These machines are slow and noisy; what must be quick is asserted where it is measured.
const PATIENCE: Duration = Duration::from_secs(30);

/// A mesh that is up.
fn mesh_on(bed: Bed, options: &MeshOptions) -> Mesh {
    let mesh = Mesh::prepare(bed, options).expect("the mesh is prepared");
    mesh.start_daemons().expect("the daemons start");
    mesh.wait_until_up(patience(PATIENCE)).expect("all paths come up");
    mesh
}

/// Two sites with two uplinks each.
fn two_sites() -> Bed {
    Bed::builder().sites(["a", "b"]).build().expect("the bed is built")
}

fn host<'a>(mesh: &'a Mesh, site: &str) -> &'a Host {
    mesh.bed().site(site).host(0)
}

/// Waits for the first answered ping; returns how long it took.
fn first_ping(from: &Host, to: std::net::IpAddr, patience: Duration) -> Duration {
    let start = Instant::now();
    loop {
        let spec = PingSpec { patience: Duration::from_millis(200), ..PingSpec::new(to, 1) };
        if ping(from, &spec).expect("pings can be sent").answered > 0 {
            return start.elapsed();
        }
        assert!(start.elapsed() < patience, "no answer from {to} within {patience:?}");
    }
}

/// Sends a stream for a while and returns what became of it.
fn stream(from: &Host, to: &Host, port: u16, rate: f64, time: Duration) -> Report {
    let receiver = UdpReceiver::start(to, SocketAddr::new(to.v4(), port)).expect("the receiver starts");
    let spec = UdpSpec::new(receiver.local(), rate).during(time);
    let sender = UdpSender::start(from, spec).expect("the sender starts");
    let sent = sender.finish().expect("everything is sent");
    receiver.finish(&sent, Duration::from_secs(1)).expect("the receiver ends")
}
