//! Sends numbered UDP packets at a pace.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::account::{HEADER, Header};
use super::control::{any_address, set_option};
use super::report::Sent;
use crate::bed::{Attempt, BedError, Namespace, Result};

/// Up to so many flows have a socket each; more are written as raw packets.
const MOST_SOCKETS: u32 = 256;
const UDP_HEADER: usize = 8;

/// When a sender ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// After this time.
    After(Duration),
    /// After so many packets of all flows together.
    Packets(u64),
    /// When [`UdpSender::stop`] is called.
    WhenTold,
}

/// What to send.
#[derive(Clone, Debug)]
pub struct UdpSpec {
    /// Where to.
    pub destination: SocketAddr,
    /// Source address; the kernel's choice by default.
    pub source: Option<IpAddr>,
    /// Source port of the first flow; 0: the kernel's choice.
    pub source_port: u16,
    /// Flows: flow `n` has source port `source_port + n`. They send in turn.
    pub flows: u32,
    /// With more flows than ports: the flows spread over so many successive source addresses. They need not exist.
    pub sources: u32,
    /// Packets per second of all flows together.
    pub packets_per_second: f64,
    /// Bytes of the IP packet; at least 52 in IPv4, 72 in IPv6.
    pub size: usize,
    /// DSCP, 0..=63.
    pub dscp: u8,
    /// Sets Don't Fragment; without it, too large packets are fragmented.
    pub dont_fragment: bool,
    /// When to end.
    pub stop: Stop,
}

impl UdpSpec {
    /// One flow of 200-byte packets, until it is told to stop.
    pub fn new(destination: SocketAddr, packets_per_second: f64) -> Self {
        Self {
            destination,
            source: None,
            source_port: 0,
            flows: 1,
            sources: 1,
            packets_per_second,
            size: 200,
            dscp: 0,
            dont_fragment: false,
            stop: Stop::WhenTold,
        }
    }

    /// Ends after so many packets.
    pub fn packets(self, packets: u64) -> Self {
        Self { stop: Stop::Packets(packets), ..self }
    }

    /// Ends after this time.
    pub fn during(self, time: Duration) -> Self {
        Self { stop: Stop::After(time), ..self }
    }

    fn ip_header(&self) -> usize {
        if self.destination.is_ipv4() { 20 } else { 40 }
    }

    fn source_of(&self, flow: u32, source: IpAddr) -> (IpAddr, u16) {
        let sources = self.sources.max(1);
        let address = match source {
            IpAddr::V4(first) => Ipv4Addr::from(u32::from(first) + flow % sources).into(),
            IpAddr::V6(first) => Ipv6Addr::from(u128::from(first) + u128::from(flow % sources)).into(),
        };
        (address, self.source_port.wrapping_add((flow / sources) as u16))
    }
}

/// A running sender.
#[derive(Debug)]
pub struct UdpSender {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<Result<()>>>,
}

#[derive(Debug)]
struct Shared {
    sent: Mutex<Sent>,
    stop: AtomicBool,
}

impl UdpSender {
    /// Starts sending from a namespace.
    pub fn start(namespace: &Namespace, spec: UdpSpec) -> Result<Self> {
        let headers = spec.ip_header() + UDP_HEADER;
        if spec.size < headers + HEADER || spec.size > 65_535 || spec.flows == 0 || spec.packets_per_second <= 0.0 {
            return Err(BedError::Plan(format!("can't be sent: {spec:?}")));
        }
        let outlet = namespace
            .run(|| Outlet::open(&spec))?
            .attempt(|| format!("open sockets to {} in {}", spec.destination, namespace.name()))?;
        let sent = Sent { flows: vec![0; spec.flows as usize], ..Sent::default() };
        let shared = Arc::new(Shared { sent: Mutex::new(sent), stop: AtomicBool::new(false) });
        let of_thread = shared.clone();
        let thread = namespace.spawn("udp-send", move || send(&of_thread, &spec, &outlet))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// What was sent so far.
    pub fn sent(&self) -> Sent {
        self.shared.sent().clone()
    }

    /// Waits for its end by itself.
    ///
    /// # Panics
    /// When it was told to go on until [`Self::stop`] it would wait for ever; that is the caller's mistake to avoid.
    pub fn finish(mut self) -> Result<Sent> {
        self.join()?;
        Ok(self.sent())
    }

    /// Ends it now.
    pub fn stop(mut self) -> Result<Sent> {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.join()?;
        Ok(self.sent())
    }

    fn join(&mut self) -> Result<()> {
        match self.thread.take().map(JoinHandle::join) {
            Some(Err(panic)) => std::panic::resume_unwind(panic),
            Some(Ok(outcome)) => outcome,
            None => Ok(()),
        }
    }
}

impl Drop for UdpSender {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic in it has been printed.
            drop(thread.join());
        }
    }
}

