//! An uplink changes under a running mesh: the mesh follows by itself, and the other uplink doesn't notice.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use sdwan_tests::bed::{Attachment, Bed, Cut, Provider};
use sdwan_tests::mesh::{Discovery, Mesh, MeshOptions, UplinkRate};
use sdwan_tests::needs_bed;
use sdwan_tests::traffic::{Capture, Filter, Report, UdpReceiver, UdpSender, UdpSpec};

use crate::{PATIENCE, host, mesh_on};

/// The uplink that changes; it belongs to site a.
const CHANGING: &str = "isp1";
/// A class that wants throughput: it takes the other uplink, whose declared rate is the larger one.
const STEADY: u16 = 7_000;
/// A class that takes what is best.
const ROAMING: u16 = 16_400;
const RATE: f64 = 200.0;
/// Holds short enough for many changes in one test.
const EXTRA: &str = "[engine]\nhold_down = \"300ms\"\nhold_down_max = \"300ms\"\nswitch_hold = \"500ms\"\n\
                     [[policy]]\nname = \"steady\"\npriority = 50\npreference = \"throughput\"\n\
                     match = [{ protocols = [\"udp\"], destination_ports = [7000] }]\n";
/// What a tunnel's first port is for local uplink 0 and 1: its outer packets come from there.
const PORTS: [[u16; 2]; 2] = [[51_820, 51_821], [51_828, 51_829]];

/// A stream that lasts for the whole test.
struct Stream {
    name: &'static str,
    sender: UdpSender,
    receiver: UdpReceiver,
}

impl Stream {
    fn start(mesh: &Mesh, name: &'static str, from: &str, to: &str, port: u16) -> Self {
        let to = host(mesh, to);
        let receiver = UdpReceiver::start(to, SocketAddr::new(to.v4(), port)).expect("the receiver starts");
        let spec = UdpSpec::new(receiver.local(), RATE);
        Self { name, sender: UdpSender::start(host(mesh, from), spec).expect("the sender starts"), receiver }
    }

    fn finish(self) -> Report {
        let sent = self.sender.stop().expect("the sender ends");
        let report = self.receiver.finish(&sent, Duration::from_secs(1)).expect("the receiver ends");
        println!("{}: {} of {} lost, longest {:?}", self.name, report.lost, report.sent, report.longest_loss());
        report
    }
}

/// Counts what leaves site a by an uplink and belongs to the other one, or isn't in a tunnel.
struct Wrong {
    capture: Capture,
    /// Number of the first filter that no packet may match, and what the filters are.
    filters: Vec<(&'static str, Filter)>,
    own: usize,
}

impl Wrong {
    /// `uplink` is one by number; what belongs to the other one has these addresses.
    fn watch(mesh: &Mesh, uplink: usize, others: &[Attachment]) -> Self {
        let from = |port| Filter { protocol: Some(17), source_port: Some(port), ..Filter::default() };
        let mut filters: Vec<(&str, Filter)> = PORTS[uplink].iter().map(|port| ("own tunnel", from(*port))).collect();
        let own = filters.len();
        filters.extend(PORTS[1 - uplink].iter().map(|port| ("a tunnel of the other uplink", from(*port))));
        filters.extend([STEADY, ROAMING].map(|port| ("user traffic outside the tunnels", Filter::udp_to(port))));
        filters.extend(others.iter().map(|one| {
            let source = Some(one.address.addr());
            ("an address of the other uplink", Filter { protocol: Some(17), source, ..Filter::default() })
        }));
        let wanted: Vec<Filter> = filters.iter().map(|(_, filter)| *filter).collect();
        let interface = ["isp1", "isp2"][uplink];
        let namespace = mesh.gateway("a").namespace();
        let capture = Capture::start(namespace, &[interface], &wanted).expect("the capture starts");
        Self { capture, filters, own }
    }

