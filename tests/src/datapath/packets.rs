//! The packets of the bench.

use std::sync::atomic::{AtomicU64, Ordering};

use etherparse::PacketBuilder;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::raw::Aim;
use super::stage::{LAN_MAC, OFFICE_HOST};

/// Bytes of small and large packets (IP).
pub const SMALL: usize = 60;
/// What fits into a tunnel.
pub const LARGE: usize = 1_400;

/// MAC address of the hosts.
pub const HOST_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
/// The host on the LAN, IPv4.
const HOST: [u8; 4] = [10, 1, 0, 5];
/// A host at the first remote site, IPv4.
const REMOTE: [u8; 4] = [10, 2, 0, 9];

/// What kind of packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// UDP over IPv4.
    Udp,
    /// TCP over IPv4, without time stamps.
    Tcp,
    /// UDP over IPv6.
    Ipv6,
    /// UDP over IPv4 with a VLAN tag, which the kernel has not taken off.
    Vlan,
}

impl Kind {
    /// A packet from the LAN to the first remote site.
    pub fn outbound(self, source_port: u16, destination_port: u16) -> Vec<u8> {
        self.frame(HOST, REMOTE, (source_port, destination_port), SMALL)
    }

    /// A packet from the LAN to an address that is no site's.
    pub fn elsewhere(self) -> Vec<u8> {
        self.frame(HOST, [192, 0, 2, 9], (40_000, 8_191), SMALL)
    }

    /// A packet from the first remote site, as the kernel's test-run wants it: with an Ethernet header.
    pub fn inbound(self) -> Vec<u8> {
        self.frame(REMOTE, OFFICE_HOST, (8_191, 40_000), SMALL)
    }

    /// For the addresses of IPv4 there are ones of IPv6: fd00:A:B::C:D.
    fn frame(self, source: [u8; 4], destination: [u8; 4], ports: (u16, u16), size: usize) -> Vec<u8> {
        let mut frame = Vec::new();
        let builder = PacketBuilder::ethernet2(HOST_MAC, LAN_MAC);
        let udp = |header: usize| vec![0x5a; size.saturating_sub(header + 8)];
        let written = match self {
            Self::Udp => builder.ipv4(source, destination, 255).udp(ports.0, ports.1).write(&mut frame, &udp(20)),
            Self::Tcp => builder
                .ipv4(source, destination, 255)
                .tcp(ports.0, ports.1, 1, 1_024)
                .ack(1)
                .write(&mut frame, &vec![0x5a; size.saturating_sub(40)]),
            Self::Ipv6 => {
                builder.ipv6(wide(source), wide(destination), 255).udp(ports.0, ports.1).write(&mut frame, &udp(40))
            }
            Self::Vlan => builder
                .single_vlan(7.try_into().expect("a small number"))
                .ipv4(source, destination, 255)
                .udp(ports.0, ports.1)
                .write(&mut frame, &udp(20)),
        };
        written.expect("memory takes any packet");
        frame
    }
}

/// The IPv6 address that stands for one of IPv4.
fn wide([a, b, c, d]: [u8; 4]) -> [u8; 16] {
    [0xfd, 0, 0, a, 0, b, 0, 0, 0, 0, 0, 0, 0, c, 0, d]
}

/// A UDP packet from the LAN to the first remote site, without a checksum: the generator changes its ports.
pub fn outbound(size: usize) -> Vec<u8> {
    without_checksum(Kind::Udp.frame(HOST, REMOTE, (0x4000, 0x2000), size))
}

/// The same from the first remote site to the office.
pub fn inbound(size: usize) -> Vec<u8> {
    without_checksum(Kind::Udp.frame(REMOTE, OFFICE_HOST, (0x2000, 0x4000), size))
}

fn without_checksum(mut frame: Vec<u8>) -> Vec<u8> {
    frame[40..42].fill(0);
    frame
}

/// Packets of which flow come next. A flow's number gives its ports: of each 64 in a row the destination ports differ.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Arrivals {
    /// So many flows, each as likely as the others.
    Uniform(u64),
    /// So many flows, the k-th one 1/k as likely as the first (Zipf's law).
    Zipf(u64),
    /// 64 flows, and in every so many packets one of a flow that nobody has seen.
    Churn(u64),
    /// So many flows in turn over so many sites with four prefixes each.
    Sites {
        /// Sites.
        sites: u64,
        /// Flows.
        flows: u64,
    },
}

/// Flows that everything but the breadth of flows is measured with.
pub const FEW: Arrivals = Arrivals::Uniform(64);

/// Where packets go one after the other.
pub struct Course {
    arrivals: Arrivals,
    random: StdRng,
    sent: u64,
    /// The flow before the first new one.
    known: u64,
}

