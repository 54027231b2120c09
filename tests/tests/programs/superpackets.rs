//! Bundles of segments (GSO) pass whole, and what is left undone of checksums is done by whoever must: the device at the
//! end where it can't, the host otherwise.

use std::io::{Read, Write};
use std::os::fd::AsRawFd;

use etherparse::TcpOptionElement::MaximumSegmentSize;
use sdwan_tests::bed::offload;
use sdwan_tests::tun::{self, VnetHeader};
use socket2::Socket;

use crate::lan::sum_stats;
use crate::load::privileged;
use crate::mesh::{FIBRE, FIBRE_MTU};
use crate::packets::{Spec, Transport, checksums_right, sum};
use crate::redirect::{Bed, HOST, LAN, LAN_MAC, PATIENCE, forwarded_by_the_stack, hop, packet_socket, wait};

const ETHERNET: u16 = 14;
/// Bytes of a segment, and segments of a bundle.
const SEGMENT: u16 = 1_300;
const SEGMENTS: u16 = 5;

/// A gateway between ends that may leave work to each other.
struct Ends {
    bed: Bed,
    host: Socket,
}

impl Ends {
    /// With `offload` the tunnel and the LAN take what isn't finished.
    fn new(offload: bool) -> Self {
        let bed = Bed::with_tunnel(|name| tun::open_with_headers(name, offload));
        if !offload {
            offload::switch_off_here(LAN).expect("the LAN interface finishes what it sends");
        }
        let host = packet_socket(HOST);
        let on: libc::c_int = 1;
        // SAFETY: the value lives through the call, and its size goes with it.
        let result = unsafe {
            let value = std::ptr::from_ref(&on).cast();
            libc::setsockopt(host.as_raw_fd(), libc::SOL_PACKET, libc::PACKET_VNET_HDR, value, 4)
        };
        assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
        Self { bed, host }
    }

    /// The host sends it, unfinished.
    fn send_from_host(&self, packet: &Unfinished) {
        let frame = packet.spec.clone().with(|spec| spec.mac = LAN_MAC).frame();
        let header = packet.header(ETHERNET).to_bytes();
        self.host.send(&[&header[..], &frame[..ETHERNET.into()], &packet.bytes()].concat()).expect("send");
    }

    /// It comes out of the tunnel, unfinished.
    fn send_from_tunnel(&mut self, packet: &Unfinished) {
        let bytes = [&packet.header(0).to_bytes()[..], &packet.bytes()].concat();
        self.bed.tunnel.write_all(&bytes).expect("write");
    }

    /// The next packet of the flow that goes into the tunnel.
    fn at_tunnel(&mut self, like: &Unfinished) -> Option<(VnetHeader, Vec<u8>)> {
        let tunnel = &mut self.bed.tunnel;
        receive(like, 0, |buffer| tunnel.read(buffer))
    }

    /// The next one that arrives at the host.
    fn at_host(&self, like: &Unfinished) -> Option<(VnetHeader, Vec<u8>)> {
        receive(like, ETHERNET, |buffer| (&self.host).read(buffer))
    }
}

/// The IP packet, and what is left to do to it.
fn receive(
    like: &Unfinished,
    link: u16,
    read: impl FnMut(&mut [u8]) -> std::io::Result<usize>,
) -> Option<(VnetHeader, Vec<u8>)> {
    let addresses = |packet: &[u8]| match packet.first()? >> 4 {
        4 => packet.get(12..20).map(<[u8]>::to_vec),
        _ => packet.get(8..40).map(<[u8]>::to_vec),
    };
    let wanted = addresses(&like.spec.packet());
    let skip = VnetHeader::LENGTH + usize::from(link);
    let read = wait(PATIENCE, read, |bytes| bytes.get(skip..).and_then(addresses) == wanted)?;
    let (header, _) = VnetHeader::split(&read)?;
    Some((header, read[skip..].to_vec()))
}

/// A packet whose transport checksum has the pseudo header's part only.
struct Unfinished {
    spec: Spec,
    bundle: bool,
}

