//! The sockets on the underlay: one for each address of an uplink.
//!
//! Packets leave with Don't Fragment at any size that the interface takes: what the kernel believes of the path
//! (from ICMP that anybody can forge) is left aside, and ICMP about our own packets is read from the error queue.

use std::io;
use std::mem::{size_of, size_of_val, zeroed};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::engine::mtu::HEADER_LENGTH;

/// Datagrams read before others get their turn.
const BATCH: usize = 64;
/// 64-bit words for control messages.
const CONTROL: usize = 64;

/// Options that the libc crate doesn't name: the largest fragment of a datagram that came in pieces.
const IP_RECVFRAGSIZE: libc::c_int = 25;
const IPV6_RECVFRAGSIZE: libc::c_int = 77;

/// Something that came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Incoming {
    /// A datagram.
    Datagram {
        /// Its sender.
        source: SocketAddr,
        /// Its beginning, if it is long enough to be ours.
        header: Option<Box<[u8; HEADER_LENGTH]>>,
        /// Length of its UDP payload, bytes.
        length: usize,
        /// It was fragmented on its way.
        fragmented: bool,
    },
    /// ICMP: a packet of ours to this destination was too large, and this is said to be the MTU.
    TooBig {
        /// Where the packet was going.
        destination: SocketAddr,
        /// What the sender of the ICMP message says, bytes; 0 where it doesn't.
        mtu: u32,
    },
}

/// A socket.
#[derive(Debug)]
pub struct UnderlaySocket {
    descriptor: AsyncFd<OwnedFd>,
    ipv6: bool,
}

impl UnderlaySocket {
    /// Binds an address and port on an uplink's interface; packets go by the routing table that `mark` leads to.
    pub fn open(interface: &str, local: SocketAddr, mark: u32) -> io::Result<Self> {
        let ipv6 = local.is_ipv6();
        let domain = Domain::for_address(local);
        let socket = Socket::new(domain, Type::DGRAM.nonblocking().cloexec(), Some(Protocol::UDP))?;
        socket.bind_device(Some(interface.as_bytes()))?;
        socket.set_mark(mark)?;
        let fd = socket.as_raw_fd();
        if ipv6 {
            socket.set_only_v6(true)?;
            set_option(fd, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_PROBE)?;
            set_option(fd, libc::IPPROTO_IPV6, libc::IPV6_DONTFRAG, 1)?;
            set_option(fd, libc::IPPROTO_IPV6, libc::IPV6_RECVERR, 1)?;
            set_option(fd, libc::IPPROTO_IPV6, IPV6_RECVFRAGSIZE, 1)?;
        } else {
            set_option(fd, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_PROBE)?;
            set_option(fd, libc::IPPROTO_IP, libc::IP_RECVERR, 1)?;
            set_option(fd, libc::IPPROTO_IP, IP_RECVFRAGSIZE, 1)?;
        }
        socket.bind(&local.into())?;
        // SAFETY: the descriptor is owned by the `AsyncFd` from here on and is closed only when that is dropped.
        let descriptor =
            unsafe { AsyncFd::register_with_interest(OwnedFd::from(socket), Interest::READABLE | Interest::ERROR) }?;
        Ok(Self { descriptor, ipv6 })
    }

    /// Whether it is one for IPv6.
    pub fn is_ipv6(&self) -> bool {
        self.ipv6
    }

    /// Sends at once or not at all.
    pub fn send(&self, payload: &[u8], destination: SocketAddr) -> io::Result<()> {
        let address = nix::sys::socket::SockaddrStorage::from(destination);
        let fd = self.descriptor.get_ref().as_raw_fd();
        let send = || nix::sys::socket::sendto(fd, payload, &address, nix::sys::socket::MsgFlags::MSG_DONTWAIT);
        match send().map_err(io::Error::from) {
            // An error that ICMP told about an earlier packet, told once: this one hasn't been tried yet.
            Err(error) if is_earlier(&error) => send().map(drop).map_err(io::Error::from),
            outcome => outcome.map(drop),
        }
    }

    /// Waits for what comes in and hands it on. Returns only on an error of the socket.
    pub async fn receive(&self, mut take: impl FnMut(Incoming)) -> io::Error {
        let mut buffer = vec![0; usize::from(u16::MAX)];
        loop {
            let mut ready = match self.descriptor.ready(Interest::READABLE | Interest::ERROR).await {
                Ok(ready) => ready,
                Err(error) => return error,
            };
            let fd = self.descriptor.get_ref().as_raw_fd();
            let mut idle = false;
            for _ in 0..BATCH {
                let mut empty = 0;
                for flags in [libc::MSG_ERRQUEUE, 0] {
                    match receive_one(fd, flags, &mut buffer) {
                        Ok(Some(incoming)) => take(incoming),
                        Ok(None) => {}
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => empty += 1,
                        Err(error) if is_earlier(&error) || error.kind() == io::ErrorKind::Interrupted => {}
                        Err(error) => return error,
                    }
                }
                if empty == 2 {
                    idle = true;
                    break;
                }
            }
            if idle {
                ready.clear_ready();
            } else {
                drop(ready);
                tokio::task::yield_now().await;
            }
        }
    }
}

