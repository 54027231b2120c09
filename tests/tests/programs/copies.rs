//! Duplicate mode: what leaves by two paths, and which copy passes at the other end.

use sdwan_common::abi::*;
use sdwan_common::copies::{IPV4_FLAG, IPV6_MARK_LENGTH, LARGEST_BUNDLE, Mark, ROUND_NS};
use sdwan_common::counters::DropReason;

use crate::lan::sum_stats;
use crate::load::{Programs, ago, now_ns, privileged};
use crate::mesh::*;
use crate::packets::{Spec, Transport, sum};
use crate::run::{Context, OK, Outcome, REDIRECT, run};

const ETHERNET: usize = 14;
const DROP: u32 = 2;

/// The mesh with voice in duplicate mode; both paths lead to the loopback, so that copies have a place to go.
fn duplicating() -> Programs {
    let mut programs = mesh();
    programs.change("classes", u32::from(VOICE), |class: &mut Class| class.flags = class_flag::COPIES);
    for (path, uplink) in [(FIBRE, 0), (RADIO, 1)] {
        programs.change("paths", path, |path: &mut Path| {
            (path.ifindex, path.local_uplink, path.remote_uplink) = (LOOPBACK, uplink, uplink);
        });
    }
    programs.set("copy_numbers", SITE, CopyNumbers { next: 0x1234_fff0, ..CopyNumbers::default() });
    programs
}

fn voice() -> Transport {
    Transport::Udp(40_000, 5060)
}

fn stats(programs: &mut Programs) -> CopyStats {
    programs.per_cpu::<CopyStats>("copy_stats", u32::from(VOICE)).iter().fold(CopyStats::default(), |sum, stats| {
        CopyStats {
            packets: sum.packets + stats.packets,
            bytes: sum.bytes + stats.bytes,
            alone: sum.alone + stats.alone,
            unmarked: sum.unmarked + stats.unmarked,
        }
    })
}

fn send(programs: &Programs, spec: &Spec) -> Outcome {
    run(programs.program("lan_ingress"), &spec.frame(), Context::default())
}

fn receive(programs: &Programs, packet: &[u8]) -> Outcome {
    let ether_type = if packet[0] >> 4 == 4 { [8, 0] } else { [0x86, 0xdd] };
    let frame = [&[0; 12][..], &ether_type, packet].concat();
    run(programs.program("tunnel_ingress"), &frame, Context::default())
}

