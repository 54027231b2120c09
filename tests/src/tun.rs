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