/// Errors that ICMP caused; the missing answer says it all, and "too big" is in the error queue.
fn is_earlier(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::ECONNREFUSED
                | libc::EHOSTUNREACH
                | libc::ENETUNREACH
                | libc::EHOSTDOWN
                | libc::ENOPROTOOPT
                | libc::EPROTO
                | libc::EACCES
                | libc::EOPNOTSUPP
                | libc::EMSGSIZE
        )
    )
}

fn receive_one(fd: RawFd, flags: libc::c_int, buffer: &mut [u8]) -> io::Result<Option<Incoming>> {
    let mut control = [0_u64; CONTROL];
    let mut vector = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: all zeros is a valid value of these structures of numbers and pointers.
    let (mut name, mut message): (libc::sockaddr_storage, libc::msghdr) = unsafe { (zeroed(), zeroed()) };
    message.msg_name = std::ptr::from_mut(&mut name).cast();
    message.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
    message.msg_iov = &mut vector;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control);
    // SAFETY: every pointer in `message` is to memory of the given length that outlives the call.
    let length = unsafe { libc::recvmsg(fd, &mut message, flags | libc::MSG_DONTWAIT) };
    if length < 0 {
        return Err(io::Error::last_os_error());
    }
    let length = length as usize;
    let Some(peer) = socket_address(&name) else { return Ok(None) };
    let (mut fragmented, mut too_big) = (false, None);
    // SAFETY: the kernel wrote well-formed control messages of the length that the header says.
    let mut next = unsafe { libc::CMSG_FIRSTHDR(&message) };
    // SAFETY: `next` is null or points to a control message inside the buffer.
    while let Some(header) = unsafe { next.as_ref() } {
        // SAFETY: the data of a control message follows its header.
        let data = unsafe { libc::CMSG_DATA(next) };
        match (header.cmsg_level, header.cmsg_type) {
            (libc::IPPROTO_IP, libc::IP_RECVERR) | (libc::IPPROTO_IPV6, libc::IPV6_RECVERR) => {
                // SAFETY: the kernel writes one of these structures into such a message.
                let error = unsafe { data.cast::<libc::sock_extended_err>().read_unaligned() };
                too_big = mtu_of(&error);
            }
            (libc::IPPROTO_IP, IP_RECVFRAGSIZE) | (libc::IPPROTO_IPV6, IPV6_RECVFRAGSIZE) => {
                // SAFETY: the kernel writes an integer into such a message.
                fragmented = unsafe { data.cast::<libc::c_int>().read_unaligned() } != 0;
            }
            _ => {}
        }
        // SAFETY: as above; the result is null at the end.
        next = unsafe { libc::CMSG_NXTHDR(&message, next) };
    }
    if flags & libc::MSG_ERRQUEUE != 0 {
        return Ok(too_big.map(|mtu| Incoming::TooBig { destination: peer, mtu }));
    }
    let header = buffer[..length].first_chunk().map(|header| Box::new(*header));
    Ok(Some(Incoming::Datagram { source: peer, header, length, fragmented }))
}

/// What an ICMP error says about the MTU, if it is "fragmentation needed" (RFC 1191) or "packet too big" (RFC 4443).
fn mtu_of(error: &libc::sock_extended_err) -> Option<u32> {
    match (error.ee_origin, error.ee_type, error.ee_code) {
        (libc::SO_EE_ORIGIN_ICMP, 3, 4) | (libc::SO_EE_ORIGIN_ICMP6, 2, _) => Some(error.ee_info),
        _ => None,
    }
}

fn socket_address(storage: &libc::sockaddr_storage) -> Option<SocketAddr> {
    let at = std::ptr::from_ref(storage);
    match i32::from(storage.ss_family) {
        libc::AF_INET => {
            // SAFETY: the storage is large enough for any address, and the family says which one it is.
            let address = unsafe { at.cast::<libc::sockaddr_in>().read() };
            let ip = Ipv4Addr::from(u32::from_be(address.sin_addr.s_addr));
            Some(SocketAddr::new(IpAddr::V4(ip), u16::from_be(address.sin_port)))
        }
        libc::AF_INET6 => {
            // SAFETY: as above.
            let address = unsafe { at.cast::<libc::sockaddr_in6>().read() };
            let ip = Ipv6Addr::from(address.sin6_addr.s6_addr);
            Some(SocketAddr::new(IpAddr::V6(ip), u16::from_be(address.sin6_port)))
        }
        _ => None,
    }
}

fn set_option(fd: RawFd, level: libc::c_int, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    let length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the value lives through the call and `length` is its size.
    let status = unsafe { libc::setsockopt(fd, level, option, std::ptr::from_ref(&value).cast(), length) };
    if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
