//! What the programs cost: time per packet, and the verifier's work.

use std::os::fd::{AsFd, AsRawFd};

use aya::programs::SchedClassifier;
use sdwan_common::abi::{Config, LanFilter, TraceFilter, ZoneKey, fast_path, lan_filter_flag};
use sdwan_common::stamp::{Extension, PORT, encode_probe};
use sdwan_tests::datapath::raw;
use sdwan_tests::pace::paced;

use crate::load::{PROGRAMS, Programs, XDP_PROGRAMS, privileged};
use crate::mesh::{OWN_OVERLAY, THEIR_OVERLAY, mesh};
use crate::packets::{Spec, Transport};
use crate::run::{frame_time, time};
use crate::tunnel::question;

/// The kernel stops at a million.
const MOST_INSTRUCTIONS: u32 = 250_000;
const REPEAT: u32 = 1_000_000;
/// Runs of a packet that goes into the tunnel.
const RUNS: u32 = 4_000;
/// Packets of a run: each takes one off the TTL of the one before.
const ROUNDS: u32 = 250;
/// Flows that are opened.
const MISSES: u16 = 60_000;

#[test]
fn all_programs_are_far_from_the_verifiers_limit() {
    if !privileged("all_programs_are_far_from_the_verifiers_limit") {
        return;
    }
    let programs = Programs::load(0);
    let tc = PROGRAMS.map(|name| (name, programs.program(name).info().expect(name)));
    let xdp = XDP_PROGRAMS.map(|name| (name, programs.xdp(name).info().expect(name)));
    for (name, info) in tc.into_iter().chain(xdp) {
        let verified = info.verified_instruction_count().expect("Linux 5.16");
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("the kernel has a release");
        let bytes = info.size_translated().expect("loaded");
        println!("{name} on Linux {}: {verified} instructions verified, {bytes} bytes", release.trim());
        assert!(verified < MOST_INSTRUCTIONS, "{name}: {verified}");
    }
}

/// A test-run's time swings with the machine; only nonsense is refused. The figures are for people.
#[test]
fn a_hit_is_cheaper_than_a_miss() {
    if !privileged("a_hit_is_cheaper_than_a_miss") {
        return;
    }
    let mut programs = mesh();
    programs.change("config", 0, |config: &mut Config| config.flow_event_mask = u32::MAX);
    let udp = Spec::v4(Transport::Udp(1, 443));
    let yardstick = raw::empty().expect("the empty program can be loaded");
    let nothing = |_| yardstick.time(&udp.frame(), at_pace(REPEAT)).expect("the test-run takes the packet").as_nanos();
    let nothing = (0..5).map(nothing).min().expect("five");
    println!("empty program: {nothing} ns/packet");
    let lookup = raw::lookup_and_redirect(1, 262_144).expect("the program with one lookup can be loaded");
    let lookup = |_| lookup.time(&udp.frame(), at_pace(REPEAT)).expect("the test-run takes the packet").as_nanos();
    println!("one lookup and a redirect: {} ns/packet", (0..5).map(lookup).min().expect("five"));
    let mut hit = 0;
    for (name, spec) in [
        ("IPv4 UDP", udp.clone()),
        ("IPv4 TCP", Spec::v4(Transport::Tcp(1, 443, None))),
        ("IPv6 UDP", Spec::v6(Transport::Udp(1, 443))),
        ("IPv4 UDP with a DSCP to write", Spec::v4(Transport::Udp(1, 5060))),
    ] {
        let time = forwarded(programs.program("lan_ingress"), spec);
        println!("lan_ingress hit, {name}: {time} ns/packet");
        hit = if hit == 0 { time } else { hit };
    }
    // While somebody traces another flow.
    let other = TraceFilter { until_ns: u64::MAX, number: 1, per_second: 1_000, ..TraceFilter::default() };
    programs.set("trace", 0, other);
    programs.change("config", 0, |config: &mut Config| config.scope.traced = 1);
    println!(
        "lan_ingress hit, while another flow is traced: {} ns/packet",
        forwarded(programs.program("lan_ingress"), udp)
    );
    programs.change("config", 0, |config: &mut Config| config.scope.traced = 0);
    // Packets of one flow, and packets that open a flow each, both by way of another program.
    let fd = programs.program("lan_ingress").fd().expect("it is loaded").as_fd().as_raw_fd();
    let [known, unknown] = [false, true].map(|renumbered| {
        let (way, _map) = raw::goes_on_in(fd, renumbered).expect("the program can be loaded");
        median((0..MISSES / ROUNDS as u16).map(|run| {
            let spec = Spec::v4(Transport::Udp(run * ROUNDS as u16, 443)).with(|spec| spec.ttl = 255);
            way.time(&spec.frame(), ROUNDS).expect("the test-run takes the packet").as_nanos()
        }))
    });
    println!(
        "lan_ingress miss: {} ns/packet ({unknown} by way of another program, of a hit {known})",
        hit + unknown - known
    );
    assert!(nothing < hit && known < unknown);
}

