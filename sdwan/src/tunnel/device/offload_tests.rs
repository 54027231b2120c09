use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TcpSlice, TransportSlice};
use proptest::prelude::*;

use super::*;

/// A packet of `length` bytes of payload as the stack hands it to a TUN: its checksum is that of the pseudo-header alone.
fn bundle(ipv6: bool, length: usize, flags: u8) -> (Vec<u8>, usize) {
    let payload: Vec<u8> = (0..length).map(|at| (at * 7 + at / 251) as u8).collect();
    let builder = match ipv6 {
        true => PacketBuilder::ipv6([7; 16], [9; 16], 60),
        false => PacketBuilder::ipv4([10, 1, 0, 5], [10, 2, 0, 9], 60),
    };
    let mut packet = Vec::new();
    let tcp = builder.tcp(40_000, 443, 0xffff_f000, 1_000).ack(77);
    let tcp = tcp.options_raw(&[1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2]).expect("a timestamp");
    tcp.write(&mut packet, &payload).expect("a packet");
    let start = if ipv6 { 40 } else { 20 };
    packet[start + 13] |= flags;
    let mut sum = Sum16BitWords::new();
    sum = sum.add_slice(&packet[if ipv6 { 8..40 } else { 12..20 }]);
    sum = sum.add_2bytes(6u16.to_be_bytes()).add_2bytes(((packet.len() - start) as u16).to_be_bytes());
    packet[start + 16..start + 18].copy_from_slice(&(!sum.ones_complement()).to_be().to_be_bytes());
    (packet, start)
}

fn header(checksum: bool, kind: u8, size: u16, start: usize, offset: u16) -> [u8; HEADER_LENGTH] {
    let mut header = NOTHING;
    header[0] = u8::from(checksum);
    header[1] = kind;
    header[4..6].copy_from_slice(&size.to_ne_bytes());
    header[6..8].copy_from_slice(&(start as u16).to_ne_bytes());
    header[8..10].copy_from_slice(&offset.to_ne_bytes());
    header
}

fn cut(read: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut packets = packets(read)?;
    let (mut all, mut to) = (Vec::new(), BytesMut::new());
    while packets.next_into(&mut to) {
        all.push(to.to_vec());
    }
    Some(all)
}

/// The TCP header of a packet all of whose lengths and checksums are right.
fn good(packet: &[u8]) -> TcpSlice<'_> {
    let sliced = SlicedPacket::from_ip(packet).expect("an IP packet");
    let Some(TransportSlice::Tcp(tcp)) = sliced.transport else { panic!("no TCP") };
    let sum = match sliced.net.expect("an IP header") {
        NetSlice::Ipv4(ip) => {
            let header = ip.header();
            assert_eq!(usize::from(header.total_len()), packet.len());
            assert_eq!(header.header_checksum(), header.to_header().calc_header_checksum());
            tcp.calc_checksum_ipv4(header.source(), header.destination())
        }
        NetSlice::Ipv6(ip) => {
            assert_eq!(usize::from(ip.header().payload_length()) + 40, packet.len());
            tcp.calc_checksum_ipv6(ip.header().source(), ip.header().destination())
        }
        NetSlice::Arp(_) => panic!("no IP"),
    };
    assert_eq!(sum.expect("short"), tcp.checksum());
    tcp
}

proptest! {
    #[test]
    fn a_bundle_becomes_the_segments_that_the_sender_would_have_sent(
        ipv6: bool, length in 1usize..20_000, size in 1u16..3_000, fin: bool, congestion: bool,
    ) {
        let flags = PSH | if fin { FIN } else { 0 } | if congestion { CWR } else { 0 };
        let (packet, start) = bundle(ipv6, length, flags);
        let kind = if ipv6 { 4 } else { 1 } | if congestion { ECN } else { 0 };
        let read = [&header(true, kind, size, start, 16)[..], &packet].concat();
        let segments = cut(&read).expect("it is in order");
        prop_assert_eq!(segments.len(), length.div_ceil(size.into()));
        let mut payload = Vec::new();
        for (number, segment) in segments.iter().enumerate() {
            let tcp = good(segment);
            prop_assert_eq!(tcp.sequence_number(), 0xffff_f000u32.wrapping_add(payload.len() as u32));
            let last = number + 1 == segments.len();
            prop_assert_eq!(tcp.psh(), last);
            prop_assert_eq!(tcp.fin(), last && fin);
            prop_assert_eq!(tcp.cwr(), number == 0 && congestion);
            prop_assert!(tcp.ack() && tcp.acknowledgment_number() == 77 && tcp.options().len() == 12);
            payload.extend_from_slice(tcp.payload());
            if !ipv6 {
                prop_assert_eq!(u16::from_be_bytes([segment[4], segment[5]]), number as u16);
            }
        }
        prop_assert!(payload == packet[start + 32..], "nothing is lost, and all in its order");
    }

    #[test]
    fn whatever_is_read_ends_nobody(read in prop::collection::vec(any::<u8>(), 0..200), kind in 0u8..6, size in 0u16..40,
        start in 0usize..80, offset in 0u16..30)
    {
        let _ = cut(&read);
        let _ = cut(&[&header(true, kind, size, start, offset)[..], &read].concat());
        let _ = cut(&[&header(false, kind, size, start, offset)[..], &read].concat());
    }
}

#[test]
fn a_single_packet_gets_its_checksum_and_one_that_wants_nothing_stays() {
    for ipv6 in [false, true] {
        let (packet, start) = bundle(ipv6, 333, PSH);
        let cut_one = cut(&[&header(true, 0, 0, start, 16)[..], &packet].concat()).expect("it is in order");
        assert_eq!(cut_one.len(), 1);
        good(&cut_one[0]);
        assert_eq!(cut(&[&NOTHING[..], &cut_one[0]].concat()).expect("in order"), cut_one);
    }
}

#[test]
fn a_checksum_that_is_zero_stays_so() {
    let (packet, start) = bundle(false, 13_033, PSH);
    let segments = cut(&[&header(true, 1, 362, start, 16)[..], &packet].concat()).expect("it is in order");
    assert!(segments.iter().any(|segment| good(segment).checksum() == 0), "one of these has it");
}

#[test]
fn what_contradicts_itself_is_nothing() {
    let (packet, start) = bundle(false, 3_000, 0);
    for (what, header) in [
        ("a bundle of UDP", header(true, 3, 1_000, start, 16)),
        ("no checksum to make", header(false, 1, 1_000, start, 16)),
        ("segments of nothing", header(true, 1, 0, start, 16)),
        ("TCP inside the IP header", header(true, 1, 1_000, 10, 16)),
        ("TCP behind the end", header(true, 1, 1_000, 3_100, 16)),
        ("a checksum behind the end", header(true, 0, 0, 3_040, 16)),
    ] {
        assert_eq!(cut(&[&header[..], &packet].concat()), None, "{what}");
    }
    assert_eq!(cut(&[0; 5]), None);
}