    /// Asserts that nothing was wrong, and that the watch saw what was right.
    fn nothing(self, after: &str) {
        let counts: Vec<u64> = (0..self.filters.len())
            .map(|number| self.capture.counts(number).values().map(|count| count.sent).sum())
            .collect();
        assert!(counts[..self.own].iter().sum::<u64>() > 0, "after {after}: the watch sees nothing: {counts:?}");
        for ((what, filter), count) in self.filters.iter().zip(&counts).skip(self.own) {
            assert_eq!(*count, 0, "after {after}, {what} left by the wrong uplink: {filter:?}");
        }
    }
}

/// Whether rules and the table of an uplink of site a lead out by this interface, or nowhere while it is down.
fn routing(mesh: &Mesh, number: u32, interface: &str, gateways: Option<&[IpAddr]>) -> Result<(), String> {
    let shell = |line: String| mesh.gateway("a").namespace().shell(&line).map_err(|error| error.to_string());
    for family in ["-4", "-6"] {
        let rules = shell(format!("ip {family} rule"))?;
        let rule = format!("fwmark 0x{:x} lookup {}", 0x5d00_0100 + number, 20_000 + number);
        if rules.matches(&rule).count() != 1 {
            return Err(format!("no single rule {rule:?} in {rules}"));
        }
        let table = shell(format!("ip {family} route show table {}", 20_000 + number))?;
        let defaults: Vec<&str> = table.lines().filter(|line| line.starts_with("default via")).collect();
        let wanted: Vec<String> = gateways
            .unwrap_or_default()
            .iter()
            .filter(|gateway| gateway.is_ipv4() == (family == "-4"))
            .map(|gateway| format!("default via {gateway} dev {interface} "))
            .collect();
        let same = defaults.len() == wanted.len()
            && defaults.iter().zip(&wanted).all(|(line, wanted)| line.starts_with(wanted.as_str()));
        // IPv6 shows an unreachable route with the loopback interface.
        let known = [" dev lo ".to_owned(), format!(" dev {interface} ")];
        let elsewhere = |line: &str| line.contains(" dev ") && !known.iter().any(|known| line.contains(known));
        let elsewhere = table.lines().any(elsewhere);
        let ends = table.lines().any(|line| line.starts_with("unreachable default"));
        if !same || elsewhere || !ends {
            return Err(format!("wanted {wanted:?} in the table, which is:\n{table}"));
        }
    }
    Ok(())
}

/// Waits until routing at a, its uplink, and the endpoints at b are those of these attachments, and all paths are up.
fn follow(mesh: &Mesh, what: &str, attachments: &[Attachment]) {
    let start = Instant::now();
    let gateways: Vec<IpAddr> = attachments.iter().map(|one| one.gateway).collect();
    let addresses: Vec<IpAddr> = attachments.iter().map(|one| one.address.addr()).collect();
    mesh.gateway("a")
        .wait_for(&format!("a follows {what}"), PATIENCE, |gateway| {
            let status = gateway.status()?;
            let mut known = status.uplinks[0].addresses.clone();
            let mut wanted = addresses.clone();
            known.sort();
            wanted.sort();
            if known != wanted || !status.uplinks[0].usable {
                return Ok(Err(format!("{:?}", status.uplinks[0])));
            }
            Ok(routing(mesh, 0, CHANGING, Some(&gateways)))
        })
        .expect("the uplink's routing follows");
    mesh.gateway("b")
        .wait_for(&format!("b follows {what}"), PATIENCE, |gateway| {
            let paths = gateway.paths()?;
            let endpoints: Vec<String> = paths
                .iter()
                .filter(|path| path.tunnel.remote.get() == 0)
                .map(|path| path.endpoint.clone().unwrap_or_default())
                .collect();
            let right = |endpoint: &String| {
                let address = endpoint.parse::<SocketAddr>().map(|endpoint| endpoint.ip());
                address.is_ok_and(|address| addresses.contains(&address))
            };
            let all = endpoints.len() == 2 && endpoints.iter().all(right);
            Ok(if all { Ok(()) } else { Err(format!("{endpoints:?}")) })
        })
        .expect("the other end follows");
    mesh.wait_until_up(PATIENCE).unwrap_or_else(|error| panic!("all paths are up after {what}: {error}"));
    println!("{what}: all paths up after {:?}", start.elapsed());
}

/// Waits until the uplink is down at a and its table leads nowhere.
fn wait_until_down(mesh: &Mesh, what: &str) {
    mesh.gateway("a")
        .wait_for(&format!("a sees {what}"), PATIENCE, |gateway| {
            let status = gateway.status()?;
            match status.uplinks[0].usable {
                true => Ok(Err(format!("{:?}", status.uplinks[0]))),
                false => Ok(routing(mesh, 0, CHANGING, None)),
            }
        })
        .expect("the loss is seen");
}

#[test]
fn an_uplink_that_changes_is_followed_and_the_other_one_does_not_notice() {
    needs_bed!();
    // Routed, so that gateways matter.
    let bed = Bed::builder().sites(["a", "b"]).providers([("isp1", Provider::Routed), ("isp2", Provider::Routed)]);
    let rates = vec![UplinkRate::mbps("isp1", 5.0, 5.0), UplinkRate::mbps("isp2", 200.0, 200.0)];
    let options =
        MeshOptions { discovery: Discovery::Seed("b".into()), rates, extra: EXTRA.into(), ..MeshOptions::default() };
    let mesh = mesh_on(bed.build().expect("the bed is built"), &options);
    let link = mesh.bed().link("a", CHANGING);
    let steady_link = mesh.bed().link("a", "isp2").attachments();
    for site in ["a", "b"] {
        let gateway = mesh.gateway(site);
        gateway
            .wait_for("the steady class takes the other uplink", PATIENCE, |gateway| {
                let other = if site == "a" { "b" } else { "a" };
                let (from, to) = (host(&mesh, site).v4(), host(&mesh, other).v4());
                let view = gateway.explain(&format!("{from}:40000"), &format!("{to}:{STEADY}"), "udp")?;
                let chosen = view.chosen.map(|at| view.candidates[at].tunnel.to_string());
                Ok(if chosen.as_deref() == Some("1-1") { Ok(()) } else { Err(format!("{chosen:?}")) })
            })
            .expect("the class settles");
    }
    follow(&mesh, "the start", &link.attachments());
    let streams = [
        Stream::start(&mesh, "steady, a to b", "a", "b", STEADY),
        Stream::start(&mesh, "steady, b to a", "b", "a", STEADY),
        Stream::start(&mesh, "roaming, a to b", "a", "b", ROAMING),
        Stream::start(&mesh, "roaming, b to a", "b", "a", ROAMING),
    ];

    // Over all of the test; what leaves by the changing uplink is watched for each of its addresses.
    let on_steady = Wrong::watch(&mesh, 1, &link.attachments());
    let on_changing = || Wrong::watch(&mesh, 0, &steady_link);

    let watch = on_changing();
    let old = link.attachments();
    let new = link.change_address().expect("the address changes");
    follow(&mesh, "a change of address", &new);
    let settled = Wrong::watch(&mesh, 1, &new);
    std::thread::sleep(Duration::from_millis(300));
    watch.nothing("a change of address");
    // Nothing goes on leaving from the address that was.
    let stale: Vec<Filter> =
        old.iter().map(|one| Filter { source: Some(one.address.addr()), ..Filter::default() }).collect();
    let capture = Capture::start(mesh.gateway("a").namespace(), &["isp1", "isp2"], &stale).expect("the capture starts");
    std::thread::sleep(Duration::from_millis(500));
    for (number, filter) in stale.iter().enumerate() {
        let sent: u64 = capture.counts(number).values().map(|count| count.sent).sum();
        assert_eq!(sent, 0, "{filter:?} is gone");
    }
    drop(capture);

    let watch = on_changing();
    let new = link.change_gateway().expect("the gateway changes");
    follow(&mesh, "a change of gateway", &new);
    std::thread::sleep(Duration::from_millis(300));
    watch.nothing("a change of gateway");

    let watch = on_changing();
    link.cut(Cut::Carrier).expect("the carrier is lost");
    wait_until_down(&mesh, "the loss of carrier");
    std::thread::sleep(Duration::from_millis(500));
    link.restore().expect("the carrier is back");
    follow(&mesh, "a loss of carrier", &new);
    std::thread::sleep(Duration::from_millis(300));
    watch.nothing("a loss of carrier");

    link.delete_interface().expect("the interface is deleted");
    wait_until_down(&mesh, "the loss of the interface");
    std::thread::sleep(Duration::from_millis(500));
    link.recreate_interface().expect("the interface is recreated");
    let watch = on_changing();
    follow(&mesh, "a new interface", &new);
    std::thread::sleep(Duration::from_millis(300));
    watch.nothing("a new interface");

    on_steady.nothing("all changes");
    settled.nothing("all changes");
    routing(&mesh, 1, "isp2", Some(&steady_link.iter().map(|one| one.gateway).collect::<Vec<_>>()))
        .expect("the other uplink's routing is as ever");
    let [a_steady, b_steady, a_roaming, b_roaming] = streams.map(Stream::finish);
    for report in [a_steady, b_steady] {
        // None is expected; a machine under load may drop a few on its own.
        assert!(report.lost <= 10 && report.sent > 500, "the other uplink noticed: {report:?}");
    }
    for report in [a_roaming, b_roaming] {
        assert!(report.longest_loss() < Duration::from_secs(2), "{:?}", report.gaps);
        assert!(report.loss() < 0.3, "{report:?}");
    }
}
