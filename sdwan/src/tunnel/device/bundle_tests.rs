use bytes::BytesMut;
use etherparse::PacketBuilder;
use proptest::prelude::*;

use super::*;
use crate::tunnel::device::offload;

/// What makes a segment.
#[derive(Clone, Copy, Debug)]
struct Spec {
    ipv6: bool,
    port: u16,
    sequence: u32,
    length: usize,
    window: u16,
    push: bool,
    fin: bool,
    /// Turned over when all is ready: a byte of the packet.
    broken: Option<usize>,
}

const PLAIN: Spec =
    Spec { ipv6: false, port: 443, sequence: 1_000, length: 100, window: 500, push: false, fin: false, broken: None };

fn segment(spec: Spec, number: u16) -> Vec<u8> {
    let mut packet = Vec::new();
    let payload: Vec<u8> = (0..spec.length).map(|at| (spec.sequence as usize + at) as u8).collect();
    let builder = match spec.ipv6 {
        true => PacketBuilder::ipv6([7; 16], [9; 16], 60),
        false => PacketBuilder::ip(etherparse::IpHeaders::Ipv4(
            etherparse::Ipv4Header {
                identification: number,
                dont_fragment: true,
                time_to_live: 60,
                source: [10, 1, 0, 5],
                destination: [10, 2, 0, 9],
                ..etherparse::Ipv4Header::default()
            },
            Default::default(),
        )),
    };
    let mut tcp = builder.tcp(spec.port, 40_000, spec.sequence, spec.window).ack(77);
    tcp = tcp.options_raw(&[1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2]).expect("a timestamp");
    if spec.push {
        tcp = tcp.psh();
    }
    if spec.fin {
        tcp = tcp.fin();
    }
    tcp.write(&mut packet, &payload).expect("a packet");
    if let Some(at) = spec.broken {
        let at = at % packet.len();
        packet[at] ^= 0x10;
    }
    packet
}

/// What is written for these packets, as the tunnel's way out does it with `idle` after some.
fn written(packets: &[Vec<u8>], idle: impl Fn(usize) -> bool) -> Vec<Vec<u8>> {
    let (mut bundle, mut all) = (Bundle::default(), Vec::new());
    let flush = |bundle: &mut Bundle, all: &mut Vec<Vec<u8>>| {
        if !bundle.is_empty() {
            all.push(bundle.finish().to_vec());
            bundle.clear();
        }
    };
    for (number, packet) in packets.iter().enumerate() {
        if !bundle.add(packet) {
            flush(&mut bundle, &mut all);
            if !bundle.add(packet) {
                all.push([&NOTHING[..], packet].concat());
            }
        }
        if idle(number) {
            flush(&mut bundle, &mut all);
        }
    }
    flush(&mut bundle, &mut all);
    all
}

/// As whoever cuts them sends them on.
fn cut(written: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let (mut all, mut to) = (Vec::new(), BytesMut::new());
    for read in written {
        let mut packets = offload::packets(read).expect("it doesn't contradict itself");
        while packets.next_into(&mut to) {
            all.push(to.to_vec());
        }
    }
    all
}

/// `first`, and what follows it: in a row, but for what `change` does to the second.
fn two(first: Spec, change: impl Fn(&mut Spec)) -> Vec<Vec<u8>> {
    let mut second = Spec { sequence: first.sequence.wrapping_add(first.length as u32), ..first };
    change(&mut second);
    vec![segment(first, 1), segment(second, 2)]
}

fn specs() -> impl Strategy<Value = Vec<(Spec, bool)>> {
    let odd = prop_oneof![
        12 => Just(0u8),
        4 => 1u8..8
    ];
    let step = (any::<bool>(), odd, 1usize..1_400, any::<usize>(), prop::bool::weighted(0.1));
    (any::<bool>(), 1usize..1_400, prop::collection::vec(step, 1..60)).prop_map(|(ipv6, size, steps)| {
        let mut next = [0xffff_e000u32, 7];
        let same = |spec: Spec, at: &mut u32| {
            let spec = Spec { sequence: *at, ..spec };
            *at = at.wrapping_add(spec.length as u32);
            spec
        };
        let one = |(other, odd, length, at, idle): (bool, u8, usize, usize, bool)| {
            // Two flows, of which one sends now and then.
            let flow = usize::from(other && odd != 0);
            let mut spec = Spec { ipv6, port: 443 + flow as u16, length: size, ..PLAIN };
            match odd {
                1 => spec.length = length,
                2 => spec.push = true,
                3 => spec.fin = true,
                4 => spec.window += 1,
                5 => spec.broken = Some(at),
                6 => next[flow] = next[flow].wrapping_add(length as u32),
                _ => {}
            }
            (same(spec, &mut next[flow]), idle)
        };
        steps.into_iter().map(one).collect()
    })
}

