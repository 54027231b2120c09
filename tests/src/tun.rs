//! TUN and TAP devices whose far end is in our hands.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;

/// Makes an L3 device in the namespace of this thread. What is sent into it can be read from the file, what is written
/// there comes in; neither waits. It goes with the file.
///
/// # Errors
/// Without root, where the kernel has no TUN, or when the name is taken.
pub fn open(name: &str) -> io::Result<File> {
    open_as(name, libc::IFF_TUN)
}

/// The same for an Ethernet device.
///
/// # Errors
/// As [`open`].
pub fn open_ethernet(name: &str) -> io::Result<File> {
    open_as(name, libc::IFF_TAP)
}

/// An L3 device that takes bundles of segments (GSO) and packets whose checksums are not complete: whatever is written or
/// read is behind a [`VnetHeader`]. With `offload` bundles come out whole and checksums as they are, else the kernel cuts
/// and completes them.
///
/// # Errors
/// As [`open`].
pub fn open_with_headers(name: &str, offload: bool) -> io::Result<File> {
    let file = open_as(name, libc::IFF_TUN | libc::IFF_VNET_HDR)?;
    let offloads = if offload { libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6 } else { 0 };
    // SAFETY: the request takes a number and touches no memory of ours.
    match unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETOFFLOAD, libc::c_ulong::from(offloads)) } {
        0 => Ok(file),
        _ => Err(io::Error::last_os_error()),
    }
}

/// `struct virtio_net_hdr`: what is left to do to a packet, in front of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VnetHeader {
    /// The checksum is to be completed from here on (offset in what follows), if it is at all.
    pub checksum_start: Option<u16>,
    /// Where it is, from there.
    pub checksum_offset: u16,
    /// Bytes of a segment, 0 for a packet that is none of a bundle.
    pub segment: u16,
    /// Of a bundle: `GSO_TCPV4` or `GSO_TCPV6`.
    pub kind: u8,
    /// Of a bundle: bytes of all headers.
    pub headers: u16,
}

impl VnetHeader {
    /// Bytes of it.
    pub const LENGTH: usize = 10;
    /// A bundle of TCP over IPv4.
    pub const GSO_TCPV4: u8 = 1;
    /// A bundle of TCP over IPv6.
    pub const GSO_TCPV6: u8 = 4;
    const NEEDS_CHECKSUM: u8 = 1;

    /// As it is written.
    pub fn to_bytes(self) -> [u8; Self::LENGTH] {
        let mut bytes = [0; Self::LENGTH];
        bytes[0] = if self.checksum_start.is_some() { Self::NEEDS_CHECKSUM } else { 0 };
        bytes[1] = self.kind;
        let words = [self.headers, self.segment, self.checksum_start.unwrap_or(0), self.checksum_offset];
        for (to, word) in bytes[2..].chunks_exact_mut(2).zip(words) {
            to.copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }

    /// The header, and what follows it.
    pub fn split(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (header, rest) = bytes.split_first_chunk::<{ Self::LENGTH }>()?;
        let word = |at: usize| u16::from_ne_bytes([header[at], header[at + 1]]);
        let needs = header[0] & Self::NEEDS_CHECKSUM != 0;
        let parsed = Self {
            checksum_start: needs.then(|| word(6)),
            checksum_offset: word(8),
            segment: word(4),
            kind: header[1],
            headers: word(2),
        };
        Some((parsed, rest))
    }
}

fn open_as(name: &str, kind: libc::c_int) -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open("/dev/net/tun")?;
    // SAFETY: all zeros are a valid request.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().take(libc::IFNAMSIZ - 1).zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (kind | libc::IFF_NO_PI) as libc::c_short;
    // SAFETY: the kernel reads and writes one request, which lives through the call.
    match unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) } {
        0 => Ok(file),
        _ => Err(io::Error::last_os_error()),
    }
}
