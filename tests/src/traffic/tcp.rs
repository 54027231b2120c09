//! Bulk TCP: how much, how fast, how steadily.

use std::io::{self, ErrorKind, Read, Write};
use std::mem::{size_of, zeroed};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use socket2::{Domain, SockAddr, Socket, Type};

use super::control::{any_address, set_option};
use crate::bed::{Attempt, Namespace, Result};

/// Length of the intervals that throughput is told for.
const INTERVAL: Duration = Duration::from_millis(100);
const TICK: Duration = Duration::from_millis(20);

/// What to transfer.
#[derive(Clone, Debug)]
pub struct TcpSpec {
    /// Where to.
    pub destination: SocketAddr,
    /// Source address; the kernel's choice by default.
    pub source: Option<IpAddr>,
    /// Source port; 0: the kernel's choice.
    pub source_port: u16,
    /// Ends after this time…
    pub time: Duration,
    /// …or after so many bytes.
    pub bytes: Option<u64>,
    /// Not faster than this, bit/s; as fast as it goes by default.
    pub rate: Option<u64>,
    /// DSCP, 0..=63.
    pub dscp: u8,
    /// How long the connection may take.
    pub patience: Duration,
}

impl TcpSpec {
    /// As much as goes in this time.
    pub fn new(destination: SocketAddr, time: Duration) -> Self {
        let patience = Duration::from_secs(5);
        Self { destination, source: None, source_port: 0, time, bytes: None, rate: None, dscp: 0, patience }
    }
}

/// What a source did.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TcpReport {
    /// Bytes that the peer acknowledged.
    pub acknowledged: u64,
    /// From the connection to the end.
    pub time: Duration,
    /// Mean rate of acknowledged payload, bit/s.
    pub bits_per_second: f64,
    /// Segments sent again.
    pub retransmitted: u64,
    /// Largest segment that was sent, bytes of payload.
    pub segment: u32,
    /// Path MTU that the kernel knows at the end, bytes.
    pub path_mtu: u32,
    /// Smoothed round-trip time at the end.
    pub rtt: Duration,
    /// Why it ended early, if it did.
    pub error: Option<String>,
}

/// A server that takes everything and answers nothing.
#[derive(Debug)]
pub struct TcpSink {
    shared: Arc<SinkShared>,
    local: SocketAddr,
    thread: Option<JoinHandle<Result<()>>>,
}

#[derive(Debug)]
struct SinkShared {
    bytes: AtomicU64,
    /// Bytes in each [`INTERVAL`] since the start.
    intervals: Mutex<Vec<u64>>,
    stop: AtomicBool,
}

impl TcpSink {
    /// Starts a sink on an address of a namespace; port 0 is the kernel's choice.
    pub fn start(namespace: &Namespace, local: SocketAddr) -> Result<Self> {
        let listener = namespace
            .run(|| TcpListener::bind(local))?
            .and_then(|listener| listener.set_nonblocking(true).map(|()| listener))
            .attempt(|| format!("listen on {local} in {}", namespace.name()))?;
        let local = listener.local_addr().attempt(|| "read the socket's address".into())?;
        let shared = Arc::new(SinkShared {
            bytes: AtomicU64::new(0),
            intervals: Mutex::new(Vec::new()),
            stop: AtomicBool::new(false),
        });
        let of_thread = shared.clone();
        let thread = namespace.spawn("tcp-sink", move || of_thread.serve(&listener))?;
        Ok(Self { shared, local, thread: Some(thread) })
    }

    /// The address it listens on.
    pub fn local(&self) -> SocketAddr {
        self.local
    }

    /// Bytes of payload so far.
    pub fn bytes(&self) -> u64 {
        self.shared.bytes.load(Ordering::Relaxed)
    }

    /// Bytes of payload in each 100 ms since the start.
    pub fn intervals(&self) -> Vec<u64> {
        self.shared.intervals.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for TcpSink {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic in it has been printed.
            drop(thread.join());
        }
    }
}

impl SinkShared {
    fn serve(&self, listener: &TcpListener) {
        let start = Instant::now();
        std::thread::scope(|scope| {
            while !self.stop.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((stream, _)) => drop(scope.spawn(move || self.take_all(stream, start))),
                    // Nobody there, or a connection that was gone before it was accepted.
                    Err(_) => std::thread::sleep(TICK),
                }
            }
        });
    }

    fn take_all(&self, mut stream: TcpStream, start: Instant) {
        if stream.set_nonblocking(false).and_then(|()| stream.set_read_timeout(Some(TICK))).is_err() {
            return;
        }
        let mut buffer = vec![0; 256 << 10];
        while !self.stop.load(Ordering::Relaxed) {
            match stream.read(&mut buffer) {
                Ok(0) => return,
                Ok(count) => self.count(count as u64, start),
                Err(error) if is_timeout(&error) => {}
                Err(_) => return,
            }
        }
    }

    fn count(&self, bytes: u64, start: Instant) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let index = (start.elapsed().as_millis() / INTERVAL.as_millis()) as usize;
        let mut intervals = self.intervals.lock().unwrap_or_else(PoisonError::into_inner);
        if index >= intervals.len() {
            intervals.resize(index + 1, 0);
        }
        intervals[index] += bytes;
    }
}

