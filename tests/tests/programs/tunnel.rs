//! `tunnel_ingress`.

use etherparse::TcpOptionElement::MaximumSegmentSize;
use sdwan_common::abi::*;
use sdwan_common::counters::PassReason;
use sdwan_common::stamp::{
    BASE_LENGTH, EXTENSION_TYPE, ErrorEstimate, Extension, PORT, ReflectorPacket, SenderPacket, Timestamp, Tlv, Tlvs,
    encode_probe, tlv_flag,
};

use crate::lan::sum_stats;
use crate::load::{Programs, now_ns, privileged};
use crate::mesh::*;
use crate::packets::{Spec, Transport, address, checksums_right};
use crate::run::{Context, OK, Outcome, REDIRECT, run};

const ETHERNET: usize = 14;
const SENDER_PORT: u16 = 50_000;

pub fn question() -> SenderPacket {
    SenderPacket {
        sequence: 0xdead_beef,
        timestamp: Timestamp { seconds: 1_700_000_123, nanoseconds: 999_999_999 },
        error_estimate: ErrorEstimate { synchronized: true, ptp: true, scale: 12, multiplier: 200 },
        session: 0x1234,
    }
}

fn probe(source: &str, destination: &str, payload: Vec<u8>) -> Spec {
    Spec::between(source, destination, Transport::Udp(SENDER_PORT, PORT)).with(|spec| {
        spec.ttl = 61;
        spec.payload = payload;
    })
}

fn receive(programs: &Programs, spec: &Spec) -> Outcome {
    run(programs.program("tunnel_ingress"), &spec.frame(), Context::default())
}

/// Sends a probe and takes the answer apart: its IP packet and its UDP payload.
fn answered(programs: &Programs, spec: &Spec) -> (Vec<u8>, Vec<u8>) {
    let outcome = receive(programs, spec);
    assert_eq!(outcome.verdict, REDIRECT, "answered");
    assert_eq!(outcome.data.len(), spec.frame().len(), "as long as the question");
    let packet = outcome.data[ETHERNET..].to_vec();
    assert!(checksums_right(&packet), "checksums");
    let udp = if spec.source.is_ipv4() { 20 } else { 40 };
    assert_eq!(packet[udp..][..2], PORT.to_be_bytes(), "from the reflector's port");
    assert_eq!(packet[udp + 2..][..2], SENDER_PORT.to_be_bytes(), "to the sender's port");
    let payload = packet[udp + 8..].to_vec();
    (packet, payload)
}

#[test]
fn a_probe_is_reflected_over_ipv4_and_ipv6() {
    if !privileged("a_probe_is_reflected_over_ipv4_and_ipv6") {
        return;
    }
    let mut programs = mesh();
    let said = Extension::new(peer_flag::HEARS as u8, 750_000_000);
    let bytes = encode_probe(&question(), said).to_vec();
    for (round, (theirs, ours)) in [(THEIR_OVERLAY, OWN_OVERLAY), ("fd0f::2", "fd0f::1")].into_iter().enumerate() {
        programs.change("config", 0, |config: &mut Config| config.overlay = address(ours));
        let spec = probe(theirs, ours, bytes.clone());
        let offset = programs.get::<Config>("config", 0).realtime_offset_ns;
        let before = now_ns() + offset;
        let (packet, payload) = answered(&programs, &spec);
        let after = now_ns() + offset;

        let turned = Spec::between(ours, theirs, Transport::Raw(17)).packet();
        let (addresses, ttl) = if round == 0 { (12..20, packet[8]) } else { (8..40, packet[7]) };
        assert_eq!(packet[addresses.clone()], turned[addresses], "addresses");
        assert_eq!(ttl, 255);
        let answer = ReflectorPacket::decode(&payload).expect("a whole answer");
        assert_eq!(answer.sequence, round as u32, "the reflector's own sequence");
        assert_eq!(answer.error_estimate, ErrorEstimate::OURS);
        assert_eq!(
            (answer.session, answer.sender_sequence, answer.sender_timestamp, answer.sender_error_estimate),
            (question().session, question().sequence, question().timestamp, question().error_estimate)
        );
        assert_eq!(answer.sender_ttl, 61);
        let (received, sent) = (answer.received.as_unix_ns(), answer.timestamp.as_unix_ns());
        assert!(before <= received && received <= sent && sent <= after, "{before} {received} {sent} {after}");
        assert_eq!(Extension::decode(&payload), Some(said), "our TLV comes back");
        assert_eq!(Tlvs::of(&payload).next().expect("a TLV").flags, 0, "and is recognised");

        let live: PathLive = programs.get("path_live", FIBRE);
        let stamped = live.last_peer_probe_ns + offset;
        assert_eq!((live.peer_flags, live.reflected, stamped), (peer_flag::HEARS, round as u32 + 1, received));
        assert_eq!(live.peer_detection_ns, 750_000_000, "how long the peer wants to be waited for");
        assert_eq!(programs.get::<SiteLive>("site_live", SITE).last_peer_probe_ns, live.last_peer_probe_ns);
    }
    assert_eq!(sum_stats(&mut programs, FIBRE).received_packets, 0, "probes are no user traffic");
}

