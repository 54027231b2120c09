//! Real daemons measure through their tunnels.

use std::net::SocketAddr;
use std::time::Duration;

use sdwan::api::views::{CapacityRunView, PathView};
use sdwan::engine::capacity::How;
use sdwan::engine::capacity::search::Ended;
use sdwan_tests::bed::{Bed, Provider};
use sdwan_tests::mesh::{Gateway, Mesh, MeshOptions};
use sdwan_tests::needs_bed;
use sdwan_tests::pace::patience;
use sdwan_tests::traffic::{UdpReceiver, UdpSender, UdpSpec};

/// Wide, for machines that are noisy; the figures are printed.
const BOUND: f64 = 0.15;
const PATIENCE: Duration = Duration::from_secs(30);
/// Nothing is measured unasked while a test lasts.
const ON_DEMAND: &str = "[capacity]\ninterval = \"12h\"\n";

/// Two sites with one uplink each; `change` may change a site's configuration.
fn mesh(extra: &str, change: impl Fn(&str, String) -> String) -> Mesh {
    let bed =
        Bed::builder().sites(["a", "b"]).providers([("isp1", Provider::Bridge)]).build().expect("the bed is built");
    let mesh = Mesh::prepare(bed, &MeshOptions { extra: extra.into(), ..MeshOptions::default() }).expect("it is made");
    for gateway in mesh.gateways() {
        let text = std::fs::read_to_string(gateway.config()).expect("the configuration is read");
        std::fs::write(gateway.config(), change(gateway.name(), text)).expect("the configuration is written");
    }
    mesh.start_daemons().expect("the daemons start");
    mesh.wait_until_up(patience(PATIENCE)).expect("all paths come up");
    mesh
}

/// A token bucket at the provider, towards a site.
fn limit(mesh: &Mesh, site: &str, mbps: u64) {
    let port = mesh.bed().link(site, "isp1").port().to_owned();
    let queue = mbps * 1_000_000 / 8 / 10;
    let line = format!("qdisc replace dev {port} root tbf rate {mbps}mbit burst 16000 limit {queue}\n");
    mesh.bed().provider("isp1").tc(&line).expect("the line is limited");
}

/// A limit of Ethernet frames in outer IP packets of full size, bit/s.
fn truth(mbps: u64) -> f64 {
    mbps as f64 * 1e6 * 1_500.0 / 1_514.0
}

/// Asks for a measurement, again while the other end is still busy or resting.
fn measure(gateway: &Gateway, direction: &str) -> CapacityRunView {
    let mut last = String::new();
    for _ in 0..20 {
        match gateway.json(&["measure", "capacity", "b", direction]) {
            Ok(run) => return run,
            Err(error) => last = error.to_string(),
        }
        assert!(last.contains("try again"), "{last}");
        std::thread::sleep(Duration::from_secs(2));
    }
    panic!("it never could be measured: {last}");
}

fn judge(what: &str, run: &CapacityRunView, mbps: u64) -> f64 {
    let outcome = run.outcome.as_ref().expect("there is an outcome");
    let capacity = outcome.capacity_bps.expect("there is a capacity") as f64;
    let error = capacity / truth(mbps) - 1.0;
    let bytes = run.sent_bytes as f64 * 8.0 / (truth(mbps) * 60.0);
    println!(
        "{what}, {mbps} Mbit/s in a tunnel: {:.3} Mbit/s, error {:+.2} %, bytes {:.3} %, {outcome:?}",
        capacity / 1e6,
        error * 100.0,
        bytes * 100.0
    );
    assert_eq!(outcome.ended, Ended::Found, "{outcome:?}");
    assert!(error.abs() <= BOUND, "{outcome:?}");
    error
}

fn path(gateway: &Gateway) -> PathView {
    gateway.paths().expect("the paths are listed").remove(0)
}