/// A running transfer.
#[derive(Debug)]
pub struct TcpSource {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<io::Result<TcpReport>>>>,
    what: String,
}

impl TcpSource {
    /// Starts a transfer from a namespace.
    pub fn start(namespace: &Namespace, spec: TcpSpec) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let of_thread = stop.clone();
        let what = format!("transfer to {} from {}", spec.destination, namespace.name());
        let thread = namespace.spawn("tcp-source", move || transfer(&spec, &of_thread))?;
        Ok(Self { stop, thread: Some(thread), what })
    }

    /// Waits for its end. A connection that can't be made is an error; one that breaks is told in the report.
    pub fn finish(mut self) -> Result<TcpReport> {
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(outcome)) => outcome?.attempt(|| self.what.clone()),
            Some(Err(panic)) => std::panic::resume_unwind(panic),
            None => Ok(TcpReport::default()),
        }
    }

    /// Ends it now.
    pub fn stop(self) -> Result<TcpReport> {
        self.stop.store(true, Ordering::Relaxed);
        self.finish()
    }
}

impl Drop for TcpSource {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic in it has been printed.
            drop(thread.join());
        }
    }
}

fn transfer(spec: &TcpSpec, stop: &AtomicBool) -> io::Result<TcpReport> {
    let mut stream = connect(spec)?;
    stream.set_write_timeout(Some(TICK))?;
    let start = Instant::now();
    let chunk = vec![0x5a; 128 << 10];
    let (mut written, mut error) = (0u64, None);
    while !stop.load(Ordering::Relaxed) && start.elapsed() < spec.time {
        let left = spec.bytes.map_or(u64::MAX, |bytes| bytes.saturating_sub(written));
        if left == 0 {
            break;
        }
        match stream.write(&chunk[..left.min(chunk.len() as u64) as usize]) {
            Ok(count) => written += count as u64,
            Err(failure) if is_timeout(&failure) => {}
            Err(failure) => {
                error = Some(failure.to_string());
                break;
            }
        }
    }
    if spec.bytes.is_some() {
        wait_for_acknowledgement(&stream, written, start, spec, stop)?;
    }
    let time = start.elapsed();
    let information = tcp_info(&stream)?;
    let acknowledged = payload(&information);
    Ok(TcpReport {
        acknowledged,
        time,
        bits_per_second: acknowledged as f64 * 8.0 / time.as_secs_f64(),
        retransmitted: u64::from(information.tcpi_total_retrans),
        segment: information.tcpi_snd_mss,
        path_mtu: information.tcpi_pmtu,
        rtt: Duration::from_micros(u64::from(information.tcpi_rtt)),
        error,
    })
}

/// Acknowledged bytes of payload: the kernel counts the connection's SYN as well.
fn payload(information: &libc::tcp_info) -> u64 {
    information.tcpi_bytes_acked.saturating_sub(1)
}

fn wait_for_acknowledgement(
    stream: &TcpStream,
    written: u64,
    start: Instant,
    spec: &TcpSpec,
    stop: &AtomicBool,
) -> io::Result<()> {
    while payload(&tcp_info(stream)?) < written && start.elapsed() < spec.time && !stop.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

fn connect(spec: &TcpSpec) -> io::Result<TcpStream> {
    let v4 = spec.destination.is_ipv4();
    let socket = Socket::new(if v4 { Domain::IPV4 } else { Domain::IPV6 }, Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    let mut local = any_address(&spec.destination, spec.source_port);
    if let Some(source) = spec.source {
        local.set_ip(source);
    }
    socket.bind(&SockAddr::from(local))?;
    let tos = i32::from(spec.dscp) << 2;
    let (level, option) = if v4 { (libc::IPPROTO_IP, libc::IP_TOS) } else { (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) };
    set_option(socket.as_raw_fd(), level, option, tos)?;
    if let Some(rate) = spec.rate {
        // Bytes per second; TCP paces by itself, whatever queue the interface has.
        let rate = i32::try_from(rate / 8).map_err(|_| io::Error::from(ErrorKind::InvalidInput))?;
        set_option(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_MAX_PACING_RATE, rate)?;
    }
    socket.connect_timeout(&SockAddr::from(spec.destination), spec.patience)?;
    Ok(socket.into())
}

fn tcp_info(stream: &TcpStream) -> io::Result<libc::tcp_info> {
    // SAFETY: all zeros is a valid value of this structure of numbers.
    let mut information: libc::tcp_info = unsafe { zeroed() };
    let mut length = size_of::<libc::tcp_info>() as libc::socklen_t;
    let at = std::ptr::from_mut(&mut information).cast();
    // SAFETY: the structure and its length live through the call.
    if unsafe { libc::getsockopt(stream.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, at, &mut length) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(information)
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}
