//! The TUN interface of a userspace WireGuard.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;

use gotatun::packet::{Ip, Packet, PacketBufPool};
use gotatun::tun::{IpRecv, MtuWatcher};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{Notify, watch};

use super::offload::{self, HEADER_LENGTH};
use super::outlet::Outlet;

/// The device that makes TUN interfaces.
const DEVICE: &str = "/dev/net/tun";
/// Packets taken from the interface at a time, and one bundle more at most.
const BATCH: usize = 64;
/// Largest IP packet with the header before it, bytes.
const LARGEST: usize = (1 << 16) + HEADER_LENGTH;
/// What we do for the stack: checksums, and the cutting of TCP's bundles, those with congestion notification included
/// (`TUN_F_CSUM`, `TUN_F_TSO4`, `TUN_F_TSO6`, `TUN_F_TSO_ECN`).
const OFFLOADS: libc::c_uint = 0x01 | 0x02 | 0x04 | 0x08;
/// Packets that wait in the interface's queue. The default of 500 is little for a burst that a LAN interface with
/// segmentation offload hands over at once.
const QUEUE: libc::c_int = 2_000;

/// A TUN interface; it goes when its last handle is closed.
pub struct Tun {
    file: File,
    name: String,
    offload: bool,
}

/// The same, for the tasks of the device.
#[derive(Clone)]
pub struct AsyncTun {
    inner: Arc<AsyncFd<File>>,
    name: Arc<str>,
    mtu: watch::Receiver<u16>,
    gone: Arc<Notify>,
    read: Vec<u8>,
    /// With offload.
    outlet: Option<Arc<Outlet>>,
}

/// Is the TUN device there, and may we use it?
pub fn check_tun() -> io::Result<()> {
    open().map(drop)
}

fn open() -> io::Result<File> {
    OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC).open(DEVICE)
}

impl Tun {
    /// Creates the interface. It must not exist: attaching to somebody else's would share its packets. With `offload` the
    /// stack leaves checksums and the cutting of TCP's bundles to us, and gets what comes out of the tunnel in bundles.
    pub fn create(name: &str, offload: bool) -> io::Result<Self> {
        let file = open()?;
        let mut request = interface_request(name)?;
        let flags = libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR | libc::IFF_TUN_EXCL;
        request.ifr_ifru.ifru_flags = flags as libc::c_short;
        // SAFETY: TUNSETIFF reads and writes one `ifreq`, which `request` is.
        check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF as _, &mut request) })?;
        let mut length = HEADER_LENGTH as libc::c_int;
        // SAFETY: TUNSETVNETHDRSZ reads one integer.
        check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETVNETHDRSZ as _, &mut length) })?;
        let offloads = libc::c_ulong::from(if offload { OFFLOADS } else { 0 });
        // SAFETY: TUNSETOFFLOAD takes its flags as the argument itself.
        check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETOFFLOAD as _, offloads) })?;
        without_link_local(name);
        let tun = Self { file, name: name.to_owned(), offload };
        tun.lengthen_queue()?;
        Ok(tun)
    }

    /// Hands the interface to the tasks of the runtime that this is called in. `mtu` tells its MTU, bytes.
    pub fn into_async(self, mtu: watch::Receiver<u16>) -> io::Result<AsyncTun> {
        // SAFETY: the `File` owns its descriptor, stays inside, and always gives the same one.
        let inner = unsafe { AsyncFd::register_with_interest(self.file, Interest::READABLE | Interest::WRITABLE) }?;
        let tun = AsyncTun {
            inner: Arc::new(inner),
            name: self.name.into(),
            mtu,
            gone: Arc::default(),
            read: vec![0; LARGEST],
            outlet: self.offload.then(Arc::default),
        };
        if let Some(outlet) = &tun.outlet {
            tokio::spawn(tun.clone().write_out(outlet.clone()));
        }
        Ok(tun)
    }

    fn lengthen_queue(&self) -> io::Result<()> {
        let socket = std::net::UdpSocket::bind((std::net::Ipv4Addr::UNSPECIFIED, 0))?;
        let mut request = interface_request(&self.name)?;
        request.ifr_ifru.ifru_metric = QUEUE;
        // SAFETY: SIOCSIFTXQLEN reads one `ifreq`; its `ifr_qlen` is the integer that `ifru_metric` is too.
        check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFTXQLEN as _, &mut request) })
    }
}

