//! A cut line is left, and returned to.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sdwan::engine::path::PathState;
use sdwan_tests::bed::{Bed, Cut, Impairment};
use sdwan_tests::failover::{
    Brownout, Cuts, PORT, QUICK_RETURN, brownout, cut_again_and_again, fill, flow_count, uplink_in_use,
    voice_and_others,
};
use sdwan_tests::mesh::{Mesh, MeshOptions};
use sdwan_tests::needs_bed;
use sdwan_tests::pace::{is_slow, patience};
use sdwan_tests::traffic::{UdpReceiver, UdpSender, UdpSpec};

use crate::{host, mesh_on, two_sites};

const RATE: f64 = 500.0;
/// What the issue asks of the median.
const MEDIAN: Duration = Duration::from_millis(250);

fn quick() -> MeshOptions {
    MeshOptions { extra: QUICK_RETURN.into(), ..MeshOptions::default() }
}

fn cut(what: &str, mesh: &Mesh, cuts: &Cuts) -> Duration {
    let gaps = cut_again_and_again(mesh, cuts).expect("each cut is survived");
    println!("{what}: {}", gaps.summary());
    gaps.median()
}

#[test]
fn a_cut_line_is_left_within_a_quarter_of_a_second() {
    needs_bed!();
    let mesh = mesh_on(two_sites(), &quick());
    let median = cut("1 flow", &mesh, &Cuts::silent(20));
    assert!(median <= MEDIAN, "{median:?}");
}

#[test]
fn the_fast_profile_leaves_a_cut_line_in_a_third_of_that() {
    needs_bed!();
    let extra = format!("[probe]\nprofile = \"fast\"\n\n{QUICK_RETURN}");
    let mesh = mesh_on(two_sites(), &MeshOptions { extra, ..MeshOptions::default() });
    std::thread::sleep(Duration::from_secs(3));
    let median = cut("fast profile", &mesh, &Cuts::silent(8));
    assert!(median <= MEDIAN / 3, "{median:?}");
}

#[test]
fn a_line_by_satellite_is_never_taken_for_dead_and_is_left_when_it_is() {
    needs_bed!();
    let mut builder = Bed::builder().sites(["a", "b"]);
    let satellite = Impairment::delay(Duration::from_millis(300)).jitter(Duration::from_millis(20));
    builder = builder.impair("a", "isp2", satellite);
    let extra = format!("[probe]\nprofile = \"fast\"\n\n{QUICK_RETURN}");
    let options = MeshOptions { extra, ..MeshOptions::default() };
    let start = Instant::now();
    let mesh = mesh_on(builder.build().expect("the bed is built"), &options);
    println!("all paths were up after {:?}", start.elapsed());
    // The flow keeps the site's paths at the fast pace.
    let (sender, receiver) = stream(&mesh);
    std::thread::sleep(Duration::from_secs(30));
    let events = mesh.gateway("a").text(&["events", "--kind", "path-down,path-silent"]).expect("the events");
    assert_eq!(events, "no event\n");
    let paths = mesh.gateway("a").paths().expect("the paths");
    let longest = paths.iter().filter(|path| path.local_uplink == "isp2").map(|path| path.detection_ms);
    let longest = Duration::from_secs_f64(longest.fold(0.0, f64::max) / 1e3);
    println!("detection by satellite: {longest:?}");
    assert!(longest <= Duration::from_millis(330), "{longest:?}");
    mesh.bed().link("a", "isp2").cut(Cut::Silent).expect("the line is cut");
    // What is on its way still comes.
    std::thread::sleep(Duration::from_millis(300) + longest + Duration::from_millis(500));
    let paths = mesh.gateway("a").paths().expect("the paths");
    let left = paths.iter().filter(|path| path.local_uplink == "isp2").all(|path| path.state == PathState::Down);
    assert!(left, "{paths:?}");
    let sent = sender.stop().expect("the sender ends");
    receiver.finish(&sent, Duration::from_secs(1)).expect("the receiver ends");
}

#[test]
fn voice_leaves_a_line_that_begins_to_lose_packets_and_no_other_class_moves() {
    needs_bed!();
    let mesh = voice_and_others().expect("the mesh is up");
    let tries = (0..3).map(|round| brownout(&mesh, round).expect("voice leaves the line"));
    let told = tries.inspect(|brownout| println!("{brownout:?}")).find(|brownout| !brownout.taken_for_dead);
    let Brownout { left_after, others, .. } = told.expect("that doesn't happen three times");
    assert!(left_after <= Duration::from_secs(5), "{left_after:?}");
    assert!(others.is_empty(), "{others:?} moved");
}

