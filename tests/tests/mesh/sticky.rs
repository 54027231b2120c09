//! What flows do when the line that they left is mended.

use std::net::SocketAddr;
use std::time::Duration;

use sdwan::engine::path::PathState;
use sdwan_tests::bed::{Bed, Cut, Impairment};
use sdwan_tests::failover::{new_flow_on, uplink_in_use};
use sdwan_tests::mesh::{Mesh, MeshOptions};
use sdwan_tests::needs_bed;
use sdwan_tests::pace::patience;
use sdwan_tests::traffic::{UdpReceiver, UdpSender, UdpSpec};

use crate::{PATIENCE, host, mesh_on};

/// Port of each policy's flows.
const STAYS: u16 = 7_100;
const RETURNS: u16 = 7_101;
const RATE: f64 = 200.0;
const POLICIES: &str = "[engine]\nhold_down = \"300ms\"\nhold_down_max = \"300ms\"\nswitch_hold = \"2s\"\n\
    [[policy]]\nname = \"stays\"\npriority = 50\npreference = \"latency\"\nsticky = \"until-end\"\n\
    sla = { loss_pct = 5 }\nmatch = [{ protocols = [\"udp\"], destination_ports = [7100] }]\n\
    [[policy]]\nname = \"returns\"\npriority = 51\npreference = \"latency\"\nsticky = \"until-better\"\n\
    sla = { loss_pct = 5 }\nmatch = [{ protocols = [\"udp\"], destination_ports = [7101] }]\n";

/// The local uplink of the path that a flow is on, and how often it moved.
fn flow(mesh: &Mesh, source_port: u16) -> (Option<u8>, u32) {
    let flows = mesh.gateway("a").flows(None).expect("the flows are listed");
    let flow = flows.iter().find(|flow| flow.source_port == source_port).expect("the flow is in the table");
    (flow.path.tunnel.map(|tunnel| tunnel.local.get()), flow.moves)
}

fn wait_for(mesh: &Mesh, source_port: u16, uplink: u8) {
    let what = format!("the flow of port {source_port} is on uplink {uplink}");
    let on = |_: &_| {
        let (found, _) = flow(mesh, source_port);
        Ok(if found == Some(uplink) { Ok(()) } else { Err(format!("it is on {found:?}")) })
    };
    mesh.gateway("a").wait_for(&what, patience(PATIENCE), on).expect("the flow moves");
}

#[test]
fn a_mended_line_takes_new_flows_and_those_that_are_to_return_and_the_others_stay() {
    needs_bed!();
    let slow = Impairment::delay(Duration::from_millis(20));
    let bed = Bed::builder().sites(["a", "b"]).impair("a", "isp2", slow.clone()).build().expect("the bed is built");
    let mesh = mesh_on(bed, &MeshOptions { extra: POLICIES.into(), ..MeshOptions::default() });
    let (a, b) = (host(&mesh, "a"), host(&mesh, "b"));
    let start = |source_port: u16, port: u16| {
        let receiver = UdpReceiver::start(b, SocketAddr::new(b.v4(), port)).expect("the receiver starts");
        let spec = UdpSpec { source_port, ..UdpSpec::new(receiver.local(), RATE) };
        (UdpSender::start(a, spec).expect("the sender starts"), receiver)
    };
    let on_first = |port| {
        let on = |_: &_| Ok(if new_flow_on(&mesh, port)? == Some(0) { Ok(()) } else { Err("another".into()) });
        mesh.gateway("a").wait_for("new flows take uplink 0", patience(PATIENCE), on).expect("it is the quick one");
    };
    on_first(STAYS);
    on_first(RETURNS);
    let (stays, returns) = (start(41_000, STAYS), start(41_001, RETURNS));
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!((flow(&mesh, 41_000), flow(&mesh, 41_001)), ((Some(0), 0), (Some(0), 0)));

    let link = mesh.bed().link("a", "isp1");
    link.cut(Cut::Silent).expect("the line is cut");
    wait_for(&mesh, 41_000, 1);
    wait_for(&mesh, 41_001, 1);
    // By way of the other path of this line, perhaps.
    let (_, moves) = flow(&mesh, 41_000);
    link.restore().expect("the line is mended");
    let up = |gateway: &sdwan_tests::mesh::Gateway| {
        let down = gateway.paths()?.iter().filter(|path| path.state != PathState::Up).count();
        Ok(if down == 0 { Ok(()) } else { Err(format!("{down} paths are not up")) })
    };
    mesh.gateway("a").wait_for("the paths are back", patience(PATIENCE), up).expect("they come back");
    wait_for(&mesh, 41_001, 0);
    on_first(STAYS);
    let newcomer =
        UdpSender::start(a, UdpSpec { source_port: 41_003, ..UdpSpec::new(SocketAddr::new(b.v4(), STAYS), RATE) })
            .expect("the sender starts");
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(flow(&mesh, 41_003).0, Some(0), "a new flow of the class takes the mended line");
    assert_eq!(flow(&mesh, 41_000), (Some(1), moves), "the old one stays where it went");
    newcomer.stop().expect("the sender ends");
    let sent = returns.0.stop().expect("the sender ends");
    let report = returns.1.finish(&sent, Duration::from_secs(1)).expect("the receiver ends");
    println!("the flow that returned lost {} packets in a gap of {:?}", report.lost, report.longest_loss());
    assert_eq!(uplink_in_use(&mesh).expect("packets are counted"), "isp2", "where its packets leave");

    // It stays as long as its path keeps the SLA, and no longer.
    mesh.bed().link("a", "isp2").impair(&slow.loss(0.25)).expect("the line begins to lose packets");
    wait_for(&mesh, 41_000, 0);
    stays.0.stop().expect("the sender ends");
}