impl AsyncTun {
    /// MTU of the interface, bytes. An error means that the interface is gone.
    pub fn mtu(&self) -> io::Result<u16> {
        let mut request = interface_request(&self.name)?;
        // SAFETY: TUNGETIFF writes one `ifreq`. It fails once the file is no longer attached to an interface, also
        // when there is a new one of the same name.
        check(unsafe { libc::ioctl(self.inner.get_ref().as_raw_fd(), libc::TUNGETIFF as _, &mut request) })?;
        let socket = std::net::UdpSocket::bind((std::net::Ipv4Addr::UNSPECIFIED, 0))?;
        // SAFETY: SIOCGIFMTU reads the name and writes the MTU into the same `ifreq`.
        check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFMTU as _, &mut request) })?;
        // SAFETY: the kernel has just filled this field of the union.
        let mtu = unsafe { request.ifr_ifru.ifru_mtu };
        Ok(u16::try_from(mtu).unwrap_or(u16::MAX))
    }

    pub(super) fn file(&self) -> &AsyncFd<File> {
        &self.inner
    }

    pub(super) fn outlet(&self) -> Option<&Outlet> {
        self.outlet.as_deref()
    }

    /// Tells whoever waits for it that the interface is gone.
    pub(super) fn tell_gone(&self) {
        self.gone.notify_one();
    }

    /// Waits until somebody finds that the interface is gone.
    pub async fn gone(&self) {
        self.gone.notified().await;
    }

    /// Reads a packet or a bundle, and adds the packets in it, each in a buffer of the pool.
    fn read(&mut self, pool: &PacketBufPool, batch: &mut Vec<Packet<Ip>>) -> io::Result<()> {
        let mut file = self.inner.get_ref();
        // A TUN read cuts off what doesn't fit.
        let length = file.read(&mut self.read)?;
        let Some(mut packets) = offload::packets(&self.read[..length]) else { return Ok(()) };
        loop {
            let mut packet = pool.get();
            if !packets.next_into(packet.buf_mut()) {
                return Ok(());
            }
            // What is no IP packet can't have come through the stack; nobody waits for it.
            batch.extend(packet.try_into_ip());
        }
    }
}

impl IpRecv for AsyncTun {
    async fn recv<'a>(
        &'a mut self,
        pool: &mut PacketBufPool,
    ) -> io::Result<impl Iterator<Item = Packet<Ip>> + Send + 'a> {
        let inner = Arc::clone(&self.inner);
        let mut batch = Vec::new();
        while batch.is_empty() {
            let mut ready = inner.readable().await?;
            // Bounded in reads, too, not in good packets alone: whoever sends nothing but bad ones holds nobody up.
            for _ in 0..BATCH {
                match self.read(pool, &mut batch) {
                    Ok(()) if batch.len() < BATCH => {}
                    Ok(()) => break,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {
                        ready.clear_ready();
                        break;
                    }
                    Err(error) if is_transient(&error) => break,
                    Err(error) => {
                        self.tell_gone();
                        return Err(error);
                    }
                }
            }
        }
        Ok(batch.into_iter())
    }

    fn mtu(&self) -> MtuWatcher {
        self.mtu.clone().into()
    }
}

/// Does an error say something about one packet rather than about the interface?
pub(super) fn is_transient(error: &io::Error) -> bool {
    !matches!(error.raw_os_error(), Some(libc::EBADF | libc::EBADFD | libc::ENODEV))
}

fn interface_request(name: &str) -> io::Result<libc::ifreq> {
    // SAFETY: `ifreq` is integers and a union of integers, addresses and pointers: all zeros is a value of it.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.is_empty() || name.len() >= request.ifr_name.len() {
        return Err(io::Error::new(ErrorKind::InvalidInput, "an interface name has 1 to 15 bytes"));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    Ok(request)
}

/// A WireGuard interface has no link-local address; without this a TUN gets one, and the kernel sends router
/// solicitations into the tunnel. A kernel without IPv6 has no such setting, and needs none.
fn without_link_local(name: &str) {
    let path = format!("/proc/sys/net/ipv6/conf/{name}/addr_gen_mode");
    if let Err(error) = std::fs::write(&path, "1")
        && error.kind() != ErrorKind::NotFound
    {
        tracing::warn!(%error, path, "the interface will have a link-local address");
    }
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
