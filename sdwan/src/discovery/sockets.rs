//! The sockets: per interface and family one for unicast and one for the group, and one for the overlay address.
//!
//! A socket of an interface is bound to it (`SO_BINDTODEVICE`), so that each interface sees its own datagrams only and
//! what is sent leaves through it; a mark leads it into the uplink's routing table. The group has a socket of its own,
//! so that a datagram says by where it arrives whether it was meant for everybody.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use socket2::{Domain, InterfaceIndexOrAddress, Protocol, SockRef, Socket, Type};
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::core::{Link, Origin};
use super::types::{DiscoveryConfig, DiscoveryInterface};
use crate::trust::wire::DATAGRAM_MAX;

/// Larger than any datagram of ours, so that one which is too large shows as such.
const BUFFER: usize = 1_500;
/// Pause after a receive error, such as that of an interface that is down.
const RECEIVE_PAUSE: Duration = Duration::from_millis(100);

/// A datagram from a socket.
#[derive(Debug)]
pub(super) struct Datagram {
    pub origin: Origin,
    pub source: SocketAddr,
    pub bytes: Box<[u8]>,
}

/// Where readers put what they receive.
#[derive(Clone)]
pub(super) struct Inbox {
    pub sender: mpsc::Sender<Datagram>,
    pub dropped: Arc<AtomicU64>,
}

/// A socket and the task that reads it.
struct Reading {
    socket: Arc<UdpSocket>,
    reader: AbortHandle,
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl Reading {
    fn start(socket: Socket, origin: Origin, inbox: &Inbox) -> io::Result<Self> {
        let socket = Arc::new(UdpSocket::from_std(socket.into())?);
        let reader = tokio::spawn(read(socket.clone(), origin, inbox.clone())).abort_handle();
        Ok(Self { socket, reader })
    }

    fn send(&self, bytes: &[u8], to: SocketAddr) -> io::Result<()> {
        // Past tokio, whose readiness is not known before the first poll; the socket is non-blocking anyway.
        SockRef::from(&*self.socket).send_to(bytes, &to.into()).map(drop)
    }
}

/// The sockets of one family on one interface. Dropping a reading stops it, hence the group is kept.
struct Family {
    unicast: Reading,
    _group: Option<Reading>,
}

/// The sockets of one interface.
pub(super) struct LinkSockets {
    pub interface: DiscoveryInterface,
    v4: Option<Family>,
    v6: Option<Family>,
}

impl LinkSockets {
    /// Opens what can be opened. An error: neither family works.
    pub fn open(interface: DiscoveryInterface, config: &DiscoveryConfig, inbox: &Inbox) -> io::Result<Self> {
        let mut sockets = Self { interface, v4: None, v6: None };
        sockets.complete(config, inbox)?;
        Ok(sockets)
    }

    /// Opens the families that are missing; IPv6 may come to an interface later than IPv4.
    pub fn complete(&mut self, config: &DiscoveryConfig, inbox: &Inbox) -> io::Result<()> {
        let mut first_error = None;
        if self.v4.is_none() {
            match open_family_v4(&self.interface, config, inbox) {
                Ok(family) => self.v4 = Some(family),
                Err(error) => first_error = Some(error),
            }
        }
        if self.v6.is_none() {
            match open_family_v6(&self.interface, config, inbox) {
                Ok(family) => self.v6 = Some(family),
                Err(error) => {
                    first_error.get_or_insert(error);
                }
            }
        }
        match first_error {
            Some(error) if self.v4.is_none() && self.v6.is_none() => Err(error),
            _ => Ok(()),
        }
    }

    /// Both families are open.
    pub fn is_complete(&self) -> bool {
        self.v4.is_some() && self.v6.is_some()
    }

    /// What the core needs to know.
    pub fn link(&self) -> Link {
        let DiscoveryInterface { ifindex, multicast, seeds, .. } = self.interface;
        Link { ifindex, multicast, seeds }
    }

    /// Sends to one address. A family that the interface doesn't have is not an error: seeds of both are tried on all.
    pub fn send(&self, bytes: &[u8], to: SocketAddr) -> io::Result<bool> {
        let family = if to.is_ipv4() { &self.v4 } else { &self.v6 };
        family.as_ref().map_or(Ok(false), |family| family.unicast.send(bytes, to).map(|()| true))
    }

