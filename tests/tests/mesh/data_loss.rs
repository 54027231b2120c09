//! Loss of the data itself, counted at both ends of a path, against what a receiver behind it counts.

use std::net::SocketAddr;
use std::time::Duration;

use sdwan::api::views::PathView;
use sdwan_tests::bed::{Bed, Direction, Impairment, Provider};
use sdwan_tests::mesh::{Gateway, Mesh, MeshOptions};
use sdwan_tests::needs_bed;
use sdwan_tests::pace::{paced, patience};
use sdwan_tests::traffic::{Report, UdpReceiver, UdpSender, UdpSpec};

use crate::{host, mesh_on, stream};

/// The window holds all that a test sends.
const WHOLE_TEST: &str = "[engine]\nloss_window = \"2m\"\n";
/// Each end settles a probe's counters by those after it.
const SETTLED: Duration = Duration::from_secs(2);

/// Two sites with one path between them.
fn one_path() -> Mesh {
    let bed = Bed::builder().sites(["a", "b"]).providers([("isp1", Provider::Bridge)]).build();
    // The search for the path MTU would find what takes large packets, and mend it.
    let extra = format!("{WHOLE_TEST}\n[mtu]\nenabled = false\n");
    let options = MeshOptions { extra, ..MeshOptions::default() };
    mesh_on(bed.expect("the bed is built"), &options)
}

/// Streams both ways at once; what became of them: from a to b, from b to a.
fn both_ways(mesh: &Mesh, rate: f64, size: usize, time: Duration) -> [Report; 2] {
    let streams = [("a", "b"), ("b", "a")].map(|(from, to)| {
        let local = SocketAddr::new(host(mesh, to).v4(), 7_000);
        let receiver = UdpReceiver::start(host(mesh, to), local).expect("the receiver starts");
        let spec = UdpSpec { size, ..UdpSpec::new(local, rate) }.during(time);
        (UdpSender::start(host(mesh, from), spec).expect("the sender starts"), receiver)
    });
    streams.map(|(sender, receiver)| {
        let sent = sender.finish().expect("everything is sent");
        receiver.finish(&sent, Duration::from_secs(1)).expect("the receiver ends")
    })
}

fn path(gateway: &Gateway) -> PathView {
    gateway.paths().expect("the paths are listed").into_iter().next().expect("there is one path")
}

/// Packets that a path says were sent and lost: towards the peer, from the peer.
fn told(path: &PathView) -> [(u64, u64); 2] {
    let lost = |packets: u64, pct: Option<f64>| (packets, (packets as f64 * pct.unwrap_or(0.0) / 100.0).round() as u64);
    [
        lost(path.data_loss_forward_packets, path.data_loss_forward_pct),
        lost(path.data_loss_backward_packets, path.data_loss_backward_pct),
    ]
}

/// What the path lost of a stream: what the receiver's own socket refused is not the path's.
fn truth(report: &Report) -> u64 {
    report.lost - report.socket_dropped.min(report.lost)
}

#[test]
fn without_loss_ten_thousand_packets_a_second_show_none() {
    needs_bed!();
    // A machine that is busy with something else carries fewer, and loses the rest; then there is nothing to see.
    let carried = [10_000.0, 5_000.0, 2_000.0, 500.0].into_iter().find(|rate| {
        let mesh = one_path();
        for (from, to) in [("a", "b"), ("b", "a")] {
            let [from, to] = [from, to].map(|site| host(&mesh, site));
            let report = stream(from, to, 7_000, paced(*rate), Duration::from_secs(6));
            if truth(&report) > 0 || ["a", "b"].iter().any(|site| path(mesh.gateway(site)).since_s < 6) {
                println!("{rate} packets a second are too many now: {} lost", truth(&report));
                return false;
            }
        }
        std::thread::sleep(SETTLED);
        for site in ["a", "b"] {
            for (packets, lost) in told(&path(mesh.gateway(site))) {
                println!("{site}: {lost} of {packets} lost");
                // What came before the first probe that had something to count has no count to start from.
                assert!(packets >= (paced(*rate) * 5.7) as u64, "{site} counts {packets}");
                assert_eq!(lost, 0, "{site}, {rate} packets a second");
            }
        }
        true
    });
    assert!(carried.is_some(), "this machine carries no 500 packets a second without loss");
}

#[test]
fn the_loss_of_each_direction_is_what_the_receivers_behind_it_count() {
    needs_bed!();
    let mesh = one_path();
    let line = mesh.bed().link("a", "isp1");
    line.impair_direction(Direction::Up, Impairment::delay_ms(5).loss(0.03)).expect("the line is impaired");
    line.impair_direction(Direction::Down, Impairment::delay_ms(5).loss(0.01)).expect("the line is impaired");
    mesh.wait_until_up(patience(Duration::from_secs(30))).expect("the path is up");
    let before = ["a", "b"].map(|site| told(&path(mesh.gateway(site))));
    let reports = both_ways(&mesh, paced(2_000.0), 400, Duration::from_secs(10));
    std::thread::sleep(SETTLED);
    for (number, (site, ways)) in [("a", [0, 1]), ("b", [1, 0])].into_iter().enumerate() {
        let now = told(&path(mesh.gateway(site)));
        for (way, report) in ways.into_iter().enumerate() {
            let (packets, lost) = (now[way].0 - before[number][way].0, now[way].1 - before[number][way].1);
            let (sent, truth) = (reports[report].sent, truth(&reports[report]));
            println!("{site}, way {way}: {lost} of {packets} lost, in truth {truth} of {sent}");
            assert!(truth > 0, "the line loses packets");
            // The gateways' own packets count too, and what came before the first probe that had something to count has
            // no count to start from.
            assert!((sent * 97 / 100..sent + 100).contains(&packets), "{site}, way {way}: {packets} instead of {sent}");
            let uncounted = sent.saturating_sub(packets);
            assert!(lost.abs_diff(truth) <= 4 + uncounted / 20, "{site}, way {way}: {lost} instead of {truth}");
        }
    }
}

#[test]
fn data_that_vanishes_while_probes_pass_counts_as_loss_of_the_path() {
    needs_bed!();
    let mesh = one_path();
    let line = mesh.bed().link("a", "isp1");
    let narrow = Impairment { drop_larger_than: Some(700), ..Impairment::delay_ms(1) };
    line.impair_direction(Direction::Up, narrow).expect("the line is impaired");
    mesh.wait_until_up(patience(Duration::from_secs(30))).expect("the path is up");
    // Not slower on a slow machine: scores look at the data's loss from 1,000 packets on.
    let [there, back] = both_ways(&mesh, 400.0, 1_000, Duration::from_secs(5));
    assert_eq!((there.received, truth(&back)), (0, 0), "large packets vanish one way");
    let both = |view: &PathView| {
        let forward = view.data_loss_forward_pct.unwrap_or(0.0);
        (forward > 90.0, view.data_loss_backward_pct == Some(0.0), view.loss_forward_pct == Some(0.0))
    };
    let gateway = mesh.gateway("a");
    gateway
        .wait_for("the loss is seen", patience(Duration::from_secs(5)), |gateway| {
            let view = path(gateway);
            Ok(if both(&view) == (true, true, true) { Ok(()) } else { Err(format!("{view:?}")) })
        })
        .expect("probes pass and data doesn't");
    let view = path(gateway);
    // Loss is worth 30 of the 100 points.
    assert!(view.score <= 70.5, "the score counts it: {view:?}");
    let other = path(mesh.gateway("b"));
    assert!(other.data_loss_backward_pct.is_some_and(|pct| pct > 90.0), "the other end sees it too: {other:?}");
}
