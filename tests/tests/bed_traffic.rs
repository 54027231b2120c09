//! The traffic tools find what they are for, each through a router.

use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use sdwan_tests::bed::{Bed, Namespace, Provider};
use sdwan_tests::needs_bed;
use sdwan_tests::traffic::{
    Capture, Filter, HttpClient, HttpServer, TcpSink, TcpSource, TcpSpec, UdpReceiver, UdpSender, UdpSpec,
};

/// Two gateways at a routed provider.
fn bed() -> Bed {
    Bed::builder().sites(["a", "b"]).providers([("isp1", Provider::Routed)]).build().expect("bed")
}

fn address(bed: &Bed, site: &str, family: usize) -> SocketAddr {
    SocketAddr::new(bed.link(site, "isp1").attachments()[family].address.addr(), 0)
}

#[test]
fn streams_keep_their_marks_and_many_flows_are_accounted_one_by_one() {
    needs_bed!();
    let bed = bed();
    // (flows, source addresses): sockets of their own, and raw packets.
    for (flows, sources) in [(1, 1), (20, 1), (3_000, 1), (3_000, 4)] {
        for family in [0, 1] {
            let receiver = UdpReceiver::start(bed.site("b"), address(&bed, "b", family)).expect("receiver");
            let packets = u64::from(flows) * 2;
            let spec = UdpSpec {
                flows,
                sources,
                source_port: 20_000,
                dscp: 46,
                dont_fragment: true,
                ..UdpSpec::new(receiver.local(), 20_000.0)
            };
            let sent = UdpSender::start(bed.site("a"), spec.packets(packets)).expect("sender").finish().expect("sent");
            let report = receiver.finish(&sent, Duration::from_millis(500)).expect("report");
            assert_eq!((report.sent, report.received, report.lost, report.foreign), (packets, packets, 0, 0));
            assert_eq!(report.dscp, [(46, packets)].into());
            assert_eq!(report.ttl, [(63, packets)].into(), "one router is between");
            assert_eq!(report.flows.len(), flows as usize);
            assert!(report.flows.iter().all(|flow| flow.received == 2));
        }
    }
}

#[test]
fn an_interruption_is_found_with_its_length_and_packets() {
    needs_bed!();
    let bed = bed();
    let receiver = UdpReceiver::start(bed.site("b"), address(&bed, "b", 0)).expect("receiver");
    let sender = UdpSender::start(bed.site("a"), UdpSpec::new(receiver.local(), 500.0)).expect("sender");
    std::thread::sleep(Duration::from_millis(300));
    let link = bed.link("a", "isp1");
    let cut = link.cut(sdwan_tests::bed::Cut::Silent).expect("cut");
    std::thread::sleep(Duration::from_millis(400));
    let length = link.restore().expect("restore") - cut;
    std::thread::sleep(Duration::from_millis(300));
    let sent = sender.stop().expect("sent");
    let report = receiver.finish(&sent, Duration::from_millis(500)).expect("report");
    assert_eq!(report.gaps.len(), 1, "{:?}", report.gaps);
    let gap = &report.gaps[0];
    assert!(gap.length.abs_diff(length) < Duration::from_millis(60), "{:?} instead of {length:?}", gap.length);
    assert_eq!(gap.lost_packets, report.lost);
    assert_eq!(gap.lost_sequences.end - gap.lost_sequences.start, report.lost);
    let expected = gap.length.as_secs_f64() * 500.0 - 1.0;
    assert!((report.lost as f64 - expected).abs() < 8.0, "{} instead of {expected}", report.lost);
}

