//! The data path outlives the daemon, and the traffic outlives the data path.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use aya::programs::tc::TcAttachType;
use aya::programs::{ProgramError, SchedClassifier};
use sdwan::dataplane::AttachMode;
use sdwan_tests::bed::{Cut, Namespace};
use sdwan_tests::failover::{Cuts, PORT, QUICK_RETURN, cut_again_and_again, uplink_in_use};
use sdwan_tests::mesh::MeshOptions;
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
    let before = receiver.snapshot(&sender.sent()).lost;
    mesh.gateway("a").stop().expect("the daemon ends by SIGTERM");
    mesh.gateway("a").age_pins().expect("the pins become those of another ABI version");
    mesh.gateway("a").start().expect("the daemon starts again");
    mesh.wait_until_up(patience(PATIENCE)).expect("all paths are up");
    std::thread::sleep(Duration::from_secs(1));
    println!("before the upgrade {before} packets were lost");
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
fn a_cut_line_is_left_while_one_of_the_daemons_is_dead_and_the_last_state_stands_while_both_are() {
    needs_bed!();
    let mesh = mesh_on(two_sites(), &MeshOptions { extra: QUICK_RETURN.into(), ..MeshOptions::default() });
    // Its heartbeat has to become stale first: until then it counts as alive.
    let stale = Duration::from_secs(1);
    for (dead, alive) in [("b", "a"), ("a", "b")] {
        mesh.gateway(dead).kill().expect("the daemon is killed");
        std::thread::sleep(stale);
        let cuts = Cuts { alive: &[alive], ..Cuts::silent(2) };
        let gaps = cut_again_and_again(&mesh, &cuts).expect("each cut is survived");
        println!("the daemon of {dead} is dead: {}", gaps.summary());
        assert!(gaps.quantile(1.0) < Duration::from_secs(1), "{}", gaps.summary());
        if dead == "b" {
            mesh.gateway(dead).start().expect("the daemon starts again");
            mesh.wait_until_up(patience(PATIENCE)).expect("all paths are up");
        }
    }
    let receiver = UdpReceiver::start(host(&mesh, "b"), SocketAddr::new(host(&mesh, "b").v4(), PORT));
    let receiver = receiver.expect("the receiver starts");
    let sender = UdpSender::start(host(&mesh, "a"), UdpSpec::new(receiver.local(), 500.0)).expect("the sender starts");
    mesh.gateway("b").kill().expect("the daemon is killed");
    std::thread::sleep(stale);
    let uplink = uplink_in_use(&mesh).expect("packets are counted");
    // Nobody is there who could find it bad.
    let other = if uplink == "isp1" { "isp2" } else { "isp1" };
    mesh.bed().link("a", other).cut(Cut::Silent).expect("the line is cut");
    std::thread::sleep(2 * stale);
    assert_eq!(uplink_in_use(&mesh).expect("packets are counted"), uplink);
    let sent = sender.stop().expect("the sender ends");
    let report = receiver.finish(&sent, Duration::from_secs(1)).expect("the receiver ends");
    assert_eq!(report.lost, 0, "{:?}", report.gaps);
}
