//! The data path outlives the daemon, and the traffic outlives the data path.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use aya::programs::tc::TcAttachType;
use aya::programs::{ProgramError, SchedClassifier};
use sdwan::dataplane::AttachMode;
use sdwan_tests::bed::{Cut, Namespace};
use sdwan_tests::mesh::{Mesh, MeshOptions};
use sdwan_tests::needs_bed;
use sdwan_tests::pace::{paced, patience};
use sdwan_tests::traffic::{UdpReceiver, UdpSender, UdpSpec};

use crate::{PATIENCE, host, mesh_on, stream, two_sites};

#[test]
fn traffic_flows_by_kernel_routes_when_the_programs_are_detached() {
    needs_bed!();
    let mesh = mesh_on(two_sites(), &MeshOptions::default());
    for site in ["a", "b"] {
        // Without the daemon, or it would attach them again.
        mesh.gateway(site).kill().expect("the daemon is killed");
        let namespace = mesh.gateway(site).namespace();
        let before = attached(namespace);
        assert!(before.contains("lan_ingress") && before.contains("tunnel_ingress"), "{site}: {before:?}");
        // A tcx link goes with its pin; a filter, where the kernel has no tcx, with what it hangs on.
        let filters = "for i in $(ls /sys/class/net); do tc qdisc delete dev $i clsact 2>/dev/null; done; true";
        namespace.shell(&format!("rm -r /sys/fs/bpf/sdwan; {filters}")).expect("the programs are detached");
        // The kernel lets go of a link a moment after its pin.
        let start = Instant::now();
        loop {
            let left = attached(namespace);
            if left.is_empty() {
                break;
            }
            assert!(start.elapsed() < PATIENCE, "{site}: {left:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    for (from, to) in [("a", "b"), ("b", "a")] {
        let report = stream(host(&mesh, from), host(&mesh, to), 9_000, 200.0, Duration::from_secs(2));
        assert_eq!(report.lost, 0, "{from} to {to}: {report:?}");
    }
}

/// Names of the programs on the interfaces of a namespace, by tcx links or by filters.
fn attached(namespace: &Namespace) -> BTreeSet<String> {
    let filters = "for i in $(ls /sys/class/net); do tc filter show dev $i ingress; tc filter show dev $i egress; done";
    let text = namespace.shell(filters).expect("the filters are listed");
    let known = ["lan_ingress", "tunnel_ingress", "uplink_egress"];
    let by_filter = known.into_iter().filter(|name| text.contains(name)).map(str::to_owned);
    let mut names: BTreeSet<String> = by_filter.collect();
    if AttachMode::of_this_kernel() == AttachMode::Tcx {
        names.extend(namespace.run(by_tcx).expect("the namespace is entered"));
    }
    names
}

fn by_tcx() -> BTreeSet<String> {
    let interfaces = nix::net::if_::if_nameindex().expect("the interfaces are listed");
    let mut names = BTreeSet::new();
    for interface in &interfaces {
        let interface = interface.name().to_str().expect("it is text");
        for direction in [TcAttachType::Ingress, TcAttachType::Egress] {
            match SchedClassifier::query_tcx(interface, direction) {
                Ok((_, programs)) => {
                    names.extend(programs.iter().filter_map(|program| program.name_as_str().map(str::to_owned)));
                }
                // Nothing was ever attached there, or it went meanwhile.
                Err(ProgramError::SyscallError(error)) if error.io_error.kind() == ErrorKind::NotFound => {}
                Err(error) => panic!("{interface}: {error}"),
            }
        }
    }
    names
}

#[test]
fn a_daemon_that_is_killed_or_stopped_and_started_again_costs_no_packet() {
    needs_bed!();
    let mesh = mesh_on(two_sites(), &MeshOptions::default());
    let (a, b) = (host(&mesh, "a"), host(&mesh, "b"));
    let receiver = UdpReceiver::start(b, SocketAddr::new(b.v4(), 16_400)).expect("the receiver starts");
    let sender = UdpSender::start(a, UdpSpec::new(receiver.local(), paced(1_000.0))).expect("the sender starts");
    std::thread::sleep(Duration::from_secs(1));
    mesh.gateway("a").kill().expect("the daemon is killed");
    std::thread::sleep(Duration::from_secs(2));
    mesh.gateway("a").start().expect("the daemon starts again");
    mesh.wait_until_up(patience(PATIENCE)).expect("all paths are up");
    std::thread::sleep(Duration::from_secs(1));
    mesh.gateway("a").stop().expect("the daemon ends by SIGTERM");
    mesh.gateway("a").start().expect("the daemon starts again");
    mesh.wait_until_up(patience(PATIENCE)).expect("all paths are up");
    std::thread::sleep(Duration::from_secs(1));
    let sent = sender.stop().expect("the sender ends");
    let report = receiver.finish(&sent, Duration::from_secs(1)).expect("the receiver ends");
    println!("kill -9, SIGTERM and restarts: {} of {} packets lost", report.lost, report.sent);
    assert_eq!(report.lost, 0, "{:?}", report.gaps);
    let passes = mesh.gateway("a").status().expect("status").passes;
    assert_eq!(passes["no_path_set"], 0, "no state without paths was ever published: {passes:?}");
    // Nothing was taken down and put back meanwhile.
    let log = std::fs::read_to_string(mesh.gateway("a").log()).expect("the log is read");
    let (_, restarted) = log.rsplit_once("started as site").expect("the daemon says that it started");
    let attached: Vec<&str> = restarted.lines().filter(|line| line.contains("programs attached")).collect();
    let whole = attached.iter().all(|line| ["lan0", "sdw0-0", "sdw1-1"].iter().all(|name| line.contains(name)));
    assert!(whole && !attached.is_empty(), "{attached:?}");
}

#[test]
fn a_cut_line_is_left_while_the_daemon_is_dead() {
    needs_bed!();
    let mesh = mesh_on(two_sites(), &MeshOptions::default());
    let (a, b) = (host(&mesh, "a"), host(&mesh, "b"));
    let receiver = UdpReceiver::start(b, SocketAddr::new(b.v4(), 16_400)).expect("the receiver starts");
    let sender = UdpSender::start(a, UdpSpec::new(receiver.local(), 500.0)).expect("the sender starts");
    std::thread::sleep(Duration::from_secs(1));
    mesh.gateway("a").kill().expect("the daemon is killed");
    // Its heartbeat has to become stale first: until then it counts as alive.
    std::thread::sleep(Duration::from_secs(2));
    let uplink = busier_uplink(&mesh);
    mesh.bed().link("a", uplink).cut(Cut::Silent).expect("the line is cut");
    std::thread::sleep(Duration::from_secs(2));
    let sent = sender.stop().expect("the sender ends");
    let report = receiver.finish(&sent, Duration::from_secs(1)).expect("the receiver ends");
    assert!(report.lost > 0, "the line that was cut carried nothing");
    println!("cut with the local daemon dead: gap {:?}, {} lost", report.longest_loss(), report.lost);
    assert!(report.longest_loss() < Duration::from_secs(1), "{:?}", report.longest_loss());
}

/// The uplink of site a that sends more packets. With nobody to ask, what leaves is what tells.
fn busier_uplink(mesh: &Mesh) -> &'static str {
    let namespace = mesh.gateway("a").namespace();
    let sent = || ["isp1", "isp2"].map(|uplink| namespace.statistic(uplink, "tx_packets").expect("it is counted"));
    let before = sent();
    std::thread::sleep(Duration::from_millis(300));
    let after = sent();
    if after[0] - before[0] > after[1] - before[1] { "isp1" } else { "isp2" }
}
