//! Packets and addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::{PacketBuilder, TcpOptionElement};
use sdwan_common::abi::Address;

/// The test-run's packets arrive at the loopback interface, whose MAC address is all zeros.
pub const HERE: [u8; 6] = [0; 6];
pub const HOST: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// An address as the maps hold it.
pub fn address(text: &str) -> Address {
    match text.parse().expect(text) {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

/// A prefix as the maps hold it.
pub fn prefix(text: &str) -> (Address, u32) {
    let (base, length) = text.split_once('/').expect(text);
    let length: u32 = length.parse().expect(text);
    (address(base), if base.contains(':') { length } else { length + 96 })
}

/// What a packet is made of. The default is UDP over IPv4 from this site's LAN to the other site's.
#[derive(Clone, Debug)]
pub struct Spec {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub mac: [u8; 6],
    pub vlans: Vec<u16>,
    /// TTL or hop limit.
    pub ttl: u8,
    /// DSCP and ECN.
    pub tos: u8,
    /// IPv4: don't fragment.
    pub df: bool,
    /// IPv4: identification.
    pub identification: u16,
    /// IPv4: offset in 8 bytes, and more fragments.
    pub fragment: (u16, bool),
    /// IPv4 options, a multiple of 4 bytes.
    pub options: Vec<u8>,
    pub transport: Transport,
    pub payload: Vec<u8>,
}

#[derive(Clone, Debug)]
pub enum Transport {
    Udp(u16, u16),
    /// Ports, and the options of a SYN; `None` for a segment without SYN.
    Tcp(u16, u16, Option<Vec<TcpOptionElement>>),
    /// ICMP or ICMPv6 echo request: identifier.
    Echo(u16),
    /// Bytes as they are, of this IP protocol.
    Raw(u8),
}

impl Spec {
    pub fn v4(transport: Transport) -> Self {
        Self::between("10.1.0.5", "10.2.0.9", transport)
    }

    pub fn v6(transport: Transport) -> Self {
        Self::between("fd01::5", "fd02::9", transport)
    }

    pub fn between(source: &str, destination: &str, transport: Transport) -> Self {
        Self {
            source: source.parse().expect(source),
            destination: destination.parse().expect(destination),
            mac: HERE,
            vlans: vec![],
            ttl: 64,
            tos: 0,
            df: true,
            identification: 7,
            fragment: (0, false),
            options: vec![],
            transport,
            payload: vec![0x5a; 64],
        }
    }

    pub fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    /// The frame with its Ethernet header and tags.
    pub fn frame(&self) -> Vec<u8> {
        let mut frame = [self.mac, HOST].concat();
        for vlan in &self.vlans {
            frame.extend(0x8100u16.to_be_bytes());
            frame.extend(vlan.to_be_bytes());
        }
        frame.extend(if self.source.is_ipv4() { 0x0800u16 } else { 0x86dd }.to_be_bytes());
        frame.extend(self.packet());
        frame
    }

    /// The IP packet.
    pub fn packet(&self) -> Vec<u8> {
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => self.ipv4(source, destination),
            (IpAddr::V6(source), IpAddr::V6(destination)) => self.ipv6(source, destination),
            _ => panic!("one family"),
        }
    }

    fn ipv4(&self, source: Ipv4Addr, destination: Ipv4Addr) -> Vec<u8> {
        let (protocol, transport) = if self.fragment.0 == 0 {
            self.transport(IpAddr::V4(source), IpAddr::V4(destination))
        } else {
            (self.protocol(), self.payload.clone())
        };
        let mut header =
            etherparse::Ipv4Header::new(0, self.ttl, protocol.into(), source.octets(), destination.octets())
                .expect("short");
        header.options = self.options.as_slice().try_into().expect("options fit");
        header.set_payload_len(transport.len()).expect("fits");
        header.dscp = (self.tos >> 2).try_into().expect("6 bits");
        header.ecn = (self.tos & 3).try_into().expect("2 bits");
        header.dont_fragment = self.df;
        header.more_fragments = self.fragment.1;
        header.fragment_offset = self.fragment.0.try_into().expect("13 bits");
        header.identification = self.identification;
        header.header_checksum = header.calc_header_checksum();
        [header.to_bytes().to_vec(), transport].concat()
    }

    fn ipv6(&self, source: Ipv6Addr, destination: Ipv6Addr) -> Vec<u8> {
        let (protocol, transport) = self.transport(IpAddr::V6(source), IpAddr::V6(destination));
        let header = etherparse::Ipv6Header {
            traffic_class: self.tos,
            flow_label: 0x12345.try_into().expect("20 bits"),
            payload_length: transport.len().try_into().expect("short"),
            next_header: protocol.into(),
            hop_limit: self.ttl,
            source: source.octets(),
            destination: destination.octets(),
        };
        [header.to_bytes().to_vec(), transport].concat()
    }

    fn protocol(&self) -> u8 {
        match &self.transport {
            Transport::Udp(..) => 17,
            Transport::Tcp(..) => 6,
            Transport::Echo(_) if self.source.is_ipv4() => 1,
            Transport::Echo(_) => 58,
            Transport::Raw(protocol) => *protocol,
        }
    }

    /// The transport header with a right checksum, and the payload.
    fn transport(&self, source: IpAddr, destination: IpAddr) -> (u8, Vec<u8>) {
        if let Transport::Raw(protocol) = self.transport {
            return (protocol, self.payload.clone());
        }
        let mut out = Vec::new();
        // Built by the library with an IP header, which is cut off: it computes the checksums.
        let header = match (source, destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                PacketBuilder::ipv4(source.octets(), destination.octets(), 9)
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                PacketBuilder::ipv6(source.octets(), destination.octets(), 9)
            }
            _ => panic!("one family"),
        };
        let payload = &self.payload;
        match &self.transport {
            Transport::Udp(from, to) => header.udp(*from, *to).write(&mut out, payload),
            Transport::Tcp(from, to, None) => header.tcp(*from, *to, 1, 1000).ack(5).write(&mut out, payload),
            Transport::Tcp(from, to, Some(options)) => {
                header.tcp(*from, *to, 1, 1000).syn().options(options).expect("fit").write(&mut out, payload)
            }
            Transport::Echo(id) if source.is_ipv4() => header.icmpv4_echo_request(*id, 3).write(&mut out, payload),
            Transport::Echo(id) => header.icmpv6_echo_request(*id, 3).write(&mut out, payload),
            Transport::Raw(_) => unreachable!("above"),
        }
        .expect("a vector takes all");
        (self.protocol(), out.split_off(if source.is_ipv4() { 20 } else { 40 }))
    }
}

/// Sum of 16-bit words as RFC 1071 has it: 0xffff over data with a right checksum.
pub fn sum(parts: &[&[u8]]) -> u16 {
    let bytes = parts.concat();
    let mut total: u32 =
        bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0))).sum();
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    total as u16
}

/// Are the IP header's and the transport header's checksums of an IP packet without options right?
pub fn checksums_right(packet: &[u8]) -> bool {
    let (addresses, protocol, transport) = if packet[0] >> 4 == 4 {
        if sum(&[&packet[..20]]) != 0xffff {
            return false;
        }
        (&packet[12..20], packet[9], &packet[20..])
    } else {
        (&packet[8..40], packet[6], &packet[40..])
    };
    let pseudo = [&[0, protocol][..], &(transport.len() as u16).to_be_bytes()].concat();
    sum(&[addresses, &pseudo, transport]) == 0xffff
}
