//! TCP's segments, which come out of a tunnel one by one, put together again for the kernel's way to the LAN: the reverse
//! of [`super::offload`]. Sans-IO.
//!
//! Only what whoever cuts the bundle restores to the last bit is put together (but for the identification of IPv4 packets
//! that may not be fragmented, which means nothing, RFC 6864 section 4.1): segments of one flow, one right behind the other,
//! with the same headers and good checksums. All else stays as it came.

use etherparse::checksum::Sum16BitWords;

use super::offload::{FLAGS, HEADER_LENGTH, NEEDS_CHECKSUM, NOTHING, PSH, SEQUENCE, TCP, TCP_HEADER, write_length};

/// `ACK`, the only flag beside [`PSH`] of a segment that can be put to others.
const ACK: u8 = 0x10;
/// Where the checksum is in a TCP header.
const CHECKSUM: usize = 16;
/// IPv4's and IPv6's number of TCP.
const PROTOCOL: u8 = 6;

/// A segment's parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Segment {
    /// Where the TCP header begins.
    transport: usize,
    /// Where the payload begins.
    payload: usize,
    /// Length of the payload, bytes.
    length: usize,
    sequence: u32,
    push: bool,
}

impl Segment {
    /// `None`: nothing that others can be put to.
    fn parse(packet: &[u8]) -> Option<Self> {
        let (transport, length) = match packet.first()? {
            // No options, no fragment, and no bit beside "don't fragment": another one marks copies.
            0x45 if packet.get(6..10)?[..2] == [0x40, 0] && packet[9] == PROTOCOL => {
                (20, usize::from(u16::from_be_bytes([packet[2], packet[3]])))
            }
            version if version >> 4 == 6 && *packet.get(6)? == PROTOCOL => {
                (40, 40 + usize::from(u16::from_be_bytes([packet[4], packet[5]])))
            }
            _ => return None,
        };
        let tcp = packet.get(transport..)?.first_chunk::<TCP_HEADER>()?;
        let payload = transport + usize::from(tcp[12] >> 4) * 4;
        let fits = length == packet.len() && payload >= transport + TCP_HEADER && payload < length;
        (fits && tcp[FLAGS] & !PSH == ACK).then_some(Self {
            transport,
            payload,
            length: length - payload,
            sequence: u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]),
            push: tcp[FLAGS] & PSH != 0,
        })
    }

    /// Whether its checksums are right. A bundle gets new ones, and must not make a broken packet whole.
    fn sound(&self, packet: &[u8]) -> bool {
        let header = self.transport == 40 || Sum16BitWords::new().add_slice(&packet[..20]).ones_complement() == 0;
        header && pseudo_header(packet, self.transport).add_slice(&packet[self.transport..]).ones_complement() == 0
    }
}

/// The sum of TCP's pseudo-header (RFC 9293 section 3.1, RFC 8200 section 8.1).
fn pseudo_header(packet: &[u8], transport: usize) -> Sum16BitWords {
    let addresses = if transport == 40 { &packet[8..40] } else { &packet[12..20] };
    // A bundle is no longer than an IP packet.
    let length = (packet.len() - transport) as u16;
    Sum16BitWords::new().add_slice(addresses).add_2bytes([0, PROTOCOL]).add_2bytes(length.to_be_bytes())
}

/// A bundle that grows.
#[derive(Debug, Default)]
pub struct Bundle {
    /// The header that the TUN wants, the first segment's own, and the payload of all.
    bytes: Vec<u8>,
    first: Option<Segment>,
    /// Sequence number of the segment that would come next.
    next: u32,
    segments: u16,
    push: bool,
}

impl Bundle {
    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    /// Takes a packet, as its first or behind the last one. `false`: it doesn't belong here; into a bundle that is empty, it
    /// belongs nowhere.
    pub fn add(&mut self, packet: &[u8]) -> bool {
        let Some(segment) = Segment::parse(packet) else { return false };
        match self.first {
            None => self.begin(packet, segment),
            Some(first) => {
                if !self.continues(&first, packet, &segment) {
                    return false;
                }
                self.bytes.extend_from_slice(&packet[segment.payload..]);
                self.segments += 1;
            }
        }
        self.next = segment.sequence.wrapping_add(segment.length as u32);
        self.push = segment.push;
        true
    }

    fn begin(&mut self, packet: &[u8], segment: Segment) {
        self.bytes.clear();
        self.bytes.extend_from_slice(&NOTHING);
        self.bytes.extend_from_slice(packet);
        self.first = Some(segment);
        self.segments = 1;
    }

    fn continues(&self, first: &Segment, packet: &[u8], segment: &Segment) -> bool {
        let bundle = &self.bytes[HEADER_LENGTH..];
        let so_far = bundle.len() - first.payload;
        segment.sequence == self.next
            // What its sender pushed is for somebody who waits.
            && !self.push
            // All but the last are equally long.
            && so_far == first.length * usize::from(self.segments)
            && segment.length <= first.length
            && bundle.len() + segment.length <= usize::from(u16::MAX)
            && (first.transport, first.payload) == (segment.transport, segment.payload)
            && alike(bundle, packet, first)
            && (self.segments > 1 || first.sound(bundle))
            && segment.sound(packet)
    }

    /// What is to be written into the TUN: the packet as it came if there is one only. Nothing can be added any more, until
    /// [`Self::clear`].
    pub fn finish(&mut self) -> &[u8] {
        if let Some(first) = self.first.filter(|_| self.segments > 1) {
            let (header, bundle) = self.bytes.split_at_mut(HEADER_LENGTH);
            write_length(bundle, first.transport);
            let sum = !pseudo_header(bundle, first.transport).ones_complement();
            let tcp = &mut bundle[first.transport..];
            tcp[CHECKSUM..CHECKSUM + 2].copy_from_slice(&sum.to_ne_bytes());
            if self.push {
                tcp[FLAGS] |= PSH;
            }
            header[0] = NEEDS_CHECKSUM;
            header[1] = TCP[usize::from(first.transport == 40)];
            for (at, value) in [(2, first.payload), (4, first.length), (6, first.transport), (8, CHECKSUM)] {
                header[at..at + 2].copy_from_slice(&(value as u16).to_ne_bytes());
            }
        }
        &self.bytes
    }

    /// Empties it.
    pub fn clear(&mut self) {
        self.first = None;
    }
}

/// Whether all that a bundle has once is the same: everything but IP's length, identification and checksum, and TCP's
/// sequence number, [`PSH`] and checksum.
fn alike(one: &[u8], other: &[u8], segment: &Segment) -> bool {
    let transport = segment.transport;
    let ip: [std::ops::Range<usize>; 2] = if transport == 20 { [0..2, 6..10] } else { [0..4, 6..8] };
    // The addresses, and TCP's ports right behind them; the acknowledgement, up to the flags, which are ACK in both.
    let addresses = transport - if transport == 20 { 8 } else { 32 }..transport + SEQUENCE;
    let rest =
        [transport + 8..transport + FLAGS, transport + 14..transport + CHECKSUM, transport + 18..segment.payload];
    ip.into_iter().chain([addresses]).chain(rest).all(|range| one[range.clone()] == other[range])
}

#[cfg(test)]
#[path = "bundle_tests.rs"]
mod tests;
