//! What the kernel tells beside a datagram: time stamp, TOS, TTL, drops, ICMP errors.

use std::io;
use std::mem::{size_of, zeroed};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::RawFd;
use std::ptr;

/// Datagrams per system call.
const BATCH: usize = 64;
/// Bytes of each datagram that are kept.
const KEPT: usize = 64;
const CONTROL: usize = 256;

/// A datagram that was read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Datagram<'a> {
    /// Its first bytes.
    pub start: &'a [u8],
    /// When the kernel got it, ns of `CLOCK_REALTIME`.
    pub stamp_ns: u64,
    /// TOS or traffic class.
    pub tos: u8,
    /// TTL or hop limit.
    pub ttl: u8,
    /// Datagrams that the socket had no room for, since its start.
    pub dropped: u32,
}

/// Where datagrams are read to.
pub(super) struct Batch {
    buffers: Vec<[u8; KEPT]>,
    controls: Vec<[u64; CONTROL / 8]>,
    vectors: Vec<libc::iovec>,
    headers: Vec<libc::mmsghdr>,
}

impl Batch {
    pub fn new() -> Self {
        Self {
            buffers: vec![[0; KEPT]; BATCH],
            controls: vec![[0; CONTROL / 8]; BATCH],
            vectors: Vec::with_capacity(BATCH),
            headers: Vec::with_capacity(BATCH),
        }
    }

    /// Waits for datagrams as long as the socket's timeout says, and hands over what is there. Returns how many.
    pub fn receive(&mut self, socket: RawFd, mut take: impl FnMut(Datagram<'_>)) -> io::Result<usize> {
        self.vectors.clear();
        self.headers.clear();
        for index in 0..BATCH {
            let base = self.buffers[index].as_mut_ptr().cast();
            self.vectors.push(libc::iovec { iov_base: base, iov_len: KEPT });
            // SAFETY: all zeros is a valid mmsghdr.
            let mut header: libc::mmsghdr = unsafe { zeroed() };
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_control = self.controls[index].as_mut_ptr().cast();
            header.msg_hdr.msg_controllen = CONTROL;
            self.headers.push(header);
        }
        for (header, vector) in self.headers.iter_mut().zip(&mut self.vectors) {
            header.msg_hdr.msg_iov = vector;
        }
        let flags = libc::MSG_WAITFORONE | libc::MSG_TRUNC;
        // SAFETY: the headers point into this batch's own buffers, which outlive the call.
        let count = unsafe { libc::recvmmsg(socket, self.headers.as_mut_ptr(), BATCH as u32, flags, ptr::null_mut()) };
        if count < 0 {
            let error = io::Error::last_os_error();
            let nothing = [io::ErrorKind::WouldBlock, io::ErrorKind::Interrupted, io::ErrorKind::TimedOut];
            return if nothing.contains(&error.kind()) { Ok(0) } else { Err(error) };
        }
        for (index, header) in self.headers.iter().take(count as usize).enumerate() {
            let length = (header.msg_len as usize).min(KEPT);
            let mut datagram =
                Datagram { start: &self.buffers[index][..length], stamp_ns: 0, tos: 0, ttl: 0, dropped: 0 };
            for_each_control(&header.msg_hdr, |level, kind, data| datagram.note(level, kind, data));
            take(datagram);
        }
        Ok(count as usize)
    }
}

impl Datagram<'_> {
    fn note(&mut self, level: libc::c_int, kind: libc::c_int, data: *const u8) {
        // SAFETY: the kernel writes data of this kind with at least this size; it is read unaligned.
        unsafe {
            match (level, kind) {
                (libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS) => {
                    let time = data.cast::<libc::timespec>().read_unaligned();
                    self.stamp_ns = time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64;
                }
                (libc::SOL_SOCKET, libc::SO_RXQ_OVFL) => self.dropped = data.cast::<u32>().read_unaligned(),
                (libc::IPPROTO_IP, libc::IP_TOS) => self.tos = data.read(),
                (libc::IPPROTO_IP, libc::IP_TTL) => self.ttl = data.cast::<i32>().read_unaligned() as u8,
                (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => self.tos = data.cast::<i32>().read_unaligned() as u8,
                (libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT) => self.ttl = data.cast::<i32>().read_unaligned() as u8,
                _ => {}
            }
        }
    }
}

/// An entry of a socket's error queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct QueuedError {
    /// `errno`.
    pub errno: u32,
    /// Where it comes from: `SO_EE_ORIGIN_…`.
    pub origin: u8,
    /// ICMP type.
    pub kind: u8,
    /// ICMP code.
    pub code: u8,
    /// For "too big", the MTU in bytes.
    pub info: u32,
    /// Who sent it.
    pub offender: Option<IpAddr>,
}

