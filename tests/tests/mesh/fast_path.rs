//! With less of the fast path, the same traffic takes the same paths, through the firewall's hooks.

use std::net::SocketAddr;
use std::time::Duration;

use sdwan_tests::bed::Host;
use sdwan_tests::mesh::{Gateway, Mesh, MeshOptions, UplinkRate};
use sdwan_tests::needs_bed;
use sdwan_tests::traffic::{Capture, Filter, UdpReceiver, UdpSender, UdpSpec};

use crate::{PATIENCE, host, two_sites};

/// A class that wants throughput: the second uplink's declared rate is the larger one.
const PORT: u16 = 873;
const POLICY: &str = "[[policy]]\nname = \"steady\"\npriority = 50\npreference = \"throughput\"\n\
                      match = [{ protocols = [\"udp\"], destination_ports = [873] }]\n";
const TUNNELS: [&str; 4] = ["sdw0-0", "sdw0-1", "sdw1-0", "sdw1-1"];
const PACKETS: u64 = 400;

fn class_packets(gateway: &Gateway) -> u64 {
    let policies: sdwan::api::views::Listing<sdwan::api::views::PolicyView> =
        gateway.json(&["policies", "list"]).expect("the policies are listed");
    let steady = policies.items.iter().find(|view| view.policy.name == "steady").expect("the policy applies");
    steady.packets.expect("its packets are counted")
}

fn path_packets(gateway: &Gateway) -> (u64, u64) {
    let paths = gateway.paths().expect("the paths are listed");
    let path = paths.iter().find(|path| path.interface == "sdw1-1").expect("the path exists");
    (path.sent_packets, path.received_packets)
}

/// Packets that the forward hook of netfilter saw, to [`PORT`].
fn hooked(gateway: &Gateway) -> u64 {
    let text = gateway.namespace().shell("nft -j list counters table inet seen | grep -o '\"packets\": [0-9]*'");
    let text = text.expect("the counter is read");
    text.trim().rsplit(' ').next().and_then(|count| count.parse().ok()).unwrap_or_else(|| panic!("{text:?}"))
}

/// Sends from one site to another by IPv4 and IPv6; returns how many packets the forward hooks at both ends saw.
fn carried(mesh: &Mesh, from: &str, to: &str) -> (u64, u64) {
    let [near, far] = [from, to].map(|site| mesh.gateway(site));
    near.wait_for("the class takes the fast line", PATIENCE, |gateway| {
        let (source, destination) = (host(mesh, from).v4(), host(mesh, to).v4());
        let view = gateway.explain(&format!("{source}:40000"), &format!("{destination}:{PORT}"), "udp")?;
        let chosen = view.chosen.map(|at| view.candidates[at].tunnel.to_string());
        Ok(if chosen.as_deref() == Some("1-1") { Ok(()) } else { Err(format!("{chosen:?}")) })
    })
    .expect("the class settles");
    let capture = Capture::start(near.namespace(), &TUNNELS, &[Filter::udp_to(PORT)]).expect("the capture starts");
    let before = (class_packets(near), path_packets(near).0, path_packets(far).1, hooked(near), hooked(far));
    for address in [Host::v4, Host::v6] {
        let local = SocketAddr::new(address(host(mesh, to)), PORT);
        let receiver = UdpReceiver::start(host(mesh, to), local).expect("the receiver starts");
        let spec = UdpSpec::new(local, 200.0).packets(PACKETS / 2);
        let sent = UdpSender::start(host(mesh, from), spec).expect("the sender starts").finish().expect("it ends");
        let report = receiver.finish(&sent, Duration::from_secs(2)).expect("the receiver ends");
        assert_eq!(report.lost, 0, "{from} to {local}: {report:?}");
        assert_eq!(report.ttl.keys().copied().collect::<Vec<_>>(), [62], "both gateways are hops");
    }
    let used = capture.counts(0);
    for (interface, count) in &used {
        let expected = if interface == "sdw1-1" { PACKETS } else { 0 };
        assert_eq!(count.sent, expected, "{from} to {to} by {interface}: {used:?}");
    }
    assert_eq!(class_packets(near) - before.0, PACKETS, "{from} counts the class");
    // What the gateways tell each other by this tunnel is sent and received like the hosts' packets.
    let (sent, received) = (path_packets(near).0 - before.1, path_packets(far).1 - before.2);
    assert!((PACKETS..PACKETS + 100).contains(&sent), "{from} counts {sent} packets on the path");
    assert!((PACKETS..PACKETS + 100).contains(&received), "{to} counts {received} packets on the path");
    (hooked(near) - before.3, hooked(far) - before.4)
}

#[test]
fn with_less_of_the_fast_path_traffic_is_carried_and_counted_and_takes_the_paths_of_its_policy() {
    needs_bed!();
    let rates = vec![UplinkRate::mbps("isp1", 5.0, 5.0), UplinkRate::mbps("isp2", 200.0, 200.0)];
    let extra = format!("[engine]\nswitch_hold = \"500ms\"\n{POLICY}");
    let mesh = Mesh::prepare(two_sites(), &MeshOptions { rates, extra, ..MeshOptions::default() }).expect("it is made");
    for (site, fast_path) in [("a", "off"), ("b", "to-tunnel")] {
        let gateway = mesh.gateway(site);
        let text = std::fs::read_to_string(gateway.config()).expect("the configuration is read");
        let text = format!("{text}\n[dataplane]\nfast_path = \"{fast_path}\"\n");
        std::fs::write(gateway.config(), text).expect("the configuration is written");
        let firewall = format!(
            "nft 'table inet seen {{ counter user {{ }}; chain forward {{ type filter hook forward priority 0; \
             udp dport {PORT} counter name user; }}; }}'"
        );
        gateway.namespace().shell(&firewall).expect("the firewall counts");
    }
    mesh.start_daemons().expect("the daemons start");
    mesh.wait_until_up(PATIENCE).expect("all paths come up");
    for (site, fast_path) in [("a", "off"), ("b", "to-tunnel")] {
        assert_eq!(mesh.gateway(site).status().expect("the status is shown").fast_path, fast_path);
    }
    // Off: both directions pass by the firewall. To-tunnel: only what comes out of a tunnel does.
    assert_eq!(carried(&mesh, "a", "b"), (PACKETS, PACKETS), "from off to to-tunnel");
    assert_eq!(carried(&mesh, "b", "a"), (0, PACKETS), "from to-tunnel to off");
}
