//! Each application takes the path that its policy says, and stays there.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use sdwan_tests::bed::{Bed, Impairment};
use sdwan_tests::mesh::{MeshOptions, UplinkRate};
use sdwan_tests::needs_bed;
use sdwan_tests::pace::{is_slow, paced, patience};
use sdwan_tests::traffic::{Capture, Filter, TcpSink, TcpSource, TcpSpec, UdpReceiver, UdpSender, UdpSpec};

use crate::{host, mesh_on, two_sites};

const TUNNELS: [&str; 4] = ["sdw0-0", "sdw0-1", "sdw1-0", "sdw1-1"];

#[test]
fn voice_gaming_bulk_and_the_rest_take_the_paths_that_their_policies_say() {
    needs_bed!();
    let mut builder = Bed::builder().sites(["a", "b"]);
    for site in ["a", "b"] {
        builder = builder.impair(site, "isp1", Impairment::delay(Duration::from_millis(3))).impair(
            site,
            "isp2",
            Impairment::delay(Duration::from_millis(25)),
        );
    }
    let rates = vec![UplinkRate::mbps("isp1", 5.0, 5.0), UplinkRate::mbps("isp2", 200.0, 200.0)];
    let options = MeshOptions { rates, ..MeshOptions::default() };
    let mesh = mesh_on(builder.build().expect("the bed is built"), &options);
    // The classes settle on the first path that is up and move when another proves better for the hold time.
    let settled = |path: &str| {
        let explain = |port: u16, protocol: &str| {
            let (from, to) = (host(&mesh, "a").v4(), host(&mesh, "b").v4());
            mesh.gateway("a").explain(&format!("{from}:40000"), &format!("{to}:{port}"), protocol)
        };
        let (port, protocol, tunnel) = match path {
            "voice" => (16_400, "udp", "0-0"),
            "gaming" => (27_015, "udp", "0-0"),
            "bulk" => (873, "tcp", "1-1"),
            other => panic!("no such class {other}"),
        };
        mesh.gateway("a")
            .wait_for(&format!("{path} takes {tunnel}"), patience(Duration::from_secs(20)), |_| {
                let view = explain(port, protocol)?;
                let chosen = view.chosen.map(|at| view.candidates[at].tunnel.to_string());
                Ok(if chosen.as_deref() == Some(tunnel) { Ok(()) } else { Err(format!("{chosen:?}")) })
            })
            .expect("the class settles");
    };
    ["voice", "gaming", "bulk"].into_iter().for_each(settled);

    let (a, b) = (host(&mesh, "a"), host(&mesh, "b"));
    let filters = [Filter::udp_to(16_400), Filter::udp_to(27_015), Filter::tcp_to(873), Filter::udp_to(9_999)];
    let capture = Capture::start(mesh.gateway("a").namespace(), &TUNNELS, &filters).expect("the capture starts");
    let sink = TcpSink::start(b, SocketAddr::new(b.v4(), 873)).expect("the sink starts");
    // As much as goes would leave the processors no time for the other streams: encrypting is work.
    let rate = Some(paced(20e6) as u64);
    let spec = TcpSpec { rate, ..TcpSpec::new(sink.local(), Duration::from_secs(3)) };
    let bulk = TcpSource::start(a, spec).expect("the source starts");
    let streams: Vec<_> = [16_400, 27_015, 9_999]
        .into_iter()
        .map(|port| {
            let receiver = UdpReceiver::start(b, SocketAddr::new(b.v4(), port)).expect("the receiver starts");
            let spec = UdpSpec::new(receiver.local(), 50.0).during(Duration::from_secs(3));
            (UdpSender::start(a, spec).expect("the sender starts"), receiver)
        })
        .collect();
    let classes: BTreeMap<String, String> = {
        std::thread::sleep(Duration::from_secs(1));
        let flows = mesh.gateway("a").flows(None).expect("the flows are listed");
        let of = |port: u16| flows.iter().find(|flow| flow.destination_port == port).expect("the flow is in the table");
        [16_400, 27_015, 873, 9_999].map(|port| (port.to_string(), of(port).class.clone())).into()
    };
    for (sender, receiver) in streams {
        let sent = sender.finish().expect("everything is sent");
        let report = receiver.finish(&sent, Duration::from_secs(1)).expect("the receiver ends");
        assert_eq!(report.lost, 0, "{report:?}");
    }
    bulk.finish().expect("the transfer ends");
    assert_eq!(classes["16400"], "voip-video");
    assert_eq!(classes["27015"], "gaming");
    assert_eq!(classes["873"], "bulk");
    assert_eq!(classes["9999"], "default");
    let used = |filter: usize| {
        let counts = capture.counts(filter);
        counts.into_iter().filter(|(_, count)| count.sent > 0).map(|(interface, _)| interface).collect::<Vec<_>>()
    };
    assert_eq!(used(0), ["sdw0-0"], "voice");
    assert_eq!(used(1), ["sdw0-0"], "gaming");
    assert_eq!(used(2), ["sdw1-1"], "bulk");
    // The class that has no preference may move while the bulk transfer fills a line.
    assert!(!used(3).is_empty(), "the rest");
}

