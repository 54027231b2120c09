//! Where the operator wants it, a provider sees the class of an encrypted packet, and nothing else of it.

use std::net::SocketAddr;
use std::time::Duration;

use sdwan_tests::bed::{Bed, Families};
use sdwan_tests::mesh::{Mesh, MeshOptions};
use sdwan_tests::needs_bed;
use sdwan_tests::pace::paced;
use sdwan_tests::traffic::{Capture, Filter, TcpSink, TcpSource, TcpSpec, UdpReceiver, UdpSender, UdpSpec};

use crate::{host, mesh_on};

/// EF, CS4, CS1, and what is left alone.
const DSCP: [u8; 4] = [46, 32, 8, 0];
const TIME: Duration = Duration::from_secs(3);

fn mesh(bed: Bed, outer_dscp: bool) -> Mesh {
    mesh_on(bed, &MeshOptions { extra: format!("[tunnel]\nouter_dscp = {outer_dscp}\n"), ..MeshOptions::default() })
}

fn has_kernel_wireguard(test: &str, mesh: &Mesh) -> bool {
    let kernel = mesh.gateway("a").status().expect("status").tunnel_backend == "kernel";
    if !kernel {
        eprintln!("skipped: {test}: only the kernel's WireGuard lets a class through");
    }
    kernel
}

/// Sends voice, gaming, bulk and other packets from a to b, and counts the encrypted packets by their DSCP, of [`DSCP`], as
/// they reach b.
fn outer_packets(mesh: &Mesh) -> [u64; 4] {
    let (a, b) = (host(mesh, "a"), host(mesh, "b"));
    let filters = DSCP.map(|dscp| Filter { protocol: Some(17), dscp: Some(dscp), ..Filter::default() });
    let capture = Capture::start(mesh.gateway("b").namespace(), &["isp1", "isp2"], &filters).expect("it captures");
    let sink = TcpSink::start(b, SocketAddr::new(b.v6(), 873)).expect("the sink starts");
    let spec = TcpSpec { bytes: Some(300_000), ..TcpSpec::new(sink.local(), 4 * TIME) };
    let bulk = TcpSource::start(a, spec).expect("the source starts");
    let streams = [16_400, 27_015, 9_999].map(|port| {
        let receiver = UdpReceiver::start(b, SocketAddr::new(b.v4(), port)).expect("the receiver starts");
        let spec = UdpSpec::new(receiver.local(), paced(200.0)).during(TIME);
        (UdpSender::start(a, spec).expect("the sender starts"), receiver)
    });
    for (sender, receiver) in streams {
        let sent = sender.finish().expect("everything is sent");
        let report = receiver.finish(&sent, Duration::from_secs(1)).expect("the receiver ends");
        assert_eq!(report.lost, 0, "a changed header has a right checksum: {report:?}");
    }
    bulk.finish().expect("the transfer ends");
    let count = |filter| capture.counts(filter).values().map(|count| count.received).sum();
    std::array::from_fn(count)
}

fn check(test: &str, bed: Bed) {
    let mesh = mesh(bed, true);
    if !has_kernel_wireguard(test, &mesh) {
        return;
    }
    let attached = mesh.gateway("a").status().expect("status").attached;
    assert!(["isp1", "isp2"].iter().all(|uplink| attached.iter().any(|name| name == uplink)), "{attached:?}");
    let [voice, gaming, bulk, rest] = outer_packets(&mesh);
    println!("{test}: EF {voice}, CS4 {gaming}, CS1 {bulk}, others {rest}");
    let sent = (paced(200.0) * TIME.as_secs_f64()) as u64;
    for (class, count) in [("voice", voice), ("gaming", gaming)] {
        assert!((sent * 95 / 100..=sent * 105 / 100 + 2).contains(&count), "{class}: {count} packets of {sent}");
    }
    assert!(bulk > 50 && rest >= sent * 95 / 100, "CS1 {bulk}, others {rest}");
}

#[test]
fn encrypted_packets_carry_the_dscp_of_their_class_where_that_is_on() {
    needs_bed!();
    for families in [Families::V4, Families::V6] {
        let bed = Bed::builder().sites(["a", "b"]).families(families).build().expect("the bed is built");
        check("encrypted_packets_carry_the_dscp_of_their_class_where_that_is_on", bed);
    }
}

#[test]
fn encrypted_packets_tell_nothing_by_default() {
    needs_bed!();
    let mesh = mesh(Bed::builder().sites(["a", "b"]).build().expect("the bed is built"), false);
    let [voice, gaming, bulk, _] = outer_packets(&mesh);
    assert_eq!([voice, gaming, bulk], [0; 3]);
    let attached = mesh.gateway("a").status().expect("status").attached;
    assert!(attached.iter().all(|name| !name.starts_with("isp")), "{attached:?}");
}
