//! What happens to lines in their lives: they work one way only, are held by a captive portal, sit behind NATs that change
//! their minds, come late, go and come back.

use std::net::SocketAddr;
use std::thread::sleep;
use std::time::{Duration, Instant};

use sdwan::engine::path::PathState;
use sdwan::measure::clock::unix_ns;
use sdwan_tests::bed::{Bed, Cut, Impairment, Link, Provider};
use sdwan_tests::failover::{Cuts, PORT, QUICK_RETURN, cut_again_and_again, uplink_in_use};
use sdwan_tests::mesh::{Mesh, MeshOptions};
use sdwan_tests::needs_bed;
use sdwan_tests::pace::{paced, patience};
use sdwan_tests::traffic::{UdpReceiver, UdpSender, UdpSpec};

use crate::{PATIENCE, host, mesh_on, two_sites};

const RATE: f64 = 1_000.0;
/// First port outside a NAT, and from one mapping to the next.
const OUTSIDE: u16 = 21_000;
const REBOUND: u16 = 500;

fn quick() -> MeshOptions {
    MeshOptions { extra: QUICK_RETURN.into(), ..MeshOptions::default() }
}

/// Streams of voice both ways between sites a and b.
struct BothWays([(UdpSender, UdpReceiver); 2]);

impl BothWays {
    fn start(mesh: &Mesh, rate: f64) -> Self {
        let start = |from: &str, to: &str| {
            let to = host(mesh, to);
            let receiver = UdpReceiver::start(to, SocketAddr::new(to.v4(), PORT)).expect("the receiver starts");
            let spec = UdpSpec::new(receiver.local(), paced(rate));
            (UdpSender::start(host(mesh, from), spec).expect("the sender starts"), receiver)
        };
        Self([start("a", "b"), start("b", "a")])
    }

    /// The longest gap so far of either, of those that began after `since_ns`; packets on their way count as lost.
    fn longest(&self, since_ns: u64) -> Duration {
        let reports = self.0.iter().map(|(sender, receiver)| receiver.snapshot(&sender.sent()));
        reports.map(|report| report.longest_loss_since(since_ns)).max().unwrap_or_default()
    }

    /// Whether packets arrive at both ends.
    fn flow(&self) -> bool {
        let before = self.0.each_ref().map(|(_, receiver)| receiver.received());
        sleep(patience(Duration::from_millis(300)));
        self.0.iter().zip(before).all(|((_, receiver), before)| receiver.received() > before)
    }
}

/// Packets by an uplink of site a, both ways together, in a third of a second.
fn packets_by(mesh: &Mesh, uplink: &str) -> u64 {
    let namespace = mesh.gateway("a").namespace();
    let count = || -> u64 {
        let of = |counter| namespace.statistic(uplink, counter).expect("packets are counted");
        of("tx_packets") + of("rx_packets")
    };
    let before = count();
    sleep(Duration::from_millis(333));
    count() - before
}

fn wait_for_paths(mesh: &Mesh, sites: &[&str]) {
    for site in sites {
        let expected = mesh.expected_paths(site);
        mesh.gateway(site)
            .wait_for("the paths are back", patience(PATIENCE), |gateway| {
                let up = gateway.paths()?.iter().filter(|path| path.state == PathState::Up).count();
                Ok(if up == expected { Ok(()) } else { Err(format!("{up} of {expected}")) })
            })
            .expect("they come back");
    }
}

/// Cuts the line that site a sends by, so that it works one way only or for everything but tunnels.
fn left_in_time(mesh: &Mesh, streams: &BothWays, cut: Cut, alive: &[&str]) {
    let uplink = uplink_in_use(mesh).expect("packets are counted");
    let link = mesh.bed().link("a", uplink);
    let start = unix_ns();
    link.cut(cut).expect("the line is cut");
    sleep(patience(Duration::from_millis(1_000)));
    let longest = streams.longest(start);
    let left = packets_by(mesh, uplink);
    println!(
        "{cut:?}, alive {alive:?}: longest gap {longest:?}, {left} packets more on the line in a third of a second"
    );
    if cut == Cut::Portal {
        // The line itself works, and answers.
        let gateway = link.attachments()[0].gateway.to_string();
        let ping = ["-c", "1", "-W", "2", "-I", uplink, &gateway];
        mesh.gateway("a").namespace().output("ping", &ping).expect("the portal answers");
    }
    assert!(streams.flow(), "{cut:?}, alive {alive:?}: traffic has stopped");
    assert!(longest < Duration::from_millis(700), "{cut:?}, alive {alive:?}: {longest:?}");
    // Of two paths 20 probes a second each and their answers, both ways, are some 50; a stream alone would be 333.
    assert!(left < (paced(RATE) / 3.0 * 0.5) as u64, "{cut:?}, alive {alive:?}: {left} packets still take the line");
    link.restore().expect("the line is mended");
    wait_for_paths(mesh, alive);
    sleep(patience(Duration::from_millis(500)));
}