    /// Sends to the groups of the families that are open. Returns how many took it, and how many did not.
    pub fn send_groups(&self, bytes: &[u8], config: &DiscoveryConfig) -> (u64, u64) {
        let v4 = self.v4.as_ref().map(|family| (family, SocketAddr::from((config.group_v4, config.port))));
        let group_v6 = SocketAddrV6::new(config.group_v6, config.port, 0, self.interface.ifindex);
        let v6 = self.v6.as_ref().map(|family| (family, SocketAddr::V6(group_v6)));
        let mut counts = (0, 0);
        for (family, to) in v4.into_iter().chain(v6) {
            match family.unicast.send(bytes, to) {
                Ok(()) => counts.0 += 1,
                Err(_) => counts.1 += 1,
            }
        }
        counts
    }
}

/// The socket on the overlay address.
pub(super) struct OverlaySocket(Reading);

impl OverlaySocket {
    /// Binds to the overlay address, which need not exist yet.
    pub fn open(address: IpAddr, port: u16, inbox: &Inbox) -> io::Result<Self> {
        let socket = new_socket(address.is_ipv4())?;
        match address {
            IpAddr::V4(_) => socket.set_freebind_v4(true)?,
            IpAddr::V6(_) => socket.set_freebind_v6(true)?,
        }
        no_foreign_groups(&socket, address.is_ipv4())?;
        socket.bind(&SocketAddr::new(address, port).into())?;
        Reading::start(socket, Origin::Overlay, inbox).map(Self)
    }

    pub fn send(&self, bytes: &[u8], to: SocketAddr) -> io::Result<()> {
        self.0.send(bytes, to)
    }
}

async fn read(socket: Arc<UdpSocket>, origin: Origin, inbox: Inbox) {
    let mut buffer = [0; BUFFER];
    loop {
        match socket.recv_from(&mut buffer).await {
            Ok((length, source)) => {
                // One byte too many is enough to see that it is too large.
                let bytes = buffer[..length.min(DATAGRAM_MAX + 1)].into();
                match inbox.sender.try_send(Datagram { origin, source, bytes }) {
                    Ok(()) => {}
                    Err(mpsc::error::TrySendError::Full(_)) => {
                        inbox.dropped.fetch_add(1, Ordering::Relaxed);
                    }
                    Err(mpsc::error::TrySendError::Closed(_)) => return,
                }
            }
            Err(error) => {
                tracing::debug!(%error, ?origin, "receive failed");
                tokio::time::sleep(RECEIVE_PAUSE).await;
            }
        }
    }
}

fn open_family_v4(interface: &DiscoveryInterface, config: &DiscoveryConfig, inbox: &Inbox) -> io::Result<Family> {
    let unicast = link_socket(interface, true)?;
    unicast.set_multicast_ttl_v4(1)?;
    unicast.set_multicast_loop_v4(false)?;
    unicast.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, config.port)).into())?;
    let group = if interface.multicast {
        let socket = link_socket(interface, true)?;
        socket.bind(&SocketAddr::from((config.group_v4, config.port)).into())?;
        socket.join_multicast_v4_n(&config.group_v4, &InterfaceIndexOrAddress::Index(interface.ifindex))?;
        Some(Reading::start(socket, Origin::Multicast(interface.ifindex), inbox)?)
    } else {
        None
    };
    Ok(Family { unicast: Reading::start(unicast, Origin::Unicast(interface.ifindex), inbox)?, _group: group })
}

fn open_family_v6(interface: &DiscoveryInterface, config: &DiscoveryConfig, inbox: &Inbox) -> io::Result<Family> {
    let unicast = link_socket(interface, false)?;
    unicast.set_multicast_hops_v6(1)?;
    unicast.set_multicast_loop_v6(false)?;
    unicast.set_multicast_if_v6(interface.ifindex)?;
    unicast.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, config.port)).into())?;
    let group = if interface.multicast {
        let socket = link_socket(interface, false)?;
        socket.bind(&SocketAddrV6::new(config.group_v6, config.port, 0, interface.ifindex).into())?;
        socket.join_multicast_v6(&config.group_v6, interface.ifindex)?;
        Some(Reading::start(socket, Origin::Multicast(interface.ifindex), inbox)?)
    } else {
        None
    };
    Ok(Family { unicast: Reading::start(unicast, Origin::Unicast(interface.ifindex), inbox)?, _group: group })
}

fn link_socket(interface: &DiscoveryInterface, v4: bool) -> io::Result<Socket> {
    let socket = new_socket(v4)?;
    socket.bind_device(Some(interface.name.as_bytes()))?;
    if let Some(mark) = interface.mark {
        socket.set_mark(mark)?;
    }
    no_foreign_groups(&socket, v4)?;
    Ok(socket)
}

fn new_socket(v4: bool) -> io::Result<Socket> {
    let domain = if v4 { Domain::IPV4 } else { Domain::IPV6 };
    let socket = Socket::new(domain, Type::DGRAM.nonblocking().cloexec(), Some(Protocol::UDP))?;
    // The sockets of several interfaces share one port.
    socket.set_reuse_address(true)?;
    if !v4 {
        socket.set_only_v6(true)?;
    }
    Ok(socket)
}

/// Linux gives a socket datagrams of every group that anybody on the machine joined, unless told not to.
fn no_foreign_groups(socket: &Socket, v4: bool) -> io::Result<()> {
    if v4 { socket.set_multicast_all_v4(false) } else { socket.set_multicast_all_v6(false) }
}
