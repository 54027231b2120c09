//! A UDP socket that takes and sends many packets at once, with the kernel's receive time stamps.

use std::io;
use std::mem;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::wire::{LONGEST, Packet, TRAIN};
use crate::measure::Error;
use crate::measure::socket::SocketError;

/// Packets taken or sent by one system call.
pub const BATCH: usize = 32;
/// Bytes kept of each: of a train's packet only its beginning matters.
const KEPT: usize = 1_024;
/// Room for what comes in while the receiver's thread waits for its turn, bytes.
const RECEIVE_BUFFER: libc::c_int = 4 << 20;
/// Room for what a bottleneck at this machine's own interface keeps back, bytes.
const SEND_BUFFER: libc::c_int = 8 << 20;
/// Room for one time stamp with its header, bytes.
const CONTROL: usize = 64;

/// A datagram.
#[derive(Clone, Copy, Debug)]
pub struct Datagram<'a> {
    /// Its sender.
    pub source: SocketAddr,
    /// Its beginning.
    pub bytes: &'a [u8],
    /// Its length.
    pub length: usize,
    /// When the kernel received it, ns since 1970 UTC.
    pub received_ns: Option<u64>,
}

/// A blocking socket for one thread that receives, and others that send.
#[derive(Debug)]
pub struct CapacitySocket {
    descriptor: OwnedFd,
}

/// Room for a batch of datagrams.
pub struct Inbox {
    buffers: Vec<[u8; KEPT]>,
    controls: Vec<Control>,
    addresses: Vec<libc::sockaddr_storage>,
}

/// Aligned as control messages want it.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Control([u8; CONTROL]);

impl Default for Inbox {
    fn default() -> Self {
        // SAFETY: all zeros are a valid address of no family.
        let address: libc::sockaddr_storage = unsafe { mem::zeroed() };
        Self {
            buffers: vec![[0; KEPT]; BATCH],
            controls: vec![Control([0; CONTROL]); BATCH],
            addresses: vec![address; BATCH],
        }
    }
}

impl CapacitySocket {
    /// Binds `local` on `interface`. A receive ends without a packet after `patience`.
    pub fn open(interface: &str, local: SocketAddr, patience: Duration) -> Result<Self, Error> {
        let fail = |action| {
            move |source| Error::Socket { interface: interface.to_owned(), source: SocketError { action, source } }
        };
        let socket = Socket::new(Domain::for_address(local), Type::DGRAM, Some(Protocol::UDP)).map_err(fail("open"))?;
        socket.bind_device(Some(interface.as_bytes())).map_err(fail("bind to the device"))?;
        if local.is_ipv6() {
            socket.set_only_v6(true).map_err(fail("restrict to IPv6"))?;
        }
        socket.set_read_timeout(Some(patience)).map_err(fail("set the patience of"))?;
        for (option, forced, value) in [
            (libc::SO_RCVBUF, libc::SO_RCVBUFFORCE, RECEIVE_BUFFER),
            (libc::SO_SNDBUF, libc::SO_SNDBUFFORCE, SEND_BUFFER),
        ] {
            // Without the privilege the system's limit has to do.
            if set(&socket, forced, value).is_err() {
                set(&socket, option, value).map_err(fail("size the buffers of"))?;
            }
        }
        set(&socket, libc::SO_TIMESTAMPNS, 1).map_err(fail("ask for time stamps on"))?;
        socket.bind(&local.into()).map_err(fail("bind the address of"))?;
        Ok(Self { descriptor: socket.into() })
    }

    /// Makes a receive that waits end.
    pub fn wake(&self) {
        // SAFETY: the descriptor is open; shutdown takes numbers only. An unconnected socket wakes its readers and
        // answers ENOTCONN, which is of no account.
        unsafe { libc::shutdown(self.descriptor.as_raw_fd(), libc::SHUT_RD) };
    }

    /// Sends a message at once or not at all.
    pub fn send(&self, bytes: &[u8], to: SocketAddr) -> io::Result<()> {
        let address = SockAddr::from(to);
        // SAFETY: pointers and lengths belong together and live through the call.
        let sent = unsafe {
            libc::sendto(
                self.descriptor.as_raw_fd(),
                bytes.as_ptr().cast(),
                bytes.len(),
                libc::MSG_DONTWAIT,
                address.as_ptr().cast(),
                address.len(),
            )
        };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Sends `count` (at most [`BATCH`]) packets of a train at once: `template` is the first one's encoding, `index` its
    /// number, and `padding` follows each. Returns how many the kernel took.
    pub fn send_train(
        &self,
        template: &[u8; TRAIN],
        index: u16,
        count: usize,
        sent_ns: u64,
        padding: &[u8],
        to: SocketAddr,
    ) -> io::Result<usize> {
        let count = count.min(BATCH);
        let mut heads = [*template; BATCH];
        for (number, head) in heads.iter_mut().take(count).enumerate() {
            let index = index.wrapping_add(number as u16);
            head[Packet::INDEX_AT..Packet::INDEX_AT + 2].copy_from_slice(&index.to_be_bytes());
            head[Packet::SENT_AT..Packet::SENT_AT + 8].copy_from_slice(&sent_ns.to_be_bytes());
        }
        let address = SockAddr::from(to);
        let part = |bytes: &[u8]| libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
        let mut parts: Vec<[libc::iovec; 2]> =
            heads.iter().take(count).map(|head| [part(head), part(padding)]).collect();
        let mut headers: Vec<libc::mmsghdr> = parts
            .iter_mut()
            .map(|parts| {
                // SAFETY: all zeros are a valid header without anything in it.
                let mut header: libc::mmsghdr = unsafe { mem::zeroed() };
                header.msg_hdr.msg_name = address.as_ptr().cast_mut().cast();
                header.msg_hdr.msg_namelen = address.len();
                header.msg_hdr.msg_iov = parts.as_mut_ptr();
                header.msg_hdr.msg_iovlen = 2;
                header
            })
            .collect();
        // SAFETY: each header points to parts and an address that live through the call; the kernel only reads them.
        let sent = unsafe {
            libc::sendmmsg(self.descriptor.as_raw_fd(), headers.as_mut_ptr(), count as u32, libc::MSG_DONTWAIT)
        };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(sent as usize) }
    }