#[test]
fn lines_that_work_one_way_only_or_for_everything_but_tunnels_are_left_with_and_without_the_daemon() {
    needs_bed!();
    let mesh = mesh_on(two_sites(), &quick());
    let streams = BothWays::start(&mesh, RATE);
    sleep(Duration::from_secs(2));
    let cuts = [Cut::SilentUp, Cut::SilentDown, Cut::Portal];
    for cut in cuts {
        left_in_time(&mesh, &streams, cut, &["a", "b"]);
    }
    for (dead, alive) in [("a", "b"), ("b", "a")] {
        mesh.gateway(dead).kill().expect("the daemon is killed");
        // Its heartbeat has to become stale first.
        sleep(Duration::from_secs(1));
        for cut in cuts {
            left_in_time(&mesh, &streams, cut, &[alive]);
        }
        mesh.gateway(dead).start().expect("the daemon starts");
        mesh.wait_until_up(patience(PATIENCE)).expect("all paths are up");
    }
}

#[test]
fn a_lost_carrier_is_told_to_the_far_end_which_does_not_wait_for_probes_either() {
    needs_bed!();
    let mesh = mesh_on(two_sites(), &quick());
    let cuts = Cuts { cut: Cut::Carrier, sender: "b", ..Cuts::silent(8) };
    let gaps = cut_again_and_again(&mesh, &cuts).expect("each loss is survived");
    println!("the far end of a lost carrier: {}", gaps.summary());
    // By probes alone it takes 100 ms at least.
    assert!(gaps.median() < Duration::from_millis(80), "{}", gaps.summary());
    let events = mesh.gateway("b").text(&["events", "--kind", "path-down"]).expect("the events");
    assert!(events.contains("the peer says that its uplink is down"), "{events}");
}

/// Leaves the test where the machine can't map ports.
fn maps_ports(test: &str, link: &Link) -> bool {
    match link.can_map_ports().expect("the namespace is entered") {
        Ok(()) => true,
        Err(reason) => {
            eprintln!("skipped: {test}: {reason}");
            false
        }
    }
}

#[test]
fn a_nat_that_maps_a_site_anew_in_the_middle_of_a_flow_is_followed_by_its_peer() {
    needs_bed!();
    let bed = Bed::builder().sites(["a", "b"]).providers([("isp1", Provider::Bridge)]).build().expect("it is built");
    let test = "a_nat_that_maps_a_site_anew_in_the_middle_of_a_flow_is_followed_by_its_peer";
    if !maps_ports(test, bed.link("a", "isp1")) {
        return;
    }
    bed.link("a", "isp1").map_ports(OUTSIDE).expect("the NAT is there");
    let mesh = mesh_on(bed, &quick());
    let streams = BothWays::start(&mesh, 500.0);
    sleep(Duration::from_secs(1));
    assert!(streams.flow(), "the site dials out, and both ways are open");
    for number in 1..=3 {
        let start = unix_ns();
        mesh.bed().link("a", "isp1").map_ports(OUTSIDE + number * REBOUND).expect("it is mapped anew");
        sleep(patience(Duration::from_secs(1)));
        let longest = streams.longest(start);
        println!("rebinding {number}: longest gap {longest:?}");
        assert!(streams.flow(), "rebinding {number}: traffic has stopped");
        assert!(longest < Duration::from_millis(700), "rebinding {number}: {longest:?}");
    }
    let events = mesh.gateway("a").text(&["events", "--kind", "path-down"]).expect("the events");
    assert_eq!(events, "no event\n", "the only path never went down");
}

