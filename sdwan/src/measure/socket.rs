//! UDP sockets for test packets, with kernel receive time stamps.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn, SockaddrIn6, SockaddrLike, SockaddrStorage, recvmsg,
    sendmsg, setsockopt, sockopt,
};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::unix::AsyncFd;

use super::stamp::MAXIMUM_PAYLOAD;

/// Longest datagram that is read: one byte more than what is taken, so that a longer one shows.
const BUFFER: usize = MAXIMUM_PAYLOAD + 1;
/// Datagrams taken between two looks at other tasks.
const AT_ONCE: usize = 64;
/// Bytes of packets that may wait in a socket while this process doesn't get to run: what overflows is measured as loss.
const WAITING: usize = 4 << 20;
/// TTL and hop limit of test packets (RFC 8762 sections 4.2 and 4.3).
const TTL: u32 = 255;

/// A datagram.
#[derive(Clone, Copy, Debug)]
pub struct Datagram<'a> {
    /// Its sender.
    pub source: SocketAddr,
    /// Where it was sent to, if the kernel said.
    pub destination: Option<IpAddr>,
    /// Its payload.
    pub payload: &'a [u8],
    /// When the kernel received it, ns since 1970 UTC; `None` when it didn't say.
    pub received_unix_ns: Option<u64>,
    /// TTL or hop limit, if the kernel said.
    pub ttl: Option<u8>,
    /// DSCP and ECN, if the kernel said.
    pub traffic_class: Option<u8>,
}

/// How a socket is made.
#[derive(Clone, Copy, Debug)]
pub struct Binding<'a> {
    /// The only interface that it sends and receives by.
    pub interface: Option<&'a str>,
    /// Its address; port 0 for any.
    pub local: SocketAddr,
    /// Firewall mark of what it sends.
    pub mark: Option<u32>,
    /// Whether it may share its port with sockets that are bound closer, and exist before its address does.
    pub patient: bool,
}

/// What couldn't be done to a socket, and why.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action}: {source}")]
pub struct SocketError {
    /// What was tried.
    pub action: &'static str,
    /// Why it failed.
    #[source]
    pub source: io::Error,
}

/// A non-blocking UDP socket.
pub struct TestSocket {
    descriptor: AsyncFd<OwnedFd>,
}

impl TestSocket {
    /// Opens and binds it.
    ///
    /// # Errors
    /// What couldn't be done.
    pub fn open(binding: Binding<'_>) -> Result<Self, SocketError> {
        let fail = |action| move |source: io::Error| SocketError { action, source };
        let domain = Domain::for_address(binding.local);
        let socket = Socket::new(domain, Type::DGRAM.nonblocking(), Some(Protocol::UDP)).map_err(fail("open"))?;
        if let Some(interface) = binding.interface {
            socket.bind_device(Some(interface.as_bytes())).map_err(fail("bind to the device"))?;
        }
        if let Some(mark) = binding.mark {
            socket.set_mark(mark).map_err(fail("set the firewall mark of"))?;
        }
        configure(&socket, binding).map_err(fail("set the options of"))?;
        socket.bind(&binding.local.into()).map_err(fail("bind the address of"))?;
        // SAFETY: the descriptor is owned by the `AsyncFd` from here on and is closed only when that is dropped.
        let descriptor =
            unsafe { AsyncFd::register(OwnedFd::from(socket)) }.map_err(|error| fail("watch")(error.into()))?;
        Ok(Self { descriptor })
    }

    /// The address that it is bound to.
    ///
    /// # Errors
    /// When the kernel doesn't say.
    pub fn local(&self) -> io::Result<SocketAddr> {
        let local: SockaddrStorage = nix::sys::socket::getsockname(self.descriptor.get_ref().as_raw_fd())?;
        socket_address(&local).ok_or_else(|| io::Error::from(io::ErrorKind::AddrNotAvailable))
    }

