//! Ping.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::control::set_option;
use crate::bed::{Attempt, Namespace, Result};
use crate::histogram::{Histogram, Quantiles};

const HEADER: usize = 8;

/// What to ping.
#[derive(Clone, Copy, Debug)]
pub struct PingSpec {
    /// Whom.
    pub destination: IpAddr,
    /// From which address; the kernel's choice by default.
    pub source: Option<IpAddr>,
    /// How often.
    pub count: u16,
    /// Time between two.
    pub interval: Duration,
    /// How long to wait for the last answers.
    pub patience: Duration,
    /// Bytes of the IP packet; at least 28 in IPv4, 48 in IPv6.
    pub size: usize,
    /// Sets Don't Fragment (IPv4), or doesn't fragment (IPv6).
    pub dont_fragment: bool,
}

impl PingSpec {
    /// So many pings of 84 (104 in IPv6) bytes, 10 ms apart; waits a second for the last answers.
    pub fn new(destination: IpAddr, count: u16) -> Self {
        Self {
            destination,
            source: None,
            count,
            interval: Duration::from_millis(10),
            patience: Duration::from_secs(1),
            size: if destination.is_ipv4() { 84 } else { 104 },
            dont_fragment: false,
        }
    }
}

/// What came back.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PingReport {
    /// Requests that left.
    pub sent: u64,
    /// Requests that the kernel refused, such as too large ones.
    pub refused: u64,
    /// Requests that were answered.
    pub answered: u64,
    /// Answers beyond the first to a request.
    pub duplicated: u64,
    /// Round-trip times.
    pub rtt: Quantiles,
}

/// Pings from a namespace.
pub fn ping(namespace: &Namespace, spec: &PingSpec) -> Result<PingReport> {
    namespace.run(|| run(spec))?.attempt(|| format!("ping {} from {}", spec.destination, namespace.name()))
}

fn run(spec: &PingSpec) -> io::Result<PingReport> {
    let v4 = spec.destination.is_ipv4();
    let (domain, protocol) = if v4 { (Domain::IPV4, Protocol::ICMPV4) } else { (Domain::IPV6, Protocol::ICMPV6) };
    let socket = Socket::new(domain, Type::RAW, Some(protocol))?;
    if let Some(source) = spec.source {
        socket.bind(&SockAddr::from(SocketAddr::new(source, 0)))?;
    }
    let (level, option) =
        if v4 { (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER) } else { (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER) };
    let mode = if spec.dont_fragment { libc::IP_PMTUDISC_PROBE } else { libc::IP_PMTUDISC_DONT };
    set_option(socket.as_raw_fd(), level, option, mode)?;
    let destination = SockAddr::from(SocketAddr::new(spec.destination, 0));
    let identifier: u16 = rand::random();
    let ip_header = if v4 { 20 } else { 40 };
    let mut packet = vec![0u8; spec.size.max(ip_header + HEADER) - ip_header];
    let mut report = PingReport::default();
    let mut rtt = Histogram::default();
    let mut sent_at: Vec<Option<Instant>> = Vec::new();
    let mut answered = vec![false; usize::from(spec.count)];
    let start = Instant::now();
    for sequence in 0..spec.count {
        write_request(&mut packet, v4, identifier, sequence);
        sent_at.push(Some(Instant::now()));
        if socket.send_to(&packet, &destination).is_ok() {
            report.sent += 1;
        } else {
            report.refused += 1;
        }
        let last = sequence + 1 == spec.count;
        let until = start + spec.interval * u32::from(sequence + 1) + if last { spec.patience } else { Duration::ZERO };
        while let Some(left) = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            if last && report.answered == report.sent {
                break;
            }
            socket.set_read_timeout(Some(left.max(Duration::from_micros(1))))?;
            let Some(number) = read_answer(&socket, v4, identifier)? else { continue };
            let Some(Some(at)) = sent_at.get(usize::from(number)) else { continue };
            if std::mem::replace(&mut answered[usize::from(number)], true) {
                report.duplicated += 1;
            } else {
                report.answered += 1;
                rtt.record(at.elapsed());
            }
        }
    }
    report.rtt = rtt.quantiles();
    Ok(report)
}

fn write_request(packet: &mut [u8], v4: bool, identifier: u16, sequence: u16) {
    packet[..4].copy_from_slice(&[if v4 { 8 } else { 128 }, 0, 0, 0]);
    packet[4..6].copy_from_slice(&identifier.to_be_bytes());
    packet[6..8].copy_from_slice(&sequence.to_be_bytes());
    if v4 {
        // The kernel fills in the checksum of ICMPv6, but not of ICMP (RFC 1071).
        let mut sum = 0u32;
        for pair in packet.chunks(2) {
            sum += u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
        }
        sum = (sum & 0xffff) + (sum >> 16);
        sum += sum >> 16;
        packet[2..4].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    }
}

/// The sequence number of an answer to us; `None` for anything else and at the timeout.
fn read_answer(socket: &Socket, v4: bool, identifier: u16) -> io::Result<Option<u16>> {
    let mut buffer = [0u8; 128];
    let mut reader = socket;
    let length = match io::Read::read(&mut reader, &mut buffer) {
        Ok(length) => length,
        Err(error) => {
            let nothing = [io::ErrorKind::WouldBlock, io::ErrorKind::TimedOut, io::ErrorKind::Interrupted];
            return if nothing.contains(&error.kind()) { Ok(None) } else { Err(error) };
        }
    };
    let skipped = if v4 { usize::from(buffer[0] & 0x0f) * 4 } else { 0 };
    let Some(message) = buffer[..length].get(skipped..).filter(|message| message.len() >= HEADER) else {
        return Ok(None);
    };
    let is_answer = message[0] == if v4 { 0 } else { 129 };
    let ours = u16::from_be_bytes([message[4], message[5]]) == identifier;
    Ok((is_answer && ours).then(|| u16::from_be_bytes([message[6], message[7]])))
}
