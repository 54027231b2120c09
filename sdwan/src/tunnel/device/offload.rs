//! Bundles of TCP segments, as a TUN interface hands them over with segmentation offload: one packet with one header, and a
//! checksum that is still to be made (`struct virtio_net_hdr`, VIRTIO 1.2 section 5.1.6). Sans-IO.
//!
//! The kernel passes a bundle through its whole stack at the price of a packet; cutting it up here is the last step before
//! each segment is encrypted by itself.

use bytes::BytesMut;
use etherparse::checksum::Sum16BitWords;

/// Length of the header before each packet, bytes.
pub const HEADER_LENGTH: usize = 10;
/// The header of a packet that wants nothing.
pub const NOTHING: [u8; HEADER_LENGTH] = [0; HEADER_LENGTH];

/// `VIRTIO_NET_HDR_F_NEEDS_CSUM`
pub(super) const NEEDS_CHECKSUM: u8 = 1;
/// `VIRTIO_NET_HDR_GSO_TCPV4` and `…_TCPV6`; the bit of explicit congestion notification apart.
pub(super) const TCP: [u8; 2] = [1, 4];
const ECN: u8 = 0x80;

/// Shortest TCP header, bytes, and where in it the sequence number, the data offset and the flags are.
pub(super) const TCP_HEADER: usize = 20;
pub(super) const SEQUENCE: usize = 4;
const DATA_OFFSET: usize = 12;
pub(super) const FLAGS: usize = 13;
/// Where the checksum is in a UDP header.
const UDP_CHECKSUM: usize = 6;
const FIN: u8 = 0x01;
pub(super) const PSH: u8 = 0x08;
const CWR: u8 = 0x80;

/// What the kernel says is to be done with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Header {
    checksum: bool,
    kind: u8,
    size: usize,
    start: usize,
    offset: usize,
}

impl Header {
    fn parse(bytes: &[u8; HEADER_LENGTH]) -> Self {
        // In this machine's byte order, unless a TUN is told otherwise.
        let field = |at: usize| usize::from(u16::from_ne_bytes([bytes[at], bytes[at + 1]]));
        Self {
            checksum: bytes[0] & NEEDS_CHECKSUM != 0,
            kind: bytes[1] & !ECN,
            size: field(4),
            start: field(6),
            offset: field(8),
        }
    }
}

/// The packets in what was read from the TUN; none where it contradicts itself.
#[derive(Debug)]
pub struct Packets<'a> {
    bytes: &'a [u8],
    /// Where the transport header begins, where in it the checksum is, and the sum of the pseudo-header. `None`: there is
    /// none to be made.
    checksum: Option<(usize, usize, u16)>,
    /// Length of all headers, and payload of each segment but the last; `None`: one packet.
    cut: Option<(usize, usize)>,
    /// Payload that was given out; `None`: all of it.
    at: Option<usize>,
    /// Segments that were.
    number: u16,
}

/// Takes apart what was read: the header, then the packet.
pub fn packets(read: &[u8]) -> Option<Packets<'_>> {
    let (header, bytes) = read.split_first_chunk::<HEADER_LENGTH>()?;
    let header = Header::parse(header);
    let mut packets = Packets { bytes, checksum: None, cut: None, at: Some(0), number: 0 };
    if header.checksum {
        let field = bytes.get(header.start.checked_add(header.offset)?..)?.first_chunk::<2>()?;
        packets.checksum = Some((header.start, header.offset, u16::from_be_bytes(*field)));
    }
    if header.kind == 0 {
        return Some(packets);
    }
    // Others were not asked for; and a bundle's checksum is always left to whoever cuts it.
    if !TCP.contains(&header.kind) || !header.checksum || header.size == 0 {
        return None;
    }
    let offset = bytes.get(header.start.checked_add(DATA_OFFSET)?)?;
    let length = usize::from(offset >> 4) * 4;
    let end = header.start + length;
    let ip = if header.kind == TCP[0] { 20 } else { 40 };
    if length < TCP_HEADER.max(header.offset + 2)
        || end >= bytes.len()
        || header.start < ip
        || bytes.len() > usize::from(u16::MAX)
    {
        return None;
    }
    packets.cut = Some((end, header.size));
    Some(packets)
}

impl Packets<'_> {
    /// Writes the next packet in place of what `to` holds; `false` when there is none.
    pub fn next_into(&mut self, to: &mut BytesMut) -> bool {
        let Some(at) = self.at else { return false };
        to.clear();
        let Some((headers, size)) = self.cut else {
            self.at = None;
            to.extend_from_slice(self.bytes);
            self.finish(to, self.bytes.len());
            return true;
        };
        let payload = &self.bytes[headers..];
        let end = payload.len().min(at + size);
        to.extend_from_slice(&self.bytes[..headers]);
        to.extend_from_slice(&payload[at..end]);
        self.at = (end < payload.len()).then_some(end);
        self.head(to, at);
        self.finish(to, self.bytes.len());
        self.number += 1;
        true
    }

    /// The headers of one segment, whose payload begins at `at`.
    fn head(&self, segment: &mut [u8], at: usize) {
        let Some((transport, ..)) = self.checksum else { return };
        if segment[0] >> 4 == 4 {
            let identification = u16::from_be_bytes([segment[4], segment[5]]).wrapping_add(self.number);
            segment[4..6].copy_from_slice(&identification.to_be_bytes());
        }
        write_length(segment, transport);
        let field = &mut segment[transport + SEQUENCE..transport + SEQUENCE + 4];
        let sequence = u32::from_be_bytes([field[0], field[1], field[2], field[3]]).wrapping_add(at as u32);
        field.copy_from_slice(&sequence.to_be_bytes());
        let flags = &mut segment[transport + FLAGS];
        if self.number > 0 {
            *flags &= !CWR;
        }
        if self.at.is_some() {
            *flags &= !(FIN | PSH);
        }
    }

    /// Makes the transport's checksum. The field of the bundle, or packet, of `whole` bytes has the sum of the pseudo-header.
    fn finish(&self, packet: &mut [u8], whole: usize) {
        let Some((start, offset, partial)) = self.checksum else { return };
        let (of_whole, of_this) = ((whole - start) as u16, (packet.len() - start) as u16);
        packet[start + offset..start + offset + 2].fill(0);
        let sum = Sum16BitWords::new()
            .add_slice(&packet[start..])
            .add_2bytes(partial.to_be_bytes())
            // The pseudo-header's length is this packet's, not the bundle's.
            .add_2bytes((!of_whole).to_be_bytes())
            .add_2bytes(of_this.to_be_bytes())
            .ones_complement();
        // Zero would mean none in UDP (RFC 768), and equals this.
        let sum = if sum == 0 && offset == UDP_CHECKSUM { u16::MAX } else { sum };
        packet[start + offset..start + offset + 2].copy_from_slice(&sum.to_ne_bytes());
    }
}

/// Writes the length of a packet, whose transport header begins at `transport`, into its IP header, with IPv4's checksum.
pub(super) fn write_length(packet: &mut [u8], transport: usize) {
    let length = packet.len() as u16;
    if packet[0] >> 4 == 4 {
        packet[2..4].copy_from_slice(&length.to_be_bytes());
        packet[10..12].fill(0);
        let header = usize::from(packet[0] & 0x0f) * 4;
        let sum = Sum16BitWords::new().add_slice(&packet[..header.min(transport)]).ones_complement();
        packet[10..12].copy_from_slice(&sum.to_ne_bytes());
    } else {
        packet[4..6].copy_from_slice(&(length - 40).to_be_bytes());
    }
}

#[cfg(test)]
#[path = "offload_tests.rs"]
mod tests;