#[test]
fn each_direction_of_a_path_is_measured_on_demand_and_shown_at_both_ends() {
    needs_bed!();
    let mesh = mesh(ON_DEMAND, |_, text| text);
    limit(&mesh, "b", 10);
    limit(&mesh, "a", 20);
    let a = mesh.gateway("a");
    let forward = measure(a, "--forward");
    judge("forward", &forward, 10);
    assert!((forward.sent_bytes as f64) < truth(10) / 8.0 * 60.0 * 0.01, "{forward:?}");
    judge("backward", &measure(a, "--backward"), 20);
    a.wait_for("both are shown", PATIENCE, |gateway| {
        let path = path(gateway);
        let both = path.capacity_how == Some(How::Measured) && path.capacity_backward_how == Some(How::Measured);
        Ok(if both { Ok(()) } else { Err(format!("{path:?}")) })
    })
    .expect("a knows both");
    let (here, there) = (path(a), path(mesh.gateway("b")));
    assert_eq!(here.capacity_bps, there.capacity_backward_bps, "b was told what a found");
    assert_eq!(here.capacity_backward_bps, there.capacity_bps, "a was told what b found");
}

#[test]
fn with_traffic_at_half_the_rate_the_whole_capacity_is_found_and_the_traffic_hardly_suffers() {
    needs_bed!();
    let mesh = mesh(ON_DEMAND, |_, text| text);
    limit(&mesh, "b", 10);
    let (from, to) = (mesh.bed().site("a").host(0), mesh.bed().site("b").host(0));
    let receiver = UdpReceiver::start(to, SocketAddr::new(to.v4(), 7_000)).expect("the receiver starts");
    let size = 1_000;
    let rate = 5e6 / 8.0 / (size as f64 + 74.0);
    let sender = UdpSender::start(from, UdpSpec { size, ..UdpSpec::new(receiver.local(), rate) }).expect("it starts");
    std::thread::sleep(Duration::from_secs(1));
    let run = measure(mesh.gateway("a"), "--forward");
    let sent = sender.stop().expect("the sender ends");
    let report = receiver.finish(&sent, Duration::from_secs(1)).expect("the receiver ends");
    judge("half used", &run, 10);
    println!("  the traffic lost {} of {}, latency {:?}", report.lost, report.sent, report.latency);
    assert!(report.loss() < 0.01, "{report:?}");
}

#[test]
fn a_metered_uplink_is_sent_no_trains() {
    needs_bed!();
    let metered = |site: &str, text: String| match site {
        "b" => text.replace("interface = \"isp1\"", "interface = \"isp1\"\nmetered = true"),
        _ => text,
    };
    // So often that something would be measured unasked while the test lasts.
    let mesh = mesh("[capacity]\ninterval = \"10s\"\n", metered);
    std::thread::sleep(Duration::from_secs(15));
    let refused = |site: &str, other: &str| {
        let error = mesh.gateway(site).text(&["measure", "capacity", other]).expect_err("it is refused");
        error.to_string()
    };
    let text = refused("a", "b");
    assert!(text.contains("the peer refuses") && text.contains("metered"), "{text}");
    let text = refused("b", "a");
    assert!(text.contains("--metered"), "{text}");
    let (a, b) = (path(mesh.gateway("a")), path(mesh.gateway("b")));
    assert!(a.capacity_how != Some(How::Measured) && b.capacity_how != Some(How::Measured), "{a:?}\n{b:?}");
    assert!(b.received_bytes < 20_000, "{b:?}");
}

#[test]
fn paths_are_measured_unasked_and_what_is_not_a_path_is_refused_clearly() {
    needs_bed!();
    let mesh = mesh("[capacity]\n", |_, text| text);
    limit(&mesh, "b", 10);
    limit(&mesh, "a", 10);
    for site in ["a", "b"] {
        mesh.gateway(site)
            .wait_for("both directions are measured", Duration::from_secs(180), |gateway| {
                let path = path(gateway);
                let both = [path.capacity_how, path.capacity_backward_how] == [Some(How::Measured); 2];
                Ok(if both { Ok(()) } else { Err(format!("{:?}", path.capacity_how)) })
            })
            .expect("it is measured");
        let found = path(mesh.gateway(site)).capacity_bps.expect("it is known") as f64;
        println!("{site}: {:.3} Mbit/s unasked, truth {:.3}", found / 1e6, truth(10) / 1e6);
        assert!((found / truth(10) - 1.0).abs() <= BOUND, "{found}");
    }
    let error = mesh.gateway("a").text(&["measure", "capacity", "nowhere"]).expect_err("there is no such path");
    assert!(error.to_string().contains("there is no path \"nowhere\""), "{error}");
}
