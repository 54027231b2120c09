//! A live flow, followed from program to program.

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use sdwan::api::views::{TracedView, VerdictView};
use sdwan_tests::bed::Cut;
use sdwan_tests::mesh::{Gateway, MeshOptions};
use sdwan_tests::needs_bed;
use sdwan_tests::traffic::{UdpReceiver, UdpSender, UdpSpec};

use crate::{host, mesh_on, two_sites};

const PORT: u16 = 5060;

/// The `traced` byte of the data path's configuration.
fn traced(gateway: &Gateway) -> String {
    let dump = "bpftool map dump pinned /sys/fs/bpf/sdwan/v2/maps/config | grep traced";
    gateway.namespace().shell(dump).expect("the maps are readable").trim().to_owned()
}

#[test]
fn a_live_flow_is_followed_through_a_failover_and_costs_nothing_afterwards() {
    needs_bed!();
    let mesh = mesh_on(two_sites(), &MeshOptions::default());
    let (a, b) = (host(&mesh, "a"), host(&mesh, "b"));
    let receiver = UdpReceiver::start(b, SocketAddr::new(b.v4(), PORT)).expect("the receiver starts");
    let spec = UdpSpec::new(receiver.local(), 50.0);
    let sender = UdpSender::start(a, spec).expect("the sender starts");
    std::thread::sleep(Duration::from_millis(500));
    let flows = mesh.gateway("a").flows(Some("voip-video")).expect("the flows");
    let flow = flows.iter().find(|flow| flow.destination_port == PORT).expect("the stream is there");
    let ends = [format!("{}:{}", flow.source, flow.source_port), format!("{}:{PORT}", flow.destination)];
    let follow = |gateway: &Gateway, time: &str| {
        let mut command = gateway.command().expect("a command");
        command.args(["-o", "json", "trace", &ends[0], &ends[1], "udp", "--for", time]);
        command.stdout(Stdio::piped()).spawn().expect("sdwan starts")
    };
    let (near, far) = (follow(mesh.gateway("a"), "4s"), follow(mesh.gateway("b"), "4s"));
    std::thread::sleep(Duration::from_secs(1));
    assert!(traced(mesh.gateway("a")).contains('1'));
    let second = mesh.gateway("a").text(&["trace", &ends[0], &ends[1], "udp"]).expect_err("one at a time").to_string();
    assert!(second.contains("is going on, and there is one at a time"), "{second}");
    let uplink = flow.path.uplinks.split(' ').next().expect("a name").to_owned();
    mesh.bed().link("a", &uplink).cut(Cut::Silent).expect("the line is cut");
    let packets = |child: std::process::Child| -> Vec<TracedView> {
        let output = child.wait_with_output().expect("sdwan ends");
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stdout).expect("text");
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    };
    let (near, far) = (packets(near), packets(far));
    let sent = sender.stop().expect("the sender ends");
    receiver.finish(&sent, Duration::from_secs(1)).expect("the receiver ends");
    println!("{} packets at a, {} at b", near.len(), far.len());
    assert!((150..=230).contains(&near.len()), "50 packets a second for four seconds: {}", near.len());
    assert!(
        near.iter().all(|packet| packet.program == "lan_ingress"
            && packet.verdict == VerdictView::Forwarded
            && !packet.reverse)
    );
    assert!(
        near.iter().all(|packet| packet.class.as_deref() == Some("voip-video") && !packet.interface.is_empty()),
        "{:?}",
        near[0]
    );
    let moved: Vec<&TracedView> = near.iter().filter(|packet| packet.from_path.is_some()).collect();
    // Perhaps by way of the other path of the cut line, whose last answer came a moment later.
    assert!((1..=2).contains(&moved.len()), "{moved:?}");
    let left = moved[moved.len() - 1];
    assert!(left.from_path.as_ref().is_some_and(|path| path.uplinks.starts_with(&uplink)), "{moved:?}");
    assert!(!left.path.as_ref().expect("a path").uplinks.starts_with(&uplink), "{moved:?}");
    assert!(left.message.contains("; left b ") && left.message.contains("into b "), "{}", left.message);
    let known = near.iter().filter(|packet| packet.decision.as_deref() == Some("known")).count();
    assert!(known + 10 > near.len(), "{known} of {}", near.len());
    assert!(
        far.len() > 100 && far.iter().all(|packet| packet.program == "tunnel_ingress" && !packet.reverse),
        "{}",
        far.len()
    );
    assert!(far.iter().all(|packet| packet.path.as_ref().is_some_and(|path| path.site_name == "a")));
    assert!(traced(mesh.gateway("a")).contains('0'), "it is over");

    // Whoever is killed leaves no trace behind, in both senses.
    let mut child = follow(mesh.gateway("a"), "60s");
    std::thread::sleep(Duration::from_secs(1));
    assert!(traced(mesh.gateway("a")).contains('1'));
    child.kill().expect("it is killed");
    child.wait().expect("it ends");
    std::thread::sleep(Duration::from_secs(7));
    assert!(traced(mesh.gateway("a")).contains('0'), "nobody asks any more");
}