impl Unfinished {
    fn ip_header(&self) -> u16 {
        if self.spec.source.is_ipv4() { 20 } else { 40 }
    }

    fn checksum_offset(&self) -> u16 {
        if matches!(self.spec.transport, Transport::Udp(..)) { 6 } else { 16 }
    }

    fn header(&self, link: u16) -> VnetHeader {
        let start = link + self.ip_header();
        let header = VnetHeader {
            checksum_start: Some(start),
            checksum_offset: self.checksum_offset(),
            ..VnetHeader::default()
        };
        if !self.bundle {
            return header;
        }
        let kind = if self.spec.source.is_ipv4() { VnetHeader::GSO_TCPV4 } else { VnetHeader::GSO_TCPV6 };
        VnetHeader { segment: SEGMENT, kind, headers: start + 20, ..header }
    }

    /// The IP packet.
    fn bytes(&self) -> Vec<u8> {
        let mut packet = self.spec.packet();
        let transport = usize::from(self.ip_header());
        let (addresses, protocol) = if self.spec.source.is_ipv4() { (12..20, packet[9]) } else { (8..40, packet[6]) };
        let length = (packet.len() - transport) as u16;
        let part = sum(&[&packet[addresses], &[0, protocol], &length.to_be_bytes()]);
        packet[transport + usize::from(self.checksum_offset())..][..2].copy_from_slice(&part.to_be_bytes());
        packet
    }

    fn hop(&self) -> Self {
        Self { spec: hop(&self.spec), bundle: self.bundle }
    }
}

/// From the LAN to the other site and back, in both families.
fn ways(transport: fn(bool) -> Transport, payload: usize, bundle: bool) -> [(Unfinished, Unfinished); 2] {
    let pairs = [("10.1.0.5", "10.2.0.9"), ("fd01::5", "fd02::9")];
    pairs.map(|(near, far)| {
        let unfinished = |source, destination, back| Unfinished {
            spec: Spec::between(source, destination, transport(back)).with(|spec| spec.payload = vec![0x5a; payload]),
            bundle,
        };
        (unfinished(near, far, false), unfinished(far, near, true))
    })
}

fn tcp(back: bool) -> Transport {
    if back { Transport::Tcp(443, 40_000, None) } else { Transport::Tcp(40_000, 443, None) }
}

fn udp(back: bool) -> Transport {
    if back { Transport::Udp(443, 40_000) } else { Transport::Udp(40_000, 443) }
}

fn syn(back: bool) -> Transport {
    let options = Some(vec![MaximumSegmentSize(1_460)]);
    if back { Transport::Tcp(443, 40_000, options) } else { Transport::Tcp(40_000, 443, options) }
}

const BUNDLE: usize = SEGMENT as usize * SEGMENTS as usize;

#[test]
fn bundles_pass_whole_both_ways_and_count_as_their_segments() {
    if !privileged("bundles_pass_whole_both_ways_and_count_as_their_segments") {
        return;
    }
    let mut ends = Ends::new(true);
    let forwarded = forwarded_by_the_stack();
    for (there, back) in ways(tcp, BUNDLE, true) {
        let name = there.spec.source;
        let before = sum_stats(&mut ends.bed.programs, FIBRE);
        ends.send_from_host(&there);
        let (header, packet) = ends.at_tunnel(&there).unwrap_or_else(|| panic!("{name}: not at the tunnel"));
        assert_eq!(packet.len(), there.bytes().len(), "{name}: a single one");
        assert!(packet == there.hop().bytes(), "{name}: only the hop has changed");
        assert_eq!((header.segment, header.kind), (SEGMENT, there.header(0).kind), "{name}");
        let start = there.header(0).checksum_start;
        assert_eq!((header.checksum_start, header.checksum_offset), (start, 16), "{name}: the Ethernet header is gone");

        ends.send_from_tunnel(&back);
        let (header, packet) = ends.at_host(&back).unwrap_or_else(|| panic!("{name}: not at the host"));
        assert!(packet == back.hop().bytes(), "{name}: whole, and only the hop has changed");
        assert_eq!((header.segment, header.kind), (SEGMENT, back.header(0).kind), "{name}");
        assert_eq!(header.checksum_start, back.header(ETHERNET).checksum_start, "{name}: there is an Ethernet header");
        let after = sum_stats(&mut ends.bed.programs, FIBRE);
        let counted = (after.sent_packets - before.sent_packets, after.received_packets - before.received_packets);
        assert_eq!(counted, (SEGMENTS.into(), SEGMENTS.into()), "{name}");
    }
    assert_eq!(forwarded_by_the_stack(), forwarded, "the stack has forwarded nothing");
    assert_eq!(ends.bed.programs.drops(), 0);
}

