//! Loss of the data: what counts, and the counters in probes and answers.

use etherparse::TcpOptionElement::MaximumSegmentSize;
use sdwan_common::abi::*;
use sdwan_common::stamp::direct::{DirectMeasurement, OFFSET, RECEIVED_OFFSET, received};
use sdwan_common::stamp::{BASE_LENGTH, EXTENSION_TYPE, Extension, PORT, PROBE_LENGTH, Tlvs, encode_probe, tlv_flag};

use crate::lan::sum_stats;
use crate::load::{Programs, privileged};
use crate::mesh::*;
use crate::packets::{Spec, Transport, address, checksums_right};
use crate::run::{Context, OK, REDIRECT, run};
use crate::tunnel::question;

const ETHERNET: usize = 14;
const TCP: Transport = Transport::Tcp(40_000, 443, None);

/// A probe of the other site, or an answer of it, with these counters.
fn stamp(own: &str, theirs: &str, ports: (u16, u16), counters: DirectMeasurement) -> Spec {
    let mut payload = encode_probe(&question(), Extension { flags: 1, ..Extension::default() });
    payload[OFFSET..].copy_from_slice(&counters.encode());
    Spec::between(theirs, own, Transport::Udp(ports.0, ports.1)).with(|spec| spec.payload = payload.to_vec())
}

fn payload_of(frame: &[u8]) -> &[u8] {
    &frame[frame.len() - PROBE_LENGTH..]
}

/// What has gone by the path, different on each CPU, and the sums modulo 2³².
fn counted(programs: &mut Programs) -> (u32, u32) {
    let stats = |cpu: usize| PathStats {
        sent_packets: u64::from(u32::MAX) + 3 + cpu as u64,
        received_packets: 1_000 * (cpu as u64 + 1),
        ..PathStats::default()
    };
    programs.set_per_cpu("path_stats", FIBRE, stats);
    let sum = sum_stats(programs, FIBRE);
    assert_ne!(sum.sent_packets as u32, 0);
    (sum.sent_packets as u32, sum.received_packets as u32)
}

#[test]
fn the_reflector_answers_with_its_counters_summed_over_all_cpus() {
    if !privileged("the_reflector_answers_with_its_counters_summed_over_all_cpus") {
        return;
    }
    let mut programs = mesh();
    let (sent, received) = counted(&mut programs);
    let asked = DirectMeasurement { sender_transmitted: 0x0102_0304, ..DirectMeasurement::default() };
    for (own, theirs) in [(OWN_OVERLAY, THEIR_OVERLAY), ("fd0f::1", "fd0f::2")] {
        programs.change("config", 0, |config: &mut Config| config.overlay = address(own));
        let spec = stamp(own, theirs, (50_000, PORT), asked);
        let outcome = run(programs.program("tunnel_ingress"), &spec.frame(), Context::default());
        assert_eq!(outcome.verdict, REDIRECT, "{theirs}");
        assert!(checksums_right(&outcome.data[ETHERNET..]), "{theirs}");
        let payload = payload_of(&outcome.data);
        let answer = DirectMeasurement { reflector_received: received, reflector_transmitted: sent, ..asked };
        assert_eq!(DirectMeasurement::answered(payload), Some(answer), "{theirs}");
        let flags: Vec<_> = Tlvs::of(payload).map(|tlv| (tlv.kind, tlv.flags)).collect();
        assert_eq!(flags, [(EXTENSION_TYPE, 0), (5, 0)]);
    }
}