/// The oldest entry of a socket's error queue, if there is one.
pub(super) fn read_error(socket: RawFd) -> io::Result<Option<QueuedError>> {
    let mut buffer = [0u8; 2_048];
    let mut control = [0u64; CONTROL];
    let mut vector = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: all zeros is a valid msghdr.
    let mut header: libc::msghdr = unsafe { zeroed() };
    header.msg_iov = &mut vector;
    header.msg_iovlen = 1;
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = size_of_val(&control);
    // SAFETY: the header points to buffers that outlive the call.
    if unsafe { libc::recvmsg(socket, &mut header, libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT) } < 0 {
        let error = io::Error::last_os_error();
        return if error.kind() == io::ErrorKind::WouldBlock { Ok(None) } else { Err(error) };
    }
    let mut found = None;
    for_each_control(&header, |level, kind, data| {
        let is_error = (level == libc::IPPROTO_IP && kind == libc::IP_RECVERR)
            || (level == libc::IPPROTO_IPV6 && kind == libc::IPV6_RECVERR);
        if is_error {
            // SAFETY: the kernel writes a sock_extended_err followed by the offender's socket address.
            let (error, offender) = unsafe {
                let error = data.cast::<libc::sock_extended_err>().read_unaligned();
                (error, read_address(data.add(size_of::<libc::sock_extended_err>())))
            };
            found = Some(QueuedError {
                errno: error.ee_errno,
                origin: error.ee_origin,
                kind: error.ee_type,
                code: error.ee_code,
                info: error.ee_info,
                offender,
            });
        }
    });
    Ok(found)
}

/// Sets an integer option of a socket.
pub(super) fn set_option(socket: RawFd, level: libc::c_int, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    let length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the value lives through the call and `length` is its size.
    let status = unsafe { libc::setsockopt(socket, level, option, ptr::from_ref(&value).cast(), length) };
    if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The unspecified address of the same family, with a port.
pub(super) fn any_address(like: &SocketAddr, port: u16) -> SocketAddr {
    match like {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, port).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, port).into(),
    }
}

/// # Safety
/// `data` points to a socket address of its family's size, or to one of family `AF_UNSPEC`.
unsafe fn read_address(data: *const u8) -> Option<IpAddr> {
    // SAFETY: the caller's promise; everything is read unaligned.
    unsafe {
        match i32::from(data.cast::<u16>().read_unaligned()) {
            libc::AF_INET => {
                let address = data.cast::<libc::sockaddr_in>().read_unaligned();
                Some(Ipv4Addr::from(u32::from_be(address.sin_addr.s_addr)).into())
            }
            libc::AF_INET6 => {
                let address = data.cast::<libc::sockaddr_in6>().read_unaligned();
                Some(Ipv6Addr::from(address.sin6_addr.s6_addr).into())
            }
            _ => None,
        }
    }
}

fn for_each_control(header: &libc::msghdr, mut take: impl FnMut(libc::c_int, libc::c_int, *const u8)) {
    // SAFETY: the kernel wrote well-formed control messages of the length that the header says.
    let mut control = unsafe { libc::CMSG_FIRSTHDR(header) };
    while !control.is_null() {
        // SAFETY: not null, and inside the control buffer.
        unsafe {
            take((*control).cmsg_level, (*control).cmsg_type, libc::CMSG_DATA(control));
            control = libc::CMSG_NXTHDR(header, control);
        }
    }
}
