//! Packets that provoke ICMP errors: too big, and hop by hop.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd, RawFd};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::control::{any_address, read_error, set_option};
use crate::bed::{Attempt, BedError, Namespace, Result};

const UDP_HEADER: usize = 8;

/// An ICMP or ICMPv6 error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IcmpError {
    /// Who sent it.
    pub from: IpAddr,
    /// ICMP type.
    pub kind: u8,
    /// ICMP code.
    pub code: u8,
    /// For "too big", the MTU it tells, bytes.
    pub mtu: u32,
}

/// What became of a large packet with Don't Fragment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// It left, and nothing came back.
    Silence,
    /// It is larger than the MTU of the way out and didn't leave.
    TooBigToLeave,
    /// Somebody told that it is too big.
    TooBig(IcmpError),
    /// It arrived where nobody listens, or another error came.
    Other(IcmpError),
}

/// A step of a traceroute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hop {
    /// TTL or hop limit.
    pub ttl: u8,
    /// The answer, if one came.
    pub answer: Option<IcmpError>,
    /// Time to the answer.
    pub rtt: Duration,
}

/// Sends one UDP packet of `size` bytes (IP packet) with Don't Fragment, disregarding what the kernel knows of the path,
/// and waits for an ICMP error.
pub fn probe_mtu(namespace: &Namespace, destination: SocketAddr, size: usize, patience: Duration) -> Result<Answer> {
    let headers = UDP_HEADER + if destination.is_ipv4() { 20 } else { 40 };
    let Some(length) = size.checked_sub(headers).filter(|length| *length <= 65_000) else {
        return Err(BedError::Plan(format!("a packet of {size} bytes can't be sent")));
    };
    let outcome: io::Result<Answer> = namespace.run(|| {
        let socket = open(destination)?;
        match socket.send_to(&vec![0x5a; length], destination) {
            Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => return Ok(Answer::TooBigToLeave),
            other => other?,
        };
        let error = wait_for_error(socket.as_raw_fd(), patience)?;
        Ok(error.map_or(
            Answer::Silence,
            |error| if is_too_big(&error) { Answer::TooBig(error) } else { Answer::Other(error) },
        ))
    })?;
    outcome.attempt(|| format!("probe {destination} from {}", namespace.name()))
}

/// Sends UDP packets with rising TTL until the destination answers or `most` hops are tried; waits for each answer.
pub fn traceroute(namespace: &Namespace, destination: SocketAddr, most: u8, patience: Duration) -> Result<Vec<Hop>> {
    let outcome = namespace.run(|| {
        let mut hops = Vec::new();
        for ttl in 1..=most {
            let socket = open(destination)?;
            let (level, option) = if destination.is_ipv4() {
                (libc::IPPROTO_IP, libc::IP_TTL)
            } else {
                (libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS)
            };
            set_option(socket.as_raw_fd(), level, option, i32::from(ttl))?;
            let start = Instant::now();
            socket.send_to(&[0; 32], destination)?;
            let answer = wait_for_error(socket.as_raw_fd(), patience)?;
            hops.push(Hop { ttl, answer, rtt: start.elapsed() });
            if answer.is_some_and(|answer| answer.from == destination.ip()) {
                break;
            }
        }
        io::Result::Ok(hops)
    })?;
    outcome.attempt(|| format!("traceroute {destination} from {}", namespace.name()))
}

fn open(destination: SocketAddr) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind(any_address(&destination, 0))?;
    let (level, errors, discover) = if destination.is_ipv4() {
        (libc::IPPROTO_IP, libc::IP_RECVERR, libc::IP_MTU_DISCOVER)
    } else {
        (libc::IPPROTO_IPV6, libc::IPV6_RECVERR, libc::IPV6_MTU_DISCOVER)
    };
    set_option(socket.as_raw_fd(), level, errors, 1)?;
    set_option(socket.as_raw_fd(), level, discover, libc::IP_PMTUDISC_PROBE)?;
    Ok(socket)
}

fn wait_for_error(socket: RawFd, patience: Duration) -> io::Result<Option<IcmpError>> {
    let start = Instant::now();
    loop {
        while let Some(error) = read_error(socket)? {
            let from_network = [libc::SO_EE_ORIGIN_ICMP, libc::SO_EE_ORIGIN_ICMP6].contains(&error.origin);
            if let (true, Some(from)) = (from_network, error.offender) {
                return Ok(Some(IcmpError { from, kind: error.kind, code: error.code, mtu: error.info }));
            }
        }
        let Some(left) = patience.checked_sub(start.elapsed()) else { return Ok(None) };
        let mut descriptor = libc::pollfd { fd: socket, events: 0, revents: 0 };
        // SAFETY: the descriptor lives through the call. Errors are reported without being asked for.
        if unsafe { libc::poll(&mut descriptor, 1, left.as_millis().min(1_000) as i32 + 1) } < 0 {
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
    }
}

fn is_too_big(error: &IcmpError) -> bool {
    match error.from {
        // Destination unreachable, fragmentation needed (RFC 792, RFC 1191).
        IpAddr::V4(_) => (error.kind, error.code) == (3, 4),
        // Packet too big (RFC 4443).
        IpAddr::V6(_) => error.kind == 2,
    }
}