#[test]
fn between_two_lines_behind_nats_is_no_path_and_the_others_carry_the_traffic() {
    needs_bed!();
    let bed = two_sites();
    let test = "between_two_lines_behind_nats_is_no_path_and_the_others_carry_the_traffic";
    if !maps_ports(test, bed.link("a", "isp1")) {
        return;
    }
    for site in ["a", "b"] {
        bed.link(site, "isp1").map_ports(OUTSIDE).expect("the NAT is there");
    }
    let mesh = Mesh::prepare(bed, &quick()).expect("the mesh is prepared");
    mesh.start_daemons().expect("the daemons start");
    for gateway in mesh.gateways() {
        gateway
            .wait_for("three paths are up", patience(PATIENCE), |gateway| {
                let paths = gateway.paths()?;
                let up = paths.iter().filter(|path| path.state == PathState::Up).count();
                Ok(if up == 3 { Ok(()) } else { Err(format!("{up} are up")) })
            })
            .expect("what one end can dial comes up");
    }
    let streams = BothWays::start(&mesh, 200.0);
    sleep(Duration::from_secs(2));
    assert!(streams.flow());
    // A packet may be lost while the first of the three paths settle.
    assert!(streams.longest(0) < Duration::from_millis(100), "{:?}", streams.longest(0));
    for gateway in mesh.gateways() {
        let paths = gateway.paths().expect("the paths");
        let between = paths.iter().find(|path| path.tunnel.code() == 0).expect("it is listed");
        assert_eq!(between.state, PathState::Starting, "nobody can dial: {between:?}");
        // It is nobody's fault, and nothing to be woken up for.
        let status = gateway.status().expect("the status");
        assert!(status.problems.is_empty(), "{:?}", status.problems);
    }
}

#[test]
fn an_uplink_that_is_plugged_in_later_pulled_out_and_plugged_in_again_is_used_each_time() {
    needs_bed!();
    // The other line is the longer one, so that voice takes this one whenever it is there.
    let longer = Impairment::delay(Duration::from_millis(30));
    let bed = Bed::builder().sites(["a", "b"]).impair("a", "isp2", longer).build().expect("the bed is built");
    bed.link("a", "isp1").delete_interface().expect("it isn't there yet");
    let extra = format!("{QUICK_RETURN}switch_hold = \"500ms\"\n");
    let mesh = Mesh::prepare(bed, &MeshOptions { extra, ..MeshOptions::default() }).expect("the mesh is prepared");
    mesh.start_daemons().expect("the daemons start");
    let up_at = |expected: usize, what: &str| {
        let wait = mesh.gateway("a").wait_for(what, patience(PATIENCE), |gateway| {
            let up = gateway.paths()?.iter().filter(|path| path.state == PathState::Up).count();
            Ok(if up == expected { Ok(()) } else { Err(format!("{up} paths are up")) })
        });
        wait.unwrap_or_else(|error| panic!("{what}: {error}"));
    };
    up_at(2, "the paths of the one uplink that is there are up");
    let missing = mesh.gateway("a").status().expect("the status");
    assert!(missing.problems.iter().any(|problem| problem.contains("isp1")), "{:?}", missing.problems);
    let streams = BothWays::start(&mesh, 500.0);
    sleep(Duration::from_secs(1));
    for round in 1..=2 {
        mesh.bed().link("a", "isp1").recreate_interface().expect("it is plugged in");
        up_at(4, "all paths are up");
        mesh.wait_until_up(patience(PATIENCE)).expect("at both ends");
        let used = Instant::now();
        while uplink_in_use(&mesh).expect("packets are counted") != "isp1" {
            assert!(used.elapsed() < patience(PATIENCE), "round {round}: nobody uses it");
        }
        let start = unix_ns();
        mesh.bed().link("a", "isp1").delete_interface().expect("it is pulled out");
        up_at(2, "the paths of the other uplink are up");
        sleep(patience(Duration::from_secs(1)));
        let longest = streams.longest(start);
        println!("pulled out {round}: longest gap {longest:?}");
        assert!(streams.flow(), "round {round}: traffic has stopped");
        assert!(longest < Duration::from_millis(700), "round {round}: {longest:?}");
    }
}
