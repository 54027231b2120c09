//! Duplicate mode: each packet of a class by two paths, the first copy of each to the host.

use std::net::{IpAddr, SocketAddr};
use std::thread::sleep;
use std::time::Duration;

use sdwan::api::views::{CopiesView, FlowView, Listing, PolicyView};
use sdwan_common::copies::IPV6_MARK_LENGTH;
use sdwan_tests::bed::{Bed, Host, Impairment};
use sdwan_tests::failover::{QUICK_RETURN, TWICE, TWICE_POLICY, cut_under_copies, twice};
use sdwan_tests::mesh::{Mesh, MeshOptions, UplinkRate};
use sdwan_tests::needs_bed;
use sdwan_tests::pace::{paced, patience};
use sdwan_tests::traffic::{PingSpec, Report, TcpSink, TcpSource, TcpSpec, UdpReceiver, UdpSender, UdpSpec, ping};

use crate::{host, mesh_on, two_sites};

fn mesh() -> Mesh {
    mesh_on(two_sites(), &MeshOptions { extra: [TWICE_POLICY, QUICK_RETURN].concat(), ..MeshOptions::default() })
}

/// Streams to the port and does something meanwhile.
fn stream(from: &Host, to: IpAddr, at: &Host, rate: f64, meanwhile: impl FnOnce()) -> Report {
    let receiver = UdpReceiver::start(at, SocketAddr::new(to, TWICE)).expect("the receiver starts");
    let sender = UdpSender::start(from, UdpSpec { size: 1_000, ..UdpSpec::new(receiver.local(), rate) })
        .expect("the sender starts");
    sleep(Duration::from_millis(500));
    meanwhile();
    let sent = sender.stop().expect("the sender ends");
    receiver.finish(&sent, Duration::from_secs(1)).expect("the receiver ends")
}

fn second_copies(mesh: &Mesh, site: &str) -> u64 {
    mesh.gateway(site).status().expect("the status is shown").drops["second_copy"]
}

#[test]
fn a_cut_path_costs_no_packet_and_no_host_sees_a_copy() {
    needs_bed!();
    let mesh = mesh();
    let b = host(&mesh, "b");
    for to in [b.v4(), b.v6()] {
        let report = cut_under_copies(&mesh, to, 6).expect("each cut is survived");
        println!("{to}: {} sent, {} reordered, longest gap {:?}", report.sent, report.reordered, report.longest_gap);
        assert_eq!((report.lost, report.duplicated, report.foreign), (0, 0, 0), "{report:?}");
    }
    assert!(second_copies(&mesh, "b") > 2_000, "copies were removed at the other end");
}

#[test]
fn the_faster_copy_arrives_and_a_loss_on_one_line_is_none() {
    needs_bed!();
    // 5 ms by one provider and 120 ms by the other, each with a loss of its own at site a.
    let mut bed = Bed::builder().sites(["a", "b"]);
    for (uplink, delay_ms) in [("isp1", 5), ("isp2", 120)] {
        let line = Impairment::delay_ms(delay_ms);
        bed = bed.impair_directions("a", uplink, line.clone().loss(LOSS), line);
    }
    let bed = bed.build().expect("the bed is built");
    let mesh = mesh_on(bed, &MeshOptions { extra: TWICE_POLICY.into(), ..MeshOptions::default() });
    let (a, b) = (host(&mesh, "a"), host(&mesh, "b"));
    let report = stream(a, b.v4(), b, paced(500.0), || sleep(patience(Duration::from_secs(8))));
    println!(
        "{} of {} lost, by one line it would be {LOSS}; latency p50 {:?}, p99 {:?}",
        report.lost, report.sent, report.latency.p50, report.latency.p99
    );
    assert_eq!(report.duplicated, 0, "copies that come 115 ms apart are known: {report:?}");
    // Lost twice is lost. The bound is what chance exceeds once in a million runs, and far below one line's loss.
    let expected = report.sent as f64 * LOSS * LOSS;
    assert!((report.lost as f64) < expected + 6.0 * expected.sqrt(), "{} of {}", report.lost, report.sent);
    assert!(report.latency.p50 < Duration::from_millis(60), "the first copy is the faster one: {:?}", report.latency);
}

/// Share that each line loses.
const LOSS: f64 = 0.04;