/// As far as a test-run takes a packet: there is no LAN behind it to forward to.
#[test]
fn what_a_tunnels_programs_cost_is_told() {
    if !privileged("what_a_tunnels_programs_cost_is_told") {
        return;
    }
    let mut programs = mesh();
    programs.change("config", 0, |config: &mut Config| config.fast_path = fast_path::TO_TUNNEL);
    let back = |transport| Spec::between("10.2.0.9", "10.1.0.5", transport);
    for (program, name, spec) in [
        ("tunnel_ingress", "UDP", back(Transport::Udp(443, 1))),
        ("tunnel_ingress", "TCP", back(Transport::Tcp(443, 1, None))),
        ("tunnel_egress", "UDP from the stack", Spec::v4(Transport::Udp(1, 443))),
    ] {
        let best = (0..5).map(|_| time(programs.program(program), &spec.frame(), at_pace(REPEAT)).as_nanos()).min();
        println!("{program}, {name}: {} ns/packet", best.expect("five"));
    }
    let answer = Spec::between(THEIR_OVERLAY, OWN_OVERLAY, Transport::Udp(PORT, 50_000))
        .with(|spec| spec.payload = encode_probe(&question(), Extension::default()).to_vec());
    let best =
        (0..5).map(|_| time(programs.program("tunnel_ingress"), &answer.frame(), at_pace(100_000)).as_nanos()).min();
    println!("tunnel_ingress, an answer with counters: {} ns/packet", best.expect("five"));
}

/// What each frame of the LAN and of an uplink pays, and what a dropped one costs. For people.
#[test]
fn what_the_xdp_programs_cost_is_told() {
    if !privileged("what_the_xdp_programs_cost_is_told") {
        return;
    }
    let mut programs = crate::guard::guarded();
    let filter = LanFilter { flags: lan_filter_flag::MALFORMED, ..LanFilter::default() };
    let key = ZoneKey { ifindex: 1, vlan: 0 };
    programs.hash::<ZoneKey, LanFilter>("lan_filter").insert(key, filter, 0).expect("it fits");
    crate::guard::send(&programs, 51_830, "198.51.100.7", 1, crate::guard::message_of(1, 148, 0x11, 0));
    let inbound = |payload| crate::guard::from("198.51.100.7", 51_830, payload).frame();
    for (program, what, data) in [
        ("lan_xdp", "IPv4, passed", Spec::v4(Transport::Udp(1, 443)).frame()),
        ("lan_xdp", "IPv6, passed", Spec::v6(Transport::Udp(1, 443)).frame()),
        ("wan_xdp", "another port", crate::guard::from("198.51.100.7", 443, vec![0; 64]).frame()),
        ("wan_xdp", "data of a session", inbound(crate::guard::message_of(4, 64, 0x11, 0))),
        ("wan_xdp", "data of no session, dropped", inbound(crate::guard::message_of(4, 64, 0x12, 0))),
        ("wan_xdp", "an initiation, dropped", inbound(crate::guard::message_of(1, 148, 1, 0))),
        ("wan_xdp", "garbage, dropped", inbound(vec![0; 64])),
    ] {
        let times = (0..5).map(|_| frame_time(programs.xdp(program), &data, at_pace(200_000)).as_nanos());
        println!("{program}, {what}: {} ns/packet", times.min().expect("five"));
    }
    let out = Spec::between("192.0.2.1", "198.51.100.7", Transport::Udp(51_830, 1))
        .with(|spec| spec.payload = crate::guard::message_of(4, 64, 7, 7));
    let best = (0..5).map(|_| time(programs.program("uplink_egress"), &out.frame(), at_pace(200_000)).as_nanos()).min();
    println!("uplink_egress, data that leaves: {} ns/packet", best.expect("five"));
}

fn at_pace(number: u32) -> u32 {
    paced(f64::from(number)) as u32
}

/// Mean time of a packet that goes into the tunnel, ns. The test-run gives the packet that the program changed to the
/// next round, so the TTL bounds the rounds.
fn forwarded(program: &SchedClassifier, spec: Spec) -> u128 {
    let frame = spec.with(|spec| spec.ttl = 255).frame();
    let means: Vec<u128> = (0..at_pace(RUNS)).map(|_| time(program, &frame, ROUNDS).as_nanos()).collect();
    means.iter().sum::<u128>() / means.len() as u128
}

fn median(times: impl Iterator<Item = u128>) -> u128 {
    let mut times: Vec<u128> = times.collect();
    times.sort_unstable();
    times[times.len() / 2]
}