#[test]
fn a_direct_measurement_elsewhere_or_of_another_length_comes_back_unrecognized() {
    if !privileged("a_direct_measurement_elsewhere_or_of_another_length_comes_back_unrecognized") {
        return;
    }
    let mut programs = mesh();
    counted(&mut programs);
    let good = encode_probe(&question(), Extension { flags: 1, ..Extension::default() }).to_vec();
    let filler = [&[0, 1, 0, 12][..], &[0; 12]].concat();
    let without_ours = [&good[..BASE_LENGTH], &good[OFFSET..], &filler].concat();
    let shorter = {
        let mut bytes = good.clone();
        bytes[OFFSET + 3] = 8;
        bytes
    };
    let unknown = tlv_flag::UNRECOGNIZED;
    for (description, payload, expected) in [
        ("without ours before it", without_ours, vec![(5, unknown)]),
        ("too short", shorter, vec![(EXTENSION_TYPE, 0), (5, unknown)]),
    ] {
        let spec = Spec::between(THEIR_OVERLAY, OWN_OVERLAY, Transport::Udp(50_000, PORT))
            .with(|spec| spec.payload = payload.clone());
        let outcome = run(programs.program("tunnel_ingress"), &spec.frame(), Context::default());
        assert_eq!(outcome.verdict, REDIRECT, "{description}");
        assert!(checksums_right(&outcome.data[ETHERNET..]), "{description}");
        let answer = &outcome.data[outcome.data.len() - payload.len()..];
        let flags: Vec<_> = Tlvs::of(answer).map(|tlv| (tlv.kind, tlv.flags)).take(expected.len()).collect();
        assert_eq!(flags, expected, "{description}");
        let value = OFFSET + 4..OFFSET + 12;
        assert_eq!(answer[value.clone()], payload[value], "{description}: no counter is written");
    }
}

#[test]
fn an_answer_that_comes_back_takes_the_number_of_packets_before_it_along() {
    if !privileged("an_answer_that_comes_back_takes_the_number_of_packets_before_it_along") {
        return;
    }
    let mut programs = mesh();
    let (_, got) = counted(&mut programs);
    let counters = DirectMeasurement { sender_transmitted: 1, reflector_received: 2, reflector_transmitted: 3 };
    for (own, theirs) in [(OWN_OVERLAY, THEIR_OVERLAY), ("fd0f::1", "fd0f::2")] {
        programs.change("config", 0, |config: &mut Config| config.overlay = address(own));
        let spec = stamp(own, theirs, (PORT, 50_000), counters);
        let outcome = run(programs.program("tunnel_ingress"), &spec.frame(), Context::default());
        assert_eq!(outcome.verdict, OK, "{theirs}");
        assert!(checksums_right(&outcome.data[ETHERNET..]), "{theirs}");
        assert_eq!(received(payload_of(&outcome.data)), Some(got), "{theirs}");
        let mut elsewhere = outcome.data.clone();
        let at = elsewhere.len() - PROBE_LENGTH + RECEIVED_OFFSET;
        elsewhere[at..at + 4].fill(0);
        let checksum = if spec.source.is_ipv4() { 40 } else { 60 };
        elsewhere[checksum..checksum + 2].copy_from_slice(&spec.frame()[checksum..checksum + 2]);
        assert_eq!(elsewhere, spec.frame(), "{theirs}: nothing else is changed");
    }
}