#[test]
fn the_reflector_claims_a_synchronised_clock_only_while_a_daemon_says_so() {
    if !privileged("the_reflector_claims_a_synchronised_clock_only_while_a_daemon_says_so") {
        return;
    }
    let mut programs = mesh();
    let spec = probe(THEIR_OVERLAY, OWN_OVERLAY, question().encode().to_vec());
    let mut estimate = |scale: u8, alive: bool| {
        programs.change("config", 0, |config: &mut Config| {
            config.clock_scale = scale;
            config.heartbeat_ns = if alive { now_ns() } else { 0 };
            config.heartbeat_stale_ns = if alive { DETECTION_NS } else { 0 };
        });
        let (_, payload) = answered(&programs, &spec);
        ReflectorPacket::decode(&payload).expect("a whole answer").error_estimate
    };
    // 2^-8 s: 3.9 ms.
    let kept = ErrorEstimate { synchronized: true, ptp: true, scale: 24, multiplier: 1 };
    assert_eq!(estimate(24, true), kept);
    assert_eq!(estimate(0, true), ErrorEstimate::OURS, "nothing keeps the clock");
    assert_eq!(estimate(24, false), ErrorEstimate::OURS, "nobody looks at the clock any more");
}

#[test]
fn a_bare_probe_says_nothing_about_hearing_and_is_answered() {
    if !privileged("a_bare_probe_says_nothing_about_hearing_and_is_answered") {
        return;
    }
    let mut programs = mesh();
    programs.change("path_live", FIBRE, |live: &mut PathLive| {
        (live.peer_flags, live.peer_detection_ns) = (peer_flag::HEARS, 7);
    });
    let (_, payload) = answered(&programs, &probe(THEIR_OVERLAY, OWN_OVERLAY, question().encode().to_vec()));
    assert_eq!(payload.len(), BASE_LENGTH);
    let live: PathLive = programs.get("path_live", FIBRE);
    assert_eq!((live.peer_flags, live.peer_detection_ns), (0, 0));
}

#[test]
fn unknown_and_malformed_tlvs_are_flagged_at_any_alignment() {
    if !privileged("unknown_and_malformed_tlvs_are_flagged_at_any_alignment") {
        return;
    }
    let programs = mesh();
    let mut payload = encode_probe(&question(), Extension { flags: 0, ..Extension::default() }).to_vec();
    // An odd length puts the next one at an odd offset. None of them says "unrecognised" itself, as it should.
    for (kind, length) in [(1, 3), (9, 4), (10, 1)] {
        let mut out = [0; 16];
        let written = Tlv { flags: 0, kind, value: &vec![kind; length] }.encode(&mut out).expect("fits");
        payload.extend(&out[..written]);
    }
    payload.extend([0, 11, 0, 99, 1, 2]);
    let (_, answer) = answered(&programs, &probe(THEIR_OVERLAY, OWN_OVERLAY, payload.clone()));
    let mut tlvs = Tlvs::of(&answer);
    let flags: Vec<(u8, u8)> = tlvs.by_ref().map(|tlv| (tlv.kind, tlv.flags)).collect();
    let unknown = tlv_flag::UNRECOGNIZED;
    assert_eq!(flags, [(EXTENSION_TYPE, 0), (5, 0), (1, unknown), (9, unknown), (10, unknown)]);
    assert_eq!(tlvs.rest(), [unknown | tlv_flag::MALFORMED, 11, 0, 99, 1, 2]);
}

#[test]
fn an_ipv4_probe_without_udp_checksum_is_answered_without() {
    if !privileged("an_ipv4_probe_without_udp_checksum_is_answered_without") {
        return;
    }
    let programs = mesh();
    let spec = probe(THEIR_OVERLAY, OWN_OVERLAY, encode_probe(&question(), Extension::default()).to_vec());
    let mut frame = spec.frame();
    frame[ETHERNET + 26..][..2].fill(0);
    let outcome = run(programs.program("tunnel_ingress"), &frame, Context::default());
    assert_eq!(outcome.verdict, REDIRECT);
    assert_eq!(outcome.data[ETHERNET + 26..][..2], [0, 0]);
}