/// An IPv4 packet with this identification and mark.
fn marked_ipv4(packet: &[u8], identification: u16) -> Vec<u8> {
    let mut packet = packet.to_vec();
    packet[4..6].copy_from_slice(&identification.to_be_bytes());
    packet[6] |= (IPV4_FLAG >> 8) as u8;
    packet[10..12].fill(0);
    let sum = !sum(&[&packet[..20]]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet
}

/// An IPv6 packet with a mark.
fn marked_ipv6(packet: &[u8], mark: Mark) -> Vec<u8> {
    let mut head = packet[..40].to_vec();
    let length = u16::from_be_bytes([head[4], head[5]]) + IPV6_MARK_LENGTH as u16;
    head[4..6].copy_from_slice(&length.to_be_bytes());
    let next = std::mem::replace(&mut head[6], 60);
    [&head[..], &mark.to_bytes(next), &packet[40..]].concat()
}

fn hop(spec: &Spec) -> Vec<u8> {
    spec.clone().with(|spec| (spec.ttl, spec.tos) = (spec.ttl - 1, VOICE_DSCP << 2)).packet()
}

#[test]
fn a_packet_of_the_class_leaves_marked_by_two_paths() {
    if !privileged("a_packet_of_the_class_leaves_marked_by_two_paths") {
        return;
    }
    let mut programs = duplicating();
    let (v4, v6) = (Spec::v4(voice()), Spec::v6(voice()));
    let expected = [
        (v4.clone(), marked_ipv4(&hop(&v4), 0xfff0)),
        (v4.clone(), marked_ipv4(&hop(&v4), 0xfff1)),
        (v6.clone(), marked_ipv6(&hop(&v6), Mark::new(0x1234_fff2, false))),
    ];
    for (spec, packet) in expected {
        let outcome = send(&programs, &spec);
        assert_eq!(outcome.verdict, REDIRECT);
        assert_eq!(outcome.data[ETHERNET..], packet, "{spec:?}");
    }
    let bytes = (2 * v4.packet().len() + v6.packet().len() + IPV6_MARK_LENGTH) as u64;
    assert_eq!(stats(&mut programs), CopyStats { packets: 3, bytes, ..CopyStats::default() });
    for path in [RADIO, FIBRE] {
        let sent = sum_stats(&mut programs, path);
        assert_eq!((sent.sent_packets, sent.sent_bytes), (3, bytes), "path {path}");
    }
    // Another class goes as ever.
    let other = Spec::v4(Transport::Udp(40_000, 443));
    let outcome = send(&programs, &other);
    assert_eq!(outcome.data[ETHERNET..], other.with(|spec| spec.ttl -= 1).packet());
    assert_eq!(sum_stats(&mut programs, FIBRE).sent_packets, 4);
}

#[test]
fn a_fragment_keeps_its_identification() {
    if !privileged("a_fragment_keeps_its_identification") {
        return;
    }
    let programs = duplicating();
    let fragment = |offset, more| {
        Spec::v4(voice()).with(|spec| {
            (spec.df, spec.identification, spec.fragment) = (false, 77, (offset, more));
            spec.payload = vec![1; 800];
        })
    };
    for spec in [fragment(0, true), fragment(101, false)] {
        assert_eq!(send(&programs, &spec).data[ETHERNET..], marked_ipv4(&hop(&spec), 77));
    }
}

#[test]
fn without_a_second_way_a_packet_goes_alone_and_unmarked() {
    if !privileged("without_a_second_way_a_packet_goes_alone_and_unmarked") {
        return;
    }
    let mut programs = duplicating();
    let spec = Spec::v4(voice());
    let alone = |programs: &mut Programs, why: &str| {
        let before = stats(programs).alone;
        assert_eq!(send(programs, &spec).data[ETHERNET..], hop(&spec), "{why}");
        assert_eq!(stats(programs).alone, before + 1, "{why}");
    };
    programs.change("paths", FIBRE, |path: &mut Path| path.state = path_state::DOWN);
    alone(&mut programs, "the other path is down");
    programs.change("paths", FIBRE, |path: &mut Path| (path.state, path.local_uplink) = (path_state::UP, 1));
    programs.change("paths", FIBRE, |path: &mut Path| path.remote_uplink = 1);
    alone(&mut programs, "the other path is the same two lines");
    programs.change("paths", FIBRE, |path: &mut Path| path.remote_uplink = 0);
    let mut set = path_set(VOICE, &[(RADIO, 0), (FIBRE, 1)]);
    set.candidates[1].flags = candidate_flag::FULL;
    programs.replace_set(VOICE, set);
    alone(&mut programs, "the other path has no room");
    set.candidates[1].flags = 0;
    programs.replace_set(VOICE, set);
    assert_ne!(send(&programs, &spec).data[ETHERNET..], hop(&spec), "one uplink of its own is enough");
    // The flow remembers its second path, and leaves it at the packet after it went down.
    assert_eq!(flow(&mut programs).second, FIBRE);
    programs.change("paths", FIBRE, |path: &mut Path| path.state = path_state::DOWN);
    alone(&mut programs, "the second path went down");
    assert_eq!(flow(&mut programs).second, NO_PATH);
}

fn flow(programs: &mut Programs) -> Flow {
    let entries: Vec<Flow> =
        programs.hash::<FlowKey, Flow>("flows").iter().map(|entry| entry.expect("flows").1).collect();
    assert_eq!(entries.len(), 1);
    entries[0]
}

#[test]
fn what_cannot_be_marked_goes_once() {
    if !privileged("what_cannot_be_marked_goes_once") {
        return;
    }
    let mut programs = duplicating();
    // RADIO takes 1,400 bytes; the mark of IPv6 needs eight of them.
    let sized = |spec: Spec, size: usize| {
        let headers = spec.packet().len() - spec.payload.len();
        spec.with(|spec| spec.payload = vec![1; size - headers])
    };
    let radio = usize::from(RADIO_MTU);
    for (spec, unmarked) in [
        (sized(Spec::v4(voice()), radio), 0),
        (sized(Spec::v6(voice()), radio - IPV6_MARK_LENGTH), 0),
        (sized(Spec::v6(voice()), radio - IPV6_MARK_LENGTH + 1), 1),
    ] {
        let before = stats(&mut programs).unmarked;
        let outcome = send(&programs, &spec);
        assert_eq!(outcome.verdict, REDIRECT, "{} bytes", spec.packet().len());
        assert_eq!(stats(&mut programs).unmarked, before + unmarked, "{} bytes", spec.packet().len());
    }
    // The identifications of IPv4 come round: too soon, and packets go alone until they have come round again.
    let numbers = |next, round_ns| CopyNumbers { next, pause: 0, round_ns };
    for (round_ns, unmarked) in [(ago(2 * ROUND_NS), 0), (now_ns(), 1)] {
        programs.set("copy_numbers", SITE, numbers(0xffff, round_ns));
        let before = stats(&mut programs).unmarked;
        for _ in 0..2 {
            send(&programs, &Spec::v4(voice()));
        }
        assert_eq!(stats(&mut programs).unmarked, before + 2 * unmarked);
    }
}

#[test]
fn bundles_of_segments_take_numbers_for_each() {
    if !privileged("bundles_of_segments_take_numbers_for_each") {
        return;
    }
    let mut programs = duplicating();
    programs.set("match_proto", 6, rules(&[0, 1]));
    let bundle = |spec: Spec, gso_size, programs: &mut Programs| {
        programs.set("copy_numbers", SITE, CopyNumbers { next: 1_000, ..CopyNumbers::default() });
        let before = stats(programs);
        let context = Context { gso_size, gso_segs: 3 };
        let outcome = run(programs.program("lan_ingress"), &spec.frame(), context);
        assert_eq!(outcome.verdict, REDIRECT);
        let after = stats(programs);
        let next = programs.get::<CopyNumbers>("copy_numbers", SITE).next - 1_000;
        // The kernel of a test-run can't cut its bundle: the copy may get lost on the loopback.
        let marked = after.packets + after.alone - before.packets - before.alone;
        (marked, after.unmarked - before.unmarked, next)
    };
    let tcp = Transport::Tcp(40_000, 5060, None);
    let with = |spec: Spec| spec.with(|spec| spec.payload = vec![2; 3_000]);
    assert_eq!(bundle(with(Spec::v4(tcp.clone())), 1_000, &mut programs), (3, 0, 3));
    // Whether the kernel takes the change of an IPv6 bundle here is its own affair; none may go by half.
    let (marked, unmarked, _) = bundle(with(Spec::v6(tcp)), 1_000, &mut programs);
    assert_eq!(marked + unmarked, 3);
    assert_eq!(bundle(with(Spec::v4(voice())), 1_000, &mut programs), (0, 3, 0), "datagrams");
    const { assert!(LARGEST_BUNDLE > 65_535, "every bundle that isn't a BIG TCP one") };
}

#[test]
fn the_first_copy_passes_without_its_mark_and_the_second_is_dropped() {
    if !privileged("the_first_copy_passes_without_its_mark_and_the_second_is_dropped") {
        return;
    }
    let mut programs = mesh();
    let tcp = || Transport::Tcp(443, 40_000, None);
    let udp = || Transport::Udp(5060, 40_000);
    let mut dropped = 0;
    for transport in [udp(), tcp(), Transport::Echo(7)] {
        let v4 = Spec::between("10.2.0.9", "10.1.0.5", transport.clone()).with(|spec| spec.identification = 500);
        let v6 = Spec::between("fd02::9", "fd01::5", transport);
        for (plain, marked) in [
            (v4.packet(), marked_ipv4(&v4.packet(), 500)),
            (v6.packet(), marked_ipv6(&v6.packet(), Mark::new(500, false))),
        ] {
            let first = receive(&programs, &marked);
            assert_eq!(first.verdict, OK, "on its way to the LAN");
            assert_eq!(first.data[ETHERNET..], plain, "as it was sent");
            assert_eq!(receive(&programs, &marked).verdict, DROP);
            dropped += 1;
            // Without a mark the same packet passes as often as it comes.
            for _ in 0..2 {
                assert_eq!(receive(&programs, &plain).data[ETHERNET..], plain);
            }
        }
    }
    let next = Spec::between("10.2.0.9", "10.1.0.5", udp()).packet();
    assert_eq!(receive(&programs, &marked_ipv4(&next, 501)).verdict, OK, "another number");
    assert_eq!(programs.counter("drops", DropReason::Copy as u32), dropped);
    // Both copies came out of the path.
    assert_eq!(sum_stats(&mut programs, FIBRE).received_packets, 4 * dropped + 1);
}

#[test]
fn fragments_and_segments_with_one_identification_are_told_apart() {
    if !privileged("fragments_and_segments_with_one_identification_are_told_apart") {
        return;
    }
    let programs = mesh();
    let fragment = |offset, more| {
        Spec::between("10.2.0.9", "10.1.0.5", Transport::Udp(5060, 40_000))
            .with(|spec| {
                (spec.df, spec.fragment, spec.payload) = (false, (offset, more), vec![1; 800]);
            })
            .packet()
    };
    let segment = |sequence: u32| {
        let mut packet = Spec::between("10.2.0.9", "10.1.0.5", Transport::Tcp(443, 40_000, None)).packet();
        packet[24..28].copy_from_slice(&sequence.to_be_bytes());
        packet
    };
    let packets = [fragment(0, true), fragment(101, true), fragment(202, false), segment(1), segment(1_001)];
    for packet in &packets {
        assert_eq!(receive(&programs, &marked_ipv4(packet, 9)).verdict, OK);
    }
    let mut last = packets.to_vec();
    last.reverse();
    // They share one place in the table: the last one is known again.
    assert_eq!(receive(&programs, &marked_ipv4(&last[0], 9)).verdict, DROP);
}