#[test]
fn captures_count_what_passes_each_interface_by_filter() {
    needs_bed!();
    let bed = bed();
    for family in [0, 1] {
        let receiver = UdpReceiver::start(bed.site("b"), address(&bed, "b", family)).expect("receiver");
        let filters = [Filter::udp_to(receiver.local().port()), Filter::tcp_to(receiver.local().port())];
        let capture = Capture::start(bed.site("a"), &["isp1", "lan0"], &filters).expect("capture");
        let before = capture.counts(0);
        let spec = UdpSpec::new(receiver.local(), 2_000.0).packets(500);
        let sent = UdpSender::start(bed.site("a"), spec).expect("sender").finish().expect("sent");
        receiver.finish(&sent, Duration::from_millis(500)).expect("report");
        std::thread::sleep(Duration::from_millis(100));
        let counts = capture.counts(0);
        assert_eq!((counts["isp1"].sent, counts["isp1"].received, counts["lan0"].sent), (500, 0, 0));
        assert_eq!(capture.counts(1)["isp1"].sent, 0);
        assert_eq!(capture.busiest_since(0, &before).as_deref(), Some("isp1"));
    }
}

#[test]
fn bulk_transfers_tell_their_bytes_and_web_pages_their_times() {
    needs_bed!();
    let bed = bed();
    let sink = TcpSink::start(bed.site("b"), address(&bed, "b", 1)).expect("sink");
    let spec = TcpSpec { bytes: Some(5_000_000), ..TcpSpec::new(sink.local(), Duration::from_secs(20)) };
    let report = TcpSource::start(bed.site("a"), spec).expect("source").finish().expect("report");
    assert_eq!((report.acknowledged, report.error), (5_000_000, None));
    // Acknowledged is what the other kernel has; the sink reads it in its own time.
    let deadline = Instant::now() + Duration::from_secs(10);
    while sink.bytes() < 5_000_000 && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(sink.bytes(), 5_000_000);
    assert_eq!(sink.intervals().iter().sum::<u64>(), 5_000_000);
    assert_eq!(report.path_mtu, 1_500);
    let spec = TcpSpec { rate: Some(8_000_000), ..TcpSpec::new(sink.local(), Duration::from_secs(1)) };
    let report = TcpSource::start(bed.site("a"), spec).expect("source").finish().expect("report");
    assert!((200_000..1_300_000).contains(&report.acknowledged), "a megabyte a second: {report:?}");

    let server = HttpServer::start(bed.site("b"), address(&bed, "b", 0)).expect("server");
    let pause = Duration::from_millis(20);
    let client = HttpClient::start(bed.site("a"), server.local(), pause, Duration::from_secs(5)).expect("client");
    std::thread::sleep(Duration::from_secs(1));
    let report = client.stop();
    assert!(report.pages > 3 && report.failed == 0, "{report:?}");
    assert!(report.answered >= report.pages * 7 && report.bytes > report.pages * 200_000, "{report:?}");
    drop(server);
    let refused = address(&bed, "b", 0);
    let refused = SocketAddr::new(refused.ip(), 9);
    let client = HttpClient::start(bed.site("a"), refused, pause, Duration::from_secs(5)).expect("client");
    std::thread::sleep(Duration::from_millis(200));
    assert!(client.stop().failed > 0);
}

#[test]
fn the_tools_work_by_hand_inside_a_namespace() {
    needs_bed!();
    let bed = bed();
    let run = |namespace: &Namespace, arguments: &[&str]| -> Command {
        let mut command = namespace.command(env!("CARGO_BIN_EXE_sdwan-traffic"));
        command.args(arguments);
        command
    };
    let local = SocketAddr::new(address(&bed, "b", 0).ip(), 16_400).to_string();
    let mut receive = run(bed.site("b"), &["udp-receive", &local, "--seconds", "2"]);
    let receive = receive.stdout(std::process::Stdio::piped()).spawn().expect("it starts");
    std::thread::sleep(Duration::from_millis(500));
    let sent =
        run(bed.site("a"), &["udp-send", &local, "--pps", "100", "--seconds", "0.5"]).output().expect("it starts");
    let sent: serde_json::Value = serde_json::from_slice(&sent.stdout).expect("JSON");
    let report = receive.wait_with_output().expect("it ends");
    let report: serde_json::Value = serde_json::from_slice(&report.stdout).expect("JSON");
    assert_eq!((&sent["flows"][0], &report["received"], &report["lost"]), (&50.into(), &50.into(), &0.into()));
}
