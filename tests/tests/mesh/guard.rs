//! XDP on real packets: floods of a tunnel's port, drop rules, restart and end.

use std::net::SocketAddr;
use std::time::Duration;

use sdwan_tests::bed::{Bed, Provider};
use sdwan_tests::flood::{Flood, GUARDED, Kind};
use sdwan_tests::mesh::{Gateway, MeshOptions};
use sdwan_tests::needs_bed;
use sdwan_tests::traffic::{UdpReceiver, UdpSender, UdpSpec};

use crate::{host, mesh_on, stream};

const RULES: &str = "\n[[drop]]\nname = \"syslog\"\nprotocols = [\"udp\"]\ndestination_ports = [5514]\nzones = [\"lan\"]\n\
                     \n[[drop]]\nname = \"nowhere\"\ndestinations = [\"10.250.0.0/16\", \"fd00:250::/48\"]\n";
/// Packets of a flood.
const FLOOD: u32 = 200_000;

fn drops(gateway: &Gateway, reason: &str) -> u64 {
    gateway.status().expect("the status is shown").drops.get(reason).copied().unwrap_or(0)
}

/// The kernel's numbers of the XDP links at a gateway: other links have others.
fn links(gateway: &Gateway) -> String {
    let line =
        "for pin in /sys/fs/bpf/sdwan/v*/links/*_xdp-*; do bpftool link show pinned $pin | head -1 | cut -d: -f1; done";
    gateway.namespace().shell(line).expect("the links are shown")
}

fn programs(gateway: &Gateway) -> usize {
    let shown = gateway.namespace().shell("ip link show | grep -c 'prog/xdp' || true").expect("the links are shown");
    shown.trim().parse().expect("a number")
}

#[test]
fn a_flood_costs_a_tunnel_nothing_rules_hold_and_both_survive_a_restart() {
    needs_bed!();
    let bed =
        Bed::builder().sites(["a", "b"]).providers([("isp1", Provider::Bridge)]).build().expect("the bed is built");
    let extra = format!("{GUARDED}{RULES}");
    let mesh = mesh_on(bed, &MeshOptions { extra, ..MeshOptions::default() });
    let (a, link) = (mesh.gateway("a"), mesh.bed().link("a", "isp1"));
    let status = a.status().expect("the status is shown");
    assert_eq!(status.xdp.len(), 2, "{:?}", status.xdp);
    assert!(status.xdp.values().all(|state| state == "native"), "{:?}", status.xdp);
    assert_eq!(programs(a), 2);

    // Numbered packets both ways, while the port of their tunnel is flooded from 65,536 sources.
    for kind in Kind::ALL {
        let site = mesh.bed().site("a").namespace();
        let arrived = || site.statistic(link.uplink(), "rx_packets").expect("the interface counts");
        let before = (drops(a, kind.counter()), arrived());
        let receiver = UdpReceiver::start(host(&mesh, "a"), SocketAddr::new(host(&mesh, "a").v4(), 7_000))
            .expect("the receiver starts");
        let spec = UdpSpec::new(receiver.local(), 500.0).during(Duration::from_secs(3));
        let sender = UdpSender::start(host(&mesh, "b"), spec).expect("the sender starts");
        let flood = Flood::of(link, mesh.bed().site("a").namespace(), 51_820, kind).expect("the generator loads");
        for _ in 0..20 {
            flood.send(FLOOD / 20).expect("the flood is sent");
            std::thread::sleep(Duration::from_millis(75));
        }
        let sent = sender.finish().expect("everything is sent");
        let report = receiver.finish(&sent, Duration::from_secs(1)).expect("the receiver ends");
        // A packet may find the virtual interface's ring, of 256 places, full of the flood: that is before the guard. Without
        // the guard, and even with one that let bursts through, more than a third was lost.
        assert!(report.lost <= report.sent / 100, "{kind:?}: {report:?}");
        // What the interface's ring has no room for is lost before.
        let (dropped, arrived) = (drops(a, kind.counter()) - before.0, arrived() - before.1);
        assert!(arrived > u64::from(FLOOD) / 4, "{kind:?}: {arrived} of {FLOOD} arrived");
        assert!(dropped > arrived / 10 * 9, "{kind:?}: {dropped} of {arrived} were dropped");
    }

    let (to, from) = (host(&mesh, "b"), host(&mesh, "a"));
    let through = stream(from, to, 5_515, 200.0, Duration::from_millis(500));
    assert_eq!((through.lost, through.received > 50), (0, true), "{through:?}");
    let ruled = stream(from, to, 5_514, 200.0, Duration::from_millis(500));
    assert_eq!(ruled.received, 0, "{ruled:?}");
    let hits = || a.status().expect("the status is shown").drop_rules["syslog"];
    let (before, pinned) = (hits(), links(a));
    assert!(before > 50, "{before}");
    assert_eq!(drops(a, "drop_rule"), before);

    // Without a daemon the rules hold, and the next one takes the links over with their counts.
    a.kill().expect("the daemon is killed");
    assert_eq!(stream(from, to, 5_514, 200.0, Duration::from_millis(300)).received, 0);
    a.start().expect("the daemon starts");
    mesh.wait_until_up(crate::PATIENCE).expect("all paths come up");
    assert_eq!(links(a), pinned, "the same links");
    assert!(hits() > before, "the counts go on");
    assert_eq!(stream(from, to, 5_514, 200.0, Duration::from_millis(300)).received, 0);
    assert_eq!(stream(to, from, 7_001, 200.0, Duration::from_millis(500)).lost, 0);

    a.text(&["down"]).expect("everything is removed");
    assert_eq!(programs(a), 0, "nothing of ours is left");
}