#[test]
fn a_device_without_offload_gets_each_segment_with_a_right_checksum() {
    if !privileged("a_device_without_offload_gets_each_segment_with_a_right_checksum") {
        return;
    }
    let mut ends = Ends::new(false);
    for (there, back) in ways(tcp, BUNDLE, true) {
        let name = there.spec.source;
        ends.send_from_host(&there);
        ends.send_from_tunnel(&back);
        for (from, whole) in [(0, &there), (1, &back)] {
            let mut payload = 0;
            for number in 0..SEGMENTS {
                let one = if from == 0 { ends.at_tunnel(whole) } else { ends.at_host(whole) };
                let (header, packet) = one.unwrap_or_else(|| panic!("{name}, {from}: no segment {number}"));
                assert_eq!((header.segment, header.checksum_start), (0, None), "{name}, {from}: nothing is left to do");
                assert!(checksums_right(&packet), "{name}, {from}: segment {number}");
                let ttl = packet[if whole.spec.source.is_ipv4() { 8 } else { 7 }];
                assert_eq!(ttl, whole.spec.ttl - 1, "{name}, {from}");
                payload += packet.len() - usize::from(whole.ip_header()) - 20;
            }
            assert_eq!(payload, BUNDLE, "{name}, {from}");
        }
    }
    assert_eq!(ends.bed.programs.drops(), 0);
}

#[test]
fn a_checksum_that_a_host_left_to_its_interface_is_right_at_the_other_end() {
    if !privileged("a_checksum_that_a_host_left_to_its_interface_is_right_at_the_other_end") {
        return;
    }
    // Finished by the devices at the ends, or by nobody: then the part that is there must be that of the packet as it is.
    for offload in [false, true] {
        // In a namespace of its own, like the first.
        let check = move || {
            let mut ends = Ends::new(offload);
            let kinds = [ways(udp, 101, false), ways(tcp, 100, false), ways(syn, 0, false)];
            for (there, back) in kinds.into_iter().flatten() {
                ends.send_from_host(&there);
                let out = ends.at_tunnel(&there);
                ends.send_from_tunnel(&back);
                for (sent, got) in [(&there, out), (&back, ends.at_host(&back))] {
                    let what = format!("{:?} from {}, offload {offload}", sent.spec.transport, sent.spec.source);
                    let (header, packet) = got.unwrap_or_else(|| panic!("{what}: nothing arrived"));
                    assert_eq!(header.checksum_start.is_some(), offload, "{what}");
                    assert!(checksums_right(&finished(sent, packet.clone(), header)), "{what}");
                    if matches!(sent.spec.transport, Transport::Tcp(_, _, Some(_))) {
                        let headers = sent.ip_header() + 20;
                        let at = usize::from(headers) + 2;
                        let mss = u16::from_be_bytes([packet[at], packet[at + 1]]);
                        assert_eq!(mss, FIBRE_MTU - headers, "{what}: the MSS of the path");
                    }
                }
            }
            assert_eq!(ends.bed.programs.drops(), 0);
        };
        std::thread::spawn(check).join().expect("the checks of a namespace");
    }
}

/// What the host's interface makes of it.
fn finished(sent: &Unfinished, mut packet: Vec<u8>, header: VnetHeader) -> Vec<u8> {
    if header.checksum_start.is_some() {
        let transport = usize::from(sent.ip_header());
        let right = !sum(&[&packet[transport..]]);
        packet[transport + usize::from(header.checksum_offset)..][..2].copy_from_slice(&right.to_be_bytes());
    }
    packet
}