    /// Waits for datagrams and hands each to `take`. Returns their number: 0 after the patience, or when woken.
    pub fn receive(&self, inbox: &mut Inbox, mut take: impl FnMut(Datagram<'_>)) -> io::Result<usize> {
        let mut parts: Vec<libc::iovec> = inbox
            .buffers
            .iter_mut()
            .map(|buffer| libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: KEPT })
            .collect();
        let mut headers: Vec<libc::mmsghdr> = (0..BATCH)
            .map(|number| {
                // SAFETY: all zeros are a valid header without anything in it.
                let mut header: libc::mmsghdr = unsafe { mem::zeroed() };
                header.msg_hdr.msg_name = (&raw mut inbox.addresses[number]).cast();
                header.msg_hdr.msg_namelen = mem::size_of::<libc::sockaddr_storage>() as libc::socklen_t;
                header.msg_hdr.msg_iov = &raw mut parts[number];
                header.msg_hdr.msg_iovlen = 1;
                header.msg_hdr.msg_control = (&raw mut inbox.controls[number]).cast();
                header.msg_hdr.msg_controllen = CONTROL;
                header
            })
            .collect();
        // SAFETY: each header points to a buffer, an address and a control area of its own with their lengths, which
        // live through the call.
        let count = unsafe {
            libc::recvmmsg(
                self.descriptor.as_raw_fd(),
                headers.as_mut_ptr(),
                BATCH as u32,
                libc::MSG_WAITFORONE | libc::MSG_TRUNC,
                std::ptr::null_mut(),
            )
        };
        if count < 0 {
            let error = io::Error::last_os_error();
            return match error.raw_os_error() {
                Some(libc::EAGAIN | libc::EINTR) => Ok(0),
                // ICMP errors about what was sent earlier.
                Some(libc::ECONNREFUSED | libc::EHOSTUNREACH | libc::ENETUNREACH | libc::EMSGSIZE) => Ok(0),
                _ => Err(error),
            };
        }
        for (number, header) in headers.iter().take(count as usize).enumerate() {
            let Some(source) = address(&inbox.addresses[number]) else { continue };
            let length = (header.msg_len as usize).min(LONGEST + 1);
            let bytes = &inbox.buffers[number][..length.min(KEPT)];
            take(Datagram { source, bytes, length, received_ns: stamp(&header.msg_hdr) });
        }
        Ok(count as usize)
    }
}

fn set(socket: &Socket, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    // SAFETY: the value lives through the call, and its length is told.
    let outcome = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            (&raw const value).cast(),
            mem::size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if outcome == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn address(storage: &libc::sockaddr_storage) -> Option<SocketAddr> {
    match i32::from(storage.ss_family) {
        libc::AF_INET => {
            // SAFETY: the kernel wrote an address of this family, and the storage is large and aligned enough for all.
            let address = unsafe { &*(&raw const *storage).cast::<libc::sockaddr_in>() };
            let ip = u32::from_be(address.sin_addr.s_addr);
            Some(SocketAddr::new(IpAddr::V4(ip.into()), u16::from_be(address.sin_port)))
        }
        libc::AF_INET6 => {
            // SAFETY: as above.
            let address = unsafe { &*(&raw const *storage).cast::<libc::sockaddr_in6>() };
            let ip = Ipv6Addr::from(address.sin6_addr.s6_addr);
            Some(SocketAddr::new(IpAddr::V6(ip), u16::from_be(address.sin6_port)))
        }
        _ => None,
    }
}

/// The kernel's receive time stamp, ns.
fn stamp(header: &libc::msghdr) -> Option<u64> {
    // SAFETY: the kernel wrote the control area that the header describes, and it is still there.
    let mut control = unsafe { libc::CMSG_FIRSTHDR(header) };
    while !control.is_null() {
        // SAFETY: the macros stay within the control area, and it is aligned for its headers.
        unsafe {
            if (*control).cmsg_level == libc::SOL_SOCKET && (*control).cmsg_type == libc::SCM_TIMESTAMPNS {
                let time: libc::timespec = std::ptr::read_unaligned(libc::CMSG_DATA(control).cast());
                return Some(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64);
            }
            control = libc::CMSG_NXTHDR(header, control);
        }
    }
    None
}