#[test]
fn two_hundred_thousand_flows_change_nothing_about_that_and_are_not_walked() {
    needs_bed!();
    if is_slow() {
        let name = "two_hundred_thousand_flows_change_nothing_about_that_and_are_not_walked";
        eprintln!("skipped: {name}: an emulated machine takes many minutes to send so many packets");
        return;
    }
    let mesh = mesh_on(two_sites(), &quick());
    fill(&mesh, 210_000).expect("all flows are opened");
    let seen = flow_count(&mesh, "a").expect("the flows are counted");
    println!("flows in the table: {seen}");
    assert!(seen >= 190_000, "{seen} flows are in the table");
    let moves = "bpftool map dump pinned /sys/fs/bpf/sdwan/v*/maps/flows -j | grep -o '\"moves\":[1-9]' | wc -l";
    let median = cut("210,000 flows", &mesh, &Cuts::silent(20));
    assert!(median <= MEDIAN, "{median:?}");
    let moved = mesh.gateway("a").namespace().shell(moves).expect("the moves are counted");
    let moved: u64 = moved.trim().parse().expect("a number");
    assert!((1..=10).contains(&moved), "{moved} flows were moved, and only one had a packet");
}

/// A stream of voice from a to b that has been flowing for a moment.
fn stream(mesh: &Mesh) -> (UdpSender, UdpReceiver) {
    let (a, b) = (host(mesh, "a"), host(mesh, "b"));
    let receiver = UdpReceiver::start(b, SocketAddr::new(b.v4(), PORT)).expect("the receiver starts");
    let sender = UdpSender::start(a, UdpSpec::new(receiver.local(), RATE)).expect("the sender starts");
    std::thread::sleep(Duration::from_millis(500));
    (sender, receiver)
}

#[test]
fn a_carrier_that_is_lost_is_acted_upon_without_waiting_for_probes() {
    needs_bed!();
    let mesh = mesh_on(two_sites(), &quick());
    let (sender, receiver) = stream(&mesh);
    let uplink = uplink_in_use(&mesh).expect("packets are counted");
    let start = Instant::now();
    mesh.bed().link("a", uplink).cut(Cut::Carrier).expect("the carrier is lost");
    mesh.gateway("a")
        .wait_for("the uplink is down", Duration::from_secs(5), |gateway| {
            let up = gateway.status()?.uplinks.iter().filter(|uplink| uplink.usable).count();
            Ok(if up == 1 { Ok(()) } else { Err(format!("{up} uplinks are usable")) })
        })
        .expect("the loss is seen");
    println!("carrier loss shown after {:?}", start.elapsed());
    std::thread::sleep(Duration::from_secs(1));
    mesh.bed().link("a", uplink).restore().expect("the carrier is back");
    mesh.wait_until_up(patience(Duration::from_secs(20))).expect("the paths come back");
    let sent = sender.stop().expect("the sender ends");
    let report = receiver.finish(&sent, Duration::from_secs(1)).expect("the receiver ends");
    println!("carrier loss: gap {:?}, {} packets lost", report.longest_loss(), report.lost);
    // Probes would take longer.
    assert!(report.longest_loss() < Duration::from_millis(140), "{:?}", report.longest_loss());
}

#[test]
fn a_daemon_that_does_not_get_to_run_for_a_while_leaves_no_path() {
    needs_bed!();
    let mesh = mesh_on(two_sites(), &quick());
    let (sender, receiver) = stream(&mesh);
    let before = mesh.gateway("a").status().expect("the status").stalls;
    let daemon = Pid::from_raw(mesh.gateway("a").pid().expect("the daemon runs") as i32);
    for pause in [120, 250, 400, 700, 1_200] {
        kill(daemon, Signal::SIGSTOP).expect("the daemon pauses");
        std::thread::sleep(Duration::from_millis(pause));
        kill(daemon, Signal::SIGCONT).expect("the daemon goes on");
        std::thread::sleep(Duration::from_millis(500));
    }
    let stalls = mesh.gateway("a").status().expect("the status").stalls - before;
    assert!(stalls >= 5, "{stalls} pauses were noticed");
    // Events reach the database within a second.
    std::thread::sleep(Duration::from_millis(1_500));
    let events = mesh.gateway("a").text(&["events", "--kind", "path-down,path-silent"]).expect("the events");
    assert_eq!(events, "no event\n");
    let sent = sender.stop().expect("the sender ends");
    let report = receiver.finish(&sent, Duration::from_secs(1)).expect("the receiver ends");
    assert_eq!(report.lost, 0, "{:?}", report.gaps);
}