#[test]
fn what_comes_by_two_paths_is_whole_and_of_every_kind() {
    needs_bed!();
    let mesh = mesh();
    let (a, b) = (host(&mesh, "a"), host(&mesh, "b"));
    let mtu = usize::from(mesh.gateway("a").paths().expect("the paths are listed")[0].mtu);
    for address in [b.v4(), b.v6()] {
        // Segments in bundles, both ways; the MSS leaves room for the mark.
        let sink = TcpSink::start(b, SocketAddr::new(address, TWICE)).expect("the sink starts");
        let before = copies(&mesh, "a");
        let spec = TcpSpec { rate: Some(20_000_000), ..TcpSpec::new(sink.local(), patience(Duration::from_secs(2))) };
        let report = TcpSource::start(a, spec).expect("the source starts").finish().expect("the transfer ends");
        let after = copies(&mesh, "a");
        assert!(report.acknowledged > 500_000, "{address}: {report:?}");
        let headers = if address.is_ipv4() { 40 } else { 60 + IPV6_MARK_LENGTH };
        assert!(report.segment as usize + headers <= mtu, "{address}: {report:?} of {mtu}");
        let sent = after.bytes - before.bytes;
        assert!(sent >= report.acknowledged, "{address}: {sent} bytes of copies of {report:?}");
        assert_eq!((after.alone, after.unmarked), (before.alone, before.unmarked), "{address}: {after:?}");
        // Datagrams in fragments: the first one names the ports, and each goes twice. An IPv6 host learns the path's MTU by
        // its first one.
        ping(a, &PingSpec { size: 3_000, ..PingSpec::new(address, 1) }).expect("a ping is sent");
        let report = fragments(a, address, b);
        assert_eq!((report.lost, report.duplicated), (0, 0), "{address}: {report:?}");
    }
}

/// Datagrams that don't fit a packet.
fn fragments(from: &Host, to: IpAddr, at: &Host) -> Report {
    let receiver = UdpReceiver::start(at, SocketAddr::new(to, TWICE)).expect("the receiver starts");
    let spec = UdpSpec { size: 3_000, ..UdpSpec::new(receiver.local(), 100.0) };
    let sender = UdpSender::start(from, spec.packets(200)).expect("the sender starts");
    let sent = sender.finish().expect("the sender ends");
    receiver.finish(&sent, Duration::from_secs(1)).expect("the receiver ends")
}

#[test]
fn without_room_on_the_second_path_packets_go_once() {
    needs_bed!();
    // 2 Mbit/s of voice fit the first line, and not the second one.
    let rates = vec![UplinkRate::mbps("isp1", 50.0, 50.0), UplinkRate::mbps("isp2", 1.0, 1.0)];
    let mesh = mesh_on(
        two_sites(),
        &MeshOptions { rates, extra: [TWICE_POLICY, QUICK_RETURN].concat(), ..MeshOptions::default() },
    );
    let (a, b) = (host(&mesh, "a"), host(&mesh, "b"));
    let mut seconds = 0;
    let report = stream(a, b.v4(), b, paced(200.0), || {
        let limit = patience(Duration::from_secs(20));
        let start = std::time::Instant::now();
        while flow(&mesh).second.is_some() {
            assert!(start.elapsed() < limit, "copies go on: {:?}", flow(&mesh));
            sleep(Duration::from_millis(200));
        }
        seconds = start.elapsed().as_secs();
        // They stay away, and the packets themselves don't.
        let before = copies(&mesh, "a");
        sleep(patience(Duration::from_secs(3)));
        let after = copies(&mesh, "a");
        assert_eq!(before.packets, after.packets, "no copy");
        assert!(after.alone > before.alone + 100, "{before:?} {after:?}");
    });
    println!("the second path was full after {seconds} s");
    assert_eq!((report.lost, report.duplicated), (0, 0), "{report:?}");
}

fn flow(mesh: &Mesh) -> FlowView {
    twice(mesh, host(mesh, "b").v4()).expect("the flow is in the table")
}

/// What became of the class's packets at a site.
fn copies(mesh: &Mesh, site: &str) -> CopiesView {
    let listing: Listing<PolicyView> = mesh.gateway(site).json(&["policies"]).expect("the policies are listed");
    let policy = listing.items.iter().find(|view| view.policy.name == "twice").expect("the policy is listed");
    policy.copies.expect("it is in duplicate mode")
}
