//! Counts packets that pass interfaces: which uplink or tunnel carries a flow.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use etherparse::{NetSlice, SlicedPacket, TransportSlice};

use crate::bed::{Attempt, Batch, Namespace, PacketSocket, Received, Result};

/// Which packets to count; what is `None` doesn't matter. Matches the outermost IP packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// IP protocol.
    pub protocol: Option<u8>,
    /// Source address.
    pub source: Option<IpAddr>,
    /// Destination address.
    pub destination: Option<IpAddr>,
    /// Source port.
    pub source_port: Option<u16>,
    /// Destination port.
    pub destination_port: Option<u16>,
    /// DSCP.
    pub dscp: Option<u8>,
}

impl Filter {
    /// UDP to this port.
    pub fn udp_to(port: u16) -> Self {
        Self { protocol: Some(17), destination_port: Some(port), ..Self::default() }
    }

    /// TCP to this port.
    pub fn tcp_to(port: u16) -> Self {
        Self { protocol: Some(6), destination_port: Some(port), ..Self::default() }
    }

    /// Whether an IP packet matches.
    pub fn matches(&self, packet: &[u8]) -> bool {
        let Ok(sliced) = SlicedPacket::from_ip(packet) else { return false };
        let (source, destination, protocol, dscp): (IpAddr, IpAddr, u8, u8) = match &sliced.net {
            Some(NetSlice::Ipv4(ip)) => {
                let header = ip.header();
                let protocol = ip.payload().ip_number.0;
                (header.source_addr().into(), header.destination_addr().into(), protocol, header.dcp().value())
            }
            Some(NetSlice::Ipv6(ip)) => {
                let header = ip.header();
                let protocol = ip.payload().ip_number.0;
                (header.source_addr().into(), header.destination_addr().into(), protocol, header.traffic_class() >> 2)
            }
            _ => return false,
        };
        let ports = match &sliced.transport {
            Some(TransportSlice::Udp(udp)) => Some((udp.source_port(), udp.destination_port())),
            Some(TransportSlice::Tcp(tcp)) => Some((tcp.source_port(), tcp.destination_port())),
            _ => None,
        };
        let same = |wanted: Option<u16>, found: Option<u16>| wanted.is_none_or(|wanted| found == Some(wanted));
        self.protocol.is_none_or(|wanted| wanted == protocol)
            && self.source.is_none_or(|wanted| wanted == source)
            && self.destination.is_none_or(|wanted| wanted == destination)
            && self.dscp.is_none_or(|wanted| wanted == dscp)
            && same(self.source_port, ports.map(|ports| ports.0))
            && same(self.destination_port, ports.map(|ports| ports.1))
    }
}

/// Packets that matched on one interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Packets that the machine sent there.
    pub sent: u64,
    /// Packets that it received there.
    pub received: u64,
}

/// A running count.
#[derive(Debug)]
pub struct Capture {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<Result<io::Result<()>>>>,
}

#[derive(Debug)]
struct Shared {
    /// By interface, then by number of the filter.
    counts: Mutex<BTreeMap<String, Vec<Count>>>,
    stop: AtomicBool,
}

impl Capture {
    /// Starts counting on interfaces of a namespace; packets are counted for each filter that matches.
    ///
    /// Packets are seen before tc ingress and after tc egress.
    pub fn start(namespace: &Namespace, interfaces: &[&str], filters: &[Filter]) -> Result<Self> {
        let mut sockets = Vec::new();
        let mut counts = BTreeMap::new();
        for interface in interfaces {
            let index = namespace.ifindex(interface)?;
            let socket = namespace
                .run(|| PacketSocket::open(index, false, true))?
                .attempt(|| format!("capture on {interface} in {}", namespace.name()))?;
            sockets.push((interface.to_string(), socket));
            counts.insert(interface.to_string(), vec![Count::default(); filters.len()]);
        }
        let shared = Arc::new(Shared { counts: Mutex::new(counts), stop: AtomicBool::new(false) });
        let (of_thread, filters) = (shared.clone(), filters.to_vec());
        let thread = namespace.spawn("capture", move || of_thread.count(&sockets, &filters))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Packets that matched filter number `filter` so far, by interface.
    ///
    /// # Panics
    /// When there are not so many filters.
    pub fn counts(&self, filter: usize) -> BTreeMap<String, Count> {
        let counts = self.shared.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.iter().map(|(interface, counts)| (interface.clone(), counts[filter])).collect()
    }

    /// The interface that sent most packets of a filter since an earlier [`Self::counts`], if one sent any.
    pub fn busiest_since(&self, filter: usize, earlier: &BTreeMap<String, Count>) -> Option<String> {
        let sent =
            |interface: &str, count: &Count| count.sent - earlier.get(interface).map_or(0, |earlier| earlier.sent);
        let now = self.counts(filter);
        let rates = now.iter().map(|(interface, count)| (sent(interface, count), interface));
        rates.max().filter(|(sent, _)| *sent > 0).map(|(_, interface)| interface.clone())
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic in it has been printed.
            drop(thread.join());
        }
    }
}

impl Shared {
    fn count(&self, sockets: &[(String, PacketSocket)], filters: &[Filter]) -> io::Result<()> {
        let mut batch = Batch::default();
        let mut descriptors: Vec<libc::pollfd> = sockets
            .iter()
            .map(|(_, socket)| libc::pollfd { fd: socket.fd(), events: libc::POLLIN, revents: 0 })
            .collect();
        while !self.stop.load(Ordering::Relaxed) {
            // SAFETY: the descriptors live through the call.
            unsafe { libc::poll(descriptors.as_mut_ptr(), descriptors.len() as libc::nfds_t, 50) };
            for (interface, socket) in sockets {
                let mut found = vec![Count::default(); filters.len()];
                socket.receive(&mut batch, |received: Received<'_>| {
                    for (filter, count) in filters.iter().zip(&mut found) {
                        if filter.matches(received.frame) {
                            if received.outgoing { count.sent += 1 } else { count.received += 1 }
                        }
                    }
                })?;
                let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(counts) = counts.get_mut(interface) {
                    for (count, found) in counts.iter_mut().zip(found) {
                        count.sent += found.sent;
                        count.received += found.received;
                    }
                }
            }
        }
        Ok(())
    }
}