impl Shared {
    fn sent(&self) -> MutexGuard<'_, Sent> {
        self.sent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn send(shared: &Shared, spec: &UdpSpec, outlet: &Outlet) {
    // SAFETY: prctl takes numbers only. Without slack, sleeps end on time.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1 as libc::c_ulong, 0, 0, 0) };
    let mut payload = vec![0x5a; spec.size - spec.ip_header() - UDP_HEADER];
    let mut packet = Vec::with_capacity(spec.size);
    let start = crate::bed::clock(libc::CLOCK_MONOTONIC);
    let (mut turn, mut flow) = (0u64, 0u32);
    while !shared.stop.load(Ordering::Relaxed) {
        let offset = (turn as f64 * 1e9 / spec.packets_per_second) as u64;
        match spec.stop {
            Stop::After(time) if u128::from(offset) >= time.as_nanos() => return,
            Stop::Packets(packets) if turn >= packets => return,
            _ => {}
        }
        if !sleep_until(start + offset, &shared.stop) {
            return;
        }
        let sequence = shared.sent().flows[flow as usize];
        let sent_ns = crate::bed::clock(libc::CLOCK_REALTIME);
        Header { flow, sequence, sent_ns }.write(&mut payload);
        let outcome = outlet.send(spec, flow, &payload, &mut packet);
        let mut sent = shared.sent();
        match outcome {
            Ok(()) => {
                sent.flows[flow as usize] += 1;
                sent.last_ns = sent_ns;
                if sent.first_ns == 0 {
                    sent.first_ns = sent_ns;
                }
            }
            Err(error) => {
                sent.refused += 1;
                sent.last_refusal = Some(error.to_string());
            }
        }
        drop(sent);
        turn += 1;
        flow = (flow + 1) % spec.flows;
    }
}

/// Sleeps until a time of `CLOCK_MONOTONIC`, ns; false when told to stop meanwhile.
fn sleep_until(time_ns: u64, stop: &AtomicBool) -> bool {
    const STEP: u64 = 100_000_000;
    loop {
        let now = crate::bed::clock(libc::CLOCK_MONOTONIC);
        if stop.load(Ordering::Relaxed) {
            return false;
        }
        if now >= time_ns {
            return true;
        }
        let until = time_ns.min(now + STEP);
        let time = libc::timespec { tv_sec: (until / 1_000_000_000) as i64, tv_nsec: (until % 1_000_000_000) as i64 };
        // SAFETY: the time lives through the call; the rest of an interrupted sleep isn't asked for.
        unsafe { libc::clock_nanosleep(libc::CLOCK_MONOTONIC, libc::TIMER_ABSTIME, &time, std::ptr::null_mut()) };
    }
}

/// The sockets of a sender.
enum Outlet {
    Each(Vec<UdpSocket>),
    Raw { socket: Socket, source: IpAddr },
}

impl Outlet {
    fn open(spec: &UdpSpec) -> io::Result<Self> {
        let many = spec.flows > MOST_SOCKETS || spec.sources > 1;
        if !many {
            return (0..spec.flows).map(|flow| open_udp(spec, flow)).collect::<io::Result<_>>().map(Self::Each);
        }
        let source = match spec.source {
            Some(source) => source,
            None => {
                let socket = UdpSocket::bind(any_address(&spec.destination, 0))?;
                socket.connect(spec.destination)?;
                socket.local_addr()?.ip()
            }
        };
        let v4 = spec.destination.is_ipv4();
        let (domain, protocol) = if v4 { (Domain::IPV4, libc::IPPROTO_RAW) } else { (Domain::IPV6, libc::IPPROTO_RAW) };
        let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(protocol)))?;
        set_option(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, 8 << 20)?;
        Ok(Self::Raw { socket, source })
    }

    fn send(&self, spec: &UdpSpec, flow: u32, payload: &[u8], packet: &mut Vec<u8>) -> io::Result<()> {
        match self {
            Self::Each(sockets) => sockets[flow as usize].send_to(payload, spec.destination).map(drop),
            Self::Raw { socket, source } => {
                write_packet(spec, flow, *source, payload, packet)?;
                // The port of a raw IPv6 destination must be zero.
                let mut destination = spec.destination;
                destination.set_port(0);
                socket.send_to(packet, &SockAddr::from(destination)).map(drop)
            }
        }
    }
}

