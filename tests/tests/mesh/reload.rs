//! A reload takes the files anew, or refuses them, and costs no packet.

use std::net::SocketAddr;
use std::time::Duration;

use sdwan::api::views::{EventView, Listing};
use sdwan_tests::mesh::{Gateway, MeshOptions};
use sdwan_tests::needs_bed;
use sdwan_tests::traffic::{UdpReceiver, UdpSender, UdpSpec};

use crate::{PATIENCE, host, mesh_on, two_sites};

const POLICY: &str = "\n[[policy]]\nname = \"ledger\"\npriority = 50\n\n[[policy.match]]\nports = [7000]\n";

fn class_of_port_7000(gateway: &Gateway) -> String {
    let explained = gateway.explain("10.1.0.10:40000", "10.2.0.10:7000", "udp").expect("it is explained");
    explained.classification.class.expect("it has a class")
}

fn reload_events(gateway: &Gateway) -> Vec<String> {
    let events: Listing<EventView> = gateway.json(&["events", "--kind", "reload"]).expect("events are listed");
    events.items.into_iter().map(|event| event.event.message).collect()
}

#[test]
fn a_reload_applies_the_files_or_refuses_them_whole_and_costs_no_packet() {
    needs_bed!();
    let mesh = mesh_on(two_sites(), &MeshOptions::default());
    let (a, b) = (host(&mesh, "a"), host(&mesh, "b"));
    let gateway = mesh.gateway("a");
    let receiver = UdpReceiver::start(b, SocketAddr::new(b.v4(), 16_400)).expect("the receiver starts");
    let sender = UdpSender::start(a, UdpSpec::new(receiver.local(), 1_000.0)).expect("the sender starts");
    let before = gateway.status().expect("status");
    let good = std::fs::read_to_string(gateway.config()).expect("the configuration");

    std::fs::write(gateway.config(), format!("{good}\n[probe]\nintervall = \"20ms\"\n")).expect("written");
    let refused = gateway.text(&["reload"]).expect_err("an unknown key is refused").to_string();
    assert!(refused.contains("sdwan.toml") && refused.contains("intervall"), "{refused}");
    let moved = format!("{good}\n[dataplane]\nbpffs = \"/sys/fs/bpf/other\"\n");
    std::fs::write(gateway.config(), moved).expect("written");
    let daemon = before.pid;
    gateway.namespace().shell(&format!("kill -HUP {daemon}")).expect("SIGHUP is sent");
    gateway
        .wait_for("SIGHUP is refused", PATIENCE, |gateway| {
            let told =
                reload_events(gateway).iter().any(|message| message.contains("dataplane.bpffs can't be changed"));
            Ok(if told { Ok(()) } else { Err(format!("{:?}", reload_events(gateway))) })
        })
        .expect("the refusal is told");
    let same = gateway.status().expect("status");
    assert_eq!(same.started_unix_ms, before.started_unix_ms, "the daemon went on");
    assert_eq!(class_of_port_7000(gateway), "default");

    std::fs::write(gateway.config(), format!("{good}{POLICY}")).expect("written");
    let text = gateway.text(&["reload"]).expect("the file is good");
    assert!(text.contains("runs with its files as they are now"), "{text}");
    let after = gateway.status().expect("status");
    assert_eq!(after.pid, before.pid, "the process keeps its number");
    assert_ne!(after.started_unix_ms, before.started_unix_ms);
    assert_eq!(class_of_port_7000(gateway), "ledger");
    // Two at once: the second finds the new image before it listens, or is refused, or is obeyed as well.
    gateway.namespace().shell(&format!("kill -HUP {daemon}; sleep 0.15; kill -HUP {daemon}")).expect("SIGHUP");
    mesh.wait_until_up(PATIENCE).expect("all paths are up");
    assert_eq!(class_of_port_7000(gateway), "ledger");

    let sent = sender.stop().expect("the sender ends");
    let report = receiver.finish(&sent, Duration::from_secs(1)).expect("the receiver ends");
    println!("reloads under 1,000 packets/s: {} of {} lost", report.lost, report.sent);
    assert_eq!(report.lost, 0, "{:?}", report.gaps);
    assert_eq!(gateway.status().expect("status").passes["no_path_set"], 0, "every flow had its path all the while");
}

#[test]
fn a_tunnel_process_that_dies_after_a_reload_is_replaced_and_leaves_no_zombie() {
    needs_bed!();
    let mesh = mesh_on(two_sites(), &MeshOptions::default());
    let gateway = mesh.gateway("a");
    if gateway.status().expect("status").tunnel_backend != "userspace" {
        eprintln!(
            "skipped: a_tunnel_process_that_dies_after_a_reload_is_replaced_and_leaves_no_zombie: the kernel's WireGuard has no process"
        );
        return;
    }
    gateway.text(&["reload"]).expect("nothing has changed");
    mesh.wait_until_up(PATIENCE).expect("all paths are up");
    let daemon = gateway.pid().expect("it runs");
    let children = || {
        let text = std::fs::read_to_string(format!("/proc/{daemon}/task/{daemon}/children")).expect("children");
        text.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    let victim = children().first().expect("tunnels have processes").clone();
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(victim.parse().expect("a number")),
        nix::sys::signal::Signal::SIGKILL,
    )
    .expect("it is killed");
    gateway
        .wait_for("the killed process is gone from the daemon's children", PATIENCE, |_| {
            let gone = !std::path::Path::new(&format!("/proc/{victim}")).exists();
            Ok(if gone { Ok(()) } else { Err(format!("{:?}", children())) })
        })
        .expect("it was taken leave of");
    mesh.wait_until_up(PATIENCE).expect("all paths are up");
}
