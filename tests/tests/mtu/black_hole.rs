//! A line that begins to drop large packets without a word, and ceases to, while traffic runs.

use std::net::SocketAddr;
use std::thread::sleep;
use std::time::{Duration, Instant};

use sdwan::engine::mtu::How;
use sdwan_tests::bed::{Bed, Families, Impairment, Provider};
use sdwan_tests::mesh::MeshOptions;
use sdwan_tests::needs_bed;
use sdwan_tests::traffic::{TcpSink, TcpSource, TcpSpec, UdpReceiver, UdpSender, UdpSpec};

use crate::{host, inner, mesh_on, path, wait_for_mtu};

const S: Duration = Duration::from_secs(1);

fn a_black_hole(families: Families) {
    let line = Impairment::delay_ms(10).rate_mbps(40.0);
    let bed = Bed::builder()
        .sites(["a", "b"])
        .providers([("isp1", Provider::Bridge)])
        .families(families)
        .impair("b", "isp1", line.clone())
        .by_keeper();
    let options = MeshOptions { extra: "[mtu]\nraise = \"5s\"\n".into(), ..MeshOptions::default() };
    let mesh = mesh_on(bed.build().expect("the bed is built"), &options);
    let (gateway, a, b) = (mesh.gateway("a"), host(&mesh, "a"), host(&mesh, "b"));
    assert_eq!(path(gateway).underlay_mtu, Some(1500));

    let sink = TcpSink::start(b, SocketAddr::new(b.v4(), 5_001)).expect("the sink starts");
    let source = TcpSource::start(a, TcpSpec::new(sink.local(), 120 * S)).expect("the source starts");
    let receiver = UdpReceiver::start(b, SocketAddr::new(b.v4(), 7_000)).expect("the receiver starts");
    let mut spec = UdpSpec::new(receiver.local(), 50.0);
    // Fits even what the path falls to meanwhile.
    (spec.size, spec.dont_fragment) = (1_100, true);
    let stream = UdpSender::start(a, spec).expect("the sender starts");
    sleep(2 * S);

    for mtu in [1423, 1357] {
        mesh.bed()
            .link("b", "isp1")
            .impair(&Impairment { drop_larger_than: Some(mtu), ..line.clone() })
            .expect("it is set");
        let start = Instant::now();
        wait_for_mtu(gateway, "the black hole is found", |path| {
            path.underlay_mtu.is_some_and(|known| u32::from(known) <= mtu)
        });
        let found = start.elapsed();
        let at_found = sink.bytes();
        wait_for_mtu(gateway, "the search ends", |path| path.mtu_by == How::Searched);
        let searched = start.elapsed();
        println!("{families:?}: black hole of {mtu} bytes found after {found:.1?}, its size after {searched:.1?}");
        assert!(found <= 10 * S, "{found:?}");
        assert_eq!(path(gateway).underlay_mtu, Some(mtu as u16));
        assert_eq!(path(gateway).mtu, inner(mtu as u16, families));
        // The way back is found by the other end.
        wait_for_mtu(mesh.gateway("b"), "the other direction", |path| path.underlay_mtu == Some(mtu as u16));
        sleep(4 * S);
        let after = sink.bytes();
        println!("{families:?}: the transfer went on with {:.1} Mbit/s", (after - at_found) as f64 * 8e-6 / 4.0);
        assert!(after - at_found > 500_000, "the transfer stalled: {} bytes", after - at_found);
    }

    // A daemon that starts anew goes on with what the one before it knew.
    let narrow = inner(1357, families);
    gateway.stop().expect("the daemon ends");
    gateway.start().expect("the daemon starts");
    wait_for_mtu(gateway, "it is searched anew", |path| {
        assert!(path.mtu <= narrow, "a new daemon lets larger packets vanish: {path:?}");
        path.mtu_by == How::Searched
    });

    mesh.bed().link("b", "isp1").impair(&line).expect("it is set");
    let raised = wait_for_mtu(gateway, "the path takes more again", |path| path.underlay_mtu == Some(1500));
    println!("{families:?}: raised after {raised:.1?}");
    assert!(raised <= 10 * S, "{raised:?}");

    let sent = stream.stop().expect("everything is sent");
    let report = receiver.finish(&sent, S).expect("the receiver ends");
    assert!(report.loss() < 0.05, "small packets were lost: {report:?}");
    let report = source.stop().expect("the transfer ends");
    assert!(report.error.is_none(), "{report:?}");
}

#[test]
fn a_black_hole_is_found_within_ten_seconds_under_load_over_ipv4() {
    needs_bed!();
    a_black_hole(Families::V4);
}

#[test]
fn a_black_hole_is_found_within_ten_seconds_under_load_over_ipv6() {
    needs_bed!();
    a_black_hole(Families::V6);
}