fn open_udp(spec: &UdpSpec, flow: u32) -> io::Result<UdpSocket> {
    let port = if spec.source_port == 0 { 0 } else { spec.source_port.wrapping_add(flow as u16) };
    let mut local = any_address(&spec.destination, port);
    if let Some(source) = spec.source {
        local.set_ip(source);
    }
    let socket = UdpSocket::bind(local)?;
    let (fd, tos) = (socket.as_raw_fd(), libc::c_int::from(spec.dscp) << 2);
    let (level, tos_option, discover) = if spec.destination.is_ipv4() {
        (libc::IPPROTO_IP, libc::IP_TOS, libc::IP_MTU_DISCOVER)
    } else {
        (libc::IPPROTO_IPV6, libc::IPV6_TCLASS, libc::IPV6_MTU_DISCOVER)
    };
    set_option(fd, level, tos_option, tos)?;
    // PROBE sets DF and disregards what is known of the path; the values are the same for both families.
    let mode = if spec.dont_fragment { libc::IP_PMTUDISC_PROBE } else { libc::IP_PMTUDISC_DONT };
    set_option(fd, level, discover, mode)?;
    set_option(fd, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, 4 << 20)?;
    Ok(socket)
}

/// Writes a whole IP packet.
fn write_packet(spec: &UdpSpec, flow: u32, source: IpAddr, payload: &[u8], packet: &mut Vec<u8>) -> io::Result<()> {
    use etherparse::{IpNumber, Ipv4Header, Ipv6Header, UdpHeader};
    packet.clear();
    let (source, source_port) = spec.source_of(flow, source);
    let port = spec.destination.port();
    let length = UDP_HEADER + payload.len();
    let wrong = |error: &dyn std::fmt::Display| io::Error::new(io::ErrorKind::InvalidInput, error.to_string());
    match (source, spec.destination.ip()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let mut ip = Ipv4Header::new(length as u16, 64, IpNumber::UDP, source.octets(), destination.octets())
                .map_err(|error| wrong(&error))?;
            ip.dscp = spec.dscp.try_into().map_err(|_| wrong(&"DSCP above 63"))?;
            ip.dont_fragment = spec.dont_fragment;
            let udp = UdpHeader::with_ipv4_checksum(source_port, port, &ip, payload).map_err(|error| wrong(&error))?;
            ip.header_checksum = ip.calc_header_checksum();
            ip.write(packet)?;
            udp.write(packet)?;
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let ip = Ipv6Header {
                traffic_class: spec.dscp << 2,
                payload_length: length as u16,
                next_header: IpNumber::UDP,
                hop_limit: 64,
                source: source.octets(),
                destination: destination.octets(),
                ..Ipv6Header::default()
            };
            let udp = UdpHeader::with_ipv6_checksum(source_port, port, &ip, payload).map_err(|error| wrong(&error))?;
            ip.write(packet)?;
            udp.write(packet)?;
        }
        _ => return Err(wrong(&"source and destination are of different families")),
    }
    packet.extend_from_slice(payload);
    Ok(())
}
