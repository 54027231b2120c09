//! Receives numbered UDP packets with the kernel's time stamps.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

use super::account::{Accounts, Arrival, Header};
use super::control::{Batch, set_option};
use super::report::{Report, Sent};
use crate::bed::{Attempt, Namespace, Result};

/// Silence that counts as a gap by default.
const SILENCE: Duration = Duration::from_millis(100);

/// A running receiver.
#[derive(Debug)]
pub struct UdpReceiver {
    shared: Arc<Shared>,
    local: SocketAddr,
    thread: Option<JoinHandle<Result<io::Result<()>>>>,
}

#[derive(Debug)]
struct Shared {
    accounts: Mutex<Accounts>,
    dropped: AtomicU32,
    stop: AtomicBool,
}

impl UdpReceiver {
    /// Starts receiving on an address of a namespace; port 0 is the kernel's choice. Silence of 100 ms is a gap.
    pub fn start(namespace: &Namespace, local: SocketAddr) -> Result<Self> {
        Self::with_silence(namespace, local, SILENCE)
    }

    /// Starts receiving; silence of more than `silence` counts as a gap even when nothing is lost.
    pub fn with_silence(namespace: &Namespace, local: SocketAddr, silence: Duration) -> Result<Self> {
        let socket = namespace
            .run(|| open(local))?
            .attempt(|| format!("open a UDP socket on {local} in {}", namespace.name()))?;
        let local = socket.local_addr().attempt(|| "read the socket's address".into())?;
        let shared = Arc::new(Shared {
            accounts: Mutex::new(Accounts::new(silence)),
            dropped: AtomicU32::new(0),
            stop: AtomicBool::new(false),
        });
        let of_thread = shared.clone();
        let thread = namespace.spawn("udp-receive", move || receive(&of_thread, &socket))?;
        Ok(Self { shared, local, thread: Some(thread) })
    }

    /// The address it listens on.
    pub fn local(&self) -> SocketAddr {
        self.local
    }

    /// Different packets that arrived so far.
    pub fn received(&self) -> u64 {
        self.shared.accounts().received()
    }

    /// What became of the packets so far; those on their way count as lost.
    pub fn snapshot(&self, sent: &Sent) -> Report {
        let report = self.shared.accounts().report(sent);
        Report { socket_dropped: u64::from(self.shared.dropped.load(Ordering::Relaxed)), ..report }
    }

    /// What became of the packets so far, for a sender that can't be asked: the highest sequence number that arrived is
    /// taken for the last one.
    pub fn presume(&self) -> Report {
        let presumed = self.shared.accounts().presumed();
        self.snapshot(&presumed)
    }

    /// Waits until all packets are there, or none came for `patience`; then ends and reports.
    pub fn finish(self, sent: &Sent, patience: Duration) -> Result<Report> {
        let (mut last, mut since) = (self.received(), Instant::now());
        while last < sent.packets() && since.elapsed() < patience {
            sleep(Duration::from_millis(2));
            let now = self.received();
            if now != last {
                (last, since) = (now, Instant::now());
            }
        }
        Ok(self.snapshot(sent))
    }
}

impl Drop for UdpReceiver {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic in it has been printed.
            drop(thread.join());
        }
    }
}

impl Shared {
    fn accounts(&self) -> MutexGuard<'_, Accounts> {
        self.accounts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn open(local: SocketAddr) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind(local)?;
    let fd = socket.as_raw_fd();
    set_option(fd, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, 64 << 20)?;
    set_option(fd, libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, 1)?;
    set_option(fd, libc::SOL_SOCKET, libc::SO_RXQ_OVFL, 1)?;
    if local.is_ipv4() {
        set_option(fd, libc::IPPROTO_IP, libc::IP_RECVTOS, 1)?;
        set_option(fd, libc::IPPROTO_IP, libc::IP_RECVTTL, 1)?;
    } else {
        set_option(fd, libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS, 1)?;
        set_option(fd, libc::IPPROTO_IPV6, libc::IPV6_RECVHOPLIMIT, 1)?;
    }
    socket.set_read_timeout(Some(Duration::from_millis(50)))?;
    Ok(socket)
}

fn receive(shared: &Shared, socket: &UdpSocket) -> io::Result<()> {
    let mut batch = Batch::new();
    let mut arrivals = Vec::new();
    while !shared.stop.load(Ordering::Relaxed) {
        arrivals.clear();
        batch.receive(socket.as_raw_fd(), |datagram| {
            shared.dropped.fetch_max(datagram.dropped, Ordering::Relaxed);
            arrivals.push(Header::read(datagram.start).map(|header| Arrival {
                header,
                received_ns: datagram.stamp_ns,
                dscp: datagram.tos >> 2,
                ttl: datagram.ttl,
            }));
        })?;
        let mut accounts = shared.accounts();
        for arrival in &arrivals {
            match arrival {
                Some(arrival) => accounts.arrived(*arrival),
                None => accounts.foreign(),
            }
        }
    }
    Ok(())
}