#[test]
fn what_is_no_proper_probe_goes_to_the_stack_untouched() {
    if !privileged("what_is_no_proper_probe_goes_to_the_stack_untouched") {
        return;
    }
    let mut programs = mesh();
    // Then nothing is forwarded, and the reasons below are the reflector's.
    programs.change("config", 0, |config: &mut Config| config.fast_path = fast_path::OFF);
    let bytes = encode_probe(&question(), Extension { flags: 1, ..Extension::default() }).to_vec();
    let proper = probe(THEIR_OVERLAY, OWN_OVERLAY, bytes.clone());
    let off = PassReason::FastPathOff;
    let cases = [
        ("43 bytes", proper.clone().with(|spec| spec.payload.truncate(43)), PassReason::Unparsed),
        ("IPv4 options", proper.clone().with(|spec| spec.options = vec![7, 4, 4, 0]), PassReason::Options),
        ("from a host of the LAN behind", probe("10.2.0.9", OWN_OVERLAY, bytes.clone()), off),
        ("for another address", probe(THEIR_OVERLAY, "10.1.0.5", bytes.clone()), off),
        ("from a stranger", probe("192.0.2.1", OWN_OVERLAY, bytes.clone()), PassReason::UnknownPath),
        ("from ourselves", probe(OWN_OVERLAY, OWN_OVERLAY, bytes.clone()), PassReason::UnknownPath),
        ("a fragment", proper.clone().with(|spec| (spec.df, spec.fragment) = (false, (0, true))), off),
        ("another port", Spec::between(THEIR_OVERLAY, OWN_OVERLAY, Transport::Udp(SENDER_PORT, 863)), off),
    ];
    for (description, spec, reason) in cases {
        let before = programs.passes(reason);
        let outcome = receive(&programs, &spec);
        assert_eq!(outcome, Outcome { verdict: OK, data: spec.frame(), mark: 0 }, "{description}");
        assert_eq!(programs.passes(reason), before + 1, "{description}: counter {}", reason.name());
    }
    let live: PathLive = programs.get("path_live", FIBRE);
    assert_eq!((live.last_peer_probe_ns, live.reflected), (0, 0), "none of them counts as a sign of life");
    assert_eq!(programs.drops(), 0);
}

#[test]
fn a_reply_is_stamped_and_left_to_the_sender_in_user_space() {
    if !privileged("a_reply_is_stamped_and_left_to_the_sender_in_user_space") {
        return;
    }
    let mut programs = mesh();
    let reply = |source: &str| {
        Spec::between(source, OWN_OVERLAY, Transport::Udp(PORT, SENDER_PORT))
            .with(|spec| spec.payload = vec![0; BASE_LENGTH])
    };
    programs.change("path_live", FIBRE, |live: &mut PathLive| live.last_reply_ns = 5);
    assert_eq!(receive(&programs, &reply("10.2.0.9")).verdict, OK);
    assert_eq!(programs.get::<PathLive>("path_live", FIBRE).last_reply_ns, 5, "a host can't pose as the reflector");

    let other: PathLive = programs.get("path_live", RADIO);
    let before = now_ns();
    let outcome = receive(&programs, &reply(THEIR_OVERLAY));
    assert_eq!(outcome, Outcome { verdict: OK, data: reply(THEIR_OVERLAY).frame(), mark: 0 });
    let stamped = programs.get::<PathLive>("path_live", FIBRE).last_reply_ns;
    assert!(before <= stamped && stamped <= now_ns());
    assert_eq!(programs.get::<PathLive>("path_live", RADIO), other, "no other path is stamped");
}

#[test]
fn user_packets_are_counted_and_their_syns_clamped_whatever_the_fast_path() {
    if !privileged("user_packets_are_counted_and_their_syns_clamped_whatever_the_fast_path") {
        return;
    }
    let mut programs = mesh();
    let syn =
        |mss| Spec::between("10.2.0.9", "10.1.0.5", Transport::Tcp(443, 40_000, Some(vec![MaximumSegmentSize(mss)])));
    for way in [fast_path::OFF, fast_path::TO_TUNNEL] {
        programs.change("config", 0, |config: &mut Config| config.fast_path = way);
        let outcome = receive(&programs, &syn(1460));
        assert_eq!(outcome, Outcome { verdict: OK, data: syn(FIBRE_MTU - 40).frame(), mark: 0 });
    }
    assert_eq!(programs.passes(PassReason::FastPathOff), 2);
    let stats = sum_stats(&mut programs, FIBRE);
    assert_eq!((stats.received_packets, stats.received_bytes), (2, 2 * syn(0).packet().len() as u64));
    assert_eq!((stats.sent_packets, sum_stats(&mut programs, RADIO).received_packets), (0, 0));
}

#[test]
fn only_ordinary_packets_for_this_sites_prefixes_take_the_short_way() {
    if !privileged("only_ordinary_packets_for_this_sites_prefixes_take_the_short_way") {
        return;
    }
    let mut programs = mesh();
    let udp = || Transport::Udp(443, 40_000);
    let ordinary = Spec::between("10.2.0.9", "10.1.0.5", udp());
    let cases = [
        ("TTL 1", ordinary.clone().with(|spec| spec.ttl = 1), PassReason::TtlExpired),
        ("options", ordinary.clone().with(|spec| spec.options = vec![7, 4, 4, 0]), PassReason::Options),
        ("multicast", Spec::between("10.2.0.9", "239.1.1.1", udp()), PassReason::Multicast),
        ("another site's prefix", Spec::between("10.2.0.9", "10.2.1.1", udp()), PassReason::NotLan),
        ("nobody's prefix", Spec::between("10.2.0.9", "192.0.2.1", udp()), PassReason::NoPrefix),
    ];
    for (description, spec, reason) in cases {
        let before = programs.passes(reason);
        let outcome = receive(&programs, &spec);
        assert_eq!(outcome, Outcome { verdict: OK, data: spec.frame(), mark: 0 }, "{description}");
        assert_eq!(programs.passes(reason), before + 1, "{description}: counter {}", reason.name());
    }
}
