//! What ethtool sets of a virtual interface. Above all that it leaves nothing undone for hardware: packets that a packet socket
//! reads must be whole.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use super::error::{Attempt, Result};
use super::namespace::Namespace;

const SIOCETHTOOL: libc::c_ulong = 0x8946;
const ETHTOOL_STXCSUM: u32 = 0x17;
const ETHTOOL_STSO: u32 = 0x1f;
const ETHTOOL_SGSO: u32 = 0x24;
const ETHTOOL_SGRO: u32 = 0x2c;
const ETHTOOL_SCHANNELS: u32 = 0x3d;

/// `struct ethtool_value`.
#[repr(C)]
struct Value {
    command: u32,
    data: u32,
}

/// `struct ethtool_channels`; the first four of its numbers are the driver's to fill in.
#[repr(C)]
#[derive(Default)]
struct Channels {
    command: u32,
    limits: [u32; 4],
    receive: u32,
    send: u32,
    other: u32,
    combined: u32,
}

/// Makes an interface send whole packets no larger than its MTU, with complete checksums.
pub fn switch_off(namespace: &Namespace, interface: &str) -> Result<()> {
    namespace
        .run(|| switch_off_here(interface))?
        .attempt(|| format!("switch off offloads of {interface} in {}", namespace.name()))
}

/// The same for an interface of this thread's namespace.
pub fn switch_off_here(interface: &str) -> io::Result<()> {
    [ETHTOOL_STXCSUM, ETHTOOL_STSO, ETHTOOL_SGSO, ETHTOOL_SGRO]
        .iter()
        .try_for_each(|command| set(interface, *command, 0))
}

/// Lets an interface of this thread's namespace put packets together again; a veth interface then takes its packets from a
/// ring, as XDP sends them.
pub fn switch_on_gro(interface: &str) -> io::Result<()> {
    set(interface, ETHTOOL_SGRO, 1)
}

/// Gives a veth interface of this thread's namespace so many queues to receive from, one ring each, and so many to send to. Its
/// peer must receive from as many as it sends to.
///
/// # Errors
/// When the interface has no room for so many: as a rule that is one for each processor.
pub fn set_queues(interface: &str, receive: u32, send: u32) -> io::Result<()> {
    request(interface, Channels { command: ETHTOOL_SCHANNELS, receive, send, ..Channels::default() })
}

fn set(interface: &str, command: u32, data: u32) -> io::Result<()> {
    match request(interface, Value { command, data }) {
        // An offload that the device doesn't know is off.
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(()),
        done => done,
    }
}

/// Asks an interface's driver; `value` is what the kernel's ethtool.h says of its command.
fn request<T>(interface: &str, mut value: T) -> io::Result<()> {
    // SAFETY: socket takes no pointers.
    let socket = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if socket < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and owned by nobody else.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    // SAFETY: all zeros is a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().take(libc::IFNAMSIZ - 1).zip(interface.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_data = std::ptr::from_mut(&mut value).cast();
    // SAFETY: the request and the value it points to live through the call.
    if unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &mut request) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