impl Course {
    /// From the beginning: the same each time, but for flows that nobody has seen.
    pub fn new(arrivals: Arrivals) -> Self {
        static NEW: AtomicU64 = AtomicU64::new(1);
        let known = NEW.fetch_add(1, Ordering::Relaxed) << 24;
        Self { arrivals, random: StdRng::seed_from_u64(7), sent: 0, known }
    }

    /// The next packet to the first remote site.
    pub fn next_outbound(&mut self) -> Aim {
        let flow = self.flow();
        match self.arrivals {
            // Four prefixes of each site, each a single address.
            Arrivals::Sites { sites, .. } => {
                let site = (flow / 4 % sites) as u16;
                let [high, low] = site.to_be_bytes();
                Aim { address: [172, (flow % 4) as u8, low, high], ..outbound_aim(flow) }
            }
            _ => outbound_aim(flow),
        }
    }

    /// The next packet to the office.
    pub fn next_inbound(&mut self) -> Aim {
        let Aim { ports: [near, far], .. } = outbound_aim(self.flow());
        Aim { address: OFFICE_HOST, ports: [far, near] }
    }

    fn flow(&mut self) -> u64 {
        self.sent += 1;
        match self.arrivals {
            Arrivals::Uniform(flows) | Arrivals::Sites { flows, .. } => self.random.random_range(0..flows),
            // The continuous form of the law: the logarithm of the rank is uniform.
            Arrivals::Zipf(flows) => {
                let rank = ((flows + 1) as f64).powf(self.random.random::<f64>()) as u64 - 1;
                rank.min(flows - 1)
            }
            Arrivals::Churn(every) if self.sent.is_multiple_of(every) => self.known + self.sent / every,
            Arrivals::Churn(_) => self.random.random_range(0..64),
        }
    }
}

/// A flow to the first remote site: its number in six bits of the destination port, 14 of the source port, 16 of the
/// address.
fn outbound_aim(flow: u64) -> Aim {
    let source = 0x4000 | (flow >> 6 & 0x3fff) as u16;
    let destination = 0x2000 | (flow & 63) as u16;
    let host = (u16::from_be_bytes([REMOTE[2], REMOTE[3]]).wrapping_add((flow >> 20) as u16)).to_be_bytes();
    Aim { address: [REMOTE[0], REMOTE[1], host[0], host[1]], ports: [source.to_be_bytes(), destination.to_be_bytes()] }
}

/// The ports of flow `number` of [`Arrivals::Uniform`], if that is below 2²⁰.
pub fn ports(number: u64) -> (u16, u16) {
    let [source, destination] = outbound_aim(number).ports;
    (u16::from_be_bytes(source), u16::from_be_bytes(destination))
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    fn count(arrivals: Arrivals, packets: u64) -> BTreeMap<Aim, u64> {
        let mut course = Course::new(arrivals);
        let mut counts = BTreeMap::new();
        (0..packets).for_each(|_| *counts.entry(course.next_outbound()).or_default() += 1);
        counts
    }

    #[test]
    fn every_flow_of_a_uniform_course_comes_about_as_often() {
        let counts = count(Arrivals::Uniform(1_000), 1_000_000);
        assert_eq!(counts.len(), 1_000);
        assert!(counts.values().all(|count| (800..1_200).contains(count)), "{counts:?}");
    }

    #[test]
    fn the_first_flow_of_zipf_comes_ten_times_as_often_as_the_tenth() {
        let counts = count(Arrivals::Zipf(1_000_000), 1_000_000);
        let of = |rank: u64| counts[&outbound_aim(rank - 1)] as f64;
        // The continuous law gives the first ranks a little more than 1/k would.
        assert!((7.0..13.0).contains(&(of(1) / of(10))), "{} {}", of(1), of(10));
        assert!(counts.len() > 100_000, "{}", counts.len());
    }

    #[test]
    fn in_a_churn_every_so_many_packets_bring_a_flow_that_never_comes_again() {
        let counts = count(Arrivals::Churn(10), 100_000);
        assert_eq!(counts.values().filter(|count| **count == 1).count(), 10_000);
        assert_eq!(counts.len(), 10_064);
    }

    #[test]
    fn a_course_over_sites_reaches_each_prefix_and_no_flow_is_two() {
        for (sites, prefixes) in [(9_999, 39_996), (2, 8)] {
            let counts = count(Arrivals::Sites { sites, flows: 39_996 }, 1_000_000);
            let reached: BTreeSet<_> = counts.keys().map(|aim| aim.address).collect();
            assert_eq!((reached.len(), counts.len()), (prefixes, 39_996));
        }
    }
}