    /// Sends at once or not at all: a probe that has to wait measures the wait.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn send(&self, payload: &[u8], destination: SocketAddr) -> io::Result<()> {
        self.send_from(payload, destination, None, None)
    }

    /// Like [`Self::send`], from this address of the machine's own and with this traffic class (DSCP and ECN).
    ///
    /// # Errors
    /// What the kernel says.
    pub fn send_from(
        &self,
        payload: &[u8],
        destination: SocketAddr,
        source: Option<IpAddr>,
        traffic_class: Option<u8>,
    ) -> io::Result<()> {
        let (mut source_v4, mut source_v6) = (None, None);
        match source {
            Some(IpAddr::V4(address)) => {
                let address = libc::in_addr { s_addr: u32::from_ne_bytes(address.octets()) };
                source_v4 = Some(libc::in_pktinfo {
                    ipi_ifindex: 0,
                    ipi_spec_dst: address,
                    ipi_addr: libc::in_addr { s_addr: 0 },
                });
            }
            Some(IpAddr::V6(address)) => {
                let scope = match destination {
                    SocketAddr::V6(to) => to.scope_id(),
                    SocketAddr::V4(_) => 0,
                };
                let address = libc::in6_addr { s6_addr: address.octets() };
                source_v6 = Some(libc::in6_pktinfo { ipi6_addr: address, ipi6_ifindex: scope });
            }
            None => {}
        }
        let wide = traffic_class.map(i32::from);
        let mut control = Vec::with_capacity(2);
        control.extend(source_v4.as_ref().map(ControlMessage::Ipv4PacketInfo));
        control.extend(source_v6.as_ref().map(ControlMessage::Ipv6PacketInfo));
        if destination.is_ipv4() {
            control.extend(traffic_class.as_ref().map(ControlMessage::Ipv4Tos));
        } else {
            control.extend(wide.as_ref().map(ControlMessage::Ipv6TClass));
        }
        let fd = self.descriptor.get_ref().as_raw_fd();
        let address = SockaddrStorage::from(destination);
        sendmsg(fd, &[io::IoSlice::new(payload)], &control, MsgFlags::MSG_DONTWAIT, Some(&address))?;
        Ok(())
    }

    /// Waits for datagrams and hands each to `take`. Returns only on an error of the socket.
    pub async fn receive(&self, mut take: impl FnMut(Datagram<'_>)) -> io::Error {
        loop {
            if let Err(error) = self.receive_some(&mut take).await {
                return error;
            }
            tokio::task::yield_now().await;
        }
    }

    /// Waits for datagrams and hands a bounded number of them to `take`, so that a flood on one socket doesn't starve
    /// the others. Loses nothing when it is dropped while it waits.
    ///
    /// # Errors
    /// When the socket can't be used any more.
    pub async fn receive_some(&self, mut take: impl FnMut(Datagram<'_>)) -> io::Result<()> {
        let mut ready = self.descriptor.readable().await?;
        for _ in 0..AT_ONCE {
            match receive_one(self.descriptor.get_ref(), &mut take) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready.clear_ready();
                    break;
                }
                // ICMP errors about earlier probes: the missing answer says it all.
                Err(error) if is_passing(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

fn configure(socket: &Socket, binding: Binding<'_>) -> io::Result<()> {
    match binding.local {
        SocketAddr::V4(_) => {
            socket.set_ttl_v4(TTL)?;
            setsockopt(socket, sockopt::Ipv4RecvTtl, &true)?;
            setsockopt(socket, sockopt::IpRecvTos, &true)?;
            setsockopt(socket, sockopt::Ipv4PacketInfo, &true)?;
        }
        SocketAddr::V6(_) => {
            socket.set_only_v6(true)?;
            socket.set_unicast_hops_v6(TTL)?;
            setsockopt(socket, sockopt::Ipv6RecvHopLimit, &true)?;
            setsockopt(socket, sockopt::Ipv6RecvTClass, &true)?;
            setsockopt(socket, sockopt::Ipv6RecvPacketInfo, &true)?;
        }
    }
    setsockopt(socket, sockopt::ReceiveTimestampns, &true)?;
    // Beyond the system's limit only with CAP_NET_ADMIN.
    if setsockopt(socket, sockopt::RcvBufForce, &WAITING).is_err() {
        socket.set_recv_buffer_size(WAITING)?;
    }
    if binding.patient {
        socket.set_reuse_address(true)?;
        match binding.local {
            SocketAddr::V4(_) => socket.set_freebind_v4(true)?,
            SocketAddr::V6(_) => socket.set_freebind_v6(true)?,
        }
    }
    Ok(())
}

/// Whether an error is about an earlier packet or a passing state, and not about the socket.
pub fn is_passing(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ECONNREFUSED | libc::EHOSTUNREACH | libc::ENETUNREACH | libc::EMSGSIZE | libc::EINTR | libc::EACCES)
    )
}

fn receive_one(descriptor: &OwnedFd, take: &mut impl FnMut(Datagram<'_>)) -> io::Result<()> {
    let mut buffer = [0; BUFFER];
    let mut parts = [io::IoSliceMut::new(&mut buffer)];
    // TTL, traffic class, time stamp, and the larger of the two packet informations.
    let mut control = nix::cmsg_space!(libc::c_int, libc::c_int, nix::sys::time::TimeSpec, libc::in6_pktinfo);
    let flags = MsgFlags::MSG_DONTWAIT;
    let message = recvmsg::<SockaddrStorage>(descriptor.as_raw_fd(), &mut parts, Some(&mut control), flags)?;
    let (mut received_unix_ns, mut ttl, mut traffic_class, mut destination) = (None, None, None, None);
    for control in message.cmsgs()? {
        match control {
            ControlMessageOwned::ScmTimestampns(time) => {
                received_unix_ns = Some(time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64);
            }
            ControlMessageOwned::Ipv4Ttl(value) | ControlMessageOwned::Ipv6HopLimit(value) => {
                ttl = u8::try_from(value).ok();
            }
            ControlMessageOwned::Ipv4Tos(value) => traffic_class = Some(value),
            ControlMessageOwned::Ipv6TClass(value) => traffic_class = u8::try_from(value).ok(),
            ControlMessageOwned::Ipv4PacketInfo(info) => {
                destination = Some(IpAddr::from(info.ipi_addr.s_addr.to_ne_bytes()));
            }
            ControlMessageOwned::Ipv6PacketInfo(info) => destination = Some(IpAddr::from(info.ipi6_addr.s6_addr)),
            _ => {}
        }
    }
    let Some(source) = message.address.as_ref().and_then(socket_address) else { return Ok(()) };
    let length = message.bytes;
    take(Datagram { source, destination, payload: &buffer[..length], received_unix_ns, ttl, traffic_class });
    Ok(())
}

fn socket_address(storage: &SockaddrStorage) -> Option<SocketAddr> {
    if let Some(address) = storage.as_sockaddr_in() {
        let address: &SockaddrIn = address;
        return Some(SocketAddr::new(IpAddr::V4(address.ip()), address.port()));
    }
    let address: &SockaddrIn6 = storage.as_sockaddr_in6()?;
    debug_assert_eq!(address.family(), Some(nix::sys::socket::AddressFamily::Inet6));
    Some(SocketAddr::V6(std::net::SocketAddrV6::new(address.ip(), address.port(), 0, address.scope_id())))
}