#[test]
fn ten_thousand_flows_spread_by_weight() {
    needs_bed!();
    if is_slow() {
        eprintln!(
            "skipped: ten_thousand_flows_spread_by_weight: an emulated machine takes minutes to send so many packets"
        );
        return;
    }
    let policy = "[[policy]]\nname = \"spread\"\npriority = 50\nmode = \"balance\"\n\
                  match = [{ protocols = [\"udp\"], destination_ports = [7000] }]\n";
    let rates = vec![UplinkRate::mbps("isp1", 100.0, 100.0), UplinkRate::mbps("isp2", 50.0, 50.0)];
    let options = MeshOptions { rates, extra: policy.into(), ..MeshOptions::default() };
    let mesh = mesh_on(two_sites(), &options);
    let (a, b) = (host(&mesh, "a"), host(&mesh, "b"));
    let receiver = UdpReceiver::start(b, SocketAddr::new(b.v4(), 7_000)).expect("the receiver starts");
    let flows = 10_000;
    let weights = || {
        let view = mesh.gateway("a").explain(&format!("{}:60000", a.v4()), &format!("{}:7000", b.v4()), "udp");
        let mut candidates = view.expect("the flow is explained").candidates;
        candidates.sort_by_key(|candidate| candidate.tunnel);
        candidates
    };
    // Weights follow what is measured; a spread can be held against them only if they stood still meanwhile.
    let (candidates, first_port) = (0..5u16)
        .find_map(|round| {
            let first_port = 10_000 + round * 10_000;
            let before = weights();
            let spec = UdpSpec { source_port: first_port, flows, ..UdpSpec::new(receiver.local(), paced(5_000.0)) };
            let sender = UdpSender::start(a, spec.packets(flows.into())).expect("the sender starts");
            sender.finish().expect("it ends");
            let after = weights();
            let same = before.iter().zip(&after).all(|(one, other)| one.weight == other.weight);
            same.then_some((after, first_port))
        })
        .expect("the weights stand still for two seconds");
    let total: f64 = candidates.iter().map(|candidate| f64::from(candidate.weight)).sum();
    let listing: sdwan::api::views::Listing<sdwan::api::views::FlowView> =
        mesh.gateway("a").json(&["flows", "-n", "10000", "--class", "spread"]).expect("the flows are listed");
    let ports = first_port..first_port + flows as u16;
    let items: Vec<_> = listing.items.iter().filter(|flow| ports.contains(&flow.source_port)).collect();
    let seen = items.len() as f64;
    assert!(seen >= 2_000.0, "{seen} flows of the round are listed");
    for candidate in &candidates {
        let here = items.iter().filter(|flow| flow.path.tunnel == Some(candidate.tunnel)).count() as f64;
        let (share, expected) = (here / seen, f64::from(candidate.weight) / total);
        println!("path {}: weight {}, share {share:.4}, expected {expected:.4}", candidate.tunnel, candidate.weight);
        // Within 5 % of all flows, and no more than chance allows.
        let chance = 4.5 * (expected * (1.0 - expected) / seen).sqrt();
        assert!((share - expected).abs() <= chance.min(0.05), "{share} instead of {expected}");
    }
}