#[test]
fn what_the_stack_sends_into_a_tunnel_counts_if_the_other_end_will_count_it() {
    if !privileged("what_the_stack_sends_into_a_tunnel_counts_if_the_other_end_will_count_it") {
        return;
    }
    let mut programs = mesh();
    programs.change("config", 0, |config: &mut Config| config.fast_path = fast_path::OFF);
    let udp = || Transport::Udp(40_000, 443);
    let gossip = |ports: (u16, u16)| Spec::between(OWN_OVERLAY, THEIR_OVERLAY, Transport::Udp(ports.0, ports.1));
    let fragment = |at| Spec::v4(udp()).with(|spec| (spec.df, spec.fragment) = (false, at));
    let cases = [
        ("UDP", Spec::v4(udp()), 1),
        ("IPv6", Spec::v6(udp()), 1),
        ("a SYN", Spec::v4(Transport::Tcp(1, 2, Some(vec![MaximumSegmentSize(1_460)]))), 1),
        ("TTL 1", Spec::v4(udp()).with(|spec| spec.ttl = 1), 1),
        ("options", Spec::v4(udp()).with(|spec| spec.options = vec![7, 4, 4, 0]), 1),
        ("a protocol without ports", Spec::v4(Transport::Raw(47)), 1),
        ("a first fragment", fragment((0, true)), 1),
        ("a later fragment", fragment((9, false)), 1),
        ("gossip", gossip((51_819, 51_819)), 1),
        ("a host's packet to the reflector's port", Spec::v4(Transport::Udp(40_000, PORT)), 1),
        ("a probe", gossip((50_000, PORT)), 0),
        ("an answer", gossip((PORT, 50_000)), 0),
        ("a probe's fragment", gossip((50_000, PORT)).with(|spec| (spec.df, spec.fragment) = (false, (0, true))), 1),
        ("nobody's source", Spec::between("192.0.2.1", "10.2.0.9", udp()), 0),
        ("this site's destination", Spec::between("10.1.0.5", "10.1.0.9", udp()), 0),
        ("nobody's destination", Spec::between("10.1.0.5", "192.0.2.1", udp()), 0),
        ("multicast", Spec::between("10.1.0.5", "239.1.1.1", udp()), 0),
        ("headers cut short", Spec::v4(Transport::Raw(17)).with(|spec| spec.payload = vec![1, 2, 3]), 0),
    ];
    for (description, spec, packets) in cases {
        let before = sum_stats(&mut programs, FIBRE);
        let outcome = run(programs.program("tunnel_egress"), &spec.frame(), Context::default());
        assert_eq!((outcome.verdict as i32, outcome.mark), (-1, 0), "{description}: passes on");
        assert_eq!(outcome.data, spec.frame(), "{description}: untouched");
        let sent = sum_stats(&mut programs, FIBRE);
        let bytes = packets * spec.packet().len() as u64;
        let counted = (sent.sent_packets - before.sent_packets, sent.sent_bytes - before.sent_bytes);
        assert_eq!(counted, (packets, bytes), "{description}");

        // The other end: the same maps with the two sites' prefixes exchanged.
        let mut there = spec.clone();
        if let Some((source, destination)) = exchanged(&spec) {
            (there.source, there.destination) = (source, destination);
            run(programs.program("tunnel_ingress"), &there.frame(), Context::default());
            let received = sum_stats(&mut programs, FIBRE).received_packets - before.received_packets;
            assert_eq!(received, packets, "{description}: at the other end");
        }
    }
    assert_eq!(programs.drops(), 0);
}

/// The addresses of a packet as the other end's maps would have them; `None` where WireGuard lets none such through.
fn exchanged(spec: &Spec) -> Option<(std::net::IpAddr, std::net::IpAddr)> {
    let other = |address: &std::net::IpAddr| {
        let text = address.to_string();
        let pairs = [("10.1.", "10.2."), ("fd01:", "fd02:"), (OWN_OVERLAY, THEIR_OVERLAY), ("fd0f::1", "fd0f::2")];
        pairs.iter().find_map(|(ours, theirs)| {
            let turned = |from: &str, to: &str| text.strip_prefix(from).map(|rest| format!("{to}{rest}"));
            turned(ours, theirs).or_else(|| turned(theirs, ours))?.parse().ok()
        })
    };
    let local = spec.source.to_string().starts_with("10.1.") && spec.destination.to_string().starts_with("10.1.");
    if local { None } else { Some((other(&spec.source)?, other(&spec.destination)?)) }
}

#[test]
fn both_ends_count_the_segments_of_a_large_packet_even_when_nobody_numbered_them() {
    if !privileged("both_ends_count_the_segments_of_a_large_packet_even_when_nobody_numbered_them") {
        return;
    }
    for (gso_segs, gso_size, payload) in [(3, 1_000, 2_100), (0, 1_000, 2_100), (0, 1_050, 2_100), (0, 700, 2_101)] {
        let mut programs = mesh();
        let large = |spec: Spec| spec.with(|spec| spec.payload = vec![3; payload]).frame();
        let context = Context { gso_size, gso_segs };
        let expected = (payload as u64).div_ceil(u64::from(gso_size));
        let outcome = run(programs.program("lan_ingress"), &large(Spec::v4(TCP)), context);
        assert_eq!(outcome.verdict, REDIRECT);
        assert_eq!(sum_stats(&mut programs, FIBRE).sent_packets, expected, "{context:?}, sent by the fast path");
        run(programs.program("tunnel_egress"), &large(Spec::v6(TCP)), context);
        assert_eq!(sum_stats(&mut programs, FIBRE).sent_packets, 2 * expected, "{context:?}, sent by the stack");
        let back = Spec::between("10.2.0.9", "10.1.0.5", TCP);
        run(programs.program("tunnel_ingress"), &large(back), context);
        assert_eq!(sum_stats(&mut programs, FIBRE).received_packets, expected, "{context:?}, received");
    }
}
