//! Floods of a tunnel's port, made in the kernel (XDP live frames) from 65,536 source addresses.

use std::net::Ipv4Addr;

use anyhow::{Context, Result, ensure};
use etherparse::{IpHeaders, IpNumber, Ipv4Extensions, Ipv4Header, PacketBuilder};

use crate::bed::{Link, Namespace};
use crate::datapath::raw::{self, EXIT, Instruction, Object, PRANDOM, REDIRECT, XDP, add, call, copy, set};

/// What the packets are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Transport data of sessions that don't exist, each packet of another one.
    Data,
    /// Handshake initiations, whose authenticator is wrong.
    Initiations,
    /// Datagrams that can't be WireGuard's.
    Garbage,
}

impl Kind {
    /// All.
    pub const ALL: [Self; 3] = [Self::Data, Self::Initiations, Self::Garbage];

    /// The counter of the guard under which nearly all of them are dropped.
    pub const fn counter(self) -> &'static str {
        match self {
            Self::Data => "unknown_session_limited",
            Self::Initiations => "initiation_limited",
            Self::Garbage => "not_wireguard",
        }
    }

    fn payload(self) -> Vec<u8> {
        let (kind, length): (u32, usize) = match self {
            Self::Data => (4, 148),
            Self::Initiations => (1, 148),
            Self::Garbage => (9, 148),
        };
        let mut bytes = vec![0x5a; length];
        bytes[..4].copy_from_slice(&kind.to_le_bytes());
        bytes
    }
}

/// Bytes before the UDP payload.
const HEADERS: i16 = 14 + 20 + 8;
/// The identification and the lower half of the source address.
const IDENTIFICATION: i16 = 14 + 4;
const SOURCE_LOW: i16 = 14 + 14;

/// A flood that can be sent again and again.
pub struct Flood {
    program: Object,
    frame: Vec<u8>,
    namespace: Namespace,
}

impl Flood {
    /// One of the port of a tunnel at the end of a line.
    ///
    /// # Errors
    /// When the kernel refuses the generator, or the line has no IPv4 address.
    pub fn of(link: &Link, site: &Namespace, port: u16, kind: Kind) -> Result<Self> {
        let address = link.attachments().iter().find_map(|one| match one.address.addr() {
            std::net::IpAddr::V4(address) => Some(address),
            std::net::IpAddr::V6(_) => None,
        });
        let address = address.context("the line has no IPv4 address")?;
        let mac = mac(site, link.uplink())?;
        Self::to(link.provider(), link.port(), mac, address, port, kind)
    }

    /// One out of an interface, to a host behind it.
    ///
    /// # Errors
    /// When the kernel refuses the generator.
    pub fn to(
        namespace: &Namespace,
        interface: &str,
        mac: [u8; 6],
        address: Ipv4Addr,
        port: u16,
        kind: Kind,
    ) -> Result<Self> {
        let ifindex = namespace.ifindex(interface)?;
        // The identification and the lower half of the source keep their sum, whatever they are.
        let mut header = Ipv4Header::new(0, 64, IpNumber::UDP, [198, 18, 0, 0], address.octets())?;
        header.identification = 0xffff;
        let mut frame = Vec::new();
        PacketBuilder::ethernet2([2, 0, 0, 0, 0, 0xee], mac)
            .ip(IpHeaders::Ipv4(header, Ipv4Extensions::default()))
            .udp(40_000, port)
            .write(&mut frame, &kind.payload())
            .context("memory takes any packet")?;
        // Without a UDP checksum.
        frame[40..42].fill(0);
        Ok(Self { program: generator(ifindex)?, frame, namespace: namespace.clone() })
    }

    /// Sends so many packets, as fast as it goes; returns when all are on their way. This thread must be in no namespace in
    /// particular: it enters that of the interface.
    ///
    /// # Errors
    /// When the kernel has no live frames.
    pub fn send(&self, packets: u32) -> Result<()> {
        let sent = self.namespace.run(|| self.program.send(&self.frame, packets))?;
        sent.context("send live frames: this needs Linux 5.18")
    }
}

/// Gives each packet one of 65,536 source addresses and eight random bytes behind the first four of its payload.
fn generator(ifindex: u32) -> Result<Object> {
    let mut program = vec![
        // r6 = the packet, r2 = its end; a shorter packet is dropped.
        Instruction(0x61, 6, 1, 0, 0),
        Instruction(0x61, 2, 1, 4, 0),
        copy(3, 6),
        add(3, HEADERS as u32 + 12),
        Instruction(0xbd, 3, 2, 2, 0),
        set(0, 1),
        EXIT,
        // The lower half of the source address is random, the identification its complement: the sum stays.
        call(PRANDOM),
        Instruction(0x6b, 6, 0, SOURCE_LOW, 0),
        Instruction(0xa7, 0, 0, 0, 0xffff),
        Instruction(0x6b, 6, 0, IDENTIFICATION, 0),
    ];
    for offset in [HEADERS + 4, HEADERS + 8] {
        program.extend([call(PRANDOM), Instruction(0x63, 6, 0, offset, 0)]);
    }
    program.extend([set(1, ifindex), set(2, 0), call(REDIRECT), EXIT]);
    raw::load(XDP, &program).context("load the generator")
}

fn mac(namespace: &Namespace, interface: &str) -> Result<[u8; 6]> {
    let text = namespace.mac(interface)?;
    let bytes: Vec<u8> =
        text.split(':').map(|byte| u8::from_str_radix(byte, 16)).collect::<Result<_, _>>().context(text.clone())?;
    ensure!(bytes.len() == 6, "{interface} has no MAC address: {text}");
    Ok([bytes[0], bytes[1], bytes[2], bytes[3], bytes[4], bytes[5]])
}

/// An interface behind which everything is dropped at once, as cheaply as XDP can, and its MAC address's bearer: where a
/// generator sends when nobody is to be flooded.
pub struct Sink {
    _link: Object,
}

/// Name of the interface to send out of.
pub const SINK_PORT: &str = "flood-port";
const SINK: &str = "flood-sink";

impl Sink {
    /// Makes it in a namespace.
    ///
    /// # Errors
    /// When the kernel has no veth or no native XDP for it.
    pub fn new(namespace: &Namespace) -> Result<Self> {
        namespace.ip(&format!(
            "link add {SINK_PORT} type veth peer name {SINK}\nlink set {SINK_PORT} up\nlink set {SINK} up\n"
        ))?;
        let ifindex = namespace.ifindex(SINK)?;
        let drop_all = raw::load(XDP, &[set(0, 1), EXIT])?;
        let link = namespace.run(|| drop_all.attach_xdp(ifindex))?.context("attach to the sink")?;
        Ok(Self { _link: link })
    }
}