proptest! {
    #[test]
    fn what_is_cut_again_is_what_came(specs in specs()) {
        // Identifications in a row, as senders give them, for they are not kept otherwise.
        let packets: Vec<Vec<u8>> =
            specs.iter().enumerate().map(|(number, (spec, _))| segment(*spec, number as u16)).collect();
        let written = written(&packets, |number| specs[number].1);
        let again = cut(&written);
        prop_assert_eq!(again.len(), packets.len());
        for (packet, again) in packets.iter().zip(&again) {
            prop_assert!(packet == again, "{packet:02x?}\n{again:02x?}");
        }
    }

    #[test]
    fn whatever_comes_ends_nobody(packets in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..90), 0..9)) {
        let mut packets = packets;
        for (packet, first) in packets.iter_mut().zip([0x45, 0x60, 0x46, 0x45].into_iter().cycle()) {
            if let Some(byte) = packet.first_mut() {
                *byte = first;
            }
        }
        let written = written(&packets, |_| false);
        prop_assert_eq!(cut(&written), packets);
    }
}

#[test]
fn a_row_of_segments_is_one_packet() {
    for ipv6 in [false, true] {
        let specs = (0..20).map(|number| Spec { ipv6, sequence: 1_000 + 100 * number, ..PLAIN });
        let mut packets: Vec<Vec<u8>> = specs.enumerate().map(|(number, spec)| segment(spec, number as u16)).collect();
        packets.push(segment(Spec { ipv6, sequence: 3_000, length: 60, push: true, ..PLAIN }, 20));
        let written = written(&packets, |_| false);
        assert_eq!(written.len(), 1);
        assert_eq!(cut(&written), packets);
    }
}

#[test]
fn a_bundle_is_no_longer_than_an_ip_packet() {
    let specs = (0..100).map(|number| Spec { sequence: 1_400 * number, length: 1_400, ..PLAIN });
    let packets: Vec<Vec<u8>> = specs.enumerate().map(|(number, spec)| segment(spec, number as u16)).collect();
    let written = written(&packets, |_| false);
    assert_eq!(written.len(), 3, "46 segments fit");
    assert!(written.iter().all(|bundle| bundle.len() <= HEADER_LENGTH + usize::from(u16::MAX)));
    assert_eq!(cut(&written), packets);
}

#[test]
fn what_would_not_come_apart_again_stays_apart() {
    let of = |packets: &[Vec<u8>]| written(packets, |_| false).len();
    for ipv6 in [false, true] {
        let first = Spec { ipv6, ..PLAIN };
        assert_eq!(of(&two(first, |_| ())), 1, "the two go together");
        assert_eq!(of(&two(first, |second| second.length = 40)), 1, "the last may be shorter");
        assert_eq!(of(&two(first, |second| second.length = 101)), 2, "and no longer");
        assert_eq!(of(&two(first, |second| second.sequence += 1)), 2, "a gap");
        assert_eq!(of(&two(first, |second| second.port += 1)), 2, "another flow");
        assert_eq!(of(&two(first, |second| second.window += 1)), 2, "another window");
        assert_eq!(of(&two(first, |second| second.fin = true)), 2, "an end");
        assert_eq!(of(&two(Spec { push: true, ..first }, |_| ())), 2, "what was pushed");
        let headers = if ipv6 { 40 } else { 20 } + 32;
        for at in [headers - 32 + 16, headers + 5] {
            assert_eq!(of(&two(first, |second| second.broken = Some(at))), 2, "a wrong checksum");
            assert_eq!(of(&two(Spec { broken: Some(at), ..first }, |second| second.broken = None)), 2, "in the first");
        }
    }
    // The marks of copies are seen by the programs, one by one.
    let mut packets = two(PLAIN, |_| ());
    packets.iter_mut().for_each(|packet| packet[6] |= 0x80);
    assert_eq!(of(&packets), 2);
    let mut packets = two(PLAIN, |_| ());
    packets.iter_mut().for_each(|packet| packet[11] ^= 1);
    assert_eq!(of(&packets), 2, "a wrong checksum of the IP header");
}
